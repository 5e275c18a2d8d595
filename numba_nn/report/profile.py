"""Where a training step's time and memory go: measured layer by layer, inside real steps.

A layer is timed where it runs: its ``forward`` and ``backward`` are wrapped for a few steps of the whole model, so that it
finds caches and buffers as training leaves them. All times are medians over rounds.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np

from numba_nn.core.layer import Layer
from numba_nn.core.peak import measure_peak
from numba_nn.core.workspace import Shape, Spec, spec_nbytes
from numba_nn.losses import MSELoss
from numba_nn.optim import SGD
from numba_nn.report.instruments import STEP, Key, counted_step, timed_step
from numba_nn.report.measuring.allocations import Count
from numba_nn.sequential import Sequential
from numba_nn.tables import markdown_table
from numba_nn.train import TrainStep

PHASES: dict[str, tuple[Key, ...]] = {
    "forward": (("model", "forward"),),
    "loss": (("loss", "forward"), ("loss", "backward")),
    "backward": (("model", "backward"),),
    "update": (("optimizer", "zero_grad"), ("optimizer", "step")),
}


@dataclass(frozen=True)
class Phase:
    """A part of a training step: milliseconds, and its share of the step."""

    name: str
    ms: float
    share: float


@dataclass(frozen=True)
class LayerRow:
    """One direction of one layer.

    Attributes
    ----------
    name, direction : str
        The layer with its place, and "forward" or "backward".
    ms, share : float
        Milliseconds a call, and the share of all layers' both directions.
    flops : int
        Of matrix products in a call; 0 where there are none.
    gflops, peak_share : float or None
        Their rate, and its share of the measured multiply-add peak.
    scratch_bytes, saved_bytes : int
        Memory that the layer's call uses, and that it (or its container, for its input) keeps until backward.
    allocations, nbytes : int
        Array buffers that NumPy made in a call, kept or not, and blocks of Numba's runtime beyond one box for every array
        argument; bytes of NumPy's.
    """

    name: str
    direction: str
    ms: float
    share: float
    flops: int
    gflops: float | None
    peak_share: float | None
    scratch_bytes: int
    saved_bytes: int
    allocations: int
    nbytes: int


@dataclass(frozen=True)
class Profile:
    """What `profile` measured: a step's parts and layers, for one input shape; ``step_ms`` is the sum of its phases."""

    x_shape: Shape
    rounds: int
    peak_gflops: float
    step_ms: float
    phases: list[Phase]
    layers: list[LayerRow]


def profile(model: Sequential, x_shape: Shape, rounds: int = 9, peak_gflops: float | None = None) -> Profile:
    """Measure training steps of a model, phase by phase and layer by layer.

    The loss is `MSELoss`; the target is the input where shapes agree, else zeros.

    Weights stay as they are (the steps' learning rate is 0); gradients do not.

    Parameters
    ----------
    model : Sequential
        The model; its layers are the rows.
    x_shape : tuple of int
        Shape of a batch, which is filled with random numbers.
    rounds : int, optional
        Steps, of which medians are taken.
    peak_gflops : float, optional
        The multiply-add peak; measured if not given.

    Returns
    -------
    Profile
        Phases and layers.
    """
    loss, optimizer = MSELoss(), SGD(model.parameters(), lr=0.0, momentum=0.9)
    dtype = model.dtype or np.dtype(np.float32)
    x = np.random.default_rng(0).random(x_shape).astype(dtype)
    target = x if model.output_shape(x_shape) == x_shape else np.zeros(model.output_shape(x_shape), dtype)
    was_training = model.training
    step = TrainStep(model, loss, optimizer, x_shape)
    stand_ins = {name: layer for name, (layer, _) in model.joined(x_shape).items()}
    owners = {**model.children(), **stand_ins, "model": model, "loss": loss, "optimizer": optimizer}
    for _ in range(2):
        step(x, target)
    first_peak = peak_gflops or measure_peak(dtype)
    samples = [timed_step(step, owners, x, target) for _ in range(rounds)]
    peak = peak_gflops or max(first_peak, measure_peak(dtype))  # before and after: another program may have run during one
    medians = {key: statistics.median(sample.get(key, 0.0) for sample in samples) * 1e3 for key in samples[0]}
    overhead = statistics.median(s[STEP] - sum(s.get(k, 0.0) for keys in PHASES.values() for k in keys) for s in samples) * 1e3
    counts = counted_step(step, owners, x, target)
    model.train(was_training)
    phases = _phases(medians, overhead)
    rows = _rows(model, x_shape, dtype, medians, counts, peak)
    return Profile(x_shape, rounds, peak, sum(p.ms for p in phases), phases, rows)


# Rows


def _phases(medians: dict[Key, float], overhead: float) -> list[Phase]:
    ms = {name: sum(medians[key] for key in keys) for name, keys in PHASES.items()}
    ms["overhead"] = max(overhead, 0.0)
    total = sum(ms.values())
    return [Phase(name, part, part / total) for name, part in ms.items()]


def _rows(
    model: Sequential, x_shape: Shape, dtype: np.dtype[Any], medians: dict[Key, float],
    counts: dict[Key, Count], peak: float,
) -> list[LayerRow]:  # fmt: skip
    shapes = dict(zip(model.children(), model.shapes(x_shape), strict=False))
    runs, joined = model.runs(x_shape, keep=True), model.joined(x_shape)
    names = list(shapes)
    done = {names[run[0]]: "".join(f" + {type(model[i]).__name__}" for i in run[1:]) for run in runs}
    first = names[runs[0][0]]
    total = sum(medians.get((name, direction), 0.0) for name in shapes for direction in ("forward", "backward"))
    rows = []
    for direction in ("forward", "backward"):
        for name, layer in model.children().items():
            ms = medians.get((name, direction))
            if ms is None:  # the layer before has done it
                continue
            ran, taken = joined.get(name, (layer, shapes[name]))
            flops = _flops(ran, taken, direction, with_input=name != first)
            gflops = flops / ms / 1e6 if flops else None
            peak_share = None if gflops is None else gflops / peak
            memory = _nbytes(ran.scratch_spec(taken, dtype)), _saved_nbytes(ran, taken, dtype, name != first)
            count = counts[name, direction]
            label, share = f"{name} {layer_label(layer)}", ms / total
            label += done[name] if direction == "forward" else ""
            rows.append(
                LayerRow(label, direction, ms, share, flops, gflops, peak_share, *memory, count.blocks, count.nbytes)
            )  # fmt: skip
    return rows


def _flops(layer: Layer, x_shape: Shape, direction: str, with_input: bool) -> int:
    """A backward makes two products of the forward's size: the weights' gradient and, but for the first layer, the input's."""
    forward = layer.forward_flops(x_shape)
    return forward if direction == "forward" else forward * (2 if with_input else 1)


def _nbytes(specs: dict[str, Spec]) -> int:
    return sum(spec_nbytes(spec) for spec in specs.values())


def _saved_nbytes(layer: Layer, x_shape: Shape, dtype: np.dtype[Any], owned: bool) -> int:
    """Bytes; an input counts where it is the model's own, not the caller's."""
    kept_input = math.prod(x_shape) * dtype.itemsize if layer.keeps_input and owned else 0
    return _nbytes(layer.saved_spec(x_shape, dtype)) + kept_input


def layer_label(layer: Layer) -> str:
    """A short name: class, and what it turns into what (``Conv2d 3->256``)."""
    sizes = [(getattr(layer, f"in_{kind}", None), getattr(layer, f"out_{kind}", None)) for kind in ("channels", "features")]
    arrows = [f" {first}->{last}" for first, last in sizes if first is not None and last is not None]
    return type(layer).__name__ + "".join(arrows)


# Tables


def render_markdown(result: Profile) -> str:
    """Tables of a profile: the step's phases, then its layers.

    Parameters
    ----------
    result : Profile
        What `profile` gave.

    Returns
    -------
    str
        Markdown.
    """
    batch = result.x_shape[0]
    phases = [[p.name, f"{p.ms:.3f}", f"{p.share:.1%}"] for p in result.phases]
    phases.append(["whole step", f"{result.step_ms:.3f}", "100.0%"])
    headers = [
        "layer", "direction", "ms", "share", "GFLOP/s", "of peak", "scratch KB", "saved KB", "allocations", "bytes"
    ]  # fmt: skip
    rows = [
        [
            row.name, row.direction, f"{row.ms:.3f}", f"{row.share:.1%}",
            "-" if row.gflops is None else f"{row.gflops:.0f}", "-" if row.peak_share is None else f"{row.peak_share:.0%}",
            f"{row.scratch_bytes / 1024:.0f}", f"{row.saved_bytes / 1024:.0f}",
            str(row.allocations), str(row.nbytes),
        ]
        for row in result.layers
    ]  # fmt: skip
    return (
        f"### One training step, batch {batch}\n\n{markdown_table(['part', 'ms', 'share'], phases)}\n\n"
        f"### Its layers, batch {batch}\n\n{markdown_table(headers, rows)}\n"
    )

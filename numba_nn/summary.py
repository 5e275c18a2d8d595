"""A table of a model's layers: output, parameters, memory and arithmetic of each, and which run as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from numba_nn.core.errors import ArgumentError
from numba_nn.core.layer import Layer
from numba_nn.core.workspace import Shape, Spec, spec_nbytes
from numba_nn.mixed_precision import MixedPrecision
from numba_nn.sequential import Sequential
from numba_nn.tables import markdown_table

HEADERS = ["layer", "output", "parameters", "MFLOP", "saved KB", "scratch KB", "packed KB", "in training", "in eval mode"]


def summary(model: Layer, x_shape: Shape, dtype: Any = None) -> str:
    """A Markdown table of a model's layers.

    Parameters
    ----------
    model : Sequential or MixedPrecision
        The model, or a Sequential in mixed precision.
    x_shape : tuple of int
        Shape of its input.
    dtype : dtype, optional
        Of the input; the model's own by default, float32 for one without parameters.

    Returns
    -------
    str
        A row for each layer: output shape, parameters, floating-point operations of the forward's matrix products, bytes kept
        from forward to backward (outputs between layers are the model's), bytes of scratch, which layers share, bytes of
        weights that are packed now, in eval mode, and the layer that does its forward, where it is not itself. The last row
        holds the sums, and for memory what the model has allocated so far.

    Raises
    ------
    ShapeError
        Of the first layer that cannot take its input.
    ArgumentError
        If the model is something else.
    """
    if isinstance(model, MixedPrecision):
        model = model.model
    if not isinstance(model, Sequential):
        raise ArgumentError(f"summary: model must be a Sequential, or one in a MixedPrecision, got {model}")
    wanted = np.dtype(dtype or model.dtype or np.float32)
    shapes = model.shapes(x_shape)
    joined = model.joined(x_shape)
    names = list(model.children())
    training, inference = (_done_by(model.runs(x_shape, keep), names) for keep in (True, False))
    rows = []
    for i, (name, layer) in enumerate(model.children().items()):
        runs, taken = joined.get(name, (layer, shapes[i]))
        kept = [] if i in training else layer.saved_spec(shapes[i], wanted).values()
        rows.append(
            [
                f"{name} {layer}", _times(shapes[i + 1]), f"{_learned(layer):,}",
                f"{layer.forward_flops(shapes[i]) / 1e6:,.1f}", _kilobytes(kept),
                _kilobytes(runs.scratch_spec(taken, wanted).values()), _thousands(layer.packed_nbytes),
                training.get(i, ""), inference.get(i, ""),
            ]
        )  # fmt: skip
    flops = model.forward_flops(x_shape) / 1e6
    held = [_thousands(nbytes) for nbytes in (model.saved_nbytes, model.scratch_nbytes, model.packed_nbytes)]
    rows.append(["whole model", _times(shapes[-1]), f"{_learned(model):,}", f"{flops:,.1f}", *held, "", ""])
    return markdown_table(HEADERS, rows)


def _done_by(runs: list[list[int]], names: list[str]) -> dict[int, str]:
    """For each layer that another one does: which."""
    return {i: f"in {names[run[0]]}" for run in runs for i in run[1:]}


def _learned(layer: Layer) -> int:
    return sum(p.value.size for p in layer.parameters())


def _kilobytes(specs: Iterable[Spec]) -> str:
    return _thousands(sum(map(spec_nbytes, specs)))


def _thousands(nbytes: int) -> str:
    return f"{nbytes / 1024:,.0f}"


def _times(shape: Shape) -> str:
    return " x ".join(map(str, shape))

"""The autoencoder's performance report: what the reference project reported, measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from numba_nn.config import machine
from numba_nn.demos.session import Session
from numba_nn.losses import MSELoss
from numba_nn.models import Autoencoder
from numba_nn.optim import SGD
from numba_nn.report import Profile, markdown_table, median_ms, profile, render_markdown
from numba_nn.train import TrainStep

BATCHES = (1, 32)
HEADERS = ["what", "batch", "ms", "ms an image", "images/s", "the reference's figure"]
REFERENCE = {
    "conv 3->256 only (forward)": "6.45 ms an image, 155 images/s",
    "encoder": "none measured",
    "whole forward": "none measured",
    "whole training step": "2.5 images/s",
}
NOTES = """\
* The reference is github.com/niesuv/parallel-programming. Its two figures, for one convolution and for training, were measured
  on another CPU with naive code; from CUDA it hoped for 125-250 images/s in training, up to 500. Its times per layer are
  guesses.
* Times are medians, taken on warm buffers. "forward" is in eval mode; a training step is forward, loss, backward and SGD's
  update with momentum. The first layer has no input gradient.
* GFLOP/s count matrix products only. The peak is that of the multiply-add tile on data in the L1 cache, on all threads,
  measured in this run. On a busy machine the two are not measured under the same load, and shares can pass 100 %.
* Shares of layers are shares of all layers' times. "scratch" is what one layer needs of the buffer that all layers share;
  "saved" is kept from forward to backward, a layer's input included if its backward reads it.
* Allocations: array buffers that NumPy makes in a call, kept or not, and blocks of Numba's runtime beyond one box for each
  array argument. Bytes: of NumPy's."""


@dataclass(frozen=True)
class Measurement:
    """Time of one part of the work for one batch."""

    what: str
    batch: int
    ms: float

    @property
    def images_per_second(self) -> float:
        """Throughput."""
        return self.batch / self.ms * 1e3

    def cells(self) -> list[str]:
        """A line of the main table."""
        numbers = [str(self.batch), f"{self.ms:.3f}", f"{self.ms / self.batch:.3f}", f"{self.images_per_second:.0f}"]
        return [self.what, *numbers, REFERENCE[self.what]]


@dataclass(frozen=True)
class Report:
    """All that was measured."""

    machine: dict[str, Any]
    measurements: list[Measurement]
    profiles: list[Profile]

    def rows(self) -> list[list[str]]:
        """The main table."""
        return [m.cells() for m in self.measurements]


def measure(model: Autoencoder, height: int, width: int, rounds: int = 9) -> Report:
    """Measure a model on images of a size, for batches of 1 and 32; its weights stay as they are.

    Parameters
    ----------
    model : Autoencoder
        The model.
    height, width : int
        Of the images.
    rounds : int, optional
        Rounds of everything.

    Returns
    -------
    Report
        Main table, phases and layers.
    """
    measurements, profiles = [], []
    for batch in BATCHES:
        x_shape = (batch, 3, height, width)
        parts = _parts(model, x_shape)
        measurements += [Measurement(what, batch, median_ms(call, rounds)) for what, call in parts.items()]
        profiles.append(profile(model, x_shape, rounds=rounds))
    order = list(REFERENCE)
    measurements.sort(key=lambda m: order.index(m.what))
    return Report(machine(), measurements, profiles)


def _parts(model: Autoencoder, x_shape: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    """The rows of the main table, as calls that allocate nothing."""
    x = np.random.default_rng(0).random(x_shape, np.float32)
    outputs = [np.empty(shape, np.float32) for shape in model.shapes(x_shape)[1 : model.ENCODER_LAYERS + 1]]
    y = np.empty(x_shape, np.float32)
    step = TrainStep(model, MSELoss(), SGD(model.parameters(), lr=0.0, momentum=0.9), x_shape)

    def encode(layers: int) -> None:
        model.eval()
        inputs = x
        for layer, out in zip(model, outputs[:layers], strict=False):
            inputs = layer.forward(inputs, out=out)

    def train() -> None:
        model.train()
        step(x, x)

    return dict(zip(REFERENCE, (
        lambda: encode(1),
        lambda: encode(model.ENCODER_LAYERS),
        lambda: model.eval().forward(x, out=y),
        train,
    ), strict=True))  # fmt: skip


def write_report(folder: Path, report: Report, session: Session) -> None:
    """Write report.md and report.json.

    Parameters
    ----------
    folder : Path
        Where to.
    report : Report
        What was measured.
    session : Session
        The run, for its losses.
    """
    images = session.images_seen
    training = {
        "settings": {name: value for name, value in asdict(session.settings).items() if name != "data"},
        "seconds": session.seconds,
        "images_per_second": images / session.seconds,
        "validation": session.validation_losses,
    }
    machine_rows = [[name, str(value)] for name, value in report.machine.items()]
    epochs = [[str(i), f"{loss:.5f}"] for i, loss in enumerate(session.validation_losses, start=1)]
    peak = report.profiles[-1].peak_gflops
    sections = [
        "# Convolutional autoencoder: performance report",
        markdown_table(["machine", ""], machine_rows),
        "## Speed",
        markdown_table(HEADERS, report.rows()),
        f"Multiply-add peak of this machine: {peak:.0f} GFLOP/s.",
        "## Training",
        f"{images} images in {session.seconds:.1f} s of training steps: {images / session.seconds:.0f} images/s.",
        markdown_table(["epoch", "validation loss"], epochs),
        "## Where the time goes",
        *(render_markdown(p) for p in report.profiles),
        "## Notes",
        NOTES,
    ]
    (folder / "report.md").write_text("\n\n".join(s.strip() for s in sections) + "\n", encoding="utf-8")
    content = {
        "machine": report.machine,
        "reference": REFERENCE,
        "measurements": [{**asdict(m), "images_per_second": m.images_per_second} for m in report.measurements],
        "profiles": [asdict(p) for p in report.profiles],
        "training": training,
    }
    (folder / "report.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

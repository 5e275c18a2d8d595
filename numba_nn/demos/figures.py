"""Pictures of the autoencoder's run: originals above reconstructions, and the loss; the look that all pictures have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from numba_nn.core.call import Array

COLUMNS = 10
DPI = 120
BLUE, ORANGE, INK = "#2a6f97", "#e07a1f", "#333333"


def save_reconstructions(path: Path, originals: Array, reconstructions: Array) -> None:
    """Draw images above what the model makes of them.

    Parameters
    ----------
    path : Path
        PNG file to write.
    originals, reconstructions : ndarray
        (N, 3, H, W) in [0, 1]; the first ten are shown.
    """
    figure = new_figure(12.5, 3.1)
    _title(figure, "Validation images, from parts of the photographs that were never trained on")
    grid = figure.add_gridspec(1, 1, left=0.105, right=0.995, bottom=0.08, top=0.9)
    _draw_pairs(figure, grid[0], originals, reconstructions)
    figure.savefig(path)


def save_loss(path: Path, losses: Sequence[float], validation: Sequence[float]) -> None:
    """Draw the loss of every training step, smoothed, and of every epoch's validation.

    Parameters
    ----------
    path : Path
        PNG file to write.
    losses, validation : sequence of float
        Of steps and of epochs.
    """
    figure = new_figure(7, 4)
    _draw_loss(figure.add_gridspec(1, 1, left=0.11, right=0.97, bottom=0.13, top=0.9)[0], figure, losses, validation)
    figure.savefig(path)


def save_overview(
    path: Path, originals: Array, reconstructions: Array, losses: Sequence[float], validation: Sequence[float]
) -> None:
    """Draw both in one wide picture.

    Parameters
    ----------
    path : Path
        PNG file to write.
    originals, reconstructions : ndarray
        (N, 3, H, W) in [0, 1]; the first eight are shown.
    losses, validation : sequence of float
        Of steps and of epochs.
    """
    figure = new_figure(14, 2.9)
    left, right = figure.add_gridspec(
        1, 2, width_ratios=[2.6, 1], left=0.09, right=0.99, bottom=0.16, top=0.91, wspace=0.13
    )  # fmt: skip
    _draw_pairs(figure, left, originals[:8], reconstructions[:8])
    _draw_loss(right, figure, losses, validation)
    figure.savefig(path)


def psnr(original: Array, reconstruction: Array) -> float:
    """Peak signal-to-noise ratio in dB of images in [0, 1]."""
    error = float(np.mean((original.astype(np.float64) - reconstruction) ** 2))
    return 10 * math.log10(1 / error) if error else math.inf


def new_figure(width: float, height: float) -> Any:
    """An empty figure of a size in inches."""
    # Not through pyplot: it would look for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def plain_axes(axes: Any) -> None:
    """A thin grid, no frame, whole numbers along x."""
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _title(figure: Any, text: str) -> None:
    figure.text(0.5, 0.93, text, ha="center", fontsize=12, color=INK)


def _draw_pairs(figure: Any, place: Any, originals: Array, reconstructions: Array) -> None:
    count = min(COLUMNS, len(originals))
    grid = place.subgridspec(2, count, wspace=0.06, hspace=0.06)
    for row, (name, images) in enumerate((("original", originals), ("reconstruction", reconstructions))):
        for column in range(count):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(np.clip(images[column].transpose(1, 2, 0), 0, 1), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if column == 0:
                axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11, color=INK, labelpad=8)
            if row == 1:
                axes.set_xlabel(f"{psnr(originals[column], images[column]):.1f} dB", fontsize=9, color=INK)


def _draw_loss(place: Any, figure: Any, losses: Sequence[float], validation: Sequence[float]) -> None:
    axes = figure.add_subplot(place)
    steps = np.arange(1, len(losses) + 1)
    axes.plot(steps, losses, color=BLUE, alpha=0.2, linewidth=0.8)
    axes.plot(steps, _smoothed(losses), color=BLUE, linewidth=1.8, label="training, each step (smoothed)")
    if validation:
        ends = np.arange(1, len(validation) + 1) * (len(losses) / len(validation))
        axes.plot(ends, validation, "o-", color=ORANGE, linewidth=1.4, markersize=5, label="validation, each epoch")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set_xlabel("step", color=INK)
    axes.set_title("mean squared error", fontsize=11, color=INK)
    plain_axes(axes)
    axes.legend(frameon=False, fontsize=9)


def _smoothed(values: Sequence[float], width: int = 9) -> Array:
    """Mean over the neighbours, as many on either side as there are."""
    half = [min(i, len(values) - 1 - i, width // 2) for i in range(len(values))]
    return np.array([np.mean(values[i - h : i + h + 1]) for i, h in enumerate(half)])

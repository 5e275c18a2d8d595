"""The picture of the digits demonstration: how it learned, what it takes for what, and which images it finds hard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from numba_nn.core.call import Array
from numba_nn.demos.figures import BLUE, INK, ORANGE, new_figure, plain_axes
from numba_nn.metrics import confusion_matrix

ROWS, COLUMNS = 3, 5


def save_digits(path: Path, history: dict[str, list[Any]], images: Array, labels: Array, probabilities: Array) -> None:
    """Draw the learning curves, the confusion matrix, and the images that the model finds hardest.

    Parameters
    ----------
    path : Path
        PNG file to write.
    history : dict of str to list
        As `fit` gives it, with accuracy.
    images, labels : ndarray
        Held-out images (N, 1, H, W) and their classes (N,).
    probabilities : ndarray
        What the model says of them, (N, 10).
    """
    figure = new_figure(14, 4.4)
    left, middle, right = figure.add_gridspec(
        1, 3, width_ratios=[1, 1.15, 1.55], left=0.045, right=0.99, bottom=0.12, top=0.92, wspace=0.16
    )  # fmt: skip
    _draw_curves(figure, left, history)
    _draw_matrix(figure, middle, confusion_matrix(probabilities, labels))
    _draw_hardest(figure, right, images, labels, probabilities)
    figure.savefig(path)


def _draw_curves(figure: Any, place: Any, history: dict[str, list[Any]]) -> None:
    top, bottom = place.subgridspec(2, 1, hspace=0.38)
    epochs = history["epoch"]
    for part, name, title in ((top, "loss", "cross-entropy"), (bottom, "accuracy", "accuracy, %")):
        axes, scale = figure.add_subplot(part), 100 if name == "accuracy" else 1
        for column, colour, label in ((name, BLUE, "training"), (f"val_{name}", ORANGE, "held out")):
            axes.plot(
                epochs, np.multiply(history[column], scale), "o-", color=colour, linewidth=1.5, markersize=3.5, label=label
            )
        axes.set_title(title, fontsize=11, color=INK)
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        plain_axes(axes)
    figure.axes[0].set_yscale("log")
    figure.axes[0].yaxis.set_major_formatter("{x:g}")
    figure.axes[0].yaxis.set_minor_formatter("")
    figure.axes[0].legend(frameon=False, fontsize=9)
    axes.set_xlabel("epoch", color=INK)


def _draw_matrix(figure: Any, place: Any, matrix: Array) -> None:
    """Counts; mistakes stand out from the diagonal by their colour."""
    axes = figure.add_subplot(place)
    right = np.eye(len(matrix), dtype=bool)
    shades = np.ones((*matrix.shape, 3))
    for chosen, colour, most in ((right, BLUE, matrix.max()), (~right, ORANGE, max(3, matrix[~right].max()))):
        strength = np.where(chosen & (matrix > 0), 0.25 + 0.75 * matrix / most, 0)[..., None]
        shades -= strength * (1 - _rgb(colour))
    axes.imshow(shades)
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            dark = shades[row, column].mean() < 0.6
            axes.text(column, row, str(count), ha="center", va="center", fontsize=9, color="white" if dark else INK)
    axes.set(xticks=range(len(matrix)), yticks=range(len(matrix)))
    axes.set_xticks(np.arange(len(matrix) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(matrix) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#dddddd", linewidth=0.6)
    axes.tick_params(which="both", length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("what the net says", color=INK)
    axes.set_ylabel("what it is", color=INK)
    axes.set_title("confusion matrix", fontsize=11, color=INK)


def _rgb(colour: str) -> Array:
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def _draw_hardest(figure: Any, place: Any, images: Array, labels: Array, probabilities: Array) -> None:
    """The mistakes, then the right ones of which the model is least sure."""
    said = probabilities.argmax(axis=1)
    sure = probabilities[np.arange(len(labels)), labels]
    order = np.lexsort([sure, said == labels])[: ROWS * COLUMNS]  # mistakes first
    grid = place.subgridspec(ROWS, COLUMNS, wspace=0.12, hspace=0.42)
    for cell, i in zip(grid, order, strict=False):
        axes, wrong = figure.add_subplot(cell), said[i] != labels[i]
        axes.imshow(images[i, 0], cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=ORANGE if wrong else "#bbbbbb", linewidth=2 if wrong else 0.8)
        text = f"{labels[i]} → {said[i]}" if wrong else f"{labels[i]}"
        axes.set_xlabel(f"{text} ({probabilities[i, said[i]]:.0%})", fontsize=9, color=ORANGE if wrong else INK, labelpad=3)
    outline = place.get_position(figure)
    mistakes = int(np.count_nonzero(said != labels))
    title = _hardest_title(mistakes, len(order))
    figure.text((outline.x0 + outline.x1) / 2, outline.y1 + 0.017, title, ha="center", fontsize=11, color=INK)


def _hardest_title(mistakes: int, shown: int) -> str:
    if mistakes > shown:
        return f"{shown} of {mistakes} mistakes (true → said)"
    if mistakes == 0:
        return "no mistakes; the images of which the net is least sure"
    return f"{mistakes} mistake{'s'[: mistakes > 1]} (true → said), then the least sure"

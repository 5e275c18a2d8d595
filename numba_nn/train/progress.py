"""What training says while it runs: a bar on a terminal that has rich, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
from typing import Any, Self

import numpy as np


class Silence:
    """Says nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def start(self, title: str, batches: int | None) -> None:
        """An epoch begins, of so many batches if that is known."""

    def advance(self, loss: float) -> None:
        """A batch is done; the epoch's loss so far."""

    def line(self, text: str) -> None:
        """Something to keep on the screen."""

    def close(self) -> None:
        """The last epoch is over."""


class Lines(Silence):
    """A line for every epoch."""

    def line(self, text: str) -> None:
        """Print a line."""
        print(text, flush=True)


class Bar(Silence):
    """A line for every epoch, and below them a bar for the present one."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar: Any = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(), transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", loss="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def start(self, title: str, batches: int | None) -> None:
        """Empty the bar."""
        self._bar.reset(self._task, description=title, total=batches, loss="")

    def advance(self, loss: float) -> None:
        """Lengthen the bar."""
        self._bar.update(self._task, advance=1, loss=f"loss {loss:.4g}")

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()


def open_progress(wanted: bool) -> Silence:
    """What suits where the output goes."""
    if not wanted:
        return Silence()
    if sys.stdout is None or not sys.stdout.isatty():
        return Lines()
    try:
        return Bar()
    except ImportError:
        return Lines()


def epoch_line(title: str, row: dict[str, Any]) -> str:
    """An epoch's numbers in a line."""
    shown = [f"{name} {value:.4g}" for name, value in row.items() if name not in ("epoch", "seconds") and np.ndim(value) == 0]
    return "  ".join([title, *shown, f"{row['seconds']:.2f} s"])

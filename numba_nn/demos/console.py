"""What a demonstration says: a live bar on a terminal that has rich, plain lines everywhere else."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numba_nn.compiling import compiling_line, told_of_compiling

Advance = Callable[[str, float, int], None]
"""Tell of a step: what is being done, its loss, its number of images."""
INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended
INSTALL = "in a clone: make demo; elsewhere: pip install '.[demo]'"
PLAIN_INTERVAL = 15.0  # seconds between lines where there is no bar
SPEED_STEPS = 16  # images a second are averaged over so many steps


class Speed:
    """Images a second over the last steps."""

    def __init__(self) -> None:
        self._times = deque([(time.perf_counter(), 0)], SPEED_STEPS + 1)

    def add(self, images: int) -> float:
        """Count images that were done just now."""
        self._times.append((time.perf_counter(), self._times[-1][1] + images))
        (first, before), (last, after) = self._times[0], self._times[-1]
        return (after - before) / max(last - first, 1e-9)


class PlainConsole:
    """Lines without control characters, for files, pipes, and where rich is missing."""

    def line(self, text: str = "") -> None:
        """Print a line."""
        print(text, flush=True)

    def facts(self, rows: dict[str, str]) -> None:
        """Print lines that begin with a name."""
        for name, text in rows.items():
            self.line(f"  {name:<10}{text}")

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Say what is being waited for, and how long it took; on a terminal, kernels that are being compiled."""
        print(f"{text} ...", end=" ", flush=True)
        start = time.perf_counter()
        try:
            with compiling_line(f"{text} ... "):
                yield
        except BaseException:
            print(flush=True)
            raise
        self.line(f"{time.perf_counter() - start:.1f} s")

    @contextmanager
    def progress(self, total: int, done: int) -> Iterator[Advance]:
        """A line now and then, while steps ``done`` to ``total`` run."""
        speed, start, printed, first = Speed(), time.monotonic(), time.monotonic(), done

        def advance(what: str, loss: float, images: int) -> None:
            nonlocal done, printed
            done, rate, now = done + 1, speed.add(images), time.monotonic()
            if now - printed >= PLAIN_INTERVAL:
                printed, left = now, (now - start) / (done - first) * (total - done)
                self.line(f"{what}  step {done}/{total}  loss {loss:.4f}  {rate:.0f} images/s  {_clock(left)} left")

        yield advance

    def table(self, title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table."""
        widths = [max(len(line[i]) for line in (headers, *rows)) for i in range(len(headers))]
        self.line(title)
        for line in (headers, *rows):
            cells = [cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
            self.line("  " + "  ".join(cells).rstrip())


class RichConsole(PlainConsole):
    """A live bar, a spinner and coloured tables."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console: Any = Console(highlight=False)

    def line(self, text: str = "") -> None:
        """Print a line, above a bar if there is one."""
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show a spinner and kernels that are being compiled, then how long it took."""
        start = time.perf_counter()
        with (
            self._console.status(f"{text} ...") as spinner,
            told_of_compiling(lambda what: spinner.update(f"{text} ... {what}")),
        ):
            yield
        self.line(f"{text} ... {time.perf_counter() - start:.1f} s")

    @contextmanager
    def progress(self, total: int, done: int) -> Iterator[Advance]:
        """Show a bar, while steps ``done`` to ``total`` run."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = [
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[speed]:.0f} images/s"), TimeRemainingColumn(), TextColumn("left"),
        ]  # fmt: skip
        speed = Speed()
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task("training", total=total, completed=done, loss=float("nan"), speed=0.0)

            def advance(what: str, loss: float, images: int) -> None:
                bar.update(task, advance=1, description=what, loss=loss, speed=speed.add(images))

            yield advance

    def table(self, title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        for i, header in enumerate(headers):
            table.add_column(header, justify="right" if i else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)


def open_console() -> PlainConsole:
    """The console that suits where the output goes."""
    if not sys.stdout.isatty():
        return PlainConsole()
    try:
        return RichConsole()
    except ImportError:
        plain = PlainConsole()
        plain.line("(for a progress bar: make demo)")
        return plain


@contextmanager
def pictures(console: PlainConsole, *paths: Path) -> Iterator[None]:
    """Say which pictures were written, or what they need."""
    try:
        yield
    except ImportError:
        console.line(f"no pictures: matplotlib is not installed ({INSTALL})")
    else:
        console.line(f"pictures: {', '.join(map(str, paths))}")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

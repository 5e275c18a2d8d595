"""Which kernels are being compiled, told while one waits for them."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from numba_nn.core.cache import listeners

REWRITE = "\r\x1b[K"  # to the start of the line, and clear it


@contextmanager
def told_of_compiling(show: Callable[[str], None]) -> Iterator[None]:
    """Call ``show`` whenever a kernel begins to be compiled, with its name, how many there were, and the seconds so far."""
    start, count = time.perf_counter(), 0

    def tell(name: str) -> None:
        nonlocal count
        count += 1
        show(f"compiling kernel {count}, {name}, {time.perf_counter() - start:.0f} s")

    listeners.append(tell)
    try:
        yield
    finally:
        listeners.remove(tell)


@contextmanager
def compiling_line(before: str = "") -> Iterator[None]:
    """Show that on a terminal, behind ``before``, in one line that is rewritten and cleared at the end; elsewhere nothing."""
    shown = False

    def show(text: str) -> None:
        nonlocal shown
        shown = True
        line = f"{before}{text}"[: shutil.get_terminal_size().columns - 1]  # what wraps would not be cleared
        print(f"{REWRITE}{line}", end="", flush=True)

    if not sys.stdout.isatty():
        yield
        return
    try:
        with told_of_compiling(show):
            yield
    finally:
        if shown:
            print(f"{REWRITE}{before}", end="", flush=True)

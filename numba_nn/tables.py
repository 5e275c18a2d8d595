"""What reports share: a median, and a table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def median_ms(call: Callable[[], Any], rounds: int = 15, warm_up: int = 2) -> float:
    """Median duration of a call.

    Parameters
    ----------
    call : callable
        Takes nothing.
    rounds : int, optional
        Calls that are timed.
    warm_up : int, optional
        Calls before them.

    Returns
    -------
    float
        Milliseconds.
    """
    durations = []
    for i in range(warm_up + rounds):
        start = time.perf_counter()
        call()
        if i >= warm_up:
            durations.append(time.perf_counter() - start)
    return statistics.median(durations) * 1e3


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table in Markdown, aligned; the first columns, which hold words, to the left, all others to the right.

    Parameters
    ----------
    headers : sequence of str
        One for each column.
    rows : sequence of sequences of str
        Cells.
    words : int, optional
        Columns that hold words.

    Returns
    -------
    str
        Lines, without a newline at the end.
    """
    widths = [max(len(line[i]) for line in (headers, *rows)) for i in range(len(headers))]
    align = [str.ljust] * words + [str.rjust] * (len(headers) - words)
    lines = [[a(cell, w) for a, cell, w in zip(align, line, widths, strict=True)] for line in (headers, *rows)]
    rule = [*("-" * w for w in widths[:words]), *("-" * (w - 1) + ":" for w in widths[words:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))

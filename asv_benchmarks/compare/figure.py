"""The ratios as bars, on a logarithmic scale, with a line at 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numba_nn.demos.figures import BLUE, INK, ORANGE, new_figure

from .record import Record, Row

INCHES_PER_BAR = 0.16


def save_figure(record: Record, path: Path, fastest: bool = False) -> None:
    """Draw the rows of the most threads: one panel for each setting of the allocator."""
    threads = max(row.threads for row in record.rows)
    rows = [row for row in record.rows if row.threads == threads]
    settings = list(dict.fromkeys(row.allocator for row in rows))
    height = INCHES_PER_BAR * max(sum(row.allocator == s for row in rows) for s in settings) + 1.3
    figure = new_figure(3.8 + 5.2 * len(settings), height)
    grid = figure.add_gridspec(1, len(settings), left=0.36 if len(settings) == 2 else 0.5, right=0.985,
                               bottom=0.5 / height, top=1 - 0.5 / height, wspace=0.04)  # fmt: skip
    for index, setting in enumerate(settings):
        axes = figure.add_subplot(grid[index])
        _draw(axes, [row for row in rows if row.allocator == setting], fastest, labelled=index == 0)
        axes.set_title(f"peer's time / ours, {threads} threads, allocator {setting}", fontsize=9, color=INK)
    figure.savefig(path)


def _draw(axes: Any, rows: list[Row], fastest: bool, labelled: bool) -> None:
    ratios, places = [row.ratio(fastest) for row in rows], range(len(rows))
    axes.barh(places, [r - 1 for r in ratios], left=1, height=0.72, color=[BLUE if r >= 1 else ORANGE for r in ratios])
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(True, axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.axvline(1, color=INK, linewidth=1)
    labels = [f"{row.case}, {row.pass_name} ({row.peer})" for row in rows] if labelled else []
    axes.set_yticks(places if labelled else [], labels, fontsize=6)
    axes.set_ylim(len(rows) - 0.4, -0.6)

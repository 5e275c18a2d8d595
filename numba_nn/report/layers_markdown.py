"""The layer report as text."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from numba_nn.report.comparison import Comparison, Row
from numba_nn.report.history import Figures, Run
from numba_nn.tables import markdown_table

NOTICED = 0.05  # a call that takes so much longer is set in bold
MISSING = "n/a"
NOTES = """\
* An *op* is one call, in float32, on N(0, 1) * 0.1, in training mode, after `reserve` and into destinations. Times are medians
  over batches of at least 1 ms. A backward gives the gradients of the input and of all parameters; the forward before it is not
  timed: each backward is timed by itself, and the clock's own time taken off. "; mean" is the average over all positions behind
  the layer, in one `Sequential`.
* Allocations per op: array buffers that NumPy makes, freed or not, and blocks of Numba's runtime, without the box that every
  array argument of a compiled call costs. Bytes per op: of those buffers.
* The reference is EasyRobot's `x/math/nn` (github.com/itohio/EasyRobot), with the best figures of its own report, from another
  CPU, an Intel i7-8750H: speed-ups compare two machines as well as two libraries. "no figure": it measures this, but states no
  time. "ours only": it does not measure this.
* Only runs on the same CPU with as many threads are compared, and quick runs only with quick runs. "n/a": that revision has no
  such layer, or the record no such row."""


def render(comparison: Comparison) -> str:
    """The whole report in Markdown."""
    current, rows = comparison.current, comparison.rows
    threads = current.machine["threads"]
    sections = [
        "# Layer report",
        "\n".join(f"* {line}" for line in summary(comparison)),
        markdown_table(["", "what", "revision", "date"], _runs(comparison), words=4),
        markdown_table(["machine", ""], [[name, str(value)] for name, value in current.machine.items()], words=2),
        "## Current, beside the reference",
        _current_table(rows, threads),
        *_missing(current),
        *_changes(comparison),
        "## Notes",
        NOTES,
    ]
    return "\n\n".join(sections) + "\n"


def summary(comparison: Comparison) -> list[str]:
    """What a reader should see first, in a few lines."""
    measured = [(row, row.current) for row in comparison.rows if row.current is not None]
    if not measured:
        return [f"{len(comparison.rows)} rows, none of which this revision can run."]
    spread = statistics.median(figures.spread for _, figures in measured)
    quick = " A quick run: few batches, not to be relied on." if comparison.current.quick else ""
    lacking = len(comparison.rows) - len(measured)
    lines = [
        f"**{len(comparison.rows)} rows**, {lacking or 'none'} of them n/a. Half of a row's batches lie within ±{spread:.1%} "
        f"of its time (median over rows).{quick}",
        f"**Allocations**, all rows together: {sum(f.allocations for _, f in measured):,} per op, "
        f"{sum(f.nbytes for _, f in measured):,} bytes.",
    ]
    speedups = [(row.speedup, row) for row, _ in measured if row.speedup is not None]
    if speedups:
        least, row = min(speedups, key=lambda pair: pair[0])
        lines.append(f"**Smallest speed-up** against the reference's {len(speedups)} times: {least:,.1f}x, {_title(row)}.")
    for index, since in enumerate(("before", "after")):
        changes = [(c, row) for row, _ in measured if (c := row.changes()[index]) is not None]
        if changes:
            worst, row = max(changes, key=lambda pair: pair[0])
            middle = statistics.median(c for c, _ in changes)
            lines.append(
                f"**Since {since}**: {middle:+.1%} time (median of {len(changes)}), at worst {worst:+.1%}, {_title(row)}."
            )
    return lines


def _title(row: Row) -> str:
    return f"{row.case}, {row.name}"


def _runs(comparison: Comparison) -> list[list[str]]:
    def line(word: str, what: str, runs: Sequence[Run]) -> list[str]:
        names = ", ".join(run.revision for run in runs) or MISSING
        return [f"**{word}**", what, names, ", ".join(str(run.machine.get("date")) for run in runs) or MISSING]

    baseline = "the baseline: the revision asked for, measured in turns with the current one"
    first = "the baseline: the first run on record that has the row"
    return [
        line("before", baseline if comparison.against else first, comparison.before),
        line("after", "the previous run: the last one on record that has the row", comparison.after),
        line("current", "this run", [comparison.current]),
    ]


def _missing(current: Run) -> list[str]:
    lines = [f"* {case}: {why}" for case, why in current.missing.items()]
    return ["Without figures:", "\n".join(lines)] if lines else []


def _changes(comparison: Comparison) -> list[str]:
    title, threads = "## Before, after, current", comparison.current.machine["threads"]
    if not (comparison.before or comparison.after):
        return [title, "There is no earlier run to compare with."]
    if threads == 1:
        return [title, _change_table(comparison.rows, "ns", counts=True)]
    return [
        f"{title}: {threads} threads",
        _change_table(comparison.rows, "ns", counts=True),
        f"{title}: 1 thread",
        _change_table(comparison.rows, "ns_one_thread", counts=False),
    ]


# Tables


def _current_table(rows: Sequence[Row], threads: int) -> str:
    one = ["1 thread: ns/op"] if threads > 1 else []
    headers = [
        "layer", "pass", "ns/op", *one, "allocations/op", "bytes/op", "reference: ns/op", "and allocations", "speed-up"
    ]  # fmt: skip
    least = min((row.speedup for row in rows if row.speedup is not None), default=None)
    lines = []
    for row in rows:
        alone = [_number(row.current, "ns_one_thread")] if threads > 1 else []
        speedup = "" if row.speedup is None else f"{row.speedup:,.1f}x"
        lines.append([
            row.case, row.name, _number(row.current, "ns"), *alone, _number(row.current, "allocations"),
            _number(row.current, "nbytes"), _reference_time(row), _plain(row.reference.allocations),
            f"**{speedup}**" if row.speedup is not None and row.speedup == least else speedup,
        ])  # fmt: skip
    return markdown_table(headers, lines, words=2)


def _reference_time(row: Row) -> str:
    if not row.in_reference:
        return "ours only"
    return "no figure" if row.reference.ns is None else _plain(row.reference.ns)


def _change_table(rows: Sequence[Row], figure: str, counts: bool) -> str:
    """Times and their changes; with counts, allocations and bytes as before / after / current."""
    headers = ["layer", "pass", "before: ns/op", "after", "current", "since before", "since after"]
    headers += ["allocations/op", "bytes/op"] if counts else []
    lines = []
    for row in rows:
        three = (row.before, row.after, row.current)
        line = [row.case, row.name, *(_number(f, figure) for f in three), *map(_percent, row.changes(figure))]
        if counts:
            line += [" / ".join(_number(f, name) for f in three) for name in ("allocations", "nbytes")]
        lines.append(line)
    return markdown_table(headers, lines, words=2)


def _number(figures: Figures | None, name: str) -> str:
    return MISSING if figures is None else _plain(getattr(figures, name))


def _plain(number: float | None) -> str:
    return "" if number is None else f"{number:,.0f}"


def _percent(share: float | None) -> str:
    if share is None:
        return MISSING
    return f"**{share:+.1%}**" if share > NOTICED else f"{share:+.1%}"

"""The record as text: a table for each number of threads, and geometric means."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable

from numba_nn.tables import markdown_table

from .record import Key, Record, Row

SETTINGS = {"installed": "", "kept": ", kept"}
"""Settings of the allocator, in the order of the columns, and what their headers end with."""
NOTES = """\
Times are {statistic}; *ratio* is the peer's time over ours: above 1 we are faster. *kept*: in a process whose glibc allocator
was told to keep memory. *share*: of the measured multiply-add peak, or of the copy bandwidth (bytes that must move, from 64 MB
on) where nothing is multiplied; a convolution by Winograd's algorithm may pass 100 %. *allocations*: of one call of ours."""


def render(record: Record, fastest: bool = False) -> str:
    """The whole report in Markdown."""
    quick = ["A quick run: few rounds, not to be relied on."] * record.quick
    machine = markdown_table(["machine", ""], [[name, str(value)] for name, value in record.machine.items()], words=2)
    notes = NOTES.format(statistic="of the fastest round" if fastest else "medians over rounds")
    sections = ["# Comparison with peers", *quick, machine, notes]
    for threads in sorted({row.threads for row in record.rows}):
        title = _threads(threads)
        sections += [f"## {title}", _limits(record, threads), _table(record, threads, fastest)]
        sections += [f"### Geometric means, {title}", _means(record, threads, fastest)]
    if record.failures:
        sections += ["## Failed", "\n".join(_failures(record))]
    return "\n\n".join(sections) + "\n"


def summary(record: Record, fastest: bool = False) -> str:
    """A few lines for the terminal: what is slowest beside its peer."""
    rows = sorted(record.rows, key=lambda row: row.ratio(fastest))[:5]
    lines = [f"{row.ratio(fastest):.2f}x  {row.case}, {row.pass_name}, {row.peer}, {_threads(row.threads)}" for row in rows]
    return "\n".join(["lowest ratios:", *lines])


def geometric_mean(values: Iterable[float]) -> float:
    """Geometric mean of ratios."""
    return statistics.geometric_mean(list(values))


def time_text(ns: float) -> str:
    """Nanoseconds with a unit and three digits or so."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.{2 if ns < 10 * size else 1}f} {unit}"
    return f"{ns:.0f} ns"


def _by_key(record: Record, threads: int) -> dict[Key, dict[str, Row]]:
    """Rows of the same work by the setting of the allocator."""
    found: dict[Key, dict[str, Row]] = defaultdict(dict)
    for row in record.rows:
        if row.threads == threads:
            found[row.key][row.allocator] = row
    return found


def _limits(record: Record, threads: int) -> str:
    own = [one for one in record.limits if one.threads == threads]
    return "\n".join(
        f"* allocator {one.allocator}: multiply-add peak {one.peak_gflops:,.0f} GFLOP/s, copy {one.copy_gbytes:.1f} GB/s"
        for one in own
    )


def _table(record: Record, threads: int, fastest: bool) -> str:
    lines, settings = [], _settings(record)
    for (_, case, name, peer), rows in _by_key(record, threads).items():
        one = next(rows[setting] for setting in settings if setting in rows)
        share = one.share(record.limits_of(threads, one.allocator), fastest)
        cells = [cell for setting in settings for cell in _times(rows.get(setting), fastest)]
        rest = ["" if share is None else f"{share:.0%}", "" if one.allocations is None else str(one.allocations)]
        lines.append([case, name, peer, *cells, *rest])
    times = [what + SETTINGS[setting] for setting in settings for what in ("ours", "peer's", "ratio")]
    return markdown_table(["case", "pass", "peer", *times, "share", "allocations"], lines, words=3)


def _settings(record: Record) -> list[str]:
    """The settings of the allocator that were measured."""
    return [setting for setting in SETTINGS if any(row.allocator == setting for row in record.rows)]


def _times(row: Row | None, fastest: bool) -> list[str]:
    """Ours, the peer's, and the ratio."""
    if row is None:
        return ["", "", ""]
    which = "fastest" if fastest else "median"
    return [time_text(row.ours[which]), time_text(row.theirs[which]), f"{row.ratio(fastest):.2f}"]


def _means(record: Record, threads: int, fastest: bool) -> str:
    groups: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in record.rows:
        if row.threads == threads:
            groups[row.group, row.peer][row.allocator].append(row.ratio(fastest))
    lines, settings = [], _settings(record)
    for (group, peer), ratios in groups.items():
        count = max(map(len, ratios.values()))
        cells = [f"{figure(ratios[s]):.2f}" if ratios[s] else "" for s in settings for figure in (geometric_mean, min)]
        lines.append([group, peer, str(count), *cells])
    figures = [what + SETTINGS[setting] for setting in settings for what in ("mean", "lowest")]
    return markdown_table(["group", "peer", "rows", *figures], lines, words=2)


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def _failures(record: Record) -> list[str]:
    return [f"* {f.case}, {f.pass_name}, {_threads(f.threads)}, allocator {f.allocator}: {f.failed}" for f in record.failures]

"""What was measured, as data and as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Key = tuple[str, str, str, str]  # group, case, pass, peer
SHARED_FROM = 64e6
"""Bytes to move from which on the share of the copy bandwidth says something: fewer may lie in a cache."""


@dataclass(frozen=True)
class Limits:
    """What a process found that the machine can do: GFLOP/s, and GB/s of copying (read and written)."""

    threads: int
    allocator: str
    peak_gflops: float
    copy_gbytes: float


@dataclass(frozen=True)
class Row:
    """One pass of a case against one peer, in one process.

    ``ours`` and ``theirs`` hold nanoseconds of a call: median, low, high (quartiles) and fastest round. ``error`` is the
    largest difference between the sides, relative to the largest value.
    """

    threads: int
    allocator: str
    group: str
    case: str
    pass_name: str
    peer: str
    ours: dict[str, float]
    theirs: dict[str, float]
    flops: float
    nbytes: float
    allocations: int | None
    error: float

    @property
    def key(self) -> Key:
        """What is the same in every process."""
        return self.group, self.case, self.pass_name, self.peer

    def ratio(self, fastest: bool = False) -> float:
        """The peer's time over ours."""
        which = "fastest" if fastest else "median"
        return self.theirs[which] / self.ours[which]

    def share(self, limits: Limits, fastest: bool = False) -> float | None:
        """Share of the multiply-add peak, or of the copy bandwidth where nothing is multiplied."""
        ns = self.ours["fastest" if fastest else "median"]
        if self.flops:
            return self.flops / ns / limits.peak_gflops
        return self.nbytes / ns / limits.copy_gbytes if self.nbytes >= SHARED_FROM else None


@dataclass(frozen=True)
class Failure:
    """A pass without figures, and why."""

    threads: int
    allocator: str
    group: str
    case: str
    pass_name: str
    failed: str


@dataclass
class Record:
    """All of one run."""

    quick: bool = False
    machine: dict[str, Any] = field(default_factory=dict)
    limits: list[Limits] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def add_limits(self, found: Limits) -> None:
        """Keep the best that a process found: on a busy machine a single look finds less."""
        known = [one for one in self.limits if (one.threads, one.allocator) == (found.threads, found.allocator)]
        best = {name: max(getattr(one, name) for one in (found, *known)) for name in ("peak_gflops", "copy_gbytes")}
        self.limits = [one for one in self.limits if one not in known] + [dataclasses.replace(found, **best)]

    def limits_of(self, threads: int, allocator: str) -> Limits:
        """The limits that a process found."""
        return next(one for one in self.limits if (one.threads, one.allocator) == (threads, allocator))


def save(record: Record, path: Path) -> None:
    """Write a record as JSON, a row to a line."""
    content = dataclasses.asdict(record)
    lists = {name: content.pop(name) for name in ("limits", "rows", "failures")}
    head = json.dumps(content, indent=1)[:-2]
    parts = [f' "{name}": [\n  ' + ",\n  ".join(map(json.dumps, rows)) + "\n ]" for name, rows in lists.items()]
    path.write_text(head + ",\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def load(path: Path) -> Record:
    """Read what `save` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    kinds = {"limits": Limits, "rows": Row, "failures": Failure}
    lists = {name: [kind(**one) for one in content.pop(name)] for name, kind in kinds.items()}
    return Record(**content, **lists)

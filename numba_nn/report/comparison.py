"""The rows of the layer report: before, after and current, beside the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from numba_nn.report.history import Figures, Run
from numba_nn.report.measuring.cases import Case, Reference


def ratio(part: float | None, whole: float | None) -> float | None:
    """``part / whole``; None if either is missing, or the whole is 0."""
    return part / whole if part is not None and whole else None


def change(current: float | None, earlier: float | None) -> float | None:
    """What was added since, as a share: -0.5 is half the time."""
    quotient = ratio(current, earlier)
    return None if quotient is None else quotient - 1


@dataclass(frozen=True)
class Row:
    """One pass of one case.

    Attributes
    ----------
    family, case, name : str
        What is measured; ``name`` is the pass.
    in_reference : bool
        Whether the reference measures it, with a figure or without.
    reference : Reference
        Its figures.
    before, after, current : Figures or None
        Ours; None where a revision has none.
    """

    family: str
    case: str
    name: str
    in_reference: bool
    reference: Reference
    before: Figures | None
    after: Figures | None
    current: Figures | None

    @property
    def speedup(self) -> float | None:
        """How many times faster than the reference on all threads."""
        return ratio(self.reference.ns, self.current.ns if self.current else None)

    def changes(self, figure: str = "ns") -> tuple[float | None, float | None]:
        """What a figure has changed by since before, and since after."""
        before, after, current = (getattr(f, figure) if f else None for f in (self.before, self.after, self.current))
        return change(current, before), change(current, after)

    def to_json(self) -> dict[str, Any]:
        """All figures, with what follows from them."""
        ours = {"before": self.before, "after": self.after, "current": self.current}
        figures = {name: asdict(f) if f else None for name, f in ours.items()}
        since_before, since_after = self.changes()
        return {
            "family": self.family, "case": self.case, "pass": self.name, **figures,
            "change_since_before": since_before, "change_since_after": since_after,
            "reference": self.reference._asdict() if self.in_reference else None, "speedup": self.speedup,
        }  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """A run beside what it is compared with; ``before`` and ``after`` are the runs that figures come from."""

    current: Run
    before: list[Run]
    after: list[Run]
    against: bool
    rows: list[Row]

    def to_json(self) -> dict[str, Any]:
        """The report as data: names of the revisions, and the rows."""
        sources = {"before": self.before, "after": self.after, "current": [self.current]}
        names = {word: [run.revision for run in runs] for word, runs in sources.items()}
        return {**names, "rows": [row.to_json() for row in self.rows]}


def compare(current: Run, earlier: Sequence[Run], cases: Sequence[Case], against: Run | None = None) -> Comparison:
    """Put a run beside the earlier ones.

    Parameters
    ----------
    current : Run
        The run.
    earlier : sequence of Run
        The record, oldest first; runs that are not comparable are passed over.
    cases : sequence of Case
        What becomes rows, in this order.
    against : Run, optional
        What stands in the place of *before*; the first run that has the row, if not given.

    Returns
    -------
    Comparison
        Rows, and the runs that their figures come from.
    """
    alike = [run for run in earlier if run.comparable(current)]
    rows, before, after = [], [], []
    for case in cases:
        for name in case.passes:
            key = (case.name, name)
            having = [run for run in alike if key in run.figures]
            first, last = [against] if against else having[:1], having[-1:]
            figures = [runs[0].figures.get(key) if runs else None for runs in (first, last, [current])]
            reference = (case.reference or {}).get(name, Reference())
            rows.append(Row(case.family, case.name, name, case.reference is not None, reference, *figures))
            before += [run for run in first if run not in before]
            after += [run for run in last if run not in after]
    return Comparison(current, before, after, against is not None, rows)

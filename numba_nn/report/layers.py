"""The layer report: every layer by itself, forward and backward, before, after and now, beside the reference.

Another revision is measured in the same run: two processes, one for each, take turns at every case.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numba_nn.config import machine
from numba_nn.core.errors import ReportError
from numba_nn.report.comparison import Comparison, compare
from numba_nn.report.history import Figures, Run, load_runs, replace_text, save_runs
from numba_nn.report.layers_markdown import render, summary
from numba_nn.report.measuring.cases import CASES, Case
from numba_nn.report.revisions import ROOT, Worker, checked_out, current_revision

BATCHES, QUICK_BATCHES = 40, 3
NAME = "layer_report"


@dataclass(frozen=True)
class Options:
    """What a run was asked for.

    Attributes
    ----------
    against : str or None
        The revision that stands as *before*; what the record began with, if None.
    quick : bool
        Few batches: to see that all runs, and roughly how fast.
    only : str
        A regular expression; cases in whose name it is found, in upper or lower case, are measured.
    output : Path or None
        Folder of the record and the report; if None, the report is printed and nothing is kept.
    """

    against: str | None = None
    quick: bool = False
    only: str = ""
    output: Path | None = None


def run(options: Options) -> Comparison:
    """Measure, compare, and write or print the report.

    Parameters
    ----------
    options : Options
        What was asked for.

    Returns
    -------
    Comparison
        What was reported.

    Raises
    ------
    ReportError
        If no case is meant, the record is damaged, or the other revision cannot be had; nothing is written.
    OSError
        If the folder cannot be written.
    """
    chosen = [case for case in CASES if re.search(options.only, case.name, re.IGNORECASE)]
    if not chosen:
        raise ReportError(f"no case matches {options.only!r}; there are: {'; '.join(case.name for case in CASES)}")
    earlier: list[Run] = []
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)  # before minutes of work
        earlier = load_runs(options.output / f"{NAME}.json")
    current, against = measure(chosen, options.against, options.quick)
    comparison = compare(current, earlier, chosen, against)
    if options.output is None:
        print(render(comparison))
        return comparison
    save_runs(options.output / f"{NAME}.json", [*earlier, current], comparison.to_json())
    replace_text(options.output / f"{NAME}.md", render(comparison))
    print("\n".join(["", *summary(comparison), "", f"{options.output / NAME}.md and .json are written"]))
    return comparison


def measure(cases: Sequence[Case], against: str | None = None, quick: bool = False) -> tuple[Run, Run | None]:
    """The figures of this revision, and of the other one if there is one.

    Parameters
    ----------
    cases : sequence of Case
        Some of `CASES`.
    against : str, optional
        The other revision.
    quick : bool, optional
        Few batches.

    Returns
    -------
    current : Run
        This revision's.
    against : Run or None
        The other's.
    """
    with ExitStack() as stack:
        revisions = [(current_revision(), ROOT)]
        if against is not None:
            revisions.append(stack.enter_context(checked_out(against)))
        runs = [Run(name, machine(), quick, {}, {}) for name, _ in revisions]
        workers = [stack.enter_context(Worker(folder)) for _, folder in revisions]
        _tell("", "", [one.revision for one in runs])
        for case in cases:
            for one, worker in zip(runs, workers, strict=True):
                _enter(one, case, worker.measure(CASES.index(case), QUICK_BATCHES if quick else BATCHES))
            for name in case.passes:
                figures = [one.figures.get((case.name, name)) for one in runs]
                _tell(case.name, name, ["n/a" if f is None else f"{f.ns:,.0f} ns" for f in figures])
    return runs[0], runs[1] if against is not None else None


def _enter(one: Run, case: Case, answer: dict[str, Any]) -> None:
    if "missing" in answer:
        one.missing[case.name] = answer["missing"]
        return
    for name, figures in answer.items():
        one.figures[case.name, name] = Figures(**figures)


def _tell(case: str, name: str, cells: Sequence[str]) -> None:
    """Progress, on stderr: stdout may be the report."""
    print(f"{case:<40} {name:<9}" + "".join(f"{cell:>20}" for cell in cells), file=sys.stderr, flush=True)

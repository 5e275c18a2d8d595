"""The record of the layer report: every run's figures, in one file of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numba_nn.core.errors import ReportError

FORMAT, VERSION = "numba_nn layer report", 1

Key = tuple[str, str]
"""A case's name, and its pass."""


@dataclass(frozen=True)
class Figures:
    """One pass of one case: of a call, nanoseconds on all threads and on one, allocations, and bytes of NumPy's.

    ``spread`` is half the distance of the quartiles of ``ns``, as a share of it.
    """

    ns: float
    ns_one_thread: float
    spread: float
    allocations: int
    nbytes: int


@dataclass(frozen=True)
class Run:
    """The figures of one revision on one machine; ``missing`` says of cases why there are none."""

    revision: str
    machine: dict[str, Any]
    quick: bool
    figures: dict[Key, Figures]
    missing: dict[str, str]

    def comparable(self, other: Run) -> bool:
        """Whether times mean the same: one CPU, as many threads, and no quick look beside a measurement."""
        same = all(self.machine.get(name) == other.machine.get(name) for name in ("cpu", "threads"))
        return same and self.quick == other.quick

    def to_json(self) -> dict[str, Any]:
        """The run as `from_json` reads it."""
        rows = [{"case": case, "pass": name, **asdict(figures)} for (case, name), figures in self.figures.items()]
        return {"revision": self.revision, "machine": self.machine, "quick": self.quick, "rows": rows, "missing": self.missing}

    @staticmethod
    def from_json(content: dict[str, Any]) -> Run:
        """The run that `to_json` gave; KeyError, TypeError or ValueError for anything else."""
        figures = {
            (str(row["case"]), str(row["pass"])): Figures(
                float(row["ns"]), float(row["ns_one_thread"]), float(row["spread"]), int(row["allocations"]), int(row["nbytes"])
            )
            for row in content["rows"]
        }
        machine, missing = dict(content["machine"]), dict(content["missing"])
        return Run(str(content["revision"]), machine, bool(content["quick"]), figures, missing)


def load_runs(path: Path) -> list[Run]:
    """The runs on record, oldest first; none if there is no file.

    Parameters
    ----------
    path : Path
        The record.

    Returns
    -------
    list of Run
        What `save_runs` was given.

    Raises
    ------
    ReportError
        If the file is damaged, or is something else.
    """
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (content["format"], content["version"]) != (FORMAT, VERSION):
            raise ValueError(f"format {content['format']!r}, version {content['version']!r}")
        return [Run.from_json(run) for run in content["runs"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ReportError(
            f"{path} is damaged or no layer report, and stays as it is ({what}); move it away to begin anew"
        ) from None


def save_runs(path: Path, runs: Sequence[Run], report: dict[str, Any]) -> None:
    """Write the runs, oldest first, and the newest one's report: the whole file or nothing."""
    content = {"format": FORMAT, "version": VERSION, "report": report, "runs": [run.to_json() for run in runs]}
    replace_text(path, json.dumps(content, indent=1) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Write a file by way of another, so that an interrupt leaves the old one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)

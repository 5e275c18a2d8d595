"""The command: sections that stand each alone, so that the first failure does not hide what comes after it."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numba_nn.gpu_check import correctness, environment, operations, speed

TRACE = 1500  # characters of a traceback that are kept: its end names the fault


class Checks:
    """Runs sections one after the other, and keeps what they found.

    Parameters
    ----------
    only : str, optional
        Regular expression: names of the sections to run.
    output : path, optional
        A file for the results, which is written after every section, as the next one may take the process along.

    Attributes
    ----------
    results : dict
        What each section returned, or its error.
    failures : list of str
        Names of the sections that failed.
    """

    def __init__(self, only: str = "", output: Path | None = None) -> None:
        self._only, self._output = re.compile(only), output
        self.results: dict[str, Any] = {}
        self.failures: list[str] = []

    def run(self, name: str, section: Callable[[], dict[str, Any]]) -> None:
        """Run a section, unless its name is not asked for; it fails if it raises, or returns a true "failed"."""
        if not self._only.search(name):
            return
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)  # a training step that could not be recorded as a graph
                found = section()
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()[-TRACE:]}
        self.results[name] = found
        if found.get("failed"):
            self.failures.append(name)
        outcome = "FAILED" if found.get("failed") else "ok"
        print(f"{name}: {outcome} in {time.perf_counter() - start:.1f} s", flush=True)
        for key, value in found.items():
            print(f"    {key}: {value}", flush=True)
        if self._output:
            self._output.parent.mkdir(parents=True, exist_ok=True)
            self._output.write_text(json.dumps(self.results, indent=1, default=str) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check this machine's GPU.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line's by default.

    Returns
    -------
    int
        0 if all is well, else 1.
    """
    parser = argparse.ArgumentParser(prog="python -m numba_nn.gpu_check", description="Check numba_nn on this machine's GPU.")
    parser.add_argument("--output", type=Path, help="file for the figures, as JSON")
    parser.add_argument("--only", default="", metavar="REGEX", help="run the sections whose names match")
    parser.add_argument("--cases", metavar="MODULE", help="with CASES to compare last, such as tests.cases in a clone")
    parser.add_argument("--quick", action="store_true", help="small sizes and few repetitions: figures mean nothing")
    given = parser.parse_args(arguments)
    checks = Checks(given.only, given.output)
    checks.run("environment", environment.versions)
    checks.run("preflight", environment.preflight)
    for case in correctness.CASES:
        checks.run(f"correct: {case.name}", case.compare)
    for operation in operations.CASES:
        checks.run(f"correct: ops, {operation}", operation.compare)
    checks.run("sanitizer", environment.sanitizer)
    for name, section in speed.sections(quick=given.quick).items():
        checks.run(f"speed: {name}", section)
    for configuration in importlib.import_module(given.cases).CASES if given.cases else ():
        checks.run(f"contract: {configuration}", correctness.ContractCase(configuration).compare)
    done = len(checks.results)
    print(f"{done - len(checks.failures)} of {done} sections passed" + "".join(f"\n  failed: {n}" for n in checks.failures))
    return 1 if checks.failures else 0


if __name__ == "__main__":
    sys.exit(main())

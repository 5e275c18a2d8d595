"""The command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from numba_nn.gpu_check.checks import Checks, Worker
from numba_nn.gpu_check.report import summary

PLAN = "numba_nn.gpu_check.sections"


def main(arguments: Sequence[str] | None = None, plan: str = PLAN) -> int:
    """Check this machine's GPU.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line's by default.
    plan : str, optional
        Module of the sections, for `numba_nn.gpu_check.worker`.

    Returns
    -------
    int
        0 if all is well, else 1.
    """
    parser = argparse.ArgumentParser(prog="python -m numba_nn.gpu_check", description="Check numba_nn on this machine's GPU.")
    parser.add_argument("--output", type=Path, help="file for the figures, as JSON; by default gpu_check_DATE_CARD.json here")
    parser.add_argument("--only", default="", metavar="REGEX", help="run the sections whose names match, and the preflight")
    parser.add_argument("--cases", metavar="MODULE", help="with CASES to compare; by default tests.cases, where it is")
    parser.add_argument("--quick", action="store_true", help="small sizes and few repetitions: figures mean nothing")
    given = parser.parse_args(arguments)
    checks = Checks(given.only, given.output)
    with Worker(plan, {"quick": given.quick, "cases": given.cases}) as worker:
        checks.run(worker)
    print(f"\n{summary(checks.results)}\n\n{checks.output.resolve()}")
    return 1 if checks.failures else 0


if __name__ == "__main__":
    sys.exit(main())

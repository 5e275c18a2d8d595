"""A process that measures: one setting of the allocator, one number of threads. Answers are lines of JSON.

The first line describes the machine. Each line after it holds the machine's limits, measured anew for every group of cases, or
a row, or why there is none.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import onnxruntime
import torch

import numba_nn as nn
from numba_nn.config import machine
from numba_nn.report.measuring.allocations import allocations

from .cases import CASES
from .clock import QUICK, Pace, Timing, time_work
from .limits import measure_limits
from .work import Case, Side, Work, check

TOUCHED = 2**28  # float32: 1 GB


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    nn.set_num_threads(options.threads)
    pace = Pace(threads=options.threads > 1, **(QUICK if options.quick else {}))
    _answer(described())
    torch.empty(TOUCHED).fill_(0)  # an allocator that keeps memory has these pages from now on
    gc.disable()
    for group, cases in itertools.groupby(chosen(options.only, options.quick), key=lambda item: item[0].group):
        _answer(measure_limits(5))
        for case, name, prepare in cases:
            for row in measure(prepare, pace):
                _answer({"group": group, "case": case.name, "pass_name": name, **row})
            gc.collect()


def described() -> dict[str, Any]:
    """What figures depend on, but for the threads."""
    versions = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    return {**{name: value for name, value in machine().items() if name != "threads"}, **versions}


def chosen(only: str, quick: bool) -> list[tuple[Case, str, Callable[[], Work]]]:
    """Every pass in whose case and name the expression is found."""
    return [
        (case, name, prepare)
        for case in CASES
        if not (quick and case.large)
        for name, prepare in case.passes.items()
        if re.search(only, f"{case.name}, {name}", re.IGNORECASE)
    ]


def measure(prepare: Callable[[], Work], pace: Pace) -> list[dict[str, Any]]:
    """A row for every peer; or one that tells what went wrong."""
    try:
        work = prepare()
        error = check(work)
        ours, *theirs = time_work(work, pace)
        count = allocations(work.ours.call).blocks if work.here else None
    except Exception as failure:
        return [{"failed": f"{type(failure).__name__}: {failure}"}]
    common = {"ours": ours._asdict(), "flops": work.flops, "nbytes": work.nbytes, "allocations": count, "error": error}
    return [_row(peer, timing, common) for peer, timing in zip(work.peers, theirs, strict=True)]


def _row(peer: Side, timing: Timing, common: dict[str, Any]) -> dict[str, Any]:
    return {"peer": peer.name, **common, "theirs": timing._asdict()}


def _answer(content: dict[str, Any]) -> None:
    print(json.dumps(content), flush=True)


if __name__ == "__main__":
    main()

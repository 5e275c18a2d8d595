"""A process that measures the ``numba_nn`` that it finds: requests come in and answers go out as lines of JSON.

{"case": 3, "batches": 40}  ->  {"forward": {"ns": ..., ...}, "backward": {...}}  or  {"missing": "why"}
"""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import Any

import numba

from .allocations import allocations
from .cases import CASES, Pass, Prepare
from .clock import time_pass


def serve() -> None:
    """Tell which ``numba_nn`` this is and on how many threads, then answer until the input ends."""
    import numba_nn

    _answer({"file": numba_nn.__file__, "threads": numba.config.NUMBA_NUM_THREADS})
    try:
        for line in sys.stdin:
            request = json.loads(line)
            _answer(measure_case(numba_nn, CASES[request["case"]].prepare, request["batches"]))
    except KeyboardInterrupt:  # of the whole process group; whoever asked says so
        pass


def _answer(content: dict[str, Any]) -> None:
    print(json.dumps(content), flush=True)


def measure_case(nn: ModuleType, prepare: Prepare, batches: int) -> dict[str, Any]:
    """Figures of every pass, or why there are none: this revision lacks the layer, or cannot run it."""
    try:
        return {name: measure_pass(measured, batches) for name, measured in prepare(nn).items()}
    except NotImplementedError as error:
        return {"missing": str(error)}
    except Exception as error:
        return {"missing": f"{type(error).__name__}: {error}"}


def measure_pass(measured: Pass, batches: int) -> dict[str, Any]:
    """Time on all threads and on one, and what a call allocates once everything is warm."""
    most = numba.config.NUMBA_NUM_THREADS
    try:
        numba.set_num_threads(1)
        _run(measured)
        ns_one_thread, _ = time_pass(measured, batches)
        numba.set_num_threads(most)
        _run(measured)
        ns, spread = time_pass(measured, batches)
    finally:
        numba.set_num_threads(most)
    if measured.before:
        measured.before()
    count = allocations(measured.call)
    return {
        "ns": ns, "ns_one_thread": ns_one_thread, "spread": spread / ns, "allocations": count.blocks, "nbytes": count.nbytes
    }  # fmt: skip


def _run(measured: Pass) -> None:
    """Once, for what only a first call does."""
    if measured.before:
        measured.before()
    measured.call()

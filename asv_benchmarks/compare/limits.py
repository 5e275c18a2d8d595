"""What this machine can do at best, measured in the same process as all else: multiply-adds, and copying."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, prange

from numba_nn.core.peak import measure_peak

ELEMENTS = 2**24  # of float32: 64 MB, more than a cache holds


@njit(parallel=True)
def copy(y: Any, x: Any) -> None:
    """y = x, on all threads."""
    for i in prange(x.size):
        y[i] = x[i]


def measure_limits(rounds: int) -> dict[str, float]:
    """The multiply-add peak in GFLOP/s, and the copy bandwidth in GB/s (read and written), of the better of two copies."""
    x, y = np.ones(ELEMENTS, np.float32), np.zeros(ELEMENTS, np.float32)
    fastest = min(_seconds(lambda: copy(y, x), rounds), _seconds(lambda: np.copyto(y, x), rounds))
    return {"peak_gflops": measure_peak(rounds=rounds), "copy_gbytes": 2 * x.nbytes / fastest / 1e9}


def _seconds(call: Callable[[], Any], rounds: int) -> float:
    call()  # compiles, maps the pages
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)

"""Time of a call: medians over batches that are long against the clock."""

from __future__ import annotations

import gc
import statistics
from contextlib import contextmanager
from time import perf_counter_ns
from typing import TYPE_CHECKING

from .cases import Pass

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH_NS = 1_000_000


def time_pass(measured: Pass, batches: int) -> tuple[float, float]:
    """Nanoseconds of a call: the median over batches of at least a millisecond each, and half the quartiles' distance.

    Where something runs before every call, each call is timed by itself, and the clock's own time is taken off.
    """
    calls = 1
    with _no_collection():
        while (ns := _batch(measured, calls)) * calls < BATCH_NS:
            calls = max(2 * calls, min(int(BATCH_NS / max(ns, 1.0)) + 1, 8 * calls))
        samples = [_batch(measured, calls) for _ in range(batches)]
    low, middle, high = statistics.quantiles(samples, n=4)
    return middle, (high - low) / 2


def _batch(measured: Pass, calls: int) -> float:
    """Mean nanoseconds of a call."""
    call, before = measured
    if before is None:
        start = perf_counter_ns()
        for _ in range(calls):
            call()
        return (perf_counter_ns() - start) / calls
    total = 0
    for _ in range(calls):
        before()
        start = perf_counter_ns()
        call()
        total += perf_counter_ns() - start
    return max(total / calls - _clock_ns(), 1.0)


def _clock_ns() -> float:
    """What the clock itself puts between two readings."""
    return statistics.median(-perf_counter_ns() + perf_counter_ns() for _ in range(9))


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection while this lasts."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

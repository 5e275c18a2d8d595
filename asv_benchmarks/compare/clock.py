"""Times of several calls against each other: in rounds, each a short burst of every call."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, NamedTuple

from .work import Side, Work

LOOK = 12e-3  # seconds between two looks at the time that this process has computed, which Linux counts in ticks of 4 ms


class Timing(NamedTuple):
    """Nanoseconds of a call: the median over rounds, the quartiles, and the fastest round."""

    median: float
    low: float
    high: float
    fastest: float


@dataclass(frozen=True)
class Pace:
    """How long it is measured; with ``threads``, every burst waits until the threads of the side before it sleep."""

    rounds: int = 15
    least_rounds: int = 5
    burst: float = 4e-3
    enough: float = 1.0
    threads: bool = False


QUICK = {"rounds": 5, "least_rounds": 3, "burst": 1e-3, "enough": 0.2}


def time_work(work: Work, pace: Pace) -> list[Timing]:
    """Timings of ours and of every peer, after `check`; rounds end early where one takes long (``enough`` seconds in all)."""
    sides = [work.ours, *work.peers]
    calls = [1 if work.pause else _calls_of(side, pace.burst) for side in sides]
    samples: list[list[float]] = [[] for _ in sides]
    start = time.perf_counter()
    for done in range(pace.rounds):
        if done >= pace.least_rounds and time.perf_counter() - start > pace.enough:
            break
        for side, count, times in zip(sides, calls, samples, strict=True):
            time.sleep(work.pause)
            times.append(_burst(side, count, warm=count > 1 or (pace.threads and not work.pause)))
            if pace.threads:
                wait_until_idle()
    return [_timing(times) for times in samples]


def wait_until_idle(most: float = 0.5) -> None:
    """Wait until no thread of this process computes, ``most`` seconds at the most.

    Idle threads of a library spin before they sleep: ours 5 ms, PyTorch's 7, onnxruntime's 25 on an Intel Xeon.
    """
    end = time.perf_counter() + most
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(LOOK)
        if time.process_time() - before < LOOK / 4:
            return


def _calls_of(side: Side, burst: float) -> int:
    """How many calls take about ``burst`` seconds."""
    count = 1  # after a call that wakes the threads, which may take milliseconds
    while (ns := _burst(side, count, warm=count == 1)) * count < burst * 5e8:
        count = max(2 * count, min(int(burst * 1e9 / max(ns, 1.0)), 16 * count))
    return max(1, min(count, round(burst * 1e9 / ns)))


def _burst(side: Side, count: int, warm: bool) -> float:
    """Mean nanoseconds of a call; with ``warm``, one more call before them brings caches and threads back."""
    call: Any = side.call
    with side.around():
        if warm:
            call()
        start = perf_counter_ns()
        for _ in range(count):
            call()
        return (perf_counter_ns() - start) / count


def _timing(times: Sequence[float]) -> Timing:
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(median, low, high, min(times))

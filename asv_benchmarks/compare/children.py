"""Starts the processes that measure, and collects what they tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .record import Failure, Limits, Record, Row

ROOT = Path(__file__).resolve().parents[2]
ALLOCATORS: dict[str, dict[str, str]] = {
    "installed": {},
    "kept": {
        "MALLOC_MMAP_THRESHOLD_": str(2**32),
        "MALLOC_TRIM_THRESHOLD_": str(2**35),
        "MALLOC_TOP_PAD_": str(2**28),
    },
}
"""Name of a setting to glibc's variables. As installed, every large array of PyTorch is mapped and unmapped anew."""
SPINNING = {"OPENBLAS_THREAD_TIMEOUT": "22"}
"""After 2^22 ticks, about 2 ms, idle threads of NumPy's OpenBLAS sleep; else they hold a core for more than 40 ms."""
THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def measure(threads: list[int], allocators: list[str], only: str, quick: bool) -> Record:
    """Measure in a process for each number of threads and each setting of the allocator, one after the other."""
    record = Record(quick=quick)
    for count in threads:
        for allocator in allocators:
            print(f"\n== {count} thread{'s' * (count > 1)}, allocator {allocator}", file=sys.stderr)
            _collect(record, count, allocator, _answers(count, allocator, only, quick))
    return record


def _collect(record: Record, threads: int, allocator: str, answers: Iterator[dict[str, Any]]) -> None:
    where = {"threads": threads, "allocator": allocator}
    record.machine = next(answers)
    for answer in answers:
        if "peak_gflops" in answer:
            record.add_limits(Limits(**where, **answer))
            continue
        if "failed" in answer:
            record.failures.append(Failure(**where, **answer))
            print(f"{answer['case']:<60} {answer['pass_name']:<18} {answer['failed']}", file=sys.stderr)
            continue
        row = Row(**where, **answer)
        record.rows.append(row)
        print(f"{row.case:<60} {row.pass_name:<18} {row.peer:<15} {row.ratio():6.2f}x", file=sys.stderr)


def _answers(threads: int, allocator: str, only: str, quick: bool) -> Iterator[dict[str, Any]]:
    """The lines of a worker."""
    environment = {**os.environ, **dict.fromkeys(THREADS, str(threads)), **SPINNING, **ALLOCATORS[allocator]}
    command = [sys.executable, "-m", "asv_benchmarks.compare.worker", "--threads", str(threads), "--only", only]
    with subprocess.Popen(
        [*command, *["--quick"] * quick], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        assert process.stdout is not None
        yield from map(json.loads, process.stdout)
    if process.returncode:
        raise SystemExit(f"compare: the process that measures ended with {process.returncode}")

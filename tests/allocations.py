"""Watches on what a call allocates: NumPy data, and the memory of Numba's runtime."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numba.core.runtime import _nrt_python, rtsys

TRANSIENT = 16_896  # bytes of Python objects that a call may make and drop; arrays of larger cases exceed it
# The most, 16,078, takes a first call of an LSTM of two layers and directions: views of their arrays.


@contextmanager
def no_array_data() -> Iterator[None]:
    """Fails if NumPy data is allocated inside and kept, or much memory is allocated and dropped."""
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        yield
        peak = tracemalloc.get_traced_memory()[1] - before
        snapshot = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    filters = [tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)]
    assert [str(t) for t in snapshot.filter_traces(filters).traces] == []
    assert peak < TRANSIENT


def runtime_allocations(run: Callable[[], object]) -> int:
    """How often Numba's runtime allocates in a call: once for every array that it is passed, and for what is made inside."""
    _nrt_python.memsys_enable_stats()
    try:
        before = rtsys.get_allocation_stats().alloc
        run()
        return rtsys.get_allocation_stats().alloc - before
    finally:
        _nrt_python.memsys_disable_stats()


@contextmanager
def no_runtime_memory() -> Iterator[None]:
    """Fails if Numba's runtime allocates anything, even the box that it makes elsewhere of every array that it is passed."""
    _nrt_python.memsys_enable_stats()
    try:
        before = rtsys.get_allocation_stats()
        yield
        after = rtsys.get_allocation_stats()
    finally:
        _nrt_python.memsys_disable_stats()
    assert after == before

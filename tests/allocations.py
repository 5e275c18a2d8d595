"""Watches on what a call allocates: NumPy data, and the memory of Numba's runtime."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from numba.core.runtime import _nrt_python, rtsys

from numba_nn.core.kernel import Variant

TRANSIENT = 16_384  # bytes of Python objects that a call may make and drop; arrays of larger cases exceed it


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


@contextmanager
def one_box_per_array_argument(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails if Numba's runtime allocates more than a box for every array that is passed to a kernel."""
    boxes = 0
    original = Variant.__call__

    def counting(self, *arguments):
        nonlocal boxes
        boxes += sum(isinstance(a, np.ndarray) for a in arguments)
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Variant, "__call__", counting)
        _nrt_python.memsys_enable_stats()
        before = rtsys.get_allocation_stats()
        yield
        after = rtsys.get_allocation_stats()
        _nrt_python.memsys_disable_stats()
    assert 0 < after.mi_alloc - before.mi_alloc <= boxes
    assert after.alloc - before.alloc <= boxes
    assert after.free - before.free == after.alloc - before.alloc

"""What a call allocates: data of NumPy arrays, freed or not, and blocks of Numba's runtime.

NumPy: its allocator is replaced by one that counts (NEP 49). `tracemalloc` would see only what is still alive afterwards.
Numba: its runtime counts. Kernels are compiled without it; other compiled functions make a box of every array argument.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from numba.core.runtime import _nrt_python as runtime
from numpy._core import multiarray

POINTER, SIZE = ctypes.c_void_p, ctypes.c_size_t
# PYFUNCTYPE: with the GIL held, which NumPy's functions rely on.
MALLOC = ctypes.PYFUNCTYPE(POINTER, POINTER, SIZE)
CALLOC = ctypes.PYFUNCTYPE(POINTER, POINTER, SIZE, SIZE)
REALLOC = ctypes.PYFUNCTYPE(POINTER, POINTER, POINTER, SIZE)
SET_HANDLER, GET_HANDLER = 304, 305  # in the table of NumPy's C interface


class Handler(ctypes.Structure):
    """``PyDataMem_Handler``."""

    _fields_ = [
        ("name", ctypes.c_char * 127), ("version", ctypes.c_uint8),
        ("context", POINTER), ("malloc", MALLOC), ("calloc", CALLOC), ("realloc", REALLOC), ("free", POINTER),
    ]  # fmt: skip


@dataclass
class Count:
    """Allocations, and the bytes of those that NumPy made."""

    blocks: int = 0
    nbytes: int = 0

    def add(self, nbytes: int) -> None:
        """Count one more."""
        self.blocks += 1
        self.nbytes += nbytes


def _capsule_pointer(capsule: Any, name: bytes | None) -> int:
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = POINTER, (ctypes.py_object, ctypes.c_char_p)
    return get_pointer(capsule, name)


def _numpy_function(index: int, *argument_types: Any) -> Callable[..., Any]:
    table = ctypes.cast(_capsule_pointer(multiarray._ARRAY_API, None), ctypes.POINTER(POINTER))
    return ctypes.PYFUNCTYPE(ctypes.py_object, *argument_types)(table[index])


_count = Count()


@functools.cache
def _counting_handler() -> tuple[Any, Any]:
    """NumPy's own handler, with ears: as a capsule, and what must live on, since arrays keep the handler that made them."""
    own = Handler.from_address(_capsule_pointer(_numpy_function(GET_HANDLER)(), b"mem_handler"))

    def malloc(context: Any, size: int) -> Any:
        _count.add(size)
        return own.malloc(context, size)

    def calloc(context: Any, count: int, size: int) -> Any:
        _count.add(count * size)
        return own.calloc(context, count, size)

    def realloc(context: Any, old: Any, size: int) -> Any:
        _count.add(size)
        return own.realloc(context, old, size)

    ears = Handler(b"counting", 1, own.context, MALLOC(malloc), CALLOC(calloc), REALLOC(realloc), own.free)
    new_capsule = ctypes.pythonapi.PyCapsule_New
    new_capsule.restype, new_capsule.argtypes = ctypes.py_object, (POINTER, ctypes.c_char_p, POINTER)
    return new_capsule(ctypes.addressof(ears), b"mem_handler", None), ears


@contextmanager
def _numpy_counted() -> Iterator[None]:
    set_handler = _numpy_function(SET_HANDLER, ctypes.py_object)
    before = set_handler(_counting_handler()[0])
    try:
        yield
    finally:
        set_handler(before)


@contextmanager
def counted() -> Iterator[Count]:
    """What is allocated while this lasts; the count is there when it is over."""
    result, was_counting = Count(), runtime.memsys_stats_enabled()
    runtime.memsys_enable_stats()
    _count.blocks = _count.nbytes = 0
    try:
        with _numpy_counted():
            before = runtime.memsys_get_stats_alloc()
            yield result
            numba_blocks = runtime.memsys_get_stats_alloc() - before
        result.blocks, result.nbytes = _count.blocks + numba_blocks, _count.nbytes
    finally:
        if not was_counting:
            runtime.memsys_disable_stats()


def allocations(call: Callable[[], Any]) -> Count:
    """Count what a call allocates; it should have been called before, so that nothing is left to compile or to reserve."""
    with counted() as count:
        call()
    return count

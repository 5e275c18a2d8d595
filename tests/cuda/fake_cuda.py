"""The module ``cuda`` as a simulated thread sees it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from lanes import WARP, alike, meet
from numba.core import types
from numba.np import numpy_support

FULL = 0xFFFFFFFF


class Dim3(NamedTuple):
    """CUDA's x, y, z."""

    x: int
    y: int
    z: int

    @classmethod
    def of(cls, shape: int | tuple[int, ...]) -> Dim3:
        """Of a grid or a block; what is not given is 1."""
        given = tuple(shape) if isinstance(shape, tuple) else (shape,)
        return cls(*map(int, given), *(1,) * (3 - len(given)))

    def points(self) -> list[Dim3]:
        """All indices, x the fastest."""
        return [Dim3(x, y, z) for z in range(self.z) for y in range(self.y) for x in range(self.x)]


class Guarded(np.ndarray):
    """An array that refuses negative indices, as a compiled kernel would read what lies before it."""

    def __getitem__(self, key: Any) -> Any:
        _check(key)
        return _get(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _check(key)
        _set(self, key, value)


class GuardedNarrow(Guarded):
    """An array of 16-bit floats, which are float32 to those that read and write them, like `NarrowArray`."""

    dtype = property(lambda self: np.dtype(np.float32))

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return found if isinstance(found, np.ndarray) else np.float32(found)


_get, _set = np.ndarray.__getitem__, np.ndarray.__setitem__


def _check(key: Any) -> None:
    try:
        negative = (min(key) if key.__class__ is tuple else key) < 0
    except TypeError:  # slices
        negative = any(k < 0 for k in (key if isinstance(key, tuple) else (key,)) if not isinstance(k, slice))
    if negative:
        raise IndexError(f"negative index {key}")


def guarded(argument: Any) -> Any:
    """An argument as a kernel gets it: whole numbers have 64 bits, also those of a tuple."""
    if isinstance(argument, tuple):
        return tuple(map(guarded, argument))
    if isinstance(argument, int):
        return np.int64(argument)
    return argument.view(Guarded) if isinstance(argument, np.ndarray) else argument


def poisoned(shape: Any, dtype: Any) -> np.ndarray:
    """An array of NaN, or of the largest integer: as the bits of a float16 or bfloat16, NaN too."""
    kind = np.dtype(numpy_support.as_dtype(dtype) if isinstance(dtype, types.Type) else dtype)
    value = np.nan if kind.kind == "f" else True if kind.kind == "b" else np.iinfo(kind).max
    return np.full(shape, value, kind)


class Shared:
    """``cuda.shared`` of one block: an array belongs to the place in the code that asks for it."""

    def __init__(self) -> None:
        self.arrays: dict[Any, Guarded] = {}

    def array(self, shape: Any, dtype: Any, alignment: int | None = None) -> Guarded:
        """The block's array of this place; the first thread that comes here finds it poisoned."""
        frame = sys._getframe(1)
        place = frame.f_code, frame.f_lasti
        if place not in self.arrays:
            self.arrays[place] = guarded(poisoned(shape, dtype))
        return self.arrays[place]


def _shuffled(name: str, source: Callable[[int, int], int]) -> Callable[..., Any]:
    """A shuffle: a lane gets what lane ``source(lane, by)`` brought; beyond the warp its own, from a lane not there poison."""

    def answers(brought: dict[int, Any]) -> dict[int, Any]:
        got = {}
        for lane, (value, by) in brought.items():
            other = source(lane, int(by))
            got[lane] = value if not 0 <= other < WARP else brought[other][0] if other in brought else _poison(value)
        return got

    answers.__name__ = name
    return lambda mask, value, by: meet(answers, (value, by), mask)


def _poison(value: Any) -> Any:
    return poisoned((), np.asarray(value).dtype)[()]


def _nothing(brought: list[Any]) -> None:
    """A barrier."""


def _ballot(brought: dict[int, Any]) -> dict[int, int]:
    return dict.fromkeys(brought, sum(1 << lane for lane, vote in brought.items() if vote))


BARRIER, COUNT, ALL, ANY = map(alike, (_nothing, lambda v: sum(map(bool, v)), lambda v: int(all(v)), lambda v: int(any(v))))


class FakeCuda:
    """``cuda`` in one launch; `simulator.launch` sets the block's and the thread's index before a thread runs."""

    warpsize = WARP

    def __init__(self, grid: Dim3, block: Dim3) -> None:
        self.gridDim, self.blockDim = grid, block
        self.blockIdx = self.threadIdx = Dim3(0, 0, 0)
        self.shared = Shared()
        self.local = SimpleNamespace(array=poisoned)

    def _first(self, ndim: int, values: tuple[int, ...]) -> Any:
        return values[0] if ndim == 1 else values[:ndim]

    def grid(self, ndim: int) -> Any:
        """Index of this thread in the grid."""
        where = zip(self.blockIdx, self.blockDim, self.threadIdx, strict=True)
        return self._first(ndim, tuple(b * size + t for b, size, t in where))

    def gridsize(self, ndim: int) -> Any:
        """Number of threads in the grid."""
        return self._first(ndim, tuple(b * t for b, t in zip(self.gridDim, self.blockDim, strict=True)))

    @property
    def laneid(self) -> int:
        """Number of this thread in its warp."""
        size, at = self.blockDim, self.threadIdx
        return (at.x + size.x * (at.y + size.y * at.z)) % WARP

    syncthreads = staticmethod(lambda: meet(BARRIER))
    syncthreads_count = staticmethod(lambda vote: meet(COUNT, vote))
    syncthreads_and = staticmethod(lambda vote: meet(ALL, vote))
    syncthreads_or = staticmethod(lambda vote: meet(ANY, vote))
    syncwarp = staticmethod(lambda mask=FULL: meet(BARRIER, None, mask))
    all_sync = staticmethod(lambda mask, vote: meet(ALL, vote, mask))
    any_sync = staticmethod(lambda mask, vote: meet(ANY, vote, mask))
    ballot_sync = staticmethod(lambda mask, vote: meet(_ballot, vote, mask))
    shfl_sync = staticmethod(_shuffled("shfl_sync", lambda lane, source: source % WARP))
    shfl_up_sync = staticmethod(_shuffled("shfl_up_sync", lambda lane, by: lane - by))
    shfl_down_sync = staticmethod(_shuffled("shfl_down_sync", lambda lane, by: lane + by))
    shfl_xor_sync = staticmethod(_shuffled("shfl_xor_sync", lambda lane, by: lane ^ by))
    fma = staticmethod(lambda a, b, c: type(a)(math.fma(a, b, c) if hasattr(math, "fma") else np.float64(a) * b + c))
    popc = staticmethod(lambda x: int(x).bit_count())

    def __getattr__(self, name: str) -> Any:
        raise NotImplementedError(f"cuda.{name} is not simulated")


SPEAKING = frozenset(name for name in vars(FakeCuda) if "sync" in name) | {"shared"}
"""Attributes of ``cuda`` that make threads of a block depend on each other."""

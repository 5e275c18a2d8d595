"""What compiled helpers and intrinsics compute, in NumPy: the simulator runs these in their place."""

from __future__ import annotations

import math
from ctypes import c_char
from typing import Any

import ml_dtypes
import numpy as np
from fake_cuda import GuardedNarrow
from scipy import special

from numba_nn.core import address, vmath
from numba_nn.core.cuda import narrow
from numba_nn.core.each import each, each_ahead, each_far

Number = np.floating[Any]


def _rounded(function: Any) -> Any:
    """Computed in float64, rounded to the type of the argument."""

    def twin(x: Number) -> Number:
        with np.errstate(all="ignore"):
            return type(x)(function(np.float64(x)))

    return twin


def part_at(address: int, start: int, stop: int, like: np.ndarray) -> np.ndarray:
    """A part of a device array by its address: simulated ones lie in host memory."""
    size, itemsize = int(stop - start), like.dtype.itemsize
    memory = (c_char * (size * itemsize)).from_address(int(address) + int(start) * itemsize)
    return np.frombuffer(memory, like.dtype) if size else np.empty(0, like.dtype)


def _each(function: Any, target: Any, sources: Any, far: bool = False) -> None:
    first, *others = target if isinstance(target, tuple) else (target,)
    for i in range(first.size):
        first[i] = function(*(source[i] if isinstance(source, np.ndarray) else source for source in sources))
    for other in others:
        other[...] = first[: other.size]


def _reader(dtype: Any) -> Any:
    return lambda bits: np.ndarray.view(bits, dtype).view(GuardedNarrow)


HOST_TWINS: dict[Any, Any] = {
    narrow.as_float16: _reader(np.float16),
    narrow.as_bfloat16: _reader(ml_dtypes.bfloat16),
    address.part_at: part_at,
    each: _each,
    each_far: _each,
    each_ahead: _each,
    vmath.constant: lambda x, value: type(x)(value),
    vmath.number: lambda x, single, double: type(x)(single if isinstance(x, np.float32) else double),
    vmath.multiply_add: lambda a, b, c: type(a)(np.float64(a) * np.float64(b) + np.float64(c)),
    vmath.polynomial: lambda x, single, double: np.polynomial.polynomial.polyval(
        x, np.array(single if isinstance(x, np.float32) else double, type(x))
    ),
    vmath.exp: _rounded(np.exp),
    vmath.exp_below: _rounded(np.exp),
    vmath.expm1: _rounded(np.expm1),
    vmath.log: _rounded(np.log),
    vmath.tanh: _rounded(np.tanh),
    vmath.sigmoid: _rounded(lambda x: 1 / (1 + np.exp(-x))),
    vmath.erf: _rounded(special.erf),
}
"""Function or intrinsic to what stands for it."""

PYTHON_MATH: dict[Any, Any] = {
    name: _rounded(getattr(np, name)) for name in ("exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tanh")
}


class Math:
    """The module ``math``, in the precision of its arguments."""

    def __getattr__(self, name: str) -> Any:
        return PYTHON_MATH.get(name) or getattr(math, name)

"""Functions of one array, element by element: `UnaryFunction` objects.

Kernels take flat arrays; y may be the operand. They run over fixed blocks: a vector loop of a transcendental function and its
remainder may differ in the last bit. Large results pass by the caches.
"""

from __future__ import annotations

import math
from typing import Any

from numba import prange

from numba_nn.core.call import Array
from numba_nn.core.checks import is_destination
from numba_nn.core.device import CPU, device_of
from numba_nn.core.each import each_far, is_far
from numba_nn.core.kernel import In, Kernel, Out, inlined, portable
from numba_nn.core.reduce import block_bounds, block_count
from numba_nn.core.vmath import exp as exponential
from numba_nn.core.vmath import log as logarithm
from numba_nn.core.vmath import sigmoid as logistic
from numba_nn.core.vmath import tanh as hyperbolic_tangent
from numba_nn.core.workspace import thread_workspace
from numba_nn.ops.function import Function, is_plain


@inlined
def opposite(a):
    """-a."""
    return -a


@inlined
def magnitude(a):
    """|a|."""
    return abs(a)


@inlined
def squared(a):
    """a^2."""
    return a * a


@inlined
def root(a):
    """The square root of a."""
    return math.sqrt(a)


@portable
def negative_forward(y: Out, a: In):
    """y = -a."""
    far = is_far(y)
    for block in prange(block_count(y.size)):
        start, stop = block_bounds(block, y.size)
        each_far(opposite, y[start:stop], (a[start:stop],), far)


@portable
def absolute_forward(y: Out, a: In):
    """y = |a|."""
    far = is_far(y)
    for block in prange(block_count(y.size)):
        start, stop = block_bounds(block, y.size)
        each_far(magnitude, y[start:stop], (a[start:stop],), far)


@portable
def square_forward(y: Out, a: In):
    """y = a^2."""
    far = is_far(y)
    for block in prange(block_count(y.size)):
        start, stop = block_bounds(block, y.size)
        each_far(squared, y[start:stop], (a[start:stop],), far)


@portable
def sqrt_forward(y: Out, a: In):
    """y = the square root of a."""
    far = is_far(y)
    for block in prange(block_count(y.size)):
        start, stop = block_bounds(block, y.size)
        each_far(root, y[start:stop], (a[start:stop],), far)


@portable
def exp_forward(y: Out, a: In):
    """y = e^a."""
    far = is_far(y)
    for block in prange(block_count(y.size)):
        start, stop = block_bounds(block, y.size)
        each_far(exponential, y[start:stop], (a[start:stop],), far)


@portable
def log_forward(y: Out, a: In):
    """y = the natural logarithm of a."""
    far = is_far(y)
    for block in prange(block_count(y.size)):
        start, stop = block_bounds(block, y.size)
        each_far(logarithm, y[start:stop], (a[start:stop],), far)


@portable
def hyperbolic_tangent_forward(y: Out, a: In):
    """y = tanh(a)."""
    far = is_far(y)
    for block in prange(block_count(y.size)):
        start, stop = block_bounds(block, y.size)
        each_far(hyperbolic_tangent, y[start:stop], (a[start:stop],), far)


@portable
def logistic_forward(y: Out, a: In):
    """y = 1 / (1 + e^-a)."""
    far = is_far(y)
    for block in prange(block_count(y.size)):
        start, stop = block_bounds(block, y.size)
        each_far(logistic, y[start:stop], (a[start:stop],), far)


class UnaryFunction(Function):
    """A function of one array.

    Parameters
    ----------
    name : str
        Its name in `numba_nn.ops`.
    run : Kernel
        (y, a), flat arrays.
    formula : str
        What it computes.
    """

    def __init__(self, name: str, run: Kernel, formula: str) -> None:
        super().__init__(name, formula)
        self._run = run

    def __call__(self, a: Array, *, out: Array | None = None) -> Array:
        """Compute every element.

        Parameters
        ----------
        a : ndarray or device array
            float32 or float64; on a GPU also of 16 bits.
        out : ndarray or device array, optional
            Where to write the result: C-contiguous; ``a`` itself, or apart from it.

        Returns
        -------
        ndarray or device array
            ``out`` itself, or a fresh array.

        Raises
        ------
        ShapeError, DTypeError, DestinationError
            If an array does not fit; nothing was written.
        DeviceError
            If ``out`` lives on another device than ``a``.
        """
        plain = is_plain(a)
        device = CPU if plain else device_of(a)
        x = a if plain else self._checked("a", a, None, device)
        y: Any = out
        if out is None:
            y = device.empty(x.shape, x.dtype)
        elif not (plain and (out is a or is_destination(out, a.shape, a.dtype, a))):
            y = self._destination(out, x.shape, x.dtype, device, *(() if out is a else (x,)))
        if y.size:
            x = x if plain else thread_workspace(device).contiguous("a", x)
            self._run.for_work(y.size, device)(y.ravel(), x.ravel())
        return y if out is None else out


negative = UnaryFunction("negative", negative_forward, "-a")
absolute = UnaryFunction("absolute", absolute_forward, "|a|")
square = UnaryFunction("square", square_forward, "a^2")
sqrt = UnaryFunction("sqrt", sqrt_forward, "square root of a")
exp = UnaryFunction("exp", exp_forward, "e^a")
log = UnaryFunction("log", log_forward, "natural logarithm of a")
tanh = UnaryFunction("tanh", hyperbolic_tangent_forward, "hyperbolic tangent of a")
sigmoid = UnaryFunction("sigmoid", logistic_forward, "1 / (1 + e^-a)")

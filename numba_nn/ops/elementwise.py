"""Functions of arrays, element by element: `UnaryFunction` and `BinaryFunction` objects, called as NumPy's ufuncs are.

Kernels take flat arrays; y may be an operand. Those with a transcendental function run over fixed blocks: a vector loop and its
remainder may differ in the last bit.
"""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import numpy as np
from numba import prange
from numpy import ndarray

from numba_nn.core.call import Array
from numba_nn.core.checks import FLOATS, is_destination
from numba_nn.core.device import CPU, Device, device_of
from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.core.kernel import In, Kernel, Out, portable
from numba_nn.core.reduce import block_bounds, block_count
from numba_nn.core.vmath import exp as exponential
from numba_nn.core.vmath import log as logarithm
from numba_nn.core.vmath import sigmoid as logistic
from numba_nn.core.vmath import tanh as hyperbolic_tangent
from numba_nn.core.workspace import thread_workspace
from numba_nn.layers.merge import add_forward, multiply_forward
from numba_nn.ops.broadcast import ADD, DIVIDE, MAXIMUM, MINIMUM, MULTIPLY, SUBTRACT, combine_rows, dimensions
from numba_nn.ops.function import Function


@portable
def subtract_forward(y: Out, a: In, b: In):
    """y = a - b."""
    for i in prange(y.size):
        y[i] = a[i] - b[i]


@portable
def divide_forward(y: Out, a: In, b: In):
    """y = a / b."""
    for i in prange(y.size):
        y[i] = a[i] / b[i]


@portable
def maximum_forward(y: Out, a: In, b: In):
    """y = the larger of a and b; NaN if either is."""
    for i in prange(y.size):
        y[i] = a[i] if (a[i] > b[i]) | (a[i] != a[i]) else b[i]


@portable
def minimum_forward(y: Out, a: In, b: In):
    """y = the smaller of a and b; NaN if either is."""
    for i in prange(y.size):
        y[i] = a[i] if (a[i] < b[i]) | (a[i] != a[i]) else b[i]


@portable
def negative_forward(y: Out, a: In):
    """y = -a."""
    for i in prange(y.size):
        y[i] = -a[i]


@portable
def absolute_forward(y: Out, a: In):
    """y = |a|."""
    for i in prange(y.size):
        y[i] = abs(a[i])


@portable
def square_forward(y: Out, a: In):
    """y = a^2."""
    for i in prange(y.size):
        y[i] = a[i] * a[i]


@portable
def sqrt_forward(y: Out, a: In):
    """y = the square root of a."""
    for i in prange(y.size):
        y[i] = math.sqrt(a[i])


@portable
def exp_forward(y: Out, a: In):
    """y = e^a."""
    for block in prange(block_count(a.size)):
        start, stop = block_bounds(block, a.size)
        source, target = a[start:stop], y[start:stop]
        for i in range(source.size):
            target[i] = exponential(source[i])


@portable
def log_forward(y: Out, a: In):
    """y = the natural logarithm of a."""
    for block in prange(block_count(a.size)):
        start, stop = block_bounds(block, a.size)
        source, target = a[start:stop], y[start:stop]
        for i in range(source.size):
            target[i] = logarithm(source[i])


@portable
def hyperbolic_tangent_forward(y: Out, a: In):
    """y = tanh(a)."""
    for block in prange(block_count(a.size)):
        start, stop = block_bounds(block, a.size)
        source, target = a[start:stop], y[start:stop]
        for i in range(source.size):
            target[i] = hyperbolic_tangent(source[i])


@portable
def logistic_forward(y: Out, a: In):
    """y = 1 / (1 + e^-a)."""
    for block in prange(block_count(a.size)):
        start, stop = block_bounds(block, a.size)
        source, target = a[start:stop], y[start:stop]
        for i in range(source.size):
            target[i] = logistic(source[i])


@portable
def fill_forward(y: Out, value: float):
    """y = value."""
    for i in prange(y.size):
        y[i] = value


NUMBERS = (int, float, np.number)


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
        if is_plain(a) and (out is None or is_free(out, a)):
            y = np.empty_like(a) if out is None else out
            self._run.for_work(y.size)(y.ravel(), a.ravel())
            return y
        device = device_of(a)
        x = self._checked("a", a, None, device)
        y = self._destination(out, x.shape, x.dtype, device, *(() if out is a else (x,)))
        if y.size:
            x = thread_workspace(device).contiguous("a", x)
            self._run.for_work(y.size, device)(y.ravel(), x.ravel())
        return y if out is None else out


class BinaryFunction(Function):
    """A function of two arrays.

    Parameters
    ----------
    name : str
        Its name in `numba_nn.ops`.
    run : Kernel
        (y, a, b), flat arrays.
    formula : str
        What it computes.
    code : int
        Its number in `numba_nn.ops.broadcast`.
    """

    def __init__(self, name: str, run: Kernel, formula: str, code: int) -> None:
        super().__init__(name, formula)
        self._run, self._code = run, code

    def __call__(self, a: Array | float, b: Array | float, *, out: Array | None = None) -> Array:
        """Compute every element.

        Parameters
        ----------
        a, b : ndarray, device array or float
            Of one dtype and on one device, at least one an array; shapes broadcast as NumPy's do.
        out : ndarray or device array, optional
            Where to write the result: C-contiguous; an operand itself, or apart from both.

        Returns
        -------
        ndarray or device array
            ``out`` itself, or a fresh array.

        Raises
        ------
        ArgumentError
            If neither is an array.
        ShapeError, DTypeError, DestinationError
            If an array does not fit; nothing was written.
        DeviceError
            If arrays live on different devices.
        """
        one: Any = a
        other: Any = b
        device: Device = CPU
        if not (is_plain(a) and is_plain(b) and a.dtype is b.dtype):
            one, other, device = self._accept(a, b)
        elif a.shape == b.shape and (out is None or (is_free(out, a) and is_free(out, b))):
            y = np.empty_like(a) if out is None else out
            self._run.for_work(y.size)(y.ravel(), a.ravel(), b.ravel())
            return y
        try:
            shape, length, dims = dimensions(one.shape, other.shape, device)
        except ValueError:
            raise ShapeError(f"{self.__name__}: shapes {one.shape} and {other.shape} do not broadcast") from None
        apart = [x for x, given in ((one, a), (other, b)) if given is not out]
        y = self._destination(out, shape, one.dtype, device, *apart)
        if y.size:
            workspace = thread_workspace(device)
            one, other = workspace.contiguous("a", one), workspace.contiguous("b", other)
            if one.size == other.size == y.size:
                self._run.for_work(y.size, device)(y.ravel(), one.ravel(), other.ravel())
            else:
                rows = y.reshape(y.size // length, length)
                combine_rows.for_work(y.size, device)(rows, one.ravel(), other.ravel(), dims, self._code)
        return y if out is None else out

    def _accept(self, a: Any, b: Any) -> tuple[Array, Array, Device]:
        """The operands as checked arrays, a number as an array of no dimension; and where they live."""
        if is_number(a):
            if is_number(b):
                raise ArgumentError(f"{self.__name__}: a or b must be an array, got {a!r} and {b!r}")
            device = device_of(b)
            b = self._checked("b", b, None, device)
            return number(a, b.dtype, device), b, device
        device = device_of(a)
        a = self._checked("a", a, None, device)
        return a, number(b, a.dtype, device) if is_number(b) else self._checked("b", b, a.dtype, device), device


def is_number(given: Any) -> bool:
    """Whether an operand is a number: of Python's or NumPy's."""
    return type(given) is not ndarray and isinstance(given, NUMBERS)


def is_plain(a: Any) -> TypeGuard[Array]:
    """Whether an operand needs no further look: one of NumPy's arrays of floats, in order. It takes 0.1 us."""
    return type(a) is ndarray and a.dtype in FLOATS and a.flags.carray


def is_free(out: Any, a: Array) -> bool:
    """Whether ``out`` is the operand itself, or memory of its own for as much, as far as can be seen in 0.2 us."""
    return out is a or is_destination(out, a.shape, a.dtype, a)


def number(value: float, dtype: Any, device: Device) -> Array:
    """A number as an array of no dimension, until the next call."""
    room = thread_workspace(device).array("number", (1,), dtype)
    fill_forward.for_work(1, device)(room, float(value))
    return room.reshape(())


add = BinaryFunction("add", add_forward, "a + b", ADD)
subtract = BinaryFunction("subtract", subtract_forward, "a - b", SUBTRACT)
multiply = BinaryFunction("multiply", multiply_forward, "a b", MULTIPLY)
divide = BinaryFunction("divide", divide_forward, "a / b", DIVIDE)
maximum = BinaryFunction("maximum", maximum_forward, "the larger of a and b; NaN if either is", MAXIMUM)
minimum = BinaryFunction("minimum", minimum_forward, "the smaller of a and b; NaN if either is", MINIMUM)
negative = UnaryFunction("negative", negative_forward, "-a")
absolute = UnaryFunction("absolute", absolute_forward, "|a|")
square = UnaryFunction("square", square_forward, "a^2")
sqrt = UnaryFunction("sqrt", sqrt_forward, "square root of a")
exp = UnaryFunction("exp", exp_forward, "e^a")
log = UnaryFunction("log", log_forward, "natural logarithm of a")
tanh = UnaryFunction("tanh", hyperbolic_tangent_forward, "hyperbolic tangent of a")
sigmoid = UnaryFunction("sigmoid", logistic_forward, "1 / (1 + e^-a)")

"""Functions of arrays, element by element: `Elementwise` objects, called as NumPy's ufuncs are.

Kernels take flat arrays; y may be an operand. Those with a transcendental function run over fixed blocks: a vector loop and its
remainder may differ in the last bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange
from numpy import ndarray

from numba_nn.core.call import Array
from numba_nn.core.checks import FLOATS, check_array, check_destination, is_destination
from numba_nn.core.device import Device, device_of
from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.core.kernel import In, Kernel, Out, portable
from numba_nn.core.reduce import block_bounds, block_count
from numba_nn.core.vmath import exp as exponential
from numba_nn.core.vmath import log as logarithm
from numba_nn.core.vmath import sigmoid as logistic
from numba_nn.core.vmath import tanh as hyperbolic_tangent
from numba_nn.core.workspace import Shape, Workspace, thread_workspace
from numba_nn.layers.merge import add_forward, multiply_forward


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
OPERANDS = ("operand 0", "operand 1")


class Elementwise:
    """A function of one or two arrays, element by element.

    Parameters
    ----------
    name : str
        Its name in `numba_nn.ops`.
    run : Kernel
        (y, a) or (y, a, b).
    formula : str
        What it computes.
    """

    def __init__(self, name: str, run: Kernel, formula: str) -> None:
        self.__name__ = name
        self.__doc__ = f"{name}: {formula}. See `numba_nn.ops.elementwise.Elementwise.__call__` for the arguments."
        self._run = run
        self._count = run.py_func.__code__.co_argcount - 1  # roles would cost 0.4 ms at import

    def __repr__(self) -> str:
        return f"<elementwise {self.__name__}>"

    def __call__(self, *operands: Any, out: Array | None = None) -> Array:
        """Compute every element.

        Parameters
        ----------
        *operands : ndarray, device array or float
            One or two, of one dtype and on one device, at least one an array; shapes broadcast as NumPy's do.
        out : ndarray or device array, optional
            Where to write the result: C-contiguous; an operand itself, or apart from all.

        Returns
        -------
        ndarray or device array
            ``out`` itself, or a fresh array.

        Raises
        ------
        ArgumentError
            If the number of operands is wrong.
        ShapeError, DTypeError, DestinationError
            If an array does not fit; nothing was written.
        DeviceError
            If arrays live on different devices.
        """
        if len(operands) == self._count and are_plain(operands[0], operands[-1], out):
            y = out = np.empty_like(operands[0]) if out is None else out
            self._run.for_work(y.size)(y.ravel(), *[a.ravel() for a in operands])
            return out
        arrays, device = self._accept(operands)
        shape, dtype = self._result(arrays)
        if out is None:
            y = out = device.empty(shape, dtype)
        else:
            y = device.accept(out)
            pairs = zip(arrays, operands, strict=True)
            apart = [a for a, given in pairs if given is not out and type(a) is not float]
            check_destination(self.__name__, "out", y, shape, dtype, *apart, device=device)
        if y.size:
            workspace = thread_workspace(device)
            flat = [_flat(workspace, name, a, y) for name, a in zip(OPERANDS, arrays, strict=False)]
            self._run.for_work(y.size, device)(y.reshape(y.size), *flat)
        return out

    def _accept(self, operands: tuple[Any, ...]) -> tuple[list[Any], Device]:
        """The operands, checked, numbers as float; and where they live."""
        if len(operands) != self._count:
            raise ArgumentError(f"{self.__name__}: expected {self._count} operands, got {len(operands)}")
        arrays: list[Any] = []
        device = dtype = None
        for name, a in zip(OPERANDS, operands, strict=False):
            if type(a) is not ndarray and isinstance(a, NUMBERS):
                arrays.append(float(a))
                continue
            device = device or device_of(a)
            arrays.append(device.accept(a))
            check_array(self.__name__, name, arrays[-1], dtype, device)
            dtype = arrays[-1].dtype
        if device is None:
            raise ArgumentError(f"{self.__name__}: at least one operand must be an array, got {operands!r}")
        return arrays, device

    def _result(self, operands: list[Any]) -> tuple[Shape, Any]:
        """Shape and dtype of the result."""
        arrays = [a for a in operands if type(a) is not float]
        shape, dtype = arrays[0].shape, arrays[0].dtype
        if shape == arrays[-1].shape:  # NumPy allocates to find this out
            return shape, dtype
        try:
            return np.broadcast_shapes(*(a.shape for a in arrays)), dtype
        except ValueError:
            shapes = " and ".join(str(a.shape) for a in arrays)
            raise ShapeError(f"{self.__name__}: shapes {shapes} do not broadcast") from None


def are_plain(a: Any, b: Any, out: Any) -> bool:
    """Whether two operands and a destination, if there is one, need no further look: it takes 0.4 us.

    They are arrays of NumPy's of one shape and float dtype, in order, and ``out`` is one of them or memory of its own.
    """
    if type(a) is not ndarray or type(b) is not ndarray or a.dtype is not b.dtype or a.dtype not in FLOATS:
        return False
    shape, dtype = a.shape, a.dtype
    if b.shape != shape or not (a.flags.carray and b.flags.carray):
        return False
    if out is None:
        return True
    return (out is a or is_destination(out, shape, dtype, a)) and (out is b or is_destination(out, shape, dtype, b))


def _flat(workspace: Workspace, name: str, operand: Any, like: Array) -> Array:
    """All elements in order, as many as ``like`` has; in memory of their own where the operand is strided or repeated."""
    if type(operand) is float:
        return filled(workspace, name, like, operand)
    array = workspace.contiguous(name, operand)
    if array.shape != like.shape:
        repeated = workspace.array(f"{name}, repeated", like.shape, like.dtype)
        workspace.device.copy(repeated, array)
        array = repeated
    return array.reshape(like.size)


def filled(workspace: Workspace, name: str, like: Array, value: float) -> Array:
    """The named buffer as a flat array with as many elements as another, all of one value."""
    room = workspace.array(name, (like.size,), like.dtype)
    fill_forward.for_work(room.size, workspace.device)(room, value)
    return room


add = Elementwise("add", add_forward, "a + b")
subtract = Elementwise("subtract", subtract_forward, "a - b")
multiply = Elementwise("multiply", multiply_forward, "a b")
divide = Elementwise("divide", divide_forward, "a / b")
maximum = Elementwise("maximum", maximum_forward, "the larger of a and b; NaN if either is")
minimum = Elementwise("minimum", minimum_forward, "the smaller of a and b; NaN if either is")
negative = Elementwise("negative", negative_forward, "-a")
absolute = Elementwise("absolute", absolute_forward, "|a|")
square = Elementwise("square", square_forward, "a^2")
sqrt = Elementwise("sqrt", sqrt_forward, "square root of a")
exp = Elementwise("exp", exp_forward, "e^a")
log = Elementwise("log", log_forward, "natural logarithm of a")
tanh = Elementwise("tanh", hyperbolic_tangent_forward, "hyperbolic tangent of a")
sigmoid = Elementwise("sigmoid", logistic_forward, "1 / (1 + e^-a)")

"""Functions of arrays, element by element: `Elementwise` objects, called as NumPy's ufuncs are.

Kernels take flat arrays; y may be an operand. Those with a transcendental function run over fixed blocks: a vector loop and its
remainder may differ in the last bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core import vmath
from numba_nn.core.call import Array
from numba_nn.core.checks import check_array, check_destination
from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.core.kernel import In, Kernel, Out, kernel
from numba_nn.core.reduce import block_bounds, block_count
from numba_nn.core.workspace import Shape, Workspace, thread_workspace
from numba_nn.layers.merge import add_forward, multiply_forward


@kernel
def subtract_forward(y: Out, a: In, b: In):
    """y = a - b."""
    for i in prange(y.size):
        y[i] = a[i] - b[i]


@kernel
def divide_forward(y: Out, a: In, b: In):
    """y = a / b."""
    for i in prange(y.size):
        y[i] = a[i] / b[i]


@kernel
def maximum_forward(y: Out, a: In, b: In):
    """y = the larger of a and b; NaN if either is."""
    for i in prange(y.size):
        y[i] = a[i] if (a[i] > b[i]) | (a[i] != a[i]) else b[i]


@kernel
def minimum_forward(y: Out, a: In, b: In):
    """y = the smaller of a and b; NaN if either is."""
    for i in prange(y.size):
        y[i] = a[i] if (a[i] < b[i]) | (a[i] != a[i]) else b[i]


@kernel
def negative_forward(y: Out, a: In):
    """y = -a."""
    for i in prange(y.size):
        y[i] = -a[i]


@kernel
def absolute_forward(y: Out, a: In):
    """y = |a|."""
    for i in prange(y.size):
        y[i] = abs(a[i])


@kernel
def square_forward(y: Out, a: In):
    """y = a^2."""
    for i in prange(y.size):
        y[i] = a[i] * a[i]


@kernel
def sqrt_forward(y: Out, a: In):
    """y = the square root of a."""
    for i in prange(y.size):
        y[i] = math.sqrt(a[i])


@kernel
def exp_forward(y: Out, a: In):
    """y = e^a."""
    for block in prange(block_count(a.size)):
        start, stop = block_bounds(block, a.size)
        source, target = a[start:stop], y[start:stop]
        for i in range(source.size):
            target[i] = vmath.exp(source[i])


@kernel
def log_forward(y: Out, a: In):
    """y = the natural logarithm of a."""
    for block in prange(block_count(a.size)):
        start, stop = block_bounds(block, a.size)
        source, target = a[start:stop], y[start:stop]
        for i in range(source.size):
            target[i] = vmath.log(source[i])


@kernel
def hyperbolic_tangent_forward(y: Out, a: In):
    """y = tanh(a)."""
    for block in prange(block_count(a.size)):
        start, stop = block_bounds(block, a.size)
        source, target = a[start:stop], y[start:stop]
        for i in range(source.size):
            target[i] = vmath.tanh(source[i])


@kernel
def logistic_forward(y: Out, a: In):
    """y = 1 / (1 + e^-a)."""
    for block in prange(block_count(a.size)):
        start, stop = block_bounds(block, a.size)
        source, target = a[start:stop], y[start:stop]
        for i in range(source.size):
            target[i] = vmath.sigmoid(source[i])


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
        *operands : ndarray or float
            One or two, of one dtype, at least one an array; shapes broadcast as NumPy's do.
        out : ndarray, optional
            Where to write the result: C-contiguous; an operand itself, or apart from all.

        Returns
        -------
        ndarray
            ``out`` itself, or a fresh array.

        Raises
        ------
        ArgumentError
            If the number of operands is wrong.
        ShapeError, DTypeError, DestinationError
            If an array does not fit; nothing was written.
        """
        arrays = self._arrays(operands)
        shape = self._shape(arrays)
        if out is None:
            out = np.empty(shape, arrays[0].dtype)
        else:
            check_destination(self.__name__, "out", out, shape, arrays[0].dtype, *[a for a in arrays if a is not out])
        workspace = thread_workspace()
        flat = [_flat(workspace, OPERANDS[i], a, shape) for i, a in enumerate(arrays)]
        self._run.for_work(out.size)(out.ravel(), *flat)
        return out

    def _arrays(self, operands: tuple[Any, ...]) -> list[Array]:
        if len(operands) != self._count:
            raise ArgumentError(f"{self.__name__}: expected {self._count} operands, got {len(operands)}")
        arrays = [a for a in operands if isinstance(a, np.ndarray) or not isinstance(a, NUMBERS)]
        if not arrays:
            raise ArgumentError(f"{self.__name__}: at least one operand must be an array, got {operands!r}")
        for name, a in zip(OPERANDS, operands, strict=False):
            if isinstance(a, np.ndarray) or not isinstance(a, NUMBERS):
                check_array(self.__name__, name, a, None if a is arrays[0] else arrays[0].dtype)
        return [a if isinstance(a, np.ndarray) else np.asarray(a, arrays[0].dtype) for a in operands]

    def _shape(self, arrays: list[Array]) -> Shape:
        if arrays[0].shape == arrays[-1].shape:  # NumPy allocates to find this out
            return arrays[0].shape
        try:
            return np.broadcast_shapes(*(a.shape for a in arrays))
        except ValueError:
            shapes = " and ".join(str(a.shape) for a in arrays)
            raise ShapeError(f"{self.__name__}: shapes {shapes} do not broadcast") from None


def _flat(workspace: Workspace, name: str, array: Array, shape: Shape) -> Array:
    """All elements in order; copied where the array is strided or must be repeated."""
    if array.shape != shape or not array.flags.c_contiguous:
        copy = workspace.array(name, shape, array.dtype)
        np.copyto(copy, array)
        array = copy
    return array.ravel()


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

"""Functions of two arrays, element by element: `BinaryFunction` objects.

Each has two kernels: of flat arrays, y may be an operand; and for operands that are repeated (`numba_nn.ops.broadcast`).
"""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
from numba import prange
from numpy import ndarray

from numba_nn.core.call import Array
from numba_nn.core.checks import is_destination
from numba_nn.core.cuda.portable import covering_windows
from numba_nn.core.device import CPU, Device, device_of
from numba_nn.core.each import each_far, is_far
from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.core.kernel import In, Kernel, Out, exact, inlined, kernel, portable
from numba_nn.core.reduce import block_bounds, block_count
from numba_nn.core.workspace import Shape, thread_workspace
from numba_nn.layers.merge import add_forward, multiply_forward, product, total
from numba_nn.ops.broadcast import combine_rows, combine_windows, dimensions, row_tasks
from numba_nn.ops.function import Function, is_plain


@inlined
def difference(a, b):
    """a - b."""
    return a - b


@exact
def quotient(a, b):
    """a / b, not a times 1 / b."""
    return a / b


@inlined
def larger(a, b):
    """The larger of a and b; NaN if either is."""
    return a if (a > b) | (a != a) else b


@inlined
def smaller(a, b):
    """The smaller of a and b; NaN if either is."""
    return a if (a < b) | (a != a) else b


@portable
def subtract_forward(y: Out, a: In, b: In):
    """y = a - b."""
    far = is_far(y)
    for block in prange(block_count(y.size)):
        start, stop = block_bounds(block, y.size)
        each_far(difference, y[start:stop], (a[start:stop], b[start:stop]), far)


@portable
def divide_forward(y: Out, a: In, b: In):
    """y = a / b."""
    far = is_far(y)
    for block in prange(block_count(y.size)):
        start, stop = block_bounds(block, y.size)
        each_far(quotient, y[start:stop], (a[start:stop], b[start:stop]), far)


@portable
def maximum_forward(y: Out, a: In, b: In):
    """y = the larger of a and b; NaN if either is."""
    far = is_far(y)
    for block in prange(block_count(y.size)):
        start, stop = block_bounds(block, y.size)
        each_far(larger, y[start:stop], (a[start:stop], b[start:stop]), far)


@portable
def minimum_forward(y: Out, a: In, b: In):
    """y = the smaller of a and b; NaN if either is."""
    far = is_far(y)
    for block in prange(block_count(y.size)):
        start, stop = block_bounds(block, y.size)
        each_far(smaller, y[start:stop], (a[start:stop], b[start:stop]), far)


@kernel
def add_repeated(y: Out, a: In, b: In, dims: In):
    """y = a + b."""
    for t in prange(row_tasks(y)):
        combine_rows(total, t, y, a, b, dims)


@add_repeated.on_cuda(grid=covering_windows)
def add_repeated(y: Out, a: In, b: In, dims: In):
    """A thread has a window, or several."""
    combine_windows(total, y, a, b, dims)


@kernel
def subtract_repeated(y: Out, a: In, b: In, dims: In):
    """y = a - b."""
    for t in prange(row_tasks(y)):
        combine_rows(difference, t, y, a, b, dims)


@subtract_repeated.on_cuda(grid=covering_windows)
def subtract_repeated(y: Out, a: In, b: In, dims: In):
    """A thread has a window, or several."""
    combine_windows(difference, y, a, b, dims)


@kernel
def multiply_repeated(y: Out, a: In, b: In, dims: In):
    """y = a b."""
    for t in prange(row_tasks(y)):
        combine_rows(product, t, y, a, b, dims)


@multiply_repeated.on_cuda(grid=covering_windows)
def multiply_repeated(y: Out, a: In, b: In, dims: In):
    """A thread has a window, or several."""
    combine_windows(product, y, a, b, dims)


@kernel
def divide_repeated(y: Out, a: In, b: In, dims: In):
    """y = a / b."""
    for t in prange(row_tasks(y)):
        combine_rows(quotient, t, y, a, b, dims)


@divide_repeated.on_cuda(grid=covering_windows)
def divide_repeated(y: Out, a: In, b: In, dims: In):
    """A thread has a window, or several."""
    combine_windows(quotient, y, a, b, dims)


@kernel
def maximum_repeated(y: Out, a: In, b: In, dims: In):
    """y = the larger of a and b; NaN if either is."""
    for t in prange(row_tasks(y)):
        combine_rows(larger, t, y, a, b, dims)


@maximum_repeated.on_cuda(grid=covering_windows)
def maximum_repeated(y: Out, a: In, b: In, dims: In):
    """A thread has a window, or several."""
    combine_windows(larger, y, a, b, dims)


@kernel
def minimum_repeated(y: Out, a: In, b: In, dims: In):
    """y = the smaller of a and b; NaN if either is."""
    for t in prange(row_tasks(y)):
        combine_rows(smaller, t, y, a, b, dims)


@minimum_repeated.on_cuda(grid=covering_windows)
def minimum_repeated(y: Out, a: In, b: In, dims: In):
    """A thread has a window, or several."""
    combine_windows(smaller, y, a, b, dims)


@portable
def fill_forward(y: Out, value: float):
    """y = value."""
    for i in prange(y.size):
        y[i] = value


NUMBERS = (int, float, np.integer, np.floating)


class BinaryFunction(Function):
    """A function of two arrays.

    Parameters
    ----------
    name : str
        Its name in `numba_nn.ops`.
    run : Kernel
        (y, a, b), flat arrays.
    run_repeated : Kernel
        (y, a, b, dims), where shapes differ: see `numba_nn.ops.broadcast`.
    formula : str
        What it computes.
    """

    def __init__(self, name: str, run: Kernel, run_repeated: Kernel, formula: str) -> None:
        super().__init__(name, formula)
        self._run, self._run_repeated = run, run_repeated

    def __call__(self, a: Array | float, b: Array | float, *, out: Array | None = None) -> Array:
        """Compute every element.

        Parameters
        ----------
        a, b : ndarray, device array or float
            Of one dtype and on one device, at least one an array; shapes broadcast as NumPy's do. A float beyond the dtype is
            infinite, as in NumPy: on the CPU with its RuntimeWarning.
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
        if is_number(b) and is_plain(a):
            b = scalar_array(b, a.dtype, CPU)
        plain = is_plain(a) and is_plain(b) and a.dtype is b.dtype
        one: Any
        other: Any
        one, other, device = (a, b, CPU) if plain else self._accept(a, b)
        shape, rows, dims = one.shape, None, None
        if other.shape != shape:
            shape, rows, dims = self._broadcast(shape, other.shape, device)
        if out is None:
            y = device.empty(shape, one.dtype)
        elif plain and is_destination(
            out, shape, one.dtype, other if out is a else one, None if out is a or out is b else other
        ):
            y = out  # an operand itself, or apart from both
        else:
            apart = [x for x, given in ((one, a), (other, b)) if given is not out]
            y = self._destination(out, shape, one.dtype, device, *apart)
        if y.size:
            if not plain:
                workspace = thread_workspace(device)
                one, other = workspace.contiguous("a", one), workspace.contiguous("b", other)
            if rows is None:
                self._run.for_work(y.size, device)(y.ravel(), one.ravel(), other.ravel())
            else:
                self._run_repeated.for_work(y.size, device)(y.reshape(rows), one.ravel(), other.ravel(), dims)
        return y if out is None else out

    def _broadcast(self, a: Shape, b: Shape, device: Device) -> tuple[Shape, Shape | None, Array | None]:
        try:
            return dimensions(a, b, device)
        except ValueError:
            raise ShapeError(f"{self.__name__}: shapes {a} and {b} do not broadcast") from None

    def _accept(self, a: Any, b: Any) -> tuple[Array, Array, Device]:
        """The operands as checked arrays, a number as an array of no dimension; and where they live."""
        if is_number(a) and is_number(b):
            raise ArgumentError(f"{self.__name__}: a or b must be an array, got {a!r} and {b!r}")
        device = device_of(b if is_number(a) else a)
        if is_number(a):
            b = self._checked("b", b, None, device)
            return scalar_array(a, b.dtype, device), b, device
        a = self._checked("a", a, None, device)
        return a, scalar_array(b, a.dtype, device) if is_number(b) else self._checked("b", b, a.dtype, device), device


def is_number(given: Any) -> TypeGuard[float]:
    """Whether an operand is a number: of Python's or NumPy's."""
    return type(given) is not ndarray and isinstance(given, NUMBERS)


def scalar_array(value: float, dtype: Any, device: Device) -> Array:
    """A number as an array of no dimension; on a GPU until the next call."""
    if device is CPU:
        return np.array(value, dtype)
    room = thread_workspace(device).array("number", (), dtype)
    fill_forward.for_work(1, device)(room.ravel(), float(value))
    return room


add = BinaryFunction("add", add_forward, add_repeated, "a + b")
subtract = BinaryFunction("subtract", subtract_forward, subtract_repeated, "a - b")
multiply = BinaryFunction("multiply", multiply_forward, multiply_repeated, "a b")
divide = BinaryFunction("divide", divide_forward, divide_repeated, "a / b")
maximum = BinaryFunction("maximum", maximum_forward, maximum_repeated, "the larger of a and b; NaN if either is")
minimum = BinaryFunction("minimum", minimum_forward, minimum_repeated, "the smaller of a and b; NaN if either is")

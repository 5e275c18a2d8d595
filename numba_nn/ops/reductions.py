"""Sums, means, extremes and norms over axes: `Reduction` objects; the same bits for any number of threads.

The array is looked at as (O, N, I): N elements are reduced, O in front of them and I behind are kept. N is cut into blocks by
shape alone. A first pass reduces every block, a second one the blocks' results, in order; sums of blocks are float64.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.call import Array
from numba_nn.core.checks import check_array, check_destination
from numba_nn.core.errors import ArgumentError, DTypeError
from numba_nn.core.kernel import In, Kernel, Out, inner, kernel
from numba_nn.core.reduce import BLOCK
from numba_nn.core.workspace import Shape, thread_workspace
from numba_nn.ops.elementwise import absolute, square

Axis = int | tuple[int, ...] | None


@inner
def block_of(task, y, x, step):
    """Outer element and block of a task, and the first and last of the N elements."""
    blocks = y.shape[1]
    block = task % blocks
    stop = (block + 1) * step
    return task // blocks, block, block * step, stop if stop < x.shape[1] else x.shape[1]


@kernel
def sum_rows(y: Out, x: In, step: int):
    """y = sums of blocks of ``step`` elements; y: (O, B, 1), x: (O, N, 1)."""
    for task in prange(y.shape[0] * y.shape[1]):
        o, block, start, stop = block_of(task, y, x, step)
        total = x.dtype.type(0)
        for n in range(start, stop):
            total += x[o, n, 0]
        y[o, block, 0] = total


@kernel
def sum_columns(y: Out, x: In, step: int):
    """y = sums of blocks of ``step`` elements; y: (O, B, I), x: (O, N, I)."""
    for task in prange(y.shape[0] * y.shape[1]):
        o, block, start, stop = block_of(task, y, x, step)
        for i in range(x.shape[2]):
            y[o, block, i] = 0
        for n in range(start, stop):
            for i in range(x.shape[2]):
                y[o, block, i] += x[o, n, i]


@kernel
def max_forward(y: Out, x: In, step: int):
    """y = largest of blocks of ``step`` elements; NaN where there is one; y: (O, B, I), x: (O, N, I)."""
    for task in prange(y.shape[0] * y.shape[1]):
        o, block, start, stop = block_of(task, y, x, step)
        for i in range(x.shape[2]):
            y[o, block, i] = x[o, start, i]
        for n in range(start + 1, stop):
            for i in range(x.shape[2]):
                value = x[o, n, i]
                y[o, block, i] = value if (value > y[o, block, i]) | (value != value) else y[o, block, i]


@kernel
def min_forward(y: Out, x: In, step: int):
    """y = smallest of blocks of ``step`` elements; NaN where there is one; y: (O, B, I), x: (O, N, I)."""
    for task in prange(y.shape[0] * y.shape[1]):
        o, block, start, stop = block_of(task, y, x, step)
        for i in range(x.shape[2]):
            y[o, block, i] = x[o, start, i]
        for n in range(start + 1, stop):
            for i in range(x.shape[2]):
                value = x[o, n, i]
                y[o, block, i] = value if (value < y[o, block, i]) | (value != value) else y[o, block, i]


@kernel
def argmax_forward(y: Out, x: In, sign: int):
    """y = first n with the largest sign x, or with NaN; y: (O, I) of int64, x: (O, N, I), sign: 1, or -1 for the smallest."""
    for o in prange(y.shape[0]):
        for i in range(y.shape[1]):
            best, position = sign * x[o, 0, i], 0
            for n in range(1, x.shape[1]):
                value = sign * x[o, n, i]
                if best == best and (value > best or value != value):
                    best, position = value, n
            y[o, i] = position


def _in_blocks(run: Kernel, y: Array, x: Array, dtype: Any) -> None:
    """y: (O, I) from x: (O, N, I), by way of the blocks' results."""
    outer, count, inside = x.shape
    step = builtins.max(1, BLOCK // inside) if inside else 1
    blocks = -(-count // step)
    whole = y.reshape(outer, 1, inside)
    if blocks <= 1:
        run.for_work(x.size)(whole, x, step)
        return
    partial = thread_workspace().array("partial", (outer, blocks, inside), dtype)
    run.for_work(x.size)(partial, x, step)
    run.for_work(partial.size)(whole, partial, blocks)


def _sum(y: Array, x: Array) -> None:
    _in_blocks(sum_rows if x.shape[2] == 1 else sum_columns, y, x, np.float64)


def _mean(y: Array, x: Array) -> None:
    _sum(y, x)
    with np.errstate(invalid="ignore"):
        y /= x.shape[1]


class Reduction:
    """A function that turns the elements along axes into one.

    Parameters
    ----------
    name : str
        Its name in `numba_nn.ops`.
    run : callable
        Writes y (O, I) from x (O, N, I).
    formula : str
        What it computes.
    of_nothing : bool, optional
        Whether there is a result for no elements.
    positions : bool, optional
        Whether the result is a position, along one axis.
    """

    def __init__(
        self, name: str, run: Callable[[Array, Array], None], formula: str, of_nothing: bool = False, positions: bool = False
    ) -> None:
        self.__name__ = name
        self.__doc__ = f"{name}: {formula}. See `numba_nn.ops.reductions.Reduction.__call__` for the arguments."
        self._run = run
        self._of_nothing = of_nothing
        self._positions = positions

    def __repr__(self) -> str:
        return f"<reduction {self.__name__}>"

    def __call__(self, x: Array, axis: Axis = None, keepdims: bool = False, out: Array | None = None) -> Array:
        """Reduce over axes.

        Parameters
        ----------
        x : ndarray
            float32 or float64.
        axis : int or tuple of int, optional
            Which to reduce, of `argmax` and `argmin` a single one; by default all, as if the array were flat.
        keepdims : bool, optional
            Keep the axes, with length 1.
        out : ndarray, optional
            Where to write the result: C-contiguous, apart from ``x``.

        Returns
        -------
        ndarray
            ``out`` itself, or a fresh array; of no dimension, if none is left. Positions are int64.

        Raises
        ------
        ArgumentError
            For an axis that ``x`` has not, or extremes of no elements.
        ShapeError, DTypeError, DestinationError
            If an array does not fit; nothing was written.
        """
        check_array(self.__name__, "x", x, None)
        axes = self._axes(axis, x.ndim)
        kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes)
        count = math.prod(x.shape[i] for i in axes)
        if count == 0 and not self._of_nothing:
            raise ArgumentError(f"{self.__name__}: x of shape {x.shape} has no elements along axis {axis}")
        dtype = np.dtype(np.int64) if self._positions else x.dtype
        y = np.empty(kept, dtype) if out is None else out
        if out is not None:
            self._check_out(out, kept, dtype, x)
        if y.size:
            self._run(*_parts(y, x, axes, count))
        return y

    def _axes(self, axis: Axis, rank: int) -> tuple[int, ...]:
        if axis is None:
            return tuple(range(rank))
        given: tuple[Any, ...] = axis if isinstance(axis, tuple) and not self._positions else (axis,)
        if not all(isinstance(a, (int, np.integer)) and -rank <= a < rank for a in given):
            raise ArgumentError(f"{self.__name__}: axis must lie in {-rank} .. {rank - 1}, got {axis!r}")
        axes = tuple(sorted(int(a) % rank for a in given))
        if len(set(axes)) < len(axes):
            raise ArgumentError(f"{self.__name__}: axis names one axis twice: {axis!r}")
        return axes

    def _check_out(self, out: Any, shape: Shape, dtype: np.dtype[Any], x: Array) -> None:
        if self._positions and getattr(out, "dtype", None) != dtype:
            raise DTypeError(f"{self.__name__}: out must be an int64 array, got {getattr(out, 'dtype', type(out).__name__)}")
        check_destination(self.__name__, "out", out, shape, dtype, x)


def _parts(y: Array, x: Array, axes: tuple[int, ...], count: int) -> tuple[Array, Array]:
    """The result as (O, I), and the array as (O, N, I): with the reduced axes last, unless they are neighbours."""
    if axes and axes[-1] - axes[0] + 1 == len(axes):
        outer = math.prod(x.shape[: axes[0]])
    else:
        others = [i for i in range(x.ndim) if i not in axes]
        x = x.transpose(*others, *axes)
        outer = y.size
    x = thread_workspace().contiguous("x", x)
    return y.reshape(outer, y.size // outer), x.reshape(outer, count, y.size // outer)


sum = Reduction("sum", _sum, "sum of the elements", of_nothing=True)
mean = Reduction("mean", _mean, "mean of the elements; of none, NaN", of_nothing=True)
max = Reduction("max", lambda y, x: _in_blocks(max_forward, y, x, x.dtype), "largest element; NaN if there is one")
min = Reduction("min", lambda y, x: _in_blocks(min_forward, y, x, x.dtype), "smallest element; NaN if there is one")
argmax = Reduction(
    "argmax", lambda y, x: argmax_forward.for_work(x.size)(y, x, 1), "first position of the largest element, or of NaN",
    positions=True,
)  # fmt: skip
argmin = Reduction(
    "argmin", lambda y, x: argmax_forward.for_work(x.size)(y, x, -1), "first position of the smallest element, or of NaN",
    positions=True,
)  # fmt: skip


def norm(x: Array, ord: float = 2, axis: Axis = None, keepdims: bool = False, out: Array | None = None) -> Array:
    """Norm of the elements along axes, taken together as one vector.

    Parameters
    ----------
    x : ndarray
        float32 or float64.
    ord : {1, 2, inf}, optional
        Sum of absolute values, square root of the sum of squares, or largest absolute value.
    axis : int or tuple of int, optional
        Which to take together; all by default.
    keepdims : bool, optional
        Keep the axes, with length 1.
    out : ndarray, optional
        Where to write the result: C-contiguous, apart from ``x``.

    Returns
    -------
    ndarray
        ``out`` itself, or a fresh array.

    Raises
    ------
    ArgumentError
        For another ``ord``, or an axis that ``x`` has not.
    ShapeError, DTypeError, DestinationError
        If an array does not fit; nothing was written.
    """
    if ord not in (1, 2, math.inf):
        raise ArgumentError(f"norm: ord must be 1, 2 or inf, got {ord!r}")
    check_array("norm", "x", x, None)
    sizes = thread_workspace().array("norm", x.shape, x.dtype)
    (square if ord == 2 else absolute)(x, out=sizes)
    if ord == math.inf:
        return max(sizes, axis, keepdims, out)
    y = sum(sizes, axis, keepdims, out)
    return np.sqrt(y, out=y) if ord == 2 else y

"""Sums, means, extremes and norms over axes: `Reduction` objects; the same bits for any number of threads.

The array is looked at as (O, N, I): N elements are reduced, O in front of them and I behind are kept. N is cut into blocks by
shape alone. A kernel reduces every block, then the blocks' results, in order; sums of blocks are added in float64. A GPU
does so in two launches: see `numba_nn.ops.cuda_parts`.
"""

from __future__ import annotations

import builtins
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from numba_nn.core.call import Array
from numba_nn.core.checks import check_flag, is_whole
from numba_nn.core.device import device_of
from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.core.kernel import In, Kernel, Out, Scratch, inner, kernel
from numba_nn.core.reduce import BLOCK
from numba_nn.core.rows import LANES, task_bounds, task_count
from numba_nn.core.simd import maximum as larger
from numba_nn.core.strided import MOST_DIMENSIONS
from numba_nn.core.workspace import Shape, Workspace, thread_workspace
from numba_nn.layers.permute import permutation
from numba_nn.ops.cuda_parts import extremes_of_parts, positions_of_extremes, sums_of_parts
from numba_nn.ops.function import Function
from numba_nn.ops.measures import ABSOLUTE, SQUARE, VALUE, finished, measured

Axis = int | tuple[int, ...] | None
Run = Callable[[Array, Array], None]
"""Writes y (O, I) from x (O, N, I)."""

LEAST_STEP = 256  # elements of a block along N, at the least: blocks' results take a 128th of x, or twice what y does
LAYOUTS = 256  # that a function remembers
INDEX = np.dtype(np.int64)


@inner
def part_count(partial):
    """Number of tasks: every block of every outer element, cut into `LANES` neighbours of I."""
    return partial.shape[0] * partial.shape[1] * -(-partial.shape[2] // LANES)


@inner
def part_of(task, partial, x, step):
    """Outer element and block of a task, the first and last of its N, and the first and last of its I."""
    lanes = -(-partial.shape[2] // LANES)
    block, lane = task // lanes % partial.shape[1], task % lanes
    n, i = block * step, lane * LANES
    stop, last = builtins.min(x.shape[1], n + step), builtins.min(x.shape[2], i + LANES)
    return task // lanes // partial.shape[1], block, n, stop, i, last


@kernel
def sum_forward(y: Out, partial: Scratch, x: In, step: int, measure: int, count: int):
    """y = the sum of what is measured of x, over ``count``; of squares the root. See `numba_nn.ops.measures`.

    y: (O, I), x: (O, N, I), partial: float64, (O, blocks of ``step`` elements, I).
    """
    for task in prange(part_count(partial)):
        o, block, start, stop, first, last = part_of(task, partial, x, step)
        if x.shape[2] == 1:
            elements, total = x[o].reshape(-1)[start:stop], x.dtype.type(0)
            for n in range(elements.size):
                total += measured(elements[n], measure)
            partial[o, block, 0] = total
        else:
            totals = partial[o, block, first:last]
            for i in range(totals.size):
                totals[i] = 0
            for n in range(start, stop):
                line = x[o, n, first:last]
                for i in range(totals.size):
                    totals[i] += measured(line[i], measure)
    for o in prange(partial.shape[0]):
        for block in range(1, partial.shape[1]):
            totals, line = partial[o, 0], partial[o, block]
            for i in range(totals.size):
                totals[i] += line[i]
        for i in range(y.shape[1]):
            y[o, i] = finished(partial[o, 0, i], measure, count)


@sum_forward.on_cuda(steps=True)
def sum_forward(y: Out, partial: Scratch, x: In, step: int, measure: int, count: int):
    """Every block, then the blocks' sums."""
    sums_of_parts(partial, x, step, measure, VALUE, 1)
    sums_of_parts(y.reshape(y.shape[0], 1, y.shape[1]), partial, partial.shape[1], VALUE, measure, count)


@kernel
def extreme_forward(y: Out, partial: Scratch, x: In, step: int, sign: int, measure: int):
    """y = the largest of what is measured of x for a sign of 1, the smallest for -1, NaN if there is one; shapes as there."""
    s, least = x.dtype.type(sign), x.dtype.type(-np.inf)
    for task in prange(part_count(partial)):
        o, block, start, stop, first, last = part_of(task, partial, x, step)
        if x.shape[2] == 1:
            partial[o, block, 0] = signed_maximum(x[o].reshape(-1)[start:stop], s, measure)
        else:
            tops = partial[o, block, first:last]
            for i in range(tops.size):
                tops[i] = least
            for n in range(start, stop):
                line = x[o, n, first:last]
                for i in range(tops.size):
                    tops[i] = larger(tops[i], s * measured(line[i], measure))
    for o in prange(partial.shape[0]):
        for block in range(1, partial.shape[1]):
            tops, line = partial[o, 0], partial[o, block]
            for i in range(tops.size):
                tops[i] = larger(tops[i], line[i])
        for i in range(y.shape[1]):
            y[o, i] = s * partial[o, 0, i]


@extreme_forward.on_cuda(steps=True)
def extreme_forward(y: Out, partial: Scratch, x: In, step: int, sign: int, measure: int):
    """Every block, then the blocks' extremes."""
    extremes_of_parts(partial, x, step, sign, measure)
    extremes_of_parts(y.reshape(y.shape[0], 1, y.shape[1]), partial, partial.shape[1], sign, VALUE)


@inner
def signed_maximum(x, sign, measure):
    """Largest sign x, of what is measured of x; NaN if there is one."""
    top = x.dtype.type(-np.inf)
    for n in range(x.size):
        top = larger(top, sign * measured(x[n], measure))
    return top


@kernel
def position_forward(y: Out, tops: Scratch, x: In, step: int, sign: int):
    """y = first n with the largest sign x, or with NaN; y: (O, I) of int64, tops: (O, blocks of ``step`` elements, I)."""
    s = x.dtype.type(sign)
    for task in prange(task_count(x)):
        o, start, stop = task_bounds(task, x)
        if x.shape[2] == 1:
            elements, n = x[o].reshape(-1), 0
            top = signed_maximum(elements, s, VALUE)
            while s * elements[n] != top and elements[n] == elements[n]:
                n += 1
            y[o, 0] = n
        else:
            positions, best, line = y[o, start:stop], tops[o, 0, start:stop], x[o, 0, start:stop]
            for i in range(best.size):
                positions[i], best[i] = 0, s * line[i]
            for n in range(1, x.shape[1]):
                line = x[o, n, start:stop]
                for i in range(best.size):
                    value = s * line[i]
                    better = (best[i] == best[i]) & ((value > best[i]) | (value != value))
                    positions[i] = n if better else positions[i]
                    best[i] = value if better else best[i]


@position_forward.on_cuda(steps=True)
def position_forward(y: Out, tops: Scratch, x: In, step: int, sign: int):
    """Every block's extreme, then the first place where one of them is the row's."""
    extremes_of_parts(tops, x, step, sign, VALUE)
    positions_of_extremes(y, tops, x, step, sign)


def _in_blocks(run: Kernel, y: Array, x: Array, dtype: Any, *scalars: int) -> None:
    """y: (O, I) from x: (O, N, I), by way of the blocks' results."""
    (outer, count, inside), device = x.shape, device_of(x)
    step = builtins.max(LEAST_STEP, BLOCK // inside)
    partial = thread_workspace(device).array("partial", (outer, builtins.max(1, -(-count // step)), inside), dtype)
    run.for_work(x.size, device)(y, partial, x, step, *scalars)


def _extreme(sign: int, measure: int = VALUE) -> Run:
    return lambda y, x: _in_blocks(extreme_forward, y, x, x.dtype, sign, measure)


def _position(sign: int) -> Run:
    return lambda y, x: _in_blocks(position_forward, y, x, x.dtype, sign)


def _sum(measure: int) -> Run:
    return lambda y, x: _in_blocks(sum_forward, y, x, np.float64, measure, 1)


def _mean(y: Array, x: Array) -> None:
    _in_blocks(sum_forward, y, x, np.float64, VALUE, x.shape[1])


class Layout(NamedTuple):
    """What follows from an array's shape and the axes."""

    kept: Shape
    """The result's shape."""
    axes: tuple[int, ...]
    reduced: int
    """Elements that become one."""


class Reduction(Function):
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

    def __init__(self, name: str, run: Run, formula: str, of_nothing: bool = False, positions: bool = False) -> None:
        super().__init__(name, formula)
        self._run, self._of_nothing, self._positions = run, of_nothing, positions
        self._known = functools.lru_cache(LAYOUTS, typed=True)(self._layout)

    def __call__(self, x: Array, axis: Axis = None, keepdims: bool = False, out: Array | None = None) -> Array:
        """Reduce over axes.

        Parameters
        ----------
        x : ndarray or device array
            float32 or float64; on a GPU also of 16 bits.
        axis : int or tuple of int, optional
            Which to reduce, of `argmax` and `argmin` a single one; by default all, as if the array were flat.
        keepdims : bool, optional
            Keep the axes, with length 1.
        out : ndarray or device array, optional
            Where to write the result: C-contiguous, apart from ``x``.

        Returns
        -------
        ndarray or device array
            ``out`` itself, or a fresh array; of no dimension, if none is left. Positions are int64.

        Raises
        ------
        ArgumentError
            For an axis that ``x`` has not, or extremes of no elements.
        ShapeError, DTypeError, DestinationError
            If an array does not fit; nothing was written.
        DeviceError
            If ``out`` lives on another device than ``x``.
        """
        device = device_of(x)
        source = self._checked("x", x, None, device)
        layout_of = self._known if axis is None or type(axis) is int else self._layout  # else a bool would pass for an int
        kept, axes, count = layout_of(source.shape, axis, check_flag(self.__name__, "keepdims", keepdims))
        y = self._destination(out, kept, INDEX if self._positions else source.dtype, device, source)
        if y.size:
            self._run(*self._parts(y, source, axes, count))
        return y if out is None else out

    def _layout(self, shape: Shape, axis: Axis, keepdims: bool) -> Layout:
        axes = self._axes(axis, len(shape))
        kept = tuple(1 if i in axes else n for i, n in enumerate(shape) if keepdims or i not in axes)
        count = math.prod(shape[i] for i in axes)
        if count == 0 and not self._of_nothing:
            raise ArgumentError(f"{self.__name__}: x of shape {shape} has no elements along axis {axis}")
        return Layout(kept, axes, count)

    def _parts(self, y: Array, x: Array, axes: tuple[int, ...], count: int) -> tuple[Array, Array]:
        """The result as (O, I), and the array as (O, N, I): with the reduced axes last, unless they are neighbours."""
        workspace = thread_workspace(device_of(x))
        rows = workspace.contiguous("x", x)
        if axes and axes[-1] - axes[0] + 1 == len(axes):
            outer = math.prod(x.shape[: axes[0]])
        else:
            rows, outer = self._with_last(rows, axes, workspace) if axes else rows, y.size
        return y.reshape(outer, y.size // outer), rows.reshape(outer, count, y.size // outer)

    def _with_last(self, x: Array, axes: tuple[int, ...], workspace: Workspace) -> Array:
        """All elements of a C-contiguous array, in the order that they have where these axes are the last."""
        kept = [i for i, length in enumerate(x.shape) if length != 1]
        if len(kept) > MOST_DIMENSIONS:
            raise ShapeError(
                f"{self.__name__}: x may have {MOST_DIMENSIONS} dimensions longer than 1 where axes lie apart, got {x.shape}"
            )
        permuted = workspace.array("x, permuted", (x.size,), x.dtype)
        run, *arguments = permutation(x.shape, (*(i for i in kept if i not in axes), *(i for i in kept if i in axes)))
        run.for_work(x.size, workspace.device)(permuted, x.reshape(x.size), *arguments)
        return permuted

    def _axes(self, axis: Axis, rank: int) -> tuple[int, ...]:
        if axis is None:
            return tuple(range(rank))
        limit = builtins.max(1, rank)  # a single number is a row of one
        given: tuple[Any, ...] = axis if isinstance(axis, tuple) and not self._positions else (axis,)
        if not all(is_whole(a) and -limit <= a < limit for a in given):
            wanted = "an int" if self._positions else "an int or a tuple of ints"
            raise ArgumentError(f"{self.__name__}: axis must be {wanted} in {-limit} .. {limit - 1}, got {axis!r}")
        axes = tuple(sorted(int(a) % limit for a in given))
        if len(set(axes)) < len(axes):
            raise ArgumentError(f"{self.__name__}: axis names one axis twice: {axis!r}")
        return axes if rank else ()


sum = Reduction("sum", _sum(VALUE), "sum of the elements", of_nothing=True)
mean = Reduction("mean", _mean, "mean of the elements; of none, NaN", of_nothing=True)
max = Reduction("max", _extreme(1), "largest element; NaN if there is one")
min = Reduction("min", _extreme(-1), "smallest element; NaN if there is one")
argmax = Reduction("argmax", _position(1), "first position of the largest element, or of NaN", positions=True)
argmin = Reduction("argmin", _position(-1), "first position of the smallest element, or of NaN", positions=True)
_norms = {
    1: Reduction("norm", _sum(ABSOLUTE), "sum of the absolute values", of_nothing=True),
    2: Reduction("norm", _sum(SQUARE), "square root of the sum of squares", of_nothing=True),
    math.inf: Reduction("norm", _extreme(1, ABSOLUTE), "largest absolute value"),
}


def norm(x: Array, ord: float = 2, axis: Axis = None, keepdims: bool = False, out: Array | None = None) -> Array:
    """Norm of the elements along axes, taken together as one vector.

    Parameters
    ----------
    x : ndarray or device array
        float32 or float64; on a GPU also of 16 bits.
    ord : {1, 2, inf}, optional
        Sum of absolute values, square root of the sum of squares, or largest absolute value.
    axis : int or tuple of int, optional
        Which to take together; all by default.
    keepdims : bool, optional
        Keep the axes, with length 1.
    out : ndarray or device array, optional
        Where to write the result: C-contiguous, apart from ``x``.

    Returns
    -------
    ndarray or device array
        ``out`` itself, or a fresh array.

    Raises
    ------
    ArgumentError
        For another ``ord``, or an axis that ``x`` has not.
    ShapeError, DTypeError, DestinationError
        If an array does not fit; nothing was written.
    DeviceError
        If ``out`` lives on another device than ``x``.
    """
    if ord not in (1, 2, math.inf):
        raise ArgumentError(f"norm: ord must be 1, 2 or inf, got {ord!r}")
    return _norms[ord](x, axis, keepdims, out)

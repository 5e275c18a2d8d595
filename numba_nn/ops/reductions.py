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
from numba_nn.core.checks import check_flag, is_destination, is_whole
from numba_nn.core.device import CPU, device_of
from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.core.kernel import In, Kernel, Out, Scratch, inlined, inner, kernel
from numba_nn.core.reduce import BLOCK
from numba_nn.core.rows import LANES, task_bounds, task_count
from numba_nn.core.simd import maximum as larger
from numba_nn.core.strided import MOST_DIMENSIONS
from numba_nn.core.workspace import Shape, Workspace, thread_workspace
from numba_nn.layers.merge import total
from numba_nn.layers.permute import permutation
from numba_nn.ops.cuda_parts import extremes_of_parts, positions_of_extremes, sums_of_parts
from numba_nn.ops.function import Function, is_plain
from numba_nn.ops.measures import ABSOLUTE, SQUARE, VALUE, finished, measured

Axis = int | tuple[int, ...] | None

LEAST_STEP = 256  # elements of a block along N, at the least: blocks' results take a 128th of x, or twice what y does
LAYOUTS = 256  # that a function remembers
INDEX, SUMS = np.dtype(np.int64), np.dtype(np.float64)


@inner
def lanes_of(partial):
    """Neighbours of I in a task: more where tasks remain enough, as 64 MB are read in 0.85 of the time so (Intel Xeon)."""
    return LANES if partial.size < 64 * LANES else 4 * LANES


@inner
def part_count(partial):
    """Number of tasks: every block of every outer element, cut into neighbours of I."""
    return partial.shape[0] * partial.shape[1] * -(-partial.shape[2] // lanes_of(partial))


@inner
def part_of(task, partial, x, step):
    """Outer element and block of a task, the first and last of its N, and the first and last of its I."""
    lanes = lanes_of(partial)
    pieces = -(-partial.shape[2] // lanes)
    block, i = task // pieces % partial.shape[1], task % pieces * lanes
    n = block * step
    stop, last = builtins.min(x.shape[1], n + step), builtins.min(x.shape[2], i + lanes)
    return task // pieces // partial.shape[1], block, n, stop, i, last


@inlined
def combine_lines(function, y, x, start, stop, first, sign, measure):
    """y = function of y and of sign times what is measured of x[start:stop, first : first + y.size].

    Of eight lines it is taken in their own precision, in pairs, and pairs of these: y is read and written once.
    """
    last, whole = first + y.size, stop - (stop - start) % 8
    for n in range(start, whole, 8):
        a, b, c, d = x[n, first:last], x[n + 1, first:last], x[n + 2, first:last], x[n + 3, first:last]
        e, f, g, h = x[n + 4, first:last], x[n + 5, first:last], x[n + 6, first:last], x[n + 7, first:last]
        for i in range(y.size):
            ab = function(sign * measured(a[i], measure), sign * measured(b[i], measure))
            cd = function(sign * measured(c[i], measure), sign * measured(d[i], measure))
            ef = function(sign * measured(e[i], measure), sign * measured(f[i], measure))
            gh = function(sign * measured(g[i], measure), sign * measured(h[i], measure))
            y[i] = function(y[i], function(function(ab, cd), function(ef, gh)))
    for n in range(whole, stop):
        a = x[n, first:last]
        for i in range(y.size):
            y[i] = function(y[i], sign * measured(a[i], measure))


@kernel
def sum_forward(y: Out, partial: Scratch, x: In, step: int, measure: int, count: int):
    """y = the sum of what is measured of x, over ``count``; of squares the root. See `numba_nn.ops.measures`.

    y: (O, I), x: (O, N, I), partial: float64, (O, blocks of ``step`` elements, I).
    """
    for task in prange(part_count(partial)):
        o, block, start, stop, first, last = part_of(task, partial, x, step)
        if x.shape[2] == 1:
            elements, few = x[o].reshape(-1)[start:stop], x.dtype.type(0)
            for n in range(elements.size):
                few += measured(elements[n], measure)
            partial[o, block, 0] = few
        else:
            totals = partial[o, block, first:last]
            for i in range(totals.size):
                totals[i] = 0
            combine_lines(total, totals, x[o], start, stop, first, x.dtype.type(1), measure)
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
            combine_lines(larger, tops, x[o], start, stop, first, s, measure)
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


class Layout(NamedTuple):
    """What follows from an array's shape and the axes."""

    kept: Shape
    """The result's shape."""
    apart: tuple[int, ...]
    """The axes where they are to be brought to the end first; none where they are neighbours."""
    y: Shape
    """The result as (O, I)."""
    partial: Shape
    """The blocks' results: (O, blocks, I)."""
    x: Shape
    """The array as (O, N, I)."""
    numbers: tuple[int, ...]
    """The kernel's last arguments: the step, and the function's own."""


class Reduction(Function):
    """A function that turns the elements along axes into one.

    Parameters
    ----------
    name : str
        Its name in `numba_nn.ops`.
    run : Kernel
        (y, partial, x, step, ...), y: (O, I), partial: (O, blocks, I), x: (O, N, I).
    numbers : callable
        From N to the kernel's last arguments.
    formula : str
        What it computes.
    of_nothing : bool, optional
        Whether there is a result for no elements.
    """

    def __init__(
        self, name: str, run: Kernel, numbers: Callable[[int], tuple[int, ...]], formula: str, of_nothing: bool = False
    ) -> None:
        super().__init__(name, formula)
        self._run, self._numbers, self._of_nothing = run, numbers, of_nothing
        self._positions = run is position_forward
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
        plain = is_plain(x)
        device = CPU if plain else device_of(x)
        source = x if plain else self._checked("x", x, None, device)
        simple = type(keepdims) is bool and (axis is None or type(axis) is int)  # else a bool would pass for an int
        layout = (self._known if simple else self._layout)(source.shape, axis, keepdims)
        dtype = INDEX if self._positions else source.dtype
        y: Any = out
        if not (plain and is_destination(out, layout.kept, dtype, x)):
            y = self._destination(out, layout.kept, dtype, device, source)
        if y.size:
            workspace = thread_workspace(device)
            partial = workspace.array("partial", layout.partial, SUMS if self._run is sum_forward else source.dtype)
            rows = source if plain else workspace.contiguous("x", source)
            if layout.apart:
                rows = self._with_last(rows, layout.apart, workspace)
            self._run.for_work(source.size, device)(y.reshape(layout.y), partial, rows.reshape(layout.x), *layout.numbers)
        return y if out is None else out

    def _layout(self, shape: Shape, axis: Axis, keepdims: bool) -> Layout:
        check_flag(self.__name__, "keepdims", keepdims)
        axes = self._axes(axis, len(shape))
        kept = tuple(1 if i in axes else n for i, n in enumerate(shape) if keepdims or i not in axes)
        count = math.prod(shape[i] for i in axes)
        if count == 0 and not self._of_nothing:
            raise ArgumentError(f"{self.__name__}: x of shape {shape} has no elements along axis {axis}")
        together = not axes or axes[-1] - axes[0] + 1 == len(axes)
        inside = math.prod(shape[axes[-1] + 1 :]) if axes and together else 1
        outer = math.prod(kept) // builtins.max(1, inside)
        step = builtins.max(LEAST_STEP, BLOCK // builtins.max(1, inside))
        partial = outer, builtins.max(1, -(-count // step)), inside
        numbers = step, *self._numbers(count)
        return Layout(kept, () if together else axes, (outer, inside), partial, (outer, count, inside), numbers)

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


sum = Reduction("sum", sum_forward, lambda count: (VALUE, 1), "sum of the elements", of_nothing=True)
mean = Reduction("mean", sum_forward, lambda count: (VALUE, count), "mean of the elements; of none, NaN", of_nothing=True)
max = Reduction("max", extreme_forward, lambda count: (1, VALUE), "largest element; NaN if there is one")
min = Reduction("min", extreme_forward, lambda count: (-1, VALUE), "smallest element; NaN if there is one")
argmax = Reduction("argmax", position_forward, lambda count: (1,), "first position of the largest element, or of NaN")
argmin = Reduction("argmin", position_forward, lambda count: (-1,), "first position of the smallest element, or of NaN")
_norms = {
    1: Reduction("norm", sum_forward, lambda count: (ABSOLUTE, 1), "sum of the absolute values", of_nothing=True),
    2: Reduction("norm", sum_forward, lambda count: (SQUARE, 1), "square root of the sum of squares", of_nothing=True),
    math.inf: Reduction("norm", extreme_forward, lambda count: (1, ABSOLUTE), "largest absolute value"),
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

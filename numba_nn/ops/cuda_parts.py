"""Reductions on a GPU: (O, N, I) is cut along N into parts of ``step`` elements, and a team of threads reduces a part.

    sums_of_parts(partial, x, step, ...)         partial: (O, parts, I)
    sums_of_parts(y, partial, parts, ...)        y: (O, 1, I)

What parts there are follows from shapes alone. Teams, and how they go through a row, are those of `numba_nn.core.cuda.rows`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_nn.core.cuda.planes import split
from numba_nn.core.cuda.ptx import cuda, device_function, flat_part
from numba_nn.core.cuda.reduce import WARPS, larger, team_maximum, team_sum
from numba_nn.core.cuda.rows import HELD, hold, in_row, number_of_row, place, reach_of, row_from, row_of_team, team_grid, u32
from numba_nn.core.cuda.twin import cuda_helper, cuda_kernel
from numba_nn.core.kernel import In, Out
from numba_nn.ops.measures import VALUE, finished, measured


def grid_of_parts(y: Any, x: Any, step: int, *_: Any) -> tuple[int, tuple[int, int]]:
    """A team for every element of y."""
    return team_grid((y.shape[0] * y.shape[1], min(step, x.shape[1]), y.shape[2]), x.dtype.itemsize)


def grid_of_positions(y: Any, tops: Any, x: Any, step: int, *_: Any) -> tuple[int, tuple[int, int]]:
    """A team for every element of y, large enough for a part of x."""
    return team_grid((y.shape[0], min(step, x.shape[1]), y.shape[1]), x.dtype.itemsize)


@cuda_helper
def part_from(x, o, part, i, step):
    """A team's part of x as a row; an empty one where o is beyond the array.

    Parts begin where their row does, but for a multiple of four elements: so they reach as far beyond their length.
    """
    count, start, inside = u32(x.shape[1]), u32(part * u32(step)), o < u32(x.shape[0])
    at = u32((o * count + start) * u32(x.shape[2]) + i) if inside else u32(0)
    length = min(u32(step), u32(count - start)) if inside else u32(0)
    return row_from(at, length, u32(min(u32(step), count) + u32(reach_of(count) - count)), u32(x.shape[2]))


@cuda_helper
def part_of_team(y, x, step):
    """The part that belongs to this team's element of y: (O, parts, I)."""
    line, i = split(number_of_row(), y.shape[2])
    o, part = split(line, y.shape[1])
    return part_from(x, o, part, i, step)


@cuda_helper
def put_of_team(y, value):
    """Write this team's element of y."""
    r = number_of_row()
    if cuda.threadIdx.x == 0 and r < u32(y.size):
        flat_part(y, 0, y.size)[r] = value


@device_function
def extreme_of_row(held, x, team, sign, measure, room):
    """The largest sign x of a row, of what is measured of x; NaN if there is one."""
    (row, reach, stretch), start, top = team, u32(0), x.dtype.type(-np.inf)
    while start < reach:
        hold(held, x, row, start, sign * x.dtype.type(-np.inf))
        for n in range(HELD):
            if in_row(row, place(start, n)):  # the size of what stands beyond it would be the largest
                top = larger(top, sign * measured(held[n], measure))
        start = u32(start + stretch)
    return team_maximum(top, room)


@device_function
def position_in_row(held, x, team, top, room):
    """How many elements of a row lie before the first that is ``top`` or NaN."""
    (row, reach, stretch), start = team, u32(0)
    _, _, first, end = row
    least = end
    while start < reach:
        hold(held, x, row, start, x.dtype.type(0))
        for n in range(HELD):
            p = place(start, n)
            if in_row(row, p) and (held[n] == top or held[n] != held[n]):
                least = min(least, p)
        start = u32(start + stretch)
    return u32(u32(-team_maximum(np.int32(-np.int32(least)), room)) - first)


@cuda_kernel(grid=grid_of_parts)
def sums_of_parts(y: Out, x: In, step: int, measure: int, finish: int, count: int):
    """y = the sum of what is measured of every part, in float64; of what a thread holds, in its own precision.

    finish: what was measured, if this is the last sum; then it is over ``count``.
    """
    room, held = cuda.shared.array(WARPS, np.float64), cuda.local.array(HELD, x.dtype)
    (row, reach, stretch), start, total = part_of_team(y, x, step), u32(0), np.float64(0)
    while start < reach:
        hold(held, x, row, start, x.dtype.type(0))
        few = x.dtype.type(0)
        for n in range(HELD):
            few += measured(held[n], measure)
        total += few
        start = u32(start + stretch)
    put_of_team(y, finished(team_sum(total, room), finish, count))


@cuda_kernel(grid=grid_of_parts)
def extremes_of_parts(y: Out, x: In, step: int, sign: int, measure: int):
    """y = the largest of what is measured of every part for a sign of 1, the smallest for -1, NaN where there is one."""
    room, held, s = cuda.shared.array(WARPS, x.dtype), cuda.local.array(HELD, x.dtype), x.dtype.type(sign)
    put_of_team(y, s * extreme_of_row(held, x, part_of_team(y, x, step), s, measure, room))


@cuda_kernel(grid=grid_of_positions)
def positions_of_extremes(y: Out, tops: In, x: In, step: int, sign: int):
    """y = the position of the first extreme: in the first part that has it. y: (O, I), tops: of the parts, (O, parts, I)."""
    room, places = cuda.shared.array(WARPS, x.dtype), cuda.shared.array(WARPS, np.int32)
    held, s, parts = cuda.local.array(HELD, x.dtype), x.dtype.type(sign), row_of_team(tops)
    top = s * extreme_of_row(held, tops, parts, s, VALUE, room)
    part = position_in_row(held, tops, parts, top, places)
    o, i = split(number_of_row(), y.shape[1])
    put_of_team(y, u32(part * u32(step)) + position_in_row(held, x, part_from(x, o, part, i, step), top, places))

"""Rows over k of arrays (O, K, I) on a GPU: a *team* of threads shares a row, which it holds in registers.

A thread holds `HELD` elements, in windows of four that its team takes in turn. A row of up to so many for each thread is read
once. A longer one is a sequence of *stretches*, and is read again where a second look at it is needed:

    row, reach, stretch = row_of_team(x)
    start = u32(0)
    while start < reach:
        hold(held, x, row, start, zero)     held[n] is the element at position place(start, n)
        ...                                 sums
        start = u32(start + stretch)
    total, start = team_sum(part, room), u32(0)
    while start < reach:
        if reach > stretch:                 else all of it is still held
            hold(held, x, row, start, zero)
        ...                                 results
        release(y, row, start, held)
        start = u32(start + stretch)

Teams of a block go through these loops together. Where I is 1, positions count from the last window of the array that begins
before the row, or with it, so that rows of any length are loaded 16 bytes at a time. Otherwise a team is one thread, and its
neighbours have the rows beside its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_nn.core.cuda.planes import split
from numba_nn.core.cuda.ptx import WINDOW, cuda, device_function, flat_part, load_window, starts_aligned, store_window
from numba_nn.core.cuda.reduce import EACH, WARP, larger, team_maximum, team_sum
from numba_nn.core.cuda.twin import THREADS, cuda_helper
from numba_nn.core.vmath import exp_below

u32 = np.uint32
HELD = 16  # elements of a row that a thread has in registers


@cuda_helper
def reach_of(length):
    """The end of positions of the longest row of so many elements: up to three lie before it where it begins anywhere."""
    return u32(length) if length % WINDOW == 0 else u32(length + WINDOW - 1)


def team_of(length: int, itemsize: int) -> int:
    """Threads for a row of so many neighbours: lanes of a warp, a power of two, or a block where these cannot hold it."""
    reach = int(reach_of.py_func(length))
    if reach <= WARP * HELD:
        return min(WARP, 1 << (-(-reach // EACH) - 1).bit_length())
    most = THREADS if itemsize > 4 else 2 * THREADS  # elements of 8 bytes take two registers
    return min(most, -(-reach // (WARP * HELD)) * WARP)


def team_grid(shape: tuple[int, ...], itemsize: int) -> tuple[int, tuple[int, int]]:
    """Blocks, and their threads: those of a team, and teams, for rows of (O, K, I)."""
    outer, length, inside = shape
    team = team_of(length, itemsize) if inside == 1 else 1
    teams = THREADS // team if team <= WARP else 1
    return -(-outer * inside // teams), (team, teams)


def row_grid(first: Any, *_: Any) -> tuple[int, tuple[int, int]]:
    """`team_grid` for the rows of the first argument."""
    return team_grid(first.shape, first.dtype.itemsize)


@cuda_helper
def number_of_row():
    """The number of this team's row; there may be no such row."""
    return u32(cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y)


@cuda_helper
def place_of_row(x):
    """This team's row, (o, i); o is beyond the array where it has none."""
    return split(number_of_row(), x.shape[2])


@cuda_helper
def row_from(at, length, reach, step):
    """A row of so many elements from one of the flat array on, with what `row_of_team` gives beside it."""
    first = u32(at % u32(WINDOW)) if step == 1 else u32(0)
    return (u32(at - first), step, first, u32(first + length)), reach, u32(cuda.blockDim.x * HELD)


@cuda_helper
def row_of_team(x):
    """This team's row, the end of the longest row's positions, and how many of these a team holds.

    A row is (base, step, first, end): its elements have the positions p with first <= p < end, and are base + p step in the
    flat array. It is empty for a team that has none.
    """
    (o, i), length, step = place_of_row(x), u32(x.shape[1]), u32(x.shape[2])
    if o < u32(x.shape[0]):
        return row_from(u32(o * length * step + i), length, reach_of(length), step)
    return row_from(u32(0), u32(0), reach_of(length), step)


@cuda_helper
def row_of_weights(row):
    """Where a row's element has position p, the weight of its k."""
    _, _, first, end = row
    return u32(u32(0) - first), u32(1), first, end


@cuda_helper
def place(start, n):
    """The position of what a thread holds as number n of a stretch that begins at ``start``."""
    return u32(start + u32(u32(n // WINDOW * cuda.blockDim.x + cuda.threadIdx.x) * WINDOW + n % WINDOW))


@cuda_helper
def in_row(row, p):
    """Whether a position has an element."""
    _, _, first, end = row
    return first <= p and p < end


@cuda_helper
def in_windows(flat, row):
    """Whether a row lies in windows of 16 bytes; the array may end within the last."""
    base, step, _, end = row
    aligned = step == 1 and u32(base % u32(WINDOW)) == 0 and starts_aligned(flat)
    return aligned and end > 0 and u32(base + u32(WINDOW)) <= flat.size


@device_function
def hold(held, array, row, start, other):
    """Read a thread's part of a stretch; ``other`` where the row has no element.

    All windows are asked for before one is looked at, without a branch: a thread that has fewer asks for the row's first again.
    A window that the array ends within comes element by element.
    """
    base, step, _, end = row
    flat = flat_part(array, 0, array.size)
    if in_windows(flat, row):
        for n in range(0, HELD, WINDOW):
            at = place(start, n)
            whole = at < end and u32(base + at + u32(WINDOW)) <= flat.size
            held[n], held[n + 1], held[n + 2], held[n + 3] = load_window(flat, u32(base + at) if whole else base)
        for n in range(HELD):
            p = place(start, n)
            if in_row(row, p) and u32(base + place(start, n // WINDOW * WINDOW) + u32(WINDOW)) > flat.size:
                held[n] = flat[u32(base + p)]
            held[n] = held[n] if in_row(row, p) else other
    else:
        for n in range(HELD):
            p = place(start, n)
            held[n] = flat[u32(base + u32(p * step))] if in_row(row, p) else other


@device_function
def release(array, row, start, held):
    """Write what `hold` would read."""
    base, step, first, end = row
    flat = flat_part(array, 0, array.size)
    by_windows = in_windows(flat, row)
    for n in range(0, HELD, WINDOW):
        at = place(start, n)
        if by_windows and first <= at and u32(at + u32(WINDOW)) <= end:
            store_window(flat, u32(base + at), (held[n], held[n + 1], held[n + 2], held[n + 3]))
        else:
            for lane in range(WINDOW):
                if in_row(row, u32(at + u32(lane))):
                    flat[u32(base + u32(u32(at + u32(lane)) * step))] = held[n + lane]


@device_function
def held_maximum(held, row, start, top):
    """The largest of ``top`` and what a thread holds; minus infinity is held where the row has no element."""
    _, _, _, end = row
    for n in range(0, HELD, WINDOW):
        if place(start, n) < end:
            for lane in range(WINDOW):
                top = larger(top, held[n + lane])
    return top


@device_function
def held_exponentials(e, held, row, start, top):
    """e = exp(x - top) of what a thread holds, and the sum of e; minus infinity is held where the row has no element."""
    (_, _, _, end), mass = row, held.dtype.type(0)
    for n in range(0, HELD, WINDOW):
        if place(start, n) < end:
            for lane in range(WINDOW):
                e[n + lane] = exp_below(held[n + lane] - top)
                mass += e[n + lane]
    return mass


@device_function
def maximum_of_row(held, x, team, room):
    """The largest of a row, whose last stretch is held then."""
    (row, reach, stretch), start, top = team, u32(0), x.dtype.type(-np.inf)
    while start < reach:
        hold(held, x, row, start, x.dtype.type(-np.inf))
        top = held_maximum(held, row, start, top)
        start = u32(start + stretch)
    return team_maximum(top, room)


@device_function
def exponentials_of_row(e, held, x, team, room):
    """The largest of a row, and the sum of e = exp(x - largest), by one reading; its last stretch, and e there, are held then.

    Where a larger element comes, the sum so far shrinks. That of minus infinities alone is NaN, and is then forgotten.
    """
    (row, reach, stretch), start, lowest = team, u32(0), x.dtype.type(-np.inf)
    top, mass = lowest, x.dtype.type(0)
    while start < reach:
        hold(held, x, row, start, lowest)
        before, top = top, team_maximum(held_maximum(held, row, start, top), room)
        kept = mass * exp_below(before - top) if before > lowest else x.dtype.type(0)
        mass = kept + held_exponentials(e, held, row, start, top)
        start = u32(start + stretch)
    return top, team_sum(mass, room)

"""Kernels over many planes of one size: a thread has a window, four neighbouring places, and goes from plane to plane.

What follows from the places alone (row, column, where to read) it finds out once, so that little arithmetic is left for every
element. Windows are loaded and stored by 16 bytes where they begin at multiples of four. So that they always do, planes go
together, two or four of them, where one has no multiple of four places; such a window may lie in several planes:

    at, together, g = place_of_window(), planes_together(places), first_plane()
    ...                                     of the places at, at + 1, at + 2, at + 3 of planes that go together
    while at < together * places and g * together < planes:
        ...                                 fetch or compute a window
        put(flat_part(y, 0, y.size), g * together * places + at, window, y.size)
        g = next_plane(g)

Rows of a matrix are planes too. A run is a long plane, of which a thread has several windows. Where rows lie apart, or sums run
along planes, windows are those of a row, from its first element on.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numba_nn.core.cuda.portable import fetch, put
from numba_nn.core.cuda.ptx import WINDOW, cuda, device_function, flat_part, load_window, starts_aligned
from numba_nn.core.cuda.reduce import EACH, WARP, row_threads
from numba_nn.core.cuda.twin import MAX_BLOCKS, MULTIPROCESSORS, THREADS, cuda_helper

MOST_ROWS = 65535  # of a grid's blocks
NOWHERE = 2**31  # a place that no array has, wherever it begins

PlaneGrid = tuple[tuple[int, int], tuple[int, int]]
"""Blocks, and threads of a block: along a plane, and planes beside each other."""


def plane_grid(planes: int, windows: int) -> PlaneGrid:
    """Blocks and threads: columns of blocks cover the windows of a plane, rows of blocks share the planes.

    Short planes share a block: as many as fill a warp, and more where every multiprocessor has a block all the same.
    """
    threads = max(1, min(THREADS, windows))
    columns = -(-windows // threads)
    beside = max(1, WARP // threads, min(THREADS // threads, planes // MULTIPROCESSORS))
    resident = MAX_BLOCKS * THREADS // (threads * beside * max(1, columns))
    return (columns, min(-(-planes // beside), max(1, resident), MOST_ROWS)), (threads, beside)


def over_planes(first: Any, *_: Any) -> PlaneGrid:
    """`plane_grid` of an array whose first dimension counts planes, which go together."""
    planes, places = first.shape[0], math.prod(first.shape[1:])
    together = WINDOW // math.gcd(WINDOW, places)
    return plane_grid(-(-planes // together), -(-min(planes, together) * places // WINDOW))


def over_rows(first: Any, *_: Any) -> PlaneGrid:
    """`plane_grid` of a matrix whose rows have windows of their own."""
    return plane_grid(first.shape[0], -(-first.shape[1] // WINDOW))


def run_grid(runs: int, length: int) -> tuple[tuple[int, int], int]:
    """The same where a thread has `EACH` places of a run, for what takes long to find out about a run."""
    threads = row_threads(length)
    return (-(-length // (threads * EACH)), min(runs, MOST_ROWS)), threads


@cuda_helper
def place_of_window():  # type: ignore[no-untyped-def]
    """The first place of this thread's window."""
    return np.uint32(WINDOW) * np.uint32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)


@cuda_helper
def planes_together(places):  # type: ignore[no-untyped-def]
    """How many planes have a multiple of four places."""
    return np.uint32(1 if places & 3 == 0 else 2 if places & 1 == 0 else 4)


@cuda_helper
def row_of_windows():  # type: ignore[no-untyped-def]
    """Places of the windows of all threads that go through a plane side by side."""
    return np.uint32(WINDOW) * np.uint32(cuda.gridDim.x * cuda.blockDim.x)


@cuda_helper
def first_plane():  # type: ignore[no-untyped-def]
    """The first plane of this thread."""
    return np.uint32(cuda.blockIdx.y * cuda.blockDim.y + cuda.threadIdx.y)


@cuda_helper
def next_plane(p):  # type: ignore[no-untyped-def]
    """The one after plane p."""
    return np.uint32(p + np.uint32(cuda.gridDim.y * cuda.blockDim.y))


@cuda_helper
def split(i, n):  # type: ignore[no-untyped-def]
    """i // n and i % n, in 32 bits."""
    dividend, divisor = np.uint32(i), np.uint32(n)
    quotient = np.uint32(dividend // divisor)
    return quotient, np.uint32(dividend - quotient * divisor)


@cuda_helper
def plane_row_column(i, y):  # type: ignore[no-untyped-def]
    """Plane, row and column of element i of an array (P, H, W)."""
    r, w = split(i, y.shape[2])
    p, h = split(r, y.shape[1])
    return p, h, w


@cuda_helper
def element(x, p, h, w):  # type: ignore[no-untyped-def]
    """The number of element [p, h, w] of an array (P, H, W)."""
    return (np.uint32(p) * np.uint32(x.shape[1]) + np.uint32(h)) * np.uint32(x.shape[2]) + np.uint32(w)


@device_function
def fetch_row(window, x, start, length, at):  # type: ignore[no-untyped-def]
    """`fetch` from place ``at`` on of a row of so many elements, which begins at element ``start`` of an array of any rank."""
    fetch(window, flat_part(x, start, np.uint32(start + length)), at)


@device_function
def put_row(y, start, length, at, window):  # type: ignore[no-untyped-def]
    """`put` where `fetch_row` took it from."""
    put(flat_part(y, start, np.uint32(start + length)), at, window, length)


@device_function
def gather(window, x, first, sources, otherwise):  # type: ignore[no-untyped-def]
    """Fill a window with the elements ``first + sources`` of a flat array, by one access where they are a window of it.

    What lies beyond the array's end is ``otherwise``.
    """
    at = np.uint32(first + sources[0])
    run = (sources[1] - sources[0] == 1) & (sources[2] - sources[0] == 2) & (sources[3] - sources[0] == 3)
    if run and at & 3 == 0 and at + np.uint32(WINDOW) <= np.uint32(x.size) and starts_aligned(x):
        window[0], window[1], window[2], window[3] = load_window(x, at)
    else:
        for lane in range(WINDOW):
            at = np.uint32(first + sources[lane])
            window[lane] = x[at] if at < np.uint32(x.size) else otherwise


@device_function
def gather_planes(y, x, sources, otherwise):  # type: ignore[no-untyped-def]
    """y = x at the sources, or ``otherwise``; y and x: (P, H, W), planes of other sizes.

    sources: of the four places of this thread, in the planes of x that go together with the first one.
    """
    gather_places(y, np.uint32(y.shape[1]) * np.uint32(y.shape[2]), x, sources, otherwise)


@device_function
def gather_places(y, places, x, sources, otherwise):  # type: ignore[no-untyped-def]
    """`gather_planes` for y of any rank: P planes of so many places."""
    size, at, together = np.uint32(x.shape[1]) * np.uint32(x.shape[2]), place_of_window(), planes_together(places)
    window, g = cuda.local.array(WINDOW, x.dtype), first_plane()
    while at < together * places and g * together < np.uint32(y.shape[0]):
        gather(window, flat_part(x, 0, x.size), g * together * size, sources, otherwise)
        put(flat_part(y, 0, y.size), g * together * places + at, window, y.size)
        g = next_plane(g)

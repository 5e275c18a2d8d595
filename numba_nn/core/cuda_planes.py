"""Kernels over many planes of one size: a thread has one place in a plane, and goes from plane to plane.

What follows from the place alone (row, column, window) it finds out once, so that little arithmetic is left for every element:

    place = place_in_plane()
    if place < places:
        row, column = split(place, width)
        p = first_plane()
        while p < planes:
            ...
            p = next_plane(p)

Rows of a matrix are planes too. A run is a long plane, of which a thread has several places.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numba_nn.core.cuda_reduce import EACH, WARP, row_threads
from numba_nn.core.ptx import cuda
from numba_nn.core.twin import MAX_BLOCKS, THREADS, cuda_helper

MOST_ROWS = 65535  # of a grid's blocks


def plane_grid(planes: int, places: int) -> tuple[tuple[int, int], int]:
    """Blocks and threads: columns of blocks cover the places of a plane, rows of blocks share the planes."""
    threads = WARP * max(1, min(THREADS // WARP, -(-places // WARP)))
    columns = -(-places // threads)
    resident = MAX_BLOCKS * THREADS // (threads * max(1, columns))
    return (columns, min(planes, max(1, resident), MOST_ROWS)), threads


def run_grid(runs: int, length: int) -> tuple[tuple[int, int], int]:
    """The same where a thread has `EACH` places of a run, for what takes long to find out about a run."""
    threads = row_threads(length)
    return (-(-length // (threads * EACH)), min(runs, MOST_ROWS)), threads


def over_planes(first: Any, *_: Any) -> tuple[tuple[int, int], int]:
    """`plane_grid` of an array whose first dimension counts planes."""
    return plane_grid(first.shape[0], math.prod(first.shape[1:]))


@cuda_helper
def place_in_plane():  # type: ignore[no-untyped-def]
    """This thread's place."""
    return np.uint32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)


@cuda_helper
def row_of_threads():  # type: ignore[no-untyped-def]
    """Threads that go through a plane side by side."""
    return np.uint32(cuda.gridDim.x * cuda.blockDim.x)


@cuda_helper
def first_plane():  # type: ignore[no-untyped-def]
    """The first plane of this thread."""
    return np.uint32(cuda.blockIdx.y)


@cuda_helper
def next_plane(p):  # type: ignore[no-untyped-def]
    """The one after plane p."""
    return np.uint32(p + np.uint32(cuda.gridDim.y))


@cuda_helper
def split(i, n):  # type: ignore[no-untyped-def]
    """i // n and i % n, in 32 bits."""
    dividend, divisor = np.uint32(i), np.uint32(n)
    quotient = np.uint32(dividend // divisor)
    return quotient, np.uint32(dividend - quotient * divisor)

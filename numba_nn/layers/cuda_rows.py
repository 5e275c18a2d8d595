"""Rows over k of arrays (O, K, I) on a GPU.

A block has a row where I is 1, so that its threads share out k; otherwise a thread has one, and its neighbours those beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_nn.core.cuda_planes import split
from numba_nn.core.cuda_reduce import block_maximum, block_per_row, block_sum, larger
from numba_nn.core.ptx import cuda
from numba_nn.core.twin import THREADS, cuda_helper
from numba_nn.core.vmath import exp_below


def row_grid(first: Any, *_: Any) -> tuple[int, int]:
    """Blocks and threads for rows of (O, K, I)."""
    outer, _, inside = first.shape
    return block_per_row(first) if inside == 1 else (-(-outer * inside // THREADS), THREADS)


@cuda_helper
def row_of_thread(x):
    """This thread's row (o, i), its first k, and the step to the next; a k beyond the row for a thread that has none."""
    if x.shape[2] == 1:
        return np.uint32(cuda.blockIdx.x), np.uint32(0), np.uint32(cuda.threadIdx.x), np.uint32(cuda.blockDim.x)
    o, i = split(cuda.grid(1), x.shape[2])
    return o, i, np.uint32(0) if o < np.uint32(x.shape[0]) else np.uint32(x.shape[1]), np.uint32(1)


@cuda_helper
def row_sum(part, room, x):
    """The sum of the parts of those who share a row."""
    return block_sum(part, room) if x.shape[2] == 1 else part


@cuda_helper
def row_maximum(room, x):
    """The largest of this thread's row."""
    o, i, k, step = row_of_thread(x)
    top = x.dtype.type(-np.inf)
    while k < np.uint32(x.shape[1]):
        top = larger(top, x[o, k, i])
        k = np.uint32(k + step)
    return block_maximum(top, room) if x.shape[2] == 1 else top


@cuda_helper
def row_mass(top, room, x):
    """The sum of exp(x - top) over this thread's row."""
    o, i, k, step = row_of_thread(x)
    mass = x.dtype.type(0)
    while k < np.uint32(x.shape[1]):
        mass += exp_below(x[o, k, i] - top)
        k = np.uint32(k + step)
    return row_sum(mass, room, x)


@cuda_helper
def put_twice(y, saved_y, o, k, i, value):
    """y[o, k, i] = value, and in the second copy unless it is empty."""
    y[o, k, i] = value
    if saved_y.size > 0:
        saved_y[(o * np.uint32(y.shape[1]) + k) * np.uint32(y.shape[2]) + i] = value

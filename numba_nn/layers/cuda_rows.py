"""Rows over k of arrays (O, K, I) on a GPU.

A block has a row where I is 1, so that its threads share out k, four at a time by accesses of 16 bytes; otherwise a thread has
one, and its neighbours those beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_nn.core.cuda_planes import split
from numba_nn.core.cuda_reduce import block_maximum, block_per_row, block_sum, larger
from numba_nn.core.portable import fetch, put
from numba_nn.core.ptx import WINDOW, cuda, device_function, flat_part
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
def windows_of_thread(x):
    """The same where a thread takes a window of k's at a time."""
    o, i, k, step = row_of_thread(x)
    if x.shape[2] == 1:
        return o, i, np.uint32(k * np.uint32(WINDOW)), np.uint32(step * np.uint32(WINDOW))
    return o, i, k, np.uint32(WINDOW)


@device_function
def take(window, x, o, i, k):
    """Fill a window with x[o, k, i] and the next k's; with zeros beyond the row."""
    size = np.uint32(x.shape[1])
    if x.shape[2] == 1:
        fetch(window, flat_part(x, o * size, (o + np.uint32(1)) * size), np.uint64(k))
    else:
        for lane in range(WINDOW):
            window[lane] = x[o, k + np.uint32(lane), i] if k + np.uint32(lane) < size else x.dtype.type(0)


@device_function
def give(y, o, i, k, window):
    """Write a window where `take` would find it."""
    size = np.uint32(y.shape[1])
    if y.shape[2] == 1:
        put(flat_part(y, o * size, (o + np.uint32(1)) * size), np.uint64(k), window, size)
    else:
        for lane in range(WINDOW):
            if k + np.uint32(lane) < size:
                y[o, k + np.uint32(lane), i] = window[lane]


@cuda_helper
def row_sum(part, room, x):
    """The sum of the parts of those who share a row."""
    return block_sum(part, room) if x.shape[2] == 1 else part


@cuda_helper
def row_maximum(room, x):
    """The largest of this thread's row."""
    window, (o, i, k, step) = cuda.local.array(WINDOW, x.dtype), windows_of_thread(x)
    top = x.dtype.type(-np.inf)
    while k < np.uint32(x.shape[1]):
        take(window, x, o, i, k)
        for lane in range(WINDOW):
            top = larger(top, window[lane]) if k + np.uint32(lane) < np.uint32(x.shape[1]) else top
        k = np.uint32(k + step)
    return block_maximum(top, room) if x.shape[2] == 1 else top


@cuda_helper
def row_mass(top, room, x):
    """The sum of exp(x - top) over this thread's row."""
    window, (o, i, k, step) = cuda.local.array(WINDOW, x.dtype), windows_of_thread(x)
    mass = x.dtype.type(0)
    while k < np.uint32(x.shape[1]):
        take(window, x, o, i, k)
        for lane in range(WINDOW):
            inside = k + np.uint32(lane) < np.uint32(x.shape[1])
            mass += exp_below(window[lane] - top) if inside else x.dtype.type(0)
        k = np.uint32(k + step)
    return row_sum(mass, room, x)


@device_function
def give_twice(y, saved_y, o, i, k, window):
    """`give`, also to the second copy, flat, unless that is empty."""
    give(y, o, i, k, window)
    size = np.uint32(y.shape[1])
    if saved_y.size > 0 and y.shape[2] == 1:
        put(flat_part(saved_y, o * size, (o + np.uint32(1)) * size), np.uint64(k), window, size)
    elif saved_y.size > 0:
        for lane in range(WINDOW):
            if k + np.uint32(lane) < size:
                saved_y[(o * size + k + np.uint32(lane)) * np.uint32(y.shape[2]) + i] = window[lane]

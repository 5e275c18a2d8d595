"""Sums and extremes over the threads of a block, in a fixed order: the two stages of every reduction on a GPU.

    room = cuda.shared.array(WARPS, x.dtype)
    part = sum of some elements, the same ones for a thread in every run
    total = block_sum(part, room)          in each of the block's threads

Where a block does not suffice, every block writes its total, and a launch of one block adds these (`one_block`). How many there
are depends on shapes alone, so that sums have the same bits in every run. Blocks are whole warps, of up to 1,024 threads.
One of two dimensions has several *teams*, each of ``blockDim.x`` threads: see `team_sum`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.cuda.twin import THREADS, cuda_helper

WARP, LOG2_WARP = 32, 5
WARPS = 32  # of a block, at the most
ALL_LANES = 0xFFFFFFFF
EACH = 8  # elements of a row that a thread has, about


def row_threads(length: int) -> int:
    """Threads for a row of so many elements."""
    return WARP * max(1, min(THREADS // WARP, -(-length // (WARP * EACH))))


def block_per_row(first: Any, *_: Any) -> tuple[int, int]:
    """A grid with a block for each row of the first argument, which has two dimensions."""
    return first.shape[0], row_threads(first.shape[1])


def one_block(first: Any, *_: Any) -> tuple[int, int]:
    """A grid of one block."""
    return 1, THREADS


@cuda_helper
def lanes_sum(value, lanes):  # type: ignore[no-untyped-def]
    """The sum over so many neighbours of a warp, a power of two, in each of them: of pairs, of pairs of pairs, ..."""
    for n in range(LOG2_WARP):
        other = cuda.shfl_xor_sync(ALL_LANES, value, WARP >> (n + 1))
        value = value + other if lanes > WARP >> (n + 1) else value
    return value


@cuda_helper
def larger(a, b):  # type: ignore[no-untyped-def]
    """The larger of two numbers, NaN if either is."""
    return a if (a > b) | (a != a) else b


@cuda_helper
def lanes_maximum(value, lanes):  # type: ignore[no-untyped-def]
    """The largest value of so many neighbours of a warp, in each of them; NaN if one is."""
    for n in range(LOG2_WARP):
        other = cuda.shfl_xor_sync(ALL_LANES, value, WARP >> (n + 1))
        value = larger(value, other) if lanes > WARP >> (n + 1) else value
    return value


@cuda_helper
def warp_sum(value):  # type: ignore[no-untyped-def]
    """The sum over a warp, in each of its threads."""
    return lanes_sum(value, WARP)


@cuda_helper
def warp_maximum(value):  # type: ignore[no-untyped-def]
    """The largest value of a warp, in each of its threads; NaN if one is."""
    return lanes_maximum(value, WARP)


@cuda_helper
def gathered(value, room, neutral):  # type: ignore[no-untyped-def]
    """In every warp, the values that all warps agree on, one for each thread; ``neutral`` where there is no such warp."""
    lane, warp = np.uint32(cuda.threadIdx.x & 31), np.uint32(cuda.threadIdx.x >> 5)
    if lane == 0:
        room[warp] = value
    cuda.syncthreads()
    found = room[lane] if lane < np.uint32(cuda.blockDim.x >> 5) else neutral
    cuda.syncthreads()  # then room is free for the next
    return found


@cuda_helper
def block_sum(value, room):  # type: ignore[no-untyped-def]
    """The sum over a block, in each of its threads; room: `WARPS` elements of shared memory."""
    return warp_sum(gathered(warp_sum(value), room, room.dtype.type(0)))


@cuda_helper
def block_maximum(value, room):  # type: ignore[no-untyped-def]
    """The largest value of a block, in each of its threads, NaN if one is; room: `WARPS` elements of shared memory."""
    most = warp_maximum(value)
    return warp_maximum(gathered(most, room, most))


@cuda_helper
def team_sum(value, room):  # type: ignore[no-untyped-def]
    """The sum over threads with the same ``threadIdx.y``, in each of them: a power of two within a warp, or a whole block."""
    value = lanes_sum(value, cuda.blockDim.x)
    return value if cuda.blockDim.x <= WARP else warp_sum(gathered(value, room, room.dtype.type(0)))


@cuda_helper
def team_maximum(value, room):  # type: ignore[no-untyped-def]
    """The largest value of these threads, in each of them; NaN if one is."""
    value = lanes_maximum(value, cuda.blockDim.x)
    return value if cuda.blockDim.x <= WARP else warp_maximum(gathered(value, room, value))

"""Sums of losses on a GPU: a block of threads sums a block of elements in their own precision, one block adds these in float64.

Blocks are those of `numba_nn.core.reduce`, so a sum has the same bits in every run.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_nn.core.cuda.ptx import WINDOW, cuda
from numba_nn.core.cuda.reduce import WARPS, block_sum, one_block
from numba_nn.core.cuda.twin import THREADS, cuda_helper, cuda_kernel
from numba_nn.core.kernel import In, Out
from numba_nn.core.reduce import BLOCK

STEP = WINDOW * THREADS  # elements that a block of threads takes at a time


def block_per_sum(partial: Any, *_: Any) -> tuple[int, int]:
    """A grid with a block of threads for each partial sum; the last dimension counts them."""
    return partial.shape[-1], THREADS


@cuda_helper
def windows_of_thread(x):
    """This thread's first element of its block, and the one after the block's last; from there it goes on by `STEP`.

    Beyond the end of ``x`` windows hold zeros (`numba_nn.core.cuda.portable.fetch`), which add nothing to a sum.
    """
    start = np.uint64(cuda.blockIdx.x) * np.uint64(BLOCK)
    return start + np.uint64(cuda.threadIdx.x) * np.uint64(WINDOW), min(np.uint64(x.size), start + np.uint64(BLOCK))


@cuda_helper
def put_sum(partial, part, like):
    """partial, of this block, = the sum of its threads' parts, which have the dtype of ``like``."""
    total = block_sum(part, cuda.shared.array(WARPS, like.dtype))
    if cuda.threadIdx.x == 0:
        partial[cuda.blockIdx.x] = total


@cuda_helper
def total_of(partial):
    """The sum of the blocks' sums, in each thread of the only block."""
    total, i = np.float64(0), np.uint32(cuda.threadIdx.x)
    while i < np.uint32(partial.size):
        total += partial[i]
        i = np.uint32(i + np.uint32(THREADS))
    return block_sum(total, cuda.shared.array(WARPS, np.float64))


@cuda_kernel(grid=one_block)
def scaled_total(loss: Out, partial: In, scale: float):
    """loss[0] = scale sum partial."""
    total = total_of(partial)
    if cuda.threadIdx.x == 0:
        loss[0] = total * scale

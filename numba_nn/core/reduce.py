"""Sums whose result does not depend on the number of threads: fixed blocks, whose sums are added in order.

for block in prange(partial.size):
    start, stop = block_bounds(block, x.size)
    ... partial[block] = sum over x[start:stop]
total = ordered_sum(partial)
"""

from __future__ import annotations

from numba.extending import register_jitable

from numba_nn.core.kernel import inner

BLOCK = 4096  # elements that are summed in their own precision: 16 KB of float32
FEW = 512  # the same, where more than 1e-7 of the sum would be too large an error


@register_jitable
def block_count(size: int) -> int:
    """Number of blocks of ``size`` elements."""
    return -(-size // BLOCK)


@inner
def block_bounds(block, size):
    """First element of a block, and the one after its last."""
    return block * BLOCK, min(size, (block + 1) * BLOCK)


@inner
def float_sum(x):
    """Sum of a flat array, in float64; 512 elements at a time in their own precision, which takes half the time."""
    total = 0.0
    for start in range(0, x.size, FEW):
        part, few = x.dtype.type(0), x[start : start + FEW]
        for i in range(few.size):
            part += few[i]
        total += part
    return total


@inner
def ordered_sum(partial):
    """Sum of the blocks' sums, in float64."""
    total = 0.0
    for block in range(partial.size):
        total += partial[block]
    return total

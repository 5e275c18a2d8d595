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


@register_jitable
def block_count(size: int) -> int:
    """Number of blocks of ``size`` elements."""
    return -(-size // BLOCK)


@inner
def block_bounds(block, size):
    """First element of a block, and the one after its last."""
    return block * BLOCK, min(size, (block + 1) * BLOCK)


@inner
def ordered_sum(partial):
    """Sum of the blocks' sums, in float64."""
    total = 0.0
    for block in range(partial.size):
        total += partial[block]
    return total

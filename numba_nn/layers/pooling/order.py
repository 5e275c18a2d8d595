"""Which of two values a maximum pooling takes: the first of equal ones, the last of several NaNs."""

import numpy as np

from numba_nn.core.kernel import inlined


@inlined
def exceeds(value, best):
    """Whether a value is to be taken rather than the best of those before it: larger, or NaN."""
    return (value > best) | (value != value)


@inlined
def comes_first(value, at, best, position):
    """Whether a value is to be taken rather than the best so far: larger, or equal and earlier, or the last NaN.

    Before a first value, the best is minus infinity at -1, which as an unsigned number lies behind everything.
    """
    equal = (value == best) & (np.uint32(at) < np.uint32(position))
    nan = (value != value) & ((best == best) | (at > position))
    return (value > best) | equal | nan

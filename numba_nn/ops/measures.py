"""What is summed, or compared, of the elements of an array: themselves, their absolute values or their squares."""

from __future__ import annotations

import math

from numba_nn.core.kernel import inlined

VALUE, ABSOLUTE, SQUARE = range(3)


@inlined
def measured(x, measure):
    """x, |x| or x^2."""
    if measure == SQUARE:
        return x * x
    return abs(x) if measure == ABSOLUTE else x


@inlined
def finished(total, measure, count):
    """A sum as a result: of squares the root, of others the mean of ``count``."""
    return math.sqrt(total) if measure == SQUARE else total / count

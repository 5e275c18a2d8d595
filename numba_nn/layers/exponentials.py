"""Exponentials of rows, less the largest element of each: what softmax and cross-entropy begin with on a CPU.

Arrays are (O, K, I), and tasks those of `numba_nn.core.rows`.
"""

from __future__ import annotations

import numpy as np

from numba_nn.core.each import each
from numba_nn.core.kernel import inlined, inner
from numba_nn.core.simd import maximum
from numba_nn.core.vector import read_ahead
from numba_nn.core.vmath import exp_below

SUMMED = 1024  # elements of a row that are summed in their own precision
FETCHED = 512, 2**16  # elements of rows that are fetched while the one before is computed: longer ones would fill the cache


@inlined
def exp_less(x, top):
    """exp(x - top) where x <= top."""
    return exp_below(x - top)


@inner
def exponentials(e, largest, total, x, o, start, stop):
    """largest = max_k x, e = exp(x - largest) and total = sum_k e, over a task; a NaN in x spreads over its row.

    Loops run over whole slices: over a part of an array, from an index that might be negative, LLVM makes no vectors.
    """
    if x.shape[2] == 1:
        row = o * x.shape[1]
        largest[o, 0], total[o, 0] = row_exponentials(e.reshape(e.size), x.reshape(x.size), row, row + x.shape[1])
    else:
        tops, masses = largest[o, start:stop], total[o, start:stop]
        for i in range(tops.size):
            tops[i], masses[i] = -np.inf, 0
        for k in range(x.shape[1]):
            x_line = x[o, k, start:stop]
            for i in range(tops.size):
                tops[i] = maximum(tops[i], x_line[i])
        for k in range(x.shape[1]):
            x_line, e_line = x[o, k, start:stop], e[o, k, start:stop]
            each(exp_less, e_line, (x_line, tops))
            for i in range(tops.size):
                masses[i] += e_line[i]


@inner
def row_top(row):
    """The largest of a row, NaN if there is one; minus infinity where it is empty."""
    top = row.dtype.type(-np.inf)
    for k in range(row.size):
        top = maximum(top, row[k])
    return top


@inner
def next_row(row):
    """How far ahead the next row is, if it is to be fetched while this one is computed; else 0."""
    return row.size if FETCHED[0] <= row.size <= FETCHED[1] else 0


@inner
def row_exponentials(e, x, start, stop):
    """The largest of x[start:stop], and the sum of e = exp(x - largest) over it; minus infinity and 0 where that is empty."""
    row, total = x[start:stop], 0.0
    top = row_top(row)
    for first in range(start, stop, SUMMED):
        last = min(stop, first + SUMMED)
        part, e_part, mass = x[first:last], e[first:last], x.dtype.type(0)
        if next_row(row) > 0:
            read_ahead(x, first + row.size, part.size)
        each(exp_less, e_part, (part, top))
        for k in range(e_part.size):
            mass += e_part[k]
        total += mass
    return top, total

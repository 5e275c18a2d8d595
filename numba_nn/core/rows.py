"""Rows over one dimension of an array, as tasks: x is (O, K, I), all dimensions before that one, it, and all after it.

A task is one row where I is 1, so that loops run along k, and otherwise `LANES` neighbouring rows, so that inner loops run
along i. For a GPU see `numba_nn.core.cuda.rows`.
"""

from __future__ import annotations

import numpy as np

from numba_nn.core.kernel import inner

LANES = 256  # neighbouring rows of a task: 1 KB of float32


@inner
def task_count(x):
    """Number of tasks over x: (O, K, I)."""
    return x.shape[0] * (-(-x.shape[2] // LANES))


@inner
def task_bounds(task, x):
    """The o of a task, its first i, and the one after its last."""
    blocks = -(-x.shape[2] // LANES)
    start = task % blocks * LANES
    return task // blocks, start, min(x.shape[2], start + LANES)


@inner
def fill(array, start, stop, value):
    """array[start:stop] = value."""
    for i in range(start, stop):
        array[np.uintp(i)] = value  # unsigned: no test for negative indices, so the loop vectorises

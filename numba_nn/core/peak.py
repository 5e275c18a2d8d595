"""The multiply-add peak of this machine, measured: the yardstick of every share that a report gives."""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.kernel import In, Out, kernel
from numba_nn.core.product.fma_tile import fma_tile
from numba_nn.core.simd import tile_columns, tile_rows, tile_shape
from numba_nn.core.threads import get_num_threads
from numba_nn.core.workspace import Workspace

DEPTH = 128  # with AVX-512 both panels take 12 x 128 x 4 B + 32 x 128 x 4 B = 22 KB: they never leave the L1 cache
TARGET_SECONDS = 0.05  # of a round: long beside a scheduler's slice of 8 ms, which a busy machine takes per parallel region


@kernel
def fma_repeat(c: Out, a: In, b: In, repeats: int):
    """Multiply the same two panels again and again; c, a, b: (workers, elements of a tile and of its two panels)."""
    height, width = tile_rows(c), tile_columns(c)
    for worker in prange(c.shape[0]):
        for _ in range(repeats):
            fma_tile(
                c[worker], 0, width, height, width, True, a[worker], 0, 1, height, b[worker], 0, 0, width,
                a.shape[1] // height, 0, True,
            )  # fmt: skip


def measure_peak(dtype: Any = np.float32, rounds: int = 15) -> float:
    """Measure the rate of multiply-adds on data in the L1 cache, on all of Numba's threads.

    Parameters
    ----------
    dtype : dtype, optional
        float32 or float64.
    rounds : int, optional
        Rounds of about 50 ms, of which the median counts.

    Returns
    -------
    float
        GFLOP/s; a multiply-add is two.
    """
    height, width = tile_shape(dtype)
    workers = get_num_threads()
    sizes = {"c": height * width, "a": height * DEPTH, "b": width * DEPTH}
    buffers = Workspace()  # aligned, as the layers' panels are
    c, a, b = (buffers.array(name, (workers, size), dtype) for name, size in sizes.items())
    a.fill(0.5)
    b.fill(0.5)
    flops = 2 * height * width * DEPTH * workers

    def seconds(repeats: int) -> float:
        c.fill(0)  # sums stay finite and normal
        start = time.perf_counter()
        fma_repeat.for_work(math.inf)(c, a, b, repeats)
        return time.perf_counter() - start

    seconds(1)  # compiles
    repeats = 64
    while (taken := seconds(repeats)) < TARGET_SECONDS / 2:
        repeats *= 2
    return repeats * flops / statistics.median([taken, *(seconds(repeats) for _ in range(rounds - 1))]) / 1e9

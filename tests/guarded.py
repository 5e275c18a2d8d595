"""An array between guards, which shows what is written beyond it."""

from __future__ import annotations

import math

import numpy as np

GUARD = 2**15  # elements on either side: most slips stay within


class Guarded:
    """An array of NaN between two guards."""

    def __init__(self, shape, dtype):
        size = math.prod(shape)
        self.memory = np.arange(size + 2 * GUARD, dtype=dtype)
        self.array = self.memory[GUARD : GUARD + size].reshape(shape)
        self.array[...] = np.nan if self.array.dtype.kind == "f" else -GUARD

    def check(self, name):
        expected = np.arange(self.memory.size, dtype=self.memory.dtype)
        for side in (slice(GUARD), slice(-GUARD, None)):
            np.testing.assert_array_equal(self.memory[side], expected[side], f"beyond {name}")

"""Arrays that show what is written beyond them, and what is read."""

from __future__ import annotations

import ctypes
import math
import mmap

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


def fenced(array):
    """A copy that ends where a page of memory begins that must not be touched: who reads beyond it ends the process."""
    pages = max(1, -(-array.nbytes // mmap.PAGESIZE)) * mmap.PAGESIZE
    memory = mmap.mmap(-1, pages + mmap.PAGESIZE)
    fence = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + pages
    no_access = 0
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(fence), mmap.PAGESIZE, no_access) == 0
    copy = np.frombuffer(memory, array.dtype, array.size, pages - array.nbytes).reshape(array.shape)
    copy[...] = array
    return copy

"""Loops over elements with several vectors under way: what they compute, and that LLVM listens."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from numba import jit

from numba_nn.core.each import INTERLEAVED, each
from numba_nn.core.kernel import FLAGS, In, Out, inlined, kernel


@inlined
def share(a, b, factor):
    """factor a / b."""
    return factor * a / b


@kernel
def share_each(y: Out, a: In, b: In):
    """y = 3 a / b, with a factor that is a number."""
    each(share, y, (a, b, a.dtype.type(3)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [0, 1, 7, 31, 32, 33, 100])
def test_every_element_is_written_and_no_other(size, dtype):
    a, b = np.arange(size).astype(dtype), np.arange(1, size + 1).astype(dtype)
    y = np.full(size + 8, 7, dtype)
    share_each.serial(y[:size], a, b)
    np.testing.assert_array_equal(y, np.concatenate([(3 * a) / b, np.full(8, 7)]))
    share_each.serial(a, a, b)
    np.testing.assert_array_equal(a, y[:size])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads the machine code of x86")
@pytest.mark.parametrize(("dtype", "division"), [(np.float32, "divps"), (np.float64, "divpd")])
def test_several_vectors_are_under_way(dtype, division):
    compiled = jit(**FLAGS)(share_each.py_func)  # not the kernel, which may come from the cache without its text
    compiled(np.ones(8, dtype), np.ones(8, dtype), np.ones(8, dtype))
    (text,) = compiled.inspect_asm().values()
    assert text.count(division) >= INTERLEAVED

"""Loops over elements with several vectors under way: what they compute, and that LLVM listens."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from numba import jit

import numba_nn as nn
from numba_nn.core.each import FAR, INTERLEAVED, PIECE, PIECES_AHEAD, each, each_ahead, each_far, each_sum, is_far
from numba_nn.core.kernel import FLAGS, In, Out, inlined, kernel
from numba_nn.core.reduce import BLOCK


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


@kernel
def share_far(y: Out, a: In, b: In, far: int):
    """`share_each`, past the caches if ``far``."""
    each_far(share, y, (a, b, a.dtype.type(3)), far != 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shift", [0, 1, 5])
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 100, PIECE, PIECE + 1, BLOCK])
def test_what_goes_past_the_caches_arrives_and_nothing_else_does(size, shift, dtype):
    a, b = np.arange(size).astype(dtype), np.arange(1, size + 1).astype(dtype)
    y, through = np.full(size + 16, 7, dtype), np.empty(size, dtype)
    share_far.serial(y[shift : shift + size], a, b, 1)
    share_far.serial(through, a, b, 0)
    np.testing.assert_array_equal(y, np.concatenate([np.full(shift, 7), through, np.full(16 - shift, 7)]))
    share_far.serial(a, a, b, 1)
    np.testing.assert_array_equal(a, through)


@kernel
def share_twice(y: Out, kept: Out, a: In, b: In, ahead: int, far: int):
    """The same into two arrays."""
    if ahead:
        each_ahead(share, (y, kept), (a, b, a.dtype.type(3)), far != 0)
    else:
        each_far(share, (y, kept), (a, b, a.dtype.type(3)), far != 0)


@pytest.mark.parametrize("far", [0, 1])
@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [0, 1, 17, 100, PIECE, PIECE + 1, BLOCK + 5])
def test_two_arrays_get_the_same_or_the_second_nothing(size, dtype, ahead, far):
    a, b = np.arange(size).astype(dtype), np.arange(1, size + 1).astype(dtype)
    y, kept = np.full(size + 9, 7, dtype), np.full(size + 9, 7, dtype)
    share_twice.serial(y[3 : 3 + size], kept[5 : 5 + size], a, b, ahead, far)
    expected = share.py_func(a, b, dtype(3))
    for array, shift in ((y, 3), (kept, 5)):
        np.testing.assert_allclose(array[shift : shift + size], expected, rtol=1e-6)
        np.testing.assert_array_equal(np.delete(array, np.s_[shift : shift + size]), 7)
    again = np.empty(size, dtype)
    share_twice.serial(again, kept[:0], a, b, ahead, far)
    np.testing.assert_array_equal(again, y[3 : 3 + size])


@kernel
def sum_of_shares(y: Out, a: In, b: In, ahead: int):
    """The sum of what `share_each` computes."""
    y[0] = each_sum(share, (a, b, a.dtype.type(3)), ahead)


@pytest.mark.parametrize("ahead", [0, 3, PIECES_AHEAD])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [0, 1, 17, PIECE, PIECE + 1, 100_003])
def test_sums_of_what_is_computed_are_float64(size, dtype, ahead):
    a, b = np.arange(size).astype(dtype), np.arange(1, size + 1).astype(dtype)
    y = np.empty(1)
    sum_of_shares.serial(y, a, b, ahead)
    np.testing.assert_allclose(y[0], share.py_func(a.astype(float), b.astype(float), 3.0).sum(), rtol=2e-7)


def test_large_arrays_are_far():
    assert [is_far.py_func(np.empty(size, np.float32)) for size in (FAR // 4 - 1, FAR // 4)] == [False, True]


@pytest.mark.parametrize(("name", "rounding"), [("Softmax", 1e-9), ("LogSoftmax", 1e-6)])
def test_large_rows_are_those_of_small_arrays(name, rounding):
    rows, length = 7, FAR // 4 // 6 + 3
    x, dy = (np.random.default_rng(seed).standard_normal((rows, length), np.float32) for seed in (0, 1))
    x[3, 5], x[4, 6] = np.nan, -np.inf
    large, small = getattr(nn, name)(1), getattr(nn, name)(1)
    y = large.forward(x)
    dx = large.backward(dy)
    for row in range(rows):
        np.testing.assert_allclose(y[row], small.forward(x[row : row + 1])[0], rtol=3e-5)
        np.testing.assert_allclose(dx[row], small.backward(dy[row : row + 1])[0], rtol=1e-4, atol=rounding)


def test_a_large_result_is_that_of_its_parts():
    x = np.linspace(-9, 9, FAR // 4 + 5, dtype=np.float32)[1:]  # not aligned
    middle = x.size // 2 // BLOCK * BLOCK
    halves = np.concatenate([nn.Sigmoid().forward(half) for half in (x[:middle], x[middle:])])
    layer = nn.Sigmoid()
    np.testing.assert_array_equal(layer.forward(x), halves)
    np.testing.assert_allclose(layer.backward(x), x * halves * (1 - halves), rtol=1e-5, atol=1e-7)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads the machine code of x86")
def test_stores_go_past_the_caches():
    compiled = jit(**FLAGS)(share_far.py_func)
    compiled(np.ones(8), np.ones(8), np.ones(8), 1)
    (text,) = compiled.inspect_asm().values()
    assert "movntp" in text

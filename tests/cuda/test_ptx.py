"""Instructions in the simulator: fragments and copies; planted bugs are one line of a correct kernel."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from lanes import ORDERS
from simulator import launch

from numba_nn.core.cuda.ptx import (
    commit_copies,
    copy16,
    copy_element,
    cuda,
    from_bf16,
    from_f16,
    load16,
    load_matrices,
    load_matrices_transposed,
    multiply_bf16,
    multiply_f16,
    multiply_tf32,
    round_tf32,
    store16,
    to_bf16,
    to_f16,
    wait_copies,
)
from numba_nn.core.cuda.twin import CudaKernel
from numba_nn.core.kernel import In, Out


def simulate(function, block, *arguments, order="depth-first"):
    launch(CudaKernel(function), 1, block, arguments, order=order)
    return arguments[0]


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# Numbers


def round_trip(y: Out, x: In):
    i = cuda.threadIdx.x
    y[0, i], y[1, i], y[2, i] = from_bf16(to_bf16(x[i])), from_f16(to_f16(x[i])), round_tf32(x[i])


def test_conversions():
    x = np.array([1, -1.00390625, 1.01171875, 3.14159, 1e-8, np.inf, 1 + 2**-11, 1 + 2**-12], np.float32)
    y = simulate(round_trip, 8, np.zeros((3, 8)), x)
    np.testing.assert_array_equal(y[0], x.astype(ml_dtypes.bfloat16).astype(np.float32))
    np.testing.assert_array_equal(y[1], x.astype(np.float16).astype(np.float32))
    tf32 = y[2].astype(np.uint32).view(np.float32)
    np.testing.assert_allclose(tf32, x, rtol=2**-11)
    np.testing.assert_array_equal(tf32[-2:], np.array([1 + 2**-10, 1], np.float32))


# Fragments


def tf32_product(c: Out, a: In, b: In):
    """c (16, 8) = a (16, 8) b (8, 8), a and b flat."""
    lane = cuda.threadIdx.x
    g, t = lane >> 2, lane & 3
    left = (
        round_tf32(a[g * 8 + t]), round_tf32(a[(g + 8) * 8 + t]),
        round_tf32(a[g * 8 + t + 4]), round_tf32(a[(g + 8) * 8 + t + 4]),
    )  # fmt: skip
    right = round_tf32(b[t * 8 + g]), round_tf32(b[(t + 4) * 8 + g])
    zero = np.float32(0)
    got = multiply_tf32(left, right, (zero, zero, zero, zero))
    for i in range(4):
        c[(g + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)] = got[i]


def tf32_product_of_a_wrong_fragment(c: Out, a: In, b: In):
    """`tf32_product` with the second and third register of a exchanged."""
    lane = cuda.threadIdx.x
    g, t = lane >> 2, lane & 3
    left = (
        round_tf32(a[g * 8 + t]), round_tf32(a[g * 8 + t + 4]),
        round_tf32(a[(g + 8) * 8 + t]), round_tf32(a[(g + 8) * 8 + t + 4]),
    )  # fmt: skip
    right = round_tf32(b[t * 8 + g]), round_tf32(b[(t + 4) * 8 + g])
    zero = np.float32(0)
    got = multiply_tf32(left, right, (zero, zero, zero, zero))
    for i in range(4):
        c[(g + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)] = got[i]


def tf32(x):
    return ((x.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32)


@pytest.mark.parametrize("order", ORDERS)
def test_tf32_product(order):
    a, b = normal(16, 8), normal(8, 8).T.copy()
    c = simulate(tf32_product, 32, np.zeros(128, np.float32), a.ravel(), b.ravel(), order=order)
    np.testing.assert_allclose(c.reshape(16, 8), tf32(a) @ tf32(b), rtol=1e-5, atol=1e-6)


def test_a_wrong_fragment_shows():
    a, b = normal(16, 8), normal(8, 8).T.copy()
    c = simulate(tf32_product_of_a_wrong_fragment, 32, np.zeros(128, np.float32), a.ravel(), b.ravel())
    assert abs(c.reshape(16, 8) - a @ b).max() > 0.1


def bf16_product(c: Out, a: In, b: In):
    """c (16, 8) = a (16, 16) b (16, 8) of bits, from shared memory."""
    left, right = cuda.shared.array((16, 16), np.uint16), cuda.shared.array((16, 8), np.uint16)
    lane = cuda.threadIdx.x
    store16(left, lane * 8, load16(a, lane * 8))
    if lane < 16:
        store16(right, lane * 8, load16(b, lane * 8))
    cuda.syncthreads()
    zero = np.float32(0)
    rows, columns = load_matrices(left, (lane % 16) * 16 + lane // 16 * 8), load_matrices_transposed(right, (lane % 16) * 8)
    got = multiply_bf16(rows, (columns[0], columns[1]), (zero, zero, zero, zero))
    for i in range(4):
        c[lane // 4 + 8 * (i >> 1), 2 * (lane & 3) + (i & 1)] = got[i]


def f16_product(c: Out, a: In, b: In):
    """`bf16_product` of other bits, b (8, 16) transposed."""
    left, right = cuda.shared.array((16, 16), np.uint16), cuda.shared.array((8, 16), np.uint16)
    lane = cuda.threadIdx.x
    store16(left, lane * 8, load16(a, lane * 8))
    if lane < 16:
        store16(right, lane * 8, load16(b, lane * 8))
    cuda.syncthreads()
    zero = np.float32(0)
    rows, columns = (
        load_matrices(left, (lane % 16) * 16 + lane // 16 * 8),
        load_matrices(right, lane % 16 // 2 * 16 + lane % 2 * 8),
    )
    got = multiply_f16(rows, (columns[0], columns[1]), (zero, zero, zero, zero))
    for i in range(4):
        c[lane // 4 + 8 * (i >> 1), 2 * (lane & 3) + (i & 1)] = got[i]


def test_bf16_product():
    a, b = normal(16, 16).astype(ml_dtypes.bfloat16), normal(16, 8).astype(ml_dtypes.bfloat16)
    c = simulate(bf16_product, 32, np.zeros((16, 8), np.float32), a.view(np.uint16), b.view(np.uint16))
    np.testing.assert_allclose(c, a.astype(np.float32) @ b.astype(np.float32), rtol=1e-5, atol=1e-5)


def test_matrices_are_loaded_by_eight_rows_each():
    a, b = normal(16, 16).astype(np.float16), normal(8, 16).astype(np.float16)
    c = simulate(f16_product, 32, np.zeros((16, 8), np.float32), a.view(np.uint16), b.view(np.uint16))
    order = np.arange(8)  # lane i names half i % 2 of row i / 2: matrix 0 is rows 0 to 3, both halves
    halves = b.reshape(8, 2, 8).reshape(16, 8).astype(np.float32)
    np.testing.assert_allclose(
        c, a[:, :8].astype(np.float32) @ halves[order].T + a[:, 8:].astype(np.float32) @ halves[8:].T, atol=1e-4
    )


def test_an_instruction_of_the_warp_needs_all_lanes():
    with pytest.raises(AssertionError, match="the whole warp"):
        simulate(tf32_product, 16, np.zeros(128, np.float32), normal(128), normal(64))


# Copies


def copied(y: Out, x: In):
    stage = cuda.shared.array(128, np.float32)
    t = cuda.threadIdx.x
    copy16(stage, 4 * t, x, 4 * t, min(4, x.size - 4 * t))
    commit_copies()
    wait_copies(0)
    cuda.syncthreads()
    y[t] = stage[4 * t] + stage[(4 * t + 5) % 128]


def copied_without_wait(y: Out, x: In):
    stage = cuda.shared.array(128, np.float32)
    t = cuda.threadIdx.x
    copy16(stage, 4 * t, x, 4 * t, min(4, x.size - 4 * t))
    commit_copies()
    cuda.syncthreads()
    y[t] = stage[4 * t] + stage[(4 * t + 5) % 128]


def copied_without_commit(y: Out, x: In):
    stage = cuda.shared.array(128, np.float32)
    t = cuda.threadIdx.x
    copy16(stage, 4 * t, x, 4 * t, min(4, x.size - 4 * t))
    wait_copies(0)
    cuda.syncthreads()
    y[t] = stage[4 * t] + stage[(4 * t + 5) % 128]


def copied_without_barrier(y: Out, x: In):
    stage = cuda.shared.array(128, np.float32)
    t = cuda.threadIdx.x
    copy16(stage, 4 * t, x, 4 * t, min(4, x.size - 4 * t))
    commit_copies()
    wait_copies(0)
    y[t] = stage[4 * t] + stage[(4 * t + 5) % 128]


def two_groups(y: Out, x: In):
    stage = cuda.shared.array((2, 32), np.float32)
    t = cuda.threadIdx.x
    for i in range(2):
        copy_element(stage, 32 * i + t, x, 32 * i + t, 1)
        commit_copies()
    wait_copies(1)
    y[t] = stage[0, t]
    y[32 + t] = stage[1, t]


@pytest.mark.parametrize("order", ORDERS)
def test_copies_land_at_the_wait(order):
    x = np.arange(1, 127, dtype=np.float32)
    y = simulate(copied, 32, np.zeros(32, np.float32), x, order=order)
    padded, t = np.append(x, [0, 0]), np.arange(32)
    np.testing.assert_array_equal(y, padded[4 * t] + padded[(4 * t + 5) % 128])


@pytest.mark.parametrize("function", [copied_without_wait, copied_without_commit, copied_without_barrier])
def test_a_copy_that_nobody_waits_for_shows(function):
    assert np.isnan(simulate(function, 32, np.zeros(32, np.float32), np.ones(126, np.float32))).any()


def test_the_newest_groups_may_be_under_way():
    y = simulate(two_groups, 32, np.zeros(64, np.float32), np.arange(64, dtype=np.float32))
    np.testing.assert_array_equal(y, [*range(32), *[np.nan] * 32])


def misaligned(y: Out, x: In):
    store16(y, 0, load16(x, 2))


def beyond(y: Out, x: In):
    store16(y, 8, load16(x, 0))


@pytest.mark.parametrize("function", [misaligned, beyond])
def test_vectors_out_of_bounds(function):
    with pytest.raises(IndexError):
        simulate(function, 1, np.zeros(8, np.float32), np.zeros(8, np.float32))

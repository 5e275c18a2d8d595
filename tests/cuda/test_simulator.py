"""The simulator computes what a GPU would, and notices what it should: each planted bug is one line of a correct kernel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from lanes import ORDERS
from simulator import launch

from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.cuda.twin import CudaKernel
from numba_nn.core.kernel import In, Out, inlined


def simulate(function, grid, block, *arguments, order="depth-first"):
    launch(CudaKernel(function), grid, block, arguments, order=order)
    return arguments[0]


@pytest.fixture(params=ORDERS)
def order(request):
    return request.param


# Threads, grids and helpers


@inlined
def position():
    return cuda.threadIdx.z * cuda.blockDim.y * cuda.blockDim.x + cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x


def coordinates(y: Out):
    size = cuda.blockDim.x * cuda.blockDim.y * cuda.blockDim.z
    block = (cuda.blockIdx.z * cuda.gridDim.y + cuda.blockIdx.y) * cuda.gridDim.x + cuda.blockIdx.x
    i, j = cuda.grid(2)
    y[block * size + position()] += 1000 * j + i + cuda.laneid


def test_three_dimensions(order):
    y = simulate(coordinates, (2, 1, 3), (4, 5, 2), np.zeros(240, np.int64), order=order).reshape(3, 2, 2, 5, 4)
    z, j, i = np.ogrid[:2, :5, :4]
    expected = 1000 * j + i + (z * 20 + j * 4 + i) % 32
    np.testing.assert_array_equal(y[:, 0], np.broadcast_to(expected, (3, 2, 5, 4)))
    np.testing.assert_array_equal(y[:, 1], np.broadcast_to(expected + 4, (3, 2, 5, 4)))


def single_precision(y: Out, x: In):
    y[0] = x[0] + math.exp(x[1]) * x[2] / x[3]


def test_float32_stays_float32():
    x = np.array([0.1, 0.2, 0.3, 0.7], np.float32)
    y = simulate(single_precision, 1, 1, np.zeros(1), x)
    assert y[0] == np.float32(y[0]) == x[0] + np.exp(x[1]) * x[2] / x[3]


# Blocks whose threads speak to each other: the sum of a block, by shared memory and by shuffles


def block_sum(y: Out, x: In):
    t, size = cuda.threadIdx.x, cuda.blockDim.x
    part = cuda.shared.array(64, np.float32)
    part[t] = x[cuda.grid(1)]
    cuda.syncthreads()
    half = size // 2
    while half > 0:
        if t < half:
            part[t] += part[t + half]
        cuda.syncthreads()
        half //= 2
    if t == 0:
        y[cuda.blockIdx.x] = part[0]


def block_sum_without_barrier(y: Out, x: In):
    t, size = cuda.threadIdx.x, cuda.blockDim.x
    part = cuda.shared.array(64, np.float32)
    part[t] = x[cuda.grid(1)]
    cuda.syncthreads()
    half = size // 2
    while half > 0:
        if t < half:
            part[t] += part[t + half]
        half //= 2
    cuda.syncthreads()
    if t == 0:
        y[cuda.blockIdx.x] = part[0]


def reads_before_it_is_written(y: Out, x: In):
    part = cuda.shared.array(64, np.float32)
    part[cuda.threadIdx.x] = x[cuda.grid(1)]
    if cuda.threadIdx.x == 0:
        y[cuda.blockIdx.x] = part[1]
    cuda.syncthreads()


def divergent_barrier(y: Out, x: In):
    if cuda.threadIdx.x < 32:
        cuda.syncthreads()
    else:
        cuda.syncthreads_or(1)


def summed(function, order):
    x = np.arange(128, dtype=np.float32)
    return simulate(function, 2, 64, np.zeros(2, np.float32), x, order=order), x.reshape(2, 64).sum(1)


def test_barriers(order):
    np.testing.assert_array_equal(*summed(block_sum, order))


def test_a_missing_barrier_shows():
    got = [np.array_equal(*summed(block_sum_without_barrier, order)) for order in ORDERS]
    assert not all(got)
    assert np.isnan(summed(reads_before_it_is_written, "depth-first")[0]).any()


def test_a_divergent_barrier_is_a_deadlock(order):
    with pytest.raises(RuntimeError, match="deadlock: 64 threads"):
        summed(divergent_barrier, order)


def two_arrays(y: Out, x: In):
    a, b = cuda.shared.array(4, np.float32), cuda.shared.array(4, np.float32)
    own = cuda.local.array(2, np.int32)
    i = cuda.threadIdx.x
    a[i], b[i], own[0] = x[i], 10 * x[i], i
    cuda.syncthreads()
    y[i] = a[3 - i] + b[own[0]]


def reads_local_memory(y: Out, x: In):
    y[cuda.grid(1)] = cuda.local.array(2, np.float32)[0]


def test_shared_and_local_arrays(order):
    y = simulate(two_arrays, 1, 4, np.zeros(4, np.float32), np.arange(4, dtype=np.float32), order=order)
    np.testing.assert_array_equal(y, [3, 12, 21, 30])
    assert np.isnan(simulate(reads_local_memory, 1, 1, np.zeros(1), np.zeros(1)))


def blocks_share_nothing(y: Out, x: In):
    part = cuda.shared.array(1, np.float32)
    if cuda.blockIdx.x == 0:
        part[0] = x[0]
    cuda.syncthreads()
    y[cuda.blockIdx.x] = part[0]


def test_shared_memory_is_a_blocks_own():
    np.testing.assert_array_equal(simulate(blocks_share_nothing, 2, 1, np.zeros(2), np.ones(1)), [1, np.nan])


# Warps


def warp_operations(y: Out, x: In):
    lane, value = cuda.laneid, x[cuda.threadIdx.x]
    y[0, cuda.threadIdx.x] = cuda.shfl_sync(0xFFFFFFFF, value, 5)
    y[1, cuda.threadIdx.x] = cuda.shfl_up_sync(0xFFFFFFFF, value, 1)
    y[2, cuda.threadIdx.x] = cuda.shfl_down_sync(0xFFFFFFFF, value, 2)
    y[3, cuda.threadIdx.x] = cuda.shfl_xor_sync(0xFFFFFFFF, value, 16)
    y[4, cuda.threadIdx.x] = cuda.ballot_sync(0xFFFFFFFF, lane % 2)
    y[5, cuda.threadIdx.x] = cuda.any_sync(0xFFFFFFFF, lane == 3) + 2 * cuda.all_sync(0xFFFFFFFF, lane == 3)
    y[6, cuda.threadIdx.x] = cuda.syncthreads_count(lane == 3)
    y[7, cuda.threadIdx.x] = cuda.syncthreads_or(lane == 3) + 2 * cuda.syncthreads_and(lane == 3)
    if lane < 16:  # half of a warp meets by itself
        y[8, cuda.threadIdx.x] = cuda.shfl_xor_sync(0xFFFF, value, 1)


def test_warp_operations(order):
    y, lane = np.zeros((9, 64)), np.arange(32)
    simulate(warp_operations, 1, 64, y, np.arange(64, dtype=np.float32), order=order)
    expected = [0 * lane + 5, np.maximum(lane - 1, 0), np.where(lane < 30, lane + 2, lane), lane ^ 16]
    expected += [0 * lane + 0xAAAAAAAA, 0 * lane + 1]
    np.testing.assert_array_equal(y[:6, :32], expected)
    np.testing.assert_array_equal(y[:4, 32:], np.array(expected[:4]) + 32)
    np.testing.assert_array_equal(y[6:8], np.array([[2], [1]]) * np.ones(64))
    np.testing.assert_array_equal(y[8, :16], np.arange(16) ^ 1)


def lane_that_does_not_come(y: Out):
    if cuda.laneid != 7:
        cuda.syncwarp()
    cuda.syncthreads()


def lane_outside_of_the_mask(y: Out):
    y[cuda.laneid] = cuda.shfl_down_sync(0xF if cuda.laneid < 4 else 0xFFFFFFF0, np.float32(1), 1)


def test_a_warp_waits_for_all_lanes_of_the_mask(order):
    with pytest.raises(RuntimeError, match="deadlock"):
        simulate(lane_that_does_not_come, 1, 32, np.zeros(1), order=order)
    y = simulate(lane_outside_of_the_mask, 1, 32, np.zeros(32), order=order)
    assert np.flatnonzero(np.isnan(y)).tolist() == [3]


# What a thread may not do


def before_the_first(y: Out, x: In):
    y[cuda.threadIdx.x] = x[cuda.threadIdx.x - 1]


def beyond_the_last(y: Out, x: In):
    y[cuda.threadIdx.x + 1] = x[cuda.threadIdx.x]


def beyond_shared(y: Out, x: In):
    part = cuda.shared.array((2, 2), np.float32)
    part[0, cuda.threadIdx.x] = x[0]


def writes_its_input(y: Out, x: In):
    x[cuda.threadIdx.x] = 0


@pytest.mark.parametrize("function", [before_the_first, beyond_the_last, beyond_shared])
def test_indices_out_of_bounds(function):
    with pytest.raises(IndexError):
        simulate(function, 1, 4, np.zeros(4), np.zeros(4))


def test_an_input_is_read_only():
    x = np.zeros(4)
    x.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        simulate(writes_its_input, 1, 4, np.zeros(4), x)


def unknown(y: Out):
    cuda.nanosleep(1)


def test_what_is_not_simulated_says_so():
    with pytest.raises(NotImplementedError, match=r"cuda\.nanosleep"):
        simulate(unknown, 1, 1, np.zeros(1))


# Speed


def tiled_product(c: Out, a: In, b: In):
    tile_a, tile_b = cuda.shared.array((16, 16), np.float32), cuda.shared.array((16, 16), np.float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    column, row = cuda.grid(2)
    total = np.float32(0)
    for k in range(0, a.shape[1], 16):
        tile_a[ty, tx], tile_b[ty, tx] = a[row, k + tx], b[k + ty, column]
        cuda.syncthreads()
        for i in range(16):
            total += tile_a[ty, i] * tile_b[i, tx]
        cuda.syncthreads()
    c[row, column] = total


def test_a_tiled_product():
    """Blocks of 256 threads with barriers: 0.3 s, as threads are greenlets."""
    a, b = np.random.default_rng(0).standard_normal((2, 64, 64), np.float32)
    c = simulate(tiled_product, (4, 4), (16, 16), np.full((64, 64), np.nan, np.float32), a, b)
    np.testing.assert_allclose(c, a @ b, rtol=1e-5, atol=1e-4)

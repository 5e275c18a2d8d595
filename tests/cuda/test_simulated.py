"""Every twin's body computes, in the simulator, what its CPU kernel computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba import prange
from simulator import launch
from twins import clip_below, elementwise_kernels, example, values

from numba_nn.core.cuda.portable import covering_windows, portable_twin
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.cuda.twin import MAX_BLOCKS, THREADS, CudaKernel
from numba_nn.core.kernel import In, Kernel, Out, Role
from numba_nn.core.reduce import block_bounds, block_count

KERNELS = elementwise_kernels()
SIZES = [0, 1, 257]
# Blocks and threads: a grid smaller than the array, one that ends within it, one that is larger.
GRIDS = [(2, 32), (3, 100), (4, 256)]


def both(k: Kernel, n: int, dtype: Any, grid: tuple[int, int], order: str, change: Any = None) -> tuple[list, list]:
    """Arrays after the CPU kernel and after the simulated twin, on equal arguments."""
    host, device = example(k, n, dtype), example(k, n, dtype)
    for arguments in (host, device):
        for argument, role in zip(arguments, k.roles.values(), strict=True):
            if change and isinstance(role, Role) and role.name == "in":
                change(argument)
    k.serial(*host)
    launch(k.cuda, *grid, device, order=order)
    arrays = [i for i, role in enumerate(k.roles.values()) if isinstance(role, Role) and role.name != "scratch"]
    return [host[i] for i in arrays], [device[i] for i in arrays]


def assert_same(host: list, device: list) -> None:
    for expected, got in zip(host, device, strict=True):
        # math.exp and its like compute in float64 here: the last bits may differ.
        # A difference that cancels keeps the error of its terms, which are of the order of 1.
        eps = np.finfo(got.dtype).eps
        np.testing.assert_allclose(got, expected, rtol=16 * eps, atol=4 * eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("k", KERNELS, ids=lambda k: k.__name__)
def test_the_twin_equals_the_kernel(k, n, dtype):
    for grid in GRIDS:
        for order in ("depth-first", "reversed"):
            host, device = both(k, n, dtype, grid, order)
            assert all(np.isfinite(array).all() for array in host), "a poisoned element was not written: see twins.EXAMPLES"
            assert_same(host, device)


@pytest.mark.parametrize("k", KERNELS, ids=lambda k: k.__name__)
def test_special_values_come_out_alike(k):
    def sprinkle(array):
        array.flags.writeable = True
        array[: 5 * (len(array) // 5)].reshape(-1, 5)[:] = [np.nan, np.inf, -np.inf, -0.0, 1.5]
        array.flags.writeable = False

    with np.errstate(all="ignore"):
        assert_same(*both(k, 20, np.float32, (2, 4), "depth-first", sprinkle))


@pytest.mark.parametrize("k", KERNELS, ids=lambda k: k.__name__)
def test_what_is_not_aligned_gives_the_same_bits(k):
    aligned, views = example(k, 23, np.float32), example(k, 23, np.float32)
    for i, array in enumerate(views):
        if isinstance(array, np.ndarray):
            views[i] = np.empty(array.size + 1 + i, array.dtype)[1 + i :]
            views[i][:] = array
    for arguments in (aligned, views):
        launch(k.cuda, 2, 4, arguments)
    for expected, got in zip(aligned, views, strict=True):
        np.testing.assert_array_equal(got, expected)


# Four elements at a time, where that is allowed


def in_order(y: Out, x: In):
    for i in prange(x.size):
        y[i] += x[i]


def in_blocks(y: Out, x: In):
    for block in prange(block_count(x.size)):
        start, stop = block_bounds(block, x.size)
        target, source = y[start:stop], x[start:stop]
        for i in range(source.size):
            target[i] += source[i]


def its_number(y: Out, x: In):
    for i in prange(x.size):
        y[i] = x[i] + i


def its_neighbour(y: Out, x: In):
    for i in prange(x.size):
        y[i] = x[i] + (x[i - 1] if i > 0 else x[i])


def one_of_all(y: Out, x: In):
    for i in prange(x.size):
        y[i] = x[i] * x[0]


def the_first_half(y: Out, x: In):
    for i in prange(x.size // 2):
        y[i] = x[i]


def where_its_block_begins(y: Out, x: In):
    for block in prange(block_count(x.size)):
        start, stop = block_bounds(block, x.size)
        y[start:stop] = x[start:stop] * start


@pytest.mark.parametrize(
    ("function", "expected", "by_windows"),
    [
        (in_order, lambda x: 1 + x, True),
        (in_blocks, lambda x: 1 + x, True),
        (the_first_half, lambda x: np.where(np.arange(x.size) < x.size // 2, x, 1), True),
        (its_number, lambda x: x + np.arange(x.size), False),
        (its_neighbour, lambda x: x + np.append(x[:1], x[:-1]), False),
        (one_of_all, lambda x: x * x[0], False),
        (where_its_block_begins, lambda x: x * np.arange(x.size), False),
    ],
)
@pytest.mark.parametrize("n", [3, 8, 30])
def test_windows_are_taken_where_nothing_else_is_touched(function, expected, by_windows, n):
    twin, x, found = portable_twin(function), values(n, np.float64, 0), np.ones(n)
    assert (twin.grid is covering_windows) == by_windows
    launch(twin, 2, 3, [found, x])
    np.testing.assert_array_equal(found, expected(x))


def test_relus_twin_passes_nan_through():
    x = np.array([np.nan, -1, 0, 2], np.float32)
    y = np.empty_like(x)
    launch(clip_below.cuda, 1, 2, [y, x])
    np.testing.assert_array_equal(y, [np.nan, 0, 0, 2])


# The simulator notices what it should


def without_stride(y: Out, x: In):
    y[cuda.grid(1)] = x[cuda.grid(1)]


def first_element_forgotten(y: Out, x: In):
    i = cuda.grid(1) + 1
    while i < x.size:
        y[i] = x[i]
        i += cuda.gridsize(1)


def reads_its_neighbour(y: Out, x: In):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = x[i] if i == 0 else y[i - 1]


def writes_its_input(y: Out, x: In):
    x[cuda.grid(1)] = 0


def run(function, grid, order="depth-first"):
    x, y = values(100, np.float32, 1), np.full(100, np.nan, np.float32)
    x.flags.writeable = False
    launch(CudaKernel(function), *grid, [y, x], order=order)
    return y


def test_planted_bugs_are_noticed():
    with pytest.raises(IndexError):
        run(without_stride, (4, 32))
    assert np.isnan(run(without_stride, (1, 32))).sum() == 68
    assert np.isnan(run(first_element_forgotten, (1, 32))).sum() == 1
    assert not np.array_equal(run(reads_its_neighbour, (4, 32)), run(reads_its_neighbour, (4, 32), "reversed"), equal_nan=True)
    with pytest.raises(ValueError, match="read-only"):
        run(writes_its_input, (1, 1))


# The launch itself, with a recorder in place of the compiled kernel


class Recorder:
    def __init__(self):
        self.grids = []

    def __getitem__(self, grid):
        self.grids.append(grid)
        return lambda *arguments: None


class DeviceArray:
    __cuda_ndarray__ = True
    __cuda_array_interface__ = {}  # noqa: RUF012

    def __init__(self, size):
        self.size = size


@pytest.mark.parametrize(("n", "blocks"), [(0, None), (1, 1), (256, 1), (257, 2), (10**9, MAX_BLOCKS)])
def test_the_grid_covers_the_destination(n, blocks):
    k = Kernel(clip_below.py_func)
    k.on_cuda(clip_below.cuda.py_func)
    recorder = k.cuda.dispatcher = Recorder()
    k(DeviceArray(n), DeviceArray(n))
    assert recorder.grids == ([] if blocks is None else [(blocks, THREADS, 0)])

"""Functions of `ops` on the GPU, simulated, compute what they compute on the CPU."""

from __future__ import annotations

import functools

import ml_dtypes
import numpy as np
import pytest
from simulated_cuda import simulated
from simulator import TWINS, launch
from test_layers import launch_few_threads

import numba_nn as nn
from numba_nn import ops
from numba_nn.core.cuda import ptx
from numba_nn.core.device import CPU, CUDA
from numba_nn.gpu_check.operations import OPERATIONS

ROW = np.array([0])
every_case = pytest.mark.parametrize("case", OPERATIONS, ids=str)


@pytest.fixture(autouse=True)
def gpu():
    with simulated():
        yield


def numbers(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@every_case
def test_the_gpu_computes_what_the_cpu_does(case):
    found, expected = case.run(CUDA), case.run(CPU)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("order", ["reversed", "interleaved"])
@every_case
def test_in_float64_and_in_whatever_order_threads_run(case, order):
    with simulated(functools.partial(launch, order=order)):
        found = case.run(CUDA, np.float64)
    np.testing.assert_allclose(found, case.run(CPU, np.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@every_case
def test_arrays_of_16_bits(case, dtype):
    found, expected = case.run(CUDA, dtype), case.run(CPU, np.float32, values=dtype)
    assert found.dtype == (dtype if expected.dtype.kind == "f" else expected.dtype)
    error = np.abs(found.astype(np.float32) - expected).max(initial=0)
    assert error <= 4 * ml_dtypes.finfo(dtype).eps * max(1, np.abs(expected).max(initial=0))


@every_case
def test_few_threads_do_the_work_of_many(case):
    with simulated(launch_few_threads):
        found = case.run(CUDA)
    np.testing.assert_allclose(found, case.run(CPU), rtol=1e-6, atol=1e-6)


# Operands that are repeated


@pytest.mark.parametrize("y_offset", [0, 1])
@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize(
    "shapes",
    [
        ((6, 8), (8,)), ((6, 8), (6, 1)), ((7, 5), (5,)), ((1, 9), (7, 1)), ((11,), ()), ((3, 2), (2,)),
        ((2, 3, 7, 7), (3, 1, 1)), ((2, 1, 12), (4, 1)), ((2, 1, 3, 4), (5, 1, 1)), ((2, 1, 3, 1, 6), (5, 1, 2, 1)),
    ],
)  # fmt: skip
def test_repeated_operands_from_anywhere_in_memory(shapes, offset, y_offset):
    a, b = numbers(*shapes[0]), -2 * numbers(*shapes[1])
    expected = a - b
    given, y = [somewhere(x, offset) for x in (a, b)], somewhere(np.full_like(expected, np.nan), y_offset)
    for operands, sign in ((given, 1), (given[::-1], -1)):
        ops.subtract(*operands, out=y)
        np.testing.assert_array_equal(CUDA.to_host(y), sign * expected)


def somewhere(x, offset):
    """An array that begins so many elements behind a multiple of 16 bytes."""
    memory = CUDA.empty((x.size + offset,), x.dtype)
    assert CUDA.address(memory) % 16 == 0
    array = memory[offset:].reshape(x.shape)
    CUDA.copy(array, CUDA.from_host(x))
    return array


@pytest.mark.parametrize(
    ("shapes", "accesses"),  # three for each window that lies in one row, and one less where an operand is one element
    [(((6, 8), (8,)), 36), (((6, 8), (6, 1)), 24), (((4, 49), (4, 1)), 92), (((6, 3), (3,)), 0)],
)
def test_windows_within_a_row_are_moved_at_once(shapes, accesses, monkeypatch):
    moved = []
    for access in (ptx.load_window, ptx.store_window):
        run = TWINS[access]
        monkeypatch.setitem(TWINS, access, lambda array, *given, run=run: (moved.append(array), run(array, *given))[1])
    ops.add(*(CUDA.from_host(numbers(*shape)) for shape in shapes))
    assert len(moved) == accesses


# Reductions


@pytest.mark.parametrize("name", ["sum", "max", "argmin"])
@pytest.mark.parametrize("n", [1, 3, 4, 254, 509, 512, 4095, 4096, 4097, 8195])
def test_rows_of_any_length_from_anywhere_in_memory(name, n):
    run, x, memory = getattr(ops, name), numbers(2, n), CUDA.empty((2 * n + 1,), np.float32)
    CUDA.copy(memory[1:].reshape(2, n), CUDA.from_host(x))
    found = [CUDA.to_host(run(array, 1)) for array in (CUDA.from_host(x), memory[1:].reshape(2, n))]
    np.testing.assert_allclose(found[0], run(x, 1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[1], run(x, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("position", [0, 1, 4095, 4096, 8999])
def test_extremes_find_nan_and_the_first_of_equals(position):
    x = np.zeros(9000, np.float32)
    for value, found in ((1, ops.argmax), (-1, ops.argmin), (np.nan, ops.argmax), (np.nan, ops.argmin)):
        x[position:] = value
        assert CUDA.to_host(found(CUDA.from_host(x))) == position
    assert np.isnan([CUDA.to_host(run(CUDA.from_host(x))) for run in (ops.max, ops.min, ops.sum)]).all()
    x[:] = -np.inf
    assert CUDA.to_host(ops.argmax(CUDA.from_host(x))) == CUDA.to_host(ops.argmin(CUDA.from_host(x))) == 0


def test_sums_over_the_first_axis_are_as_precise():
    x = np.full((2**14, 2), 0.1, np.float32)
    np.testing.assert_allclose(CUDA.to_host(ops.sum(CUDA.from_host(x), 0)), 2**14 * float(np.float32(0.1)), rtol=1e-6)


def test_sums_of_float16_may_be_too_large_for_it():
    x = CUDA.from_host(np.full((300, 3), 300, np.float16))
    np.testing.assert_array_equal(CUDA.to_host(ops.mean(x, 0)), [300] * 3)
    np.testing.assert_allclose(CUDA.to_host(ops.norm(x, 2, 0)), [300 * np.sqrt(300)] * 3, rtol=1e-3)


def test_reductions_of_views():
    x, out = numbers(6, 8, 3), CUDA.empty((6, 4), np.float32)
    assert ops.max(CUDA.from_host(x)[:, ::2], 2, out=out) is out
    np.testing.assert_array_equal(CUDA.to_host(out), x[:, ::2].max(2))
    np.testing.assert_array_equal(CUDA.to_host(ops.min(CUDA.from_host(x)[:, ::2], (0, 2))), x[:, ::2].min((0, 2)))
    assert ops.sum(CUDA.zeros((1,) * 11, np.float32), (0, 2)).shape == (1,) * 9
    with pytest.raises(nn.ShapeError, match="sum: x may have 10 dimensions longer than 1 where axes lie apart"):
        ops.sum(CUDA.zeros((2,) * 11, np.float32), (0, 2))


# Destinations, views and refusals


def test_destinations():
    x, y = CUDA.from_host(numbers(3, 5)), CUDA.empty((3, 5), np.float32)
    assert ops.exp(x, out=y) is y
    np.testing.assert_allclose(CUDA.to_host(y), np.exp(numbers(3, 5)), rtol=1e-6)
    assert ops.add(x, x, out=x) is x  # in place
    np.testing.assert_array_equal(CUDA.to_host(x), 2 * numbers(3, 5))


def test_patches_go_where_they_are_asked_to():
    image, columns = numbers(2, 3, 6, 8), ops.im2col(numbers(2, 3, 6, 8), 3)
    x, y = CUDA.from_host(image), CUDA.empty(columns.shape, np.float32)
    assert ops.im2col(x, 3, out=y) is y
    np.testing.assert_array_equal(CUDA.to_host(y), columns)
    assert ops.col2im(y, (6, 8), 3, out=x) is x
    np.testing.assert_array_equal(CUDA.to_host(x), ops.col2im(columns, (6, 8), 3))  # the CPU's order of additions


def test_rows_of_views():
    x, chosen = numbers(5, 6), np.array([4, 0, 3, 3])
    y = ops.take(CUDA.from_host(x)[:, ::2], CUDA.from_host(chosen)[::2])
    np.testing.assert_array_equal(CUDA.to_host(y), x[[4, 3], ::2])
    table = CUDA.from_host(x)
    assert ops.scatter_add(table, CUDA.from_host(chosen)[1::2], CUDA.from_host(x[:2, ::-1].copy())) is table
    np.testing.assert_array_equal(CUDA.to_host(table), ops.scatter_add(x.copy(), chosen[1::2], x[:2, ::-1]))


def test_nothing_is_allocated_with_destinations():
    x, row, at = CUDA.from_host(numbers(30, 8)), CUDA.empty((8,), np.float32), CUDA.empty((), np.float32)
    y, which, image = CUDA.empty((30, 8), np.float32), CUDA.from_host(np.arange(30)), CUDA.from_host(numbers(1, 1, 5, 6))
    columns = ops.im2col(image, 3)

    def everything():
        ops.add(x, row, out=y)
        ops.multiply(x, 0.5, out=y)
        ops.mean(x, 0, out=row)
        ops.norm(x, out=at)
        ops.take(x, which, out=y)
        ops.scatter_add(y, which, x)
        ops.col2im(ops.im2col(image, 3, out=columns), (5, 6), 3, out=image)

    ops.sum(x, 0, out=row)
    everything()
    with simulated(allocates=False):
        everything()


def test_strided_operands():
    x = numbers(6, 8)
    part = CUDA.from_host(x)[:, ::2]
    np.testing.assert_array_equal(CUDA.to_host(ops.add(part, part)), 2 * x[:, ::2])
    rows = CUDA.from_host(x[None])
    np.testing.assert_array_equal(CUDA.to_host(ops.add(rows, part[:, :1])), x[None] + x[:, :1])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x, host: ops.add(x, host), nn.DeviceError, "add: b must live on 'cuda', got an array on 'cpu'"),
        (lambda x, host: ops.add(2, x, out=host), nn.DeviceError, "add: out must live on 'cuda'"),
        (lambda x, host: ops.exp(host, out=x), nn.DeviceError, "exp: out must live on 'cpu'"),
        (lambda x, host: ops.add(x, [1, 2]), nn.DTypeError, "add: b must be a device array .*, got list"),
        (lambda x, host: ops.add(x, CUDA.zeros((4, 3), np.float64)), nn.DTypeError, "add: b must be float32"),
        (lambda x, host: ops.add(x, x[:, :2]), nn.ShapeError, r"add: shapes \(4, 3\) and \(4, 2\) do not broadcast"),
        (lambda x, host: ops.add(x, x, out=x[:2]), nn.ShapeError, "add: out must have shape"),
        (lambda x, host: ops.add(x[:2], x[2:], out=x[1:3]), nn.DestinationError, "add: out overlaps an input"),
        (lambda x, host: ops.square(x[:, :2], out=x[:, 1:]), nn.DestinationError, "square: out must be C-contiguous"),
        (lambda x, host: ops.sum(x, 2), nn.ArgumentError, r"sum: axis must be an int .* in -2 \.\. 1, got 2"),
        (lambda x, host: ops.sum(x, 0, out=host[0]), nn.DeviceError, "sum: out must live on 'cuda'"),
        (lambda x, host: ops.sum(host, 0, out=x[0]), nn.DeviceError, "sum: out must live on 'cpu'"),
        (lambda x, host: ops.mean(x, 0, out=x[0]), nn.DestinationError, "mean: out overlaps"),
        (lambda x, host: ops.argmax(x, 0, out=x[0]), nn.DTypeError, "argmax: out must be int64, got float32"),
        (lambda x, host: ops.take(x, ROW), nn.DeviceError, "take: indices must live on 'cuda', got an array on 'cpu'"),
        (lambda x, host: ops.take(x, CUDA.from_host(ROW + 4)), nn.RangeError, r"take: indices .* 0 \.\. 3, got 4 at \[0\]"),
        (lambda x, host: ops.take(x, x), nn.DTypeError, "take: indices must be int64 or int32, got float32"),
        (lambda x, host: ops.scatter_add(x, CUDA.from_host(ROW - 1), x[:1]), nn.RangeError, "scatter_add: indices .* got -1"),
        (lambda x, host: ops.scatter_add(x, CUDA.from_host(ROW), x[:1]), nn.DestinationError, "scatter_add: out overlaps"),
        (lambda x, host: ops.scatter_add(x, CUDA.from_host(ROW), host), nn.DeviceError, "scatter_add: x must live on 'cuda'"),
        (lambda x, host: ops.im2col(x, 3), nn.ShapeError, "im2col: x must have shape"),
        (lambda x, host: ops.im2col(x.reshape(1, 1, 4, 3), 2, out=host), nn.DeviceError, "im2col: out must live on 'cuda'"),
        (lambda x, host: ops.col2im(x.reshape(1, 4, 3), 4, 3), nn.ShapeError, "col2im: x must have shape"),
        (lambda x, host: ops.max(CUDA.zeros((0, 3), np.float32)), nn.ArgumentError, "max: x of shape .* has no elements"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, words):
    host = numbers(4, 3)
    x = CUDA.from_host(host)
    with pytest.raises(error, match=words):
        call(x, host)
    np.testing.assert_array_equal(CUDA.to_host(x), host)
    np.testing.assert_array_equal(host, numbers(4, 3))

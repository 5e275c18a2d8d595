"""Operations with destinations, against NumPy."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import scipy.special

import numba_nn as nn
from numba_nn import ops
from numba_nn.core.workspace import thread_workspace
from tests.allocations import no_array_data
from tests.cases import assert_close

UNARY = {
    "negative": np.negative, "absolute": np.abs, "square": np.square, "sqrt": np.sqrt, "exp": np.exp, "log": np.log,
    "tanh": np.tanh, "sigmoid": scipy.special.expit,
}  # fmt: skip
BINARY = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide, "maximum": np.maximum,
    "minimum": np.minimum,
}  # fmt: skip
BROADCASTS = [
    ((3, 5), (3, 5)), ((3, 5), (5,)), ((3, 1), (1, 5)), ((), (4,)), ((0, 3), (3,)), ((70, 1, 900), (2, 1)), ((1, 1), (1,)),
    ((2, 3, 4, 5), (3, 1, 1)), ((2, 1, 4, 1), (3, 1, 5)), ((9000, 3), (3,)), ((9000, 3), (9000, 1)), ((5,), (4, 3, 1, 1)),
    ((2, 1, 3, 1, 2), (1, 4, 1, 5, 1)), ((3, 10_000), (3, 1)),
]  # fmt: skip
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def numbers(shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(dtype)


# Element by element


@pytest.mark.parametrize("name", UNARY)
@every_dtype
def test_functions_of_one_array(name, dtype):
    run, formula = getattr(ops, name), UNARY[name]
    for shape in ((3, 5), (), (0,), (123, 457)):
        x = numbers(shape, dtype=dtype)
        x = np.asarray(abs(x) if name in ("sqrt", "log") else x)
        expected, out = formula(x.astype(np.float64)), np.empty(shape, dtype)
        assert run(x, out=out) is out
        assert_close(out, expected)
        np.testing.assert_array_equal(run(np.asfortranarray(x).reshape(shape)), out)
        assert run(x, out=x) is x  # in place
        np.testing.assert_array_equal(x, out)
    assert np.isnan(run(np.full(40, np.nan, dtype))).all()


@pytest.mark.parametrize("name", BINARY)
@every_dtype
def test_functions_of_two_arrays_broadcast(name, dtype):
    run, formula = getattr(ops, name), BINARY[name]
    for shapes in BROADCASTS:
        a, b = (numbers(s, i, dtype) for i, s in enumerate(shapes))
        expected = np.asarray(formula(a, b))
        out = np.empty(expected.shape, dtype)
        assert run(a, b, out=out) is out
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(run(b, a), formula(b, a))
        if a.shape == out.shape:
            assert run(a, b, out=a) is a
            np.testing.assert_array_equal(a, expected)
    a, b = numbers((3, 5), 0, dtype), numbers((5, 3), 1, dtype).T
    np.testing.assert_array_equal(run(a, 0.5), formula(a, dtype(0.5)))
    np.testing.assert_array_equal(run(2, a), formula(dtype(2), a))
    expected = formula(a, b)
    run(a, b, out=a)
    np.testing.assert_array_equal(a, expected)
    a[0, 0] = np.nan
    assert np.isnan([run(a, b)[0, 0], run(b, a)[0, 0]]).all()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: ops.add(1, 2), nn.ArgumentError, "add: a or b must be an array, got 1 and 2"),
        (lambda x: ops.add(x, x[:, :2]), nn.ShapeError, r"add: shapes \(2, 3\) and \(2, 2\) do not broadcast"),
        (lambda x: ops.add(x, x.astype(np.float64)), nn.DTypeError, "add: b must be float32, got float64"),
        (lambda x: ops.add(x.astype(int), x), nn.DTypeError, "add: a must be float32 or float64, got int64"),
        (lambda x: ops.add(x, [1, 2, 3]), nn.DTypeError, "add: b must be a NumPy array, got list"),
        (lambda x: ops.add(x, x, out=x[:1].copy()), nn.ShapeError, "add: out must have shape"),
        (lambda x: ops.add(x[:1], x[1:], out=x[:1][::-1]), nn.DestinationError, "add: out overlaps"),
        (lambda x: ops.add(x.copy(), x[:], out=x), nn.DestinationError, "add: out overlaps"),
        (lambda x: ops.add(x, x[:1], out=x), nn.DestinationError, "add: out overlaps"),
        (lambda x: ops.add(x[:], 1, out=x), nn.DestinationError, "add: out overlaps"),
        (lambda x: ops.sum(x, (), out=x), nn.DestinationError, "sum: out overlaps"),
        (lambda x: ops.sum(x, 0, 1), nn.ArgumentError, "sum: keepdims must be True or False, got 1"),
        (lambda x: ops.sum(x, 2), nn.ArgumentError, r"sum: axis must be an int .* in -2 \.\. 1, got 2"),
        (lambda x: ops.sum(x, [0, 1]), nn.ArgumentError, r"sum: axis must be .* a tuple of ints in -2 \.\. 1, got \[0, 1\]"),
        (lambda x: ops.sum(x, True), nn.ArgumentError, "sum: axis must be an int .* got True"),
        (lambda x: ops.sum(x, (0, -2)), nn.ArgumentError, "sum: axis names one axis twice"),
        (lambda x: ops.argmax(x, (0, 1)), nn.ArgumentError, "argmax: axis must be an int in"),
        (lambda x: ops.argmax(x, 0, out=np.zeros(3, np.int32)), nn.DTypeError, "argmax: out must be int64, got int32"),
        (lambda x: ops.max(x[:0]), nn.ArgumentError, r"max: x of shape \(0, 3\) has no elements"),
        (lambda x: ops.mean(x, 0, out=x[0]), nn.DestinationError, "mean: out overlaps"),
        (lambda x: ops.norm(x, 2, 5), nn.ArgumentError, r"norm: axis must be an int .* in -2 \.\. 1, got 5"),
        (lambda x: ops.sum(x[:1, 0].reshape(()), 1), nn.ArgumentError, r"sum: axis must be an int .* in -1 \.\. 0, got 1"),
        (lambda x: ops.norm(x, 3), nn.ArgumentError, "norm: ord must be 1, 2 or inf, got 3"),
        (lambda x: ops.take(x, np.array([0, 2])), nn.RangeError, r"take: indices must lie in 0 \.\. 1, got 2 at \[1\]"),
        (lambda x: ops.take(x[:0], np.array([0])), nn.RangeError, "take: indices"),
        (lambda x: ops.take(x, np.array([0.0])), nn.DTypeError, "take: indices must be int64 or int32, got float64"),
        (lambda x: ops.scatter_add(x, np.array([0, -1]), x.copy()), nn.RangeError, "scatter_add: indices .* got -1"),
        (lambda x: ops.scatter_add(x, np.array([0]), x.copy()), nn.ShapeError, "scatter_add: x must have shape"),
        (lambda x: ops.scatter_add(x, np.array([0, 1]), x), nn.DestinationError, "scatter_add: out overlaps"),
        (lambda x: ops.im2col(x, 3), nn.ShapeError, "im2col: x must have shape"),
        (lambda x: ops.im2col(x.reshape(1, 1, 2, 3), 3), nn.ShapeError, "im2col: an image of 2 x 3 is smaller"),
        (lambda x: ops.im2col(x.reshape(1, 1, 2, 3), 0), nn.ArgumentError, "im2col: kernel_size"),
        (lambda x: ops.col2im(x.reshape(1, 2, 3), 4, 3), nn.ShapeError, "col2im: x must have shape"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, words):
    x = numbers((2, 3), dtype=np.float32)
    before = x.copy()
    with pytest.raises(error, match=words):
        call(x)
    np.testing.assert_array_equal(x, before)


def test_subclasses_of_arrays():
    x = np.ones((3, 4), np.float32)
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix(2 * x)
    np.testing.assert_array_equal(ops.add(matrix, x[:1]), 3 * x)
    np.testing.assert_array_equal(ops.subtract(matrix, x, out=matrix), x)
    np.testing.assert_array_equal(matrix, x)
    np.testing.assert_array_equal(ops.sum(matrix, 0), [3, 3, 3, 3])
    np.testing.assert_array_equal(nn.matmul(matrix, x.T), x @ x.T)
    np.testing.assert_array_equal(nn.ReLU()(matrix), x)
    for call in (ops.exp, ops.sum, nn.ReLU(), lambda a: nn.matmul(a, x.T), lambda a: ops.add(x, a)):
        with pytest.raises(nn.DTypeError, match="must be a NumPy array, got MaskedArray"):
            call(np.ma.masked_less(x, 0.5))


@pytest.mark.parametrize("number", [1j, np.complex64(1j)])
def test_numbers_that_are_no_floats_are_refused(number):
    with pytest.raises(nn.DTypeError, match="multiply: b must be a NumPy array"):
        ops.multiply(numbers((2, 3)), number)


def test_a_number_beyond_float32_is_infinite_and_warned_of():
    x = numbers((2, 3), dtype=np.float32)
    for call in (lambda: ops.multiply(abs(x), 1e300), lambda: ops.maximum(1e300, x)):
        with pytest.warns(RuntimeWarning, match="overflow"):
            y = call()
        np.testing.assert_array_equal(y, np.full((2, 3), np.inf, np.float32))


def test_functions_are_copied_and_pickled_by_reference():
    for function in (ops.add, ops.exp, ops.sum, ops.argmax, ops.norm):
        assert pickle.loads(pickle.dumps(function)) is copy.deepcopy(function) is function


# Reductions

SHAPES = [(7,), (3, 5), (2, 3, 4), (300, 70), (2, 9000, 3), (1, 40_000), (5, 1, 2, 3), (600, 2, 300), (11, 20_000)]


def axes_of(rank):
    yield None
    yield from range(-1, rank)
    yield tuple(range(rank))
    if rank > 2:
        yield (0, 2)
        yield (-1, 1)


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "argmax", "argmin"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_dtype
def test_reductions(name, shape, dtype):
    x = numbers(shape, dtype=dtype)
    run, formula = getattr(ops, name), getattr(np, name)
    for axis in axes_of(len(shape)):
        if name.startswith("arg") and isinstance(axis, tuple):
            continue
        for keepdims in (False, True):
            expected = np.asarray(formula(x.astype(np.float64), axis=axis, keepdims=keepdims))
            got = run(x, axis, keepdims)
            assert got.dtype == (np.int64 if name.startswith("arg") else dtype)
            out = np.empty(got.shape, got.dtype)
            assert run(np.asfortranarray(x), axis, keepdims, out=out) is out
            np.testing.assert_array_equal(out, got)
            if name.startswith("arg"):
                np.testing.assert_array_equal(got, expected)
            else:
                assert_close(got, expected)


def test_a_single_number_is_a_row_of_one():
    for axis in (None, 0, -1, ()):
        assert ops.sum(np.array(3.0), axis, True).shape == ()
        assert ops.max(np.array(3.0), axis) == ops.norm(np.array(-3.0), 2, axis) == 3
    assert ops.argmin(np.array(3.0), -1) == 0


NORMS = {
    1: lambda a, axis: np.abs(a).sum(axis),
    2: lambda a, axis: np.sqrt((a * a).sum(axis)),
    math.inf: lambda a, axis: np.abs(a).max(axis),
}


@pytest.mark.parametrize("order", NORMS)
@every_dtype
def test_norms(order, dtype):
    x = numbers((3, 4, 500), dtype=dtype)
    for axis in (None, 0, -1, (0, 2)):
        assert_close(ops.norm(x, order, axis), np.asarray(NORMS[order](x.astype(np.float64), axis)))


def test_extremes_find_nan_and_the_first_of_equals():
    x = np.array([[1, 3, 3, -1], [2, np.nan, 5, np.nan]])
    np.testing.assert_array_equal(ops.max(x, 1), [3, np.nan])
    np.testing.assert_array_equal(ops.min(x, 1), [-1, np.nan])
    assert ops.argmax(x, 1).tolist() == [1, 1]
    assert ops.argmin(x, 1).tolist() == [3, 1]
    for position in (0, 4095, 4096, 9999):
        row = np.zeros(10_000)
        row[position] = np.nan
        assert np.isnan([ops.max(row), ops.min(row), ops.sum(row)]).all()
        assert ops.argmax(row) == ops.argmin(row) == position


def test_sums_over_the_first_axis_are_as_precise_and_small():
    x = np.full((2**20, 2), 0.1, np.float32)
    np.testing.assert_allclose(ops.sum(x, 0), 2**20 * float(np.float32(0.1)), rtol=1e-7)
    workspace = thread_workspace()
    before = workspace.nbytes
    ops.sum(numbers((16, 70_000), dtype=np.float32), 0)
    assert workspace.nbytes - before < 2 * 8 * 70_000  # sums in float64; not a copy of all elements


def test_sums_of_many_small_numbers_and_of_none():
    x = np.full(10**7, 0.1, np.float32)
    assert abs(ops.sum(x) / (10**7 * float(np.float32(0.1))) - 1) < 1e-6
    assert abs(ops.mean(x) - np.float32(0.1)) < 1e-7
    assert ops.sum(x[:0]) == 0
    assert np.isnan(ops.mean(x[:0]))
    assert ops.sum(np.zeros((0, 3)), 0).tolist() == [0, 0, 0]
    assert ops.max(np.zeros((0, 3)), 1).shape == (0,)


# Rows and patches


@every_dtype
def test_rows(dtype):
    x, indices = numbers((7, 3, 40), dtype=dtype), np.array([[6, 0, 6], [2, 2, 2]], np.int32)
    out = np.empty((2, 3, 3, 40), dtype)
    assert ops.take(x, indices, out=out) is out
    np.testing.assert_array_equal(out, x[indices])
    np.testing.assert_array_equal(ops.take(np.asfortranarray(x), indices.T), x[indices.T])
    expected = x.copy()
    for i, row in zip(indices.ravel(), out.reshape(6, 3, 40), strict=True):
        expected[i] += row
    assert ops.scatter_add(x, indices, out) is x
    np.testing.assert_array_equal(x, expected)
    vector = np.zeros(4, dtype)
    ops.scatter_add(vector, np.array([1, 3, 1]), np.ones(3, dtype))
    assert vector.tolist() == [0, 2, 0, 1]


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((2, 3, 5, 6), {"kernel_size": 3}),
        ((1, 1, 1, 1), {"kernel_size": 1}),
        ((2, 3, 5, 6), {"kernel_size": (2, 3), "stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}),
        ((1, 2, 40, 41), {"kernel_size": 5, "stride": 3, "padding": 2}),
    ],
)
@every_dtype
def test_patches(shape, arguments, dtype):
    x = numbers(shape, dtype=dtype)
    columns = ops.im2col(x, **arguments)
    conv = nn.Conv2d(shape[1], 1, **arguments, bias=False, dtype=dtype)
    y = conv(x)
    assert_close(np.matmul(conv.weight.value.reshape(1, -1), columns).reshape(y.shape), y)
    out = np.empty_like(columns)
    assert ops.im2col(np.asfortranarray(x), **arguments, out=out) is out
    np.testing.assert_array_equal(out, columns)
    other = numbers(columns.shape, 1, dtype)
    image = ops.col2im(other, shape[2:], **arguments)
    assert image.shape == shape
    np.testing.assert_allclose(np.sum(image * x), np.sum(other * columns), rtol=1e-4)  # the transpose
    out = np.empty_like(image)
    assert ops.col2im(np.asfortranarray(other), shape[2:], **arguments, out=out) is out
    np.testing.assert_array_equal(out, image)


def test_nothing_is_allocated_with_destinations():
    x, b = numbers((300, 70), dtype=np.float32), numbers((70,), 1, np.float32)
    image = x.reshape(3, 10, 10, 70)
    y, row, at = np.empty_like(x), np.empty(70, np.float32), np.empty((), np.float32)
    rows, columns = np.arange(299, -1, -1), ops.im2col(image, 3)
    back = np.empty_like(image)

    def everything():
        ops.add(x, b, out=y)
        ops.tanh(x, out=y)
        ops.sum(x, 0, out=row)
        ops.max(x, 0, out=row)
        ops.norm(x, out=at)
        ops.mean(x, out=at)
        ops.take(x, rows, out=y)
        ops.scatter_add(y, rows, x)
        ops.im2col(image, 3, out=columns)
        ops.col2im(columns, (10, 70), 3, out=back)

    everything()
    with no_array_data():
        everything()


THREADS = """
import hashlib, json
import numpy as np
from numba_nn import ops

x = np.random.default_rng(0).standard_normal((3, 300, 700)).astype(np.float32)
results = [getattr(ops, f)(x, a) for f in ("sum", "mean", "max", "norm") for a in ((None, 0, 1, 2) if f != "norm" else (2, 1))]
results += [ops.exp(x), ops.log(x), ops.tanh(x), ops.sigmoid(x), ops.col2im(ops.im2col(x[None], 5), (300, 700), 5)]
print(json.dumps([hashlib.sha256(np.ascontiguousarray(r).tobytes()).hexdigest() for r in results]))
"""


def test_the_same_bits_on_any_number_of_threads(start_python):
    waits = [start_python(THREADS, NUMBA_NUM_THREADS=str(n)) for n in (1, 2, 3)]
    results = [wait() for wait in waits]
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(("shape", "axis"), [((1,) * 11, (0, 2)), ((2, 1, 3, *(1,) * 8, 4), (0, 11)), ((3, 4), ())], ids=str)
def test_reductions_take_many_dimensions_and_no_axis(shape, axis):
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    np.testing.assert_allclose(nn.ops.sum(x, axis), x.sum(axis), rtol=1e-5)


def test_reductions_over_axes_that_lie_apart_have_a_most():
    with pytest.raises(nn.ShapeError, match="10 dimensions longer than 1"):
        nn.ops.sum(np.zeros((2,) * 11, np.float32), (0, 2))

"""Embedding: integer input, no input gradient."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn
from tests.allocations import no_array_data


def build(**arguments):
    nn.manual_seed(0)
    return nn.Embedding(10, 70, **arguments)


def indices(shape=(4, 6), dtype=np.int64):
    return np.random.default_rng(0).integers(0, 10, shape).astype(dtype)


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(4, 6), (3,), (), (0, 3), (600, 2)])
def test_rows_and_their_gradients(index, dtype, shape):
    layer, x = build(dtype=dtype), indices(shape, index)
    y = layer(x)
    assert y.dtype == dtype
    assert y.shape == layer.output_shape(shape)
    np.testing.assert_array_equal(y, layer.weight.value[x])
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
    expected = np.ones_like(layer.weight.value)
    np.add.at(expected, x, dy)
    layer.weight.grad[...] = 1
    assert layer.backward(dy) is None
    np.testing.assert_array_equal(layer.weight.grad, expected)


def test_the_padding_row_is_zero_and_stays():
    layer, x = build(padding_idx=-1), np.array([9, 0, 9, 3])
    assert layer.padding_idx == 9
    y = layer(x)
    assert not y[0].any()
    assert y[1].any()
    layer.backward(np.ones_like(y))
    assert layer.weight.grad.sum(1).tolist() == [70, 0, 0, 70, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("wrong", [10, -1, 2**62, -(2**62)])
def test_an_index_outside_of_the_table_is_refused(wrong):
    layer, x = build(), indices()
    x[2, 3] = wrong
    out = np.full((4, 6, 70), 7, np.float32)
    with pytest.raises(nn.RangeError, match=rf"Embedding.*x must lie in 0 \.\. 9, got {wrong} at \[2, 3\]"):
        layer.forward(x, out=out)
    assert (out == 7).all()
    with pytest.raises(IndexError):
        nn.Sequential(layer, nn.Flatten())(x)
    with pytest.raises(nn.BackwardError):
        layer.backward(out)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda e: e(np.zeros((2, 3), np.float32)),
            nn.DTypeError,
            ["Embedding", "int64 or int32", "float32", "astype"],
        ),
        (lambda e: e([1, 2]), nn.DTypeError, ["Embedding", "x must be", "list"]),
        (lambda e: nn.Embedding(0, 3), nn.ArgumentError, ["num_embeddings", "0"]),
        (lambda e: nn.Embedding(3, 4, padding_idx=3), nn.ArgumentError, ["padding_idx", "-3 .. 2", "3"]),
        (lambda e: nn.Embedding(3, 4, padding_idx=1.5), nn.ArgumentError, ["padding_idx", "int", "1.5"]),
        (lambda e: nn.Embedding(3, 4, padding_idx="a"), nn.ArgumentError, ["padding_idx", "int", "'a'"]),
    ],
)
def test_what_does_not_fit_is_refused(call, error, words):
    with pytest.raises(error) as caught:
        call(build())
    assert [w for w in words if w not in str(caught.value)] == []


def test_there_is_no_input_gradient_to_write():
    layer = build()
    y = layer(indices())
    with pytest.raises(nn.ArgumentError, match="indices"):
        layer.backward(y, out=np.empty((4, 6), np.float32))
    layer.weight.requires_grad = False
    assert layer.backward(y) is None
    assert not layer.weight.grad.any()


def test_a_sequential_may_begin_with_one():
    nn.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 3), nn.Flatten(), nn.Linear(18, 2)).reserve((5, 6))
    x, y = indices((5, 6)), np.empty((5, 2), np.float32)
    model.forward(x, out=y)
    model.backward(y, input_gradient=False)
    with no_array_data():
        model.forward(x, out=y)
        model.backward(y, input_gradient=False)
    np.testing.assert_allclose(y, model[2](model[0].weight.value[x].reshape(5, 18)), rtol=1e-5, atol=1e-6)
    model.forward(x[::2])
    assert model.backward(y[::2]) is None
    assert model[0].weight.grad.any()
    with pytest.raises(nn.DTypeError, match=r"x must be int64"):
        model(x.astype(np.float32))

"""Layers of several inputs."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn
from tests.allocations import no_array_data
from tests.cases import assert_close, assert_same

MERGES = [
    (nn.Concatenate(), [(2, 3), (2, 1), (2, 40)]),
    (nn.Concatenate(0), [(2, 3), (5, 3)]),
    (nn.Concatenate(dim=-1), [(2, 3, 4), (2, 3, 1)]),
    (nn.Concatenate(2), [(2, 3, 4, 5), (2, 3, 1, 5), (2, 3, 0, 5)]),
    (nn.Concatenate(), [(300, 70), (300, 80)]),
    (nn.Concatenate(np.int64(1)), [(2, 3), (2, 5)]),
    (nn.Concatenate(), [(0, 7), (0, 8)]),
    (nn.Add(), [(3, 5)] * 2),
    (nn.Add(), [(7, 31, 257)] * 3),
    (nn.Multiply(), [(3, 5)] * 2),
    (nn.Multiply(), [(2, 3, 4, 5)] * 4),
    (nn.Multiply(), [(1,)] * 2),
]
every_merge = pytest.mark.parametrize(("layer", "shapes"), MERGES, ids=[f"{m!r}-{s}" for m, s in MERGES])


def numbers(shape, seed, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(dtype)


def inputs_of(shapes, dtype=np.float64):
    return [numbers(shape, i, dtype) for i, shape in enumerate(shapes)]


def formula(layer, xs):
    if isinstance(layer, nn.Concatenate):
        return np.concatenate(xs, layer.dim)
    return sum(xs) if isinstance(layer, nn.Add) else np.prod(xs, axis=0)


@every_merge
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_forward_equals_the_formula(layer, shapes, dtype):
    xs = inputs_of(shapes, dtype)
    y = layer(*xs)
    assert y.dtype == dtype
    assert y.shape == layer.output_shape(*shapes)
    assert_close(y, formula(layer, inputs_of(shapes)))


@every_merge
def test_backward_is_the_derivative_of_the_formula(layer, shapes):
    xs, step = inputs_of(shapes), 1e-6
    dy = numbers(layer.output_shape(*shapes), 99)
    layer.forward(*xs)
    gradients = layer.backward(dy)
    for i, gradient in enumerate(gradients):
        assert gradient.shape == shapes[i]
        for seed in range(3):
            direction = numbers(shapes[i], 100 + seed)
            moved = [formula(layer, [x + s * direction if j == i else x for j, x in enumerate(xs)]) for s in (step, -step)]
            expected = np.sum(dy * (moved[0] - moved[1])) / (2 * step)
            np.testing.assert_allclose(np.sum(gradient * direction), expected, rtol=1e-6, atol=1e-6)


@every_merge
def test_destinations_strided_inputs_and_allocations(layer, shapes):
    xs, y_shape = inputs_of(shapes, np.float32), layer.output_shape(*shapes)
    dy, y = numbers(y_shape, 9, np.float32), np.empty(y_shape, np.float32)
    expected = layer(*xs)
    gradients = layer.backward(dy)
    assert layer.reserve(*shapes) is layer
    out = tuple(np.empty(shape, np.float32) for shape in shapes)
    with no_array_data():
        assert layer.forward(*xs, out=y) is y
        got = layer.backward(dy, out=out)
    assert all(a is b for a, b in zip(got, out, strict=True))
    assert_same(dict(enumerate([y, *out])), dict(enumerate([expected, *gradients])))
    layer.forward(*map(np.asfortranarray, xs), out=y)
    np.testing.assert_array_equal(y, expected)
    assert_same(dict(enumerate(layer.backward(np.asfortranarray(dy)))), dict(enumerate(gradients)))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda a: nn.Add()(a), nn.ShapeError, ["Add", "two or more", "1"]),
        (lambda a: nn.Add()(), nn.ShapeError, ["Add", "two or more", "0"]),
        (lambda a: nn.Add()(a, a[:1]), nn.ShapeError, ["Add", "(2, 3)", "(1, 3)"]),
        (lambda a: nn.Multiply()(a, a.astype(np.float64)), nn.DTypeError, ["Multiply", "inputs[1]", "float32", "float64"]),
        (lambda a: nn.Multiply()(a, [1, 2]), nn.DTypeError, ["inputs[1]", "list"]),
        (lambda a: nn.Concatenate()(a, a[:1]), nn.ShapeError, ["Concatenate", "dimension 1", "(2, 3)", "(1, 3)"]),
        (lambda a: nn.Concatenate(5)(a, a), nn.ShapeError, ["Concatenate", "(2, 3)", "dimension 5"]),
        (lambda a: nn.Add().forward(a, a.copy(), out=a), nn.DestinationError, ["Add", "out", "overlaps"]),
        (lambda a: nn.Add().forward(a, a, out=a[:1].copy()), nn.ShapeError, ["Add", "out", "(2, 3)", "(1, 3)"]),
        (lambda a: nn.Add().backward(a), nn.BackwardError, ["Add", "no forward"]),
        (lambda a: nn.Sequential(nn.ReLU(), nn.Add()), nn.ArgumentError, ["Sequential", "one input", "Add"]),
        (lambda a: nn.Sequential(nn.Concatenate()), nn.ArgumentError, ["Sequential", "one input", "Concatenate"]),
        (lambda a: nn.Add().reserve((2, 3), 5), nn.ShapeError, ["Add", "5"]),
    ],
)
def test_what_does_not_fit_is_refused(call, error, words):
    a = numbers((2, 3), 0, np.float32)
    before = a.copy()
    with pytest.raises(error) as caught:
        call(a)
    assert [w for w in words if w not in str(caught.value)] == []
    np.testing.assert_array_equal(a, before)


def test_gradients_that_cannot_be_written_are_refused():
    layer, a, b = nn.Multiply(), numbers((2, 3), 0), numbers((2, 3), 1)
    dy = np.ones((2, 3))
    layer.forward(a, b)
    for out, error, word in (
        ((a, np.empty((2, 3))), nn.DestinationError, "overlaps"),
        ((np.empty((2, 3)),), nn.ArgumentError, "2 arrays"),
        (np.empty((2, 2, 3)), nn.ArgumentError, "2 arrays"),
        ((dy, np.empty((2, 3))), nn.DestinationError, "overlaps"),
        ((np.empty((2, 3)), np.empty((3, 2))), nn.ShapeError, r"out\[1\]"),
        ([b.copy()] * 2, nn.DestinationError, "overlaps"),
    ):
        with pytest.raises(error, match=word):
            layer.backward(dy, out=out)
    assert_same(dict(enumerate(layer.backward(dy))), {0: b, 1: a})

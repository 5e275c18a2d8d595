"""Activations, softmax and losses far out: large and tiny numbers, gradients and weights, where a step on the way may overflow.

Formulas in long double, whose exponents reach further than those of float64 where it is wider.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

import numba_nn as nn

Exact = np.longdouble
ROUNDINGS = 64  # of a result, relative to its terms
SCALES = {np.float32: [1, 1e25, 1e-25], np.float64: [1, 1e200, 1e-200]}
REACH = {np.float32: [1e3, 1e8, 1e15], np.float64: [1e3, 1e15, 1e100]}
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def spread(dtype):
    """Numbers from -150 to 150, some beyond, and two close to 0."""
    beyond = np.array(REACH[dtype])
    return np.concatenate([np.linspace(-150, 150, 1201), beyond, -beyond, [1e-30, -1e-30]]).astype(dtype)


def sigmoid(x):
    e = np.exp(-abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def normal_cdf(x):
    return scipy.special.ndtr(x.astype(np.float64)).astype(Exact)


def normal_density(x):
    return np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


def inside(x):
    """(1 + tanh) / 2 of GELU's approximation, and its derivative."""
    scale, cubic = np.sqrt(2 / np.pi), 0.044715
    t = np.tanh(scale * (x + cubic * x**3))
    return (1 + t) / 2, (1 - t * t) / 2 * scale * (1 + 3 * cubic * x * x)


# Layer, value and derivative
ACTIVATIONS = {
    "Sigmoid": (nn.Sigmoid(), sigmoid, lambda x: sigmoid(x) * sigmoid(-x)),
    "Tanh": (nn.Tanh(), np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "SiLU": (nn.SiLU(), lambda x: x * sigmoid(x), lambda x: sigmoid(x) * (1 + x * sigmoid(-x))),
    "GELU": (nn.GELU(), lambda x: x * normal_cdf(x), lambda x: normal_cdf(x) + x * normal_density(x)),
    "GELU(tanh)": (nn.GELU("tanh"), lambda x: x * inside(x)[0], lambda x: inside(x)[0] + x * inside(x)[1]),
}


def check(got, exact, terms):
    """Within some roundings of the terms that a result is the sum of, or below the smallest normal number."""
    number = np.finfo(got.dtype)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        wrong = (abs(got - exact) > ROUNDINGS * number.eps * terms + number.tiny) | ~np.isfinite(got)
    assert not wrong.any(), (got[wrong][:3], exact[wrong][:3])


@every_dtype
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, dtype):
    layer, value, derivative = ACTIVATIONS[name]
    x = spread(dtype)
    exact = x.astype(Exact)
    # what is left of 1 - 1 in a tail counts by its size beside 1, as for PyTorch; beyond 20 it is 0
    check(layer(x), value(exact), abs(value(exact)) + np.minimum(abs(exact), 20) * (x < 0))
    for scale in SCALES[dtype]:
        dy = np.full_like(x, scale)
        layer.forward(x)
        check(layer.backward(dy), dy * derivative(exact), dy.astype(Exact))


@every_dtype
@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("layer", [nn.Softmax, nn.LogSoftmax])
def test_gradients_of_softmax(layer, axis, dtype):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (4, 5, 9)) * np.array([1, 10, 100, 150]).reshape(4, 1, 1)
    x, layer = x.astype(dtype), layer(axis)
    p = scipy.special.softmax(x.astype(Exact), axis)
    for scale in SCALES[dtype]:
        dy = (rng.standard_normal(x.shape) * scale).astype(dtype)
        layer.forward(x)
        exact = dy.astype(Exact)
        mean = (exact if isinstance(layer, nn.LogSoftmax) else exact * p).sum(axis, keepdims=True)
        gradient = exact - p * mean if isinstance(layer, nn.LogSoftmax) else p * (exact - mean)
        check(layer.backward(dy), gradient, np.broadcast_to(abs(exact).sum(axis, keepdims=True), x.shape))


@every_dtype
@pytest.mark.parametrize("pos_weight", [1e-3, 1, 100, 1e12])
@pytest.mark.parametrize("target", [0, 0.3, 1])
def test_logits(target, pos_weight, dtype):
    x = np.linspace(-150, 150, 601).astype(dtype)
    exact, t, v = x.astype(Exact), dtype(target), dtype(pos_weight)
    positive, negative = v.astype(Exact) * t, 1 - t.astype(Exact)
    for scale in SCALES[dtype][:: 1 if pos_weight == 1 else 2]:
        w = np.full_like(x, scale)
        loss = nn.BCEWithLogitsLoss(w, "none", np.full_like(x, v))
        slack = np.log1p(np.exp(-abs(exact)))
        value = w * (positive * (slack + np.maximum(-exact, 0)) + negative * (slack + np.maximum(exact, 0)))
        denormal = w * (positive + negative) * np.finfo(dtype).tiny / ROUNDINGS  # what exp(-|x|) keeps only some digits of
        check(loss.forward(x, np.full_like(x, t)), value, value + denormal / np.finfo(dtype).eps)
        terms = w * np.maximum(positive, negative)
        check(loss.backward(), w * (negative * sigmoid(exact) - positive * sigmoid(-exact)), terms)


@every_dtype
@pytest.mark.parametrize("smoothing", [0, 0.1])
def test_classes(smoothing, dtype):
    rng, classes = np.random.default_rng(0), 5
    x = (rng.uniform(-1, 1, (60, classes)) * np.repeat([1, 50, 150], 20).reshape(60, 1)).astype(dtype)
    target = rng.integers(0, classes, 60)
    exact = x.astype(Exact)
    log_p = exact - scipy.special.logsumexp(exact, 1, keepdims=True)
    for scale in SCALES[dtype]:
        weight = (rng.uniform(0.5, 2, classes) * scale).astype(dtype)
        q = weight * ((1 - Exact(smoothing)) * np.eye(classes)[target] + Exact(smoothing) / classes)
        loss = nn.CrossEntropyLoss(weight, reduction="none", label_smoothing=smoothing)
        check(loss.forward(x, target), -(q * log_p).sum(1), (q * abs(exact)).sum(1) + (q * abs(log_p)).sum(1))
        whole = q.sum(1, keepdims=True)
        check(loss.backward(), whole * np.exp(log_p) - q, np.broadcast_to(whole, x.shape))


@every_dtype
def test_an_open_gate_keeps_a_large_cell(dtype):
    cell = nn.LSTMCell(1, 1, dtype=dtype)
    for _, parameter in cell.named_parameters():
        parameter.value[...] = 0
    cell.bias_ih.value[1::2] = 60  # forget and output
    for c in (1e-30, 1, 100, 1e30):
        h, kept = cell.forward(np.zeros((1, 1), dtype), (np.zeros((1, 1), dtype), np.full((1, 1), c, dtype)))
        np.testing.assert_allclose([h[0, 0], kept[0, 0]], [np.tanh(c), c], 1e-6)

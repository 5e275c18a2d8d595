"""Optimisers, and whole training steps."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

import numba_nn as nn
from numba_nn.core.epilogue import IDENTITY
from numba_nn.core.reduce import block_count
from numba_nn.layers.activation import relu_backward, relu_forward
from numba_nn.layers.linear import (
    linear_backward_bias,
    linear_backward_input,
    linear_backward_weight,
    linear_forward,
    operand_room,
)
from numba_nn.losses.elementwise import squared_error_backward, squared_error_forward
from tests import reference_training
from tests.allocations import no_array_data, no_runtime_memory
from tests.cases import assert_close


def numbers(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# SGD

SETTINGS = [
    {"lr": 0.1},
    {"lr": 0.1, "weight_decay": 0.01},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.05, "momentum": 0.9, "dampening": 0.3},
    {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    {"lr": 0.0, "momentum": 0.5},
    {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.1, "maximize": True},
]
SHAPES = [(3, 4), (1,), (5, 20_000), (16_384,), (16_385,), (0, 3)]


def parameters(dtypes=(np.float32,), shapes=SHAPES):
    return [nn.Parameter(numbers(*s, seed=i, dtype=dtypes[i % len(dtypes)])) for i, s in enumerate(shapes)]


def set_gradients(params, step):
    for i, parameter in enumerate(params):
        parameter.grad[...] = numbers(*parameter.value.shape, seed=(i, step), dtype=parameter.value.dtype)


class Oracle:
    """The formula, over the same gradients."""

    def __init__(self, params):
        self.params = params
        self.values = [p.value.astype(np.float64) for p in params]
        self.velocities = [None] * len(params)

    def step(self, settings):
        for i, (parameter, chosen) in enumerate(zip(self.params, settings, strict=True)):
            gradient = parameter.grad.astype(np.float64)
            self.values[i], self.velocities[i] = reference_training.sgd(self.values[i], gradient, self.velocities[i], **chosen)

    def check(self):
        for parameter, value in zip(self.params, self.values, strict=True):
            assert_close(parameter.value, value)


@pytest.mark.parametrize("dtypes", [(np.float32,), (np.float64,), (np.float64, np.float32)], ids=["f4", "f8", "mixed"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_sgd_equals_the_formula(settings, dtypes):
    params = parameters(dtypes)
    oracle, optimizer = Oracle(params), nn.optim.SGD(params, **settings)
    for step in range(6):
        set_gradients(params, step)
        before = [p.grad.copy() for p in params]
        optimizer.step()
        oracle.step([settings] * len(params))
        oracle.check()
        for parameter, grad in zip(params, before, strict=True):
            np.testing.assert_array_equal(parameter.grad, grad)
    optimizer.zero_grad()
    assert not any(p.grad.any() for p in params)


def test_groups_and_schedules():
    params = parameters((np.float32, np.float64))
    groups = [{"params": params[:2], "lr": 0.01, "momentum": 0.0}, {"params": params[2], "nesterov": True}]
    groups.append({"params": iter(params[3:]), "weight_decay": 0.1, "dampening": 0.5})
    optimizer = nn.optim.SGD(groups, lr=0.2, momentum=0.9)
    assert [len(g["params"]) for g in optimizer.param_groups] == [2, 1, 3]
    assert "lr" not in groups[1]
    oracle = Oracle(params)
    for step in range(5):
        for group in optimizer.param_groups:
            group["lr"] *= 0.5
        set_gradients(params, step)
        optimizer.step()
        chosen = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups for _ in g["params"]]
        oracle.step(chosen)
        oracle.check()


def test_a_parameter_can_be_frozen_and_thawed():
    params = parameters()
    optimizer = nn.optim.SGD(params, lr=0.1, weight_decay=0.1)
    oracle = Oracle(params)
    for step in range(4):
        set_gradients(params, step)
        params[0].requires_grad = step % 2 == 1
        kept = params[0].value.copy(), oracle.values[0]
        optimizer.step()
        oracle.step([{"lr": 0.1, "weight_decay": 0.1}] * len(params))
        if not params[0].requires_grad:
            np.testing.assert_array_equal(params[0].value, kept[0])
            oracle.values[0] = kept[1]
        oracle.check()


def test_infinity_stays_without_decay():
    parameter = nn.Parameter(np.float32([np.inf, 1, np.nan]))
    parameter.grad[...] = 1
    nn.optim.SGD([parameter], lr=0.5).step()
    np.testing.assert_array_equal(parameter.value, np.float32([np.inf, 0.5, np.nan]))


def test_a_step_allocates_nothing():
    params = parameters((np.float32, np.float64))
    optimizer = nn.optim.SGD(params, lr=0.1, momentum=0.9)
    optimizer.step()
    optimizer.zero_grad()
    with no_array_data():
        optimizer.step()
        optimizer.zero_grad()
    with no_runtime_memory():
        optimizer.step()


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        (lambda p: [], {}, "empty"),
        (lambda p: [p, p], {}, "twice"),
        (lambda p: [{"params": [p]}, {"params": [p]}], {}, "twice"),
        (lambda p: [p.value], {}, "ndarray"),
        (lambda p: 5, {}, "int"),
        (lambda p: [{"lr": 0.1}], {}, "params"),
        (lambda p: [{"params": [p], "rate": 0.1}], {}, "rate"),
        (lambda p: [p], {"lr": -0.1}, "lr must be a number of at least 0, got -0.1"),
        (lambda p: [p], {"lr": float("nan")}, "lr must be a number of at least 0, got nan"),
        (lambda p: [{"params": [p], "lr": -1.0}], {}, "lr"),
        (lambda p: [p], {"lr": "0.1"}, "lr must be a number of at least 0, got '0.1'"),
        (lambda p: [p], {"momentum": -0.1}, "momentum"),
        (lambda p: [p], {"weight_decay": -0.1}, "weight_decay"),
        (lambda p: [p], {"nesterov": True}, "nesterov"),
        (lambda p: [p], {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov"),
    ],
)
def test_wrong_settings_are_refused(arguments, settings, words):
    with pytest.raises(nn.ArgumentError, match=words):
        nn.optim.SGD(arguments(nn.Parameter(np.zeros(3, np.float32))), **settings)


def test_a_wrong_rate_in_a_schedule_changes_nothing():
    params = parameters()
    optimizer = nn.optim.SGD([{"params": params[:3]}, {"params": params[3:]}], lr=0.1)
    set_gradients(params, 0)
    before = [p.value.copy() for p in params]
    optimizer.param_groups[1]["lr"] = float("nan")
    with pytest.raises(nn.ArgumentError, match="lr"):
        optimizer.step()
    for parameter, value in zip(params, before, strict=True):
        np.testing.assert_array_equal(parameter.value, value)


# Training


def perceptron(hidden=8, activation=nn.Sigmoid, sizes=(2, 1), seed=0):
    nn.manual_seed(seed)
    return nn.Sequential(nn.Linear(sizes[0], hidden), activation(), nn.Linear(hidden, sizes[1]))


@pytest.mark.parametrize(("hidden", "activation"), [(4, nn.Sigmoid), (8, nn.ReLU)])
def test_exclusive_or_is_learned(hidden, activation):
    x = np.float32([[0, 0], [0, 1], [1, 0], [1, 1]])
    target = np.float32([[0], [1], [1], [0]])
    model = perceptron(hidden, activation)
    optimizer = nn.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    step = nn.TrainStep(model, nn.MSELoss(), optimizer, x.shape)
    losses = [step(x, target) for _ in range(2000)]
    assert losses[0] > 0.1
    assert losses[-1] < 1e-3
    np.testing.assert_array_equal(np.round(model.eval()(x)), target)


def test_a_line_is_learned():
    nn.manual_seed(0)
    layer, loss = nn.Linear(1, 1), nn.MSELoss()
    optimizer = nn.optim.SGD(layer.parameters(), lr=0.1)
    x = np.linspace(-2, 2, 50, dtype=np.float32)[:, None]
    for _ in range(200):
        optimizer.zero_grad()
        loss(layer(x), 2 * x + 1)
        layer.backward(loss.backward())
        optimizer.step()
    assert layer.weight.value == pytest.approx(2, abs=1e-3)
    assert layer.bias.value == pytest.approx(1, abs=1e-3)


@njit
def users_layer(y, left, right, x, weight, bias):
    linear_forward(y, left, right, x, weight, np.ones_like(bias), bias, IDENTITY, 0.0)


@njit
def users_update(value, gradient, lr):
    for i in range(value.size):
        value[i] -= lr * gradient[i]
        gradient[i] = 0


@njit
def users_step(loss, x, target, partial, left, right, w1, b1, w2, b2, dw1, db1, dw2, db2, h, a, y, dy, da, dh, lr):
    """A step of a user's own: two linear layers, ReLU and the squared error, on our kernels alone."""
    users_layer(h, left, right, x, w1, b1)
    relu_forward(a.reshape(a.size), h.reshape(h.size))
    users_layer(y, left, right, a, w2, b2)
    flat, goal = y.reshape(y.size), target.reshape(target.size)
    squared_error_forward(loss, partial, flat, goal, 1 / y.size)
    squared_error_backward(dy.reshape(dy.size), flat, goal, 1 / y.size)
    linear_backward_weight(dw2, left, right, a, dy)
    linear_backward_bias(db2, left, dy)
    linear_backward_input(da, left, right, dy, w2)
    relu_backward(dh.reshape(dh.size), h.reshape(h.size), da.reshape(da.size))
    linear_backward_weight(dw1, left, right, x, dh)
    linear_backward_bias(db1, left, dh)
    for value, gradient in ((w1.reshape(w1.size), dw1.reshape(dw1.size)), (w2.reshape(w2.size), dw2.reshape(dw2.size))):
        users_update(value, gradient, lr)
    users_update(b1, db1, lr)
    users_update(b2, db2, lr)


def test_a_step_in_the_users_own_compiled_code():
    rows, features, hidden, outputs = 16, 5, 13, 3
    model, x, target = perceptron(hidden, nn.ReLU, (features, outputs)), numbers(rows, features), numbers(rows, outputs, seed=1)
    state = {name: array.copy() for name, array in model.state_dict().items()}
    step = nn.TrainStep(model, nn.MSELoss(), nn.optim.SGD(model.parameters(), lr=0.1), x.shape)
    rooms = [operand_room(rows, *sizes, np.float32) for sizes in ((features, hidden), (hidden, outputs))]
    left, right = (np.empty(max(room[side][0] for room in rooms), np.float32) for side in ("left", "right"))
    between = [np.empty((rows, n), np.float32) for n in (hidden, hidden, outputs, outputs, hidden, hidden)]
    loss, partial = np.empty(1, np.float32), np.empty(block_count(rows * outputs))
    gradients = [np.zeros_like(a) for a in state.values()]
    for _ in range(20):
        users_step(loss, x, target, partial, left, right, *state.values(), *gradients, *between, np.float32(0.1))
        assert loss[0] == pytest.approx(step(x, target), rel=1e-5)
    for name, array in model.state_dict().items():
        assert_close(state[name], array)

"""Adam and AdamW: the formula, step counts, settings."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn
from tests import reference_training
from tests.allocations import no_array_data, no_runtime_memory
from tests.cases import assert_close

SHAPES = [(3, 4), (1,), (5, 7000), (16_384,), (16_385,), (0, 3)]
FORMULAS = {nn.optim.Adam: reference_training.adam, nn.optim.AdamW: reference_training.adamw}
SETTINGS = [
    {},
    {"lr": 0.1, "weight_decay": 0.1},
    {"lr": 0.05, "betas": (0.5, 0.7), "eps": 1e-3},
    {"lr": 0.1, "betas": (0.0, 0.0)},
    {"lr": 0.1, "amsgrad": True, "maximize": True, "betas": (0.9, 0.5)},
]
each_class = pytest.mark.parametrize("make", FORMULAS, ids=lambda c: c.__name__)


def numbers(*shape, seed):
    return np.random.default_rng(seed).standard_normal(shape)


def parameters(*dtypes, shapes=SHAPES):
    return [nn.Parameter(numbers(*s, seed=i).astype(dtypes[i % len(dtypes)])) for i, s in enumerate(shapes)]


def check_steps(optimizer, steps=5, change=lambda step, params, groups: None):
    """Steps over random gradients are the formula's; ``change`` comes before each."""
    owners = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    params = [p for p, _ in owners]
    formula = FORMULAS[type(optimizer)]
    expected, states = [p.value.astype(np.float64) for p in params], [None] * len(params)
    for step in range(steps):
        change(step, params, optimizer.param_groups)
        for i, (p, group) in enumerate(owners):
            p.grad[...] = numbers(*p.grad.shape, seed=(i, step))
            if p.requires_grad:
                settings = {name: value for name, value in group.items() if name != "params"}
                expected[i], states[i] = formula(expected[i], p.grad.astype(np.float64), states[i], **settings)
        before = [p.grad.copy() for p in params]
        optimizer.step()
        for p, value, gradient in zip(params, expected, before, strict=True):
            assert_close(p.value, value)
            np.testing.assert_array_equal(p.grad, gradient)
    np.testing.assert_array_equal(optimizer.state_dict()["steps"], [0 if state is None else state[0] for state in states])


@pytest.mark.parametrize("dtypes", [(np.float32,), (np.float64, np.float32)], ids=["f4", "mixed"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@each_class
def test_steps_equal_the_formula(make, settings, dtypes):
    check_steps(make(parameters(*dtypes), **settings))


def test_defaults_are_pytorchs():
    common = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False, "maximize": False}
    params = parameters(np.float32)
    for make, weight_decay in ((nn.optim.Adam, 0.0), (nn.optim.AdamW, 0.01)):
        assert make(params).param_groups == [{"params": params, **common, "weight_decay": weight_decay}]


@each_class
def test_groups_and_settings_that_change(make):
    def change(step, params, groups):
        groups[0]["lr"] *= 0.5
        groups[1]["betas"] = (0.1 * step, 0.9)
        groups[2]["amsgrad"] = step % 2 == 0

    params = parameters(np.float64)
    groups = [{"params": params[:2], "weight_decay": 0.3}, {"params": params[2], "maximize": True}]
    check_steps(make([*groups, {"params": params[3:], "amsgrad": True}], lr=0.1), 6, change)


def test_a_frozen_parameter_stays_and_its_steps_are_not_counted():
    def change(step, params, groups):
        params[0].requires_grad = step >= 2
        params[2].requires_grad = step not in (1, 3)

    optimizer = nn.optim.AdamW(parameters(np.float32), lr=0.1)
    check_steps(optimizer, 5, change)
    np.testing.assert_array_equal(optimizer.state_dict()["steps"][:3], [3, 5, 3])


def test_the_first_step_is_the_learning_rate_whatever_the_gradients_size():
    parameter = nn.Parameter(np.zeros(4, np.float32))
    parameter.grad[...] = [1e-3, -1.0, 1e3, 0]
    nn.optim.Adam([parameter], lr=0.5).step()
    np.testing.assert_allclose(parameter.value, [-0.5, 0.5, -0.5, 0], rtol=2e-5)


def test_a_number_that_is_not_finite_stays_where_it_is():
    parameter = nn.Parameter(np.float32([np.inf, 1, np.nan, 2]))
    parameter.grad[...] = [1, np.nan, 1, 1]
    nn.optim.Adam([parameter], lr=0.5).step()
    np.testing.assert_allclose(parameter.value, [np.inf, np.nan, np.nan, 1.5], rtol=1e-5)


def test_only_amsgrad_keeps_a_third_array():
    params = parameters(np.float32)
    assert {name.split(".")[0] for name in nn.optim.Adam(params).state_dict()} == {"steps", "exp_avg", "exp_avg_sq", "group"}
    assert "max_exp_avg_sq.0" in nn.optim.Adam(params, amsgrad=True).state_dict()
    optimizer, before = nn.optim.Adam(params), [p.value.copy() for p in params]
    optimizer.param_groups[0]["amsgrad"] = True
    with pytest.raises(nn.ArgumentError, match="Adam: amsgrad"):
        optimizer.step()
    for parameter, value in zip(params, before, strict=True):
        np.testing.assert_array_equal(parameter.value, value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": -0.1}, "lr must be a number of at least 0, got -0.1"),
        ({"eps": float("nan")}, "eps"),
        ({"weight_decay": None}, "weight_decay must be a number of at least 0, got None"),
        ({"betas": 0.9}, "betas must be two numbers, got 0.9"),
        ({"betas": (0.9,)}, "betas must be two numbers"),
        ({"betas": (0.9, 1.0)}, r"betas must be below 1, got \(0.9, 1.0\)"),
        ({"betas": (-0.1, 0.9)}, "betas must be a number from 0 to 1, got -0.1"),
        ({"betas": ("a", 0.9)}, "betas"),
    ],
)
@each_class
def test_wrong_settings_are_refused(make, settings, words):
    with pytest.raises(nn.ArgumentError, match=f"^{make.__name__}: {words}"):
        make(parameters(np.float32), **settings)


def test_a_step_allocates_nothing():
    optimizer = nn.optim.Adam(parameters(np.float32, np.float64), amsgrad=True)
    optimizer.step()
    optimizer.zero_grad()
    with no_array_data():
        optimizer.step()
        optimizer.zero_grad()
    with no_runtime_memory():
        optimizer.step()


def test_exclusive_or_is_learned():
    nn.manual_seed(0)
    x, target = np.float32([[0, 0], [0, 1], [1, 0], [1, 1]]), np.float32([[0], [1], [1], [0]])
    model = nn.Sequential(nn.Linear(2, 8), nn.Sigmoid(), nn.Linear(8, 1))
    step = nn.TrainStep(model, nn.MSELoss(), nn.optim.Adam(model.parameters(), lr=0.05), x.shape)
    losses = [step(x, target) for _ in range(500)]
    assert losses[0] > 0.1
    assert losses[-1] < 1e-3

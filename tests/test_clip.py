"""Clipping of gradients."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

import numba_nn as nn
from tests import reference_training
from tests.allocations import no_array_data, no_runtime_memory
from tests.cases import assert_close

SHAPES = [(3, 4), (1,), (5, 7000), (16_385,), (0, 3)]
ORDERS = [2.0, 1.0, 3, 0.5, math.inf]


def parameters(*dtypes, shapes=SHAPES):
    made = []
    for i, shape in enumerate(shapes):
        made.append(nn.Parameter(np.zeros(shape, dtypes[i % len(dtypes)])))
        made[-1].grad[...] = np.random.default_rng(i).standard_normal(shape)
    return made


def gradients(params):
    return [p.grad.copy() for p in params]


@pytest.mark.parametrize("dtypes", [(np.float32,), (np.float64, np.float32)], ids=["f4", "mixed"])
@pytest.mark.parametrize("order", ORDERS)
def test_norms_equal_the_formula(order, dtypes):
    params = parameters(*dtypes)
    before = gradients(params)
    norm = reference_training.gradient_norm(before, order)
    got = nn.optim.clip_grad_norm_(iter(params), norm / 3, order)
    assert type(got) is float
    assert got == pytest.approx(norm, rel=1e-12)
    for parameter, gradient in zip(params, before, strict=True):
        assert_close(parameter.grad, gradient * (norm / 3 / (norm + 1e-6)))
    assert nn.optim.clip_grad_norm_(params, norm, order) == pytest.approx(norm / 3, rel=1e-5)


def test_a_norm_below_the_limit_changes_nothing():
    params = parameters(np.float32)
    before = gradients(params)
    norm = nn.optim.clip_grad_norm_(params, math.inf)
    assert nn.optim.clip_grad_norm_(params, norm + 1e-4) == norm
    for parameter, gradient in zip(params, before, strict=True):
        np.testing.assert_array_equal(parameter.grad, gradient)


def test_frozen_parameters_neither_count_nor_change():
    params = parameters(np.float32)
    clip = nn.optim.ClipNorm(params, 0.5)
    params[2].requires_grad = False
    before = gradients(params)
    assert clip() == pytest.approx(reference_training.gradient_norm(before[:2] + before[3:]), rel=1e-12)
    nn.optim.clip_grad_value_(params, 1e-6)
    np.testing.assert_array_equal(params[2].grad, before[2])
    assert max(np.abs(params[i].grad).max() for i in (0, 1, 3)) == np.float32(1e-6)


def test_squares_beyond_float32_do_not_overflow():
    parameter = nn.Parameter(np.zeros(3, np.float32))
    parameter.grad[...] = [3e30, 4e30, 0]
    assert nn.optim.clip_grad_norm_(parameter, 1.0) == pytest.approx(5e30)
    np.testing.assert_allclose(parameter.grad, [0.6, 0.8, 0], rtol=1e-6)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("bad", "left"), [(np.nan, np.nan), (np.inf, 0.0), (-np.inf, 0.0)])
def test_a_norm_that_is_not_finite(bad, left, order):
    params = parameters(np.float32)
    params[2].grad[2, 3] = bad
    before = gradients(params)
    with pytest.raises(nn.NonFiniteError, match=f"clip_grad_norm_: .* of order {order:g} is (nan|inf)"):
        nn.optim.clip_grad_norm_(params, 1.0, order, error_if_nonfinite=True)
    for parameter, gradient in zip(params, before, strict=True):
        np.testing.assert_array_equal(parameter.grad, gradient)
    np.testing.assert_equal(nn.optim.clip_grad_norm_(params, 1.0, order), abs(bad))
    np.testing.assert_equal(params[0].grad, np.full((3, 4), left, np.float32))
    assert np.isnan(params[2].grad[2, 3])


def test_values_are_limited_one_by_one():
    for params in (parameters(np.float32), parameters(np.float64)):
        params[0].grad[0] = [np.nan, np.inf, -np.inf, 0.5]
        before = gradients(params)
        nn.optim.clip_grad_value_(params, 0.5)
        for parameter, gradient in zip(params, before, strict=True):
            np.testing.assert_array_equal(parameter.grad, np.clip(gradient, -0.5, 0.5))


def test_nothing_to_clip():
    assert nn.optim.clip_grad_norm_([], 1.0) == nn.optim.clip_grad_norm_([], 1.0, math.inf) == 0
    assert nn.optim.clip_grad_value_([], 1.0) is None


@pytest.mark.parametrize("order", [2.0, math.inf])
def test_a_call_allocates_nothing(order):
    clip = nn.optim.ClipNorm(parameters(np.float32, np.float64), 0.5, order)
    clip()
    with no_array_data():
        clip()
        nn.optim.clip_grad_value_(clip.parameters, 0.1)
    clip.max_norm = 1e-3
    with no_runtime_memory():
        clip()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_copy_clips_its_own_parameters(duplicate):
    clip = nn.optim.ClipNorm(parameters(np.float32), 0.5)
    other = duplicate(clip)
    norm, shared = clip(), other.parameters[0] is clip.parameters[0]
    assert other() == pytest.approx(0.5 if shared else norm, rel=1e-5)
    np.testing.assert_allclose(other.parameters[2].grad, clip.parameters[2].grad, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((5, 1.0), "int"),
        (([np.zeros(3)], 1.0), "ndarray"),
        (("same", 1.0), "twice"),
        (([], -1.0), "max_norm must be a number of at least 0, got -1.0"),
        (([], "1"), "max_norm"),
        (([], 1.0, 0), "norm_type must be above 0"),
        (([], 1.0, math.nan), "norm_type"),
    ],
)
def test_wrong_arguments_are_refused(arguments, words):
    parameter = nn.Parameter(np.zeros(3, np.float32))
    given = [parameter, parameter] if arguments[0] == "same" else arguments[0]
    with pytest.raises(nn.ArgumentError, match=f"^clip_grad_norm_: .*{words}"):
        nn.optim.clip_grad_norm_(given, *arguments[1:])
    if len(arguments) == 2:
        with pytest.raises(nn.ArgumentError, match=r"^clip_grad_value_: "):
            nn.optim.clip_grad_value_(given, arguments[1])


def test_errors_name_what_was_called():
    model = nn.Linear(2, 2)
    for name, call in [("clip_grad_norm_", nn.optim.clip_grad_norm_), ("clip_grad_value_", nn.optim.clip_grad_value_)]:
        words = rf"^{name}: parameters must be Parameter objects \(model\.parameters\(\)\), got Linear$"
        with pytest.raises(nn.ArgumentError, match=words):
            call(model, 1.0)
    with pytest.raises(nn.ArgumentError, match=r"^clip_grad_norm_: max_norm must be a number of at least 0, got -1$"):
        nn.optim.clip_grad_norm_(model.parameters(), -1)
    model.weight.grad[...] = np.nan
    with pytest.raises(nn.NonFiniteError, match=r"^clip_grad_norm_: the gradients' norm of order 2 is nan"):
        nn.optim.clip_grad_norm_(model.parameters(), 1, error_if_nonfinite=True)


def test_the_largest_magnitude_by_name():
    model = nn.Linear(2, 2)
    model.weight.grad[...] = [[1, -3], [2, 0]]
    assert nn.optim.clip_grad_norm_(model.named_parameters(), 6, "inf") == 3

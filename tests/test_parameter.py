"""Parameters as NumPy's and PyTorch's users handle them."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn


@pytest.fixture
def parameter():
    return nn.Parameter(np.arange(6, dtype=np.float32).reshape(2, 3), "weight")


def test_a_parameter_is_its_value_to_numpy(parameter):
    assert np.asarray(parameter) is parameter.value
    assert np.array(parameter) is not parameter.value
    np.testing.assert_array_equal(np.asarray(parameter, np.float64), parameter.value)
    np.testing.assert_array_equal(np.add(parameter, 1), parameter.value + 1)
    assert (parameter.shape, parameter.ndim, parameter.size, parameter.dtype) == ((2, 3), 2, 6, np.float32)
    assert not np.shares_memory(nn.Parameter(parameter).value, parameter.value)


@pytest.mark.parametrize("name", ["value", "grad"])
def test_an_array_stays_what_it_is(parameter, name):
    array = getattr(parameter, name)
    array[...] = 4
    for wrong in (None, np.zeros((2, 3), np.float32), array.copy()):
        words = rf"weight, .*: {name} must stay the array that it is, got {type(wrong).__name__}; \.{name}\[\.\.\.\] = a"
        with pytest.raises(nn.ArgumentError, match=words):
            setattr(parameter, name, wrong)
    assert getattr(parameter, name) is array
    parameter.value += 1  # in place, then set to itself
    parameter.grad *= 2
    assert (array == (5 if name == "value" else 8)).all()


def test_frozen_by_name_or_whole():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert model[0].weight.requires_grad_(False) is model[0].weight
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert model.requires_grad_(False) is model
    assert not any(p.requires_grad for p in model.parameters())
    model.requires_grad_()
    assert all(p.requires_grad for p in model.parameters())


def test_a_locked_value_is_edited_between_train_and_eval():
    layer, x = nn.Linear(8, 8).eval(), np.ones((1, 8), np.float32)
    before = layer(x)
    with pytest.raises(ValueError, match="read-only"):
        layer.weight.value[...] *= 2
    layer.train()
    layer.weight.value[...] *= 2
    layer.bias.value[...] *= 2
    np.testing.assert_array_equal(layer.eval()(x), 2 * before)

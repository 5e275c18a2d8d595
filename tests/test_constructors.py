"""Constructors as PyTorch's users write them, and what classes of a user's own are told that lack something."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import numba_nn as nn

LAYERS = [c for c in map(vars(nn).get, nn.__all__) if inspect.isclass(c) and issubclass(c, nn.Layer) and c is not nn.Layer]


@pytest.mark.parametrize("layer", [nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.SiLU, nn.Dropout, nn.Dropout1d, nn.Dropout2d])
def test_inplace_is_taken_and_changes_nothing(layer):
    assert repr(layer(inplace=True)) == repr(layer())
    with pytest.raises(nn.ArgumentError, match=rf"^{layer.__name__}: inplace must be True or False, got 'yes'$"):
        layer(inplace="yes")


@pytest.mark.parametrize("conv", [nn.Conv1d, nn.Conv2d])
def test_padding_mode(conv):
    assert repr(conv(2, 3, 3, 1, 1, 1, 1, False, "zeros")) == repr(conv(2, 3, 3, padding=1, bias=False))
    with pytest.raises(nn.ArgumentError, match=rf"^{conv.__name__}: padding_mode must be 'zeros' .*, got 'reflect'$"):
        conv(2, 3, 3, padding_mode="reflect")


def test_a_dtype_is_named():
    dtypes = {c.__name__: inspect.signature(c).parameters.get("dtype") for c in LAYERS if c is not nn.MixedPrecision}
    assert [name for name, dtype in dtypes.items() if dtype and dtype.kind is not dtype.KEYWORD_ONLY] == []


@pytest.mark.parametrize("layer", [c for c in LAYERS if any(
    a.default is a.empty and a.kind is a.POSITIONAL_OR_KEYWORD for a in inspect.signature(c).parameters.values()
)])  # fmt: skip
def test_a_missing_argument_names_the_class(layer):
    with pytest.raises(TypeError, match=rf"^{layer.__name__}\.__init__\(\) missing"):
        layer()


def test_gradients_are_cleared_not_taken_away():
    layer = nn.Linear(2, 3)
    optimizer = nn.optim.SGD(layer.parameters())
    for owner, name in ((layer, r"Linear\(.*\)"), (optimizer, "SGD")):
        layer.weight.grad[...] = 1
        with pytest.raises(nn.ArgumentError, match=rf"^{name}: set_to_none must be False, .* got True$"):
            owner.zero_grad(set_to_none=True)
        assert layer.weight.grad.all()
        owner.zero_grad(set_to_none=False)
        assert not layer.weight.grad.any()


# What a subclass lacks


class Halved(nn.Layer):
    def output_shape(self, x_shape):
        return x_shape


class OfNothing(nn.Loss):
    def loss_shape(self, shape):
        return shape


@pytest.mark.parametrize(("run", "words"), [
    (lambda x: nn.Layer()(x), r"Layer must define output_shape\(x_shape\)"),
    (lambda x: Halved()(x), r"Halved must define _forward\(call, y, x, saved\)"),
    (lambda x: nn.Loss()(x, x), r"Loss must define loss_shape\(shape\)"),
    (lambda x: OfNothing()(x, x), r"OfNothing must define _check\(prediction, target\)"),
    (lambda x: nn.metrics.Metric(), r"Metric must define reset\(\)"),
])  # fmt: skip
def test_what_a_subclass_must_define_is_named(run, words):
    with pytest.raises(NotImplementedError, match=rf"^{words}$"):
        run(np.ones((2, 3), np.float32))


@pytest.mark.parametrize("part", [lambda: nn.Parameter(np.ones(2)), lambda: nn.Linear(2, 2)])
def test_a_constructor_that_forgot_its_base_is_told(part):
    class Forgetful(nn.Layer):
        def __init__(self):
            self.part = part()

    with pytest.raises(nn.ArgumentError, match=r"^Forgetful: call super\(\)\.__init__\(\) before part is set$"):
        Forgetful()


def test_a_parameter_is_written_into_or_replaced_by_another():
    layer = nn.Linear(2, 3)
    weight, other = layer.weight, nn.Parameter(np.ones((3, 2), np.float32), "weight")
    for wrong in (weight.value, np.ones((3, 2), np.float32), 1.0, nn.ReLU()):
        with pytest.raises(nn.ArgumentError, match=r"weight must stay a Parameter, or None, got .*; layer\.weight\.value\["):
            layer.weight = wrong
        assert layer.weight is weight
    layer.weight, layer.bias = other, None
    assert layer.parameters() == [other]
    np.testing.assert_array_equal(layer(np.ones((1, 2), np.float32)), [[2, 2, 2]])

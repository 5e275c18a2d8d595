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


def parameters():
    return [nn.Parameter(np.ones(2))]


def matrix():
    return np.ones((2, 2), np.float32)


FLAGS = {
    "Linear: bias": lambda flag: nn.Linear(2, 3, flag),
    "Conv1d: bias": lambda flag: nn.Conv1d(2, 3, 3, bias=flag),
    "Conv2d: bias": lambda flag: nn.Conv2d(2, 3, 3, bias=flag),
    "LSTM: bias": lambda flag: nn.LSTM(2, 3, bias=flag),
    "LSTM: batch_first": lambda flag: nn.LSTM(2, 3, batch_first=flag),
    "LSTM: bidirectional": lambda flag: nn.LSTM(2, 3, bidirectional=flag),
    "LSTMCell: bias": lambda flag: nn.LSTMCell(2, 3, flag),
    "BatchNorm1d: affine": lambda flag: nn.BatchNorm1d(3, affine=flag),
    "BatchNorm2d: track_running_stats": lambda flag: nn.BatchNorm2d(3, track_running_stats=flag),
    "BatchNorm2d: bias": lambda flag: nn.BatchNorm2d(3, bias=flag),
    "MaxPool1d: ceil_mode": lambda flag: nn.MaxPool1d(2, ceil_mode=flag),
    "MaxPool2d: return_indices": lambda flag: nn.MaxPool2d(2, return_indices=flag),
    "AdaptiveMaxPool2d: return_indices": lambda flag: nn.AdaptiveMaxPool2d(2, return_indices=flag),
    "AvgPool2d: ceil_mode": lambda flag: nn.AvgPool2d(2, ceil_mode=flag),
    "AvgPool2d: count_include_pad": lambda flag: nn.AvgPool2d(2, count_include_pad=flag),
    "Adam: amsgrad": lambda flag: nn.optim.Adam(parameters(), amsgrad=flag),
    "AdamW: maximize": lambda flag: nn.optim.AdamW(parameters(), maximize=flag),
    "SGD: nesterov": lambda flag: nn.optim.SGD(parameters(), momentum=0.9, nesterov=flag),
    "SGD: maximize": lambda flag: nn.optim.SGD(parameters(), maximize=flag),
    "ClipNorm: error_if_nonfinite": lambda flag: nn.optim.ClipNorm(parameters(), 1, error_if_nonfinite=flag),
    "Batches: shuffle": lambda flag: nn.data.Batches(matrix(), batch_size=1, shuffle=flag),
    "Batches: drop_last": lambda flag: nn.data.Batches(matrix(), batch_size=1, drop_last=flag),
    "Stream: drop_last": lambda flag: nn.data.Stream([(1, 2)], 1, drop_last=flag),
    "EarlyStopping: restore_best": lambda flag: nn.EarlyStopping(restore_best=flag),
    "sum: keepdims": lambda flag: nn.ops.sum(matrix(), keepdims=flag),
    "matmul: transpose_a": lambda flag: nn.matmul(matrix(), matrix(), transpose_a=flag),
    "matmul: transpose_b": lambda flag: nn.matmul(matrix(), matrix(), transpose_b=flag),
    "matmul: accumulate": lambda flag: nn.matmul(matrix(), matrix(), matrix(), accumulate=flag),
    r"ReLU\(\): mode": lambda flag: nn.ReLU().train(flag),
    r"ReLU\(\): training": lambda flag: nn.ReLU().reserve((1, 2), training=flag),
    r"ReLU\(\): strict": lambda flag: nn.ReLU().reserve((1, 2), strict=flag),
    r"ReLU\(\): set_to_none": lambda flag: nn.ReLU().zero_grad(flag),
    r"Parameter\(.*\): requires_grad": lambda flag: parameters()[0].requires_grad_(flag),
}


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_is_true_or_false(name):
    FLAGS[name](False)
    FLAGS[name](np.False_)
    for wrong in ("no", 1, None):
        with pytest.raises(nn.ArgumentError, match=rf"^{name} must be True or False, got {wrong!r}$"):
            FLAGS[name](wrong)


def test_flags_of_calls_are_true_or_false():
    layer, lstm, x = nn.Linear(2, 2), nn.LSTM(2, 2), matrix()
    layer.forward(x)
    lstm.forward(x)
    for run in (layer.backward, lstm.backward):
        with pytest.raises(nn.ArgumentError, match=r": input_gradient must be True or False, got 'no'$"):
            run(x, input_gradient="no")
        run(x, input_gradient=np.True_)
    with pytest.raises(nn.ArgumentError, match=r": strict must be True or False, got 'no'$"):
        layer.load_state_dict({}, "no")


@pytest.mark.parametrize(("make", "words"), [
    (lambda: nn.optim.SGD(parameters(), lr=np.inf), "SGD: lr"),
    (lambda: nn.optim.SGD(parameters(), dampening=-np.inf), "SGD: dampening"),
    (lambda: nn.optim.Adam(parameters(), eps=np.inf), "Adam: eps"),
    (lambda: nn.optim.AdamW(parameters(), weight_decay=np.inf), "AdamW: weight_decay"),
    (lambda: nn.BatchNorm1d(2, eps=np.inf), "BatchNorm1d: eps"),
])  # fmt: skip
def test_a_rate_is_finite(make, words):
    with pytest.raises(nn.ArgumentError, match=rf"^{words} must be finite, got -?inf$"):
        make()


def test_an_lstm_of_one_layer_says_that_it_drops_nothing():
    with pytest.warns(UserWarning, match=r"^LSTM: dropout acts between layers, so with num_layers=1 it does nothing$"):
        nn.LSTM(2, 3, dropout=0.5)


def test_upsampling_takes_what_only_other_modes_use():
    layer = nn.Upsample(scale_factor=2, align_corners=None, recompute_scale_factor=None)
    assert repr(layer) == repr(nn.Upsample(scale_factor=2, recompute_scale_factor=False))
    with pytest.raises(nn.ArgumentError, match=r"^Upsample: align_corners must be None for mode 'nearest', got False$"):
        nn.Upsample(scale_factor=2, align_corners=False)
    with pytest.raises(nn.ArgumentError, match=r"^Upsample: recompute_scale_factor must be False or None, got True"):
        nn.Upsample(scale_factor=2, recompute_scale_factor=True)


def test_a_norm_without_bias():
    layer, x = nn.BatchNorm1d(2, bias=False), np.array([[1, 2], [3, 6]], np.float32)
    assert repr(layer).endswith("bias=False)")
    assert layer.bias is None
    layer.weight.value[...] = 2
    np.testing.assert_allclose(layer(x), [[-2, -2], [2, 2]], rtol=1e-4)
    layer.backward(x)
    np.testing.assert_allclose(layer.weight.grad, [2, 4], rtol=1e-4)


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

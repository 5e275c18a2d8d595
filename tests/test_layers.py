"""What is peculiar to one layer."""

from __future__ import annotations

import numba
import numpy as np
import pytest

import numba_nn as nn
from tests import reference
from tests.cases import gradients


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_relu_at_zero(dtype):
    layer, x = nn.ReLU(), np.array([-1, -0.0, 0.0, 1, np.inf, -np.inf, 5e-40], dtype)
    got = gradients(layer, x, np.ones_like(x))
    np.testing.assert_array_equal(got["y"], [0, 0, 0, 1, np.inf, 0, dtype(5e-40)])
    np.testing.assert_array_equal(got["x"], [0, 0, 0, 1, 1, 0, 1])
    assert not np.signbit(got["y"]).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_is_exact_in_its_tails(dtype):
    x = np.array([0, -1000, 1000, -np.inf, np.inf, -80, -20, -1e-6, 30, 80], dtype)
    got = gradients(nn.Sigmoid(), x, np.ones_like(x))
    np.testing.assert_array_equal(got["y"][:5], [0.5, 0, 1, 0, 1])
    np.testing.assert_allclose(got["y"], reference.sigmoid(x.astype(np.float64), {}), rtol=8 * np.finfo(dtype).eps, atol=0)
    np.testing.assert_array_equal(got["x"][1:5], 0)


@pytest.mark.parametrize(("dtype", "source"), [(np.float32, 29), (np.float64, 30)])
def test_upsample_rounds_81_by_2_7_as_pytorch_does(dtype, source):
    x = np.arange(49, dtype=dtype).reshape(1, 1, 1, 49)
    assert nn.Upsample(scale_factor=2.7)(x)[0, 0, 0, 81] == source


@pytest.mark.parametrize(
    "given",
    [
        {"size": 0.5}, {"size": 2.7}, {"size": 0}, {"size": (2, -1)}, {"size": (1, 2, 3)}, {"size": True}, {"size": "2"},
        {"scale_factor": 0}, {"scale_factor": -1.0}, {"scale_factor": np.nan}, {"scale_factor": np.inf},
        {"scale_factor": (2, 2, 2)}, {"scale_factor": "2"}, {"scale_factor": (2, None)}, {}, {"size": 2, "scale_factor": 2},
    ],
    ids=str,
)  # fmt: skip
def test_upsample_refuses_what_is_no_size(given):
    with pytest.raises(nn.ArgumentError, match=r"Upsample: .*(size|scale_factor)"):
        nn.Upsample(**given)


@pytest.mark.parametrize(("padding", "kept"), [(1, (1, 1)), ((1, 2), (1, 2)), ("same", "same"), ("valid", "valid")])
def test_conv_keeps_the_padding_that_it_was_given(padding, kept):
    layer = nn.Conv2d(2, 3, 3, padding=padding)
    assert layer.padding == kept
    assert f"padding={kept!r}" in repr(layer)
    again = nn.Conv2d(2, 3, 3, padding=layer.padding)
    assert again.output_shape((1, 2, 7, 8)) == layer.output_shape((1, 2, 7, 8))


def test_the_scratch_follows_from_the_shape_alone():
    layer = nn.Conv2d(2, 3, 3)
    before, spec = numba.get_num_threads(), layer.scratch_spec((2, 2, 9, 9), np.dtype(np.float32))
    try:
        numba.set_num_threads(1)
        assert layer.scratch_spec((2, 2, 9, 9), np.dtype(np.float32)) == spec
    finally:
        numba.set_num_threads(before)


def test_bias_gradients_of_long_batches_stay_accurate():
    dy = np.random.default_rng(0).random((300_000, 3), np.float32)
    expected = dy.sum(0, np.float64)
    linear, conv = nn.Linear(1, 3), nn.Conv2d(1, 3, 1)
    linear(np.zeros((dy.shape[0], 1), np.float32))
    linear.backward(dy)
    np.testing.assert_allclose(linear.bias.grad, expected, rtol=1e-6)
    conv(np.zeros((300, 1, 10, 100), np.float32))
    conv.backward(np.ascontiguousarray(dy.reshape(300, 10, 100, 3).transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(conv.bias.grad, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "stride", "padding"),
    [
        ((1, 3, 37, 4), 1, 1),
        ((1, 1, 5, 7), 1, 0),
        ((1, 2, 35, 19), 1, 1),
        ((2, 2, 1, 9), 1, 1),
        ((1, 1, 40, 37), 2, 1),
        ((1, 1, 9, 6), 2, 0),
    ],
)
def test_an_infinity_reaches_no_depthwise_tap_that_does_not_meet_it(shape, stride, padding):
    layer = nn.Conv2d(shape[1], shape[1], 3, stride=stride, padding=padding, groups=shape[1], bias=False)
    dy = np.ones(layer.output_shape(shape), np.float32)
    for place in range(int(np.prod(shape))):
        x = np.zeros(shape, np.float32)
        x.flat[place] = 1
        met = gradients(layer, x, dy)["weight"]
        np.testing.assert_array_equal(
            gradients(layer, np.where(x == 1, np.inf, x), dy)["weight"], np.where(met == 1, np.inf, 0)
        )


def test_flatten_keeps_the_numbers_and_owns_its_output():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    y = nn.Flatten()(x)
    np.testing.assert_array_equal(y, x.reshape(2, 12))
    assert not np.shares_memory(x, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layers_without_parameters_follow_their_input(dtype):
    x = np.ones((1, 1, 2, 2), dtype)
    for layer in (nn.ReLU(), nn.Sigmoid(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Upsample(scale_factor=2), nn.Flatten()):
        y = layer(x)
        assert y.dtype == dtype
        assert layer.backward(y).dtype == dtype
        assert layer(x.astype(np.float32)).dtype == np.float32


def test_parameters_may_be_changed_in_place():
    layer, x = nn.Linear(3, 2), np.ones((1, 3), np.float32)
    before = layer(x)
    layer.weight.value[...] += 1
    layer.bias.value[0] -= 1
    np.testing.assert_allclose(layer(x) - before, [[2, 3]], rtol=1e-5)


@pytest.mark.parametrize("padding", [(-3, 4), (4, -3), (-7, 8)], ids=str)
def test_padding_that_takes_the_whole_signal_leaves_its_constant(padding):
    layer, x = nn.ConstantPad1d(padding, 0.5), np.ones((1, 2, 2), np.float32)
    np.testing.assert_array_equal(layer(x), np.full((1, 2, 3), 0.5))
    np.testing.assert_array_equal(layer.backward(np.ones((1, 2, 3), np.float32)), np.zeros_like(x))


def test_dimensions_that_are_reordered_in_a_sequential_may_be_the_batch():
    model = nn.Sequential(nn.Transpose(0, 1), nn.ReLU(), nn.Unsqueeze(0), nn.Squeeze(0), nn.Transpose(0, 1))
    model.reserve((5, 3, 4), strict=True)
    for batch in (5, 2, 5):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 4)).astype(np.float32)
        np.testing.assert_array_equal(model(x), np.maximum(x, 0))
        np.testing.assert_array_equal(model.backward(x), np.maximum(x, 0))

"""Winograd's convolutions: their matrices, their rounding, what chooses them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import numba_nn as nn
from numba_nn.layers.conv.algorithm import PASSES
from numba_nn.layers.conv.choice import LARGEST_ERROR
from numba_nn.layers.conv.winograd_matrices import from_inputs, from_taps, outputs_of, rounding_error, side_of, to_outputs
from numba_nn.layers.conv.winograd_tiles import GRADIENT_TILES
from numba_nn.layers.conv.winograd_transforms import FORMS
from tests import reference
from tests.cases import assert_same, gradients


def matrix(rows):
    return np.array(rows, dtype=object)


@pytest.mark.parametrize(("outputs", "taps"), [(4, 3), (3, 4), (2, 5), (5, 2), (1, 1)])
def test_the_matrices_correlate(outputs, taps):
    assert outputs_of(taps) == outputs
    a, g, b = matrix(to_outputs(outputs)), matrix(from_taps(taps)), matrix(from_inputs(taps))
    rng = np.random.default_rng(0)
    weights, inputs = ([Fraction(int(n)) for n in rng.integers(-9, 9, size)] for size in (taps, side_of(taps)))
    expected = [sum(weights[k] * inputs[i + k] for k in range(taps)) for i in range(outputs)]
    assert list(a @ ((g @ matrix(weights)) * (b @ matrix(inputs)))) == expected


def random_layer(channels, outputs, algorithm, dtype=np.float32, taps=(3, 3)):
    layer = nn.Conv2d(channels, outputs, taps, padding="same", dtype=dtype, algorithm=algorithm)
    rng = np.random.default_rng(channels)
    layer.weight.value[...] = rng.standard_normal(layer.weight.value.shape).astype(np.float32)
    layer.bias.value[...] = 0
    return layer


@pytest.mark.parametrize("taps", FORMS)
@pytest.mark.parametrize("channels", [1, 16, 128, 512])
def test_errors_stay_below_their_estimate(channels, taps):
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((2, channels, 9, 8)).astype(np.float32) for _ in range(2))
    layer, judge = (random_layer(channels, channels, *how, taps=taps) for how in (("winograd",), ("direct", np.float64)))
    got, expected = gradients(layer, x, dy), gradients(judge, x.astype(np.float64), dy.astype(np.float64))
    estimates = {"y": rounding_error(taps, channels), "weight": rounding_error(taps, GRADIENT_TILES, gradient=True)}
    for name in ("y", "x", "weight"):
        estimate = estimates.get(name, estimates["y"]) * np.finfo(np.float32).eps
        assert estimate < LARGEST_ERROR
        assert np.max(abs(got[name] - expected[name])) <= estimate * np.max(abs(expected[name])), name


def chosen(layer, x_shape):
    return [layer._call(x_shape, layer.dtype).geometry[nn.get_precision()][one_pass].name for one_pass in PASSES]


def test_a_forward_whose_weights_are_packed_before_needs_fewer_tiles():
    layer = nn.Conv2d(128, 128, 3, padding=1)
    assert [name == "winograd" for name in chosen(layer, (1, 128, 12, 12))] == [False, False, True, True]
    assert "winograd" not in chosen(layer, (1, 128, 4, 4))


def test_auto_goes_by_the_shape():
    wide, narrow = nn.Conv2d(128, 128, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
    assert chosen(wide, (32, 128, 8, 8)) == ["winograd"] * 4
    assert "winograd" not in chosen(wide, (1, 128, 4, 4))
    assert "winograd" not in chosen(narrow, (32, 4, 8, 8))
    for kwargs in ({"stride": 2}, {"groups": 2}):
        assert "winograd" not in chosen(nn.Conv2d(128, 128, 3, padding=1, **kwargs), (32, 128, 8, 8))


@pytest.mark.parametrize(
    ("layer", "x_shape", "smaller"),
    [
        (nn.Conv2d(128, 128, 5, padding=2), (8, 128, 14, 14), (8, 128, 1, 1)),
        (nn.Conv2d(128, 128, 3, padding=2, dilation=2), (8, 128, 32, 32), (8, 128, 5, 5)),
        (nn.Conv1d(256, 256, 3, padding=1), (8, 256, 256), (1, 256, 8)),
        (nn.Conv1d(256, 256, 3, padding=2, dilation=2), (8, 256, 256), (8, 256, 9)),
        (nn.Conv1d(768, 768, 3, padding=4, dilation=4), (2, 768, 256), (2, 768, 9)),
    ],
    ids=["5 x 5", "dilated", "signal", "dilated signal", "signal of four phases"],
)
def test_auto_takes_it_for_other_taps_where_tiles_are_many(layer, x_shape, smaller):
    assert chosen(layer, x_shape) == ["winograd"] * 4
    assert "winograd" not in chosen(layer, smaller)


def test_auto_forgoes_it_where_rounding_might_show():
    layer = nn.Conv2d(16384, 1, 3, padding=1)
    layer.out_channels = 128
    assert rounding_error((3, 3), 16384) * np.finfo(np.float32).eps > LARGEST_ERROR
    assert [name == "winograd" for name in chosen(layer, (32, 16384, 8, 8))] == [False, True, True, False]


@pytest.fixture
def precision():
    yield nn.set_precision
    nn.set_precision("default")


def test_exact_precision_forbids_it(precision):
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 9)).astype(np.float32)
    layer, direct = random_layer(3, 4, "winograd"), random_layer(3, 4, "direct")
    plain, fast = gradients(direct, x, direct(x)), gradients(layer, x, direct(x))
    assert not np.array_equal(plain["y"], fast["y"])
    precision("exact")
    assert nn.get_precision() == "exact"
    assert_same(gradients(layer, x, direct(x)), plain)
    precision("default")
    assert_same(gradients(layer, x, direct(x)), fast)


def test_precision_may_change_between_forward_and_backward(precision):
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 9)).astype(np.float32)
    layer, direct = random_layer(3, 4, "winograd"), random_layer(3, 4, "direct")
    dy = layer(x)
    precision("exact")
    direct(x)
    np.testing.assert_array_equal(layer.backward(dy), direct.backward(dy))


def test_what_is_reserved_serves_smaller_batches_and_exact_precision(precision):
    layer = nn.Conv2d(40, 48, 3, padding=1)
    assert chosen(layer, (24, 40, 4, 4)) == ["winograd"] * 4
    assert "winograd" not in chosen(layer, (1, 40, 4, 4))
    model = nn.Sequential(layer, nn.ReLU()).reserve((24, 40, 4, 4), strict=True)
    for batch, mode in ((1, "default"), (24, "default"), (24, "exact"), (5, "exact"), (24, "default")):
        precision(mode)
        x = np.ones((batch, 40, 4, 4), np.float32)
        assert model.backward(model(x)).shape == x.shape


def test_what_is_asked_for_comes_before_depthwise():
    assert chosen(nn.Conv2d(1, 1, 3, algorithm="winograd"), (1, 1, 8, 8)) == ["winograd"] * 4
    assert chosen(nn.Conv2d(1, 1, 3), (1, 1, 8, 8)) == ["depthwise"] * 4


@pytest.mark.parametrize("mode", ["fast", None, 1])
def test_unknown_precisions_are_refused(mode):
    with pytest.raises(nn.ArgumentError, match=r"set_precision: mode must be one of \('default', 'exact'\), got"):
        nn.set_precision(mode)
    assert nn.get_precision() == "default"


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((2, 2, 7), {}, "kernel_size 3 x 3 or 5 x 5 or 1 x 3 or 1 x 5, got 7 x 7"),
        ((2, 2, (3, 1)), {}, "kernel_size 3 x 3 or 5 x 5 or 1 x 3 or 1 x 5, got 3 x 1"),
        ((2, 2, 3), {"stride": (1, 2)}, "stride 1, got (1, 2)"),
        ((2, 2, 3), {"stride": 2, "groups": 2}, "stride 1, got (2, 2); groups 1, got 2"),
    ],
)
def test_layers_that_it_cannot_serve_say_why(args, kwargs, words):
    with pytest.raises(nn.ArgumentError) as caught:
        nn.Conv2d(*args, **kwargs, algorithm="winograd")
    assert str(caught.value) == f"Conv2d: algorithm='winograd' needs {words}"
    with pytest.raises(nn.ArgumentError, match=r"Conv1d: algorithm='winograd' needs kernel_size .*, got 1 x 4"):
        nn.Conv1d(2, 2, 4, algorithm="winograd")
    with pytest.raises(nn.ArgumentError, match="algorithm must be one of"):
        nn.Conv2d(2, 2, 3, algorithm="fft")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_makes_nan_of_the_tiles_that_read_it(value):
    x = np.random.default_rng(0).standard_normal((1, 2, 12, 12)).astype(np.float32)
    x[0, 1, 5, 6] = value
    y = random_layer(2, 3, "winograd")(x)
    expected = np.zeros((3, 12, 12), bool)
    expected[:, 4:8, 4:8] = True
    np.testing.assert_array_equal(np.isnan(y[0]), expected)


@pytest.mark.parametrize("channels", [(3, 20), (20, 3)])
def test_an_epilogue_is_done_on_the_way(channels):
    layer = nn.Conv2d(*channels, 3, padding=1, algorithm="winograd")
    x = np.random.default_rng(0).standard_normal((2, channels[0], 9, 10)).astype(np.float32)
    y = nn.Sequential(layer, nn.LeakyReLU(0.1)).eval()(x)
    plain = reference.conv2d(x.astype(np.float64), {n: p.value for n, p in layer.named_parameters()}, *channels, 3, padding=1)
    np.testing.assert_allclose(y, np.where(plain > 0, plain, 0.1 * plain), atol=2e-5)

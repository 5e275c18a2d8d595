"""What is peculiar to pooling."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn
from tests import reference
from tests.cases import CASES, assert_same, gradients

POOLS = [c for c in CASES if c.layer is nn.MaxPool2d]


@pytest.mark.parametrize("case", POOLS, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_max_pool_gives_the_first_of_equal_maxima(case, training):
    x = np.round(case.x())
    layer = nn.MaxPool2d(*case.args, **case.kwargs, return_indices=True).train(training)
    expected, positions = reference.max_pool2d_indices(x.astype(np.float64), {}, *case.args, **case.kwargs)
    out = np.empty(expected.shape, np.float32)
    y, indices = layer.forward(x, out=out)
    assert y is out
    assert indices.dtype == np.int64
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(indices, positions)
    if training:
        dx, dy = np.zeros((*x.shape[:2], x[0, 0].size), np.float32), np.ones(y.shape, np.float32)
        for n, c, h, w in np.ndindex(*y.shape):
            dx[n, c, positions[n, c, h, w]] += 1
        np.testing.assert_array_equal(layer.backward(dy), dx.reshape(x.shape))


def test_max_pool_prefers_nan_and_finds_minus_infinity():
    x = np.full((1, 1, 2, 6), -np.inf, np.float32)
    x[0, 0, 1, 0], x[0, 0, 0, 1] = np.nan, np.inf
    y, indices = nn.MaxPool2d(2, return_indices=True)(x)
    np.testing.assert_array_equal(y[0, 0, 0], [np.nan, -np.inf, -np.inf])
    np.testing.assert_array_equal(indices[0, 0, 0], [6, 2, 4])


def test_max_pool_refuses_planes_beyond_its_positions():
    assert nn.MaxPool2d(2).output_shape((1, 1, 2**16, 2**15 - 1)) == (1, 1, 2**15, 2**14 - 1)
    with pytest.raises(nn.ShapeError, match="32 bits"):
        nn.MaxPool2d(2).output_shape((1, 1, 2**16, 2**15))


def test_max_pool_takes_the_last_of_several_nans():
    x = np.array([[[[1, np.nan, 2], [np.nan, 3, 4]]]], np.float32)
    assert nn.MaxPool2d((2, 3), return_indices=True)(x)[1].item() == 3


@pytest.mark.parametrize(("size", "padding"), [(2, 0), (3, 0), (3, 1)])
def test_windows_two_apart_are_pooled_as_all_others(monkeypatch, size, padding):
    rng = np.random.default_rng(0)
    x = rng.choice(np.array([-np.inf, -1, -0.0, 0, 1, np.inf, np.nan], np.float32), (40, 1, 6, 47))
    layer = nn.MaxPool2d(size, 2, padding, ceil_mode=True, return_indices=True)
    results = layer(x)
    monkeypatch.setattr(nn.MaxPool2d, "_geometry", lambda *_: ())
    for result, expected in zip(results, nn.MaxPool2d(size, 2, padding, ceil_mode=True, return_indices=True)(x), strict=True):
        np.testing.assert_array_equal(result, expected)


def test_max_pool_hands_on_its_output_alone_inside_a_sequential():
    x = np.random.default_rng(0).standard_normal((2, 1, 4, 6)).astype(np.float32)
    plain, indexed = (nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, return_indices=kept), nn.Flatten()) for kept in (False, True))
    assert_same(gradients(indexed, x, np.ones((2, 6), np.float32)), gradients(plain, x, np.ones((2, 6), np.float32)))
    last = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, return_indices=True))
    np.testing.assert_array_equal(last(x).reshape(2, 6), plain(x))
    assert "return_indices=True" in repr(last)


@pytest.mark.parametrize("layer", [nn.MaxPool2d((2, 3), 1, return_indices=True), nn.AdaptiveMaxPool2d((1, 3), True)], ids=str)
def test_equal_maxima_are_ordered_row_by_row(layer):
    x = np.array([[1, 5, 2, 0, 7], [5, 1, 5, 7, 0]], np.float32).reshape(1, 1, 2, 5)
    y, indices = layer(x)
    # The last window holds a 7 at column 4 of the first row, which comes before that at column 3 of the second.
    np.testing.assert_array_equal(indices.ravel(), [1, 8, 4])
    np.testing.assert_array_equal(y, x.ravel()[indices])


def test_a_window_that_misses_the_image_has_no_gradient():
    layer, x = nn.MaxPool2d(2, dilation=(1, 3), padding=1, return_indices=True), np.ones((1, 1, 3, 2), np.float32)
    y, indices = layer(x)
    assert (y == -np.inf).all()
    assert (indices == -1).all()
    assert not layer.backward(np.ones_like(y)).any()


@pytest.mark.parametrize("output_size", [1, 2, (1, 2)], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 3000, 1000), (1, 1, 1, 3_000_000), (1, 1, 3_000_000, 1)], ids=str)
def test_averages_of_many_elements_stay_accurate(shape, output_size):
    x = np.random.default_rng(0).random(shape, np.float32) + 1000
    expected = reference.adaptive_avg_pool2d(x.astype(np.float64), {}, output_size)
    np.testing.assert_allclose(nn.AdaptiveAvgPool2d(output_size)(x), expected, rtol=2e-7)


def test_global_pooling_is_that_of_one_window():
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 7)).astype(np.float32)
    for layer, adaptive in ((nn.GlobalAvgPool2d(), nn.AdaptiveAvgPool2d(1)), (nn.GlobalMaxPool2d(), nn.AdaptiveMaxPool2d(1))):
        model = nn.Sequential(adaptive, nn.Flatten())
        assert_same(gradients(layer, x, np.ones((2, 3), np.float32)), gradients(model, x, np.ones((2, 3), np.float32)))


def test_the_divisor_counts_padding_but_nothing_beyond():
    x = np.ones((1, 1, 4), np.float32)  # windows at -1, 1, 3: the last has 3, then padding, then nothing
    arguments = {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}
    np.testing.assert_allclose(nn.AvgPool1d(**arguments)(x).ravel(), [2 / 3, 1, 1 / 2], rtol=1e-6)
    np.testing.assert_array_equal(nn.AvgPool1d(**arguments, count_include_pad=False)(x).ravel(), 1)

"""Dropout: which elements a mask drops, that masks are independent, and that a seed fixes them."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

import numba_nn as nn
from numba_nn.core.random import MaskStream
from numba_nn.layers.dropout import drop_elements, mask_terms
from tests import reference
from tests.cases import assert_close

LAYERS = [nn.Dropout, nn.Dropout1d, nn.Dropout2d]
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def factors(layer, shape=(20, 500)):
    """What a forward in training mode multiplies by."""
    return layer(np.ones(shape, np.float32))


def correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


# Which elements


@every_dtype
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 4095, 4096, 4097, 4 * 4096 + 2])
def test_an_element_is_kept_by_its_own_random_word(size, p, dtype):
    seed, stream = 0x299F31D0_A4093822, 0x03707344_13198A2E
    x = np.random.default_rng(0).standard_normal(size).astype(dtype)
    expected = x * reference.dropout_factors((size,), p, seed, stream)
    for variant in (drop_elements.serial, drop_elements.parallel):
        y = np.empty_like(x)
        variant(y, np.array([seed, stream]), x, *mask_terms(p))
        assert_close(y, expected)
        np.testing.assert_array_equal(y == 0, expected == 0)


def test_a_layer_draws_by_seed_layer_and_draw():
    nn.manual_seed(-5)
    layers = [nn.Dropout(0.3), nn.Dropout2d(0.3)]
    for draw in (1, 2):
        for number, (layer, shape) in enumerate(zip(layers, [(7, 31), (5, 3, 2, 4)], strict=True)):
            rows = shape if number == 0 else shape[:2]
            expected = reference.dropout_factors(rows, 0.3, -5, (draw << 32) + number)
            expected = expected.reshape(*rows, *[1] * (len(shape) - len(rows)))
            assert_close(factors(layer, shape), np.broadcast_to(expected, shape))


def test_initial_values_have_streams_of_their_own():
    nn.manual_seed(0)
    masks, draws = MaskStream(), np.zeros((3, 2), np.int64)
    for draw in draws:
        masks.draw(draw)
    assert draws[:, 1].min() >= 2**32
    assert next(nn.core.random._streams) < 2**32


@pytest.mark.parametrize("p", [0.01, 0.25, 0.5, 0.8])
def test_the_fraction_dropped_is_p(p):
    nn.manual_seed(0)
    n = 200_000
    y = factors(nn.Dropout(p), (n,))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / (1 - p))}
    assert np.mean(y == 0) == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / n))
    for lag in (1, 2, 4, 16, 64):
        assert abs(correlation(y[:-lag], y[lag:])) < 5 / math.sqrt(n)


@every_dtype
@pytest.mark.parametrize("layer", LAYERS)
def test_all_can_be_dropped(layer, dtype):
    x = np.full((3, 50, *[3] * LAYERS.index(layer)), 2, dtype)
    model = layer(p=1)
    assert (model(x) == 0).all()
    assert (model.backward(x) == 0).all()


@pytest.mark.parametrize("layer", [nn.Dropout1d, nn.Dropout2d])
def test_channels_are_dropped_whole(layer):
    nn.manual_seed(0)
    shape = (50, 40, *[3] * (1 if layer is nn.Dropout1d else 2))
    y = factors(layer(0.4), shape).reshape(50, 40, -1)
    np.testing.assert_array_equal(y, np.broadcast_to(y[..., :1], y.shape))
    assert np.mean(y == 0) == pytest.approx(0.4, abs=5 * math.sqrt(0.24 / 2000))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_dropped_is_multiplied_by_zero(value):
    nn.manual_seed(0)
    layer = nn.Dropout(0.5)
    dropped = factors(layer) == 0
    nn.manual_seed(0)
    y = layer(np.full(dropped.shape, value, np.float32))
    assert np.isnan(y[dropped]).all()
    np.testing.assert_array_equal(y[~dropped], value)


# Independence, and what fixes the masks


def test_layers_calls_copies_and_seeds_have_masks_of_their_own():
    masks = []
    for seed in (0, 1):
        nn.manual_seed(seed)
        a, b = nn.Dropout(), nn.Dropout()
        layers = a, b, copy.deepcopy(a), pickle.loads(pickle.dumps(a)), a.share()
        masks += [factors(layer) for layer in layers for _ in range(2)]
    for i, first in enumerate(masks):
        for second in masks[:i]:
            assert abs(correlation(first, second)) < 5 / math.sqrt(first.size)


@pytest.mark.parametrize("remake", [True, False])
def test_a_seed_fixes_the_masks(remake):
    def make():
        return nn.Sequential(nn.Dropout(0.2), nn.Dropout(0.3))

    def run(model):
        return [factors(model) for _ in range(3)]

    nn.manual_seed(7)
    model = make()
    first = run(model)
    nn.manual_seed(7)
    for a, b in zip(first, run(make() if remake else model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_layers_made_before_and_after_a_seed_have_masks_of_their_own():
    before = nn.Dropout()
    nn.manual_seed(0)
    assert abs(correlation(factors(before), factors(nn.Dropout()))) < 5 / math.sqrt(10_000)


def test_copies_and_warmup_leave_the_masks_of_other_layers():
    def masks(between):
        nn.manual_seed(0)
        model = nn.Sequential(nn.Dropout(), nn.Dropout())
        between(model)
        return [factors(model), factors(nn.Dropout()), factors(model)]

    expected = masks(lambda model: None)
    for between in (copy.deepcopy, pickle.dumps, nn.Sequential.share, lambda model: nn.warmup(model, (20, 500))):
        for got, wanted in zip(masks(between), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_evaluations_do_not_move_the_masks():
    nn.manual_seed(0)
    layer = nn.Dropout()
    first, second = factors(layer), factors(layer)
    nn.manual_seed(0)
    np.testing.assert_array_equal(factors(layer), first)
    assert (factors(layer.eval()) == 1).all()
    np.testing.assert_array_equal(factors(layer.train()), second)


# Backward


@pytest.mark.parametrize("layer", LAYERS)
def test_backward_goes_through_the_mask_of_its_forward(layer):
    shape = (6, 50, *[3] * LAYERS.index(layer))
    model = layer(0.3).reserve(shape, calls=3)
    masks = [factors(model, shape) for _ in range(3)]
    model.eval()
    nn.manual_seed(1)  # neither the mode nor the seed of today matters
    dy = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for mask in reversed(masks):
        np.testing.assert_array_equal(model.backward(dy), dy * mask)


@pytest.mark.parametrize("layer", LAYERS)
def test_in_eval_mode_the_input_passes(layer):
    shape = (6, 50, *[3] * LAYERS.index(layer))
    x, dy = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    model = layer().eval()
    np.testing.assert_array_equal(model(x), x)
    frozen = nn.Sequential(nn.ReLU(), model)  # is in training mode, and keeps the forward of the layer that is not
    model.eval()
    np.testing.assert_array_equal(frozen(abs(x) + 1), abs(x) + 1)
    np.testing.assert_array_equal(frozen.backward(dy), dy)

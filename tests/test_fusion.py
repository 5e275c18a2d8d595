"""Layers that run as one: the same numbers as layer by layer, in every mode, and less memory."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn
from tests.cases import assert_close, gradients
from tests.test_sequential import by_hand, numbers

ACTIVATIONS = [nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Tanh, nn.LeakyReLU, lambda: nn.LeakyReLU(0.0), lambda: nn.LeakyReLU(-0.5)]
ACTIVATIONS += [nn.GELU, nn.SiLU]  # these never are: their backward needs the input
PRODUCTS = {
    "conv": (lambda: nn.Conv2d(3, 5, 3, padding=1), lambda: nn.BatchNorm2d(5), (2, 3, 9, 33)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False), lambda: nn.BatchNorm2d(6), (2, 4, 7, 8)),
    "signal": (lambda: nn.Conv1d(2, 3, 3), lambda: nn.BatchNorm1d(3), (2, 2, 2100)),
    "linear": (lambda: nn.Linear(6, 35), lambda: nn.BatchNorm1d(35), (7, 6)),
}


def chain(product, activation, norm):
    nn.manual_seed(1)
    first, make_norm, shape = PRODUCTS[product]
    layers = [first(), *([make_norm()] if norm else []), activation(), nn.Dropout(0.0)]
    if norm:
        layers[1](layers[0](numbers(*shape, seed=5)))  # statistics that are not 0 and 1
    return layers, numbers(*shape)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)))
@pytest.mark.parametrize("product", PRODUCTS)
def test_fused_equals_one_by_one(product, activation, norm):
    layers, x = chain(product, ACTIVATIONS[activation], norm)
    twins, _ = chain(product, ACTIVATIONS[activation], norm)
    model = nn.Sequential(*layers)
    dy = numbers(*model.output_shape(x.shape), seed=2)
    expected, got = by_hand(twins, x, dy), gradients(model, x, dy)
    assert got.keys() == expected.keys()
    for name, array in got.items():
        assert_close(array, expected[name])
    model.eval()
    for layer in twins:
        x = layer.eval()(x)
    assert_close(model(chain(product, ACTIVATIONS[activation], norm)[1]), x)


def test_an_activation_stays_before_a_pooling_whose_windows_may_miss_the_image():
    relu, pool, x = nn.ReLU(), nn.MaxPool2d(2, padding=1, dilation=3), numbers(1, 1, 2, 2)
    expected = pool(relu(x))
    assert (expected == -np.inf).any()
    np.testing.assert_array_equal(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, padding=1, dilation=3))(x), expected)
    np.testing.assert_array_equal(nn.Sequential(nn.MaxPool2d(2, padding=1, dilation=3), nn.ReLU())(x), relu(pool(x)))


def runs(*layers, x_shape=(1, 1, 8, 8), keep=False):
    return nn.Sequential(*layers).runs(x_shape, keep)


def test_what_runs_as_one():
    conv, norm, relu, mean = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.AvgPool2d(2)
    assert runs(conv, norm, relu, mean) == [[0, 1, 2], [3]]
    assert runs(conv, norm, relu, mean, keep=True) == [[0], [1], [2], [3]]
    assert runs(conv, relu, norm, mean, keep=True) == [[0, 1], [2], [3]]
    assert runs(conv, relu) == [[0, 1]]
    assert runs(conv, relu, keep=True) == [[0], [1]]  # the output is the caller's
    assert runs(relu, conv, relu, relu) == [[0], [1, 2], [3]]
    assert runs(conv, nn.GELU(), mean) == [[0], [1], [2]]
    # Features of a Linear lie last, the channels of a BatchNorm1d second.
    assert runs(nn.Linear(4, 6), nn.BatchNorm1d(6), x_shape=(5, 4)) == [[0, 1]]
    assert runs(nn.Linear(4, 6), nn.BatchNorm1d(3), x_shape=(5, 3, 4)) == [[0], [1]]


def test_what_runs_in_another_order():
    conv, relu, pool = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2)
    assert runs(conv, relu, pool) == [[0], [2, 1]]
    assert runs(conv, relu, pool, keep=True) == [[0], [2], [1]]
    assert runs(conv, nn.ReLU6(), pool, nn.AdaptiveMaxPool2d(1), nn.Flatten(), keep=True) == [[0], [2], [3, 1], [4]]
    assert runs(conv, nn.Tanh(), pool) == [[0, 1], [2]]
    assert runs(conv, relu, nn.AvgPool2d(2)) == [[0, 1], [2]]


@pytest.mark.parametrize("pool", [lambda: nn.MaxPool2d(2), lambda: nn.MaxPool2d(3, 2, 1), lambda: nn.AdaptiveMaxPool2d((2, 3))])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6])
def test_an_activation_behind_its_pooling(activation, pool):
    def make():
        nn.manual_seed(4)
        return [nn.Conv2d(2, 6, 3, padding=1), activation(), pool(), nn.Conv2d(6, 2, 1), nn.ReLU(), pool()]

    x = 4 * numbers(3, 2, 13, 14)
    x[0, :, :6] = 0  # ties
    model = nn.Sequential(*make())
    dy = numbers(*model.output_shape(x.shape), seed=2)
    expected, got = by_hand(make(), x, dy), gradients(model, x, dy)
    for name, array in got.items():
        assert_close(array, expected[name])
    np.testing.assert_array_equal(model.eval()(x), got["y"])


def test_a_normalisation_in_training_mode_measures_its_batch():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU()).eval()
    x = numbers(4, 2, 6, 6)
    folded = model(x)
    model[1].train()
    before = model[1].running_mean.copy()
    measured = model(x)
    assert not np.array_equal(model[1].running_mean, before)
    y = model[0](x)
    mean, variance = y.mean((0, 2, 3), keepdims=True), y.var((0, 2, 3), keepdims=True)
    assert_close(measured, np.maximum((y - mean) / np.sqrt(variance + 1e-5), 0).astype(np.float32))
    assert not np.allclose(measured, folded)


def test_statistics_and_weights_that_change_in_eval_mode_count():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    x = numbers(5, 3)
    model(x)
    model[1].running_mean[...] = 3
    model.load_state_dict({"1.weight": np.full(4, 2)}, strict=False)
    expected = (model[0](x) - 3) / np.sqrt(1 + 1e-5) * 2
    assert_close(model(x), expected.astype(np.float32))


def test_activations_that_are_done_before_need_no_memory():
    plain = nn.Sequential(nn.Conv2d(1, 8, 3), nn.MaxPool2d(2))
    fused = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Tanh(), nn.MaxPool2d(2))
    shape = (4, 1, 18, 18)
    output = 4 * 8 * 16 * 16 * 4
    for model in (plain, fused):
        model.reserve(shape)
    assert fused.saved_nbytes - plain.saved_nbytes <= output
    assert "y1" not in fused.saved_spec(shape, np.dtype(np.float32))


@pytest.mark.parametrize("base", [nn.ReLU, nn.LeakyReLU, nn.Tanh])
def test_a_subclass_with_a_forward_of_its_own_is_not_skipped(base):
    class Doubled(base):
        def _forward(self, call, y, x, saved):
            super()._forward(call, y, x, saved)
            y *= 2

    model, plain = (nn.Sequential(nn.Linear(2, 3), activation(), nn.Flatten()) for activation in (Doubled, base))
    plain.load_state_dict(model.state_dict())
    x = numbers(4, 2)
    assert_close(model(x), 2 * plain(x))
    assert_close(model.eval()(x), 2 * plain.eval()(x))


@pytest.mark.parametrize("base", [nn.Linear, nn.Conv1d])
def test_a_subclass_of_a_product_with_a_forward_of_its_own_does_nothing_else(base):
    class Doubled(base):
        def _forward(self, call, y, x, saved):
            super()._forward(call, y, x, saved)
            y *= 2

    shape = (4, 2, 1) if base is nn.Conv1d else (4, 2)
    first = Doubled(2, 3, 1) if base is nn.Conv1d else Doubled(2, 3)
    model = nn.Sequential(first, nn.Sigmoid(), nn.Flatten())
    x = numbers(*shape)
    expected = nn.Sigmoid()(first(x)).reshape(4, 3)
    assert_close(model(x), expected)
    assert_close(model.eval()(x), expected)


def test_nan_passes():
    model = nn.Sequential(nn.Linear(2, 40), nn.ReLU(), nn.Linear(40, 1))
    model[0].weight.value[7, 0] = np.nan
    assert np.isnan(model(np.ones((1, 2), np.float32))).all()
    assert np.isnan(model.eval()(np.ones((1, 2), np.float32))).all()


def test_summary_names_what_runs_as_one():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2), nn.Tanh()
    )
    lines = nn.summary(model, (2, 3, 4, 4)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len(lines) == 2 + 6 + 1
    assert cells[0][-2:] == ["in training", "in eval mode"]
    assert [row[-1] for row in cells[2:]] == ["", "in 0", "in 0", "", "", "in 4", ""]
    assert [row[-2] for row in cells[2:]] == ["", "", "", "", "", "", ""]
    assert cells[2][1:4] == ["2 x 4 x 4 x 4", "112", "0.0"]
    assert cells[-1][2] == str(112 + 8 + 130)
    with pytest.raises(nn.ShapeError):
        nn.summary(model, (2, 3, 5, 4))

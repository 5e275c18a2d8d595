"""Batch normalisation: running statistics, eval mode, and what must not move them."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import numba_nn as nn
from numba_nn.core import carry
from tests import reference
from tests.cases import assert_close, assert_same

SHAPES = [(9, 5), (4, 5, 7), (3, 5, 4, 6)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def build(shape, **arguments):
    return (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1], **arguments)


def numbers(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(2, 3, shape).astype(dtype)


def trained(shape, batches=3, **arguments):
    """A layer after some batches, with weights that are not one."""
    layer = build(shape, **arguments)
    layer.load_state_dict({"weight": numbers(shape[1], 10), "bias": numbers(shape[1], 11)}, strict=False)
    for seed in range(batches):
        layer(numbers(shape, seed))
    return layer


@every_shape
@pytest.mark.parametrize("momentum", [0.1, 1.0, 0, None])
def test_running_statistics_follow_the_batches(shape, momentum):
    layer = trained(shape, momentum=momentum, dtype=np.float32)
    mean, variance = np.zeros(shape[1]), np.ones(shape[1])
    for seed in range(3):
        x = numbers(shape, seed).astype(np.float64)
        batch_mean, batch_variance = reference.batch_moments(x)
        count, factor = x.size / shape[1], 1 / (seed + 1) if momentum is None else momentum
        mean = (1 - factor) * mean + factor * batch_mean
        variance = (1 - factor) * variance + factor * batch_variance * count / (count - 1)
    assert_close(layer.running_mean, mean)
    assert_close(layer.running_var, variance)
    assert layer.num_batches_tracked == 3
    assert layer.num_batches_tracked.shape == ()


@every_shape
def test_eval_mode_uses_the_running_statistics_and_leaves_them(shape):
    layer = trained(shape).eval()
    state, x = layer.state_dict(), numbers(shape, 5)
    y = layer(x)
    mean, variance = state["running_mean"], state["running_var"]
    assert_close(y, reference.normalize(x, mean, variance, 1e-5, state["weight"], state["bias"]))
    assert_same(layer.state_dict(), state)
    np.testing.assert_array_equal(layer(x[:1]), y[:1])


@every_shape
def test_without_running_statistics_the_batch_serves_in_eval_mode(shape):
    layer = trained(shape, track_running_stats=False)
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert layer.running_mean is layer.running_var is layer.num_batches_tracked is None
    x = numbers(shape, 5)
    np.testing.assert_array_equal(layer.train()(x), layer.eval()(x))


@every_shape
def test_a_frozen_layer_in_a_model_in_training(shape):
    layer = trained(shape)
    model = nn.Sequential(nn.ReLU(), layer)
    layer.eval()
    state, x, dy = layer.state_dict(), abs(numbers(shape, 5)), numbers(shape, 6)
    dy[0, 0] = np.nan
    y = model(x)
    np.testing.assert_array_equal(y, layer(x))
    layer.train()  # the mode of the forward counts
    dx = model.backward(dy)
    scale = state["weight"] / np.sqrt(state["running_var"] + np.float32(1e-5))
    assert_close(np.nan_to_num(dx), np.nan_to_num(dy * reference.per_channel(scale, x)))
    np.testing.assert_array_equal(np.isnan(dx), np.isnan(dy))
    axes = (0, *range(2, x.ndim))
    normalized = reference.normalize(x, state["running_mean"], state["running_var"], 1e-5)
    assert_close(layer.bias.grad[1:], dy.sum(axes)[1:])
    assert_close(layer.weight.grad[1:], (dy * normalized).sum(axes)[1:])
    assert_same(layer.state_dict(), state)


@every_shape
def test_a_frozen_layer_that_learns_nothing_sums_nothing(shape):
    layer = trained(shape)
    model, x, dy = nn.Sequential(layer), numbers(shape, 5), numbers(shape, 6)
    layer.eval()
    for parameter in layer.parameters():
        parameter.requires_grad = False
    model(x)
    tiles = layer._call(shape, x.dtype).scratch["tiles"]
    tiles.fill(np.nan)
    scale = layer.weight.value / np.sqrt(layer.running_var + np.float32(1e-5))
    assert_close(model.backward(dy), dy * reference.per_channel(scale, x))
    assert np.isnan(tiles).all()
    assert not any(parameter.grad.any() for parameter in layer.parameters())


@every_shape
def test_state_dicts(shape):
    layer, other = trained(shape), build(shape)
    state = layer.state_dict()
    assert list(state) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    buffers = other.running_mean, other.running_var, other.num_batches_tracked
    other.load_state_dict(state)
    assert_same(other.state_dict(), state)
    assert all(a is b for a, b in zip(buffers, (other.running_mean, other.running_var, other.num_batches_tracked), strict=True))
    x = numbers(shape, 5)
    np.testing.assert_array_equal(other(x), layer(x))
    np.testing.assert_array_equal(other.eval()(x), layer.eval()(x))


def test_copies_have_statistics_of_their_own_and_shares_have_not():
    shape = SHAPES[2]
    layer = trained(shape)
    state, copied, shared = layer.state_dict(), copy.deepcopy(layer), layer.share()
    copied(numbers(shape, 5))
    assert_same(layer.state_dict(), state)
    shared(numbers(shape, 5))
    assert_same(layer.state_dict(), copied.state_dict())
    assert layer.num_batches_tracked == 4


@pytest.mark.parametrize("shape", [(1, 5), (1, 5, 1), (1, 5, 1, 1)])
def test_one_value_per_channel_does_not_train(shape):
    layer = build(shape)
    state, out = layer.state_dict(), np.full(shape, 7, np.float32)
    with pytest.raises(nn.ShapeError, match=r"BatchNorm.*two values per channel on, got x of shape \(1, 5"):
        layer.forward(numbers(shape), out=out)
    assert (out == 7).all()
    assert_same(layer.state_dict(), state)
    with pytest.raises(nn.BackwardError):
        layer.backward(out)
    assert_close(layer.eval()(numbers(shape)), numbers(shape) / np.float32(np.sqrt(1 + 1e-5)))
    with pytest.raises(nn.ShapeError):
        build(shape, track_running_stats=False).eval()(numbers(shape))


@pytest.mark.parametrize("shape", [(0, 5), (3, 5, 0), (0, 5, 4, 6)])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_an_empty_batch_counts_and_leaves_the_statistics(shape, momentum):
    layer = build(shape, momentum=momentum)
    state = layer.state_dict()
    assert layer(numbers(shape)).shape == shape
    assert layer.backward(numbers(shape)).shape == shape
    assert_same(layer.state_dict(), {**state, "num_batches_tracked": np.array(1)})
    layer.eval()(numbers(shape))
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize("shape", [(300, 5), (4, 5, 9000)])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_the_mean_of_a_channel_with_an_infinity_is_infinite(shape, value):
    x = numbers(shape)
    x[1, 2] = value
    layer = build(shape)
    y = layer(x)
    np.testing.assert_array_equal(layer.running_mean[2], value)
    assert np.isnan(layer.running_var[2])
    assert np.isnan(y[:, 2]).all()
    assert np.isfinite(np.delete(layer.running_mean, 2)).all()


@pytest.mark.parametrize("shape", [(300, 5), (4, 5, 9000)])
def test_a_large_mean_costs_no_precision(shape):
    x = np.float32(4096) + np.round(256 * numbers(shape)) / np.float32(256)  # exact in float32
    layer = build(shape)
    assert_close(layer(x), reference.batch_norm(x.astype(np.float64), {}, shape[1]))
    mean, variance = reference.batch_moments(x.astype(np.float64))
    np.testing.assert_allclose(layer.running_mean, 0.1 * mean, rtol=1e-6)
    count = x.size / shape[1]
    np.testing.assert_allclose(layer.running_var, 0.9 + 0.1 * variance * count / (count - 1), rtol=1e-5)


def test_rows_and_planes_compute_the_same():
    x, dy = numbers((4, 5, 70)), numbers((4, 5, 70), 1)
    planes, rows = nn.BatchNorm1d(5), nn.BatchNorm1d(5)

    def as_rows(array):
        return np.ascontiguousarray(array.swapaxes(1, 2).reshape(-1, 5))

    assert_close(rows(as_rows(x)), as_rows(planes(x)))
    assert_close(rows.backward(as_rows(dy)), as_rows(planes.backward(dy)))
    for mine, other in zip(rows.parameters(), planes.parameters(), strict=True):
        np.testing.assert_allclose(mine.grad, other.grad, rtol=1e-4)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"])
def test_handles_that_are_copied_together_share_statistics(copied):
    model = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5))
    one, other = copied((model, model.share()))
    one(numbers((9, 5)))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert getattr(one[1], name) is getattr(other[1], name)
        assert not np.may_share_memory(getattr(one[1], name), getattr(model[1], name))
    assert one[1].num_batches_tracked == 1
    assert not carry._held
    with pytest.raises(nn.DestinationError, match="running_mean"):
        other[1].forward(numbers((1, 5)), out=other[1].running_mean.reshape(1, 5))

"""Mixed precision where there is no GPU: a model in it is the model itself. On a simulated GPU: `tests/cuda`."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import numba_nn as nn
from tests.allocations import no_array_data, no_runtime_memory


def network() -> nn.Sequential:
    nn.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)


def trained(model: nn.Layer, x: np.ndarray) -> dict[str, np.ndarray]:
    step = nn.TrainStep(model, nn.MSELoss(), nn.optim.Adam(model.parameters()), x.shape)
    for _ in range(3):
        step(x, x[:, :3])
    return model.state_dict()


def test_it_trains_to_the_same_bits(x):
    expected, found = trained(network(), x), trained(nn.MixedPrecision(network(), "float16"), x)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_nothing_is_scaled(x):
    model = nn.MixedPrecision(network(), "float16", loss_scale=8)
    trained(model, x)
    assert (model.loss_scale, model.skipped_steps) == (1, 0)


def test_nothing_is_allocated_after_reserve(x):
    model = nn.MixedPrecision(network()).reserve((8, 6))
    y, dx = np.empty((8, 3), np.float32), np.empty_like(x)
    model.backward(model.forward(x, out=y), out=dx)
    with no_array_data():
        assert model.forward(x, out=y) is y
        assert model.backward(y, out=dx) is dx
    with no_runtime_memory():
        model.backward(model.forward(x, out=y), out=dx)


def test_whole_numbers_go_in():
    model = nn.MixedPrecision(nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 2)))
    y = model(np.arange(6).reshape(2, 3))
    assert y.shape == (2, 3, 2)
    assert model.backward(y, input_gradient=False) is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_has_weights_of_its_own(copied, x):
    model = nn.MixedPrecision(network())
    other = copied(model)
    expected = model(x)
    trained(model, x)
    np.testing.assert_array_equal(other(x), expected)


def test_its_state_is_the_models(tmp_path, x):
    model = network()
    model.save(tmp_path / "model.npz")
    mixed = nn.MixedPrecision(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)))
    np.testing.assert_array_equal(mixed.load(tmp_path / "model.npz").eval()(x), model.eval()(x))


def test_its_summary_is_the_models(x):
    model = network()
    assert nn.summary(nn.MixedPrecision(model), x.shape) == nn.summary(model, x.shape)
    with pytest.raises(nn.ArgumentError, match="model must be a Sequential"):
        nn.summary(model[0], (8, 6))

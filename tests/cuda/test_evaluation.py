"""`predict`, `evaluate` and `fit` with models on the GPU, simulated, against the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_cuda import simulated

import numba_nn as nn

RNG = np.random.default_rng(0)
X, LABELS = RNG.standard_normal((11, 6)).astype(np.float32), RNG.integers(0, 3, 11)


@pytest.fixture(autouse=True)
def gpu():
    with simulated():
        yield


def model(device):
    nn.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).to(device)


def test_predict():
    here, there = model("cpu"), model("cuda")
    for batch in (4, 20):
        found = nn.predict(there, X, batch)
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, nn.predict(here, X, batch), rtol=2e-3, atol=2e-3)  # tf32
    assert there.training
    assert nn.predict(there, X[:0]).shape == (0, 3)


def test_a_model_is_made_where_its_layers_live():
    layers = [nn.Linear(6, 5).to("cuda"), nn.ReLU(), nn.Linear(5, 3).to("cuda")]
    made = nn.Sequential(*layers)
    assert str(made.device) == "cuda"
    expected = nn.Sequential(*layers).to("cpu")(X)
    np.testing.assert_allclose(nn.predict(made.to("cuda"), X, 20), expected, rtol=2e-3, atol=2e-3)
    with pytest.raises(nn.DeviceError, match=r"layers live on different devices: \['cpu', 'cuda'\]; see layer.to"):
        nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3).to("cuda"))


def test_predict_gives_the_first_of_several_outputs():
    x = RNG.standard_normal((3, 2, 4, 6)).astype(np.float32)
    layer = nn.MaxPool2d(2, return_indices=True)
    expected = nn.predict(layer, x, 2)
    np.testing.assert_array_equal(nn.predict(layer.to("cuda"), x, 2), expected)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_evaluate(reduction):
    found, expected = (
        nn.evaluate(model(device), nn.CrossEntropyLoss(reduction=reduction), (X, LABELS), [nn.metrics.Accuracy()], 4)
        for device in ("cuda", "cpu")
    )
    assert found.keys() == expected.keys()
    assert found["loss"] == pytest.approx(expected["loss"], rel=2e-3)
    assert found["accuracy"] == expected["accuracy"]


def test_fit_with_validation_and_metrics():
    histories = []
    for device in ("cpu", "cuda"):
        net = model(device)
        optimizer = nn.optim.SGD(net.parameters(), lr=0.1)
        metrics = [nn.metrics.Accuracy()]
        data = (X, LABELS)
        histories.append(nn.fit(net, nn.CrossEntropyLoss(), optimizer, data, data, epochs=2, batch_size=4, metrics=metrics))
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(histories[1][name], histories[0][name], rtol=5e-3)
    assert histories[1].keys() == histories[0].keys()


def test_a_target_out_of_range_is_refused_as_on_the_cpu():
    with pytest.raises(nn.RangeError):
        nn.evaluate(model("cuda"), nn.CrossEntropyLoss(), (X, LABELS + 1))

"""States of recurrent layers, and their training, on the GPU, simulated, against the CPU."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn
from numba_nn.core.device import CPU, CUDA

pytestmark = pytest.mark.usefixtures("exact_gpu")
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 2, 3)).astype(np.float32)


def layer(device, hidden=4):
    nn.manual_seed(1)
    return nn.LSTM(3, hidden).to(device.name)


@pytest.mark.parametrize("hidden", [4, 6])  # windows of four that are aligned; some that are not, and one that is cut
def test_states_go_in_and_come_out_forward_and_backward(hidden):
    states, results = RNG.standard_normal((2, 1, 2, hidden)).astype(np.float32), []
    for device in (CPU, CUDA):
        lstm, state = layer(device, hidden), [device.from_host(a) for a in states]
        y, (h, c) = lstm(device.from_host(X), state)
        out = device.empty(y.shape, np.float32)
        dx, (dh, dc) = lstm.backward(device.from_host(y if device is CPU else device.to_host(y)), state)
        lstm.eval()
        assert lstm.forward(device.from_host(X), state, out=out)[0] is out
        results.append([device.to_host(a) for a in (y, h, c, dx, dh, dc, out, lstm.weight_hh_l0.grad)])
    for found, expected in zip(*reversed(results), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def test_a_state_that_does_not_fit_is_refused():
    lstm = layer(CUDA)
    with pytest.raises(nn.ShapeError, match="h of state"):
        lstm(CUDA.from_host(X), (CUDA.zeros((1, 3, 4), np.float32), None))
    with pytest.raises(nn.NumbaNNError, match="c of state"):
        lstm(CUDA.from_host(X), (None, np.zeros((1, 2, 4), np.float32)))


def test_training_steps_as_a_graph():
    losses = []
    for device in (CPU, CUDA):
        nn.manual_seed(1)
        model = nn.Sequential(nn.LSTM(3, 4), nn.Flatten(), nn.Linear(8, 1)).to(device.name)
        step = nn.TrainStep(model, nn.MSELoss(), nn.optim.SGD(model.parameters(), lr=0.5), X.shape)
        losses.append([step(X, np.ones((2, 1), np.float32)) for _ in range(4)])
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert losses[1][-1] < losses[1][0]

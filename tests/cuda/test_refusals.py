"""What the driver refuses leaves everything as it was, and is said in bytes: on a simulated GPU."""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import pytest
from simulated_cuda import CudaAPIError, simulated

import numba_nn as nn
from numba_nn.core.device import CPU, CUDA
from numba_nn.core.ptx import cuda


@pytest.fixture(autouse=True)
def gpu():
    with simulated():
        yield


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def network() -> nn.Sequential:
    nn.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))


def after(count: int, function):
    """The function, but that the driver refuses a call after so many."""
    left = [count]

    def refusing(*arguments, **keywords):
        left[0] -= 1
        if left[0] < 0:
            raise CudaAPIError("[2] out of memory")
        return function(*arguments, **keywords)

    return refusing


@pytest.mark.parametrize("mixed", [False, True])
def test_a_model_that_does_not_fit_stays_where_it_is(x, mixed, monkeypatch):
    model = nn.MixedPrecision(network(), "float16") if mixed else network()
    optimizer = nn.optim.Adam(model.parameters())
    expected, before = model(x), model.state_dict()
    allocate = cuda.device_array
    for refusals in itertools.count():
        monkeypatch.setattr(cuda._module, "device_array", after(refusals, allocate))
        with contextlib.suppress(nn.OutOfMemoryError):
            model.to("cuda")
            break
        assert {module.device for module in model.modules()} | {p.device for p in model.parameters()} == {CPU}
        assert all(np.array_equal(array, before[name]) for name, array in model.state_dict().items() if "weight" in name)
        np.testing.assert_array_equal(model(x), expected)
        model.backward(np.ones((4, 2), np.float32))
        optimizer.zero_grad()
        before = model.state_dict()
    assert refusals > 10
    assert model.device is CUDA


def test_a_forward_that_does_not_fit_leaves_the_parameters(x, monkeypatch):
    model = network().to("cuda")
    before = model.state_dict()
    monkeypatch.setattr(cuda._module, "device_array", after(0, cuda.device_array))
    with pytest.raises(MemoryError, match=r"no room for \d+ bytes, 1,000 of 4,000 are free"):
        model(model[0].weight.value)
    monkeypatch.undo()
    np.testing.assert_equal(model.state_dict(), before)
    model(CUDA.from_host(x))


def test_a_launch_that_is_refused_says_its_size(x):
    def refuse(*arguments):
        raise CudaAPIError("[701] too many resources")

    layer, given = nn.ReLU().to("cuda"), CUDA.from_host(x)
    with simulated(refuse), pytest.raises(nn.DeviceError, match=r"kernel 'relu_forward': the driver refused 1 blocks of 256"):
        layer(given)

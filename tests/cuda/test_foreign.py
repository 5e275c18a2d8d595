"""Arrays of other libraries are taken on the GPU, simulated, without a copy: by DLPack and by the CUDA array interface."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from foreign import ByDLPack, ByInterface, ByOldDLPack, OnHost
from simulated_cuda import simulated

import numba_nn as nn
from numba_nn.core.device import CUDA
from numba_nn.core.ptx import cuda

RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((12, 6)).astype(np.float32), RNG.integers(0, 3, 12)
each_protocol = pytest.mark.parametrize("lend", [ByDLPack, ByOldDLPack, ByInterface])


@pytest.fixture(autouse=True)
def gpu():
    with simulated():
        yield


@each_protocol
def test_layers_read_and_write_arrays_where_they_lie(lend):
    host, device = nn.BatchNorm1d(6), nn.BatchNorm1d(6).to("cuda")
    y, dx = lend(np.empty_like(X)), lend(np.empty_like(X))
    assert device.forward(lend(X), out=y) is y
    assert device.backward(lend(X[::-1].copy()), out=dx) is dx
    np.testing.assert_allclose(y.host, host(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dx.host, host.backward(X[::-1].copy()), rtol=1e-5, atol=1e-5)


@each_protocol
def test_losses_and_products_take_them(lend):
    loss, out = nn.CrossEntropyLoss(), lend(np.empty(1, np.float32))
    expected = nn.CrossEntropyLoss()(X, T)
    assert loss(lend(X), lend(T)) == pytest.approx(expected, rel=1e-5)
    assert loss.forward(lend(X), lend(T), out=out) is out
    assert out.host[0] == pytest.approx(expected, rel=1e-5)
    product = nn.matmul(lend(X), lend(X), transpose_b=True)
    np.testing.assert_allclose(CUDA.to_host(product), X @ X.T, rtol=2e-3, atol=2e-2)


@each_protocol
def test_a_training_step_takes_them(lend):
    net = nn.Sequential(nn.BatchNorm1d(6), nn.ReLU()).to("cuda")
    step = nn.TrainStep(net, nn.CrossEntropyLoss(), nn.optim.SGD(net.parameters(), lr=0.1), (12, 6))
    losses = [step(lend(X), lend(T)) for _ in range(4)]
    assert losses == sorted(losses, reverse=True)
    assert step.forward(lend(X), lend(T)) < losses[-1]


@pytest.mark.parametrize("lend", [ByDLPack, ByInterface])
def test_strided_inputs_are_read_and_destinations_refused(lend):
    relu = nn.ReLU()
    np.testing.assert_array_equal(CUDA.to_host(relu(lend(X.T))), np.maximum(X.T, 0))
    with pytest.raises(nn.DestinationError, match="out must be C-contiguous, got strides"):
        relu.forward(lend(X), out=lend(np.empty((6, 12), np.float32).T))


@pytest.mark.parametrize("lend", [ByDLPack, ByInterface])
def test_a_read_only_destination_is_refused(lend):
    y = np.zeros_like(X)
    y.flags.writeable = False
    relu = nn.ReLU()
    np.testing.assert_array_equal(CUDA.to_host(relu(lend(y))), y)
    with pytest.raises(nn.DestinationError, match="out is read-only"):
        relu.forward(lend(X), out=lend(y))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (ByDLPack(X.astype(np.float16)), nn.DTypeError, "x must be float32, got float16"),
        (ByDLPack(X.astype(np.float16), code=4), nn.DTypeError, "x must be float32, got bfloat16"),
        (ByDLPack(X.astype(np.uint8), code=17, bits=4), nn.DTypeError, "x must be a device .* dtype that NumPy has, got By"),
        (OnHost(X), nn.DeviceError, "x lives on 'cpu', the layer on 'cuda'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(x, error, message):
    layer = nn.BatchNorm1d(6).to("cuda")
    with pytest.raises(error, match=message):
        layer(x)


def test_an_array_of_the_host_is_refused_by_its_argument():
    layer = nn.BatchNorm1d(6).to("cuda")
    layer(CUDA.from_host(X))
    with pytest.raises(nn.DeviceError, match="dy must live on 'cuda', got an array on 'cpu'"):
        layer.backward(OnHost(X))
    step = nn.TrainStep(layer, nn.MSELoss(), nn.optim.SGD(layer.parameters()), (12, 6))
    with pytest.raises(nn.DeviceError, match="TrainStep: x must live on 'cuda', got an array on 'cpu'"):
        step(OnHost(X), CUDA.from_host(X))
    with pytest.raises(nn.DTypeError, match="x must be a NumPy array, got OnHost"):
        nn.BatchNorm1d(6)(OnHost(X))


def test_the_producer_is_told_the_stream():
    x, layer = ByDLPack(X), nn.ReLU()
    layer(x)
    with CUDA.on(stream := cuda.stream()):
        layer(x)
    assert x.streams == [1, int(stream)]  # 1 is how the protocol names CUDA's default stream


def test_what_was_lent_is_given_back():
    host = X.copy()
    lent = weakref.ref(host)
    taken = CUDA.accept(ByDLPack(host))
    del host
    gc.collect()
    assert lent() is not None
    del taken
    gc.collect()
    assert lent() is None

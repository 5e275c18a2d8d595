"""Arrays of other libraries are taken on the GPU, simulated, without a copy: by DLPack and by the CUDA array interface."""

from __future__ import annotations

import copy
import gc
import weakref

import ml_dtypes
import numpy as np
import pytest
from foreign import ByDLPack, ByInterface, ByOldDLPack, OnHost, Tensor, pointer_of
from graphs import awaited, queued
from simulated_cuda import simulated

import numba_nn as nn
from numba_nn.core.cuda.dlpack import Lent
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.device import CUDA

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
    for refused in (
        lambda: layer.forward(CUDA.from_host(X), out=X.copy()),
        lambda: layer.backward(CUDA.from_host(X), out=X.copy()),
    ):
        with pytest.raises(nn.DeviceError, match="out must live on 'cuda', got an array on 'cpu'"):
            refused()
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


# Arrays of the library's own, lent to others


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int64, np.int32])
@pytest.mark.parametrize("shape", [(12, 6), (5,), (), (0, 3)])
def test_an_output_is_lent_where_it_lies(dtype, shape):
    y = CUDA.empty(shape, dtype)
    found, expected = (array.__cuda_array_interface__ for array in (Lent(y, 0), y))
    assert (found["data"], found["shape"], found["typestr"]) == (expected["data"], shape, np.dtype(dtype))


def test_views_of_an_output_are_lent_too():
    y = nn.ReLU()(CUDA.from_host(X))
    for view in (y[2:, ::2], y.reshape(6, 12), y.ravel()):
        taken = CUDA.accept(Lent(view, 0))
        assert CUDA.address(taken) == CUDA.address(view)
        np.testing.assert_array_equal(CUDA.to_host(taken), CUDA.to_host(view))


def test_a_capsule_says_where_its_array_lies_and_keeps_it():
    y = CUDA.empty((3, 4), np.float32)
    address, host = CUDA.address(y), weakref.ref(y._host)
    assert y.__dlpack_device__() == (2, 0)
    capsule = y.__dlpack__(stream=-1)
    tensor = Tensor.from_address(pointer_of(capsule, b"dltensor"))
    assert (tensor.data, tensor.device_type, tensor.device_id, tensor.ndim) == (address, 2, 0, 2)
    assert (tensor.code, tensor.bits, tensor.lanes, tensor.byte_offset) == (2, 32, 1, 0)
    del y
    gc.collect()
    assert host() is not None
    del capsule  # which nobody took
    gc.collect()
    assert host() is None


def test_what_the_consumer_took_is_alive_until_it_is_done():
    y = CUDA.empty((3, 4), np.float32)
    host, lent = weakref.ref(y._host), Lent(y, 0)
    capsule = lent._view
    del y
    gc.collect()
    assert host() is not None
    del lent, capsule
    gc.collect()
    assert host() is None


@pytest.mark.parametrize(("asked", "waits"), [(None, []), (1, []), (2, [(2, 0)]), (77, [(77, 0)]), (-1, [])])
def test_the_consumer_waits_for_the_default_stream(asked, waits):
    y = CUDA.empty((3,), np.float32)
    awaited.clear()
    y.__dlpack__(stream=asked)
    assert awaited == waits


def test_the_consumer_waits_for_the_stream_of_the_output():
    stream = cuda.stream()
    with CUDA.on(stream):
        y = nn.ReLU()(CUDA.from_host(X))
    awaited.clear()
    for asked in (None, 1, 2, 77, int(stream), -1):
        y.__dlpack__(stream=asked)
    assert awaited == [(consumer, int(stream)) for consumer in (1, 1, 2, 77)]


def in_turn(array, consumer=77):
    """Which streams a consumer's waits for."""
    awaited.clear()
    array.__dlpack__(stream=consumer)
    return [producer for _, producer in awaited]


@pytest.mark.parametrize(
    "view",
    [
        lambda y: y[2:, ::2], lambda y: y.reshape(6, 12), lambda y: y.ravel(), lambda y: y.view(np.int32),
        lambda y: y[:1].squeeze(), lambda y: y.view(np.uint8).reshape(-1)[:8].view(np.float32),
    ],
)  # fmt: skip
def test_views_wait_for_the_stream_of_their_array(view):
    with CUDA.on(stream := cuda.stream()):
        y = nn.ReLU()(CUDA.from_host(X))
    assert in_turn(view(y)) == [int(stream)]
    assert CUDA.address(CUDA.accept(Lent(view(y), 0))) == CUDA.address(view(y))


def test_what_a_model_keeps_is_ready_in_its_stream():
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))
    for stream in (cuda.stream(), cuda.stream(), None):
        model.to("cuda", stream=stream)
        kept = [*(array for p in model.parameters() for array in (p.value, p.grad)), *model.buffers()]
        assert len(kept) == 11
        for array in kept:
            assert in_turn(array.reshape(-1), 1) == ([] if stream is None else [int(stream)])


def test_copies_go_to_the_current_stream_whatever_an_array_is_bound_to():
    with CUDA.on(cuda.stream()):
        y = CUDA.from_host(X)
        CUDA.bind(y, CUDA.stream)
    queued.clear()
    CUDA.copy(y, CUDA.empty(X.shape, X.dtype)), CUDA.assign(y, X), CUDA.to_host(y)
    assert {int(one) for one in queued} == {0}


@pytest.mark.parametrize("wish", [{"copy": True}, {"dl_device": (1, 0)}, {"dl_device": (2, 1)}, {"stream": 0}])
def test_a_wish_that_cannot_be_met_is_refused(wish):
    with pytest.raises(BufferError, match="a device array is lent as it lies on device"):
        CUDA.empty((3,), np.float32).__dlpack__(**wish)


def test_wishes_that_are_met():
    y = CUDA.empty((3,), np.float32)
    assert y.__dlpack__(copy=False, dl_device=(2, 0), max_version=(1, 1), stream=1)


def test_parameters_are_lent():
    layer = copy.deepcopy(nn.Linear(3, 2).to("cuda"))
    for p in layer.parameters():
        assert Lent(p.value, 0).__cuda_array_interface__["data"] == p.value.__cuda_array_interface__["data"]

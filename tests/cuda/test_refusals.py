"""What the driver refuses leaves everything as it was, and is said in bytes: on a simulated GPU."""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import pytest
from simulated_cuda import CudaAPIError, CUDAError, simulated
from simulator import launch

import numba_nn as nn
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.device import CPU, CUDA
from tests.cases import REFUSED
from tests.loss_cases import REFUSED_LOSSES


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


def after(count: int, function, code: int = 2):
    """The function, but that the driver refuses a call after so many."""
    left = [count]

    def refusing(*arguments, **keywords):
        left[0] -= 1
        if left[0] < 0:
            raise CudaAPIError(code, "refused")
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
        optimizer.step()
        optimizer.zero_grad()
        expected, before = model(x), model.state_dict()
    assert refusals > 10
    assert model.device is CUDA


def test_a_forward_that_does_not_fit_leaves_the_parameters(x, monkeypatch):
    model = network().to("cuda")
    before = model.state_dict()
    monkeypatch.setattr(cuda._module, "device_array", after(0, cuda.device_array))
    with pytest.raises(MemoryError, match=r"no room for \d+ bytes, 1,000 of 4,000 bytes are free"):
        model(model[0].weight.value)
    monkeypatch.undo()
    np.testing.assert_equal(model.state_dict(), before)
    model(CUDA.from_host(x))


def test_what_a_model_holds_is_no_destination():
    layer, norm = nn.Linear(4, 4).to("cuda"), nn.BatchNorm1d(4).to("cuda").eval()
    x, row = CUDA.from_host(np.ones((4, 4), np.float32)), CUDA.from_host(np.ones((1, 4), np.float32))
    with pytest.raises(nn.DestinationError, match=r"Linear.*out overlaps weight;"):
        layer.forward(x, out=layer.weight.value)
    layer.forward(x)
    with pytest.raises(nn.DestinationError, match=r"Linear.*out overlaps weight\.grad;"):
        layer.backward(x, out=layer.weight.grad.reshape(16).reshape(4, 4))
    layer.backward(x, out=nn.Linear(4, 4).to("cuda").weight.grad)
    with pytest.raises(nn.DeviceError, match=r"Parameter\(weight, .*\) lives on 'cuda'; \.value\.copy_to_host\(\) gives"):
        np.asarray(layer.weight)
    with pytest.raises(nn.DestinationError, match=r"BatchNorm1d.*out overlaps running_mean;"):
        norm.forward(row, out=norm.running_mean.reshape(1, 4))
    count = len(CUDA.held)
    layer.to("cpu")
    del x, row
    assert len(CUDA.held) == count - 4


def test_a_launch_that_is_refused_says_its_size(x):
    def refuse(*arguments):
        raise CUDAError("too many resources")

    layer, given = nn.ReLU().to("cuda"), CUDA.from_host(x)
    with (
        simulated(refuse),
        pytest.raises(
            nn.DeviceError,
            match=r"kernel 'relu_forward': the driver refused a launch of 1 blocks, each of 256 threads, on arrays of 96 bytes",
        ),
    ):
        layer(given)


def test_pinned_memory_that_is_refused_is_said_in_bytes(x, monkeypatch):
    model = nn.Sequential(nn.BatchNorm1d(3)).to("cuda")
    step = nn.TrainStep(model, nn.MSELoss(), nn.optim.SGD(model.parameters()), (4, 3))
    before = model.state_dict()
    monkeypatch.setattr(cuda._module, "pinned_array", after(0, cuda.pinned_array))
    with pytest.raises(nn.OutOfMemoryError, match=r"no room for 48 bytes of pinned memory, 1,000 of 4,000 bytes are free"):
        step(x, x)
    monkeypatch.undo()
    np.testing.assert_equal(model.state_dict(), before)
    step(x, x)


@pytest.mark.parametrize(("refused", "words"), [(0, "no parameter is updated"), (1, "only parameters of float32 are updated")])
def test_an_optimizer_that_is_refused_says_what_it_updated(refused, words):
    params = [nn.Parameter(np.ones(3, dtype)) for dtype in (np.float32, np.float64)]
    updates = []

    def refuse(dispatcher, grid, block, arguments):
        updates.append(dispatcher.py_func.__name__ == "sgd_update")
        if updates[-1] and sum(updates) > refused:
            raise CUDAError("too many resources")
        launch(dispatcher, grid, block, arguments)

    with simulated(refuse):
        for p in params:
            p.move(CUDA)
            CUDA.assign(p.grad, 1)
        with pytest.raises(nn.DeviceError, match=f"SGD: {words}: kernel 'sgd_update': the driver"):
            nn.optim.SGD(params, lr=1.0).step()
    assert [CUDA.to_host(p.value)[0] for p in params] == [0.0 if n < refused else 1.0 for n in range(2)]


@pytest.mark.parametrize("case", [*REFUSED, *REFUSED_LOSSES], ids=str)
def test_shapes_are_refused_on_both_devices_in_the_same_words(case):
    said = []
    for device in (CPU, CUDA):
        refusing = case.build().to(device)
        given = [device.from_host(np.zeros(case.x_shape if case in REFUSED else case.shape, np.float32))]
        with pytest.raises(nn.ShapeError) as caught:
            refusing(*given * (1 if case in REFUSED else 2))
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_another_refusal_of_an_allocation_is_not_taken_for_want_of_room(monkeypatch):
    monkeypatch.setattr(cuda._module, "device_array", after(0, cuda.device_array, code=900))
    with pytest.raises(CudaAPIError, match="refused"):
        CUDA.empty((3,), np.float32)


@pytest.mark.parametrize(
    ("implementation", "version", "message"),
    [
        ("NVIDIA", "0.29.4", r"need numba-cuda 0\.30 or newer, found 0\.29\.4: pip install 'numba_nn\[cuda\]'"),
        ("Built-in", "0.30.4", r"need numba-cuda 0\.30 or newer, found only Numba's own target"),
        ("NVIDIA", "0.30.4", None),
        ("NVIDIA", "1.0", None),
    ],
)
def test_a_numba_cuda_that_will_not_do_is_named(implementation, version, message, monkeypatch):
    monkeypatch.setattr("numba.cuda.implementation", implementation)
    monkeypatch.setattr("importlib.metadata.version", lambda package: version)
    monkeypatch.delitem(vars(cuda), "_module")
    if message is None:
        assert cuda.jit
    else:
        with pytest.raises(nn.DeviceError, match=message):
            nn.ReLU().to("cuda")

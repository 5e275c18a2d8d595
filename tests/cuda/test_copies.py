"""Copies, pickles and handles of models on a GPU, simulated: where they live, what they share, and that nothing is lost."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from graphs import queued
from simulated_cuda import simulated
from trials import PRODUCT_EXTRAS, TRIALS

import numba_nn as nn
from numba_nn.core import carry
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.device import CUDA

RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((12, 6)).astype(np.float32), np.arange(12) % 3
DY = 0.1 * RNG.standard_normal((12, 3)).astype(np.float32)  # in float16 it is scaled by 65536, to 65504 at most


@pytest.fixture(autouse=True)
def gpu():
    with simulated():
        yield
    assert CUDA.stream == 0


def network() -> nn.Sequential:
    nn.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3), nn.Dropout(0.0), nn.Tanh())


MODELS = {
    "Sequential": network,
    "float16": lambda: nn.MixedPrecision(network(), "float16"),
    "bfloat16": lambda: nn.MixedPrecision(network(), "bfloat16"),
}
COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda thing: pickle.loads(pickle.dumps(thing))}
every_model = pytest.mark.parametrize("name", MODELS)
every_copy = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)


def on_gpu(name: str = "Sequential", stream=None):
    """A model that has been trained for a step, and its optimiser."""
    model = MODELS[name]().to("cuda", stream=stream)
    optimizer = nn.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer)
    return model, optimizer


def train(model, optimizer) -> None:
    optimizer.zero_grad()
    model(CUDA.from_host(X))
    model.backward(CUDA.from_host(DY))
    optimizer.step()


def arrays(model):
    """All that a model keeps on the device."""
    return [array for _, array in model.named_arrays()] + [p.grad for p in model.parameters()]


def assert_equal_states(one, other):
    np.testing.assert_equal(one.state_dict(), other.state_dict())
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(CUDA.to_host(p.grad), CUDA.to_host(q.grad))


@every_copy
@every_model
def test_a_copy_is_another_model_on_the_device(name, copied):
    model, optimizer = on_gpu(name)
    twin = copied(model)
    assert {module.device for module in twin.modules()} | {p.device for p in twin.parameters()} == {CUDA}
    assert not any(CUDA.overlap(a, b) for a in arrays(model) for b in arrays(twin))
    assert_equal_states(model, twin)
    before = twin.state_dict()
    np.testing.assert_array_equal(CUDA.to_host(model(CUDA.from_host(X))), CUDA.to_host(twin(CUDA.from_host(X))))
    assert_equal_states(model, twin)
    train(model, optimizer)
    assert not np.array_equal(model.state_dict()["1.weight"], before["1.weight"])
    np.testing.assert_array_equal(twin.state_dict()["1.weight"], before["1.weight"])
    assert twin.to("cpu")(X).shape == (12, 3)


@every_copy
@every_model
def test_training_goes_on_where_model_and_optimizer_are_copied_together(name, copied):
    model, optimizer = on_gpu(name)
    twin, other = copied((model, optimizer))
    for _ in range(2):
        train(model, optimizer)
        train(twin, other)
    assert_equal_states(model, twin)
    np.testing.assert_equal(optimizer.state_dict(), other.state_dict())


def test_a_copy_takes_recorded_steps():
    twin, other = copy.deepcopy(on_gpu())
    step = nn.TrainStep(twin, nn.CrossEntropyLoss(), other, (12, 6))
    losses = [step(X, T) for _ in range(4)]
    assert losses == sorted(losses, reverse=True)


@every_copy
@pytest.mark.parametrize("trial", [*TRIALS, *PRODUCT_EXTRAS], ids=str)
def test_every_layer_is_copied_after_a_forward(trial, copied):
    with simulated(lambda *launch: None):
        layer = trial.build(np.float32).to("cuda", stream=cuda.stream())
        layer(*map(CUDA.from_host, trial.inputs(np.float32)))
        for twin in (copied(layer), layer.share()):
            assert {module.device for module in twin.modules()} == {CUDA}
            assert repr(twin) == repr(layer)


@every_copy
def test_a_copy_has_a_scale_of_its_own(copied):
    model, optimizer = on_gpu("float16")
    optimizer.zero_grad()
    model(CUDA.from_host(X))
    model.backward(CUDA.from_host(DY * np.float32(np.inf)))
    optimizer.step()
    twin, other = copied((model, optimizer))
    assert (twin.loss_scale, twin.skipped_steps) == (model.loss_scale, model.skipped_steps) == (65536, 1)
    train(model, optimizer)
    assert (twin.loss_scale, model.loss_scale) == (65536, 32768)
    assert all(p.guard is twin._scale for p in twin.parameters())
    train(twin, other)
    assert_equal_states(model, twin)


def test_a_deep_copy_works_on_the_same_stream():
    stream = cuda.stream()
    model, optimizer = on_gpu(stream=stream)
    queued.clear()
    twin, other = copy.deepcopy((model, optimizer))
    x, dy = CUDA.from_host(X), CUDA.from_host(DY)
    assert twin.stream is stream
    assert all(p.stream is stream for p in twin.parameters())
    queued.clear()
    twin(x), twin.backward(dy), other.step()
    assert queued
    assert all(one is stream for one in queued)


def test_what_is_unpickled_works_on_the_default_stream():
    model, optimizer = pickle.loads(pickle.dumps(on_gpu(stream=cuda.stream())))
    x, dy = CUDA.from_host(X), CUDA.from_host(DY)
    queued.clear()
    model(x), model.backward(dy), optimizer.step()
    assert model.stream is None
    assert {int(one) for one in queued} == {0}


@every_copy
def test_a_copy_keeps_its_mode(copied):
    model = on_gpu()[0].eval()
    twin = copied(model)
    assert not twin.training
    assert all(p.locked for p in twin.parameters())
    np.testing.assert_array_equal(CUDA.to_host(twin(CUDA.from_host(X))), CUDA.to_host(model(CUDA.from_host(X))))


@pytest.mark.parametrize("make", [lambda: on_gpu()[0], lambda: nn.ReLU().to("cuda"), lambda: nn.Dropout(0.5).to("cuda")])
def test_a_machine_without_a_gpu_says_so(make, monkeypatch):
    text = pickle.dumps(make())
    monkeypatch.setitem(vars(cuda), "_module", SimpleNamespace(is_available=lambda: False))
    with pytest.raises(nn.DeviceError, match="device 'cuda': numba-cuda finds no GPU"):
        pickle.loads(text)


@every_model
def test_handles_share_numbers_and_no_buffers(name):
    model, optimizer = on_gpu(name)
    handle = model.share()
    assert [id(p) for p in handle.parameters()] == [id(p) for p in model.parameters()]
    assert all(a is b for (_, a), (_, b) in zip(model.named_arrays(), handle.named_arrays(), strict=True))
    assert handle.device is CUDA
    x, dy = CUDA.from_host(X), CUDA.from_host(DY)
    optimizer.zero_grad()
    y, other = model(x), handle(CUDA.from_host(X[::-1].copy()))
    model.backward(dy)
    once = [CUDA.to_host(p.grad) for p in model.parameters()]
    handle.backward(CUDA.from_host(DY[::-1].copy()))
    for p, gradient in zip(handle.parameters(), once, strict=True):
        np.testing.assert_allclose(CUDA.to_host(p.grad), 2 * gradient, rtol=0.02, atol=0.02)
    np.testing.assert_allclose(CUDA.to_host(y), CUDA.to_host(other)[::-1], rtol=1e-5, atol=1e-5)
    optimizer.step()
    np.testing.assert_array_equal(CUDA.to_host(model.eval()(x)), CUDA.to_host(handle.eval()(x)))


@every_copy
@every_model
def test_handles_that_are_copied_together_share_numbers(name, copied):
    model, _ = on_gpu(name)
    one, other = copied((model, model.share()))
    assert [id(p) for p in one.parameters()] == [id(p) for p in other.parameters()]
    assert all(a is b for (_, a), (_, b) in zip(one.named_arrays(), other.named_arrays(), strict=True))
    assert not any(CUDA.overlap(a, b) for a in arrays(model) for b in arrays(one))
    one(CUDA.from_host(X))
    assert_equal_states(one, other)
    assert not carry._carried


def test_warming_up_leaves_a_model_as_it_is():
    model, _ = on_gpu()
    before = [CUDA.to_host(array) for array in arrays(model)]
    nn.warmup(model, (4, 6))
    for array, expected in zip(arrays(model), before, strict=True):
        np.testing.assert_array_equal(CUDA.to_host(array), expected)


def test_handles_on_a_stream_share_it_and_the_scale():
    stream = cuda.stream()
    model, _ = on_gpu("float16", stream)
    handle = model.share()
    assert handle.stream is stream
    assert handle._workspace.lock is not model._workspace.lock
    assert handle._scale is model._scale
    x = CUDA.from_host(X)
    queued.clear()
    handle(x)
    assert all(one is stream for one in queued)


def test_a_shallow_copy_shares_everything():
    model, optimizer = on_gpu()
    layer, other = copy.copy(model[0]), copy.copy(optimizer)
    assert layer.weight is model[0].weight
    assert layer.running_mean is model[0].running_mean
    assert other._steps is optimizer._steps
    train(model, other)


def test_a_loss_and_clipping_are_copied():
    model, _ = on_gpu()
    loss = nn.CrossEntropyLoss().to("cuda", stream=cuda.stream())
    value = loss(CUDA.from_host(DY), CUDA.from_host(T))
    for copied in COPIES.values():
        twin = copied(loss)
        assert twin(CUDA.from_host(DY), CUDA.from_host(T)) == value
        assert twin.stream is (None if copied is COPIES["pickle"] else loss.stream)
        clip, whole = copied((nn.optim.ClipNorm(model.parameters(), 0.1), model))
        norm = float(CUDA.to_host(clip())[0])
        gradients = np.concatenate([CUDA.to_host(p.grad).ravel() for p in model.parameters()])
        assert norm == pytest.approx(np.linalg.norm(gradients), rel=1e-5)
        assert [id(p) for p in clip.parameters] == [id(p) for p in whole.parameters()]

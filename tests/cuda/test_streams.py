"""`to("cuda", stream=...)`: on which stream of the simulated GPU every launch, memset and copy goes, and who waits for what."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
from graphs import DEFAULT, GraphBuilder, Stream, awaited, building, queued
from simulated_cuda import simulated

import numba_nn as nn
from numba_nn.core.cuda.capture import Capture
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.device import CPU, CUDA

RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((12, 6)).astype(np.float32), RNG.integers(0, 3, 12)


@pytest.fixture(autouse=True)
def gpu():
    with simulated():
        yield
    assert CUDA.stream == 0


@pytest.fixture
def stream():
    return cuda.stream()


def small_model():
    nn.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.25), nn.Linear(6, 3))


def device_array(host):
    array = CUDA.from_host(host)
    queued.clear()
    return array


def assert_all_on(stream):
    """What the host sends may cross in another stream, which this one then waits for."""
    assert any(one is stream for one in queued)
    assert {(int(stream), int(one)) for one in queued if one is not stream} <= set(awaited)
    queued.clear(), awaited.clear()


MODELS = {
    "Sequential": (small_model, X),
    "Conv2d": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2)), X.reshape(1, 2, 6, 6)),
    "LSTM": (lambda: nn.LSTM(6, 3), X.reshape(3, 4, 6)),
    "Embedding": (lambda: nn.Embedding(3, 2), T),
    "Concatenate": (lambda: nn.Concatenate(0), X),
}


@pytest.mark.parametrize("name", MODELS)
def test_calls_work_on_the_models_stream(name, stream):
    build, host = MODELS[name]
    model = build().to("cuda", stream=stream)
    x = device_array(host)
    for _ in range(2):
        y = model.forward(x, x) if name == "Concatenate" else model.forward(x)
        y = y[0] if isinstance(y, tuple) else y
        model.backward(y)
    model.eval()
    model.reserve(*(2 * [x.shape] if name == "Concatenate" else [x.shape]), dtype=None if name == "Embedding" else x.dtype)
    assert y.stream is stream  # by which other libraries see what to wait for
    assert_all_on(stream)


def test_losses_optimizers_and_clipping_work_there_too(stream):
    model, loss = small_model().to("cuda", stream=stream), nn.CrossEntropyLoss().to("cuda", stream=stream)
    params = model.parameters()
    clip = nn.optim.ClipNorm(params, 1.0)
    optimizer = nn.optim.Adam(params)
    x, t, out = CUDA.from_host(X), CUDA.from_host(T), CUDA.empty((1,), np.float32)
    model(x)
    loss.forward(model(x), t, out=out)
    queued.clear()
    waits = stream.waits, DEFAULT.waits
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        optimizer.zero_grad()
        loss.forward(model(x), t, out=out)
        model.backward(loss.backward())
        clip()
        nn.optim.clip_grad_value_(params, 1.0)
        optimizer.step()
        model.zero_grad()
    assert (stream.waits, DEFAULT.waits) == waits  # nobody waited
    assert isinstance(loss.forward(model(x), t), float)
    assert (stream.waits, DEFAULT.waits) == (waits[0] + 1, waits[1])
    optimizer.load_state_dict(optimizer.state_dict())
    model.load_state_dict(model.state_dict())
    assert_all_on(stream)
    assert DEFAULT.waits == waits[1]


def trained(stream=None, run=lambda model, step: [step(X, T) for _ in range(4)]):
    model = small_model().to("cuda", stream=stream)
    step = nn.TrainStep(model, nn.CrossEntropyLoss(), nn.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), (12, 6))
    queued.clear()
    run(model, step)
    return model, step


def test_a_training_step_is_captured_on_it(stream):
    model, step = trained(stream)
    (capture,) = [c for c in step._on_gpu._captures.values() if c is not None]
    assert capture._graph.stream is stream
    assert capture._graph.launches == 3
    assert np.isfinite(step.mean_loss())
    assert_all_on(stream)
    expected = trained()[0].state_dict()
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, expected[name])
    with pytest.raises(nn.DeviceError, match="the model moved to 'cuda', another stream"):
        model.to("cuda") and step(X, T)


class FromHandle(GraphBuilder):
    """Knows the handle of a stream, as that of ``cuda.core`` does, and is told that a broken recording is broken."""

    def __init__(self, stream):
        super().__init__(Stream(int(stream)))

    def end_building(self):
        super().end_building()
        if not self.work:
            raise RuntimeError("cudaErrorStreamCaptureInvalidated")


@pytest.fixture
def from_handle(monkeypatch):
    monkeypatch.setattr("numba_nn.core.cuda.capture.graph_builder", FromHandle)


def test_a_recording_keeps_its_stream_alive(from_handle):
    stream = cuda.stream()
    capture = Capture(stream, lambda: building[-1].work.append(list))
    alive = weakref.ref(stream)
    del stream
    gc.collect()
    assert alive() is not None
    capture.launch()


def test_what_broke_a_recording_is_told(from_handle):
    with pytest.raises(ZeroDivisionError):
        Capture(cuda.stream(), lambda: 1 / 0)
    assert not building
    assert CUDA.used is None


def test_steps_on_several_streams_share_a_loss(stream):
    loss, x, steps = nn.CrossEntropyLoss(), CUDA.from_host(X), []
    for one in (stream, cuda.stream()):
        model = small_model().to("cuda", stream=one)
        steps.append(nn.TrainStep(model, loss, nn.optim.SGD(model.parameters(), lr=0.1), (12, 6)))
    for step in steps * 2:
        queued.clear()
        step(x, T)
        step.forward(x, T)
        step.update()
        assert_all_on(step.model.stream)


def test_fit_evaluate_and_predict_use_it(stream):
    model = small_model().to("cuda", stream=stream)
    loss = nn.CrossEntropyLoss()
    optimizer = nn.optim.SGD(model.parameters(), lr=0.1)
    queued.clear()
    nn.fit(model, loss, optimizer, (X, T), epochs=2, batch_size=6, validation=(X, T))
    nn.evaluate(model, loss, (X, T), [nn.metrics.Accuracy(3)])
    nn.predict(model, X)
    assert_all_on(stream)


def test_without_one_work_goes_to_the_default_stream():
    model, x = small_model().to("cuda"), CUDA.from_host(X)
    queued.clear()
    y = model(x)
    assert y.stream == 0
    assert all(one in (0, DEFAULT) for one in queued)
    assert small_model().to("cuda", stream=0).stream is None
    assert small_model().to("cuda", stream=cuda.default_stream()).stream is None


def test_a_handle_of_another_librarys_will_do():
    model, x = small_model().to("cuda", stream=1234), device_array(X)
    model(x)
    assert {int(one) for one in queued} == {1234}


def test_a_model_changes_streams_once_its_work_is_done(stream):
    model, x, other = small_model().to("cuda", stream=stream), CUDA.from_host(X), cuda.stream()
    optimizer = nn.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    value, waits = model.parameters()[0].value, stream.waits
    model(x)
    model.to("cuda", stream=other)
    assert stream.waits > waits
    assert model.parameters()[0].value is value
    queued.clear()
    model.backward(model(x))
    optimizer.step()
    assert_all_on(other)
    model.to("cpu")
    assert model.stream is None
    assert model(X).shape == (12, 3)


def test_containers_and_parts_keep_the_stream(stream):
    model = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(6).to("cuda", stream=stream))
    x = device_array(X)
    for one in (model, model[:1]):
        assert one.stream is stream
        one(x)
    assert_all_on(stream)


def test_a_thread_has_a_stream_of_its_own(stream):
    model, x, seen = nn.ReLU().to("cuda", stream=stream), CUDA.from_host(X), []
    with CUDA.on(stream):
        thread = threading.Thread(target=lambda: seen.append(CUDA.stream))
        thread.start()
        thread.join()
    assert seen == [0]
    model(x)


@pytest.mark.parametrize("make", [small_model, nn.MSELoss])
def test_what_is_no_stream_is_refused(make, stream):
    one = make()
    with pytest.raises(nn.ArgumentError, match="stream must be None on device 'cpu', which has no streams, got"):
        one.to("cpu", stream=stream)
    for given in ("fast", -1, True, 1.5):
        with pytest.raises(nn.ArgumentError, match=r"stream must be a stream of numba\.cuda, or the handle of .*, got "):
            one.to("cuda", stream=given)
    assert one.device is CPU
    assert one.stream is None
    assert isinstance(one.to("cuda", stream=stream).stream, Stream)

"""Mixed precision on a simulated GPU: what training in 16 bits must keep."""

from __future__ import annotations

import gc
import sys

import graphs
import ml_dtypes
import numpy as np
import pytest
from simulated_cuda import simulated

import numba_nn as nn
from numba_nn.core.cuda.narrow import narrow_dtype, wide
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.device import CPU, CUDA
from numba_nn.core.errors import ArgumentError, DTypeError
from numba_nn.layers.recurrent import lstm_steps
from numba_nn.mixed_precision import store_as
from numba_nn.optim.loss_scale import GROWTH_INTERVAL

FORMS = ["float16", "bfloat16"]


@pytest.fixture(autouse=True)
def gpu():
    with simulated():
        yield


def network() -> nn.Sequential:
    nn.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


def batches(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(0)
    return [tuple(generator.uniform(-0.9, 0.9, (8, n)).astype(np.float32) for n in (6, 3)) for _ in range(count)]


def trained(model: nn.Layer, steps: int = 4, optimizer=nn.optim.Adam) -> tuple[list[float], dict[str, np.ndarray]]:
    step = nn.TrainStep(model, nn.MSELoss(), optimizer(model.parameters(), lr=0.01), (8, 6))
    return [step(x, target) for x, target in batches(steps)], model.state_dict()


@pytest.mark.parametrize("form", FORMS)
def test_it_trains_as_float32_does(form):
    expected_losses, expected = trained(network())
    model = nn.MixedPrecision(network(), form).to("cuda")
    losses, found = trained(model)
    np.testing.assert_allclose(losses, expected_losses, rtol=0.02)
    assert found.keys() == expected.keys()  # the model's own names
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_allclose(found[name], array, atol=0.02, err_msg=name)
    assert model.skipped_steps == 0
    assert model.loss_scale == (65536 if form == "float16" else 1)


def test_on_the_cpu_it_is_the_model_itself():
    model = network()
    (x, _), *_ = batches(1)
    expected = model(x).copy()
    mixed = nn.MixedPrecision(model)
    assert np.array_equal(mixed(x), expected)
    assert np.array_equal(mixed.backward(expected), (model(x), model.backward(expected))[1])


def test_there_and_back():
    mixed = nn.MixedPrecision(network()).to("cuda").to("cpu")
    (x, target), *_ = batches(1)
    assert mixed.device is CPU
    assert mixed.model[0].dtype == np.float32
    assert np.isfinite(trained(mixed)[0]).all()


def test_inside_all_is_of_sixteen_bits():
    (x, _), *_ = batches(1)
    model = network()
    mixed = nn.MixedPrecision(model, "float16").to("cuda")
    assert mixed(CUDA.from_host(x)).dtype == np.float32
    with pytest.raises(DTypeError, match="x must be float16, got float32; convert it before it goes to 'cuda'"):
        model(CUDA.from_host(x))
    assert model(CUDA.from_host(x.astype(np.float16))).dtype == np.float16


@pytest.mark.parametrize("optimizer", [nn.optim.Adam, nn.optim.SGD])
def test_a_step_with_an_infinite_gradient_is_skipped(optimizer):
    model = nn.MixedPrecision(network(), "float16").to("cuda")
    updates = optimizer(model.parameters(), lr=0.01)
    (x, dy), *_ = batches(1)
    before = model.state_dict() | updates.state_dict()

    def step(gradient: np.ndarray) -> None:
        updates.zero_grad()
        model(CUDA.from_host(x))
        model.backward(CUDA.from_host(gradient), input_gradient=False)
        updates.step()

    step(np.full_like(dy, 1e6))
    after = model.state_dict() | updates.state_dict()
    assert model.skipped_steps == 1
    for name, array in before.items():
        assert np.array_equal(after[name], array) or "running" in name or "batches" in name, name
    step(dy)
    assert model.skipped_steps == 1
    assert model.loss_scale == 32768
    assert not np.array_equal(model.state_dict()["0.weight"], before["0.weight"])


def test_gradients_that_are_given_up_count_as_skipped_and_spare_the_next_step():
    model = nn.MixedPrecision(network(), "float16").to("cuda")
    optimizer = nn.optim.SGD(model.parameters(), lr=0.1)
    (x, dy), *_ = batches(1)
    before = model.state_dict()["0.weight"]
    for clear in (model.zero_grad, optimizer.zero_grad):  # a Parameter's does so, too
        model(CUDA.from_host(x))
        model.backward(CUDA.from_host(np.full_like(dy, 1e6)))
        clear()
    model(CUDA.from_host(x))
    model.backward(CUDA.from_host(dy / 16))
    optimizer.step()
    assert not np.array_equal(model.state_dict()["0.weight"], before)
    assert (model.skipped_steps, model.loss_scale) == (2, 16384)


def test_a_backward_that_fails_leaves_gradients_without_the_scale(monkeypatch):
    model = nn.MixedPrecision(network(), "float16").to("cuda")
    (x, dy), *_ = batches(1)
    model(CUDA.from_host(x))
    model.backward(CUDA.from_host(dy / 16))
    expected = model.model[3].weight.grad.copy_to_host()
    model(CUDA.from_host(x))
    monkeypatch.setattr(nn.Linear, "_backward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.backward(CUDA.from_host(dy / 16))
    np.testing.assert_array_equal(model.model[3].weight.grad.copy_to_host(), expected)


def test_a_stream_is_kept_and_so_is_the_scale():
    stream = cuda.stream()
    model = nn.MixedPrecision(network(), "float16").to("cuda", stream=stream)
    scale = model._scale
    step = nn.TrainStep(model, nn.MSELoss(), nn.optim.SGD(model.parameters()), (8, 6))
    (x, target), *_ = batches(1)
    model.to("cuda", stream=int(stream))
    step(x, target)
    assert model.to("cuda")._scale is scale
    assert model.to("cpu").to("cuda")._scale is scale


def test_a_layer_is_in_one_mixed_precision_only():
    model = network()
    mixed = nn.MixedPrecision(model, "float16").to("cuda")
    (x, dy), *_ = batches(1)
    for again in (mixed.model, nn.Sequential(mixed)):
        with pytest.raises(ArgumentError, match="must live on the CPU"):
            nn.MixedPrecision(again)
    mixed.to("cpu")
    for again in (mixed.model, nn.Sequential(mixed)):
        with pytest.raises(ArgumentError, match="must not be in another MixedPrecision already"):
            nn.MixedPrecision(again)
    mixed.to("cuda")
    mixed(CUDA.from_host(x))
    mixed.backward(CUDA.from_host(dy / 16))
    del mixed, again
    gc.collect()
    nn.MixedPrecision(model.to("cpu"))


def test_work_goes_to_the_models_stream():
    stream = cuda.stream()
    model = nn.MixedPrecision(network(), "float16").to("cuda", stream=stream)
    optimizer = nn.optim.SGD(model.parameters(), lr=0.1)
    x, dy = (CUDA.from_host(array) for array in batches(1)[0])
    model.backward(model.forward(x, out=dy), input_gradient=False)
    graphs.queued.clear()
    optimizer.zero_grad()
    model.zero_grad()
    model.backward(model.forward(x, out=dy), input_gradient=False)
    optimizer.step()
    assert set(graphs.queued) == {stream}


def test_without_ml_dtypes_nothing_moves(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    model = nn.MixedPrecision(network())
    with pytest.raises(ImportError, match="needs the package ml_dtypes"):
        model.to("cuda")
    assert {module.device for module in model.modules()} == {CPU}


def test_gradients_come_without_the_scale_and_accumulate():
    model = nn.MixedPrecision(network(), "float16").to("cuda")
    (x, dy), *_ = batches(1)
    sums = []
    for _ in range(2):
        model(CUDA.from_host(x))
        model.backward(CUDA.from_host(dy / 16))
        sums.append(model.model[0].weight.grad.copy_to_host())
    np.testing.assert_allclose(sums[1], 2 * sums[0], rtol=1e-6)
    assert 0.001 < np.abs(sums[0]).max() < 100


def test_small_gradients_do_not_vanish():
    (x, dy), *_ = batches(1)
    found = {}
    for scale in ("dynamic", 1.0):
        model = nn.MixedPrecision(nn.Linear(6, 3), "float16", scale).to("cuda")
        model(CUDA.from_host(x))
        model.backward(CUDA.from_host(dy * np.float32(1e-9)))
        found[scale] = np.abs(model.model.weight.grad.copy_to_host()).max()
    assert found["dynamic"] > 1e-10
    assert found[1.0] == 0


def test_the_scale_grows_after_many_steps(monkeypatch):
    monkeypatch.setattr("numba_nn.optim.loss_scale.GROWTH_INTERVAL", 2)
    assert GROWTH_INTERVAL == 2000
    model = nn.MixedPrecision(network(), "float16").to("cuda")
    trained(model, steps=4)
    assert model.loss_scale == 2 * 65536  # two steps were settled by the third, the fourth is not yet


def test_weights_are_rounded_once_in_eval_mode():
    model = nn.MixedPrecision(network(), "float16").to("cuda").eval()
    (x, _), *_ = batches(1)
    first = model(CUDA.from_host(x)).copy_to_host()
    assert model.packed_nbytes == 2 * (6 * 5 + 5 * 3)
    assert np.array_equal(model(CUDA.from_host(x)).copy_to_host(), first)


def test_nothing_is_allocated_after_reserve():
    model = nn.MixedPrecision(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.LSTM(4, 3)), "bfloat16").to("cuda")
    model.reserve((2, 3, 6))
    x, y, dx = (CUDA.zeros(s, np.float32) for s in ((2, 3, 6), (2, 3, 3), (2, 3, 6)))
    model.backward(model.forward(x, out=y), out=dx)  # tables that all layers of a process share
    with simulated(allocates=False):
        for _ in range(2):
            assert model.forward(x, out=y) is y
            assert model.backward(y, out=dx) is dx


STEPS = 200
IN_GATE, FORGET, CELL = -4, 20, 0.5  # c grows by 0.0083 in every step: half a unit in the last place of a bfloat16 behind 1


def passes_of_a_long_sequence(device, dtype) -> list[np.ndarray]:
    """Final c, and the gradient of the initial one, of an LSTM whose gates are what their biases make them."""
    layer = nn.LSTM(1, 4, dtype=wide(dtype).type)
    for parameter in layer.parameters():
        parameter.value[:] = 0
    layer.bias_ih_l0.value[:] = np.repeat([IN_GATE, FORGET, CELL, 0], 4)
    store_as(layer.to(device.name), np.dtype(dtype))
    x, dy = (device.from_host(np.full((STEPS, 1, n), value, dtype)) for n, value in ((1, 0), (4, 1)))
    _, (_, c) = layer(x)
    _, (_, dc) = layer.backward(dy, input_gradient=False)
    return [device.to_host(a).astype(np.float64) for a in (c, dc)]


def sum_in(dtype, terms: np.ndarray) -> np.ndarray:
    """The sum of what is added one by one to a number that a dtype stores."""
    total = np.zeros((), dtype)
    for term in terms:
        total = (total.astype(np.float64) + term).astype(dtype)
    return total.astype(np.float64)


@pytest.mark.parametrize("form", FORMS)
def test_the_cell_states_of_long_sequences_are_summed_in_float32(form, monkeypatch):
    monkeypatch.setattr(lstm_steps, "multiply_matrices", lambda *_, **__: None)  # by weights that are 0
    dtype = narrow_dtype("test", form)
    expected, found = passes_of_a_long_sequence(CPU, np.float64), passes_of_a_long_sequence(CUDA, dtype)
    growth = np.tanh(CELL) / (1 + np.exp(-IN_GATE))
    slopes = (1 - np.tanh(growth * np.arange(STEPS, 0, -1)) ** 2) / 2
    for wanted, got, terms in zip(expected, found, (np.full(STEPS, growth), slopes), strict=True):
        np.testing.assert_allclose(terms.sum(), wanted, rtol=1e-6)
        error, summed_in_16_bits = np.abs(got - wanted).max(), np.abs(sum_in(dtype, terms) - wanted).max()
        assert error <= ml_dtypes.finfo(dtype).eps * wanted.max()
        assert error < summed_in_16_bits / 4


@pytest.mark.parametrize("form", FORMS)
def test_products_of_matrices(form):
    dtype = narrow_dtype("test", form)
    a, b = (np.random.default_rng(i).standard_normal(s).astype(dtype) for i, s in enumerate(((3, 8), (8, 5))))
    found = nn.matmul(CUDA.from_host(a), CUDA.from_host(b)).copy_to_host()
    assert found.dtype == dtype
    expected = a.astype(np.float32) @ b.astype(np.float32)
    np.testing.assert_allclose(found.astype(np.float32), expected, atol=float(8 * ml_dtypes.finfo(dtype).eps))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((nn.Linear(2, 2, dtype=np.float64),), "model must be a layer of float32"),
        ((nn.Linear,), "model must be a layer of float32 with one input, got type"),
        ((nn.Add(),), r"model must be a layer of float32 with one input, got Add\(\)"),
        ((nn.Linear(2, 2), "float8"), "dtype must be one of"),
        ((nn.Linear(2, 2), "float16", 0.0), "loss_scale, where .* must be a number from"),
        ((nn.Linear(2, 2), "float16", 1e30), "loss_scale, where .* must be a number from"),
        ((nn.Linear(2, 2), "float16", "static"), "loss_scale, where it is not 'auto' or 'dynamic', must be"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        nn.MixedPrecision(*arguments)


@pytest.mark.parametrize("form", FORMS)
def test_a_strided_input_is_copied(form):
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(narrow_dtype("test", form))
    found = nn.ReLU()(CUDA.from_host(x)[:, ::2]).copy_to_host()
    np.testing.assert_array_equal(found, np.maximum(x[:, ::2], x.dtype.type(0)))

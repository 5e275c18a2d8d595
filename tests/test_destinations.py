"""Destinations that lie in what the layer itself holds: parameters, gradients, running statistics."""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle

import numpy as np
import pytest

import numba_nn as nn

COPIES = {
    "made": lambda model: model,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "share": lambda model: model.share(),
    "eval and train": lambda model: model.eval().train(),
}
VIEWS = {
    "itself": lambda array: array,
    "view": lambda array: array[:],
    "reshaped": lambda array: array.reshape(-1)[:].reshape(array.shape),
    "base": lambda array: array.base,
    "buffer": lambda array: np.asarray(memoryview(array)),
}


def square():
    return nn.Linear(8, 8), np.ones((8, 8), np.float32)


def refuses(layer, call, words):
    before = {f"{name}.{kind}": getattr(p, kind).copy() for name, p in layer.named_parameters() for kind in ("value", "grad")}
    before |= layer.state_dict()
    with pytest.raises(nn.DestinationError, match=rf"{words}; pass an array with memory of its own$"):
        call()
    after = {f"{name}.{kind}": getattr(p, kind) for name, p in layer.named_parameters() for kind in ("value", "grad")}
    np.testing.assert_equal(after | layer.state_dict(), before)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("made", COPIES.values(), ids=COPIES)
def test_a_parameter_is_no_destination(made, view):
    layer, x = square()
    layer = made(layer)
    own = {"weight": view(layer.weight.value), r"weight\.grad": view(layer.weight.grad)}
    for call in (layer.forward, layer.backward):
        for name, out in own.items():
            refuses(layer, functools.partial(call, x, out=out), rf"^Linear\(.*\): out overlaps {name}")
        layer.forward(x)
    layer.backward(x)  # no forward was lost


def test_a_part_of_a_larger_parameter_is_no_destination():
    layer, x = nn.Linear(4, 8), np.ones((2, 4), np.float32)
    refuses(layer, lambda: layer.forward(x, out=layer.weight.grad[1:5].reshape(2, 8)), r"out overlaps weight\.grad")


@pytest.mark.parametrize("made", COPIES.values(), ids=COPIES)
def test_a_running_statistic_is_no_destination(made):
    layer, x = made(nn.BatchNorm1d(4)), np.ones((1, 4), np.float32)
    refuses(layer, lambda: layer.eval().forward(x, out=layer.running_mean.reshape(1, 4)), r"out overlaps running_mean")
    model = nn.Sequential(layer, nn.Flatten(0))
    refuses(model, lambda: model.eval().forward(x, out=layer.running_var), r"^Sequential of 2 .*out overlaps 0\.running_var")


def test_a_parameter_of_any_layer_inside_is_no_destination():
    x = np.ones((8, 8), np.float32)
    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
    inner = model[1][0]
    refuses(model, lambda: model.forward(x, out=inner.weight.value), r"^Sequential of 2 layers: out overlaps 1\.0\.weight")
    model.forward(x)
    refuses(model, lambda: model.backward(x, out=inner.weight.grad), r"out overlaps 1\.0\.weight\.grad")
    part = model[1:]
    refuses(part, lambda: part.forward(x, out=inner.weight.value), r"out overlaps 0\.0\.weight")


def test_states_of_an_lstm_do_not_lie_in_its_parameters():
    layer = nn.LSTM(4, 4)
    x, h = np.ones((1, 4, 4), np.float32), np.zeros((1, 4, 4), np.float32)
    taken = layer.weight_hh_l0.value[:4].reshape(1, 4, 4)
    refuses(layer, lambda: layer.forward(x, state_out=(h, taken)), "c of state_out overlaps weight_hh_l0")


def test_a_loss_does_not_write_into_its_weight():
    weight = np.ones(3, np.float32)
    loss = nn.CrossEntropyLoss(weight, reduction="none")
    with pytest.raises(nn.DestinationError, match=r"CrossEntropyLoss.*out is read-only"):
        loss.forward(np.ones((3, 3), np.float32), np.zeros(3, np.int64), out=loss.weight)
    np.testing.assert_array_equal(loss.weight, weight)


def test_parameters_of_others_are_destinations():
    """The gradient of an image that is itself optimised goes to where its optimiser looks."""
    layer, x = square()
    image = nn.Parameter(x)
    layer.forward(image.value)
    assert layer.backward(x, out=image.grad) is image.grad
    np.testing.assert_allclose(image.grad, x @ layer.weight.value, rtol=1e-6)
    room = np.zeros((3, 8, 8), np.float32)
    np.testing.assert_array_equal(layer.forward(x, out=room[1]), layer.forward(x))


def test_parts_of_one_buffer_are_destinations_where_they_lie_apart():
    rng, buffer, layer = np.random.default_rng(0), np.zeros(160, np.float32), nn.Linear(4, 4)
    calls = {
        "layer": lambda a, b, out: layer.forward(a, out=out), "matmul": lambda a, b, out: nn.matmul(a, b, out),
        "add": lambda a, b, out: nn.ops.add(a, b, out=out), "exp": lambda a, b, out: nn.ops.exp(a, out=out),
    }  # fmt: skip
    for turn in range(2000):
        name = list(calls)[turn % len(calls)]
        parts = [buffer[at : at + 16].reshape(4, 4) for at in rng.integers(0, 144, 3)]
        a, b, out = (part if rng.random() < 0.7 else part.copy() for part in parts)
        out = out if rng.random() < 0.9 else a
        read = (a, b) if name in ("matmul", "add") else (a,)
        elementwise = name in ("add", "exp")  # which may overwrite an operand itself
        overlaps = any(np.shares_memory(out, x) and not (elementwise and x is out) for x in read)
        expected = pytest.raises(nn.DestinationError, match="overlaps") if overlaps else contextlib.nullcontext()
        with expected:
            calls[name](a, b, out)


def masked(array):
    return np.ma.masked_array(array, mask=np.eye(*array.shape, dtype=bool))


@pytest.mark.parametrize("build", [
    lambda: nn.Linear(8, 8), nn.ReLU, lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU()), lambda: nn.Linear(8, 8).eval(),
])  # fmt: skip
def test_a_mask_is_never_ignored(build):
    layer, x = build(), np.ones((8, 8), np.float32)
    for _ in range(2):  # before a call of this shape, and after it
        with pytest.raises(nn.DTypeError, match="x must be a NumPy array, got MaskedArray"):
            layer.forward(masked(x))
        with pytest.raises(nn.DTypeError, match="out must be a NumPy array, got MaskedArray"):
            layer.forward(x, out=masked(x))
        layer.forward(x)
        if layer.training:
            with pytest.raises(nn.DTypeError, match="dy must be a NumPy array, got MaskedArray"):
                layer.backward(masked(x))
            with pytest.raises(nn.DTypeError, match="out must be a NumPy array, got MaskedArray"):
                layer.backward(x, out=masked(x))
            layer.backward(x)

"""Weights that are packed once in eval mode: never stale, counted, and made before the calls that read them."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import numba_nn as nn
from tests.allocations import no_array_data

CASES = {
    "linear": (lambda: nn.Linear(24, 20), (8, 24)),
    "conv": (lambda: nn.Conv2d(6, 8, 3, stride=2), (2, 6, 9, 9)),
    "grouped": (lambda: nn.Conv1d(6, 8, 3, groups=2), (2, 6, 11)),
    "winograd": (lambda: nn.Conv2d(5, 7, 3, padding=1, algorithm="winograd"), (2, 5, 9, 8)),
    "lstm": (lambda: nn.Sequential(nn.LSTM(20, 24, num_layers=2, bidirectional=True)), (5, 20, 20)),
    "model": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5)),
        (4, 3, 5, 5),
    ),
}
every_case = pytest.mark.parametrize("name", CASES)


def made(name):
    """A model in eval mode that has run, and its input."""
    make, x_shape = CASES[name]
    x = np.random.default_rng(0).standard_normal(x_shape).astype(np.float32)
    model = make().eval()
    model(x)
    return model, x


def plain(model, x):
    """What the model computes now, by a copy of it that packs nothing before."""
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.unlock()
    y = twin(x)
    assert twin.packed_nbytes == 0
    return y


def weights(model):
    """Parameters of which something is packed."""
    return [parameter for parameter in model.parameters() if parameter.packed_nbytes]


def check(model, x):
    np.testing.assert_allclose(model(x), plain(model, x), rtol=1e-4, atol=1e-5)


@every_case
def test_what_is_packed_is_what_is_computed_with(name):
    model, x = made(name)
    assert weights(model)
    check(model, x)
    before = model(x)
    for parameter in weights(model):
        parameter.memory.fill(0)  # past the lock
    np.testing.assert_array_equal(model(x), before)  # stale: so this test would see a stale pack
    check(model.train().eval(), x)
    assert not np.array_equal(model(x), before)


@every_case
def test_values_are_read_only_in_eval_mode(name):
    model, x = made(name)
    for parameter in model.parameters():
        with pytest.raises(ValueError, match="read-only"):
            parameter.value[...] = 0
    for parameter in model.train().parameters():
        parameter.value[...] += 1
    assert model.packed_nbytes == 0
    check(model.eval(), x)


@every_case
@pytest.mark.parametrize("optimizer", [nn.optim.SGD, nn.optim.Adam])
def test_an_optimisers_step_in_eval_mode_counts(name, optimizer):
    model, x = made(name)
    before = model(x)
    for parameter in model.parameters():
        parameter.grad.fill(1)
    optimizer(model.parameters(), lr=0.1).step()
    assert not np.allclose(model(x), before)
    check(model, x)
    check(model.eval(), x)


@every_case
def test_loading_in_eval_mode_counts(name):
    model, x = made(name)
    state = {key: array * 2 for key, array in model.state_dict().items()}
    model.load_state_dict(state)
    assert all(parameter.locked for parameter in model.parameters())
    check(model, x)
    y = model(x)
    with pytest.raises(nn.StateDictError):
        model.load_state_dict({**state, "unexpected": x})
    np.testing.assert_array_equal(model(x), y)
    assert weights(model)


@every_case
def test_a_second_handle_that_trains_leaves_no_stale_pack(name):
    model, x = made(name)
    other = model.share().train()
    assert not any(parameter.locked for parameter in model.parameters())
    for parameter in other.parameters():
        parameter.value[...] += 0.1
    check(model, x)
    check(other.eval(), x)
    np.testing.assert_array_equal(model(x), other(x))


@every_case
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), lambda model: model.share()]
)
def test_copies_are_locked_too(name, copied):
    model, x = made(name)
    twin = copied(model)
    assert all(parameter.locked for parameter in twin.parameters())
    np.testing.assert_array_equal(twin(x), model(x))
    for parameter in twin.train().parameters():
        parameter.value[...] += 1
    check(twin.eval(), x)
    check(model, x)


def test_a_copys_kernels_read_its_own_values():
    layer = nn.Linear(3, 2)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(layer)))
    x = np.ones((1, 3), np.float32)
    twin(x)
    twin.weight.value.fill(0)
    twin.bias.value.fill(2)
    np.testing.assert_array_equal(twin(x), [[2, 2]])


@every_case
@pytest.mark.parametrize("order", ["eval, reserve", "reserve, eval"])
def test_nothing_is_allocated_after_reserve_in_eval_mode(name, order):
    make, x_shape = CASES[name]
    model, x = make(), np.ones(x_shape, np.float32)
    if order == "eval, reserve":
        model.eval().reserve(x_shape, training=False, strict=True)
    else:
        model.reserve(x_shape, strict=True).eval()
    packed = model.packed_nbytes
    assert packed > 0
    for rows in range(1, len(x) + 1) if name != "lstm" else [len(x)]:
        part, y = x[:rows].copy(), np.empty(model.output_shape((rows, *x_shape[1:])), np.float32)
        model.forward(part, out=y)
        with no_array_data():
            model.forward(part, out=y)
    assert model.packed_nbytes == packed


def test_either_precision_finds_its_pack():
    layer, x_shape = nn.Conv2d(16, 16, 3, padding=1, algorithm="winograd").eval(), (1, 16, 8, 8)
    packed = layer.reserve(x_shape, training=False).packed_nbytes
    x = np.ones(x_shape, np.float32)
    try:
        for mode in ("exact", "default"):
            nn.set_precision(mode)
            check(layer, x)
    finally:
        nn.set_precision("default")
    assert layer.packed_nbytes == packed


def test_the_summary_counts_packed_weights():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU())

    def cells():
        """Of the column, in both rows of layers and in that of the model."""
        header, _, *rows = ([cell.strip() for cell in line.split("|")] for line in nn.summary(model, (8, 64)).splitlines())
        return [row[header.index("packed KB")] for row in rows]

    assert cells() == ["0", "0", "0"]
    model.eval().reserve((8, 64), training=False)
    assert model.packed_nbytes >= 64 * 64 * 4
    assert cells() == [f"{model.packed_nbytes / 1024:,.0f}", "0", f"{model.packed_nbytes / 1024:,.0f}"]


def test_evaluation_leaves_the_locks_as_they_were():
    model, x = nn.Sequential(nn.Linear(4, 3)), np.ones((5, 4), np.float32)
    nn.evaluate(model, nn.MSELoss(), (x, np.ones((5, 3), np.float32)))
    assert model.training
    assert not model[0].weight.locked
    model.eval()
    nn.evaluate(model, nn.MSELoss(), (x, np.ones((5, 3), np.float32)))
    assert model[0].weight.locked

"""State dicts: names, copies, and loading all or nothing."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn
from tests.cases import assert_same


def build(seed=0):
    nn.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(12, 4, bias=False)))


def test_names_shapes_and_order():
    state = build().state_dict()
    assert {name: array.shape for name, array in state.items()} == {
        "0.weight": (3, 2, 3, 3), "0.bias": (3,), "2.1.weight": (4, 12)
    }  # fmt: skip
    assert list(state) == ["0.weight", "0.bias", "2.1.weight"]


def test_a_shared_layer_appears_under_each_name():
    a = nn.Linear(3, 3)
    model = nn.Sequential(a, nn.ReLU(), a)
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert len(model.parameters()) == 2
    assert [p.name for p in model.parameters()] == ["weight", "bias"]


def test_states_are_copies():
    model = build()
    state = model.state_dict()
    before = {name: array.copy() for name, array in state.items()}
    for array in state.values():
        array += 1
    assert_same(model.state_dict(), before)
    model.load_state_dict(state)
    for array in state.values():
        array += 1
    assert_same(model.state_dict(), {name: array + 1 for name, array in before.items()})


def test_loading_keeps_the_arrays():
    model, other = build(), build(1)
    arrays = [(p.value, p.grad) for p in model.parameters()]
    assert model.load_state_dict(other.state_dict()) is model
    assert_same(model.state_dict(), other.state_dict())
    for parameter, (value, grad) in zip(model.parameters(), arrays, strict=True):
        assert parameter.value is value
        assert parameter.grad is grad
    with pytest.raises(nn.ArgumentError):
        model.parameters()[0].value = value


def test_every_problem_is_listed_and_nothing_is_loaded():
    model = build()
    before = model.state_dict()
    state = build(1).state_dict()
    del state["0.bias"]
    state["0.weight"] = state["0.weight"][..., :2]
    state["2.1.weight"] = state["2.1.weight"].astype(complex)
    state["3.scale"] = np.ones(3)
    with pytest.raises(nn.StateDictError) as caught:
        model.load_state_dict(state)
    message = str(caught.value)
    for words in (
        "missing: 0.bias", "unexpected: 3.scale", "0.weight: expected float32 (3, 2, 3, 3), got float32 (3, 2, 3, 2)",
        "2.1.weight: expected float32 (4, 12), got complex128 (4, 12)", "Sequential",
    ):  # fmt: skip
        assert words in message
    assert_same(model.state_dict(), before)


def test_not_strict_passes_over_names_but_not_over_shapes():
    model, state = build(), build(1).state_dict()
    state["3.scale"] = state.pop("0.bias")
    kept = model.state_dict()["0.bias"]
    model.load_state_dict(state, strict=False)
    got = model.state_dict()
    np.testing.assert_array_equal(got["0.bias"], kept)
    np.testing.assert_array_equal(got["0.weight"], state["0.weight"])
    with pytest.raises(nn.StateDictError, match=r"2\.1\.weight"):
        model.load_state_dict({**state, "0.weight": 0 * state["0.weight"], "2.1.weight": np.ones(3)}, strict=False)
    assert_same(model.state_dict(), got)


def test_other_number_types_are_converted():
    layer = nn.Linear(2, 3)
    layer.load_state_dict({"weight": np.arange(6).reshape(3, 2), "bias": [0.5, 1.5, 2.5]})
    np.testing.assert_array_equal(layer.weight.value, np.arange(6, dtype=np.float32).reshape(3, 2))
    np.testing.assert_array_equal(layer.bias.value, np.float32([0.5, 1.5, 2.5]))
    double = nn.Linear(2, 3, dtype=np.float64).load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(double.weight.value, layer.weight.value)


def test_an_optimiser_resumes_where_it_stopped():
    models = [build(), build()]
    whole, resumed = (nn.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, dampening=0.5) for m in models)

    def step(model, optimizer, seed):
        for i, parameter in enumerate(model.parameters()):
            parameter.grad[...] = np.random.default_rng((seed, i)).standard_normal(parameter.grad.shape)
        optimizer.step()

    for seed in range(3):
        step(models[0], whole, seed)
        step(models[1], resumed, seed)
    state = resumed.state_dict()
    fresh = nn.optim.SGD(models[1].parameters(), lr=0.1, momentum=0.9, dampening=0.5)
    fresh.load_state_dict(state)
    for seed in range(3, 6):
        step(models[0], whole, seed)
        step(models[1], fresh, seed)
    assert_same(models[1].state_dict(), models[0].state_dict())
    assert_same(fresh.state_dict(), whole.state_dict())
    wrong = {**state, "velocity.0": np.zeros(2)}
    wrong.pop("velocity.1")
    with pytest.raises(nn.StateDictError) as caught:
        fresh.load_state_dict(wrong)
    assert "velocity.0" in str(caught.value)
    assert "velocity.1" in str(caught.value)
    assert_same(fresh.state_dict(), whole.state_dict())


@pytest.mark.parametrize("wrong", [5, None, [("weight", np.ones(3))]], ids=str)
def test_what_is_no_state_dict_is_refused(wrong):
    layer = nn.Linear(2, 3)
    for owner in (layer, nn.optim.SGD(layer.parameters())):
        with pytest.raises(nn.StateDictError, match=rf"^(Linear\(.*\)|SGD): a state dict maps names.*{type(wrong).__name__}$"):
            owner.load_state_dict(wrong)

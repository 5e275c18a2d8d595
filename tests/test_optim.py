"""What all optimisers share: copies, state dicts, and when a parameter's state begins."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

import numba_nn as nn
from tests import reference_training
from tests.allocations import no_array_data
from tests.cases import assert_close, assert_same

SETTINGS = {"lr": 0.1, "momentum": 0.9, "dampening": 0.4}
MAKERS = {
    "SGD": lambda params: nn.optim.SGD(params, **SETTINGS),
    "AdamW": lambda params: nn.optim.AdamW(params, lr=0.1, amsgrad=True),
}
each_optimizer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda thing: pickle.loads(pickle.dumps(thing))}


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def model():
    nn.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def parameters():
    shapes, dtypes = [(3, 4), (5,), (2, 9000)], [np.float32, np.float64, np.float32]
    return [nn.Parameter(numbers(*s, seed=i).astype(d)) for i, (s, d) in enumerate(zip(shapes, dtypes, strict=True))]


def of(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def set_gradients(params, step):
    for i, parameter in enumerate(params):
        parameter.grad[...] = numbers(*parameter.value.shape, seed=(i, step))


def train(optimizer, steps):
    for step in steps:
        set_gradients(of(optimizer), step)
        optimizer.step()


def values(optimizer):
    return {str(i): p.value.copy() for i, p in enumerate(of(optimizer))}


# Copies


@each_optimizer
@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_a_copy_has_parameters_and_state_of_its_own(make, duplicate):
    optimizer = make(parameters())
    train(optimizer, range(3))
    before, state = values(optimizer), optimizer.state_dict()
    other = duplicate(optimizer)
    assert_same(values(other), before)
    assert_same(other.state_dict(), state)
    train(other, range(3, 6))
    assert_same(values(optimizer), before)
    assert_same(optimizer.state_dict(), state)
    train(optimizer, range(3, 6))
    assert_same(values(other), values(optimizer))
    assert_same(other.state_dict(), optimizer.state_dict())
    other.zero_grad()
    assert all(p.grad.any() for p in of(optimizer))
    assert not any(p.grad.any() for p in of(other))


@each_optimizer
@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_a_copy_made_with_the_model_stays_tied_to_it(make, duplicate):
    layers = model()
    optimizer = make(layers.parameters())
    train(optimizer, range(2))
    others, other = duplicate((layers, optimizer))
    assert [id(p) for p in of(other)] == [id(p) for p in others.parameters()]
    before = layers.state_dict()
    train(other, range(2, 4))
    assert_same(layers.state_dict(), before)
    train(optimizer, range(2, 4))
    assert_same(others.state_dict(), layers.state_dict())


@each_optimizer
def test_what_is_unpickled_outlives_its_original(make):
    optimizer = make(parameters())
    train(optimizer, range(2))
    text = pickle.dumps(optimizer)
    train(optimizer, range(2, 5))
    expected = values(optimizer)
    del optimizer
    other = pickle.loads(text)
    train(other, range(2, 5))
    assert_same(values(other), expected)


@each_optimizer
def test_a_shallow_copy_shares_everything(make):
    optimizer = make(parameters())
    other, whole = copy.copy(optimizer), make(parameters())
    for step in range(4):
        train((optimizer, other)[step % 2], [step])
    train(whole, range(4))
    assert_same(values(optimizer), values(whole))
    assert_same(optimizer.state_dict(), whole.state_dict())


# When the velocity begins


def check_against_the_formula(change):
    """Six steps; ``change(step, params, group)`` comes before each."""
    params = parameters()
    optimizer = nn.optim.SGD(params, lr=0.1, momentum=0.9, dampening=0.4)
    group = optimizer.param_groups[0]
    expected, velocities = [p.value.astype(np.float64) for p in params], [None] * len(params)
    for step in range(6):
        change(step, params, group)
        set_gradients(params, step)
        optimizer.step()
        chosen = {name: value for name, value in group.items() if name != "params"}
        for i, p in enumerate(params):
            if p.requires_grad:
                gradient = p.grad.astype(np.float64)
                expected[i], velocities[i] = reference_training.sgd(expected[i], gradient, velocities[i], **chosen)
            assert_close(p.value, expected[i])


def test_the_velocity_of_a_parameter_starts_when_it_is_thawed():
    def change(step, params, group):
        params[0].requires_grad = step >= 2
        params[2].requires_grad = step not in (1, 3)

    check_against_the_formula(change)


def test_the_velocity_starts_when_momentum_is_switched_on():
    def change(step, params, group):
        group["momentum"] = 0.9 if step in (2, 3, 5) else 0.0  # and is kept while momentum is switched off

    check_against_the_formula(change)


def test_when_the_velocity_started_is_resumed():
    params = parameters()
    params[1].requires_grad = False
    optimizer = nn.optim.SGD(params, **SETTINGS)
    train(optimizer, range(2))
    np.testing.assert_array_equal(optimizer.state_dict()["steps"], [2, 0, 2])
    resumed = nn.optim.SGD(copy.deepcopy(params), **SETTINGS)
    resumed.load_state_dict(optimizer.state_dict())
    for one in (optimizer, resumed):
        of(one)[1].requires_grad = True
        train(one, range(2, 4))
    assert_same(values(resumed), values(optimizer))
    assert_same(resumed.state_dict(), optimizer.state_dict())


# State dicts


def test_a_state_dict_that_does_not_fit_changes_nothing():
    optimizer = nn.optim.SGD(parameters(), **SETTINGS)
    train(optimizer, range(2))
    state = optimizer.state_dict()
    for name, wrong in (
        ("velocity.1", np.array(list("abcde"))),
        ("velocity.1", np.ones(5, complex)),
        ("velocity.2", np.ones((9000, 2))),
        ("steps", np.array(2)),
        ("steps", np.array([2.0, 2.0, 2.0])),
    ):
        good = {n: a + 1 for n, a in state.items()}
        with pytest.raises(nn.StateDictError, match=rf"SGD: .*: {name}: expected [^;]*$"):
            optimizer.load_state_dict({**good, name: wrong})
        assert_same(optimizer.state_dict(), state)


def test_all_that_does_not_fit_is_listed():
    optimizer = nn.optim.SGD(parameters(), **SETTINGS)
    state = {**optimizer.state_dict(), "velocity.1": np.zeros(2), "velocity.2": np.array("a"), "exp_avg.0": np.zeros(1)}
    state.pop("velocity.0")
    with pytest.raises(nn.StateDictError) as caught:
        optimizer.load_state_dict(state)
    assert str(caught.value) == (
        "SGD: the state dict does not fit: missing: velocity.0; unexpected: exp_avg.0; "
        "velocity.1: expected float64 (5,), got float64 (2,); velocity.2: expected float32 (2, 9000), got <U1 ()"
    )


def test_a_loaded_state_is_a_copy_in_the_optimisers_own_dtypes():
    optimizer = nn.optim.SGD(parameters(), **SETTINGS)
    state = optimizer.state_dict()
    state["velocity.0"] = state["velocity.0"].astype(np.float64)
    optimizer.load_state_dict(state)
    train(optimizer, range(2))
    assert not any(array.any() for name, array in state.items() if not name.startswith("group"))
    assert optimizer.state_dict()["velocity.0"].dtype == np.float32


GROUPED = {"lr": 0.5, "momentum": 0.25, "dampening": 0.0, "nesterov": True}


def test_settings_of_groups_are_part_of_the_state():
    saved = nn.optim.SGD([{"params": parameters()[:1], **GROUPED}, {"params": parameters()[1:]}], **SETTINGS)
    saved.param_groups[1]["lr"] = 0.125  # as a schedule does
    state = saved.state_dict()
    other = nn.optim.SGD([{"params": parameters()[:1]}, {"params": parameters()[1:]}], lr=7)
    other.load_state_dict(state)
    assert repr(other) == repr(saved)
    assert other.param_groups[0]["nesterov"] is True
    adam = nn.optim.Adam(parameters(), lr=0.1, betas=(0.5, 0.75), amsgrad=True)
    fresh = nn.optim.Adam(parameters(), amsgrad=True)
    fresh.load_state_dict(adam.state_dict())
    assert repr(fresh) == repr(adam)
    assert fresh.param_groups[0]["betas"] == (0.5, 0.75)


def test_a_state_without_settings_leaves_them():
    optimizer = nn.optim.SGD(parameters(), **SETTINGS)
    state = {name: array for name, array in optimizer.state_dict().items() if not name.startswith("group")}
    before = repr(optimizer)
    optimizer.load_state_dict(state)
    assert repr(optimizer) == before


def test_a_setting_out_of_range_changes_nothing():
    optimizer = nn.optim.SGD(parameters(), **SETTINGS)
    train(optimizer, range(2))
    state, before = optimizer.state_dict(), repr(optimizer)
    changed = {name: array + 1 for name, array in state.items()} | {"group.0.lr": np.array(-1.0)}
    changed["group.0.nesterov"] = np.array(0.0)
    with pytest.raises(
        nn.StateDictError, match=r"^SGD: lr must be a number of at least 0, got -1\.0, in group 0 of a state dict$"
    ):
        optimizer.load_state_dict(changed)
    with pytest.raises(nn.StateDictError, match=r"group\.0\.lr: expected float64 \(\), got float64 \(1,\)"):
        optimizer.load_state_dict({**state, "group.0.lr": np.ones(1)})
    assert_same(optimizer.state_dict(), state)
    assert repr(optimizer) == before


def test_the_repr_shows_the_settings():
    assert repr(nn.optim.SGD(parameters(), lr=0.1, momentum=0.9)) == (
        "SGD(lr=0.1, momentum=0.9, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False)"
    )
    several = nn.optim.AdamW([{"params": [p], "lr": lr} for p, lr in zip(parameters(), (1, 2, 3), strict=True)])
    rest = "betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01, amsgrad=False, maximize=False"
    assert repr(several).splitlines() == ["AdamW(", *(f"  ({g}): lr={g + 1}, {rest}" for g in range(3)), ")"]


# Kernels


def test_the_kernels_write_through_none_of_their_arguments():
    kernels = [nn.optim.SGD._update, nn.optim.Adam._update]
    assert [(k.__name__, r) for k in kernels for r, role in k.roles.items() if role.writes] == []


@each_optimizer
@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_a_copys_step_allocates_nothing(make, duplicate):
    optimizer = duplicate(make(parameters()))
    optimizer.step()
    with no_array_data():
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("dampening", ["a", math.nan])
def test_a_dampening_that_is_no_number_is_named(dampening):
    with pytest.raises(nn.ArgumentError, match="SGD: dampening must be a number"):
        nn.optim.SGD(nn.Linear(2, 2).parameters(), dampening=dampening)


@each_optimizer
def test_parameters_may_come_with_their_names(make):
    one, other = model(), model()
    for net, given in ((one, one.parameters()), (other, [{"params": other.named_parameters()}])):
        optimizer = make(given)
        for parameter in net.parameters():
            parameter.grad[...] = 1
        optimizer.step()
    assert_same(one.state_dict(), other.state_dict())


def test_a_loss_that_is_none_is_refused_and_nothing_updated():
    layer = nn.Linear(2, 2)
    optimizer, before = nn.optim.SGD(layer.parameters(), lr=1.0), layer.weight.value.copy()
    layer.weight.grad[...] = 1
    with pytest.raises(nn.DTypeError, match="SGD: loss must be a NumPy array, got function"):
        optimizer.step(lambda: 0.0)
    with pytest.raises(nn.ShapeError, match=r"SGD: loss must have shape \(1,\)"):
        optimizer.step(np.zeros(2, np.float32))
    np.testing.assert_array_equal(layer.weight.value, before)

"""When SGD's velocity starts, against PyTorch's: a buffer begins with its parameter's first gradient under a momentum."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn
from tests.cases import assert_close
from tests.parity.cases import tensor, torch

STEPS = 8
FROZEN = {"never": [(), (), ()], "at first": [range(3), (), range(1)], "in between": [(), (2, 3), (1, 4, 5)]}
MOMENTUM = {"always": [0.9] * STEPS, "later": [0.0] * 3 + [0.9] * 5, "off and on": [0.0, 0.9, 0.9, 0.0, 0.0, 0.8, 0.9, 0.9]}


def numbers(*shape, seed):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("dampening", [0.0, 0.4])
@pytest.mark.parametrize("momentum", MOMENTUM.values(), ids=MOMENTUM)
@pytest.mark.parametrize("frozen", FROZEN.values(), ids=FROZEN)
def test_the_velocity_starts_when_pytorchs_does(frozen, momentum, dampening):
    arrays = [numbers(*shape, seed=i) for i, shape in enumerate([(3, 4), (5,), (2, 9000)])]
    ours, theirs = [nn.Parameter(a) for a in arrays], [torch.nn.Parameter(tensor(a)) for a in arrays]
    settings = {"lr": 0.1, "dampening": dampening, "weight_decay": 0.01}
    optimizers = nn.optim.SGD(ours, **settings), torch.optim.SGD(theirs, **settings)
    for step in range(STEPS):
        for i, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            mine.requires_grad = step not in frozen[i]
            mine.grad[...] = numbers(*mine.value.shape, seed=(i, step))
            other.grad = tensor(mine.grad) if mine.requires_grad else None
        for optimizer in optimizers:
            optimizer.param_groups[0]["momentum"] = momentum[step]
            optimizer.step()
        for mine, other in zip(ours, theirs, strict=True):
            assert_close(mine.value, other.detach().numpy())


# Adam

ADAM = [
    {},
    {"lr": 0.1, "weight_decay": 0.1},
    {"betas": (0.5, 0.7), "eps": 1e-3},
    {"lr": 0.1, "amsgrad": True, "betas": (0.9, 0.5)},
]


def pairs(dtype=np.float64):
    arrays = [numbers(*shape, seed=i).astype(dtype) for i, shape in enumerate([(3, 4), (5,), (2, 9000)])]
    return [nn.Parameter(a) for a in arrays], [torch.nn.Parameter(tensor(a)) for a in arrays]


def set_gradients(ours, theirs, seed):
    for i, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        mine.grad[...] = numbers(*mine.value.shape, seed=(i, seed))
        other.grad = tensor(mine.grad) if mine.requires_grad else None


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("settings", ADAM, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_adam_over_many_steps(name, dtype, settings, maximize):
    ours, theirs = pairs(dtype)
    optimizers = [getattr(o, name)(p, maximize=maximize, **settings) for o, p in ((nn.optim, ours), (torch.optim, theirs))]
    for step in range(30):
        ours[0].requires_grad = step not in (0, 5)
        set_gradients(ours, theirs, step)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] *= 0.95
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine.value, other.detach().numpy())


def test_adam_with_groups():
    ours, theirs = pairs()
    made = []
    for module, p in ((nn.optim, ours), (torch.optim, theirs)):
        groups = [{"params": p[:1], "lr": 0.3, "amsgrad": True}, {"params": p[1:], "weight_decay": 0.1, "betas": (0.5, 0.9)}]
        made.append(module.AdamW(groups, lr=0.1))
    for step in range(20):
        set_gradients(ours, theirs, step)
        for optimizer in made:
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine.value, other.detach().numpy())


# Clipping


@pytest.mark.parametrize("order", [2.0, 1.0, 3.0, 0.5, float("inf")])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [None, np.inf, np.nan], ids=str)
@pytest.mark.parametrize("share", [0.3, 2.0])
def test_clipping_by_norm(share, bad, dtype, order):
    ours, theirs = pairs(dtype)
    set_gradients(ours, theirs, 0)
    limit = share * nn.optim.clip_grad_norm_(ours, np.inf, order)
    if bad is not None:
        ours[0].grad[1, 2] = theirs[0].grad[1, 2] = bad
    expected = float(torch.nn.utils.clip_grad_norm_(theirs, limit, order))
    assert nn.optim.clip_grad_norm_(ours, limit, order) == pytest.approx(expected, rel=1e-5, nan_ok=True)
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine.grad, other.grad.numpy())


def test_clipping_by_value():
    ours, theirs = pairs()
    set_gradients(ours, theirs, 0)
    ours[0].grad[1, :3] = theirs[0].grad[1, :3] = tensor([np.nan, np.inf, -np.inf])
    nn.optim.clip_grad_value_(ours, 0.7)
    torch.nn.utils.clip_grad_value_(theirs, 0.7)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine.grad, other.grad.numpy())

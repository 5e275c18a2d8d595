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

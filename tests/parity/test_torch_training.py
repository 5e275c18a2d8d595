"""SGD, and whole training steps of the autoencoder, against PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn
from numba_nn.models import Autoencoder
from tests.cases import assert_close
from tests.parity.cases import from_torch, tensor, to_torch, torch

SETTINGS = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.01},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
]


def numbers(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def both_parameters(dtype=np.float64):
    arrays = [numbers(*shape, seed=i, dtype=dtype) for i, shape in enumerate([(3, 4), (5,), (2, 9000)])]
    return [nn.Parameter(a) for a in arrays], [torch.nn.Parameter(tensor(a)) for a in arrays]


def train(ours, theirs, optimizers, steps=30):
    for step in range(steps):
        for i, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            mine.grad[...] = numbers(*mine.value.shape, seed=(i, step))
            other.grad = tensor(mine.grad)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] *= 0.95
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine.value, other.detach().numpy())


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sgd_over_many_steps(settings, dtype):
    ours, theirs = both_parameters(dtype)
    train(ours, theirs, (nn.optim.SGD(ours, **settings), torch.optim.SGD(theirs, **settings)))


def test_sgd_with_groups():
    ours, theirs = both_parameters()

    def groups(params):
        return [{"params": params[:1], "lr": 0.3, "momentum": 0.0}, {"params": params[1:], "weight_decay": 0.1}]

    made = [build(groups(p), lr=0.1, momentum=0.5) for build, p in ((nn.optim.SGD, ours), (torch.optim.SGD, theirs))]
    train(ours, theirs, made)


def torch_autoencoder(dtype):
    t = torch.nn

    def conv(i, o):
        return t.Conv2d(i, o, 3, padding=1)

    return t.Sequential(
        conv(3, 256), t.ReLU(), t.MaxPool2d(2), conv(256, 128), t.ReLU(), t.MaxPool2d(2), conv(128, 128), t.ReLU(),
        t.Upsample(scale_factor=2), conv(128, 256), t.ReLU(), t.Upsample(scale_factor=2), conv(256, 3),
    ).to(dtype)  # fmt: skip


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_autoencoder_trains_alike(precision):
    nn.manual_seed(0)
    ours, theirs = Autoencoder(precision), torch_autoencoder(getattr(torch, precision))
    theirs.load_state_dict(to_torch(ours.state_dict()))
    settings = {"lr": 0.01, "momentum": 0.9}
    optimizers = nn.optim.SGD(ours.parameters(), **settings), torch.optim.SGD(theirs.parameters(), **settings)
    x = numbers(4, 3, 32, 32, dtype=precision)
    step, criterion = nn.TrainStep(ours, nn.MSELoss(), optimizers[0], x.shape), torch.nn.MSELoss()
    for _ in range(3):
        optimizers[1].zero_grad()
        expected = criterion(theirs(tensor(x)), tensor(x))
        expected.backward()
        optimizers[1].step()
        assert step(x, x) == pytest.approx(expected.item(), rel=1e-5)
        named = dict(theirs.named_parameters())
        for name, parameter in ours.named_parameters():
            gradient = named[name].grad.numpy()
            scale = np.abs(gradient).max()
            assert_close(parameter.grad / scale, gradient / scale)
    for name, array in from_torch(theirs.state_dict()).items():
        assert_close(ours.state_dict()[name], array)

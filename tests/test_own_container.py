"""Layers and containers of a user's own: gradients, scratch apart from that of the layers inside, memory that is reserved."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

import numba_nn as nn
from examples.own_layer import Scale
from examples.residual import Residual
from tests.allocations import no_array_data
from tests.cases import gradients
from tests.test_sequential import numbers


class Projected(Residual):
    """y = shortcut(x) + body(x), with an array of scratch in either direction."""

    def __init__(self, body, shortcut):
        super().__init__(body)
        self.shortcut = shortcut
        self._adopt(self._workspace, 0)

    def scratch_spec(self, x_shape, dtype):
        return {"y": (self.output_shape(x_shape), dtype), "dx": (x_shape, dtype)}

    def _forward(self, call, y, x, saved):
        aside = self._run(call, self.shortcut, x, call.scratch["y"])
        self._run(call, self.body, x, y)
        y += aside

    def _backward(self, call, dx, dy, x, saved):
        self.body._propagate(dy, dx, dx is not None)
        self.shortcut._propagate(dy, call.scratch["dx"], dx is not None)
        if dx is not None:
            dx += call.scratch["dx"]


def residual(features=5):
    body = nn.Sequential(nn.Linear(features, features, dtype=np.float64), nn.Tanh())
    return Residual(body)


def projected():
    body = nn.Sequential(nn.Linear(5, 7, dtype=np.float64), nn.Tanh(), nn.Linear(7, 5, dtype=np.float64))
    return Projected(body, nn.Linear(5, 5, bias=False, dtype=np.float64))


def differences(model, x, dy, array, step=1e-6):
    """The derivative of sum(dy y) with respect to an array, element by element, from two values on either side."""
    derivative = np.empty_like(array)
    for i in np.ndindex(array.shape):
        before, sums = array[i], []
        for sign in (1, -1):
            array[i] = before + sign * step
            sums.append(np.sum(dy * model(x)))
        array[i], derivative[i] = before, (sums[0] - sums[1]) / (2 * step)
    return derivative


def scale():
    return Scale(5, np.float64)


MODELS = [
    scale,
    lambda: nn.Sequential(scale(), residual(), scale()),
    lambda: nn.Sequential(residual(), residual()),
    lambda: nn.Sequential(nn.Linear(5, 5, dtype=np.float64), residual(), nn.ReLU(), residual()),
    lambda: Residual(nn.Sequential(residual(), nn.Linear(5, 5, dtype=np.float64))),
    lambda: nn.Sequential(projected(), projected()),
    lambda: Projected(nn.Sequential(projected(), nn.Sigmoid()), projected()),
]


@pytest.mark.parametrize("build", MODELS)
def test_gradients_are_the_derivatives(build):
    nn.manual_seed(2)
    model = build()
    x, dy = (numbers(4, 5, seed=seed).astype(np.float64) for seed in (0, 1))
    got = gradients(model, x, dy)
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(got[name], differences(model, x, dy, parameter.value), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(got["x"], differences(model, x, dy, x), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("build", MODELS[:3])
def test_reserved_models_allocate_nothing(build):
    model, x = build().reserve((4, 5), strict=True), numbers(4, 5).astype(np.float64)
    y, dx = np.empty_like(x), np.empty_like(x)
    for watch in (contextlib.nullcontext, no_array_data):  # the first time, kernels are compiled
        with watch():
            model.forward(x, out=y)
            model.backward(y, out=dx)

"""Convolution on the GPU, simulated, against `tests.reference`: three passes, any stride, padding, dilation and groups."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from simulated_cuda import simulated

import numba_nn as nn
from numba_nn.core.cuda import slices as cuda_slices
from numba_nn.core.cuda.slices import partial_size, slices_of
from numba_nn.core.device import CUDA
from numba_nn.core.epilogue import IDENTITY, RELU
from numba_nn.layers.conv.algorithm import Problem
from numba_nn.layers.conv.cuda import convolve, convolve_backward_input, convolve_backward_weight, divisor, product_of
from tests import reference


@pytest.fixture(params=["default", "exact"], autouse=True)
def gpu(request):
    nn.set_precision(request.param)
    with simulated():
        yield request.param
    nn.set_precision("default")


def problem_of(x_shape, outputs, taps, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    size = [
        (length + 2 * p - d * (k - 1) - 1) // s + 1
        for length, k, s, p, d in zip(x_shape[2:], taps, stride, padding, dilation, strict=True)
    ]
    return Problem(x_shape, (x_shape[0], outputs, *size), taps, stride, padding, dilation, groups, np.float32)


PROBLEMS = {
    "3x3": problem_of((2, 3, 6, 5), 4, (3, 3), padding=(1, 1)),
    "1x1": problem_of((2, 8, 3, 4), 6, (1, 1)),
    "stride": problem_of((1, 2, 7, 8), 3, (3, 2), stride=(2, 3), padding=(1, 0)),
    "dilation": problem_of((2, 2, 9, 8), 3, (3, 3), padding=(2, 1), dilation=(2, 3)),
    "groups": problem_of((2, 6, 4, 9), 4, (2, 3), stride=(1, 2), padding=(1, 1), groups=2),
    "depthwise": problem_of((1, 3, 5, 5), 3, (3, 3), padding=(1, 1), groups=3),
}


DEEP = {
    "deep": problem_of((1, 8, 4, 5), 9, (3, 3), padding=(1, 1)),
    "deep groups": problem_of((2, 10, 4, 3), 14, (3, 3), stride=(2, 1), padding=(1, 1), groups=2),
}
"""Here slices of the depth are tried, in products that are not cut by themselves."""


def room_for(one_pass, problem, monkeypatch):
    """Poisoned room for partial sums, where the depth is cut."""
    if problem not in DEEP.values():
        return None
    monkeypatch.setattr(cuda_slices, "LEAST_SPAN", 8)
    size = (*product_of(one_pass, problem), problem.groups)
    assert slices_of(*size)[0] > 1
    return CUDA.from_host(np.full(partial_size(*size), np.nan, np.float32))


def values(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def arrays(problem):
    weight = values((problem.y_shape[1], problem.x_shape[1] // problem.groups, *problem.taps), 1)
    return values(problem.x_shape, 0), weight, values(problem.y_shape, 2), CUDA.from_host(np.arange(problem.groups))


def correlated(problem, x, weight):
    rest = (
        problem.x_shape[1],
        problem.y_shape[1],
        problem.taps,
        problem.stride,
        problem.padding,
        problem.dilation,
        problem.groups,
    )
    return reference.conv2d(x.astype(float), {"weight": weight.astype(float)}, *rest, bias=False)


def gradient(function, at, dy):
    """Of sum(dy function(at)), for a linear function: what it gives for each unit."""
    found = np.zeros(at.size)
    for i in range(at.size):
        unit = np.zeros(at.size)
        unit[i] = 1
        found[i] = (function(unit.reshape(at.shape)) * dy).sum()
    return found.reshape(at.shape)


def tolerance(precision, depth):
    return (0.01 if precision == "default" else 2e-6) * max(1, depth) ** 0.5


@pytest.mark.parametrize("name", PROBLEMS | DEEP)
def test_forward(name, gpu, monkeypatch):
    problem = (PROBLEMS | DEEP)[name]
    room = room_for("forward", problem, monkeypatch)
    x, weight, y, order = arrays(problem)
    scale, shift = values(problem.y_shape[1], 3), values(problem.y_shape[1], 4)
    found = CUDA.from_host(y)
    convolve(found, room, *map(CUDA.from_host, (x, weight, scale, shift)), order, problem, RELU, 0.0)
    expected = np.maximum(scale[:, None, None] * correlated(problem, x, weight) + shift[:, None, None], 0)
    np.testing.assert_allclose(found.copy_to_host(), expected, atol=2 * tolerance(gpu, weight[0].size))


@pytest.mark.parametrize("name", PROBLEMS | DEEP)
def test_gradient_of_the_input(name, gpu, monkeypatch):
    problem = (PROBLEMS | DEEP)[name]
    room = room_for("input", problem, monkeypatch)
    x, weight, dy, order = arrays(problem)
    found = CUDA.from_host(x)
    convolve_backward_input(found, room, CUDA.from_host(dy), CUDA.from_host(weight), order, problem)
    expected = gradient(lambda unit: correlated(problem, unit, weight), x, dy)
    np.testing.assert_allclose(found.copy_to_host(), expected, atol=tolerance(gpu, weight.size))


@pytest.mark.parametrize(("name", "least"), [*((name, 256) for name in PROBLEMS), ("3x3", 8), ("groups", 8)])
def test_gradient_of_the_weights(name, least, gpu, monkeypatch):
    monkeypatch.setattr(cuda_slices, "LEAST_SPAN", least)  # 8: there are slices
    problem = PROBLEMS[name]
    x, weight, dy, order = arrays(problem)
    found, size = CUDA.from_host(weight), (*product_of("weight", problem), problem.groups)
    partial = CUDA.from_host(np.full(partial_size(*size), np.nan, np.float32))
    convolve_backward_weight(found, partial, CUDA.from_host(x), CUDA.from_host(dy), order, problem)
    expected = weight + gradient(lambda unit: correlated(problem, x, unit), weight, dy)
    np.testing.assert_allclose(found.copy_to_host(), expected, atol=tolerance(gpu, dy.size))
    assert (slices_of(*size)[0] > 1) == (least == 8)


def test_bfloat16():
    problem = PROBLEMS["3x3"]
    x, weight, _, order = arrays(problem)
    x, weight = x.astype(ml_dtypes.bfloat16), weight.astype(ml_dtypes.bfloat16)
    y, ones = CUDA.zeros(problem.y_shape, np.float32), CUDA.from_host(np.ones(4, np.float32))
    convolve(y, None, *map(CUDA.from_host, (x, weight)), ones, CUDA.zeros((4,), np.float32), order, problem, IDENTITY, 0.0)
    np.testing.assert_allclose(y.copy_to_host(), correlated(problem, x, weight), rtol=1e-4, atol=1e-4)


def test_divisors():
    for d in (1, 2, 3, 5, 7, 25, 641, 4096, 65537, 2**31 - 1):
        _, multiplier, shift = divisor(d)
        assert multiplier < 2**32
        for n in {0, 1, d - 1, d, min(2 * d - 1, 2**31 - 1), 2**31 - 1, (2**31 - 1) // d * d}:
            assert n * multiplier >> shift == n // d

"""Targets and indices out of range in training steps on the GPU, simulated: they are refused, and change no parameter."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_cuda import simulated
from test_training import OPTIMIZERS, T, X, assert_alike, captures, each_optimizer, scales, set_gradients, steps, table

import numba_nn as nn
from numba_nn.core.device import CUDA
from numba_nn.layers.embedding import add_rows

WRONG = np.where(T == 1, 99, T)


@pytest.fixture(autouse=True)
def gpu():
    with simulated():
        yield


def values(step):
    """Of all parameters, on the host."""
    return [p.device.to_host(p.value) for p in step.model.parameters()]


@each_optimizer
def test_a_class_out_of_range_changes_no_parameter_and_is_refused_where_the_loss_is_read(make):
    here, there = steps(scales, make)
    for number in range(6):
        for step in (here, there):
            if number in (0, 3):
                before = step.optimizer.state_dict(), values(step)
                with pytest.raises(nn.RangeError, match=r"CrossEntropyLoss.*: target must lie in 0 \.\. 5, got 99 at \[\d+\]"):
                    step(X, WRONG)
                after = step.optimizer.state_dict(), values(step)
                np.testing.assert_equal(after, before)
            else:
                step(X, T)
    assert len(captures(there)) == 1
    assert_alike(here, there)


def test_a_class_out_of_range_is_refused_between_forward_and_update():
    _, step = steps(scales)
    before = values(step)
    with pytest.raises(nn.RangeError, match="got 99"):
        step.forward(X, WRONG)
    step.update()
    np.testing.assert_equal(values(step), before)


def test_nobody_waits_for_a_class_out_of_range():
    _, step = steps(scales, clips=False)
    before = values(step)
    for _ in range(3):
        step.run(X, WRONG)
    assert np.isnan(step.mean_loss())
    np.testing.assert_equal(values(step), before)
    step.optimizer.zero_grad()
    set_gradients(step.model.parameters(), 0)
    step.optimizer.step()  # by itself it knows of no loss
    assert not np.array_equal(CUDA.to_host(step.model.parameters()[0].value), before[0])


def test_a_guard_and_a_loss_may_both_forbid_an_update():
    net = nn.MixedPrecision(scales(), "float16").to("cuda")
    step = nn.TrainStep(net, nn.CrossEntropyLoss(), OPTIMIZERS["SGD"](net.parameters()), (12, 6))
    before = values(step)
    for x, target in ((X, WRONG), (X * np.float32(np.inf), T), (X, WRONG)):
        step.run(x, target)
        np.testing.assert_equal(values(step), before)


@pytest.mark.parametrize("wrong", [5, -1, 2**32 + 1])
def test_an_index_out_of_range_gives_nan_once_the_step_is_captured(wrong):
    _, step = steps(table, OPTIMIZERS["plain SGD"], clips=False)
    x = np.zeros((12, 6), np.int64)
    x[3, 1] = wrong
    before = step.model.state_dict()
    with pytest.raises(nn.RangeError, match=rf"x must lie in 0 \.\. 4, got {wrong} at \[3, 1\]"):
        step(x, T)
    for name, array in step.model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    for _ in range(3):
        assert np.isfinite(step(np.zeros_like(x), T))
    before = values(step)
    assert np.isnan(step(x, T))
    np.testing.assert_equal(values(step), before)
    assert len(captures(step)) == 1


def test_the_gradient_skips_what_is_no_row():
    weight, x = np.zeros((5, 40), np.float32), np.array([3, 5, -1, 2**32 + 3, 3])
    gradient, rows = CUDA.from_host(weight), CUDA.from_host(np.ones((5, 40), np.float32))
    add_rows(gradient, CUDA.from_host(x), rows, -1)
    weight[3] = 2
    np.testing.assert_array_equal(gradient.copy_to_host(), weight)

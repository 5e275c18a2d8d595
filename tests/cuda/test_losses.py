"""Losses on the GPU, simulated, compute what they compute on the CPU: every configuration of `tests.loss_cases`."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_cuda import simulated

import numba_nn as nn
from numba_nn.core.device import CUDA
from numba_nn.core.errors import DeviceError
from tests.loss_cases import LOSS_CASES, ONE_OF_EACH_LOSS

REDUCTIONS = ["mean", "sum", "none"]
MOST = 5000  # elements of a prediction: a simulated thread takes some microseconds
SMALL = [case for case in LOSS_CASES if np.prod(case.shape) <= MOST]
OF_EACH = [(case, "mean") for case in SMALL] + [(case, r) for case in ONE_OF_EACH_LOSS for r in REDUCTIONS[1:]]


@pytest.fixture(autouse=True)
def gpu():
    with simulated():
        yield


def on_cuda(*arrays):
    return [CUDA.from_host(array) for array in arrays]


def host(value):
    return value.copy_to_host() if CUDA.owns(value) else value


@pytest.mark.parametrize(("case", "reduction"), OF_EACH, ids=str)
def test_the_gpu_computes_what_the_cpu_does(case, reduction):
    arrays = case.arrays()
    here, there = case.build(reduction), case.build(reduction)
    value, other = here.forward(*arrays), there.forward(*on_cuda(*arrays))
    assert CUDA.owns(other) == (reduction == "none")
    np.testing.assert_allclose(host(other), value, rtol=3e-6, atol=1e-6)
    np.testing.assert_allclose(there.backward().copy_to_host(), here.backward(), rtol=1e-5, atol=1e-6)


def test_out_is_written_without_a_look_at_it():
    loss, out = nn.MSELoss(), CUDA.zeros((1,), np.float32)
    x, t = on_cuda(np.ones((3, 4), np.float32), np.zeros((3, 4), np.float32))
    assert loss.forward(x, t, out=out) is out
    assert CUDA.number(out) == 1


OUT_OF_RANGE = [
    (nn.CrossEntropyLoss, np.zeros((3, 4), np.float32), np.array([0, 4, 1])),
    (nn.CrossEntropyLoss, np.zeros((1, 4, 5), np.float32), np.array([[0, 1, -1, 2, 3]], np.int32)),
    (nn.NLLLoss, np.zeros((3, 4), np.float32), np.array([0, 2**40, 1])),
    (nn.BCELoss, np.array([0.5, 1.5], np.float32), np.array([1, 1], np.float32)),
    (nn.BCELoss, np.array([0.5, -0.5], np.float32), np.array([0, 0], np.float32)),
    (nn.BCELoss, np.array([0.5, 0.5], np.float32), np.array([0, 1.5], np.float32)),
    (nn.BCELoss, np.array([0.5, 0.5], np.float32), np.array([-0.5, 0], np.float32)),
]


@pytest.mark.parametrize(("kind", "x", "target"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_where_the_loss_is_waited_for(kind, x, target):
    loss = kind()
    with pytest.raises(nn.RangeError, match=r"must lie in 0 \.\. "):
        loss.forward(*on_cuda(x, target))
    with pytest.raises(nn.BackwardError):
        loss.backward()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("kind", "x", "target"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_nan_where_nothing_is_waited_for(kind, x, target, reduction):
    loss, arrays = kind(reduction=reduction), on_cuda(x, target)
    shape = loss.loss_shape(x.shape) if reduction == "none" else (1,)
    out = CUDA.zeros(shape, np.float32)
    loss.forward(*arrays, out=out)
    assert np.isnan(out.copy_to_host()).sum() == 1


def test_a_nan_that_came_in_is_no_value_out_of_range():
    x, target = on_cuda(np.full((3, 4), np.nan, np.float32), np.array([0, 2, 1]))
    assert np.isnan(nn.CrossEntropyLoss().forward(x, target))


def test_a_loss_goes_where_its_prediction_is():
    loss, x = nn.CrossEntropyLoss(weight=np.array([1, 2, 3], np.float32)), np.eye(3, dtype=np.float32)
    here = loss.forward(x, np.array([0, 1, 1]))
    there = loss.forward(*on_cuda(x, np.array([0, 1, 1])))
    assert there == pytest.approx(here)
    with pytest.raises(DeviceError, match="target must live on 'cuda'"):
        loss.forward(*on_cuda(x), np.array([0, 1, 1]))

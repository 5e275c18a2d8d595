"""Functions of `ops` on the GPU, simulated, compute what they compute on the CPU."""

from __future__ import annotations

import functools

import ml_dtypes
import numpy as np
import pytest
from op_trials import OP_TRIALS
from simulated_cuda import simulated
from simulator import launch
from test_layers import launch_few_threads

import numba_nn as nn
from numba_nn import ops
from numba_nn.core.device import CPU, CUDA

every_trial = pytest.mark.parametrize("trial", OP_TRIALS, ids=str)


@pytest.fixture(autouse=True)
def gpu():
    with simulated():
        yield


def numbers(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@every_trial
def test_the_gpu_computes_what_the_cpu_does(trial):
    found, expected = trial.run(CUDA), trial.run(CPU)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("order", ["reversed", "interleaved"])
@every_trial
def test_in_float64_and_in_whatever_order_threads_run(trial, order):
    with simulated(functools.partial(launch, order=order)):
        found = trial.run(CUDA, np.float64)
    np.testing.assert_allclose(found, trial.run(CPU, np.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@every_trial
def test_arrays_of_16_bits(trial, dtype):
    found, expected = trial.run(CUDA, dtype), trial.run(CPU, np.float32, values=dtype)
    assert found.dtype == (dtype if expected.dtype.kind == "f" else expected.dtype)
    error = np.abs(found.astype(np.float32) - expected).max(initial=0)
    assert error <= 4 * ml_dtypes.finfo(dtype).eps * max(1, np.abs(expected).max(initial=0))


@every_trial
def test_few_threads_do_the_work_of_many(trial):
    with simulated(launch_few_threads):
        found = trial.run(CUDA)
    np.testing.assert_allclose(found, trial.run(CPU), rtol=1e-6, atol=1e-6)


# Destinations, views and refusals


def test_destinations():
    x, y = CUDA.from_host(numbers(3, 5)), CUDA.empty((3, 5), np.float32)
    assert ops.exp(x, out=y) is y
    np.testing.assert_allclose(CUDA.to_host(y), np.exp(numbers(3, 5)), rtol=1e-6)
    assert ops.add(x, x, out=x) is x  # in place
    np.testing.assert_array_equal(CUDA.to_host(x), 2 * numbers(3, 5))


def test_strided_operands():
    x = numbers(6, 8)
    part = CUDA.from_host(x)[:, ::2]
    np.testing.assert_array_equal(CUDA.to_host(ops.add(part, part)), 2 * x[:, ::2])
    rows = CUDA.from_host(x[None])
    np.testing.assert_array_equal(CUDA.to_host(ops.add(rows, part[:, :1])), x[None] + x[:, :1])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x, host: ops.add(x, host), nn.DeviceError, "add: operand 1 must live on 'cuda', got an array on 'cpu'"),
        (lambda x, host: ops.add(2, x, out=host), nn.DeviceError, "add: out must live on 'cuda'"),
        (lambda x, host: ops.exp(host, out=x), nn.DeviceError, "exp: out must live on 'cpu'"),
        (lambda x, host: ops.add(x, [1, 2]), nn.DTypeError, "add: operand 1 must be a device array .*, got list"),
        (lambda x, host: ops.add(x, CUDA.zeros((4, 3), np.float64)), nn.DTypeError, "add: operand 1 must be float32"),
        (lambda x, host: ops.add(x, x[:, :2]), nn.ShapeError, r"add: shapes \(4, 3\) and \(4, 2\) do not broadcast"),
        (lambda x, host: ops.add(x, x, out=x[:2]), nn.ShapeError, "add: out must have shape"),
        (lambda x, host: ops.add(x[:2], x[2:], out=x[1:3]), nn.DestinationError, "add: out overlaps an input"),
        (lambda x, host: ops.square(x[:, :2], out=x[:, 1:]), nn.DestinationError, "square: out must be C-contiguous"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, words):
    host = numbers(4, 3)
    x = CUDA.from_host(host)
    with pytest.raises(error, match=words):
        call(x, host)
    np.testing.assert_array_equal(CUDA.to_host(x), host)
    np.testing.assert_array_equal(host, numbers(4, 3))

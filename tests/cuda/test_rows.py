"""Rows on the GPU, simulated: around the lengths where windows begin, teams of threads grow, and a row no longer fits.

Blocks have few threads here, so that rows of 1,024 elements (in float64: of 512) are the longest that a team holds.
"""

from __future__ import annotations

import functools
from collections import Counter

import ml_dtypes
import numpy as np
import pytest
from host_ptx import load_window
from simulated_cuda import simulated
from simulator import TWINS, launch

import numba_nn as nn
from numba_nn.core.cuda import ptx
from numba_nn.core.cuda import rows as cuda_rows
from numba_nn.core.device import CPU, CUDA

LAYERS = [nn.Softmax, nn.LogSoftmax]
SHORT = [(5, 1), (3, 2), (9, 3), (6, 4), (7, 5), (2, 8), (150, 10), (40, 16), (3, 17), (2, 100), (3, 254)]
LONG = [(2, 509), (1, 511), (2, 512), (3, 513), (1, 1021), (1, 1024), (2, 1025), (1, 1028), (1, 2049)]
APART = [(2, 1, 3), (1, 15, 3), (2, 16, 5), (1, 17, 300), (1, 33, 2)]  # (O, K, I): elements of a row are no neighbours
SOME = [*SHORT[::3], *LONG[::3], *APART[::2]]


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    monkeypatch.setattr(cuda_rows, "THREADS", 32)
    with simulated():
        yield


def numbers(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(dtype)


def passes(layer, x, device, dtype=None):
    """Output and input gradient, on the host again."""
    dtype, dy = dtype or x.dtype, numbers(x.shape, x.dtype, 1)
    found = layer.to(device.name)(device.from_host(x.astype(dtype))), layer.backward(device.from_host(dy.astype(dtype)))
    return [device.to_host(array) for array in found]


def assert_alike(found, expected, tolerance):
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got.astype(wanted.dtype), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("shape", SHORT + LONG + APART, ids=str)
def test_the_gpu_computes_what_the_cpu_does(kind, shape):
    x = numbers(shape)
    assert_alike(passes(kind(1), x, CUDA), passes(kind(1), x, CPU), 1e-5)


@pytest.mark.parametrize("order", ["reversed", "interleaved"])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("shape", SOME, ids=str)
def test_in_float64_and_in_whatever_order_threads_run(kind, shape, order):
    x = numbers(shape, np.float64)
    with simulated(functools.partial(launch, order=order)):
        found = passes(kind(1), x, CUDA)
    assert_alike(found, passes(kind(1), x, CPU), 1e-12)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("shape", SOME, ids=str)
def test_arrays_of_16_bits(kind, shape, dtype):
    x, eps = numbers(shape, dtype), float(ml_dtypes.finfo(dtype).eps)
    assert_alike(passes(kind(1), x, CUDA), passes(kind(1), x, CPU, np.float32), 8 * eps)


@pytest.mark.parametrize("shape", [(3, 600), (300, 5), (1, 8192), (1, 8195)], ids=str)
def test_blocks_of_as_many_threads_as_on_hardware(monkeypatch, shape):
    monkeypatch.undo()
    x = numbers(shape)
    assert_alike(passes(nn.Softmax(1), x, CUDA), passes(nn.Softmax(1), x, CPU), 1e-5)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("shape", [(6, 3), (6, 10), (6, 600), (6, 1600), (1, 30, 6)], ids=str)
def test_rows_with_what_is_not_finite(kind, shape):
    x = numbers(shape)
    rows = x.T if len(shape) == 2 else x[0]
    rows[1, 0], rows[-1, 1], rows[1, 2], rows[:, 3] = np.nan, np.inf, -np.inf, -np.inf
    rows[: 2 * len(rows) // 3, 4] = -np.inf  # all of a long row's first stretch
    expected = passes(kind(1), x, CPU)
    y = expected[0].T if len(shape) == 2 else expected[0][0]
    assert [i for i in range(6) if np.isnan(y[:, i]).any()] == [0, 1, 3]
    assert_alike(passes(kind(1), x, CUDA), expected, 1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_that_begin_anywhere_in_memory(dtype):
    x, memory = numbers((5, 12), dtype), np.empty(61, dtype)
    memory[1:].reshape(5, 12)[:] = x
    layer = nn.Softmax(1).to("cuda")
    aligned = layer(CUDA.from_host(x)).copy_to_host()
    np.testing.assert_array_equal(layer(CUDA.from_host(memory)[1:].reshape(5, 12)).copy_to_host(), aligned)


@pytest.mark.parametrize("smoothing", [0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("shape", [*SHORT, *LONG[::2], (1, 33, 2), (2, 16, 5)], ids=str)
def test_cross_entropy(shape, soft, smoothing):
    x, rows = numbers(shape), (shape[0], *shape[2:])
    target = np.abs(numbers(shape, seed=1)) if soft else np.random.default_rng(1).integers(0, shape[1], rows)
    weight, found = np.linspace(0.5, 2, shape[1], dtype=np.float32), []
    for device in (CUDA, CPU):
        loss = nn.CrossEntropyLoss(weight, label_smoothing=smoothing)
        value = loss.forward(device.from_host(x), device.from_host(target))
        found.append([np.asarray(value), device.to_host(loss.backward())])
    assert_alike(*found, 1e-5)


# How often memory is read, and how


@pytest.fixture
def loads(monkeypatch):
    """How often each window was loaded, by its address."""
    counts = Counter()

    def counted(array, at):
        counts[array.ctypes.data + int(at) * array.itemsize] += 1
        return load_window(array, at)

    monkeypatch.setitem(TWINS, ptx.load_window, counted)
    return counts


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("length", "times"), [(256, 1), (512, 1), (1024, 1), (2048, 2)])
def test_a_row_that_fits_is_read_once(loads, kind, length, times):
    layer, x = kind(1).to("cuda"), CUDA.from_host(numbers((2, length)))
    layer(x)
    # Where a thread has no window, it looks at the row's first.
    counts = [loads[x._host.ctypes.data + 16 * n] for n in range(x.size // 4) if n % (length // 4)]
    assert set(counts) == {times}


@pytest.mark.parametrize("shape", [(1, 250), (1, 511), (3, 251), (4, 249)], ids=str)
def test_an_array_that_ends_within_a_window_is_read_by_windows_before(loads, shape):
    layer, x = nn.Softmax(1).to("cuda"), CUDA.from_host(numbers(shape))
    assert_alike(CUDA.to_host(layer(x)), nn.Softmax(1)(numbers(shape)), 1e-6)
    assert {x._host.ctypes.data + 16 * n for n in range(x.size // 4)} <= set(loads)

"""`matmul` of device arrays, simulated, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_cuda import simulated

import numba_nn as nn
from numba_nn.core.device import CUDA

pytestmark = pytest.mark.usefixtures("exact_gpu")
RNG = np.random.default_rng(0)


def numbers(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
def test_transposed_and_broadcast(transposed):
    a, b = numbers(2, 1, 5, 7), numbers(3, 7, 4)
    given = [CUDA.from_host(x.swapaxes(-1, -2) if t else x) for x, t in zip((a, b), transposed, strict=True)]
    found = nn.matmul(*given, transpose_a=transposed[0], transpose_b=transposed[1])
    np.testing.assert_allclose(CUDA.to_host(found), a @ b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("left", "right"), [((4,), (4,)), ((3, 4), (4,)), ((4,), (2, 4, 5)), ((2, 3, 0), (0,))])
def test_vectors(left, right):
    a, b = numbers(*left), numbers(*right)
    found = nn.matmul(CUDA.from_host(a), CUDA.from_host(b))
    np.testing.assert_allclose(CUDA.to_host(found), a @ b, rtol=1e-5, atol=1e-6)


def test_destinations():
    a, b, c = numbers(3, 4), numbers(4, 5), numbers(3, 5)
    out = CUDA.from_host(c)
    assert nn.matmul(CUDA.from_host(a), CUDA.from_host(b), out, accumulate=True) is out
    np.testing.assert_allclose(CUDA.to_host(out), c + a @ b, rtol=1e-5, atol=1e-6)
    with pytest.raises(nn.ShapeError):
        nn.matmul(CUDA.from_host(a), CUDA.from_host(a))
    with pytest.raises(nn.DeviceError, match="b must live on 'cuda'"):
        nn.matmul(CUDA.from_host(a), b)
    with pytest.raises(nn.ShapeError, match="out"):
        nn.matmul(CUDA.from_host(a), CUDA.from_host(b), CUDA.from_host(a))
    square = CUDA.from_host(numbers(4, 4))
    with pytest.raises(nn.DestinationError):
        nn.matmul(square, square, square)


@pytest.mark.parametrize(("a", "b"), [((70_000, 1, 1), (70_000, 1, 1)), ((2**23 + 128, 1), (1, 1)), ((1, 1), (1, 2**23 + 128))])
def test_a_grid_takes_as_many_products_and_tiles_as_there_are(a, b):
    launched = []
    with simulated(lambda *launch: launched.append(launch)):
        nn.matmul(CUDA.empty(a, np.float32), CUDA.empty(b, np.float32))
    assert len(launched) == 1

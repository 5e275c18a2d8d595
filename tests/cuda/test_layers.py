"""Layers on the GPU, simulated, compute what they compute on the CPU: every configuration of `tests.cases`."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_cuda import simulated

from numba_nn.core.device import CUDA
from tests.cases import CASES


@pytest.fixture(autouse=True)
def gpu():
    with simulated():
        yield


def on_cuda(case):
    """The same layer on the device, with an input and a gradient of its output."""
    layer = case.build()
    x, dy = case.x(), case.dy(layer)
    return layer.to("cuda"), CUDA.from_host(x), CUDA.from_host(dy)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_gpu_computes_what_the_cpu_does(case):
    host = case.build()
    y, dx = host(case.x()), host.backward(case.dy(host))
    layer, x, dy = on_cuda(case)
    np.testing.assert_allclose(layer(x).copy_to_host(), y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.backward(dy).copy_to_host(), dx, rtol=1e-5, atol=1e-5)
    for (name, here), (_, there) in zip(host.named_parameters(), layer.named_parameters(), strict=True):
        np.testing.assert_allclose(there.grad.copy_to_host(), here.grad, rtol=1e-4, atol=1e-4, err_msg=name)

"""Element-wise activations.

    ReLU      y = max(x, 0)             dx = dy where x > 0
    Sigmoid   y = 1 / (1 + exp(-x))     dx = dy y (1 - y)

Kernels take flat arrays. NaN passes through both directions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.kernel import In, Out, Saved, kernel
from numba_nn.core.layer import Layer
from numba_nn.core.ptx import cuda
from numba_nn.core.reduce import BLOCK, block_bounds
from numba_nn.core.workspace import Shape, Spec


@kernel
def relu_forward(y: Out, x: In):
    """y = max(x, 0)."""
    zero = x.dtype.type(0)
    for i in prange(x.size):
        y[i] = zero if x[i] <= zero else x[i]


@kernel
def relu_backward(dx: Out, x: In, dy: In):
    """dx = dy where x > 0, else 0."""
    zero = x.dtype.type(0)
    for i in prange(x.size):
        dx[i] = zero if x[i] <= zero else dy[i]


@kernel
def sigmoid_forward(y: Out, saved_y: Saved, x: In):
    """y = 1 / (1 + exp(-x)), kept a second time for backward. Exact in the tails: exp never overflows.

    In fixed blocks: the exp of a vector loop and that of its remainder may differ in the last bit, so the number of threads
    must not say which elements are a remainder.
    """
    one = x.dtype.type(1)
    for block in prange(-(-x.size // BLOCK)):
        start, stop = block_bounds(block, x.size)
        for i in range(start, stop):
            e = math.exp(-abs(x[i]))
            value = one / (one + e)
            y[i] = e * value if x[i] < 0 else value
            saved_y[i] = y[i]


@kernel
def sigmoid_backward(dx: Out, saved_y: Saved, dy: In):
    """dx = dy y (1 - y)."""
    one = dy.dtype.type(1)
    for i in prange(dx.size):
        dx[i] = dy[i] * saved_y[i] * (one - saved_y[i])


@relu_forward.on_cuda
def relu_forward(y: Out, x: In):
    """y = max(x, 0)."""
    zero = x.dtype.type(0)
    # Unsigned: a signed index costs a test for negative values; a range with a step, a 64-bit division per thread.
    i, n, stride = np.uint64(cuda.grid(1)), np.uint64(x.size), np.uint64(cuda.gridsize(1))
    while i < n:
        y[i] = zero if x[i] <= zero else x[i]
        i += stride


@relu_backward.on_cuda
def relu_backward(dx: Out, x: In, dy: In):
    """dx = dy where x > 0, else 0."""
    zero = x.dtype.type(0)
    i, n, stride = np.uint64(cuda.grid(1)), np.uint64(x.size), np.uint64(cuda.gridsize(1))
    while i < n:
        dx[i] = zero if x[i] <= zero else dy[i]
        i += stride


class _Elementwise(Layer):
    """A layer whose output has its input's shape."""

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output: the input's, whatever it is."""
        return x_shape


class ReLU(_Elementwise):
    """Rectified linear unit: y = max(x, 0), for arrays of any shape.

    The gradient at 0 is 0. NaN passes through, forward and backward.
    """

    keeps_input = True

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        relu_forward(y.reshape(-1), x.reshape(-1))

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if dx is not None:
            relu_backward(dx.reshape(-1), x.reshape(-1), dy.reshape(-1))


class Sigmoid(_Elementwise):
    """Logistic function: y = 1 / (1 + exp(-x)), for arrays of any shape."""

    def saved_spec(self, x_shape: Shape, dtype: Any) -> dict[str, Spec]:
        """The output, from which the gradient follows."""
        return {"y": (x_shape, dtype)}

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        sigmoid_forward(y.reshape(-1), saved["y"].reshape(-1), x.reshape(-1))

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if dx is not None:
            sigmoid_backward(dx.reshape(-1), saved["y"].reshape(-1), dy.reshape(-1))

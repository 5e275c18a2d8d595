"""A layer of one's own, with kernels that run on any number of threads and on a GPU: a factor for each feature.

y[n, c] = x[n, c] weight[c]; so dx[n, c] = dy[n, c] weight[c], and dweight[c] = sum over n of dy[n, c] x[n, c].
"""

import math

import numpy as np
from numba import prange

import numba_nn as nn
from numba_nn.core.kernel import In, Out, portable


@portable
def scale_forward(y: Out, x: In, weight: In):
    """y[n, c] = x[n, c] weight[c]; a task is a row."""
    for n in prange(len(x)):
        for c in range(x.shape[1]):
            y[n, c] = x[n, c] * weight[c]


@portable
def scale_backward_weight(dweight: Out, dy: In, x: In):
    """dweight[c] += sum over n of dy[n, c] x[n, c]; a task is a feature, so threads do not change the order of terms."""
    for c in prange(dweight.size):
        total = x.dtype.type(0)
        for n in range(x.shape[0]):
            total += dy[n, c] * x[n, c]
        dweight[c] += total


class Scale(nn.Layer):
    """y = x weight, for x: (N, features)."""

    keeps_input = True  # until backward, which reads it

    def __init__(self, features, dtype=np.float32):
        super().__init__()
        self.dtype = np.dtype(dtype)
        self.weight = nn.Parameter(np.ones(features, dtype), "weight")

    def output_shape(self, x_shape):
        if len(x_shape) != 2 or x_shape[1] != self.weight.value.size:
            raise nn.ShapeError(f"{self}: x must have shape (N, {self.weight.value.size}), got {x_shape}")
        return x_shape

    def _geometry(self, x_shape, dtype):
        work = math.prod(x_shape)  # decides between one thread and all
        return scale_forward.for_work(work, self.device), scale_backward_weight.for_work(work, self.device)

    def _forward(self, call, y, x, saved):
        scale, _ = call.geometry
        scale(y, x, self.weight.memory)

    def _backward(self, call, dx, dy, x, saved):
        scale, add_gradient = call.geometry
        if self.weight.requires_grad:
            add_gradient(self.weight.grad, dy, x)
        if dx is not None:
            scale(dx, dy, self.weight.memory)


def main() -> None:
    """Find the factors 2, -1 and 0.5 from examples."""
    nn.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((64, 3), dtype=np.float32)
    layer = Scale(3)
    step = nn.TrainStep(layer, nn.MSELoss(), nn.optim.SGD(layer.parameters(), lr=0.5), x.shape)
    for _ in range(50):
        step(x, x * np.array([2, -1, 0.5], np.float32))
    print("factors", *(f"{factor:.3f}" for factor in layer.weight.value))


if __name__ == "__main__":
    main()

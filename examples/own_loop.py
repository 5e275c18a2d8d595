"""Training inside your own compiled function: no Python and no GIL from the first step to the last.

The kernels of the layers are called as they are; their arguments stand in ``numba_nn/layers/linear.py`` and
``numba_nn/losses/elementwise.py``. The model is y = w x + b, and the points lie on y = 2 x + 1.
"""

import numpy as np
from numba import njit

from numba_nn.core.epilogue import IDENTITY
from numba_nn.core.reduce import block_count
from numba_nn.layers.linear import linear_backward_bias, linear_backward_weight, linear_forward, operand_room
from numba_nn.losses.elementwise import squared_error_backward, squared_error_forward


@njit
def descend(value, gradient, lr):
    """One step of gradient descent; flat arrays, changed element by element: ``lr * gradient`` would be a new one."""
    for i in range(value.size):
        value[i] -= lr * gradient[i]


@njit
def train(steps, lr, x, target, weight, ones, bias, y, dy, dweight, dbias, left, right, loss, partial):
    """Plain gradient descent; every array is the caller's, nothing is allocated."""
    for _ in range(steps):
        linear_forward(y, left, right, x, weight, ones, bias, IDENTITY, 0.0)
        squared_error_forward(loss, partial, y.reshape(y.size), target, 1 / target.size)
        squared_error_backward(dy.reshape(y.size), y.reshape(y.size), target, 1 / target.size)
        dweight[:] = 0
        dbias[:] = 0
        linear_backward_weight(dweight, left, right, x, dy)
        linear_backward_bias(dbias, left, dy)
        descend(weight.reshape(weight.size), dweight.reshape(weight.size), lr)
        descend(bias, dbias, lr)


def main(steps: int = 300) -> None:
    """Fit the line and print it."""
    points = 128
    x = np.linspace(-1, 1, points, dtype=np.float32).reshape(points, 1)
    target = 2 * x[:, 0] + 1
    weight, bias = np.zeros((1, 1), np.float32), np.zeros(1, np.float32)
    y, dy = np.empty((points, 1), np.float32), np.empty((points, 1), np.float32)
    left, right = (np.empty(*room) for room in operand_room(points, 1, 1, np.float32).values())
    loss, partial = np.empty(1, np.float32), np.empty(block_count(points))
    train(
        steps, np.float32(0.1), x, target, weight, np.ones_like(bias), bias, y, dy, np.empty_like(weight), np.empty_like(bias),
        left, right, loss, partial,
    )  # fmt: skip
    print(f"y = {weight[0, 0]:.4f} x + {bias[0]:.4f}, loss {loss[0]:.2e}")


if __name__ == "__main__":
    main()

"""Layers that only change the shape. Kernels take flat arrays."""

from __future__ import annotations

import math
from typing import Any

from numba import prange

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.errors import ShapeError
from numba_nn.core.kernel import In, Out, kernel
from numba_nn.core.layer import Layer
from numba_nn.core.workspace import Shape


@kernel
def copy_forward(y: Out, x: In):
    """y = x."""
    for i in prange(x.size):
        y[i] = x[i]


class Flatten(Layer):
    """Join neighbouring dimensions into one.

    Parameters
    ----------
    start_dim, end_dim : int, optional
        First and last dimension to join; negative ones count from the end. By default all but the batch.
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output.

        Raises
        ------
        ShapeError
            If the input has not the dimensions that are to be joined.
        """
        rank = len(x_shape)
        start, end = (d + rank if d < 0 else d for d in (self.start_dim, self.end_dim))
        if not 0 <= start <= end < rank:
            raise ShapeError(f"{self!r}: cannot join dimensions {self.start_dim} to {self.end_dim} of shape {x_shape}")
        return (*x_shape[:start], math.prod(x_shape[start : end + 1]), *x_shape[end + 1 :])

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        copy_forward(y.reshape(-1), x.reshape(-1))

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if dx is not None:
            copy_forward(dx.reshape(-1), dy.reshape(-1))

    def _arguments(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"

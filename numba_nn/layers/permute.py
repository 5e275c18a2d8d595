"""Layers that put dimensions in another order.

    y[i_{d_0}, i_{d_1}, ...] = x[i_0, i_1, ...]

Dimension k of y is dimension d_k of x. The backward is the inverse order. Kernels are those of `numba_nn.core.strided`.
"""

from __future__ import annotations

import math
from typing import Any

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.core.layer import Layer
from numba_nn.core.strided import MOST_DIMENSIONS, in_order
from numba_nn.core.workspace import Shape
from numba_nn.layers.shape import check_dim, dimension, unpacked


def permutation(x_shape: Shape, dims: tuple[int, ...]) -> tuple[Any, ...]:
    """The kernel that makes dimension ``dims[k]`` of x the k-th, and its arguments after y and x."""
    return in_order([(x_shape[d], math.prod(x_shape[d + 1 :])) for d in dims])


class Reordering(Layer):
    """Base of the layers that put dimensions in another order."""

    def _dims(self, x_shape: Shape) -> tuple[int, ...]:
        """Which dimension of x becomes the first, the second, ...; raises `ShapeError` if x has not the dimensions for it."""
        raise NotImplementedError

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output.

        Raises
        ------
        ShapeError
            If the input has not the dimensions that are to be moved, or more than ten.
        """
        if len(x_shape) > MOST_DIMENSIONS:
            raise ShapeError(f"{self!r}: x may have {MOST_DIMENSIONS} dimensions at most, got {x_shape}")
        return tuple(x_shape[d] for d in self._dims(x_shape))

    def _geometry(self, x_shape: Shape, dtype: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Kernel and arguments of the forward and of the backward."""
        dims = self._dims(x_shape)
        inverse = tuple(dims.index(d) for d in range(len(dims)))
        return permutation(x_shape, dims), permutation(self.output_shape(x_shape), inverse)

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        run, *arguments = call.geometry[0]
        run(y.reshape(-1), x.reshape(-1), *arguments)

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if dx is not None:
            run, *arguments = call.geometry[1]
            run(dx.reshape(-1), dy.reshape(-1), *arguments)


class Permute(Reordering):
    """Put the dimensions in another order.

    Parameters
    ----------
    *dims : int, or one tuple of int
        Every dimension of the input once, in the order of the output; negative ones count from the end.

    Raises
    ------
    ArgumentError
        If ``dims`` is not such an order.
    """

    def __init__(self, *dims: Any) -> None:
        super().__init__()
        self.dims = tuple(check_dim("Permute", "dims", d) for d in unpacked(dims))
        rank = len(self.dims)
        if sorted(d + rank if d < 0 else d for d in self.dims) != list(range(rank)):
            raise ArgumentError(f"Permute: dims must name each of {rank} dimensions once, got {self.dims}")

    def _dims(self, x_shape: Shape) -> tuple[int, ...]:
        if len(x_shape) != len(self.dims):
            raise ShapeError(f"{self!r}: x must have {len(self.dims)} dimensions, got shape {x_shape}")
        return tuple(d % len(x_shape) for d in self.dims)

    def _arguments(self) -> str:
        return ", ".join(map(str, self.dims))


class Transpose(Reordering):
    """Exchange two dimensions.

    Parameters
    ----------
    dim0, dim1 : int
        Which; negative ones count from the end.

    Raises
    ------
    ArgumentError
        If an argument is no int.
    """

    def __init__(self, dim0: int, dim1: int) -> None:
        super().__init__()
        self.dim0 = check_dim("Transpose", "dim0", dim0)
        self.dim1 = check_dim("Transpose", "dim1", dim1)

    def _dims(self, x_shape: Shape) -> tuple[int, ...]:
        first, second = dimension(self, self.dim0, x_shape), dimension(self, self.dim1, x_shape)
        dims = list(range(len(x_shape)))
        dims[first], dims[second] = second, first
        return tuple(dims)

    def _arguments(self) -> str:
        return f"dim0={self.dim0}, dim1={self.dim1}"

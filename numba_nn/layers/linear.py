"""Fully connected layer.

    y[b, o] = sum_i x[b, i] weight[o, i] + bias[o]

    dx = dy weight        dweight += dy^T x        dbias += sum_b dy[b]

B rows (all leading dimensions of x), I input features, O output features.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.checks import check_count, check_dtype
from numba_nn.core.epilogue import finish_features
from numba_nn.core.errors import ShapeError
from numba_nn.core.gemm import SINGLE, fill, gemm, packed_sizes, product_work
from numba_nn.core.kernel import In, Out, Scratch, kernel
from numba_nn.core.layer import Layer
from numba_nn.core.parameter import Parameter
from numba_nn.core.random import uniform
from numba_nn.core.workspace import Shape, Spec

BIAS_ROWS = 64  # rows of dy that are summed in their own precision


@kernel
def linear_forward(
    y: Out, packed_x: Scratch, packed_weight: Scratch, x: In, weight: In, scale: In, shift: In, single: In,
    activation: int, slope: float,
):  # fmt: skip
    """y = activation(scale (x weight^T) + shift): see `numba_nn.core.epilogue`.

    y: (1, B O), x: (1, B I), weight: (1, O I), scale, shift: (O,), single: zeros (1,).
    """
    features, flat = shift.size, y.reshape(y.size)
    rows, depth = y.size // features, weight.size // features
    gemm(y, packed_x, packed_weight, x, weight, single, single, (rows, features, depth), (depth, 1), (1, depth), 0)
    for b in prange(rows):
        finish_features(flat, b * features, scale, shift, activation, slope)


@kernel
def linear_backward_input(dx: Out, packed_dy: Scratch, packed_weight: Scratch, dy: In, weight: In, single: In, features: int):
    """dx = dy weight."""
    depth = weight.size // features
    shape = (dy.size // features, depth, features)
    gemm(dx, packed_dy, packed_weight, dy, weight, single, single, shape, (features, 1), (depth, 1), 0)


@kernel
def linear_backward_weight(dweight: Out, packed_dy: Scratch, packed_x: Scratch, x: In, dy: In, single: In, features: int):
    """dweight += dy^T x."""
    depth = dweight.size // features
    shape = (features, depth, dy.size // features)
    gemm(dweight, packed_dy, packed_x, dy, x, single, single, shape, (1, features), (depth, 1), 1)


@kernel
def linear_backward_bias(dbias: Out, partial: Scratch, dy: In):
    """dbias += sum over rows, whose blocks' sums are added in float64; dy: (1, B O), partial: flat, O for every block."""
    features = dbias.size
    rows = dy.size // features
    blocks = -(-rows // BIAS_ROWS)
    for block in prange(blocks):
        at = block * features
        fill(partial, at, at + features, dy.dtype.type(0))
        first = np.uintp(at)
        for b in range(block * BIAS_ROWS, min(rows, (block + 1) * BIAS_ROWS)):
            row = np.uintp(b * features)
            for o in range(np.uintp(features)):
                partial[first + o] += dy[0, row + o]
    for o in prange(features):
        total = 0.0
        for block in range(blocks):
            total += partial[block * features + o]
        dbias[o] += total


class Linear(Layer):
    """Fully connected layer: y = x weight^T + bias.

    Parameters
    ----------
    in_features, out_features : int
        Length of the last dimension of input and output.
    bias : bool, optional
        Whether to add a bias.
    dtype : dtype, optional
        float32 or float64.

    Attributes
    ----------
    weight : Parameter
        (out_features, in_features), drawn from U(-k, k), k = 1 / sqrt(in_features).
    bias : Parameter or None
        (out_features,), likewise.

    Raises
    ------
    ArgumentError
        If a number of features is less than 1.
    """

    keeps_input = True
    epilogue_role, channel_axis = "product", -1

    def __init__(self, in_features: int, out_features: int, bias: bool = True, dtype: Any = np.float32) -> None:
        super().__init__()
        self.in_features = check_count("Linear", "in_features", in_features)
        self.out_features = check_count("Linear", "out_features", out_features)
        self.dtype = check_dtype("Linear", dtype)
        bound = 1 / math.sqrt(in_features)
        self.weight = Parameter(uniform((out_features, in_features), -bound, bound, self.dtype), "weight")
        self.bias = Parameter(uniform((out_features,), -bound, bound, self.dtype), "bias") if bias else None
        self._bias_value = self.bias.value if self.bias else np.zeros(out_features, self.dtype)

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output: the input's, with ``out_features`` last.

        Raises
        ------
        ShapeError
            If the last dimension is not ``in_features``.
        """
        if not x_shape or x_shape[-1] != self.in_features:
            raise ShapeError(f"{self!r}: x must have shape (..., {self.in_features}), got {x_shape}")
        return (*x_shape[:-1], self.out_features)

    def scratch_spec(self, x_shape: Shape, dtype: Any) -> dict[str, Spec]:
        """Room for the two packed operands of the largest of the three products, the left one also for sums of dy."""
        b, i, o = math.prod(x_shape[:-1]), self.in_features, self.out_features
        left, right = zip(*(packed_sizes(*mnk, dtype) for mnk in ((b, o, i), (b, i, o), (o, i, b))), strict=True)
        return {"left": ((max(left),), dtype), "right": ((max(right),), dtype)}

    def forward_flops(self, x_shape: Shape) -> int:
        """Two for each weight and row."""
        return 2 * math.prod(x_shape[:-1]) * self.in_features * self.out_features

    def _geometry(self, x_shape: Shape, dtype: Any) -> float:
        return product_work(math.prod(x_shape[:-1]), self.out_features, self.in_features)

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        packed = call.scratch["left"], call.scratch["right"]
        run = linear_forward.for_work(call.geometry, self.device)
        scale, shift, *activation = call.epilogue.terms(self._bias_value)
        run(
            y.reshape(1, -1), *packed, x.reshape(1, -1), self.weight.value.reshape(1, -1), scale, shift, SINGLE, *activation
        )  # fmt: skip

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        packed = call.scratch["left"], call.scratch["right"]
        dy = dy.reshape(1, -1)
        if self.weight.requires_grad:
            run = linear_backward_weight.for_work(call.geometry, self.device)
            run(self.weight.grad.reshape(1, -1), *packed, x.reshape(1, -1), dy, SINGLE, self.out_features)
        if self.bias and self.bias.requires_grad:
            linear_backward_bias.for_work(dy.size, self.device)(self.bias.grad, packed[0], dy)
        if dx is not None:
            run = linear_backward_input.for_work(call.geometry, self.device)
            run(dx.reshape(1, -1), *packed, dy, self.weight.value.reshape(1, -1), SINGLE, self.out_features)

    def _arguments(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

"""Fully connected layer.

    y[b, o] = sum_i x[b, i] weight[o, i] + bias[o]

    dx = dy weight        dweight += dy^T x        dbias += sum_b dy[b]

B rows (all leading dimensions of x), I input features, O output features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.checks import check_count, check_dtype, check_flag
from numba_nn.core.cuda.cast import weight_as, weight_room
from numba_nn.core.cuda.gemm import multiply_matrices, own_matrices
from numba_nn.core.cuda.narrow import wide
from numba_nn.core.cuda.product import ADD
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.cuda.slices import partial_size
from numba_nn.core.cuda.twin import covering, cuda_kernel
from numba_nn.core.device import CPU
from numba_nn.core.epilogue import Terms, bias_terms, finish_features, neutral_terms
from numba_nn.core.errors import ShapeError
from numba_nn.core.kernel import In, Out, Scratch, exact, kernel
from numba_nn.core.layer import Layer
from numba_nn.core.parameter import Parameter
from numba_nn.core.product.gemm import SINGLE, gemm, packed_sizes, packing_pays, product_work
from numba_nn.core.product.packing import pack_columns, panel_sizes
from numba_nn.core.product.stack import multiply_packed
from numba_nn.core.random import uniform
from numba_nn.core.rows import fill
from numba_nn.core.workspace import Shape, Spec

BIAS_ROWS = 64  # rows of dy that are summed in their own precision


@kernel
def linear_forward(
    y: Out, packed_x: Scratch, packed_weight: Scratch, x: In, weight: In, scale: In, shift: In, activation: int, slope: float
):  # fmt: skip
    """y = activation(scale (x weight^T) + shift): see `numba_nn.core.epilogue`.

    y: (B, O), x: (B, I), weight: (O, I), scale, shift: (O,).
    """
    (rows, features), depth, flat = y.shape, weight.shape[1], y.reshape(y.size)
    gemm(
        y.reshape((1, y.size)), packed_x, packed_weight, x.reshape((1, x.size)), weight.reshape((1, weight.size)),
        SINGLE, SINGLE, (rows, features, depth), (depth, 1), (1, depth), 0,
    )  # fmt: skip
    for b in prange(rows):
        finish_features(flat, b * features, scale, shift, activation, slope)


@kernel
def linear_forward_packed(
    y: Out, packed_x: Scratch, x: In, panels: In, scale: In, shift: In, activation: int, slope: float
):  # fmt: skip
    """`linear_forward` where the weights are packed before, by `pack_columns`; panels: flat."""
    (rows, features), depth, flat = y.shape, x.shape[1], y.reshape(y.size)
    multiply_packed(
        y.reshape((1, y.size)), packed_x, x.reshape((1, x.size)), panels.reshape((1, panels.size)), SINGLE, SINGLE,
        (rows, features, depth), (depth, 1),
    )  # fmt: skip
    for b in prange(rows):
        finish_features(flat, b * features, scale, shift, activation, slope)


@kernel
def linear_backward_input(dx: Out, packed_dy: Scratch, packed_weight: Scratch, dy: In, weight: In):
    """dx = dy weight; dx: (B, I), dy: (B, O), weight: (O, I)."""
    features, depth = weight.shape
    gemm(
        dx.reshape((1, dx.size)), packed_dy, packed_weight, dy.reshape((1, dy.size)), weight.reshape((1, weight.size)),
        SINGLE, SINGLE, (dy.shape[0], depth, features), (features, 1), (depth, 1), 0,
    )  # fmt: skip


@kernel
def linear_backward_weight(dweight: Out, packed_dy: Scratch, packed_x: Scratch, x: In, dy: In):
    """dweight += dy^T x; dweight: (O, I), x: (B, I), dy: (B, O)."""
    features, depth = dweight.shape
    gemm(
        dweight.reshape((1, dweight.size)), packed_dy, packed_x, dy.reshape((1, dy.size)), x.reshape((1, x.size)),
        SINGLE, SINGLE, (features, depth, dy.shape[0]), (1, features), (depth, 1), 1,
    )  # fmt: skip


@exact
def in_order(total, part):
    """total + part, one after the other: LLVM would add in another order where the loop around is not parallel."""
    return total + part


@kernel
def linear_backward_bias(dbias: Out, partial: Scratch, dy: In):
    """dbias += sum over rows, whose blocks' sums are added in float64; dy: (B, O), partial: flat, O for every block."""
    features, flat = dbias.size, dy.reshape(dy.size)
    rows = dy.size // features
    blocks = -(-rows // BIAS_ROWS)
    for block in prange(blocks):
        at = block * features
        fill(partial, at, at + features, dy.dtype.type(0))
        first = np.uintp(at)
        for b in range(block * BIAS_ROWS, min(rows, (block + 1) * BIAS_ROWS)):
            row = np.uintp(b * features)
            for o in range(np.uintp(features)):
                partial[first + o] += flat[row + o]
    for o in prange(features):
        total = 0.0
        for block in range(blocks):
            total = in_order(total, partial[block * features + o])
        dbias[o] += total


# ---- on a GPU ------------------------------------------------------------------------------------------------------------


@linear_forward.on_cuda(steps=True)
def linear_forward(
    y: Out, packed_x: Scratch, packed_weight: Scratch, x: In, weight: In, scale: In, shift: In, activation: int, slope: float
):  # fmt: skip
    """The epilogue is the product's own; nothing is packed, but partial sums go where weights would be."""
    (rows, features), depth = y.shape, weight.shape[1]
    one, size = own_matrices(1), (rows, features, depth)
    multiply_matrices(
        y, x, weight, one, one, size, (depth, 1), (1, depth), activation, scale, shift, slope, partial=packed_weight
    )


@linear_backward_input.on_cuda(steps=True)
def linear_backward_input(dx: Out, packed_dy: Scratch, packed_weight: Scratch, dy: In, weight: In):
    """A product."""
    features, depth = weight.shape
    one = own_matrices(1)
    size = dy.shape[0], depth, features
    multiply_matrices(dx, dy, weight, one, one, size, (features, 1), (depth, 1), partial=packed_weight)


@linear_backward_weight.on_cuda(steps=True)
def linear_backward_weight(dweight: Out, packed_dy: Scratch, packed_x: Scratch, x: In, dy: In):
    """A product, added."""
    features, depth = dweight.shape
    one = own_matrices(1)
    size = features, depth, dy.shape[0]
    multiply_matrices(dweight, dy, x, one, one, size, (1, features), (depth, 1), ADD, partial=packed_x)


@linear_backward_bias.on_cuda(steps=True)
def linear_backward_bias(dbias: Out, partial: Scratch, dy: In):
    """In two stages: sums of blocks of rows, and their sum."""
    add_rows_of_block(partial, dy)
    add_blocks(dbias, partial, -(-dy.shape[0] // BIAS_ROWS))


@cuda_kernel(grid=lambda partial, dy: covering(dy))
def add_rows_of_block(partial: Out, dy: In):
    """partial[b, o] = sum of dy over block b of the rows: a thread for each."""
    i, features, rows = np.uint32(cuda.grid(1)), np.uint32(dy.shape[1]), np.uint32(dy.shape[0])
    while i < (rows + np.uint32(BIAS_ROWS - 1)) // np.uint32(BIAS_ROWS) * features:
        row, o = i // features * np.uint32(BIAS_ROWS), i % features
        stop, total = min(rows, row + np.uint32(BIAS_ROWS)), dy.dtype.type(0)
        while row < stop:
            total += dy[row, o]
            row = np.uint32(row + np.uint32(1))
        partial[i] = total
        i = np.uint32(i + np.uint32(cuda.gridsize(1)))


@cuda_kernel()
def add_blocks(dbias: Out, partial: In, blocks: int):
    """dbias += sum of partial over the blocks, in order."""
    o = np.uint32(cuda.grid(1))
    while o < np.uint32(dbias.size):
        total = dbias.dtype.type(0)
        for block in range(np.uint32(blocks)):
            total += partial[np.uint32(block) * np.uint32(dbias.size) + o]
        dbias[o] += total
        o = np.uint32(o + np.uint32(cuda.gridsize(1)))


def operand_room(b: int, i: int, o: int, dtype: Any) -> dict[str, Spec]:
    """Scratch for B rows, I inputs and O outputs: operands of the three products, packed weights, and partial sums of dbias."""
    left, right = zip(*(packed_sizes(*mnk, dtype) for mnk in ((b, o, i), (b, i, o), (o, i, b))), strict=True)
    sums, panels = -(-b // BIAS_ROWS) * o, panel_sizes(1, o, i, dtype)[1]
    return {"left": ((max(*left, sums),), dtype), "right": ((max(*right, panels),), dtype)}


class Geometry(NamedTuple):
    """What follows from an input's shape: an epilogue that does nothing, and what runs each pass."""

    neutral: Terms
    packed: Callable[..., None] | None
    """The forward with weights packed before, where that is faster."""
    forward: Callable[..., None]
    backward_weight: Callable[..., None]
    backward_input: Callable[..., None]


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

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, dtype: Any = np.float32) -> None:
        super().__init__()
        self.in_features = check_count("Linear", "in_features", in_features)
        self.out_features = check_count("Linear", "out_features", out_features)
        self.dtype = check_dtype("Linear", dtype)
        bound = 1 / math.sqrt(in_features)
        self.weight = Parameter(uniform((out_features, in_features), -bound, bound, self.dtype), "weight")
        wanted = check_flag("Linear", "bias", bias)
        self.bias = Parameter(uniform((out_features,), -bound, bound, self.dtype), "bias") if wanted else None

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
        """Room for the packed operands of the largest of the three products, the left one also for sums of dy.

        On a GPU nothing is packed: there the right one is for partial sums, and weights are rounded for an x of 16-bit floats.
        """
        b, i, o = math.prod(x_shape[:-1]), self.in_features, self.out_features
        if self.device is not CPU:
            partial = max(partial_size(*mnk) for mnk in ((b, o, i), (b, i, o), (o, i, b)))
            sums = wide(dtype)
            return {
                "left": ((-(-b // BIAS_ROWS) * o,), sums), "right": ((partial,), sums), "weight": weight_room((o, i), dtype)
            }  # fmt: skip
        return operand_room(b, i, o, dtype)

    def forward_flops(self, x_shape: Shape) -> int:
        """Two for each weight and row."""
        return 2 * math.prod(x_shape[:-1]) * self.in_features * self.out_features

    def _geometry(self, x_shape: Shape, dtype: Any) -> Geometry:
        rows = math.prod(x_shape[:-1])
        work = product_work(rows, self.out_features, self.in_features)
        packs = self.device is CPU and packing_pays(rows, self.out_features, self.in_features, dtype)
        kernels = linear_forward, linear_backward_weight, linear_backward_input
        return Geometry(
            neutral_terms(self.out_features, np.dtype(dtype), self.device),
            linear_forward_packed.for_work(work, self.device) if packs else None,
            *(k.for_work(work, self.device) for k in kernels),
        )  # fmt: skip

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        geometry, scratch = call.geometry, call.scratch
        scale, shift, activation, slope = call.epilogue.terms(bias_terms(geometry.neutral, self.bias))
        if y.ndim != 2:
            y, x = as_rows(y), as_rows(x)
        if geometry.packed is not None and self.weight.locked:
            panels = self.weight.kept("columns")
            panels = self._panels(call) if panels is None else panels
            geometry.packed(y, scratch["left"], x, panels, scale, shift, activation, slope)
        else:
            geometry.forward(y, scratch["left"], scratch["right"], x, self._weight(call), scale, shift, activation, slope)

    def _weight(self, call: Call) -> Array:
        """The weights as products take them."""
        return self.weight.memory if self.device is CPU else weight_as(self.weight, call.scratch["weight"])

    def _panels(self, call: Call) -> Array:
        room = panel_sizes(1, self.out_features, self.in_features, call.dtype)[1]
        return self.weight.packed("columns", call.scratch["right"][:room], self._pack_panels)

    def _pack_panels(self, panels: Array, weight: Array) -> None:
        pack_columns(panels, weight.reshape(1, -1), self.out_features, self.in_features)

    def _pack_for(self, call: Call) -> None:
        if call.geometry.packed is not None and self.weight.locked:
            self._panels(call)

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        packed, dy = (call.scratch["left"], call.scratch["right"]), as_rows(dy)
        if self.weight.requires_grad:
            call.geometry.backward_weight(self.weight.grad, *packed, as_rows(x), dy)
        if self.bias and self.bias.requires_grad:
            linear_backward_bias.for_work(dy.size, self.device)(self.bias.grad, packed[0], dy)
        if dx is not None:
            call.geometry.backward_input(as_rows(dx), *packed, dy, self._weight(call))

    def _arguments(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def as_rows(array: Array) -> Array:
    """(..., F) as (B, F)."""
    return array.reshape(-1, array.shape[-1])

"""Convolution whose weights are the right factor: rows are the pixels of all images, columns the output channels.

    sums[(n, p), o] = sum_k patch[(n, p), k] weight[o, k]
    y[n, o, p] = activation(scale[o] sums[(n, p), o] + shift[o])

k runs over (channel, tap), p over output pixels. Where images are small and channels many, as in the last layers of a network,
the weights are by far the larger factor. Here each is read once for all pixels of a block, and fetched ahead as B is in every
product (`numba_nn.core.product.fma_tile`); 49 pixels fill 49 rows, where they would leave 15 of 64 columns empty. What it costs
is to transpose the sums.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.epilogue import IDENTITY, finish_features
from numba_nn.core.kernel import In, Out, Scratch, inner, kernel
from numba_nn.core.parameter import Parameter
from numba_nn.core.product.block import block_span, multiply_block
from numba_nn.core.product.gemm import write_transposed
from numba_nn.core.product.packing import PACK_WORK
from numba_nn.core.product.stack import BLOCK_BYTES
from numba_nn.core.simd import VECTORS, tile_columns, tile_rows, tile_shape
from numba_nn.core.workspace import Spec
from numba_nn.layers.conv.algorithm import Algorithm, Problem
from numba_nn.layers.conv.cuts import panel_vectors, task_cuts, tiled_rows
from numba_nn.layers.conv.im2col import plans, slice_count
from numba_nn.layers.conv.implicit_gemm import conv2d_pack_weight, turning_cost, weight_strides
from numba_nn.layers.conv.patches import pack_patches
from numba_nn.layers.conv.planes import layouts

ROWS, COLUMNS = 240, BLOCK_BYTES // 2048  # pixels and channels of a block, whose sums take half of BLOCK_BYTES in float32
# Time in multiply-adds of a vector (Intel Xeon): of packing a run of pixels, and of placing a vector, 20 to 35 where y is in
# the cache, more where it is not.
PACK_RUN, PLACE = 12, 60


@kernel
def conv2d_im2row(
    y: Out, panels: Scratch, sums: Scratch, x: In, weight: In, scale: In, shift: In, geometry: tuple[int, ...], groups: int,
    activation: int, slope: float,
):  # fmt: skip
    """y = activation(scale times correlation of x + shift); y: (N, O, H', W'), x: (N, C, H, W).

    panels, sums: (workers, elements); weight: by `conv2d_pack_weight` in panels of columns; scale, shift: (O,); geometry: see
    `numba_nn.layers.conv.patches`.
    """
    height, width, workers = tile_rows(y), tile_columns(y), panels.shape[0]
    columns, channels = y.shape[1] // groups, x.shape[1] // groups
    pixels, depth = y.shape[0] * y.shape[2] * y.shape[3], channels * geometry[0] * geometry[1]
    column_panels, row_panels = -(-columns // width), -(-pixels // height)
    blocks, parts = task_cuts(groups, column_panels, COLUMNS // width, row_panels, ROWS // height)
    tasks = groups * blocks * parts
    for worker in prange(workers):
        for t in range(tasks * worker // workers, tasks * (worker + 1) // workers):
            g, block, part = t // (blocks * parts), t // parts % blocks, t % parts
            first, count = block_span(part, parts, row_panels, height, pixels)
            column, taken = block_span(block, blocks, column_panels, width, columns)
            at = (g * column_panels * width + column) * depth
            multiply_weights(
                sums[worker], panels[worker], x, weight, at, taken, g, groups, (y.shape[2], y.shape[3]), geometry, first, count
            )  # fmt: skip
            place_transposed(y, g * columns + column, taken, first, count, sums[worker], scale, shift, activation, slope)


@inner
def multiply_weights(sums, panels, x, weight, at, columns, group, groups, size, geometry, first, count):
    """sums = patches of ``count`` pixels times weights, which start ``at``."""
    height, width, taps, channels = tile_rows(x), tile_columns(x), geometry[0] * geometry[1], x.shape[1] // groups
    stride, slices = -(-columns // width) * width, slice_count(channels, taps)
    for s in range(slices):
        c, seen = s * channels // slices, (s + 1) * channels // slices - s * channels // slices
        depth = seen * taps
        pack_patches(panels, 0, height, x, group * channels + c, seen, size, geometry, first, first + count)
        multiply_block(
            sums, 0, stride, count, columns, s > 0, panels, 0, (height * depth, 1, height),
            weight, at + c * taps * width, (width * channels * taps, width), depth,
        )  # fmt: skip


@inner
def place_transposed(y, channel, columns, first, count, sums, scale, shift, activation, slope):
    """Finish sums, of whole panels of columns, and bring them to where they belong in y, image by image."""
    flat, area, stride, done = y.reshape(y.size), y.shape[2] * y.shape[3], -(-columns // tile_columns(y)) * tile_columns(y), 0
    for p in range(count):
        finish_features(
            sums, p * stride, scale[channel : channel + columns], shift[channel : channel + columns], activation, slope
        )  # fmt: skip
    while done < count:
        image, pixel = (first + done) // area, (first + done) % area
        run, at = min(count - done, area - pixel), (image * y.shape[1] + channel) * area + pixel
        write_transposed(flat, at, area, sums, done * stride, run, stride, columns, 0)
        done += run


class Im2row(Algorithm):
    """Forward and input gradient with stride 1, of small images and many weights."""

    name = "im2row"

    def __init__(self, problem: Problem) -> None:
        problem = problem.in_one_row
        super().__init__(problem)
        self._layouts, self._strides = layouts(problem.of_one_image), weight_strides(problem)
        passes = [(plan.phases[0], plan.correlation.step) for plan in plans(problem.of_one_image)]
        self._geometries = [(*phase.taps, *step, *phase.origin, *phase.apart) for phase, step in passes]

    @classmethod
    def refusal(cls, problem: Problem, one_pass: str = "forward") -> str:
        return "needs stride 1" if one_pass == "input" and problem.stride != (1, 1) else ""

    @classmethod
    def cost(cls, problem: Problem, one_pass: str) -> float:
        problem, (height, width) = problem.in_one_row, tile_shape(problem.dtype)
        columns, depth, (images, down, across) = _sizes(problem, one_pass == "input")
        lanes, pixels = width // VECTORS, images * down * across
        packing = PACK_RUN * images * down * (-(-across // lanes) + across / height)  # runs end with rows, panels and vectors
        placing = PLACE * pixels * columns / lanes
        rows = tiled_rows(pixels, height)
        product = problem.groups * (depth * (rows * panel_vectors(columns, width) + packing) + placing)
        return product + turning_cost(problem, one_pass)

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        problem, taps, (height, width) = self.problem, math.prod(self.problem.taps), tile_shape(self.problem.dtype)
        columns, depth, pixels = _sizes(problem, one_pass == "input")
        rows, columns = min(ROWS // height, -(-math.prod(pixels) // height)) * height, -(-columns // width) * width
        channels = depth // taps
        shapes = {
            "weight": (problem.groups * columns * depth,),
            "panels": (workers, rows * -(-channels // slice_count.py_func(channels, taps)) * taps),
            "sums": (workers, rows * min(COLUMNS // width * width, columns)),
        }
        return {name: (shape, problem.dtype) for name, shape in shapes.items()}

    def weight(self, scratch: Arrays, parameter: Parameter) -> Array:
        """Panels of columns."""
        return parameter.packed(("im2row", self.problem.groups), scratch["weight"], functools.partial(self._pack, 0))

    def forward(
        self, scratch: Arrays, y: Array, x: Array, weight: Array, scale: Array, shift: Array, activation: int, slope: float
    ) -> None:
        shapes = self.problem.y_shape, self.problem.x_shape
        self._correlate(0, scratch, y.reshape(shapes[0]), x.reshape(shapes[1]), weight, scale, shift, activation, slope)

    def backward_input(self, scratch: Arrays, dx: Array, dy: Array, weight: Array) -> None:
        self._pack(1, scratch["weight"], weight)
        dx, dy = dx.reshape(self.problem.x_shape), dy.reshape(self.problem.y_shape)
        self._correlate(1, scratch, dx, dy, scratch["weight"], self.ones, self.zeros, IDENTITY, 0.0)

    def _pack(self, which: int, packed: Array, weight: Array) -> None:
        problem, layout = self.problem, self._layouts[which]
        columns, depth = problem.group_channels[:: -1 if which else 1]
        width = tile_shape(problem.dtype)[1]
        conv2d_pack_weight.for_work(PACK_WORK * weight.size)(
            packed, weight.reshape(-1), layout.phases, layout.taps, columns, depth, width, self._strides[which]
        )  # fmt: skip

    def _correlate(self, which: int, scratch: Arrays, y: Array, x: Array, weight: Array, *terms: Any) -> None:
        scale, shift, activation, slope = terms
        conv2d_im2row.for_work(self.problem.work)(
            y, scratch["panels"], scratch["sums"], x, weight, scale, shift, self._geometries[which], self.problem.groups,
            activation, slope,
        )  # fmt: skip


def _sizes(problem: Problem, is_input: bool) -> tuple[int, int, tuple[int, int, int]]:
    """Columns and depth of a group's product; images, and their height and width: its rows."""
    columns, channels = problem.group_channels[:: -1 if is_input else 1]
    images, _, height, width = problem.x_shape if is_input else problem.y_shape
    return columns, channels * math.prod(problem.taps), (images, height, width)

"""Convolution by one tap, with stride 1: a matrix product for each image, over its pixels.

    y[n, o, p] = activation(scale[o] sum_c weight[o, c] x[n, c, p] + shift[o])

The image is packed in blocks of pixels that stay in the L2 cache; all rows of weights pass over a block, and their sums are
finished before it is left. The input gradient is the same product with the weights of input and output channels exchanged.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.epilogue import IDENTITY, finish_channel
from numba_nn.core.kernel import In, Out, Scratch, kernel
from numba_nn.core.parameter import Parameter
from numba_nn.core.product.block import block_span, multiply_block
from numba_nn.core.product.packing import PACK_WORK, pack_matrices, pack_panels, panel_sizes
from numba_nn.core.product.stack import LEFT_COLUMNS
from numba_nn.core.simd import VECTORS, tile_columns, tile_rows, tile_shape
from numba_nn.core.workspace import Spec
from numba_nn.layers.conv.algorithm import Algorithm, Problem
from numba_nn.layers.conv.cuts import panel_vectors, task_cuts

BLOCK = 2**16  # elements of a block: 256 KB of float32, half of a 512 KB L2
BLOCK_ROWS = 240  # of weights, 246 KB of 256 channels: they and the panels stay in an L2 cache
LEAST_COLUMNS = 64  # pixels of a block, at least: each costs a pass over the weights
PACK_VECTOR = 12  # the time of packing a vector, in multiply-adds of one (Intel Xeon)


@kernel
def pointwise_correlate(
    y: Out, panels: Scratch, x: In, weight: In, scale: In, shift: In, steps: tuple[int, ...], columns: int, groups: int,
    activation: int, slope: float,
):  # fmt: skip
    """y = activation(scale weight x + shift); y: (N, O, P), x: (N, C, P).

    panels: (workers, elements); weight: flat, as it is or by `pack_matrices`; steps: in the weights from group to group, tile
    to tile, row to row and depth to depth; scale, shift: (O,), or empty; columns: pixels of a block, at most.
    """
    rows, channels, pixels = y.shape[1] // groups, x.shape[1] // groups, y.shape[2]
    flat, source, width, height = y.reshape(y.size), x.reshape(x.size), tile_columns(y), tile_rows(y)
    column_panels, row_panels, workers = -(-pixels // width), -(-rows // height), panels.shape[0]
    blocks, parts = task_cuts(y.shape[0] * groups, column_panels, columns // width, row_panels, row_panels)
    tasks = y.shape[0] * groups * blocks * parts
    for worker in prange(workers):
        room = panels[worker]
        for t in range(tasks * worker // workers, tasks * (worker + 1) // workers):
            image, block, part = t // (blocks * parts), t // parts % blocks, t % parts
            first, count = block_span(block, blocks, column_panels, width, pixels)
            start, length = block_span(part, parts, row_panels, height, rows)
            if part == 0 or t == tasks * worker // workers:  # else it is packed already
                at = image * channels * pixels + first
                pack_panels(room, 0, source, at, 1, pixels, count, width, channels, 0, channels)
            for row in range(start, start + length, BLOCK_ROWS):
                taken = min(BLOCK_ROWS, start + length - row)
                at, weight_at = (image * rows + row) * pixels + first, image % groups * steps[0] + row // height * steps[1]
                multiply_block(
                    flat, at, pixels, taken, count, False, weight, weight_at, steps[1:], room, 0, (width * channels, width),
                    channels,
                )  # fmt: skip
                for r in range(taken if scale.size else 0):
                    channel = image % groups * rows + row + r
                    finish_channel(flat, at + r * pixels, count, scale[channel], shift[channel], activation, slope)


class Pointwise(Algorithm):
    """Forward and input gradient for one tap, stride 1, no padding, and channels and pixels enough to fill a tile."""

    name = "pointwise"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        channels, width = problem.group_channels, tile_shape(problem.dtype)[1]
        self._pixels, self._channels = math.prod(problem.x_shape[2:]), (channels, channels[::-1])
        self._weight_strides = (channels[1], 1), (1, channels[1])  # of rows and depth, forward and backward
        self._nothing = self.zeros[:0]
        self._few_pixels = problem.x_shape[0] * self._pixels < LEFT_COLUMNS
        self._columns = [block_columns(self._pixels, *pair, width) for pair in self._channels]

    @classmethod
    def refusal(cls, problem: Problem, one_pass: str = "forward") -> str:
        if problem.taps != (1, 1) or problem.stride != (1, 1) or problem.y_shape[2:] != problem.x_shape[2:]:
            return "needs one tap, stride 1 and no padding"
        least, width = tile_shape(problem.dtype)
        few = min(problem.x_shape[1], problem.y_shape[1]) // problem.groups < least
        return "needs channels and pixels to fill a tile" if few or math.prod(problem.x_shape[2:]) < width else ""

    @classmethod
    def cost(cls, problem: Problem, one_pass: str) -> float:
        rows, depth = problem.group_channels[:: -1 if one_pass == "input" else 1]
        pixels, width = math.prod(problem.x_shape[2:]), tile_shape(problem.dtype)[1]
        product, packing = rows * panel_vectors(pixels, width), PACK_VECTOR * pixels / (width // VECTORS)
        return problem.groups * problem.x_shape[0] * depth * (product + packing)

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        which = one_pass == "input"
        (rows, depth), columns = self._channels[which], self._columns[which]
        weight = self.problem.groups * panel_sizes(rows, 1, depth, self.problem.dtype)[0]
        return {"weight": ((weight,), self.problem.dtype), "panels": ((workers, columns * depth), self.problem.dtype)}

    def weight(self, scratch: Arrays, parameter: Parameter) -> Array:
        """As they are for few pixels: 0.8 of the time of packing them for 49, forward and backward (Zen 3).

        Panels are those of `ImplicitGemm`: batches of other sizes read the same.
        """
        if self._few_pixels and not parameter.locked:
            return super().weight(scratch, parameter)
        return parameter.packed(("direct", self.problem.groups), scratch["weight"], functools.partial(self._pack, 0))

    def forward(
        self, scratch: Arrays, y: Array, x: Array, weight: Array, scale: Array, shift: Array, activation: int, slope: float
    ) -> None:
        self._correlate(0, scratch, y, x, weight, scale, shift, activation, slope)

    def backward_input(self, scratch: Arrays, dx: Array, dy: Array, weight: Array) -> None:
        if not self._few_pixels:
            self._pack(1, scratch["weight"], weight)
            weight = scratch["weight"]
        self._correlate(1, scratch, dx, dy, weight, self._nothing, self._nothing, IDENTITY, 0.0)

    def _pack(self, which: int, packed: Array, weight: Array) -> None:
        stack, height = weight.reshape(self.problem.groups, -1), tile_shape(weight.dtype)[0]
        pack_matrices.for_work(PACK_WORK * weight.size)(
            packed, stack, self._channels[which], self._weight_strides[which], height, 0
        )  # fmt: skip

    def _correlate(self, which: int, scratch: Arrays, y: Array, x: Array, weight: Array, *terms: Any) -> None:
        pixels, (scale, shift, activation, slope) = self._pixels, terms
        pointwise_correlate.for_work(self.problem.work)(
            y.reshape(*y.shape[:2], pixels), scratch["panels"], x.reshape(*x.shape[:2], pixels), weight.reshape(-1), scale,
            shift, self._steps(which, weight.ndim == 1), self._columns[which], self.problem.groups, activation, slope,
        )  # fmt: skip

    def _steps(self, which: int, packed: bool) -> tuple[int, ...]:
        """How the weights lie: see `pointwise_correlate`."""
        (rows, depth), (row, k), height = self._channels[which], self._weight_strides[which], tile_shape(self.problem.dtype)[0]
        if packed:
            return -(-rows // height) * height * depth, height * depth, 1, height
        return rows * depth, height * row, row, k


def block_columns(pixels: int, rows: int, depth: int, width: int) -> int:
    """Pixels of a block, at most, in panels of ``width``: what is packed, sums that are finished together, are cached."""
    return width * min(-(-pixels // width), max(LEAST_COLUMNS, BLOCK // max(depth, min(rows, BLOCK_ROWS))) // width)

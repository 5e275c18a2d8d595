"""Convolution as one matrix product over the pixels of all images, whose patches are packed a block at a time.

    y[n, o, p] = activation(scale[o] sum_k weight[o, k] patch[k, (n, p)] + shift[o])

k runs over (channel, tap), p over output pixels. Where images are small, other algorithms leave a part of each tile empty at
the end of a row or an image: 7 x 7 pixels fill 49 of 64 columns. Here tiles go over rows and images, at the cost of packing
patches (`numba_nn.layers.conv.patches`), and of bringing the sums to where they belong.

The input gradient is the same product over patches of dy, with each tap looking the other way and the weights of input and
output channels exchanged. With a stride it is left to `ImplicitGemm`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.epilogue import IDENTITY, finish_channel, finish_copy
from numba_nn.core.kernel import In, Out, Scratch, inner, kernel
from numba_nn.core.parameter import Parameter
from numba_nn.core.product.block import DEPTH, multiply_block
from numba_nn.core.product.gemm import block_span
from numba_nn.core.product.packing import PACK_WORK
from numba_nn.core.simd import VECTORS, tile_columns, tile_rows, tile_shape, vector_lanes
from numba_nn.core.workspace import Spec
from numba_nn.layers.conv.algorithm import Algorithm, Problem
from numba_nn.layers.conv.blocks import panel_vectors, task_cuts
from numba_nn.layers.conv.implicit_gemm import conv2d_pack_weight
from numba_nn.layers.conv.patches import pack_patches

PACK_RUN, PLACE_VECTOR = 16, 16  # time of packing a run of pixels, and of placing a vector, in multiply-adds of one
COLUMNS, ROWS = 256, 1024  # pixels and rows of weights of a block: 256 KB of patches, and four times as much of sums


@kernel
def conv2d_im2col(
    y: Out, panels: Scratch, sums: Scratch, x: In, weight: In, scale: In, shift: In, geometry: tuple[int, ...], slices: int,
    groups: int, activation: int, slope: float,
):  # fmt: skip
    """y = activation(scale times convolution of x + shift); y: (N, O, H', W'), x: (N, C, H, W).

    panels, sums: (workers, elements); weight: by `conv2d_pack_weight`; scale, shift: (O,); geometry: see
    `numba_nn.layers.conv.patches`; slices: that the channels are cut into.
    """
    width, height, workers = tile_columns(y), tile_rows(y), panels.shape[0]
    rows, pixels = y.shape[1] // groups, y.shape[0] * y.shape[2] * y.shape[3]
    row_panels, column_panels = -(-rows // height), -(-pixels // width)
    blocks, parts = task_cuts(groups, column_panels, COLUMNS // width, row_panels, ROWS // height)
    tasks = groups * blocks * parts
    for worker in prange(workers):
        for t in range(tasks * worker // workers, tasks * (worker + 1) // workers):
            g, block, part = t // (blocks * parts), t // parts % blocks, t % parts
            row, taken = block_span(part, parts, row_panels, height, rows)
            first, count = block_span(block, blocks, column_panels, width, pixels)
            at = (g * row_panels * height + row) * (x.shape[1] // groups * geometry[0] * geometry[1])
            multiply_patches(
                sums[worker], panels[worker], x, weight, at, taken, g, groups, slices, y.shape[2:], geometry, first, count
            )  # fmt: skip
            place_sums(y, g * rows + row, taken, first, count, sums[worker], scale, shift, activation, slope)


@inner
def multiply_patches(sums, panels, x, weight, at, rows, group, groups, slices, out_size, geometry, first, count):
    """sums = weights, which start ``at``, times patches of ``count`` pixels."""
    height, width, taps, channels = tile_rows(x), tile_columns(x), geometry[0] * geometry[1], x.shape[1] // groups
    columns, panel = -(-count // width) * width, height * channels * taps
    for s in range(slices):
        c, seen = s * channels // slices, (s + 1) * channels // slices - s * channels // slices
        pack_patches(panels, 0, width, x, group * channels + c, seen, out_size, geometry, first, first + count)
        multiply_block(
            sums, 0, columns, rows, count, s > 0, weight, at + c * taps * height, (panel, 1, height),
            panels, 0, (width * seen * taps, width), seen * taps,
        )  # fmt: skip


@inner
def place_sums(y, channel, rows, first, count, sums, scale, shift, activation, slope):
    """Bring sums, of whole panels of columns, to where they belong in y, and finish them on the way."""
    flat, pixels, lanes = y.reshape(y.size), y.shape[2] * y.shape[3], vector_lanes(y)
    columns = -(-count // tile_columns(y)) * tile_columns(y)
    for r in range(rows):
        done, multiplier, addend = 0, scale[channel + r], shift[channel + r]
        while done < count:
            image, pixel = (first + done) // pixels, (first + done) % pixels
            run, source = min(count - done, pixels - pixel), r * columns + done
            at = (image * y.shape[1] + channel + r) * pixels + pixel
            if run >= lanes:
                finish_copy(flat, at, sums, source, run, multiplier, addend, activation, slope)
            else:
                for q in range(run):
                    flat[np.uintp(at + q)] = sums[np.uintp(source + q)]
                finish_channel(flat, at, run, multiplier, addend, activation, slope)
            done += run


class Im2col(Algorithm):
    """Forward, and input gradient with stride 1, of small images and channels enough to fill a tile."""

    name = "im2col"

    def __init__(self, problem: Problem) -> None:
        problem = problem.in_one_row
        super().__init__(problem)
        taps, (rows, channels) = math.prod(problem.taps), problem.group_channels
        self._problems = problem, exchanged(problem)
        before, apart = (tuple(-n for n in pair) for pair in (problem.padding, problem.dilation))
        self._geometries = (
            (*problem.taps, *problem.stride, *before, *problem.dilation), (*problem.taps, 1, 1, *problem.padding, *apart)
        )  # fmt: skip
        group = rows * channels * taps
        self._strides = (group, channels * taps, taps), (group, taps, channels * taps)
        self._taps, self._phases = np.arange(taps), np.array([[0, 0, taps, 0, 0]])

    @classmethod
    def refusal(cls, problem: Problem, one_pass: str = "forward") -> str:
        strided = one_pass == "input" and problem.stride != (1, 1)
        few = problem.group_channels[one_pass == "input"] < tile_shape(problem.dtype)[0]
        return "needs channels to fill a tile, and stride 1 for the input gradient" if strided or few else ""

    @classmethod
    def cost(cls, problem: Problem, one_pass: str) -> float:
        problem = exchanged(problem.in_one_row) if one_pass == "input" else problem.in_one_row
        (rows, channels), (images, _, *size) = problem.group_channels, problem.y_shape
        width, pixels, depth = tile_shape(problem.dtype)[1], math.prod(size), channels * math.prod(problem.taps)
        product = rows * depth * panel_vectors(images * pixels, width)
        # Runs end with rows of the image, panels, and vectors.
        of_row = -(-size[1] // (width // VECTORS)) + size[1] / width
        packing = depth * images * size[0] * of_row * PACK_RUN
        return problem.groups * (product + packing + PLACE_VECTOR * rows * images * pixels / (width // VECTORS))

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        problem = self._problems[one_pass == "input"]
        (rows, channels), taps = problem.group_channels, math.prod(problem.taps)
        height, width = tile_shape(problem.dtype)
        pixels = problem.y_shape[0] * math.prod(problem.y_shape[2:])
        columns = min(COLUMNS, -(-pixels // width) * width)
        shapes = {
            "weight": (problem.groups * -(-rows // height) * height * channels * taps,),
            "panels": (workers, columns * -(-channels // slices(problem)) * taps),
            "sums": (workers, columns * min(ROWS, rows)),
        }
        return {name: (shape, problem.dtype) for name, shape in shapes.items()}

    def weight(self, scratch: Arrays, parameter: Parameter) -> Array:
        """Panels, as `ImplicitGemm` has them."""
        return parameter.packed(("direct", self.problem.groups), scratch["weight"], functools.partial(self._pack, 0))

    def forward(
        self, scratch: Arrays, y: Array, x: Array, weight: Array, scale: Array, shift: Array, activation: int, slope: float
    ) -> None:
        self._convolve(0, scratch, y, x, weight, scale, shift, activation, slope)

    def backward_input(self, scratch: Arrays, dx: Array, dy: Array, weight: Array) -> None:
        self._pack(1, scratch["weight"], weight)
        self._convolve(1, scratch, dx, dy, scratch["weight"], self.ones, self.zeros, IDENTITY, 0.0)

    def _pack(self, which: int, packed: Array, weight: Array) -> None:
        rows, channels = self._problems[which].group_channels
        conv2d_pack_weight.for_work(PACK_WORK * weight.size)(
            packed, weight.reshape(-1), self._phases, self._taps, rows, channels, tile_shape(weight.dtype)[0],
            self._strides[which],
        )  # fmt: skip

    def _convolve(self, which: int, scratch: Arrays, y: Array, x: Array, weight: Array, *terms: Any) -> None:
        problem, (scale, shift, activation, slope) = self._problems[which], terms
        y, x = y.reshape(problem.y_shape), x.reshape(problem.x_shape)
        conv2d_im2col.for_work(problem.work)(
            y, scratch["panels"], scratch["sums"], x, weight, scale, shift, self._geometries[which], slices(problem),
            problem.groups, activation, slope,
        )  # fmt: skip


def exchanged(problem: Problem) -> Problem:
    """The shapes of the input gradient."""
    return dataclasses.replace(problem, x_shape=problem.y_shape, y_shape=problem.x_shape)


def slices(problem: Problem) -> int:
    """Slices of the channels of a group, whose patches have about DEPTH rows."""
    channels, taps = problem.group_channels[1], math.prod(problem.taps)
    return max(1, min(channels, round(channels * taps / DEPTH)))

"""Convolution as one matrix product over the pixels of all images, whose patches are packed a block at a time.

    y[n, o, p] = activation(scale[o] sum_k weight[o, k] patch[k, (n, p)] + shift[o])

k runs over (channel, tap), p over output pixels. Where images are small, other algorithms leave a part of each tile empty at
the end of a row or an image: 7 x 7 pixels fill 49 of 64 columns. Here tiles go over rows and images, at the cost of packing
patches (`numba_nn.layers.conv.patches`), and of bringing the sums to where they belong.

The input gradient is the same over patches of dy, with the weights of input and output channels exchanged. With a stride it is
one such product for each phase of the input (`numba_nn.layers.conv.planes`), over the taps that this phase sees.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.epilogue import IDENTITY, finish_channel, finish_copy
from numba_nn.core.kernel import In, Out, Scratch, inner, kernel
from numba_nn.core.parameter import Parameter
from numba_nn.core.product.block import DEPTH, block_span, multiply_block
from numba_nn.core.simd import VECTORS, tile_columns, tile_rows, tile_shape, vector_lanes
from numba_nn.core.workspace import Spec
from numba_nn.layers.conv.algorithm import Algorithm, Problem
from numba_nn.layers.conv.cuts import panel_vectors, task_cuts
from numba_nn.layers.conv.implicit_gemm import ImplicitGemm, turning_cost
from numba_nn.layers.conv.patches import pack_patches
from numba_nn.layers.conv.planes import Correlation, forward_correlation, input_correlation

COLUMNS, ROWS = 256, 1024  # pixels and rows of weights of a block: 256 KB of patches, and four times as much of sums
# Time in multiply-adds of a vector (Intel Xeon): of packing a run of pixels, of placing a vector, and of entering a phase.
PACK_RUN, PLACE_VECTOR, PLACE_APART, ENTER = 16, 16, 96, 4096


class Phase(NamedTuple):
    """Target pixels that see the same taps, which lie evenly apart; rows and columns of each."""

    size: tuple[int, int]
    """Target pixels."""
    start: tuple[int, int]
    """The first one's place in the target."""
    taps: tuple[int, int]
    origin: tuple[int, int]
    """What the first tap of the first pixel sees in the source."""
    apart: tuple[int, int]
    """From tap to tap in the source: with taps and origin, what a geometry of `numba_nn.layers.conv.patches` has."""


class Plan(NamedTuple):
    """A pass as products of matrices."""

    correlation: Correlation
    phases: list[Phase]
    """In the order of `Layout.phases`."""
    table: Array
    """The phases, (phases, 10): their fields in order."""


@functools.lru_cache(maxsize=256)
def plans(problem: Problem) -> tuple[Plan, Plan]:
    """Of the forward and of the input gradient, for a problem of one image: all batches share them."""
    return _plan(forward_correlation(problem)), _plan(input_correlation(problem))


def _plan(correlation: Correlation) -> Plan:
    axes = [[_axis(correlation, axis, f) for f in range(correlation.spread[axis])] for axis in (0, 1)]
    phases = [Phase(*zip(row, column, strict=True)) for row in axes[0] for column in axes[1]]
    return Plan(correlation, phases, np.array([np.ravel(phase) for phase in phases], np.int64))


def _axis(correlation: Correlation, axis: int, phase: int) -> tuple[int, ...]:
    """A `Phase` along rows, 0, or columns, 1."""
    spread, first = correlation.spread[axis], phase - correlation.shift[axis]
    offsets = [offset for f, offset in correlation.places[axis] if f == phase]
    m = max(0, -(first // spread))  # of the grid, the first within the target
    start = m * spread + first
    size = max(0, -((start - correlation.target[1 + axis]) // spread))
    origin = m * correlation.step[axis] - correlation.lead[axis] + (offsets[0] if offsets else 0)
    return size, start, len(offsets), origin, offsets[1] - offsets[0] if len(offsets) > 1 else 1


@inner
def slice_count(channels, taps):
    """Slices of the channels, whose patches have about DEPTH rows."""
    return max(1, min(channels, (channels * taps + DEPTH // 2) // DEPTH))


@kernel
def conv2d_im2col(
    y: Out, panels: Scratch, sums: Scratch, x: In, weight: In, scale: In, shift: In, table: In, step: tuple[int, int],
    spread: tuple[int, int], groups: int, activation: int, slope: float,
):  # fmt: skip
    """y = activation(scale times correlation of x + shift), or the mere correlation with a spread.

    y: (N, O, H', W'), x: (N, C, H, W); panels, sums: (workers, elements); weight: by `conv2d_pack_weight`; scale, shift: (O,);
    table: (phases, 10), of `Phase`; step, spread: see `numba_nn.layers.conv.planes.Correlation`.
    """
    width, height, workers = tile_columns(y), tile_rows(y), panels.shape[0]
    rows, channels = y.shape[1] // groups, x.shape[1] // groups
    row_panels, before = -(-rows // height), 0  # before: taps of the phases before
    for f in range(table.shape[0]):
        size, start, taps = (table[f, 0], table[f, 1]), (table[f, 2], table[f, 3]), (table[f, 4], table[f, 5])
        geometry = (*taps, *step, table[f, 6], table[f, 7], table[f, 8], table[f, 9])
        pixels, depth = y.shape[0] * size[0] * size[1], channels * taps[0] * taps[1]
        column_panels, weights_at = -(-pixels // width), before * groups * channels * row_panels * height
        blocks, parts = task_cuts(groups, column_panels, COLUMNS // width, row_panels, ROWS // height)
        tasks = groups * blocks * parts
        for worker in prange(workers):
            for t in range(tasks * worker // workers, tasks * (worker + 1) // workers):
                g, block, part = t // (blocks * parts), t // parts % blocks, t % parts
                row, taken = block_span(part, parts, row_panels, height, rows)
                first, count = block_span(block, blocks, column_panels, width, pixels)
                at = weights_at + (g * row_panels * height + row) * depth
                multiply_patches(
                    sums[worker], panels[worker], x, weight, at, taken, g, groups, size, geometry, first, count
                )  # fmt: skip
                place_sums(
                    y, g * rows + row, taken, first, count, size, start, spread, sums[worker], scale, shift, activation, slope
                )  # fmt: skip
        before += taps[0] * taps[1]


@inner
def multiply_patches(sums, panels, x, weight, at, rows, group, groups, size, geometry, first, count):
    """sums = weights, which start ``at``, times patches of ``count`` pixels."""
    height, width, taps, channels = tile_rows(x), tile_columns(x), geometry[0] * geometry[1], x.shape[1] // groups
    columns, panel, slices = -(-count // width) * width, height * channels * taps, slice_count(channels, taps)
    for s in range(slices):
        c, seen = s * channels // slices, (s + 1) * channels // slices - s * channels // slices
        pack_patches(panels, 0, width, x, group * channels + c, seen, size, geometry, first, first + count)
        multiply_block(
            sums, 0, columns, rows, count, s > 0, weight, at + c * taps * height, (panel, 1, height),
            panels, 0, (width * seen * taps, width), seen * taps,
        )  # fmt: skip


@inner
def place_sums(y, channel, rows, first, count, size, start, spread, sums, scale, shift, activation, slope):
    """Bring sums, of whole panels of columns, to where they belong in y; finish them on the way, unless pixels lie apart."""
    flat, plane, lanes, dense = y.reshape(y.size), y.shape[2] * y.shape[3], vector_lanes(y), spread == (1, 1)
    columns, area = -(-count // tile_columns(y)) * tile_columns(y), size[0] * size[1]
    for r in range(rows):
        done, multiplier, addend = 0, scale[channel + r], shift[channel + r]
        while done < count:
            image, pixel = (first + done) // area, (first + done) % area
            source, at = r * columns + done, (image * y.shape[1] + channel + r) * plane
            if dense:
                run = min(count - done, area - pixel)
                place_run(flat, at + pixel, sums, source, run, multiplier, addend, activation, slope, lanes)
            else:
                m, q = pixel // size[1], pixel % size[1]
                run = min(count - done, size[1] - q)
                at += (start[0] + m * spread[0]) * y.shape[3] + start[1] + q * spread[1]
                for i in range(run):
                    flat[np.uintp(at + i * spread[1])] = sums[np.uintp(source + i)]
            done += run


@inner
def place_run(y, at, sums, source, count, scale, shift, activation, slope, lanes):
    """`place_sums` of neighbouring pixels of an image."""
    if count >= lanes:
        finish_copy(y, at, sums, source, count, scale, shift, activation, slope)
        return
    for q in range(count):
        y[np.uintp(at + q)] = sums[np.uintp(source + q)]
    finish_channel(y, at, count, scale, shift, activation, slope)


class Im2col(Algorithm):
    """Forward and input gradient, of channels enough to fill a tile."""

    name = "im2col"

    def __init__(self, problem: Problem) -> None:
        problem = problem.in_one_row
        super().__init__(problem)
        self._implicit = ImplicitGemm(problem)  # packs weights in the same way
        self._plans = plans(problem.of_one_image)

    @classmethod
    def refusal(cls, problem: Problem, one_pass: str = "forward") -> str:
        few = problem.group_channels[one_pass == "input"] < tile_shape(problem.dtype)[0]
        return "needs channels to fill a tile" if few else ""

    @classmethod
    def cost(cls, problem: Problem, one_pass: str) -> float:
        images, groups = problem.x_shape[0], problem.groups
        correlation, phases, _ = plans(problem.in_one_row.of_one_image)[one_pass == "input"]
        rows, channels = correlation.target[0] // groups, correlation.source[0] // groups
        width, total = tile_shape(problem.dtype)[1], 0.0
        lanes, place = width // VECTORS, PLACE_VECTOR if correlation.spread == (1, 1) else PLACE_APART
        for phase in phases:
            depth, pixels = channels * math.prod(phase.taps), images * math.prod(phase.size)
            runs = -(-phase.size[1] // lanes) + phase.size[1] / width  # they end with rows of the image, panels, and vectors
            packing = PACK_RUN * images * phase.size[0] * runs
            total += ENTER + depth * (rows * panel_vectors(pixels, width) + packing) + place * rows * pixels / lanes
        return groups * total + turning_cost(problem, one_pass)

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        problem, (correlation, phases, _) = self.problem, self._plans[one_pass == "input"]
        rows, channels = correlation.target[0] // problem.groups, correlation.source[0] // problem.groups
        width = tile_shape(problem.dtype)[1]
        columns = depth = 0
        for phase in phases:
            pixels, taps = problem.x_shape[0] * math.prod(phase.size), math.prod(phase.taps)
            columns = max(columns, min(COLUMNS, -(-pixels // width) * width))
            depth = max(depth, -(-channels // slice_count.py_func(channels, taps)) * taps)
        shapes = {"panels": (workers, columns * depth), "sums": (workers, columns * min(ROWS, rows))}
        scratch: dict[str, Spec] = {name: (shape, problem.dtype) for name, shape in shapes.items()}
        return {"weight": self._implicit.scratch_spec(one_pass, workers)["weight"], **scratch}

    def weight(self, scratch: Arrays, parameter: Parameter) -> Array:
        return self._implicit.weight(scratch, parameter)

    def forward(
        self, scratch: Arrays, y: Array, x: Array, weight: Array, scale: Array, shift: Array, activation: int, slope: float
    ) -> None:
        shapes = self.problem.y_shape, self.problem.x_shape
        self._correlate(0, scratch, y.reshape(shapes[0]), x.reshape(shapes[1]), weight, scale, shift, activation, slope)

    def backward_input(self, scratch: Arrays, dx: Array, dy: Array, weight: Array) -> None:
        self._implicit.pack(1, scratch["weight"], weight)
        dx, dy = dx.reshape(self.problem.x_shape), dy.reshape(self.problem.y_shape)
        self._correlate(1, scratch, dx, dy, scratch["weight"], self.ones, self.zeros, IDENTITY, 0.0)

    def _correlate(self, which: int, scratch: Arrays, y: Array, x: Array, weight: Array, *terms: Any) -> None:
        (correlation, _, table), (scale, shift, activation, slope) = self._plans[which], terms
        conv2d_im2col.for_work(self.problem.work)(
            y, scratch["panels"], scratch["sums"], x, weight, scale, shift, table, correlation.step,
            correlation.spread, self.problem.groups, activation, slope,
        )  # fmt: skip

"""Two-dimensional convolution (cross-correlation, as is usual) as a matrix product that never builds its patch matrix.

    y[n, o, h, w] = bias[o] + sum_{c, i, j} weight[o, c, i, j] x[n, c, h s_h - p_h + i d_h, w s_w - p_w + j d_w]

N images; O output and C input channels, of one group where there are several; i, j taps; s stride, p padding, d dilation.

* Forward: weights (O x C taps) times patches (C taps x pixels), which are read from padded planes of the image where they lie
  (`numba_nn.layers.conv.planes`): `conv2d_correlate`.
* Input gradient: the same correlation over dy, weights of input and output channels exchanged.
* Weight gradient: `numba_nn.layers.conv.weight_gradient`.

Work is split into tasks by shape alone. Tasks are dealt to as many workers as the scratch has rows.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.epilogue import IDENTITY, RELU, activate, finish_channel, finish_copy
from numba_nn.core.kernel import In, Out, Scratch, inner, kernel
from numba_nn.core.parameter import Parameter
from numba_nn.core.product.packing import PACK_PANELS, PACK_WORK, pack_depths, pack_one, pack_panels
from numba_nn.core.product.tap_tile import FEW_ROWS, few_columns, finish_taps, fma_taps, one_columns
from numba_nn.core.rows import fill
from numba_nn.core.simd import VECTORS, copy_run, tile_columns, tile_rows, tile_shape, vector_lanes
from numba_nn.core.workspace import Spec
from numba_nn.layers.conv.algorithm import Algorithm, Problem
from numba_nn.layers.conv.planes import CHUNK, Numbers, layouts, pad_planes

TAP_TILE = 1.2  # time of a tile of taps, to one of `numba_nn.core.product.fma_tile` (Intel Xeon)
TURN, TURN_APART = 30, 57  # multiply-adds of a vector: packing one of weights turned round, whole or phase by phase
LONG_ROW = 32  # pixels of a row that is finished while it is copied: 3 -> 256 channels of 32 x 32 in 0.7 of the time (Zen 5)


@kernel
def conv2d_pack_weight(
    packed: Out, weight: In, phases: In, taps: In, rows: int, channels: int, height: int, strides: tuple[int, int, int]
):  # fmt: skip
    """Pack weights in panels of ``height`` rows, phase by phase and group by group, with a line for every (channel, tap).

    So they are the left factor, or the right one where ``height`` is that of its columns.

    weight: flat; rows, channels: of a group of the correlation; strides: of groups, rows and channels in the weights.
    """
    panels, groups = -(-rows // height), packed.size // (-(-rows // height) * height * channels * taps.size)
    blocks, whole_tiles = -(-panels // PACK_PANELS), height in (tile_rows(packed), tile_columns(packed))
    for t in prange(phases.shape[0] * groups * blocks):
        f, g, panel = t // (groups * blocks), t // blocks % groups, t % blocks * PACK_PANELS
        count, first = phases[f, 2], phases[f, 4]
        depth, row = channels * count, panel * height
        at = (first * groups + g * count) * panels * height * channels + row * depth
        source, filled = g * strides[0] + row * strides[1], min(PACK_PANELS * height, rows - row)
        if count != taps.size or not whole_tiles:
            pack_taps(packed, at, weight, source, strides, filled, height, channels, taps[first : first + count])
        elif count in (1, strides[2]):  # (channel, tap) follow each other at one distance
            step = strides[2] if count == 1 else 1
            pack_panels(packed, at, weight, source, strides[1], step, filled, height, depth, 0, depth)
        else:
            for c in range(channels):
                origin, line = source + c * (strides[2] - count), c * count
                pack_depths(packed, at, weight, origin, strides[1], 1, filled, height, depth, line, line + count, depth)


@inner
def pack_taps(packed, at, weight, source, strides, rows, height, channels, taps):
    """Panels of some taps of every channel; channel by channel, as rows of weights may lie far apart."""
    panel = height * channels * taps.size
    for c in range(channels):
        for row in range(0, rows, height):
            filled, to = min(height, rows - row), at + row // height * panel + c * taps.size * height
            for k in range(taps.size):
                pack_one(packed, to, weight, source + row * strides[1] + c * strides[2] + taps[k], strides[1], filled, height)
                to += height


@kernel
def conv2d_correlate(
    y: Out, planes: Scratch, sums: Scratch, x: In, packed: In, scale: In, shift: In, offsets: In, phases: In,
    layout: tuple[int, ...], groups: int, activation: int, slope: float,
):  # fmt: skip
    """y = activation(scale times correlation of x and packed weights + shift); y: (N, O, H', W'), x: (N, C, H, W).

    scale, shift: (O,), see `numba_nn.core.epilogue`, or empty to leave the correlation as it is; planes, sums: (workers,
    elements); packed: by `conv2d_pack_weight`; offsets, phases: tables of the `Layout`; layout: its `Numbers`.
    """
    numbers = Numbers(*layout)
    parts, across = numbers.parts, -(-numbers.grid_columns // numbers.block_columns)
    blocks = -(-numbers.grid_rows // numbers.block_rows) * across
    tasks, workers = y.shape[0] * groups * parts * blocks, planes.shape[0]
    for worker in prange(workers):
        first, last = tasks * worker // workers, tasks * (worker + 1) // workers
        # Tiles read between planes, too: numbers that are left there may be so small that each takes 100 cycles.
        fill(planes[worker], 0, planes.shape[1] if first < last else 0, planes.dtype.type(0))
        for t in range(first, last):
            n, g = t // (groups * parts * blocks), t // (parts * blocks) % groups
            i, block = t // blocks % parts, t % blocks
            m, q = block // across * numbers.block_rows, block % across * numbers.block_columns
            correlate_block(
                y, planes[worker], sums[worker], x, packed, scale, shift, offsets, phases, numbers, groups, n, g, i, m, q,
                activation, slope,
            )  # fmt: skip


@inner
def correlate_block(
    y, planes, sums, x, packed, scale, shift, offsets, phases, numbers, groups, n, g, part, m, q, activation, slope
):  # fmt: skip
    """A part of the rows of group g of image n, for the block of grid pixels that starts with row m and column q."""
    rows, channels = y.shape[1] // groups, x.shape[1] // groups
    width, height, panels, parts = numbers.width, numbers.height, numbers.panels, numbers.parts
    top, left = m * numbers.row_step, q * numbers.column_step
    size = min(numbers.block_rows, numbers.grid_rows - m), min(numbers.block_columns, numbers.grid_columns - q)
    needed = (
        (size[0] - 1) * numbers.row_step + numbers.row_reach + 1, (size[1] - 1) * numbers.column_step + numbers.column_reach + 1
    )  # fmt: skip
    pad_planes(planes, x, n, g * channels, channels, top - numbers.row_lead, left - numbers.column_lead, needed, numbers)
    end = min(rows, (part + 1) * panels // parts * height)
    if numbers.by_rows and scale.size:  # else the sums are wanted as they are
        row = part * panels // parts * height
        finish_block(
            y, n, g * rows + row, end - row, planes, packed, (g * panels * height + row) * channels * phases[0, 2],
            channels * phases[0, 2], offsets, size, (m, q), numbers, scale, shift, activation, slope,
        )  # fmt: skip
        return
    for row in range(part * panels // parts * height, end, CHUNK):
        count = min(CHUNK, end - row)
        for f in range(phases.shape[0]):
            seen = phases[f, 2]
            at = ((phases[f, 4] * groups + g * seen) * panels * height + row * seen) * channels
            for c in range(0, channels if seen else 0, numbers.channels):
                depth = min(numbers.channels, channels - c) * seen
                multiply_taps(
                    sums, count, size, c > 0, packed, at + c * seen * height, channels * seen, planes, c * numbers.plane,
                    offsets, phases[f, 3], depth, numbers,
                )  # fmt: skip
            row_of_y = phases[f, 0] + m * numbers.row_spread - numbers.row_shift
            target = row_of_y, phases[f, 1] + q * numbers.column_spread - numbers.column_shift
            if seen == 0:
                fill(sums, 0, count * width, sums.dtype.type(0))
            place_rows(y, n, g * rows + row, count, sums, size, target, numbers, scale, shift, activation, slope)


@inner
def rows_of_few(whole):
    """Rows of a panel that tiles of FEW_ROWS take where no more are left: they must not read beyond it."""
    return (whole - 1) // FEW_ROWS * FEW_ROWS


@inner
def finish_block(
    y, n, channel, rows, planes, a, a_at, depth, offsets, size, corner, numbers, scale, shift, activation, slope
):  # fmt: skip
    """A block whose depth is one slice, finished as it is summed: row by row of y, without sums on the way.

    Tiles do scale, shift and ReLU in registers; another activation goes over the rows while they are in the cache. Few channels
    go through all rows together: 256 planes of 4 KB lie on as many pages, and in few sets of the L1 cache.
    """
    flat, width, plane, panel, whole = y.reshape(y.size), y.shape[3], y.shape[2] * y.shape[3], numbers.height, tile_rows(y)
    least = y.dtype.type(0 if activation == RELU else -np.inf)
    i = 0
    while i < rows:
        taken = min(rows - i, whole if panel == whole and rows - i > rows_of_few(whole) else FEW_ROWS)
        first = a_at + i // panel * panel * depth + i % panel
        for m in range(size[0]):
            at = ((n * y.shape[1] + channel + i) * y.shape[2] + corner[0] + m) * width + corner[1]
            for j in range(0, size[1], tile_columns(y)):
                finish_taps(
                    flat, at + j, plane, taken, size[1] - j, scale, shift, channel + i, least, a, first, panel, planes,
                    m * numbers.pitch + j, offsets, depth,
                )  # fmt: skip
            for r in range(taken if activation > RELU else 0):
                activate(flat[at + r * plane : at + r * plane + size[1]], activation, slope)
        i += taken


@inner
def multiply_taps(sums, rows, size, accumulate, a, a_at, a_depth, planes, b_at, offsets, table_at, depth, numbers):
    """sums = weights times patches (+ sums if ``accumulate``), for rows of panels of a whole depth of ``a_depth``.

    The last tile of FEW_ROWS may reach beyond the rows.
    """
    pitch, width, height = numbers.pitch, numbers.width, numbers.height
    whole, lanes = tile_rows(sums), vector_lanes(sums)
    columns, done = (size[0] - 1) * pitch + size[1], 0
    if height == whole:
        done = rows // whole * whole
        if rows - done > rows_of_few(whole):
            done += whole
        # Rows of whole vectors leave out what lies between them.
        runs, length = (size[0], size[1]) if size[1] % lanes == 0 else (1, columns)
        for run in range(runs if done else 0):
            for j in range(run * pitch, run * pitch + length, tile_columns(sums)):
                for i in range(0, done, whole):
                    fma_taps(
                        sums, i * width + j, width, whole, run * pitch + length - j, accumulate, a, a_at + i * a_depth, height,
                        planes, b_at + j, offsets, table_at, depth,
                    )  # fmt: skip
    across = one_columns(sums) if height == 1 else few_columns(sums)
    for i in range(done, rows, FEW_ROWS):
        first = a_at + i // height * height * a_depth + i % height
        for j in range(0, columns, across):
            fma_taps(
                sums, i * width + j, width, min(height, FEW_ROWS), lanes, accumulate, a, first, height, planes, b_at + j,
                offsets, table_at, depth,
            )  # fmt: skip


@inner
def place_rows(y, n, channel, count, sums, size, target, numbers, scale, shift, activation, slope):
    """Copy the sums of a block to where they belong in y, and finish them there, or on the way where rows are long."""
    flat, height, width, lanes = y.reshape(y.size), y.shape[2], y.shape[3], vector_lanes(y)
    pitch, spread = numbers.pitch, (numbers.row_spread, numbers.column_spread)
    dense, vectors = spread[0] == spread[1] == 1, -(-size[1] // lanes) * lanes
    on_the_way = dense and scale.size and size[1] >= LONG_ROW
    for r in range(count):
        plane = (n * y.shape[1] + channel + r) * height * width
        for m in range(size[0]):
            row, source = target[0] + m * spread[0], r * numbers.width + m * pitch
            if row < 0 or row >= height:
                continue
            at = plane + row * width + target[1]
            if on_the_way:
                finish_copy(flat, at, sums, source, size[1], scale[channel + r], shift[channel + r], activation, slope)
            # Whole vectors may write over what follows in this block, but not beyond it, nor over another phase.
            elif dense and size[1] == width and (size[0] - m) * width >= vectors:
                copy_run(flat, at, sums, source, size[1])
            else:
                first, last = -(-max(0, -target[1]) // spread[1]), min(size[1], -(-(width - target[1]) // spread[1]))
                for q in range(first, last):
                    flat[np.uintp(at + q * spread[1])] = sums[np.uintp(source + q)]
        if scale.size and not on_the_way:
            finish_rows(flat, plane, width, size, target, scale[channel + r], shift[channel + r], activation, slope)


@inner
def finish_rows(y, plane, width, size, target, scale, shift, activation, slope):
    """Finish a block of one channel, which lies in its place."""
    at = plane + target[0] * width + target[1]
    if size[1] == width:
        finish_channel(y, at, size[0] * width, scale, shift, activation, slope)
        return
    for m in range(size[0]):
        finish_channel(y, at + m * width, size[1], scale, shift, activation, slope)


class ImplicitGemm(Algorithm):
    """Forward and input gradient of every shape."""

    name = "direct"

    def __init__(self, problem: Problem) -> None:
        problem = problem.in_one_row
        super().__init__(problem)
        self._layouts = layouts(problem.of_one_image)
        self._numbers = [tuple(layout.numbers(problem.x_shape[0])) for layout in self._layouts]
        self._strides = weight_strides(problem)
        self._nothing = self.zeros[:0]

    @classmethod
    def cost(cls, problem: Problem, one_pass: str) -> float:
        layout = layouts(problem.in_one_row.of_one_image)[one_pass == "input"]
        return TAP_TILE * problem.x_shape[0] * problem.groups * layout.cost + turning_cost(problem, one_pass)

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        layout = self._layouts[one_pass == "input"]
        sums = (CHUNK + FEW_ROWS) * layout.sums
        shapes = {"weight": (layout.packed,), "planes": (workers, layout.planes), "sums": (workers, sums)}
        return {name: (shape, self.problem.dtype) for name, shape in shapes.items()}

    def weight(self, scratch: Arrays, parameter: Parameter) -> Array:
        """Panels, whatever the images' size."""
        return parameter.packed(("direct", self.problem.groups), scratch["weight"], functools.partial(self.pack, 0))

    def forward(
        self, scratch: Arrays, y: Array, x: Array, weight: Array, scale: Array, shift: Array, activation: int, slope: float
    ) -> None:
        self.correlate(0, scratch, y, x, weight, scale, shift, activation, slope)

    def backward_input(self, scratch: Arrays, dx: Array, dy: Array, weight: Array) -> None:
        self.pack(1, scratch["weight"], weight)
        terms = (self.ones, self.zeros, IDENTITY, 0.0) if self._layouts[1].by_rows else ()
        self.correlate(1, scratch, dx, dy, scratch["weight"], *terms)

    def pack(self, which: int, packed: Array, weight: Array) -> None:
        """Pack weights (O, C / groups, ...) for the forward, 0, or the input gradient, 1."""
        problem, layout = self.problem, self._layouts[which]
        channels = problem.group_channels
        rows, depth = channels[::-1] if which else channels
        conv2d_pack_weight.for_work(PACK_WORK * weight.size)(
            packed, weight.reshape(-1), layout.phases, layout.taps, rows, depth, layout.panel_rows, self._strides[which]
        )  # fmt: skip

    def correlate(self, which: int, scratch: Arrays, y: Array, x: Array, packed: Array, *terms: Any) -> None:
        """y = forward of x, 0, or its input gradient, 1; the forward may be given terms of an epilogue."""
        problem, layout = self.problem, self._layouts[which]
        scale, shift, activation, slope = terms or (self._nothing, self._nothing, IDENTITY, 0.0)
        y_shape, x_shape = (problem.x_shape, problem.y_shape) if which else (problem.y_shape, problem.x_shape)
        conv2d_correlate.for_work(problem.work)(
            y.reshape(y_shape), scratch["planes"], scratch["sums"], x.reshape(x_shape), packed, scale, shift, layout.offsets,
            layout.phases, self._numbers[which], problem.groups, activation, slope,
        )  # fmt: skip


def turning_cost(problem: Problem, one_pass: str) -> float:
    """What `Algorithm.cost` counts for packing weights that are turned round, which all input gradients but `Col2im` do.

    `Pointwise` does not count it: for few pixels, where it would matter, it reads weights as they are.
    """
    if one_pass != "input":
        return 0.0
    lanes, turn = tile_shape(problem.dtype)[1] // VECTORS, TURN if problem.stride == (1, 1) else TURN_APART
    return turn * math.prod(problem.group_channels) * math.prod(problem.taps) * problem.groups / lanes


def weight_strides(problem: Problem) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """From group to group, row to row and channel to channel of the weights: of the forward, and of the input gradient."""
    (rows, channels), count = problem.group_channels, math.prod(problem.taps)
    group = rows * channels * count
    return (group, channels * count, count), (group, count, channels * count)

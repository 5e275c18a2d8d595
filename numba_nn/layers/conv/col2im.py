"""The input gradient of a convolution as one matrix product, whose rows are then folded onto the image (col2im).

    lines[c, i, j, m, q] = sum_o weight[o, c, i, j] dy[n, o, m, q]
    dx[n, c, h, w]       = sum_{i, j} lines[c, i, j, m, q]  for h = m s_h - p_h + i d_h, w = q s_w - p_w + j d_w

dy and the weights are read where they lie: no padded planes, no phases, no panels of weights that were turned round. What it
costs are as many sums to fold as the image has pixels and taps. That is little beside the product if dy has many channels; and
as taps are rows of the product, a single channel of the image fills a tile.

Work is cut into blocks of rows and channels of dx, whose lines stay in the L2 cache. A block computes all lines that its rows
see, so that each pixel is written once; those at its border the next block computes, too. With a column stride of 2 a strip of
dx has two sums, of its even and its odd pixels. How the depth of a product is summed
follows from the size of a block, which therefore follows from the shape alone.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.kernel import PARALLEL_GRAIN, In, Out, Scratch, inlined, inner, kernel
from numba_nn.core.product.block import CACHED, DEPTH, DEPTH_SPARE, block_span
from numba_nn.core.product.gemm import TASKS, write_transposed
from numba_nn.core.product.packing import panel_sizes
from numba_nn.core.product.stack import BLOCK_ROWS, columns_in_place, multiply_span
from numba_nn.core.simd import VECTORS, tile_columns, tile_shape
from numba_nn.core.vector import add, elements, lanes_between, lanes_of, load, store, zeros, zip_high, zip_low
from numba_nn.core.workspace import Shape, Spec
from numba_nn.layers.conv.algorithm import Algorithm, Problem
from numba_nn.layers.conv.cuts import panel_vectors, tiled_rows
from numba_nn.layers.conv.patches import pairs

LINES = 2**17  # elements of the lines of a block: 512 KB of float32
PACKED = 2**16  # elements of dy, or of the weights, that are packed at once
TOGETHER = 4  # rows of dx, in straight code
# Time in multiply-adds of a vector (Intel Xeon):
FOLD, FOLD_APART = 14, 18  # of a vector of lines, written and folded, with a column stride of 1, and of 2
TURN = 20  # of transposing a vector of lines, whose pixels were the rows of the product
PACK = 30  # of packing a depth of a tile's rows
READ = 12  # of a vector of weights that come from memory, for few pixels
ENTER = 600  # of a block


@functools.lru_cache(maxsize=256)
def strip_table(problem: Problem) -> Array:
    """For each strip of dx, of a vector times the stride, and each column of taps: (phase, column of dy, mask of its lanes).

    Pixel w of a strip is in phase w modulo stride.
    """
    lanes, stride = tile_shape(problem.dtype)[1] // VECTORS, problem.stride[1]
    width, across, table = problem.x_shape[3], problem.y_shape[3], []
    for first in range(0, width, lanes * stride):
        for j in range(problem.taps[1]):
            ahead = problem.padding[1] - j * problem.dilation[1]
            column, phase = (first + ahead + -ahead % stride) // stride, -ahead % stride
            seen = [0 <= column + lane < across for lane in range(lanes)]
            table.append((phase, column, sum(1 << lane for lane, inside in enumerate(seen) if inside)))
    return np.array(table, np.int64).reshape(-1, problem.taps[1], 3)


@kernel
def conv2d_col2im(
    dx: Out, lines: Scratch, turned: Scratch, left: Scratch, right: Scratch, dy: In, weight: In, strips: In,
    geometry: tuple[int, ...], block: tuple[int, int, int], groups: int,
):  # fmt: skip
    """dx = gradient of the input; dx: (N, C, H, W), dy: (N, O, H', W'), weight: flat (O, C / groups, taps).

    lines, turned, left, right: (workers, elements); strips: by `strip_table`; geometry: see `numba_nn.layers.conv.patches`;
    block: a `Block`.
    """
    channels, workers = dx.shape[1] // groups, lines.shape[0]
    bands, parts = -(-dx.shape[2] // block[0]), -(-channels // block[1])
    tasks = dx.shape[0] * groups * bands * parts
    for worker in prange(workers):
        for t in range(tasks * worker // workers, tasks * (worker + 1) // workers):
            image, band, part = t // (bands * parts), t // parts % bands, t % parts
            row, rows = block_span(band, bands, dx.shape[2], 1, dx.shape[2])
            channel, count = block_span(part, parts, channels, 1, channels)
            seen = rows_seen(row, row + rows, dy.shape[2], geometry)
            multiply_lines(
                lines[worker], turned[worker], left[worker], right[worker], dy, weight, image, groups, channel, count, channels,
                seen, geometry, block[2] != 0,
            )  # fmt: skip
            for c in range(count):
                fold_plane(
                    dx, image * channels + channel + c, row, rows, lines[worker], c, seen, dy.shape[3], strips, geometry
                )  # fmt: skip


@inner
def rows_seen(first, end, height, geometry):
    """The rows of dy, from and to, that any tap of rows ``first`` to ``end`` of dx sees."""
    taps, stride, origin, dilation = pairs(geometry)
    start = max(0, -((origin[0] + (taps[0] - 1) * dilation[0] - first) // stride[0]))
    return start, max(start, min(height, (end - 1 - origin[0]) // stride[0] + 1))


@inner
def multiply_lines(
    lines, turned, left, right, dy, weight, image, groups, channel, count, channels, seen, geometry, pixels_first
):  # fmt: skip
    """lines = weights, transposed, times rows ``seen`` of dy; image: n groups + group; channel: of the group."""
    outputs, area, taps, width = dy.shape[1] // groups, dy.shape[2] * dy.shape[3], geometry[0] * geometry[1], tile_columns(dy)
    pixels, rows, step = (seen[1] - seen[0]) * dy.shape[3], count * taps, channels * taps
    source = dy.reshape(dy.size)[image * outputs * area + seen[0] * dy.shape[3] :]
    factors = weight[image % groups * outputs * step + channel * taps :]
    near = min(1, rows)  # 1, but no constant to Numba: see `fma_tile`
    if pixels_first:
        in_place = columns_in_place(rows, outputs, width, pixels, dy.itemsize)
        multiply_span(
            turned, 0, rows, pixels, 0, rows, in_place, False, source, (near, area), left, factors, (width, step, 1), right,
            outputs,
        )  # fmt: skip
        write_transposed(lines, 0, pixels, turned, 0, pixels, rows, rows, 0)
        return
    in_place = columns_in_place(pixels, outputs, width, rows, dy.itemsize)
    multiply_span(
        lines, 0, pixels, rows, 0, pixels, in_place, False, factors, (near, step), left, source, (width, area, 1), right,
        outputs,
    )  # fmt: skip


@inner
def fold_plane(dx, plane, row, rows, lines, channel, seen, across, strips, geometry):
    """Some rows of one plane of dx, by fours that see the same taps; channel: of the block."""
    stride, width, pixels = geometry[2], dx.shape[3], (seen[1] - seen[0]) * across
    at, start = channel * geometry[0] * geometry[1] * pixels, plane * dx.shape[2] * width
    for first in range(row, row + min(rows, stride)):
        for r in range(first, row + rows, stride * TOGETHER):
            fold_rows(
                elements(dx), start + r * width, width, lines, at, (pixels, across), r, row + rows, seen, strips, geometry
            )  # fmt: skip


@inner
def fold_rows(dx, start, width, lines, at, size, row, end, seen, strips, geometry):
    """Row ``row`` of dx, which is at ``start``, and the next ones in its phase up to ``end``, from the lines of their channel.

    size: of a line, and of a row of it.
    """
    taps, stride, origin, dilation = pairs(geometry)
    lanes, zero, step = lanes_of(lines), zeros(lines), stride[0] * width
    for s in range(strips.shape[0]):
        even = odd = zero, zero, zero, zero
        for i in range(taps[0]):
            ahead = row - origin[0] - i * dilation[0]
            m = ahead // stride[0] if stride[0] > 1 else ahead
            if m * stride[0] != ahead or m <= seen[0] - TOGETHER or m >= seen[1]:
                continue
            for j in range(taps[1]):
                place = at + (i * taps[1] + j) * size[0] + (m - seen[0]) * size[1] + strips[s, j, 1]
                values = load_rows(elements(lines), place, size[1], strips[s, j, 2], m, seen, zero)
                if strips[s, j, 0] == 0:
                    even = add_rows(even, values)
                else:
                    odd = add_rows(odd, values)
        column = s * lanes * stride[1]
        for r in range(TOGETHER):
            if row + r * stride[0] < end:
                store_strip(dx, start + r * step + column, width - column, even[r], odd[r], stride[1])


@inlined
def load_rows(lines, place, step, mask, m, seen, zero):
    """Vectors of four rows of a line, from row m of dy on; zeros where there is none."""
    full = lanes_between(0, lanes_of(lines))
    if mask == full and m >= seen[0] and m + TOGETHER <= seen[1]:
        return (
            load(lines, place, full, zero), load(lines, place + step, full, zero),
            load(lines, place + 2 * step, full, zero), load(lines, place + 3 * step, full, zero),
        )  # fmt: skip
    return (
        load(lines, place, mask if m >= seen[0] else 0, zero),
        load(lines, place + step, mask if m + 1 >= seen[0] and m + 1 < seen[1] else 0, zero),
        load(lines, place + 2 * step, mask if m + 2 >= seen[0] and m + 2 < seen[1] else 0, zero),
        load(lines, place + 3 * step, mask if m + 3 < seen[1] else 0, zero),
    )


@inlined
def add_rows(a, b):
    """Sums of four vectors."""
    return add(a[0], b[0]), add(a[1], b[1]), add(a[2], b[2]), add(a[3], b[3])


@inlined
def store_strip(dx, at, left, even, odd, stride):
    """A strip of one row, or as much of it as there is ``left``."""
    if stride == 1:
        store_part(dx, at, left, even)
        return
    store_part(dx, at, left, zip_low(even, odd))
    store_part(dx, at + lanes_of(even), left - lanes_of(even), zip_high(even, odd))


@inlined
def store_part(dx, at, left, value):
    """A vector, or as much of it as there is ``left`` of the row."""
    if left > 0:
        store(dx, at, value, lanes_between(0, min(lanes_of(value), left)), 0)


class Block(NamedTuple):
    """A part of dx that is computed at once."""

    rows: int
    channels: int
    pixels_first: int
    """Whether pixels of dy are the rows of the product: few of them, and weights that are read once, as they lie."""


class Col2im(Algorithm):
    """Input gradient with a column stride of 1 or 2."""

    name = "col2im"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        (top, left), self._strips, self._block = problem.padding, strip_table(problem.of_one_image), block_of(problem)
        self._geometry = (*problem.taps, *problem.stride, -top, -left, *problem.dilation)

    @classmethod
    def refusal(cls, problem: Problem, one_pass: str = "forward") -> str:
        serves = one_pass == "input" and problem.stride[1] <= 2 and problem.taps != (1, 1)
        return "" if serves else "serves the input gradient of several taps, with a column stride of 1 or 2"

    @classmethod
    def cost(cls, problem: Problem, one_pass: str) -> float:
        return problem.x_shape[0] * problem.groups * block_cost(problem, block_of(problem))

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        problem, span = self.problem, min(self.problem.group_channels[0], DEPTH + DEPTH // DEPTH_SPARE)
        shapes = {block: line_shape(problem, block) for block in splits(problem, 1)}
        most, turned = (max(math.prod(shapes[block]) for block in shapes if block.pixels_first >= least) for least in (0, 1))
        longest = max(map(max, shapes.values()))
        left, right = panel_sizes(min(BLOCK_ROWS, longest), longest, span, problem.dtype)
        right = max(panel_sizes(1, 1, span, problem.dtype)[1], min(right, PACKED))
        sizes = {"lines": most, "turned": turned, "left": left, "right": right}
        return {name: ((workers, size), problem.dtype) for name, size in sizes.items()}

    def backward_input(self, scratch: Arrays, dx: Array, dy: Array, weight: Array) -> None:
        conv2d_col2im.for_work(self.problem.work)(
            dx, scratch["lines"], scratch["turned"], scratch["left"], scratch["right"], dy, weight.reshape(-1), self._strips,
            self._geometry, tuple(self._block), self.problem.groups,
        )  # fmt: skip


def rows_of_dy(problem: Problem, rows: int) -> int:
    """Rows of dy that so many rows of dx see, at most."""
    reach = (problem.taps[0] - 1) * problem.dilation[0]
    return min(problem.y_shape[2], (rows - 1 + reach) // problem.stride[0] + 1)


def line_shape(problem: Problem, block: Block) -> Shape:
    """Lines of a block, and pixels of each, at most."""
    return block.channels * math.prod(problem.taps), rows_of_dy(problem, block.rows) * problem.y_shape[3]


def splits(problem: Problem, tasks: int) -> list[Block]:
    """For every split of the channels, as many rows as LINES holds, and so few that a group of an image has so many ``tasks``.

    Those of one task bound all others, which scratch relies on.
    """
    channels, height, (_, _, down, across) = problem.group_channels[1], problem.x_shape[2], problem.y_shape
    reach, found = (problem.taps[0] - 1) * problem.dilation[0], []
    for held in sorted({-(-channels // parts) for parts in range(1, channels + 1)}):
        for pixels_first in (0, 1):  # which have the lines twice
            seen = max(1, LINES // ((1 + pixels_first) * held * math.prod(problem.taps) * across))
            most = height if seen >= down else max(1, seen * problem.stride[0] - reach)
            rows = min(most, height * -(-channels // held) // tasks)
            found.append(Block(max(1, rows), held, pixels_first))
    return found


@functools.lru_cache(maxsize=256)
def block_of(problem: Problem) -> Block:
    """Of all blocks the one that costs least, if there are enough for as many threads as a CPU may have."""
    wanted = min(TASKS, int(problem.work) // PARALLEL_GRAIN)
    images = max(1, problem.x_shape[0] * problem.groups)
    return min(splits(problem, max(1, -(-wanted // images))), key=lambda block: block_cost(problem, block))


def block_cost(problem: Problem, block: Block) -> float:
    """Of a group of an image, in such blocks, as `Algorithm.cost`."""
    (outputs, channels), taps, (height, width) = problem.group_channels, math.prod(problem.taps), tile_shape(problem.dtype)
    bands, parts = -(-problem.x_shape[2] // block.rows), -(-channels // block.channels)
    pixels = rows_of_dy(problem, -(-problem.x_shape[2] // bands)) * problem.y_shape[3]
    rows, columns, strip = -(-channels // parts) * taps, pixels, width // VECTORS * problem.stride[1]
    if block.pixels_first:
        rows, columns = columns, rows
    uncached = outputs * channels * taps * np.dtype(problem.dtype).itemsize > CACHED
    read = READ * columns * VECTORS / width if block.pixels_first and uncached else 0
    multiplied = outputs * (tiled_rows(rows, height) * panel_vectors(columns, width) + PACK * -(-rows // height) + read)
    fold = (FOLD if problem.stride[1] == 1 else FOLD_APART) + TURN * block.pixels_first
    folded = channels * taps * problem.x_shape[2] / problem.stride[0] * -(-problem.x_shape[3] // strip)
    return bands * parts * (multiplied + ENTER) + fold * folded

"""The weight gradient of a convolution, a product for every tap: no patches are built.

    dweight[o, c, i, j] += sum_{n, h, w} dy[n, o, h, w] x[n, c, h s_h - p_h + i d_h, w s_w - p_w + j d_w]

is, for one tap, the product of dy (O x pixels) and of the pixels of x that this tap sees (pixels x C). Both are transposed, so
that the pixels of a block follow each other and channels lie side by side: x into planes (pixels of the padded image, a panel
of channels each), which all taps share, dy into panels of output channels. A table says where in a plane the pixels of a block
are, and a tap is one constant offset. Blocks are of several images, of rows of one, or of a part of a row.

64 -> 128 channels, 3 x 3 at 56 x 56 with stride 2, batch 8, take 4.3 ms, where patches took 7.8 (Zen 5, one thread).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.kernel import In, Out, Scratch, inner, kernel
from numba_nn.core.product.gemm import TASKS
from numba_nn.core.product.packing import pack_panels
from numba_nn.core.product.tap_tile import FEW_ROWS, fma_taps
from numba_nn.core.rows import fill
from numba_nn.core.simd import tile_columns, tile_rows, tile_shape, transpose_lanes, vector_lanes
from numba_nn.core.workspace import Spec
from numba_nn.layers.conv.algorithm import Algorithm, Problem
from numba_nn.layers.conv.weight_gradient import ADD_TRANSPOSED, gradient_cost

BLOCK_PIXELS = 256  # of a product, up to twice as many in one row: 256 x 128 B = 32 KB of x stay in L1 for all output channels
LEAST_USE = 0.6  # of the tile, by channels of input and output; half of it takes longer than patches (3 of 6 rows, AVX2)


class Blocks(NamedTuple):
    """How output pixels are cut into blocks, and the planes of one block."""

    images: int
    rows: int
    columns: int
    row_blocks: int
    column_blocks: int
    row_stride: int
    column_stride: int
    top: int
    """Zeros above the image."""
    left: int
    line_step: int
    """From one line of a plane to the next, in rows of the image."""
    lines: int
    pitch: int
    plane: int
    """Elements of a plane, that is of one image and a panel of channels."""
    parts: int
    """That output channels are cut into, for each panel of input channels and tap."""


@kernel
def conv2d_tap_gradient(
    dweight: Out, sums: Scratch, planes: Scratch, panels: Scratch, x: In, dy: In, pixels: In, taps: In,
    layout: tuple[int, ...], groups: int,
):  # fmt: skip
    """dweight += gradient; dweight: (O, C / groups, taps), pixels, taps: tables of where in a plane they are.

    sums: for every panel of a group's channels and tap (O / groups, rounded up to tiles, by tile_columns); planes, panels: of x
    and of dy, for a block.
    """
    blocks, rows, channels = Blocks(*layout), dy.shape[1] // groups, x.shape[1] // groups
    row_panels, column_panels = -(-rows // tile_rows(dy)), -(-channels // tile_columns(dy))
    of_image = blocks.row_blocks * blocks.column_blocks
    count = -(-dy.shape[0] // blocks.images) * of_image if dy.size else 0
    products = groups * column_panels * taps.size * blocks.parts
    for block in range(count):
        n, m = block // of_image * blocks.images, block % of_image // blocks.column_blocks * blocks.rows
        q = block % blocks.column_blocks * blocks.columns
        images, height = min(blocks.images, dy.shape[0] - n), min(blocks.rows, dy.shape[2] - m)
        width = min(blocks.columns, dy.shape[3] - q)
        for t in prange(groups * column_panels * images):
            transpose_image(planes, x, blocks, groups, t // images, n + t % images, t % images, m, q)
        for t in prange(groups * row_panels):
            transpose_gradient(panels, dy, groups, t, n, images, m, q, height * width)
        for t in prange(products):
            multiply_tap(
                sums, panels, planes, pixels, taps, t, blocks, row_panels, column_panels, channels, images * height * width,
                block > 0,
            )  # fmt: skip
    outputs = dy.shape[1] if count else 0
    for o in prange(outputs):
        add_taps(dweight, sums, o, rows, row_panels * tile_rows(dy), column_panels)


@inner
def transpose_image(planes, x, blocks, groups, panel, n, place, m, q):
    """Plane number ``place`` of a panel of channels: image n under a block of output pixels from row m and column q on."""
    channels, size = x.shape[1] // groups, tile_columns(x)
    column_panels = -(-channels // size)
    g, c = panel // column_panels, panel % column_panels * size
    filled, area = min(size, channels - c), x.shape[2] * x.shape[3]
    flat, first = x.reshape(x.size), (n * x.shape[1] + g * channels + c) * area
    top, left = m * blocks.row_stride - blocks.top, q * blocks.column_stride - blocks.left
    start = min(blocks.pitch, max(0, -left))  # first column that may hold a pixel
    stop = max(start, min(blocks.pitch, x.shape[3] - left))
    at = (panel * blocks.images + place) * blocks.plane
    for line in range(blocks.lines):
        row = top + line * blocks.line_step
        inside = row >= 0 and row < x.shape[2]
        fill(planes, at, at + (start if inside else blocks.pitch) * size, planes.dtype.type(0))
        if inside:
            transpose_run(planes, at + start * size, flat, first + row * x.shape[3] + left + start, area, stop - start, filled)
            fill(planes, at + stop * size, at + blocks.pitch * size, planes.dtype.type(0))
        at += blocks.pitch * size


@inner
def transpose_run(planes, at, x, source, area, run, channels):
    """Neighbouring pixels of a row, each a panel of channels; whole squares of them, where x goes on for long enough."""
    size, lanes = tile_columns(planes), vector_lanes(planes)
    if source + (channels - 1) * area + -(-run // lanes) * lanes <= x.size:
        for k in range(0, run, lanes):
            for c in range(0, size, lanes):
                transpose_lanes(planes, at + k * size + c, size, x, source + k, area, c, channels)
        return
    for k in range(run):
        for c in range(channels):
            planes[np.uintp(at + k * size + c)] = x[np.uintp(source + c * area + k)]
        fill(planes, at + k * size + channels, at + (k + 1) * size, planes.dtype.type(0))


@inner
def transpose_gradient(panels, dy, groups, panel, n, images, m, q, pixels):
    """A panel of output channels: dy at the pixels of a block, which follow each other in every image."""
    rows, height, area = dy.shape[1] // groups, tile_rows(dy), dy.shape[2] * dy.shape[3]
    row_panels = -(-rows // height)
    g, row = panel // row_panels, panel % row_panels * height
    flat, depth = dy.reshape(dy.size), images * pixels
    for i in range(images):
        first = ((n + i) * dy.shape[1] + g * rows + row) * area + m * dy.shape[3] + q
        pack_panels(
            panels, panel * height * depth, flat, first - i * pixels, area, 1, min(height, rows - row), height, depth,
            i * pixels, (i + 1) * pixels,
        )  # fmt: skip


@inner
def multiply_tap(sums, panels, planes, pixels, taps, task, blocks, row_panels, column_panels, channels, depth, accumulate):
    """The products of a task: a panel of channels, a tap, and some panels of output channels."""
    height, size = tile_rows(sums), tile_columns(sums)
    product, part = task // blocks.parts, task % blocks.parts
    panel, tap = product // taps.size, product % taps.size
    left, origin = channels - panel % column_panels * size, panel * blocks.images * blocks.plane + taps[tap]
    first = panel // column_panels * row_panels
    for p in range(part * row_panels // blocks.parts, (part + 1) * row_panels // blocks.parts):
        fma_taps(
            sums, (product * row_panels + p) * height * size, size, FEW_ROWS + 1, left, accumulate,
            panels, (first + p) * height * depth, height, planes, origin, pixels, 0, depth,
        )  # fmt: skip


@inner
def add_taps(dweight, sums, o, rows, padded_rows, column_panels):
    """dweight += sums, for output channel o."""
    channels, taps, size = dweight.shape[1], dweight.shape[2], tile_columns(sums)
    flat, target = dweight.reshape(dweight.size), o * channels * taps
    step = padded_rows * size
    for c in range(0, channels, size):
        source = (o // rows * column_panels + c // size) * taps * step + o % rows * size
        count = min(size, channels - c)
        if taps == 1:
            for j in range(count):
                flat[np.uintp(target + j)] += sums[np.uintp(source + j)]
            target += count
            continue
        for j in range(count):
            for tap in range(taps):
                flat[np.uintp(target)] += sums[np.uintp(source + tap * step + j)]
                target += 1


def cut(problem: Problem) -> Blocks:
    """The blocks of a problem; all but ``images`` is the same for any batch."""
    images, _, height, width = problem.y_shape
    rows, channels = problem.group_channels
    tile_height, size = tile_shape(problem.dtype)
    column_blocks = max(1, -(-width // (2 * BLOCK_PIXELS)))
    columns = -(-width // column_blocks)
    most = 1 if column_blocks > 1 else max(1, BLOCK_PIXELS // max(1, columns))
    row_blocks = max(1, -(-height // most))
    block_rows = -(-height // row_blocks)
    line_step = problem.stride[0] if problem.taps[0] == 1 else 1  # what no tap sees is left out
    reach = [(k - 1) * d + 1 for k, d in zip(problem.taps, problem.dilation, strict=True)]
    lines = (block_rows - 1) * (problem.stride[0] // line_step) + reach[0]
    pitch = (columns - 1) * problem.stride[1] + reach[1]
    products = problem.groups * -(-channels // size) * math.prod(problem.taps)
    return Blocks(
        images=max(1, min(images, most_images(problem))), rows=block_rows, columns=columns, row_blocks=row_blocks,
        column_blocks=column_blocks, row_stride=problem.stride[0], column_stride=problem.stride[1], top=problem.padding[0],
        left=problem.padding[1], line_step=line_step, lines=lines, pitch=pitch,
        plane=(lines * pitch + size // 2) * size,  # squares of pixels reach beyond a row
        parts=max(1, min(-(-rows // tile_height), -(-TASKS // products))),
    )  # fmt: skip


def most_images(problem: Problem) -> int:
    """Images of a block, if there are so many."""
    return max(1, BLOCK_PIXELS // max(1, math.prod(problem.y_shape[2:])))


@functools.lru_cache(maxsize=256)
def tables(problem: Problem) -> tuple[Array, Array]:
    """Where in the planes of a block its pixels and the taps are, for a problem of one image: all batches share them."""
    blocks, size = cut(problem), tile_shape(problem.dtype)[1]
    row = problem.stride[0] // blocks.line_step * blocks.pitch * size
    pixels = _sums(
        np.arange(most_images(problem)) * blocks.plane, np.arange(blocks.rows) * row,
        np.arange(blocks.columns) * problem.stride[1] * size,
    )  # fmt: skip
    i, j = (np.arange(k) * d for k, d in zip(problem.taps, problem.dilation, strict=True))
    return pixels, _sums(i * blocks.pitch * size, j * size)


def _sums(*terms: Array) -> Array:
    """Every sum of one element of each, those of the last side by side."""
    return functools.reduce(lambda total, term: np.add.outer(total, term).ravel(), terms)


class TapGradient(Algorithm):
    """The weight gradient where channels of a group fill the tile."""

    name = "direct"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._blocks = cut(problem)
        self._layout = tuple(self._blocks)
        self._pixels, self._taps = tables(problem.of_one_image)

    @classmethod
    def refusal(cls, problem: Problem, one_pass: str = "forward") -> str:
        if problem.taps == problem.stride == (1, 1):
            return "needs more than one tap, or stride"  # there are no patches to spare
        (height, size), lanes = tile_shape(problem.dtype), tile_shape(problem.dtype)[1] // 2
        rows, channels = problem.group_channels
        vectors = channels // size * size + -(-(channels % size) // lanes) * lanes
        use = rows / (-(-rows // height) * height) * channels / vectors
        return "" if use >= LEAST_USE else "needs channels to fill a tile"

    @classmethod
    def cost(cls, problem: Problem, one_pass: str) -> float:
        return gradient_cost(problem, ADD_TRANSPOSED)

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        problem, blocks, (height, size) = self.problem, self._blocks, tile_shape(self.problem.dtype)
        rows, channels = problem.group_channels
        lines, panels = problem.groups * -(-rows // height) * height, problem.groups * -(-channels // size)
        shapes = {
            "sums": lines // problem.groups * panels * self._taps.size * size,
            "planes": panels * blocks.images * blocks.plane,
            "panels": lines * blocks.images * blocks.rows * blocks.columns,
        }
        return {name: ((elements,), problem.dtype) for name, elements in shapes.items()}

    def backward_weight(self, scratch: Arrays, dweight: Array, x: Array, dy: Array) -> None:
        conv2d_tap_gradient.for_work(self.problem.work)(
            dweight.reshape(*dweight.shape[:2], -1), scratch["sums"], scratch["planes"], scratch["panels"], x, dy,
            self._pixels, self._taps, self._layout, self.problem.groups,
        )  # fmt: skip

"""The weight gradient of a convolution of few channels, whose vectors hold pixels.

    dweight[o, c, i, j] += sum_{n, h, w} dy[n, o, h, w] x[n, c, h s_h - p_h + i d_h, w - p_w + j d_w]

is the sum of products of a row of dy and of a row of x, shifted by the tap. A vector of dy for each of four output channels
and one of x for each of three taps, side by side, make twelve products, whose sums stay in registers from strip to strip of a
band of dy that the L1 cache holds. A matrix product has columns for channels and taps alone: a tile of 32 has 3 of one channel.

A *strip* is what a vector holds of a row; those whose taps all lie inside of x need no mask. No x is multiplied by a zero in
place of a dy that is not there.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.kernel import In, Out, Scratch, inlined, inner, kernel
from numba_nn.core.product.gemm import TASKS
from numba_nn.core.rows import fill
from numba_nn.core.simd import VECTORS, tile_shape, vector_lanes
from numba_nn.core.vector import elements, half_totals, lanes_between, load, store, zeros
from numba_nn.core.workspace import Spec
from numba_nn.layers.conv.algorithm import Algorithm, Problem
from numba_nn.layers.conv.depthwise_gradient import weigh_row
from numba_nn.layers.conv.depthwise_strip import columns_inside
from numba_nn.layers.conv.pointwise import PACK_VECTOR

OUTPUTS, TAPS = 4, 3  # of twelve sums
MOST_CHANNELS = 8  # of a group
STRIP_COST = 1.4  # of a multiply-add here, where one of `WeightGradient`, with its packing, costs 1 (Intel Xeon)
BAND = 2048  # elements of dy for an output channel, or a row, that are worked off for all taps, and summed by a vector


class Geometry(NamedTuple):
    """Where the taps of a convolution lie."""

    height: int
    width: int
    row_stride: int
    top: int
    """Zeros above x, and at its left."""
    left: int
    row_dilation: int
    dilation: int


@kernel
def conv2d_pixel_gradient(
    dweight: Out, partial: Scratch, sums: Scratch, x: In, dy: In, geometry: tuple[int, ...], groups: int
):  # fmt: skip
    """dweight += gradient, of column stride 1; dweight: flat (O, C / groups, taps).

    partial: (parts of the batch, dweight's size); sums: for each worker (C / groups, taps of a column, of a row by threes, 12
    vectors).
    """
    form, rows, channels = Geometry(*geometry), dy.shape[1] // groups, x.shape[1] // groups
    fours, workers, parts, lines = -(-rows // OUTPUTS), sums.shape[0], partial.shape[0], channels * form.height
    bands = band_count(dy.shape[2], dy.shape[3])
    tasks = groups * fours * parts
    for worker in prange(workers):
        for t in range(tasks * worker // workers, tasks * (worker + 1) // workers):
            g, four, part = t // (fours * parts), t // parts % fours, t % parts
            first, last = g * rows + four * OUTPUTS, (g + 1) * rows - 1
            outputs = min(OUTPUTS, last + 1 - first)
            of_taps = lines * form.width
            fill(partial[part], first * of_taps, (first + outputs) * of_taps, dweight.dtype.type(0))
            for band in range(dy.shape[0] * bands * part // parts, dy.shape[0] * bands * (part + 1) // parts):
                add_bands(sums[worker], dy, first, last, x, g * channels, lines, band, bands, form)
                add_totals(partial[part], sums[worker], first, outputs, lines, form.width)
    for i in prange(dweight.size):
        total = dweight[i]
        for part in range(parts):
            total += partial[part, i]
        dweight[i] = total


@inner
def band_count(height, width):
    """Bands that an image's rows of dy are cut into."""
    return -(-height // max(1, BAND // max(1, width)))


@inner
def add_bands(sums, dy, first, last, x, channel, lines, band, bands, form):
    """All sums of a band of dy, for output channels from ``first`` on and input channels from ``channel`` on."""
    n, b, threes = band // bands, band % bands, -(-form.width // TAPS)
    start, stop = b * dy.shape[2] // bands, (b + 1) * dy.shape[2] // bands
    for k in range(lines * threes):
        c, i = channel + k // threes // form.height, k // threes % form.height
        add_band(sums, k, dy, n, first, last, start, stop, x, c, i, k % threes * TAPS, form)


@inner
def add_band(sums, k, dy, n, first, last, start, stop, x, channel, i, j, form):
    """Twelve sums, number ``k``: products of dy's rows ``start`` to ``stop`` and of x under taps (i, j) to (i, j + 2)."""
    lanes, (height, width), plane, step = vector_lanes(dy), x.shape[2:], dy.shape[2] * dy.shape[3], form.dilation
    full, left = lanes_between(0, lanes), j * form.dilation - form.left  # column of x for the first tap and dy's first column
    above = form.top - i * form.row_dilation
    start, stop = max(start, -(-above // form.row_stride)), min(stop, (height - 1 + above) // form.row_stride + 1)
    images = n * dy.shape[1]
    planes = (
        (images + first) * plane, (images + min(first + 1, last)) * plane, (images + min(first + 2, last)) * plane,
        (images + min(first + 3, last)) * plane,
    )  # fmt: skip
    origin = (n * x.shape[1] + channel) * height * width + left
    inside = max(0, -(left // lanes)) * lanes  # the first strip that needs no mask, and the first behind these that does
    outside = max(inside, min(dy.shape[3], width - left - (TAPS - 1) * step) // lanes * lanes)
    zero = zeros(dy)
    total = (zero, zero, zero), (zero, zero, zero), (zero, zero, zero), (zero, zero, zero)
    for h in range(start, stop):
        at, source = h * dy.shape[3], origin + (h * form.row_stride - above) * width
        for w in range(inside, outside, lanes):
            total = add_strip(total, elements(dy), planes, at + w, full, elements(x), source + w, step, (full, full, full))
    for w in range(0, dy.shape[3], lanes):
        if w >= inside and w < outside:
            continue
        strip, column = lanes_between(0, min(lanes, dy.shape[3] - w)), w + left
        masks = (
            strip & columns_inside(column, width, 0, lanes),
            strip & columns_inside(column + step, width, 0, lanes) if j + 1 < form.width else 0,
            strip & columns_inside(column + 2 * step, width, 0, lanes) if j + 2 < form.width else 0,
        )
        for h in range(start, stop):
            at, source = h * dy.shape[3] + w, origin + (h * form.row_stride - above) * width + w
            total = add_strip(total, elements(dy), planes, at, strip, elements(x), source, step, masks)
    keep_twelve(sums, k * OUTPUTS * TAPS * lanes, lanes, total)


@inlined
def add_strip(total, dy, planes, at, strip, x, source, step, masks):
    """Twelve sums with the products of a strip added."""
    zero = zeros(dy)
    row = load(x, source, masks[0], zero), load(x, source + step, masks[1], zero), load(x, source + 2 * step, masks[2], zero)
    return (
        weigh_row(total[0], row, load(dy, planes[0] + at, strip, zero)),
        weigh_row(total[1], row, load(dy, planes[1] + at, strip, zero)),
        weigh_row(total[2], row, load(dy, planes[2] + at, strip, zero)),
        weigh_row(total[3], row, load(dy, planes[3] + at, strip, zero)),
    )


@inlined
def keep_twelve(sums, at, lanes, total):
    """Store four times three vectors, one after the other."""
    target, full, step = elements(sums), lanes_between(0, lanes), TAPS * lanes
    for j in range(TAPS):
        store(target, at + j * lanes, total[0][j], full, sums.size)
        store(target, at + step + j * lanes, total[1][j], full, sums.size)
        store(target, at + 2 * step + j * lanes, total[2][j], full, sums.size)
        store(target, at + 3 * step + j * lanes, total[3][j], full, sums.size)


@inner
def add_totals(partial, sums, first, outputs, lines, width):
    """Add the lanes' sums, for ``outputs`` channels from the ``first`` on with so many ``lines`` of taps each."""
    lanes, threes = vector_lanes(partial), -(-width // TAPS)
    full, zero = lanes_between(0, lanes), zeros(partial)
    for k in range(lines * threes):
        line, j = k // threes, k % threes * TAPS
        for q in range(outputs):
            for tap in range(min(TAPS, width - j)):
                at = ((k * OUTPUTS + q) * TAPS + tap) * lanes
                low, high = half_totals(load(elements(sums), at, full, zero))
                partial[((first + q) * lines + line) * width + j + tap] += low + high


class PixelGradient(Algorithm):
    """The weight gradient of few channels, with a column stride of 1."""

    name = "direct"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        (top, left), (row_dilation, dilation) = problem.padding, problem.dilation
        self._geometry = tuple(Geometry(*problem.taps, problem.stride[0], top, left, row_dilation, dilation))
        self._parts = -(-TASKS // (problem.groups * -(-problem.group_channels[0] // OUTPUTS)))  # of the batch, at most

    @classmethod
    def refusal(cls, problem: Problem, one_pass: str = "forward") -> str:
        rows, channels = problem.group_channels
        if channels > MOST_CHANNELS or problem.stride[1] > 1:
            return f"needs at most {MOST_CHANNELS} channels, and a column stride of 1"
        (height, size), (lines, taps), (down, across) = tile_shape(problem.dtype), problem.taps, problem.y_shape[2:]
        lanes = size // VECTORS
        strips = _up(rows, OUTPUTS) * channels * lines * _up(taps, TAPS) * down * _up(across, lanes)
        patches = (_up(rows, height) + PACK_VECTOR) * _up(channels * lines * taps, lanes) * down * across
        return "" if STRIP_COST * strips <= patches else "needs channels that do not fill a tile, and rows that fill vectors"

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        problem, lanes = self.problem, tile_shape(self.problem.dtype)[1] // VECTORS
        threes = -(-problem.taps[1] // TAPS)
        size = math.prod((problem.group_channels[1], problem.taps[0], threes, OUTPUTS * TAPS * lanes))
        parts = max(1, min(problem.x_shape[0] * band_count.py_func(*problem.y_shape[2:]), self._parts))
        taps = problem.y_shape[1] * problem.group_channels[1] * math.prod(problem.taps)
        return {"partial": ((parts, taps), problem.dtype), "sums": ((workers, size), problem.dtype)}

    def backward_weight(self, scratch: Arrays, dweight: Array, x: Array, dy: Array) -> None:
        conv2d_pixel_gradient.for_work(self.problem.work)(
            dweight.reshape(-1), scratch["partial"], scratch["sums"], x, dy, self._geometry, self.problem.groups
        )  # fmt: skip


def _up(number: int, step: int) -> int:
    """The next multiple of ``step``."""
    return -(-number // step) * step

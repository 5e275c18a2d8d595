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
from numba_nn.core.rows import fill
from numba_nn.core.simd import VECTORS, tile_shape, vector_lanes
from numba_nn.core.vector import elements, half_totals, lanes_between, load, store, zeros
from numba_nn.core.workspace import Spec
from numba_nn.layers.conv.algorithm import Algorithm, Problem
from numba_nn.layers.conv.depthwise_gradient import weigh_row

OUTPUTS, TAPS = 4, 3  # of twelve sums
MOST_CHANNELS = 8  # of a group
BAND = 2048  # elements of dy for one output channel, or a row, that are worked off for all taps: 8 KB


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
def conv2d_pixel_gradient(dweight: Out, sums: Scratch, x: In, dy: In, geometry: tuple[int, ...], groups: int):
    """dweight += gradient, of column stride 1; dweight: flat (O, C / groups, taps).

    sums: for each worker (C / groups, taps of a column, of a row by threes, 12 vectors).
    """
    form, rows, channels = Geometry(*geometry), dy.shape[1] // groups, x.shape[1] // groups
    fours, workers, threes = -(-rows // OUTPUTS), sums.shape[0], -(-form.width // TAPS)
    band = max(1, BAND // max(1, dy.shape[3]))
    for worker in prange(workers):
        for t in range(groups * fours * worker // workers, groups * fours * (worker + 1) // workers):
            g, first = t // fours, t // fours * rows + t % fours * OUTPUTS
            last = (g + 1) * rows - 1
            fill(sums[worker], 0, sums.shape[1], sums.dtype.type(0))
            for n in range(dy.shape[0]):
                for h in range(0, dy.shape[2], band):
                    for k in range(channels * form.height * threes):
                        c, i, j = k // (form.height * threes), k // threes % form.height, k % threes * TAPS
                        end = min(dy.shape[2], h + band)
                        add_band(sums[worker], k, dy, n, first, last, h, end, x, g * channels + c, i, j, form)
            add_totals(dweight, sums[worker], first, min(OUTPUTS, last + 1 - first), channels * form.height, form.width, threes)


@inner
def add_band(sums, k, dy, n, first, last, start, stop, x, channel, i, j, form):
    """Twelve sums, number ``k``, with products of dy's rows ``start`` to ``stop`` and of x under taps (i, j) to (i, j + 2)."""
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
    total = twelve(sums, k * OUTPUTS * TAPS * lanes, lanes)
    for h in range(start, stop):
        at, source = h * dy.shape[3], origin + (h * form.row_stride - above) * width
        for w in range(inside, outside, lanes):
            total = add_strip(total, elements(dy), planes, at + w, full, elements(x), source + w, step, (full, full, full))
    for w in range(0, dy.shape[3], lanes):
        if w >= inside and w < outside:
            continue
        strip, column = lanes_between(0, min(lanes, dy.shape[3] - w)), w + left
        masks = (
            strip & columns_inside(column, width, lanes),
            strip & columns_inside(column + step, width, lanes) if j + 1 < form.width else 0,
            strip & columns_inside(column + 2 * step, width, lanes) if j + 2 < form.width else 0,
        )
        for h in range(start, stop):
            at, source = h * dy.shape[3] + w, origin + (h * form.row_stride - above) * width + w
            total = add_strip(total, elements(dy), planes, at, strip, elements(x), source, step, masks)
    keep_twelve(sums, k * OUTPUTS * TAPS * lanes, lanes, total)


@inlined
def columns_inside(first, width, lanes):
    """The mask of the columns from ``first`` on that an image of this width has."""
    return lanes_between(max(0, -first), min(lanes, width - first))


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
def three(sums, at, lanes):
    """Three vectors that lie side by side."""
    full, zero = lanes_between(0, lanes), zeros(sums)
    return load(sums, at, full, zero), load(sums, at + lanes, full, zero), load(sums, at + 2 * lanes, full, zero)


@inlined
def twelve(sums, at, lanes):
    """Four times three vectors."""
    source, step = elements(sums), TAPS * lanes
    return (
        three(source, at, lanes), three(source, at + step, lanes), three(source, at + 2 * step, lanes),
        three(source, at + 3 * step, lanes),
    )  # fmt: skip


@inlined
def keep_twelve(sums, at, lanes, total):
    """Store what `twelve` loads."""
    target, full, step = elements(sums), lanes_between(0, lanes), TAPS * lanes
    for j in range(TAPS):
        store(target, at + j * lanes, total[0][j], full, sums.size)
        store(target, at + step + j * lanes, total[1][j], full, sums.size)
        store(target, at + 2 * step + j * lanes, total[2][j], full, sums.size)
        store(target, at + 3 * step + j * lanes, total[3][j], full, sums.size)


@inner
def add_totals(dweight, sums, first, outputs, lines, width, threes):
    """dweight += the lanes' sums, for ``outputs`` channels from the ``first`` on with so many ``lines`` of taps each."""
    lanes = vector_lanes(dweight)
    full, zero = lanes_between(0, lanes), zeros(dweight)
    for k in range(lines * threes):
        line, j = k // threes, k % threes * TAPS
        for q in range(outputs):
            for tap in range(min(TAPS, width - j)):
                at = ((k * OUTPUTS + q) * TAPS + tap) * lanes
                low, high = half_totals(load(elements(sums), at, full, zero))
                dweight[((first + q) * lines + line) * width + j + tap] += low + high


class PixelGradient(Algorithm):
    """The weight gradient of few channels, with a column stride of 1."""

    name = "direct"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        (top, left), (row_dilation, dilation) = problem.padding, problem.dilation
        self._geometry = tuple(Geometry(*problem.taps, problem.stride[0], top, left, row_dilation, dilation))

    @classmethod
    def refusal(cls, problem: Problem, one_pass: str = "forward") -> str:
        rows, channels = problem.group_channels
        if channels > MOST_CHANNELS or problem.stride[1] > 1:
            return f"needs at most {MOST_CHANNELS} channels, and a column stride of 1"
        (height, size), (lines, taps), (down, across) = tile_shape(problem.dtype), problem.taps, problem.y_shape[2:]
        lanes = size // VECTORS
        # Vectors' multiply-adds: one takes about as long as one of `WeightGradient` (Intel Xeon, from 1 to 8 channels).
        strips = _up(rows, OUTPUTS) * channels * lines * _up(taps, TAPS) * down * _up(across, lanes)
        patches = _up(rows, height) * _up(channels * lines * taps, lanes) * down * across
        return "" if strips <= patches else "needs channels that do not fill a tile, and rows that fill vectors"

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        problem, lanes = self.problem, tile_shape(self.problem.dtype)[1] // VECTORS
        threes = -(-problem.taps[1] // TAPS)
        size = math.prod((problem.group_channels[1], problem.taps[0], threes, OUTPUTS * TAPS * lanes))
        return {"sums": ((workers, size), problem.dtype)}

    def backward_weight(self, scratch: Arrays, dweight: Array, x: Array, dy: Array) -> None:
        conv2d_pixel_gradient.for_work(self.problem.work)(
            dweight.reshape(-1), scratch["sums"], x, dy, self._geometry, self.problem.groups
        )  # fmt: skip


def _up(number: int, step: int) -> int:
    """The next multiple of ``step``."""
    return -(-number // step) * step

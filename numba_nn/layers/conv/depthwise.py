"""Depthwise convolution with 3 x 3 taps: every channel by itself, straight from the image.

    y[n, c, h, w] = bias[c] + sum_{i, j} weight[c, i, j] x[n, c, h s - p_h + i, w s - p_w + j]

with stride s of 1 or 2. Nine multiply-adds for each output leave no time for copies: vectors of x are loaded where they lie and
serve all rows of y of a block at once: four, or two of stride 2. Blocks go along the rows of the image, as memory does, and
fetch the next rows ahead. A small image needs no such care: a strip of it goes all the way down, and loads each row once. The
last block of a row, and of a column, overlaps the one before, so that no vector is written in part: a masked store of AVX2
takes an AMD CPU ten cycles and more. Images so narrow that half a vector holds a row are taken in pairs: one plane in the lower
half, the next in the upper. Where rows of y reach further beyond those of x than a block allows (padding of 2 and more, odd
widths with stride 2), strips are masked at their ends.

* Forward: `depthwise_forward`; input gradient of stride 1: the same over dy, with the taps reversed.
* The other gradients: `numba_nn.layers.conv.depthwise_gradient`.

*Geometry* is (s, p_h, p_w); *pair* and *strip*: see `numba_nn.layers.conv.depthwise_strip`.
"""

from __future__ import annotations

import math

from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.epilogue import IDENTITY, activate
from numba_nn.core.kernel import In, Out, inlined, inner, kernel
from numba_nn.core.simd import vector_lanes
from numba_nn.core.vector import (
    elements,
    lanes_between,
    lanes_of,
    prefetch_read,
    prefetch_write,
    store,
    swap_halves,
)
from numba_nn.core.workspace import Spec
from numba_nn.layers.conv.algorithm import Algorithm, Problem
from numba_nn.layers.conv.depthwise_gradient import depthwise_backward_weight, depthwise_spread
from numba_nn.layers.conv.depthwise_strip import (
    TASK_IMAGES,
    kernel_taps,
    next_columns,
    planes_together,
    scale_row,
    splat_pair,
    strip_ends,
    strip_masks,
    weigh,
    whole_strip,
)

SMALL = 4096  # elements of a plane of x and one of y, up to which strips go down: half of an L1 cache of float32. Eight images
# of 128 planes from memory take so 0.7 of the time of blocks at 32 x 32, 1.7 at 56 x 56 (Zen 3).
OUTPUT_WORK = 4  # of an output, in units of `Kernel.for_work`: 9 multiply-adds, and reading with a shift


@inlined
def store_row(y, y_size, t, row, column, value, inside, pair):
    """A row of a strip of plane t, or of two planes."""
    y_plane = y_size[0] * y_size[1]
    at = t * y_plane + row * y_size[1] + column
    end = (t + 1) * y_plane if y_size[1] <= lanes_of(y) else 0  # the next row overwrites what follows this one
    store(y, at, value, inside, end)
    if pair[1]:
        store(y, at + y_plane, swap_halves(value, value), inside, end + y_plane)


@inlined
def block_near(y, y_size, x, x_size, taps, start, t, row, column, geometry, strip, inside, pair, sure):
    """Four rows of a strip of stride 1: straight code, in which each row of x is loaded once."""
    top, middle, bottom = taps
    r, at = row - geometry[1], column - geometry[2]
    columns = next_columns(x, x_size, t, r, at, 1, strip, pair, sure)
    first = weigh(top, columns, start)
    columns = next_columns(x, x_size, t, r + 1, at, 1, strip, pair, sure)
    first, second = weigh(middle, columns, first), weigh(top, columns, start)
    columns = next_columns(x, x_size, t, r + 2, at, 1, strip, pair, sure)
    first, second, third = weigh(bottom, columns, first), weigh(middle, columns, second), weigh(top, columns, start)
    store_row(y, y_size, t, row, column, first, inside, pair)
    columns = next_columns(x, x_size, t, r + 3, at, 1, strip, pair, sure)
    second, third, fourth = weigh(bottom, columns, second), weigh(middle, columns, third), weigh(top, columns, start)
    store_row(y, y_size, t, row + 1, column, second, inside, pair)
    columns = next_columns(x, x_size, t, r + 4, at, 1, strip, pair, sure)
    third, fourth = weigh(bottom, columns, third), weigh(middle, columns, fourth)
    store_row(y, y_size, t, row + 2, column, third, inside, pair)
    columns = next_columns(x, x_size, t, r + 5, at, 1, strip, pair, sure)
    store_row(y, y_size, t, row + 3, column, weigh(bottom, columns, fourth), inside, pair)


@inlined
def block_far(y, y_size, x, x_size, taps, start, t, row, column, geometry, strip, inside, pair, sure):
    """Two rows of a strip of stride 2."""
    top, middle, bottom = taps
    r, at = 2 * row - geometry[1], 2 * column - geometry[2]
    value = weigh(top, next_columns(x, x_size, t, r, at, 2, strip, pair, sure), start)
    value = weigh(middle, next_columns(x, x_size, t, r + 1, at, 2, strip, pair, sure), value)
    columns = next_columns(x, x_size, t, r + 2, at, 2, strip, pair, sure)
    store_row(y, y_size, t, row, column, weigh(bottom, columns, value), inside, pair)
    value = weigh(top, columns, start)
    value = weigh(middle, next_columns(x, x_size, t, r + 3, at, 2, strip, pair, sure), value)
    value = weigh(bottom, next_columns(x, x_size, t, r + 4, at, 2, strip, pair, sure), value)
    store_row(y, y_size, t, row + 1, column, value, inside, pair)


@inlined
def block(y, y_size, x, x_size, taps, start, t, row, column, geometry, strip, inside, pair, sure):
    """Some rows of a strip of plane t of y, from ``row`` and ``column``."""
    if geometry[0] == 1:
        block_near(y, y_size, x, x_size, taps, start, t, row, column, geometry, strip, inside, pair, sure)
    else:
        block_far(y, y_size, x, x_size, taps, start, t, row, column, geometry, strip, inside, pair, sure)


@inner
def slide_rows(y, y_size, x, x_size, taps, start, t, row, rows, following, geometry):
    """``rows`` rows of plane t of y, from ``row``; following: plane and row of those that come next, to be fetched."""
    stride, up, left = geometry
    lanes, single = lanes_of(x), (False, False)
    full, share = (1 << lanes) - 1, stride * stride * rows * lanes
    within = row * stride >= up and (row + rows - 1) * stride - up + 2 < x_size[0]
    x_next = (following[0] * x_size[0] + following[1] * stride + 2 - up) * x_size[1]
    y_next = (following[0] * y_size[0] + following[1]) * y_size[1]
    for first in range(0, y_size[1], lanes):
        column = min(first, y_size[1] - lanes)  # the last strip overlaps the one before: no vector is written in part
        prefetch_read(x, x_next, x_next + share)
        prefetch_write(y, y_next, y_next + rows * lanes)
        x_next, y_next = x_next + share, y_next + rows * lanes
        strip = whole_strip(lanes, column * stride - left, x_size[1], stride)
        block(y, y_size, x, x_size, taps, start, t, row, column, geometry, strip, full, single, within)


@inlined
def slide_down(y, y_size, x, x_size, taps, start, t, column, geometry, strip, inside, pair):
    """A strip of plane t of y, from ``column``. Sums of rows that are not complete go on from row to row of x."""
    stride, (top, middle, bottom) = geometry[0], taps
    corner, row = column * stride - geometry[2], -geometry[1]
    sums = below = start
    for r in range(y_size[0] + 3 - stride):
        columns = next_columns(x, x_size, t, row, corner, stride, strip, pair, False)
        row += 1
        if stride == 1:
            value, sums, below = weigh(bottom, columns, sums), weigh(middle, columns, below), weigh(top, columns, start)
        else:
            value, sums = weigh(bottom, columns, sums), weigh(top, columns, start)
            sums = weigh(middle, next_columns(x, x_size, t, row, corner, stride, strip, pair, False), sums)
            row += 1
        if r >= 3 - stride:
            store_row(y, y_size, t, r - 3 + stride, column, value, inside, pair)


@inner
def slide_small(y, y_size, x, x_size, taps, start, t, geometry):
    """A small plane of y, or a low one, by strips of whole vectors."""
    stride, _, left = geometry
    lanes, single = lanes_of(x), (False, False)
    for first in range(0, y_size[1], lanes):
        column = min(first, y_size[1] - lanes)
        strip = whole_strip(lanes, column * stride - left, x_size[1], stride)
        slide_down(y, y_size, x, x_size, taps, start, t, column, geometry, strip, (1 << lanes) - 1, single)


@inner
def slide_narrow(y, y_size, x, x_size, taps, start, t, geometry, pair):
    """A plane of y, or two in a vector, by strips with masks."""
    stride, _, left = geometry
    lanes = lanes_of(x)
    for column in range(0, y_size[1], lanes):
        corner = column * stride - left
        strip = strip_masks(lanes, corner, x_size[1], stride, pair), strip_ends(lanes, corner, x_size[1], stride, pair)
        inside = lanes_between(0, min(lanes, y_size[1] - column))
        slide_down(y, y_size, x, x_size, taps, start, t, column, geometry, strip, inside, pair)


@inner
def slide(y, y_size, x, x_size, taps, start, planes, count, channels, geometry, pair):
    """Some planes of the forward, or pairs of planes: plane ``planes`` and ``count`` - 1 more, ``channels`` apart."""
    stride, _, left = geometry
    rows, end, lanes = (4 if stride == 1 else 2), planes + count * channels, lanes_of(x)
    fits = y_size[1] >= lanes and left <= 1 and y_size[1] * stride - left < x_size[1]
    small = y_size[0] < rows or x_size[0] * x_size[1] + y_size[0] * y_size[1] <= SMALL
    for t in range(planes, end, channels):
        if pair[0] or not fits:
            slide_narrow(y, y_size, x, x_size, taps, start, t, geometry, pair)
            continue
        if small:
            slide_small(y, y_size, x, x_size, taps, start, t, geometry)
            continue
        for first in range(0, y_size[0], rows):
            row, following = min(first, y_size[0] - rows), (t, first + rows)
            if first + rows >= y_size[0]:
                following = (t + channels if t + channels < end else planes + 1), 0
            slide_rows(y, y_size, x, x_size, taps, start, t, row, rows, following, geometry)


@kernel
def depthwise_forward(
    y: Out, x: In, weight: In, scale: In, shift: In, last: int, geometry: tuple[int, int, int], activation: int, slope: float
):  # fmt: skip
    """y = activation(scale times correlation + shift); y: (N, C, H', W'), x: (N, C, H, W), weight: (C, 1, 3, 3).

    scale, shift: (C,), see `numba_nn.core.epilogue`; last: 0, or 8 to take the taps from the last to the first.
    """
    flat, lanes, channels, images = weight.reshape(weight.size), vector_lanes(x), x.shape[1], x.shape[0]
    together, step = planes_together(y.shape[3], lanes), (-1 if last else 1)
    groups = -(-channels // together)
    for task in prange(groups * -(-images // TASK_IMAGES)):
        c, n = task % groups * together, task // groups * TASK_IMAGES
        pair = together == 2, c + together <= channels and together == 2
        taps = kernel_taps(flat, (9 * c + last, 9 * (c + 1) + last), step, pair)
        scaled = splat_pair(scale, c, c + 1, pair)
        taps = scale_row(taps[0], scaled), scale_row(taps[1], scaled), scale_row(taps[2], scaled)
        start, count = splat_pair(shift, c, c + 1, pair), min(TASK_IMAGES, images - n)
        slide(
            elements(y), y.shape[2:], elements(x), x.shape[2:], taps, start, n * channels + c, count, channels, geometry,
            pair,
        )  # fmt: skip
        for image in range(n, n + count if activation != IDENTITY else n):
            for channel in range(c, min(channels, c + together)):
                activate(y[image, channel].reshape(y.shape[2] * y.shape[3]), activation, slope)


class Depthwise(Algorithm):
    """One channel of weights for each channel of images, 3 x 3 taps, stride 1 or 2."""

    name = "depthwise"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._geometry = (problem.stride[0], *problem.padding)
        self._back = (1, *(2 - p for p in problem.padding))

    @classmethod
    def refusal(cls, problem: Problem, one_pass: str = "forward") -> str:
        wanted = (3, 3), (1, 1), problem.x_shape[1]
        if (problem.taps, problem.dilation, problem.groups) != wanted or problem.y_shape[1] != problem.groups:
            return "needs groups = in_channels = out_channels, 3 x 3 taps, and no dilation"
        return "" if problem.stride in ((1, 1), (2, 2)) else "needs stride 1 or 2"

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        return {}

    def forward(
        self, scratch: Arrays, y: Array, x: Array, weight: Array, scale: Array, shift: Array, activation: int, slope: float
    ) -> None:
        depthwise_forward.for_work(self._work)(y, x, weight, scale, shift, 0, self._geometry, activation, slope)

    def backward_input(self, scratch: Arrays, dx: Array, dy: Array, weight: Array) -> None:
        if self._geometry[0] == 1:
            depthwise_forward.for_work(self._work)(dx, dy, weight, self.ones, self.zeros, 8, self._back, IDENTITY, 0.0)
        else:
            depthwise_spread.for_work(self._work)(dx, dy, weight, self._geometry)

    def backward_weight(self, scratch: Arrays, dweight: Array, x: Array, dy: Array) -> None:
        depthwise_backward_weight.for_work(self._work)(dweight, x, dy, self._geometry)

    @property
    def _work(self) -> float:
        return OUTPUT_WORK * math.prod(self.problem.y_shape)

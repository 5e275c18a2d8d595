"""Depthwise convolution with 3 x 3 taps: every channel by itself, straight from the image.

    y[n, c, h, w] = bias[c] + sum_{i, j} weight[c, i, j] x[n, c, h s - p_h + i, w s - p_w + j]

with stride s of 1 or 2. Nine multiply-adds for each output leave no time for copies: a strip of one vector of output columns
slides down the image and keeps the nine vectors of x under its taps in registers. Where x ends, masked loads give zeros.
Images so narrow that half a vector holds a row are taken in pairs: one plane in the lower half, the next in the upper.

* Forward: `depthwise_forward`; input gradient of stride 1: the same over dy, with the taps reversed.
* Input gradient of stride 2: rows and columns of dx are even or odd, each kind with taps of its own, `depthwise_spread`.
* Weight gradient: nine sums of dy times those nine vectors, `depthwise_backward_weight`.

*Geometry* is (s, p_h, p_w). A *pair* is (whether there are two planes in a vector, whether the second is one of the array).
"""

from __future__ import annotations

import math

from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.epilogue import IDENTITY, activate
from numba_nn.core.kernel import In, Out, inlined, inner, kernel
from numba_nn.core.simd import vector_lanes
from numba_nn.core.vector import (
    add,
    elements,
    evens,
    half_totals,
    join_halves,
    lanes_between,
    load,
    multiply,
    multiply_add,
    odds,
    splat,
    store,
    zeros,
    zip_high,
    zip_low,
)
from numba_nn.core.workspace import Spec
from numba_nn.layers.conv.algorithm import Algorithm, Problem

TASK_IMAGES = 8  # images that a task reads with the same taps in registers


@inlined
def planes_together(width, lanes):
    """Planes of ``width`` columns in a vector: 2 or 1."""
    return 2 if width <= lanes // 2 else 1


@inlined
def columns_inside(left, width, start, stop):
    """The mask of the lanes from ``start`` to ``stop`` whose column, left + lane - start, is one of the image."""
    return lanes_between(start + max(0, -left), min(stop, start + width - left))


@inlined
def strip_masks(lanes, left, width, stride, pair):
    """Masks of the loads of `tap_columns`: three of the first plane, three of the second or of what is right of a vector."""
    half = lanes // 2
    if stride == 1:
        end, start, stop, far = (half if pair[0] else lanes), half, (lanes if pair[1] else 0), left
    else:
        end, start, stop, far = lanes, 0, (lanes if pair[0] == pair[1] else 0), (left if pair[0] else left + lanes)
    return (
        columns_inside(left, width, 0, end), columns_inside(left + 1, width, 0, end),
        columns_inside(left + 2, width, 0, end), columns_inside(far, width, start, stop),
        columns_inside(far + 1, width, start, stop), columns_inside(far + 2, width, start, stop),
    )  # fmt: skip


@inlined
def tap_columns(x, lanes, at, plane, stride, masks, pair):
    """Three vectors: x under the tap columns 0, 1, 2 of a strip; ``at``: where the first tap is, in a row of x."""
    zero = zeros(x)
    if stride == 1:
        a, b, c = load(x, at, masks[0], zero), load(x, at + 1, masks[1], zero), load(x, at + 2, masks[2], zero)
        if pair[0]:
            other = at + plane - lanes // 2
            a, b, c = load(x, other, masks[3], a), load(x, other + 1, masks[4], b), load(x, other + 2, masks[5], c)
        return a, b, c
    other = at + (plane if pair[0] else lanes)
    near, far = load(x, at, masks[0], zero), load(x, other, masks[3], zero)
    return evens(near, far), odds(near, far), evens(load(x, at + 2, masks[2], zero), load(x, other + 2, masks[5], zero))


@inlined
def weigh(taps, row, start):
    """start + the sum of three vectors times three taps."""
    return multiply_add(taps[2], row[2], multiply_add(taps[1], row[1], multiply_add(taps[0], row[0], start)))


@inlined
def splat_pair(array, first, second, pair):
    """One element in every lane, or another one in the upper half."""
    value = splat(array[first])
    return join_halves(value, splat(array[second])) if pair[1] else value


@inlined
def row_taps(weight, first, second, step, pair):
    """Three weights, ``step`` apart, as vectors."""
    return (
        splat_pair(weight, first, second, pair), splat_pair(weight, first + step, second + step, pair),
        splat_pair(weight, first + 2 * step, second + 2 * step, pair),
    )  # fmt: skip


@inlined
def kernel_taps(weight, taps_at, step, pair):
    """All nine weights, as three rows of vectors; ``taps_at``: where those of each plane start."""
    first, second = taps_at
    return (
        row_taps(weight, first, second, step, pair), row_taps(weight, first + 3 * step, second + 3 * step, step, pair),
        row_taps(weight, first + 6 * step, second + 6 * step, step, pair),
    )  # fmt: skip


@inlined
def scale_row(row, scale):
    """Three vectors times another one."""
    return multiply(row[0], scale), multiply(row[1], scale), multiply(row[2], scale)


@inner
def slide(y, y_size, x, x_size, lanes, taps, start, planes, count, channels, geometry, pair):
    """Some planes of the forward, or pairs of planes: plane ``planes`` and ``count`` - 1 more, ``channels`` apart."""
    stride, up, left = geometry
    plane, y_plane, half, zero = x_size[0] * x_size[1], y_size[0] * y_size[1], lanes // 2, zeros(x)
    upper = lanes_between(half, half + y_size[1] if pair[1] else 0)
    for column in range(0, y_size[1], lanes):
        corner = column * stride - left
        masks = strip_masks(lanes, corner, x_size[1], stride, pair)
        inside = columns_inside(column, y_size[1], 0, half if pair[0] else lanes)
        for t in range(planes, planes + count * channels, channels):
            second = third = (zero, zero, zero)
            at, wait = t * y_plane + column, 2  # rows of x until the first row of y is complete
            for row in range(-up, (y_size[0] - 1) * stride - up + 3):
                first, second, third = second, third, (zero, zero, zero)
                if row >= 0 and row < x_size[0]:
                    third = tap_columns(x, lanes, t * plane + row * x_size[1] + corner, plane, stride, masks, pair)
                if wait == 0:
                    rows = weigh(taps[1], second, zero), weigh(taps[2], third, zero)
                    value = add(weigh(taps[0], first, start), add(rows[0], rows[1]))
                    store(y, at, value, inside)
                    if pair[1]:
                        store(y, at + y_plane - half, value, upper)
                    at, wait = at + y_size[1], stride
                wait -= 1


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
            elements(y), y.shape[2:], elements(x), x.shape[2:], lanes, taps, start, n * channels + c, count, channels, geometry,
            pair,
        )  # fmt: skip
        for image in range(n, n + count if activation != IDENTITY else n):
            for channel in range(c, min(channels, c + together)):
                activate(y[image, channel].reshape(y.shape[2] * y.shape[3]), activation, slope)


@inner
def spread(dx, dx_size, dy, dy_size, lanes, taps, planes, count, channels, geometry):
    """Some planes of the input gradient of stride 2: plane ``planes`` and ``count`` - 1 more, ``channels`` apart."""
    _, up, left = geometry
    top, middle, bottom = taps
    plane, dy_plane, zero = dx_size[0] * dx_size[1], dy_size[0] * dy_size[1], zeros(dx)
    for v in range(left // 2, (dx_size[1] - 1 + left) // 2 + 1, lanes):
        column = 2 * v - left
        near, far = columns_inside(column, dx_size[1], 0, lanes), columns_inside(column + lanes, dx_size[1], 0, lanes)
        masks = columns_inside(v, dy_size[1], 0, lanes), columns_inside(v - 1, dy_size[1], 0, lanes)
        for t in range(planes, planes + count * channels, channels):
            right = behind = zero  # a row of dy from column v on, and from v - 1 on
            for u in range(up // 2 - 1, (dx_size[0] - 1 + up) // 2 + 1):
                right_above, behind_above, right, behind = right, behind, zero, zero
                if u >= 0 and u < dy_size[0]:
                    at = t * dy_plane + u * dy_size[1] + v
                    right, behind = load(dy, at, masks[0], zero), load(dy, at - 1, masks[1], zero)
                row = 2 * u - up
                for odd in range(2):
                    at = t * plane + (row + odd) * dx_size[1] + column
                    if row + odd >= 0 and row + odd < dx_size[0]:
                        if odd:
                            even = multiply_add(middle[0], right, multiply_add(middle[2], behind, zero))
                            other = multiply_add(middle[1], right, zero)
                        else:
                            even = multiply_add(bottom[0], right_above, multiply_add(bottom[2], behind_above, zero))
                            even = multiply_add(top[0], right, multiply_add(top[2], behind, even))
                            other = multiply_add(top[1], right, multiply_add(bottom[1], right_above, zero))
                        store(dx, at, zip_low(even, other), near)
                        store(dx, at + lanes, zip_high(even, other), far)


@kernel
def depthwise_spread(dx: Out, dy: In, weight: In, geometry: tuple[int, int, int]):
    """dx = input gradient of stride 2. Row h with even t = h + p_h: taps 0 and 2, dy's rows t / 2 and t / 2 - 1; odd: tap 1."""
    flat, lanes, channels, images = weight.reshape(weight.size), vector_lanes(dx), dx.shape[1], dx.shape[0]
    for task in prange(channels * -(-images // TASK_IMAGES)):
        c, n = task % channels, task // channels * TASK_IMAGES
        taps = kernel_taps(flat, (9 * c, 0), 1, (False, False))
        spread(
            elements(dx), dx.shape[2:], elements(dy), dy.shape[2:], lanes, taps, n * channels + c,
            min(TASK_IMAGES, images - n), channels, geometry,
        )  # fmt: skip


@inlined
def weigh_row(sums, row, dy):
    """Three sums, each with a vector of a row of x times dy added."""
    return multiply_add(row[0], dy, sums[0]), multiply_add(row[1], dy, sums[1]), multiply_add(row[2], dy, sums[2])


@inner
def tap_sums(dy, dy_size, x, x_size, lanes, channel, images, channels, geometry, pair):
    """The nine sums of dy times x, as vectors, of one channel or a pair of them."""
    stride, up, left = geometry
    plane, dy_plane, half, zero = x_size[0] * x_size[1], dy_size[0] * dy_size[1], lanes // 2, zeros(x)
    top = middle = bottom = (zero, zero, zero)
    upper = lanes_between(half, half + dy_size[1] if pair[1] else 0)
    for column in range(0, dy_size[1], lanes):
        corner = column * stride - left
        masks = strip_masks(lanes, corner, x_size[1], stride, pair)
        inside = columns_inside(column, dy_size[1], 0, half if pair[0] else lanes)
        for t in range(channel, channel + images * channels, channels):
            second = third = (zero, zero, zero)
            at, wait = t * dy_plane + column, 2
            for row in range(-up, (dy_size[0] - 1) * stride - up + 3):
                first, second, third = second, third, (zero, zero, zero)
                if row >= 0 and row < x_size[0]:
                    third = tap_columns(x, lanes, t * plane + row * x_size[1] + corner, plane, stride, masks, pair)
                if wait == 0:
                    gradient = load(dy, at, inside, zero)
                    if pair[1]:
                        gradient = load(dy, at + dy_plane - half, upper, gradient)
                    top, middle = weigh_row(top, first, gradient), weigh_row(middle, second, gradient)
                    bottom = weigh_row(bottom, third, gradient)
                    at, wait = at + dy_size[1], stride
                wait -= 1
    return top, middle, bottom


@kernel
def depthwise_backward_weight(dweight: Out, x: In, dy: In, geometry: tuple[int, int, int]):
    """dweight += sum of dy times x under each tap; dweight: (C, 1, 3, 3)."""
    lanes, channels = vector_lanes(x), x.shape[1]
    together = planes_together(dy.shape[3], lanes)
    for task in prange(-(-channels // together)):
        c = task * together
        pair = together == 2, c + together <= channels and together == 2
        sums = tap_sums(elements(dy), dy.shape[2:], elements(x), x.shape[2:], lanes, c, x.shape[0], channels, geometry, pair)
        for i in range(3):
            for j in range(3):
                low, high = half_totals(sums[i][j])
                dweight[c, 0, i, j] += low if pair[0] else low + high
                if pair[1]:
                    dweight[c + 1, 0, i, j] += high


class Depthwise(Algorithm):
    """One channel of weights for each channel of images, 3 x 3 taps, stride 1 or 2."""

    name = "depthwise"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._geometry = (problem.stride[0], *problem.padding)
        self._back = (1, *(2 - p for p in problem.padding))

    @classmethod
    def refusal(cls, problem: Problem) -> str:
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
        return float(math.prod(self.problem.y_shape))

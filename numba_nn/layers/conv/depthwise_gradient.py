"""Gradients of a depthwise convolution, see `numba_nn.layers.conv.depthwise`.

* Input gradient of stride 2: rows and columns of dx are even or odd, each kind with taps of its own, `depthwise_spread`.
* Weight gradient: nine sums of dy times the vectors of x under the taps, `depthwise_backward_weight`.
  It multiplies x by zeros beyond dy's rows and columns, so an infinity in x makes NaN also of taps that do not see it.
"""

from __future__ import annotations

from numba import prange

from numba_nn.core.kernel import In, Out, inlined, inner, kernel
from numba_nn.core.simd import vector_lanes
from numba_nn.core.vector import (
    elements,
    half_totals,
    lanes_between,
    load,
    multiply_add,
    prefetch_read,
    store,
    zeros,
    zip_high,
    zip_low,
)
from numba_nn.layers.conv.depthwise_strip import (
    TASK_IMAGES,
    columns_inside,
    kernel_taps,
    next_columns,
    planes_together,
    strip_ends,
    strip_masks,
)

BAND = 16  # rows of dy that are taken together: few enough that x and dy are in cache for all of its strips


@inner
def spread(dx, dx_size, dy, dy_size, lanes, taps, planes, count, channels, geometry):
    """Some planes of the input gradient of stride 2: plane ``planes`` and ``count`` - 1 more, ``channels`` apart."""
    _, up, left = geometry
    top, middle, bottom = taps
    plane, dy_plane, zero, last = dx_size[0] * dx_size[1], dy_size[0] * dy_size[1], zeros(dx), dx_size[1] - 2 * lanes
    width = lanes_between(0, min(lanes, dx_size[1])), lanes_between(0, max(0, min(lanes, dx_size[1] - lanes)))
    for strip in range(0, dx_size[1], 2 * lanes):
        column = max(0, min(strip, last))
        v, first_odd = (column + left + 1) // 2, (column + left) % 2
        masks = columns_inside(v, dy_size[1], 0, lanes), columns_inside(v - 1, dy_size[1], 0, lanes)
        for t in range(planes, planes + count * channels, channels):
            right = behind = zero  # a row of dy from column v on, and from v - 1 on
            for u in range(up // 2 - 1, (dx_size[0] - 1 + up) // 2 + 1):
                right_above, behind_above, right, behind = right, behind, zero, zero
                if u >= 0 and u < dy_size[0]:
                    at = t * dy_plane + u * dy_size[1] + v
                    right, behind = load(dy, at, masks[0], zero), load(dy, at - 1, masks[1], zero)
                here, above = (behind, behind_above) if first_odd else (right, right_above)
                row = 2 * u - up
                for odd in range(2):
                    at = t * plane + (row + odd) * dx_size[1] + column
                    if row + odd >= 0 and row + odd < dx_size[0]:
                        if odd:
                            even = multiply_add(middle[0], right, multiply_add(middle[2], behind, zero))
                            other = multiply_add(middle[1], here, zero)
                        else:
                            even = multiply_add(bottom[0], right_above, multiply_add(bottom[2], behind_above, zero))
                            even = multiply_add(top[0], right, multiply_add(top[2], behind, even))
                            other = multiply_add(top[1], here, multiply_add(bottom[1], above, zero))
                        first, second = (other, even) if first_odd else (even, other)
                        store(dx, at, zip_low(first, second), width[0], (t + 1) * plane)
                        store(dx, at + lanes, zip_high(first, second), width[1], (t + 1) * plane)


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


@inlined
def gradient_row(dy, at, y_plane, lanes, masks, pair):
    """A row of a strip of dy, zero where the strip is not inside."""
    gradient = load(dy, at, masks[0], zeros(dy))
    return load(dy, at + y_plane - lanes // 2, masks[1], gradient) if pair[1] else gradient


@inner
def tap_sums(dy, dy_size, x, x_size, lanes, channel, images, channels, geometry, pair):
    """The nine sums of dy times x, as vectors, of one channel or a pair of them."""
    stride, up, left = geometry
    y_plane, half, zero = dy_size[0] * dy_size[1], lanes // 2, zeros(x)
    sums = (zero, zero, zero), (zero, zero, zero), (zero, zero, zero)
    upper = lanes_between(half, half + dy_size[1] if pair[1] else 0)
    for t in range(channel, channel + images * channels, channels):
        for band in range(0, dy_size[0], BAND):
            last = min(band + BAND, dy_size[0]) - 1
            for column in range(0, dy_size[1], lanes):
                corner, ahead = column * stride - left, column * BAND
                at = t * y_plane + band * dy_size[1] + column
                prefetch_read(
                    dy, at - column + BAND * dy_size[1] + ahead, at - column + BAND * dy_size[1] + ahead + BAND * lanes
                )
                ahead = (t * x_size[0] + (band + BAND) * stride + 2 - up) * x_size[1] + ahead * stride * stride
                prefetch_read(x, ahead, ahead + BAND * lanes * stride * stride)
                strip = strip_masks(lanes, corner, x_size[1], stride, pair), strip_ends(lanes, corner, x_size[1], stride, pair)
                inside = columns_inside(column, dy_size[1], 0, half if pair[0] else lanes), upper
                top, middle, bottom = sums
                second = third = zero  # rows of dy whose middle or last row of x is next
                for row in range(band * stride - up, last * stride - up + 3):
                    columns = next_columns(x, x_size, t, row, corner, stride, strip, pair, False)
                    if stride == 2 and (row + up) % 2:
                        middle = weigh_row(middle, columns, second)
                        continue
                    first = zero
                    if row <= last * stride - up:
                        first = gradient_row(dy, at, y_plane, lanes, inside, pair)
                        at += dy_size[1]
                    top = weigh_row(top, columns, first)
                    if stride == 1:
                        middle, bottom = weigh_row(middle, columns, second), weigh_row(bottom, columns, third)
                    else:
                        bottom = weigh_row(bottom, columns, second)
                    second, third = first, second
                sums = top, middle, bottom
    return sums


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

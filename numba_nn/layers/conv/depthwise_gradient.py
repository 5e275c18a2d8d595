"""Gradients of a depthwise convolution, see `numba_nn.layers.conv.depthwise`.

* Input gradient of stride 2: rows and columns of dx are even or odd, each kind with taps of its own, `depthwise_spread`.
* Weight gradient: nine sums of dy times the vectors of x under the taps, `depthwise_backward_weight`.
  No x is multiplied by a zero in place of a dy that is not there: an infinity in x would make NaN of taps that do not see it.
"""

from __future__ import annotations

from numba import prange

from numba_nn.core.kernel import In, Out, inlined, inner, kernel
from numba_nn.core.simd import vector_lanes
from numba_nn.core.vector import (
    choose,
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
    whole_strip,
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
def gradient_row(dy, at, other, masks, pair):
    """A row of a strip of dy, zero where the strip is not inside; the second plane is ``other`` elements behind."""
    gradient = load(dy, at, masks[0], zeros(dy))
    return load(dy, at + other, masks[1], gradient) if pair[1] else gradient


@inlined
def choose_row(inside, sums, before):
    """Three sums in the lanes inside, what they were before in the others."""
    return choose(inside, sums[0], before[0]), choose(inside, sums[1], before[1]), choose(inside, sums[2], before[2])


@inlined
def sums_near(sums, dy, dy_step, dy_at, x, x_size, rows, t, row, corner, strip, inside, pair):
    """The nine sums of a strip of ``rows`` rows of dy, of stride 1: each row of x is loaded once, for three rows of dy."""
    top, middle, bottom = sums
    first = second = gradient_row(dy, dy_at, dy_step[1], inside, pair)
    top = weigh_row(top, next_columns(x, x_size, t, row, corner, 1, strip, pair, False), first)
    columns = next_columns(x, x_size, t, row + 1, corner, 1, strip, pair, False)
    middle = weigh_row(middle, columns, first)
    if rows > 1:
        second = gradient_row(dy, dy_at + dy_step[0], dy_step[1], inside, pair)
        top = weigh_row(top, columns, second)
    for i in range(2, rows):
        third = gradient_row(dy, dy_at + i * dy_step[0], dy_step[1], inside, pair)
        columns = next_columns(x, x_size, t, row + i, corner, 1, strip, pair, False)
        top = weigh_row(top, columns, third)
        middle, bottom = weigh_row(middle, columns, second), weigh_row(bottom, columns, first)
        first, second = second, third
    if rows > 1:
        columns = next_columns(x, x_size, t, row + rows, corner, 1, strip, pair, False)
        middle, bottom = weigh_row(middle, columns, second), weigh_row(bottom, columns, first)
    return top, middle, weigh_row(bottom, next_columns(x, x_size, t, row + rows + 1, corner, 1, strip, pair, False), second)


@inlined
def sums_far(sums, dy, dy_step, dy_at, x, x_size, rows, t, row, corner, strip, inside, pair):
    """`sums_near` of stride 2."""
    top, middle, bottom = sums
    columns = next_columns(x, x_size, t, row, corner, 2, strip, pair, False)
    for i in range(rows):
        gradient = gradient_row(dy, dy_at + i * dy_step[0], dy_step[1], inside, pair)
        top = weigh_row(top, columns, gradient)
        columns = next_columns(x, x_size, t, row + 2 * i + 1, corner, 2, strip, pair, False)
        middle = weigh_row(middle, columns, gradient)
        columns = next_columns(x, x_size, t, row + 2 * i + 2, corner, 2, strip, pair, False)
        bottom = weigh_row(bottom, columns, gradient)
    return top, middle, bottom


@inlined
def strip_sums(sums, dy, dy_step, dy_at, x, x_size, rows, t, row, corner, stride, strip, inside, pair):
    """The nine sums with those of a strip added: ``rows`` rows of dy, and x from ``row`` and column ``corner`` on."""
    if stride == 1:
        return sums_near(sums, dy, dy_step, dy_at, x, x_size, rows, t, row, corner, strip, inside, pair)
    return sums_far(sums, dy, dy_step, dy_at, x, x_size, rows, t, row, corner, strip, inside, pair)


@inlined
def choose_lanes(inside, sums, before):
    """The nine sums in the lanes inside, what they were before in the others."""
    return (
        choose_row(inside, sums[0], before[0]), choose_row(inside, sums[1], before[1]), choose_row(inside, sums[2], before[2]),
    )  # fmt: skip


@inner
def sums_wide(sums, dy, dy_size, x, x_size, lanes, channel, images, channels, geometry):
    """The nine sums of dy times x, as vectors, of one channel: the last strip overlaps the one before, and counts in part."""
    (stride, up, left), width, single, full = geometry, dy_size[1], (False, False), (1 << lanes) - 1
    for t in range(channel, channel + images * channels, channels):
        for band in range(0, dy_size[0], BAND):
            rows, row = min(BAND, dy_size[0] - band), band * stride - up
            for first in range(0, width, lanes):
                next_at = (t * dy_size[0] + band + BAND) * width + first * BAND
                prefetch_read(dy, next_at, next_at + BAND * lanes)
                next_at = (t * x_size[0] + row + BAND * stride + 2) * x_size[1] + first * BAND * stride * stride
                prefetch_read(x, next_at, next_at + BAND * lanes * stride * stride)
                column = min(first, width - lanes)
                corner, at = column * stride - left, (t * dy_size[0] + band) * width + column
                strip = whole_strip(lanes, corner, x_size[1], stride)
                added = strip_sums(sums, dy, (width, 0), at, x, x_size, rows, t, row, corner, stride, strip, (full, 0), single)
                sums = added if column == first else choose_lanes(lanes_between(first - column, lanes), added, sums)
    return sums


@inner
def sums_narrow(sums, dy, dy_size, x, x_size, lanes, channel, images, channels, geometry, pair):
    """`sums_wide` of one channel or a pair of them, by strips with masks."""
    (stride, up, left), half = geometry, lanes // 2
    plane, width = dy_size[0] * dy_size[1], dy_size[1]
    for column in range(0, width, lanes):
        corner, added = column * stride - left, sums
        strip = strip_masks(lanes, corner, x_size[1], stride, pair), strip_ends(lanes, corner, x_size[1], stride, pair)
        inside = (
            columns_inside(column, width, 0, half if pair[0] else lanes),
            lanes_between(half, half + width if pair[1] else 0),
        )  # fmt: skip
        for t in range(channel, channel + images * channels, channels):
            added = strip_sums(
                added, dy, (width, plane - half), t * plane + column, x, x_size, dy_size[0], t, -up, corner, stride, strip,
                inside, pair,
            )  # fmt: skip
        sums = choose_lanes(inside[0] | inside[1], added, sums)
    return sums


@kernel
def depthwise_backward_weight(dweight: Out, x: In, dy: In, geometry: tuple[int, int, int]):
    """dweight += sum of dy times x under each tap; dweight: (C, 1, 3, 3)."""
    (stride, _, left), width = geometry, dy.shape[3]
    lanes, channels, images, zero = vector_lanes(x), x.shape[1], x.shape[0], zeros(x)
    together = planes_together(width, lanes)
    fits = width >= lanes and left <= 1 and width * stride - left < x.shape[3]
    for task in prange(-(-channels // together)):
        c = task * together
        pair = together == 2, c + together <= channels and together == 2
        sums = (zero, zero, zero), (zero, zero, zero), (zero, zero, zero)
        if fits:
            sums = sums_wide(sums, elements(dy), dy.shape[2:], elements(x), x.shape[2:], lanes, c, images, channels, geometry)
        else:
            sums = sums_narrow(
                sums, elements(dy), dy.shape[2:], elements(x), x.shape[2:], lanes, c, images, channels, geometry, pair
            )
        for i in range(3):
            for j in range(3):
                low, high = half_totals(sums[i][j])
                dweight[c, 0, i, j] += low if pair[0] else low + high
                if pair[1]:
                    dweight[c + 1, 0, i, j] += high

"""What the passes of a depthwise convolution share: strips of one vector of columns, and x under their taps.

A *pair* is (whether there are two planes in a vector, whether the second is one of the array). A *strip* is its masks and ends.
"""

from __future__ import annotations

from numba_nn.core.kernel import inlined
from numba_nn.core.vector import (
    evens,
    join_halves,
    lanes_between,
    lanes_of,
    load,
    multiply,
    multiply_add,
    odds,
    shift_down,
    shift_up,
    splat,
    zeros,
)

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
def strip_ends(lanes, left, width, stride, pair):
    """Whether the first element under tap column 0, and the last under tap column 2, are outside of the image."""
    return left < 0 and not pair[0], left + stride * (lanes - 1) + 2 >= width and not pair[0]


@inlined
def whole_strip(lanes, left, width, stride):
    """A strip of whole vectors of one plane, which need no masks."""
    full = (1 << lanes) - 1
    return (full, full, full, full, full, full), strip_ends(lanes, left, width, stride, (False, False))


@inlined
def tap_columns(x, at, plane, stride, strip, pair):
    """Three vectors: x under the tap columns 0, 1, 2 of a strip; ``at``: where the first tap is, in a row of x.

    At an end of the image they are one another's, shifted: masked loads of AVX2 take longer.
    """
    zero, lanes, (masks, ends) = zeros(x), lanes_of(x), strip
    if stride == 1:
        b = load(x, at + 1, masks[1], zero)
        a = shift_up(zero, b) if ends[0] else load(x, at, masks[0], zero)
        c = shift_down(b, zero) if ends[1] else load(x, at + 2, masks[2], zero)
        if pair[0]:
            other = at + plane - lanes // 2
            a, b, c = load(x, other, masks[3], a), load(x, other + 1, masks[4], b), load(x, other + 2, masks[5], c)
        return a, b, c
    other = at + (plane if pair[0] else lanes)
    near, far = load(x, at + 1, masks[1], zero), load(x, other + 1, masks[4], zero)
    b, c = evens(near, far), odds(near, far)
    if ends[0]:
        return shift_up(zero, c), b, c
    return evens(load(x, at, masks[0], zero), load(x, other, masks[3], zero)), b, c


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


@inlined
def next_columns(x, x_size, t, row, corner, stride, strip, pair, sure):
    """`tap_columns` of a row of plane t; zeros above and below the image, if it is not sure to be inside."""
    if sure or (row >= 0 and row < x_size[0]):
        plane = x_size[0] * x_size[1]
        return tap_columns(x, t * plane + row * x_size[1] + corner, plane, stride, strip, pair)
    zero = zeros(x)
    return zero, zero, zero

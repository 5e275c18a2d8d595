"""From images to panels of a matrix product: a convolution's patch matrix, a block at a time.

The patch matrix of a batch has a row for every (channel, tap) and a column for every output pixel, one image after another; a
convolution is its product with the weights. It is ``taps`` times as large as the images, so it is never built whole: kernels
pack the part that they multiply next, for some output pixels and a slice of channels, straight from the images. Pixels may as
well be the rows of a product: panels as wide as a tile has rows hold the transpose of the patch matrix.

*Geometry* is (taps, stride, origin, dilation), each for height and width, as eight numbers in a row (Numba hands no nested
tuples to a parallel loop). Origin is where in the image the first tap of the first output pixel lies: in a forward, minus the
padding.
"""

from __future__ import annotations

import numpy as np

from numba_nn.core.kernel import inlined, inner
from numba_nn.core.vector import elements, evens, lanes_between, lanes_of, load, store, zeros

Geometry = tuple[int, ...]


@inner
def pairs(geometry):
    """The four pairs of a geometry."""
    return geometry[0:2], geometry[2:4], geometry[4:6], geometry[6:8]


@inner
def pack_patches(panels, at, width, x, channel, channels, out_size, geometry, first, last):
    """Pack output pixels ``first`` to ``last`` of the batch into panels of ``width`` columns; panels: flat, x: (N, C, H, W).

    panels[at + (p depth + k) width + t] = what tap k of pixel first + p width + t sees, zero beyond the images. k runs over
    (channel, tap), from ``channel`` of all groups on, depth = channels taps; out_size: height and width of the output. What
    follows the last pixel in its row of a panel may be written, too.
    """
    depth, pixels, lanes = channels * geometry[0] * geometry[1], out_size[0] * out_size[1], lanes_of(x)
    image, h, w = first // pixels, first % pixels // out_size[1], first % out_size[1]
    left, column = last - first, 0
    while left > 0:
        if column == 0 and left < width:  # numbers that are left from other work may be so small that each takes 100 cycles
            for start in range((left - 1) // lanes * lanes, width, lanes):
                clear_rows(panels, at + start, width, lanes_between(0, min(lanes, width - start)), depth)
        run = min(min(out_size[1] - w, width - column), min(left, lanes))
        plane = image * x.shape[1] + channel
        pack_run(panels, at + column, width, width - column, x, plane, channels, (h, w), run, geometry)
        left, column, w = left - run, column + run, w + run
        if column == width:
            at, column = at + depth * width, 0
        if w == out_size[1]:
            h, w = h + 1, 0
        if h == out_size[0]:
            image, h = image + 1, 0


@inner
def pack_run(panels, at, width, room, x, plane, channels, pixel, run, geometry):
    """Neighbouring pixels of one output row, a vector of them at most, under every (channel, tap).

    plane: of the first channel among all of the batch; room: columns from there on in the panel; pixel: the first one's place.
    """
    taps, stride, origin, dilation = pairs(geometry)
    height, columns, lanes = x.shape[2], x.shape[3], lanes_of(x)
    area, step, whole = height * columns, taps[0] * taps[1] * width, lanes_between(0, lanes if lanes <= room else run)
    top = pixel[0] * stride[0] + origin[0]
    for j in range(taps[1]):
        left = pixel[1] * stride[1] + origin[1] + j * dilation[1]
        if stride[1] == 1:  # a division takes as long as packing two channels
            begin, end = min(run, max(0, -left)), min(run, columns - left)
        else:
            begin, end = min(run, max(0, -(left // stride[1]))), min(run, -((left - columns) // stride[1]))
        for i in range(taps[0]):
            row, to = top + i * dilation[0], at + (i * taps[1] + j) * width
            place, inside = (plane * height + row) * columns + left, row >= 0 and row < height
            pack_tap(panels, to, step, whole, run, x, place, area, channels if inside else 0, begin, end, stride[1])
            clear_rows(panels, to, step, whole, 0 if inside else channels)


@inlined
def pack_tap(panels, to, step, whole, run, x, place, area, channels, begin, end, stride):
    """`pack_run` of one tap, of which pixels ``begin`` to ``end`` of the run see the image.

    step, area: from channel to channel in panels and image; whole: the lanes that may be written.
    """
    source, target, zero, lanes = elements(x), elements(panels), zeros(x), lanes_of(x)
    if stride == 1:
        seen = lanes_between(begin, end)
        for c in range(channels):
            store(target, to + c * step, load(source, place + c * area, seen, zero), whole, 0)
    elif stride == 2:
        first, last = 2 * begin, 2 * end - 1
        near, far = lanes_between(first, min(lanes, last)), lanes_between(max(0, first - lanes), last - lanes)
        for c in range(channels):
            low, high = load(source, place + c * area, near, zero), load(source, place + c * area + lanes, far, zero)
            store(target, to + c * step, evens(low, high), whole, 0)
    else:
        flat = x.reshape(x.size)
        for c in range(channels):
            for t in range(run):
                inside = begin <= t and t < end
                panels[np.uintp(to + c * step + t)] = (
                    flat[np.uintp(place + c * area + t * stride)] if inside else panels.dtype.type(0)
                )


@inlined
def clear_rows(panels, to, step, whole, rows):
    """Zeros in the lanes ``whole``, in as many rows, ``step`` apart: where no pixel is seen, or wanted."""
    target, zero = elements(panels), zeros(panels)
    for k in range(rows):
        store(target, to + k * step, zero, whole, 0)

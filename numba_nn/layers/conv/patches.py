"""From images to panels of a matrix product: a convolution's patch matrix, a block at a time.

The patch matrix of a batch has a row for every (channel, tap) and a column for every output pixel, one image after another; a
convolution is its product with the weights. It is ``taps`` times as large as the images, so it is never built whole: kernels
pack the part that they multiply next, for some output pixels and a slice of channels, straight from the images.

*Geometry* is (taps, stride, origin, dilation), each for height and width, as eight numbers in a row (Numba hands no nested
tuples to a parallel loop). Origin is where in the input the first tap of the first output pixel lies, minus the padding.
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
    """Pack output pixels ``first`` to ``last`` of the batch into panels of ``width`` columns.

    panels[at + (p depth + k) width + t] = what tap k of pixel first + p width + t sees, zero beyond the images; k runs over
    (channel, tap), from ``channel`` on, depth = channels taps; out_size: height and width of the output. What follows the last
    pixel in its row of a panel may be written, too.
    """
    depth, pixels, lanes = channels * geometry[0] * geometry[1], out_size[0] * out_size[1], lanes_of(x)
    done = 0
    while done < last - first:
        image, pixel, column = (first + done) // pixels, (first + done) % pixels, done % width
        h, w = pixel // out_size[1], pixel % out_size[1]
        run = min(min(out_size[1] - w, width - column), min(last - first - done, lanes))
        to = at + (done // width * depth) * width + column
        pack_run(panels, to, width, width - column, x, image * x.shape[1] + channel, channels, (h, w), run, geometry)
        done += run


@inner
def pack_run(panels, at, width, room, x, plane, channels, pixel, run, geometry):
    """Neighbouring pixels of one output row, a vector of them at most, under every (channel, tap).

    ``room`` is left in each row of the panel.
    """
    taps, stride, origin, dilation = pairs(geometry)
    height, columns, lanes = x.shape[2], x.shape[3], lanes_of(x)
    source, target, zero = elements(x), elements(panels), zeros(x)
    area, step, whole = height * columns, taps[0] * taps[1] * width, lanes_between(0, lanes if lanes <= room else run)
    for i in range(taps[0]):
        row = pixel[0] * stride[0] + origin[0] + i * dilation[0]
        inside = row >= 0 and row < height
        for j in range(taps[1]):
            left, to = pixel[1] * stride[1] + origin[1] + j * dilation[1], at + (i * taps[1] + j) * width
            begin = min(run, max(0, -(left // stride[1])))
            end = min(run, -((left - columns) // stride[1])) if inside else 0
            place = (plane * height + row) * columns + left
            if stride[1] == 1:
                mask = lanes_between(begin, end)
                for c in range(channels):
                    value = load(source, place + c * area, mask, zero)
                    store(target, to + c * step, value, whole, 0)
            elif stride[1] == 2:
                copy_pairs(target, to, step, whole, room, source, place, area, channels, begin, end, zero)
            else:
                copy_apart(panels, to, step, run, x, place, area, channels, begin, end, stride[1])


@inlined
def copy_pairs(target, to, step, whole, room, source, place, area, channels, begin, end, zero):
    """`pack_run` of one tap with a column stride of two."""
    lanes = lanes_of(target)
    first, last = 2 * begin, 2 * end - 1
    near = lanes_between(first, min(lanes, last))
    far = lanes_between(max(0, first - lanes), last - lanes)
    for c in range(channels):
        low, high = load(source, place + c * area, near, zero), load(source, place + c * area + lanes, far, zero)
        store(target, to + c * step, evens(low, high), whole, 0)


@inner
def copy_apart(panels, to, step, run, x, place, area, channels, begin, end, stride):
    """`pack_run` of one tap with any column stride."""
    flat = x.reshape(x.size)
    for c in range(channels):
        for t in range(run):
            seen = begin <= t and t < end
            panels[np.uintp(to + c * step + t)] = flat[np.uintp(place + c * area + t * stride)] if seen else 0

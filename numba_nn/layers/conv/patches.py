"""From an image to the panels of a matrix product: a convolution's patch matrix, a slice at a time.

The patch matrix of an image has a row for every (channel, tap) and a column for every output pixel; a convolution is its
product with the weights. It is ``taps`` times as large as the image, so it is never built. Instead, for a block of output
pixels and a slice of channels:

1. `pad_channels` copies the image rows that the block needs into scratch, with zeros around them, so that nothing later asks
   where the border is.
2. `pack_patches` copies runs of those rows into panels (columns by ``width``, see `numba_nn.core.product.gemm`).

A *view* is (rows, columns, row, left, taps, stride, dilation): the size of one channel of that scratch, the output pixel whose
first tap is its corner, and how other output pixels lie in it (`numba_nn.layers.conv.blocks.patch_view`).
"""

from __future__ import annotations

from numba_nn.core.kernel import inner
from numba_nn.core.rows import fill
from numba_nn.core.simd import copy_run, vector_lanes


@inner
def pad_channels(padded, at, x, n, first, last, top, left, rows, columns):
    """padded[c, r, q] = x[n, first + c, r + top, q + left], zero where that is no pixel of the image.

    top, left: position of the padded slice's corner in the image, negative in the border; padded: (last - first, rows,
    columns) from element ``at``.
    """
    zero = padded.dtype.type(0)
    height, width = x.shape[2], x.shape[3]
    start = min(columns, max(0, -left))  # first column that may hold a pixel
    stop = max(start, min(columns, width - left))
    flat = x.reshape(x.size)
    for c in range(first, last):
        for r in range(rows):
            row = r + top
            inside = row >= 0 and row < height
            fill(padded, at, at + (start if inside else columns), zero)
            if inside:
                source = ((n * x.shape[1] + c) * height + row) * width + left
                pad_row(padded, at, flat, source, start, stop)
                fill(padded, at + stop, at + columns, zero)
            at += columns


@inner
def pad_row(padded, at, x, source, start, stop):
    """One row of `pad_channels`, between its borders; ``source`` is where its first column would be in the flat image."""
    run, lanes = stop - start, vector_lanes(padded)
    if source + start + -(-run // lanes) * lanes <= x.size:  # whole vectors do not read beyond the user's array
        copy_run(padded, at + start, x, source + start, run)
    else:
        for q in range(start, stop):
            padded[at + q] = x[source + q]


@inner
def pack_patches(panels, at, width, padded, channels, view, out_width, first, last):
    """Pack output pixels ``first`` to ``last`` into panels of ``width`` columns, a row for every (channel, tap).

    panels[at + (p depth + k) width + t] = padded value under tap k of pixel first + p width + t, depth = channels taps;
    zero beyond the last pixel.
    """
    rows, columns, top_row, left_column, taps, stride, dilation = view
    depth = channels * taps[0] * taps[1]
    for start in range(first, last, width):
        count, done = min(width, last - start), 0
        left = start % out_width
        origin = (start // out_width - top_row) * stride[0] * columns - left_column * stride[1]
        while done < count:
            run = min(out_width - left, count - done)
            pack_run(panels, at + done, width, width - done, padded, origin + left * stride[1], run, channels, view)
            done += run
            origin += stride[0] * columns
            left = 0
        for k in range(depth if count < width else 0):
            fill(panels, at + k * width + count, at + (k + 1) * width, panels.dtype.type(0))
        at += depth * width


@inner
def pack_run(panels, at, width, room, padded, origin, run, channels, view):
    """Neighbouring pixels of one output row, under every (channel, tap); ``room`` is left in each row of the panel."""
    rows, columns, _, _, taps, stride, dilation = view
    lanes = vector_lanes(panels)
    # Whole vectors may write beyond the run, where a later run of the same row will be packed, but not beyond the row.
    vectors = stride[1] == 1 and -(-run // lanes) * lanes <= room
    for c in range(channels):
        for i in range(taps[0]):
            source = origin + (c * rows + i * dilation[0]) * columns
            for _ in range(taps[1]):
                if vectors:
                    copy_run(panels, at, padded, source, run)
                else:
                    for t in range(run):
                        panels[at + t] = padded[source + t * stride[1]]
                source += dilation[1]
                at += width

"""From an image to the panels of a matrix product: a convolution's patch matrix, a slice at a time.

The patch matrix of an image has a row for every (channel, tap) and a column for every output pixel; a convolution is its
product with the weights. It is ``taps`` times as large as the image, so it is never built. Instead, for a block of output
pixels and a slice of channels:

1. `pad_channels` copies the image rows that the block needs into scratch, with zeros around them, so that nothing later asks
   where the border is. Zeros can also be inserted *between* the pixels, which turns the input gradient of a strided
   convolution into a plain one.
2. `pack_patches` copies runs of those rows into panels (columns by ``width``, see `numba_nn.core.gemm`).

A *view* is (rows, columns, taps, stride, dilation): the size of one channel of that scratch, and how output pixels lie in it.
"""

from __future__ import annotations

from numba_nn.core.gemm import inner
from numba_nn.core.simd import copy_run


@inner
def pad_channels(padded, at, x, n, first, last, top, left, rows, columns, insertion):
    """padded[c, r, q] = x[n, first + c, (r + top) / i_h, (q + left) / i_w], zero where that is no pixel of the image.

    top, left: position of the padded slice's corner in the image with zeros inserted, negative in the border;
    padded: (last - first, rows, columns) from element ``at``.
    """
    zero = padded.dtype.type(0)
    height, width = x.shape[2] * insertion[0], x.shape[3] * insertion[1]
    start = min(columns, max(0, -left))  # first column that may hold a pixel
    stop = max(start, min(columns, width - left))
    for c in range(first, last):
        for r in range(rows):
            row = r + top
            if row < 0 or row >= height or row % insertion[0] != 0:
                for q in range(columns):
                    padded[at + q] = zero
            else:
                for q in range(start):
                    padded[at + q] = zero
                fill_row(padded, at, x[n, c, row // insertion[0]], start, stop, left, insertion[1])
                for q in range(stop, columns):
                    padded[at + q] = zero
            at += columns


@inner
def fill_row(padded, at, row, start, stop, left, insertion):
    """One row of `pad_channels`, between its borders."""
    if insertion == 1:
        for q in range(start, stop):
            padded[at + q] = row[q + left]
        return
    for q in range(start, stop):
        padded[at + q] = row[(q + left) // insertion] if (q + left) % insertion == 0 else padded.dtype.type(0)


@inner
def patch_view(first, last, out_width, taps, stride, dilation):
    """The view under output pixels ``first`` to ``last``."""
    rows = ((last - 1) // out_width - first // out_width) * stride[0] + (taps[0] - 1) * dilation[0] + 1
    columns = (out_width - 1) * stride[1] + (taps[1] - 1) * dilation[1] + 1
    return rows, columns, taps, stride, dilation


@inner
def pack_patches(panels, at, width, padded, padded_at, channels, view, top_row, out_width, first, last):
    """Pack output pixels ``first`` to ``last`` into panels of ``width`` columns, a row for every (channel, tap).

    panels[at + (p depth + k) width + t] = padded value under tap k of pixel first + p width + t, depth = channels taps;
    zero beyond the last pixel. top_row: output row to which the top of the padded scratch belongs.
    """
    rows, columns, taps, stride, dilation = view
    for start in range(first, last, width):
        count = min(width, last - start)
        top, left = start // out_width - top_row, start % out_width
        for c in range(channels):
            for i in range(taps[0]):
                for j in range(taps[1]):
                    origin = padded_at + (c * rows + top * stride[0] + i * dilation[0]) * columns + j * dilation[1]
                    pack_pixels(panels, at, padded, origin, columns * stride[0], stride[1], left, out_width, count)
                    for t in range(count, width):
                        panels[at + t] = panels.dtype.type(0)
                    at += width


@inner
def pack_pixels(panels, at, padded, origin, row_step, step, left, out_width, count):
    """``count`` neighbouring output pixels under one tap; the first lies ``left`` pixels into an output row."""
    done = 0
    while done < count:
        run = min(out_width - left, count - done)
        if step == 1:
            # Writes up to a vector too far: into pixels, taps and panels that are packed later, and at last into slack.
            copy_run(panels, at + done, padded, origin + left, run)
        else:
            for t in range(run):
                panels[at + done + t] = padded[origin + (left + t) * step]
        done += run
        left = 0
        origin += row_step

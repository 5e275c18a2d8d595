"""The weight gradient of a convolution: dy (O x pixels) times patches (pixels x C taps), summed over images.

Blocks of patches are packed by `numba_nn.layers.conv.patches`. *Geometry* is (taps, stride, origin, dilation), each for
height and width, as eight numbers in a row (Numba hands no nested tuples to a parallel loop). Origin is where in the input the
first tap of the first output pixel lies, minus the padding.
"""

from __future__ import annotations

from numba import prange

from numba_nn.core.gemm import fill_block, multiply_panels
from numba_nn.core.kernel import In, Out, Scratch, inner, kernel
from numba_nn.core.packing import pack_panels
from numba_nn.core.reduce import block_bounds, block_count
from numba_nn.core.simd import tile_columns, tile_rows
from numba_nn.layers.conv.blocks import BLOCK_PIXELS, channel_slice, gradient_blocks, pairs, patch_view
from numba_nn.layers.conv.patches import pack_patches, pad_channels


@kernel
def conv2d_backward_weight(
    dweight: Out, partial: Scratch, packed_dy: Scratch, padded: Scratch, patches: Scratch, panels: Scratch,
    x: In, dy: In, geometry: tuple[int, ...], groups: int,
):  # fmt: skip
    """dweight += dy times patches of x; dweight: flat, partial: (parts of the batch, O C taps), not used if there is one."""
    rows, channels = dy.shape[1] // groups, x.shape[1] // groups
    row_blocks = gradient_blocks(rows, tile_rows(dy))
    step = channel_slice(channels, geometry[:2])
    slices = -(-channels // step)
    parts, workers = partial.shape[0], padded.shape[0]
    tasks = parts * groups * row_blocks * slices
    for worker in prange(workers):
        for t in range(tasks * worker // workers, tasks * (worker + 1) // workers):
            part, g = t // (groups * row_blocks * slices), t // (row_blocks * slices) % groups
            i, c = t // slices % row_blocks, t % slices * step
            row, row_end = i * rows // row_blocks, (i + 1) * rows // row_blocks
            n, n_end = part * x.shape[0] // parts, (part + 1) * x.shape[0] // parts
            gradient_block(
                partial[part] if parts > 1 else dweight, parts == 1, packed_dy[worker], padded[worker], patches[worker],
                panels[worker], x, dy, geometry, groups, g, row, row_end, c, min(step, channels - c), n, n_end,
            )  # fmt: skip
    for block in prange(block_count(dweight.size) if parts > 1 else 0):
        start, stop = block_bounds(block, dweight.size)
        total = dweight[start:stop]
        for part in range(parts):
            addend = partial[part, start:stop]
            for k in range(total.size):
                total[k] += addend[k]


@inner
def gradient_block(
    dweight, keep, packed_dy, padded, patches, panels, x, dy, geometry, groups, g, row, row_end, channel, count, n, n_end
):  # fmt: skip
    """Gradient of some output channels and a slice of input channels of group g, from images n to n_end.

    It is added to what dweight holds if ``keep``.
    """
    taps, stride, origin, _ = pairs(geometry)
    height, width = tile_rows(dy), tile_columns(dy)
    flat, pixels, out_width = dy.reshape(dy.size), dy.shape[2] * dy.shape[3], dy.shape[3]
    channels, depth = x.shape[1] // groups, count * taps[0] * taps[1]
    o = g * dy.shape[1] // groups + row
    columns = channels * taps[0] * taps[1]
    one_tap = taps == stride == (1, 1) and origin == (0, 0) and x.shape[2:] == dy.shape[2:]
    at, c0 = o * columns + channel * taps[0] * taps[1], g * channels + channel
    if n == n_end and not keep:
        fill_block(dweight, at, columns, row_end - row, depth, dweight.dtype.type(0))
    for image in range(n, n_end):
        for first in range(0, pixels, BLOCK_PIXELS):
            last = min(pixels, first + BLOCK_PIXELS)
            length = last - first
            pack_pixels(panels, patches, padded, x, image, c0, count, first, last, out_width, geometry, one_tap)
            source = (image * dy.shape[1] + o) * pixels + first
            pack_panels(packed_dy, 0, flat, source, pixels, 1, row_end - row, height, length, 0, length)
            multiply_panels(
                dweight, at, columns, row_end - row, depth, keep or image > n or first > 0,
                packed_dy, 0, height * length, panels, 0, width * length, length,
            )  # fmt: skip


@inner
def pack_pixels(panels, patches, padded, x, image, channel, count, first, last, out_width, geometry, one_tap):
    """Panels of the patches under some output pixels, in ``count`` channels of an image."""
    taps, stride, origin, dilation = pairs(geometry)
    length, width = last - first, tile_columns(x)
    if one_tap:  # the patches are the image as it is
        pixels = x.shape[2] * x.shape[3]
        at = (image * x.shape[1] + channel) * pixels + first
        pack_panels(panels, 0, x.reshape(x.size), at, pixels, 1, count, width, length, 0, length)
        return
    view = patch_view(first, last, out_width, taps, stride, dilation)
    top, left = view[2] * stride[0] + origin[0], view[3] * stride[1] + origin[1]
    pad_channels(padded, 0, x, image, channel, channel + count, top, left, view[0], view[1])
    pack_patches(patches, 0, length, padded, count, view, out_width, first, last)
    pack_panels(panels, 0, patches, 0, length, 1, count * taps[0] * taps[1], width, length, 0, length)

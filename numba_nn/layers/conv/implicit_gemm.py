"""Two-dimensional convolution (cross-correlation, as is usual) as a matrix product that never builds its patch matrix.

    y[n, o, h, w] = bias[o] + sum_{c, i, j} weight[o, c, i, j] x[n, c, h s_h - p_h + i d_h, w s_w - p_w + j d_w]

N images; O output and C input channels, of one group where there are several; i, j taps; s stride, p padding, d dilation.

* Forward: weights (O x C taps) times patches (C taps x pixels), `conv2d_correlate`.
* Input gradient: the same correlation over dy, with its pixels s apart, weights of input and output channels exchanged and
  taps reversed, and padding d (taps - 1) - p.
* Weight gradient: dy (O x pixels) times patches transposed (pixels x C taps), summed over images.

Work is split into tasks by shape alone. Tasks are dealt to as many workers as the scratch has rows.

*Geometry*, where an argument has that name, is (taps, stride, origin, dilation, insertion), each for height and width, as ten
numbers in a row (Numba hands no nested tuples to a parallel loop). Origin is where in the input the first tap of the first
output pixel lies, minus the padding; insertion - 1 zeros are thought between neighbouring pixels of the input.
"""

from __future__ import annotations

from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.epilogue import IDENTITY, finish_channel
from numba_nn.core.gemm import fill_block, multiply_panels, pack_panels
from numba_nn.core.kernel import In, Out, Scratch, inner, kernel
from numba_nn.core.simd import tile_columns, tile_rows
from numba_nn.core.workspace import Spec
from numba_nn.layers.conv.algorithm import Algorithm, Problem
from numba_nn.layers.conv.blocks import (
    BLOCK_PIXELS,
    channel_slice,
    correlation_blocks,
    gradient_blocks,
    pairs,
    panel_count,
    patch_view,
    scratch_shapes,
)
from numba_nn.layers.conv.patches import pack_patches, pad_channels


@kernel
def conv2d_pack_weight(packed: Out, weight: In, groups: int):
    """Pack weights (O, C, kh, kw) for the forward: panels of output channels, a row for every (channel, tap)."""
    rows, depth = weight.shape[0] // groups, weight.shape[1] * weight.shape[2] * weight.shape[3]
    height = tile_rows(packed)
    panels = panel_count(rows, height)
    flat = weight.reshape(weight.size)
    for t in prange(groups * panels):
        row = t % panels * height
        source = (t // panels * rows + row) * depth
        pack_panels(packed, t * height * depth, flat, source, depth, 1, min(height, rows - row), height, depth, 0, depth)


@kernel
def conv2d_pack_weight_transposed(packed: Out, weight: In, groups: int):
    """Pack weights for the input gradient: panels of input channels, a row for every (output channel, reversed tap)."""
    rows, channels = weight.shape[0] // groups, weight.shape[1]
    taps = weight.shape[2] * weight.shape[3]
    height = tile_rows(packed)
    panels = panel_count(channels, height)
    flat = weight.reshape(weight.size)
    for t in prange(groups * panels):
        g, row = t // panels, t % panels * height
        filled = min(height, channels - row)
        for o in range(rows):
            last_tap = ((g * rows + o) * channels + row) * taps + taps - 1
            pack_panels(packed, (t * rows + o) * taps * height, flat, last_tap, taps, -1, filled, height, taps, 0, taps)


@kernel
def conv2d_correlate(
    y: Out, padded: Scratch, patches: Scratch, x: In, packed_weight: In, scale: In, shift: In,
    geometry: tuple[int, ...], groups: int, activation: int, slope: float,
):  # fmt: skip
    """y = activation(scale times correlation of x with packed weights + shift); y: (N, O, H', W'), x: (N, C, H, W).

    scale, shift: (O,), see `numba_nn.core.epilogue`; scratch: (workers, elements).
    """
    rows, pixels = y.shape[1] // groups, y.shape[2] * y.shape[3]
    height, width = tile_rows(y), tile_columns(y)
    row_panels, pixel_panels = panel_count(rows, height), panel_count(pixels, width)
    row_blocks, pixel_blocks = correlation_blocks(row_panels, pixel_panels, height, width, y.shape[0] * groups)
    tasks, workers, flat = y.shape[0] * groups * row_blocks * pixel_blocks, padded.shape[0], y.reshape(y.size)
    for worker in prange(workers):
        for t in range(tasks * worker // workers, tasks * (worker + 1) // workers):
            n, g = t // (groups * row_blocks * pixel_blocks), t // (row_blocks * pixel_blocks) % groups
            i, j = t // pixel_blocks % row_blocks, t % pixel_blocks
            first = j * pixel_panels // pixel_blocks * width
            last = min(pixels, (j + 1) * pixel_panels // pixel_blocks * width)
            row = i * row_panels // row_blocks * height
            row_end = min(rows, (i + 1) * row_panels // row_blocks * height)
            correlate_block(
                y, padded[worker], patches[worker], x, packed_weight, geometry, groups, n, g, row, row_end, first, last
            )  # fmt: skip
            for r in range(row, row_end):
                o = g * rows + r
                at = (n * y.shape[1] + o) * pixels + first
                finish_channel(flat, at, last - first, scale[o], shift[o], activation, slope)


@inner
def correlate_block(y, padded, patches, x, weight, geometry, groups, n, g, row, row_end, first, last):
    """Output channels ``row`` to ``row_end`` of group g, pixels ``first`` to ``last`` of image n."""
    taps, stride, origin, dilation, insertion = pairs(geometry)
    height, width = tile_rows(y), tile_columns(y)
    flat, pixels, out_width = y.reshape(y.size), y.shape[2] * y.shape[3], y.shape[3]
    channel = g * y.shape[1] // groups + row
    at = (n * y.shape[1] + channel) * pixels + first
    channels, tap_count = x.shape[1] // groups, taps[0] * taps[1]
    panels = panel_count(y.shape[1] // groups, height)
    weight_at = (g * panels * height + row) * channels * tap_count
    view = patch_view(first, last, out_width, taps, stride, dilation)
    top, left = view[2] * stride[0] + origin[0], view[3] * stride[1] + origin[1]
    step = channel_slice(channels, taps)
    for c in range(0, channels, step):
        count = min(step, channels - c)
        c0 = g * channels + c
        pad_channels(padded, 0, x, n, c0, c0 + count, top, left, view[0], view[1], insertion)
        pack_patches(patches, 0, width, padded, count, view, out_width, first, last)
        depth = count * tap_count
        multiply_panels(
            flat, at, pixels, row_end - row, last - first, c > 0, weight, weight_at + c * tap_count * height,
            height * channels * tap_count, patches, 0, width * depth, depth,
        )  # fmt: skip


@kernel
def conv2d_forward(
    y: Out, packed_weight: Scratch, padded: Scratch, patches: Scratch, x: In, weight: In, scale: In, shift: In,
    geometry: tuple[int, ...], groups: int, activation: int, slope: float,
):  # fmt: skip
    """y = activation(scale times correlation of x and weight + shift); weight: (O, C / groups, kh, kw), scale, shift: (O,)."""
    conv2d_pack_weight(packed_weight, weight, groups)
    conv2d_correlate(y, padded, patches, x, packed_weight, scale, shift, geometry, groups, activation, slope)


@kernel
def conv2d_backward_input(
    dx: Out, packed_weight: Scratch, padded: Scratch, patches: Scratch, dy: In, weight: In, ones: In, zeros: In,
    geometry: tuple[int, ...], groups: int,
):  # fmt: skip
    """dx = correlation of dy, its pixels a stride apart, with the weights reversed; ones, zeros: (C,)."""
    conv2d_pack_weight_transposed(packed_weight, weight, groups)
    conv2d_correlate(dx, padded, patches, dy, packed_weight, ones, zeros, geometry, groups, IDENTITY, 0.0)


@kernel
def conv2d_backward_weight(
    dweight: Out, partial: Scratch, packed_dy: Scratch, padded: Scratch, patches: Scratch, panels: Scratch,
    x: In, dy: In, geometry: tuple[int, ...], groups: int,
):  # fmt: skip
    """dweight += dy times patches of x; dweight: flat, partial: (parts of the batch, O C taps)."""
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
                partial[part], packed_dy[worker], padded[worker], patches[worker], panels[worker], x, dy, geometry, groups,
                g, row, row_end, c, min(step, channels - c), n, n_end,
            )  # fmt: skip
    for k in prange(dweight.size):
        for part in range(parts):
            dweight[k] += partial[part, k]


@inner
def gradient_block(
    dweight, packed_dy, padded, patches, panels, x, dy, geometry, groups, g, row, row_end, channel, count, n, n_end
):  # fmt: skip
    """Gradient of some output channels and a slice of input channels of group g, from images n to n_end."""
    taps, stride, origin, dilation, insertion = pairs(geometry)
    height, width = tile_rows(dy), tile_columns(dy)
    flat, pixels, out_width = dy.reshape(dy.size), dy.shape[2] * dy.shape[3], dy.shape[3]
    channels, depth = x.shape[1] // groups, count * taps[0] * taps[1]
    o = g * dy.shape[1] // groups + row
    columns = channels * taps[0] * taps[1]
    at, c0 = o * columns + channel * taps[0] * taps[1], g * channels + channel
    if n == n_end:
        fill_block(dweight, at, columns, row_end - row, depth, dweight.dtype.type(0))
    for image in range(n, n_end):
        for first in range(0, pixels, BLOCK_PIXELS):
            last = min(pixels, first + BLOCK_PIXELS)
            length = last - first
            view = patch_view(first, last, out_width, taps, stride, dilation)
            top, left = view[2] * stride[0] + origin[0], view[3] * stride[1] + origin[1]
            pad_channels(padded, 0, x, image, c0, c0 + count, top, left, view[0], view[1], insertion)
            pack_patches(patches, 0, length, padded, count, view, out_width, first, last)
            pack_panels(panels, 0, patches, 0, length, 1, depth, width, length, 0, length)
            source = (image * dy.shape[1] + o) * pixels + first
            pack_panels(packed_dy, 0, flat, source, pixels, 1, row_end - row, height, length, 0, length)
            multiply_panels(
                dweight, at, columns, row_end - row, depth, image > n or first > 0,
                packed_dy, 0, height * length, panels, 0, width * length, length,
            )  # fmt: skip


class ImplicitGemm(Algorithm):
    """The algorithm that serves every shape."""

    name = "direct"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        taps, dilation = problem.taps, problem.dilation
        corner = [-before for before in problem.padding]
        back = [-c - d * (k - 1) for c, d, k in zip(corner, dilation, taps, strict=True)]
        self._forward = (*taps, *problem.stride, *corner, *dilation, 1, 1)
        self._backward = (*taps, 1, 1, *back, *dilation, *problem.stride)

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        p, passes = self.problem, (self._forward, self._backward)
        shapes = scratch_shapes(p.x_shape, p.y_shape, passes, p.groups, p.dtype, workers)
        return {name: (shape, p.dtype) for name, shape in shapes.items()}

    def forward(
        self, scratch: Arrays, y: Array, x: Array, weight: Array, scale: Array, shift: Array, activation: int, slope: float
    ) -> None:
        conv2d_forward.for_work(self.problem.work)(
            y, scratch["weight"], scratch["padded"], scratch["patches"], x, weight, scale, shift, self._forward,
            self.problem.groups, activation, slope,
        )  # fmt: skip

    def backward_input(self, scratch: Arrays, dx: Array, dy: Array, weight: Array) -> None:
        conv2d_backward_input.for_work(self.problem.work)(
            dx, scratch["weight"], scratch["padded"], scratch["patches"], dy, weight, self.ones, self.zeros,
            self._backward, self.problem.groups,
        )  # fmt: skip

    def backward_weight(self, scratch: Arrays, dweight: Array, x: Array, dy: Array) -> None:
        conv2d_backward_weight.for_work(self.problem.work)(
            dweight.reshape(-1), scratch["partial"], scratch["dy"], scratch["padded"], scratch["patches"], scratch["panels"],
            x, dy, self._forward, self.problem.groups,
        )  # fmt: skip

"""The weight gradient of a convolution: dy (O x pixels) times patches (pixels x C taps), summed over images.

With stride 1 the operands may change places, x (C x pixels) times patches of dy (pixels x O taps): it is the weight gradient
of a convolution from dy to x, taps in reverse. That pays where there are far fewer output than input channels, as patches cost
more to build than matrices: 256 -> 3 channels take a quarter of the time (Zen 3). A NaN of x then reaches all taps, by zeros
around dy.

Blocks of patches are packed by `numba_nn.layers.conv.patches`, which tells what a geometry is.
"""

from __future__ import annotations

import dataclasses
import math

from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.kernel import In, Out, Scratch, inner, kernel
from numba_nn.core.product.block import multiply_block
from numba_nn.core.product.packing import pack_depths, pack_panels
from numba_nn.core.reduce import block_bounds, block_count
from numba_nn.core.rows import fill
from numba_nn.core.simd import VECTORS, tile_columns, tile_rows, tile_shape
from numba_nn.core.workspace import Spec
from numba_nn.layers.conv.algorithm import Algorithm, Problem
from numba_nn.layers.conv.blocks import BLOCK_PIXELS, channel_slice, gradient_blocks, scratch_shapes
from numba_nn.layers.conv.patches import pack_patches, pairs

# Time in multiply-adds of a vector (Intel Xeon): of packing a run of pixels, and of adding to a vector of the gradient, as it
# lies or transposed.
PACK_RUN, ADD, ADD_TRANSPOSED = 28, 22, 52
IN_PLACE_PANELS = 5  # of patches, up to which dy is read where it lies: 3 -> 256 channels, 32 x 32, in 0.66 of the time (Zen 5)


@kernel
def conv2d_backward_weight(
    dweight: Out, partial: Scratch, packed_dy: Scratch, patches: Scratch, panels: Scratch,
    x: In, dy: In, geometry: tuple[int, ...], groups: int,
):  # fmt: skip
    """dweight += dy times patches of x; dweight: flat, partial: (parts of the batch, O C taps), not used if there is one."""
    rows, channels = dy.shape[1] // groups, x.shape[1] // groups
    row_blocks = gradient_blocks(rows, tile_rows(dy))
    step = channel_slice(channels, geometry[:2])
    slices = -(-channels // step)
    parts, workers = partial.shape[0], patches.shape[0]
    tasks = parts * groups * row_blocks * slices
    for worker in prange(workers):
        for t in range(tasks * worker // workers, tasks * (worker + 1) // workers):
            part, g = t // (groups * row_blocks * slices), t // (row_blocks * slices) % groups
            i, c = t // slices % row_blocks, t % slices * step
            row, row_end = i * rows // row_blocks, (i + 1) * rows // row_blocks
            n, n_end = part * x.shape[0] // parts, (part + 1) * x.shape[0] // parts
            gradient_block(
                partial[part] if parts > 1 else dweight, parts == 1, packed_dy[worker], patches[worker], panels[worker],
                x, dy, geometry, groups, g, row, row_end, c, min(step, channels - c), n, n_end,
            )  # fmt: skip
    sums = block_count(dweight.size) if parts > 1 else 0
    for block in prange(sums):
        start, stop = block_bounds(block, dweight.size)
        total = dweight[start:stop]
        for part in range(parts):
            addend = partial[part, start:stop]
            for k in range(total.size):
                total[k] += addend[k]


@inner
def gradient_block(
    dweight, accumulate, packed_dy, patches, panels, x, dy, geometry, groups, g, row, row_end, channel, count, n, n_end
):  # fmt: skip
    """Gradient of some output channels and a slice of input channels of group g, from images n to n_end.

    It is added to what dweight holds if ``accumulate``.
    """
    taps, stride, origin, _ = pairs(geometry)
    height, width = tile_rows(dy), tile_columns(dy)
    flat, pixels, rows = dy.reshape(dy.size), dy.shape[2] * dy.shape[3], row_end - row
    channels, depth = x.shape[1] // groups, count * taps[0] * taps[1]
    o = g * dy.shape[1] // groups + row
    columns = channels * taps[0] * taps[1]
    one_tap = taps == stride == (1, 1) and origin == (0, 0) and x.shape[2:] == dy.shape[2:]
    at, c0 = o * columns + channel * taps[0] * taps[1], g * channels + channel
    if n == n_end and not accumulate:
        fill_block(dweight, at, columns, rows, depth, dweight.dtype.type(0))
    blocks = -(-(n_end - n) * pixels // BLOCK_PIXELS)  # of the pixels of all images
    for block in range(blocks):
        first = n * pixels + block * (n_end - n) * pixels // blocks
        last = n * pixels + (block + 1) * (n_end - n) * pixels // blocks
        pack_pixels(panels, patches, x, c0, count, first, last, dy.shape[2:], geometry, one_tap)
        length, image = last - first, first // pixels
        left, at_left = flat, (image * dy.shape[1] + o) * pixels + first % pixels
        left_steps = height * pixels, pixels, 1
        if depth > IN_PLACE_PANELS * width or (last - 1) // pixels > image:
            pack_channels(packed_dy, dy, o, rows, height, first, last)
            left, at_left, left_steps = packed_dy, 0, (height * length, 1, height)
        multiply_block(
            dweight, at, columns, rows, depth, accumulate or block > 0, left, at_left, left_steps,
            panels, 0, (width * length, width), length,
        )  # fmt: skip


@inner
def fill_block(c, at, stride, rows, columns, value):
    """C = value in a block."""
    for i in range(rows):
        fill(c, at + i * stride, at + i * stride + columns, value)


@inner
def pack_pixels(panels, patches, x, channel, count, first, last, out_size, geometry, one_tap):
    """Panels of the patches under output pixels ``first`` to ``last`` of the batch, in ``count`` channels."""
    width, length = tile_columns(x), last - first
    if one_tap:  # the patches are the images as they are
        pack_channels(panels, x, channel, count, width, first, last)
        return
    pack_patches(patches, 0, length, x, channel, count, out_size, geometry, first, last)
    pack_panels(panels, 0, patches, 0, length, 1, count * geometry[0] * geometry[1], width, length, 0, length)


@inner
def pack_channels(packed, images, channel, rows, height, first, last):
    """Panels of ``height`` channels, from ``channel`` on, over pixels ``first`` to ``last`` of the batch."""
    flat, pixels, done = images.reshape(images.size), images.shape[2] * images.shape[3], first
    while done < last:
        image, end = done // pixels, min(last, (done // pixels + 1) * pixels)
        source = (image * images.shape[1] + channel) * pixels + done % pixels - (done - first)
        pack_depths(packed, 0, flat, source, pixels, 1, rows, height, last - first, done - first, end - first, last - first)
        done = end


@kernel
def add_transposed(dweight: Out, transposed: In, groups: int):
    """dweight[o, c, k] += transposed[c, o, last tap - k], group by group.

    dweight: (O, C / groups, taps), transposed: (C, O / groups, taps).
    """
    rows, channels, taps = dweight.shape[0] // groups, dweight.shape[1], dweight.shape[2]
    for o in prange(dweight.shape[0]):
        g, row = o // rows, o % rows
        for c in range(channels):
            for k in range(taps):
                dweight[o, c, k] += transposed[g * channels + c, row, taps - 1 - k]


class WeightGradient(Algorithm):
    """The weight gradient of every shape."""

    name = "direct"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._geometry = (*problem.taps, *problem.stride, *(-before for before in problem.padding), *problem.dilation)

    @classmethod
    def cost(cls, problem: Problem, one_pass: str) -> float:
        images, _, down, across = problem.y_shape
        lanes, rows = tile_shape(problem.dtype)[1] // VECTORS, problem.x_shape[1] * math.prod(problem.taps)
        return gradient_cost(problem, ADD) + PACK_RUN * images * down * -(-across // lanes) * rows

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        problem = self.problem
        shapes = scratch_shapes(problem.x_shape, problem.y_shape, self._geometry, problem.groups, problem.dtype, workers)
        return {name: (shape, problem.dtype) for name, shape in shapes.items()}

    def backward_weight(self, scratch: Arrays, dweight: Array, x: Array, dy: Array) -> None:
        conv2d_backward_weight.for_work(self.problem.work)(
            dweight.reshape(-1), scratch["partial"], scratch["dy"], scratch["patches"], scratch["panels"],
            x, dy, self._geometry, self.problem.groups,
        )  # fmt: skip


class TransposedGradient(Algorithm):
    """The weight gradient of several taps and half as many output as input channels, or fewer, with stride 1."""

    name = "direct"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._transposed = WeightGradient(_exchanged(problem))

    @classmethod
    def refusal(cls, problem: Problem, one_pass: str = "forward") -> str:
        # One tap has no patches to spare: 256 -> 128 channels of 7 x 7, batch 8, 618 us in place of 474 (Zen 3).
        pays = 2 * problem.y_shape[1] <= problem.x_shape[1] and math.prod(problem.taps) > 1
        return "" if pays and problem.stride == (1, 1) else "needs half as many output channels, several taps, and stride 1"

    @classmethod
    def cost(cls, problem: Problem, one_pass: str) -> float:
        return WeightGradient.cost(_exchanged(problem), one_pass) + ADD_TRANSPOSED * gradient_vectors(problem)

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        problem = self.problem
        shape = problem.x_shape[1], problem.y_shape[1] // problem.groups, math.prod(problem.taps)
        return {"transposed": (shape, problem.dtype), **self._transposed.scratch_spec(one_pass, workers)}

    def backward_weight(self, scratch: Arrays, dweight: Array, x: Array, dy: Array) -> None:
        transposed = scratch["transposed"]
        transposed.fill(0)
        self._transposed.backward_weight(scratch, transposed, dy, x)
        dweight = dweight.reshape(*dweight.shape[:2], -1)
        add_transposed.for_work(dweight.size)(dweight, transposed, self.problem.groups)


def _exchanged(problem: Problem) -> Problem:
    """The convolution from dy to x."""
    steps = zip(problem.taps, problem.dilation, problem.padding, strict=True)
    height, width = ((k - 1) * d - p for k, d, p in steps)
    return dataclasses.replace(problem, x_shape=problem.y_shape, y_shape=problem.x_shape, padding=(height, width))


def gradient_vectors(problem: Problem) -> float:
    """Vectors that the weights fill."""
    weights = problem.y_shape[1] * problem.group_channels[1] * math.prod(problem.taps)
    return weights / (tile_shape(problem.dtype)[1] // VECTORS)


def gradient_cost(problem: Problem, add: float) -> float:
    """Of a weight gradient, as `Algorithm.cost`: its multiply-adds, and adding to each vector of it."""
    return gradient_vectors(problem) * (problem.y_shape[0] * math.prod(problem.y_shape[2:]) + add)

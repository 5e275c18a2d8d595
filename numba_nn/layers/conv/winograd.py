"""Convolution with 3 x 3 taps and stride 1 by Winograd's algorithm F(4x4, 3x3): 36 multiplications where 144 would do.

    Y = A' [ sum_c (G g_c G') * (B' d_c B) ] A

for a tile Y of 4 x 4 outputs, the 6 x 6 inputs d_c that it depends on, and the weights g_c of input channel c
(`numba_nn.layers.conv.winograd_matrices` has the matrices and the sources). The sum over channels is a matrix product for
each of the 36 numbers of a tile, which is where the time goes. The input gradient is the same convolution of dy, with weights
of input and output channels exchanged, taps reversed, and padding 2 - p.

Images are worked off in chunks of tiles whose transformed inputs stay in the cache. For each chunk, first all channels are
transformed, lanes of a vector holding tiles, right into the panels of the product; then some output channels at a time are
multiplied with a panel of tiles, and transformed back. Threads have chunks of their own, or, where tiles are few, share one.

N images; C input and O output channels; P panels of a chunk. A NaN or infinity in x makes NaN of the tiles that read it, not
of 3 x 3 outputs only. In the same manner its rounding is relative to the largest number that a tile reads: see `Conv2d`.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.epilogue import IDENTITY, finish_channel
from numba_nn.core.kernel import In, Out, Scratch, inner, kernel
from numba_nn.core.parameter import Parameter
from numba_nn.core.product.packing import pack_panels
from numba_nn.core.simd import VECTORS, tile_columns, tile_rows, tile_shape, transpose_lanes, vector_lanes
from numba_nn.core.threads import team_size
from numba_nn.core.workspace import Spec
from numba_nn.layers.conv.algorithm import Algorithm, Problem
from numba_nn.layers.conv.winograd_gradient import winograd_backward_weight
from numba_nn.layers.conv.winograd_matrices import TAPS, TILE, from_taps, rounding_error, to_outputs
from numba_nn.layers.conv.winograd_tiles import (
    GRADIENT_TILES,
    NUMBERS,
    WIDE,
    clear,
    correlation_arrays,
    correlation_scratch,
    gradient_scratch,
    inputs_to_lanes,
    multiply_tiles,
    pad_rows,
    padded_rows,
    padded_width,
    panels_together,
    place_tiles,
    shared_chunk,
    tile_grid,
    write_tiles,
)
from numba_nn.layers.conv.winograd_transforms import lane_transform, strip_transform

# What a tile's transform costs for an input channel and for an output channel, in multiply-adds, and for a pair of them that of
# the weights, which is bound by memory, or, with every chunk of a weight gradient, that of the taps (Zen 4; weights: Zen 3).
INPUT_COST, OUTPUT_COST, WEIGHT_COST, TAPS_COST = 450, 300, 600, 300
TILES_TO_OUTPUTS = 4  # see `each_takes_tiles`
WEIGHT_WORK = 8  # of transforming a weight, in units of `Kernel.for_work`

taps_to_lanes = lane_transform(from_taps(TAPS))
reversed_to_lanes = lane_transform(tuple(row[::-1] for row in from_taps(TAPS)))
lanes_to_outputs = strip_transform(to_outputs(TILE))


@kernel
def winograd_transform_weight(transformed: Out, taps: Scratch, weight: In):
    """G g G' of weights (O, C, 3, 3), in panels of output channels.

    transformed: (panels, 36, C rows), taps: (workers, 9 C rows), both with a vector more, as panels are written with overlap.
    """
    depth = weight.shape[1] * TAPS * TAPS
    flat, height = weight.reshape(weight.size), tile_rows(weight)
    panels, workers = transformed.shape[0], taps.shape[0]
    for worker in prange(workers):
        for p in range(panels * worker // workers, panels * (worker + 1) // workers):
            row = p * height
            pack_panels(
                taps[worker], 0, flat, row * depth, depth, 1, min(height, weight.shape[0] - row), height, depth, 0, depth
            )
            transform_panel(transformed[p], taps[worker], weight.shape[1])


@kernel
def winograd_transform_weight_transposed(transformed: Out, taps: Scratch, weight: In):
    """The same for the input gradient: panels of input channels, taps reversed; taps: (workers, see `transpose_taps`)."""
    rows, channels, step = weight.shape[0], weight.shape[1], transformed.shape[2]
    flat, target, height, lanes = weight.reshape(weight.size), transformed.reshape(-1), tile_rows(weight), vector_lanes(weight)
    panels, workers = transformed.shape[0], taps.shape[0]
    for worker in prange(workers):
        for p in range(panels * worker // workers, panels * (worker + 1) // workers):
            row = p * height
            for o in range(rows):
                for r in range(0, height, lanes):
                    transpose_taps(taps[worker], flat, (o * channels + row) * TAPS * TAPS, r, min(height, channels - row))
                    reversed_to_lanes(target, p * NUMBERS * step + o * height + r, step, taps[worker], 0, lanes)


@inner
def transpose_taps(transposed, weight, at, first, rows):
    """Taps of ``rows`` channels, which lie side by side, from the ``first`` of them on: a channel in each lane.

    transposed: squares of a vector's lanes.
    """
    lanes, size = vector_lanes(transposed), TAPS * TAPS
    if at + rows * size + lanes <= weight.size:  # whole vectors do not read beyond the weights
        for k in range(0, size, lanes):
            transpose_lanes(transposed, k * lanes, lanes, weight, at + k, size, first, rows)
        return
    for r in range(lanes):
        for k in range(size):
            transposed[np.uintp(k * lanes + r)] = weight[np.uintp(at + (first + r) * size + k)] if first + r < rows else 0


@inner
def transform_panel(transformed, taps, depth):
    """One panel, from packed taps (depth, 9, rows) to transformed (36, depth rows)."""
    height, lanes = tile_rows(taps), vector_lanes(taps)
    flat, step = transformed.reshape(transformed.size), transformed.shape[1]
    for c in range(depth):
        for r in range(0, height, lanes):  # what reaches beyond the panel's rows is written again with the next channel
            taps_to_lanes(flat, c * height + r, step, taps, c * TAPS * TAPS * height + r, height)


@kernel
def winograd_correlate(
    y: Out, inputs: Scratch, padded: Scratch, products: Scratch, strips: Scratch, corners: Scratch,
    x: In, transformed: In, scale: In, shift: In, padding: tuple[int, int], activation: int, slope: float,
):  # fmt: skip
    """y = activation(scale times correlation of x with transformed weights + shift); scale, shift: (O,).

    inputs: (areas, P, 36, C tiles), corners: (areas, P tiles), and for each worker padded, products: (36, rows tiles), strips.
    """
    rows, columns = tile_grid(y.shape[2], y.shape[3])
    tiles, lanes, workers = y.shape[0] * rows * columns, vector_lanes(y), padded.shape[0]
    vectors, team = -(-tiles // lanes), min(team_size(), workers)
    if each_takes_tiles(tiles, y.shape[1], lanes, team):
        for worker in prange(team):
            start, stop, chunk = vectors * worker // team * lanes, vectors * (worker + 1) // team * lanes, corners.shape[1]
            for first in range(start, min(stop, tiles), chunk):
                count = min(chunk, min(stop, tiles) - first)
                place_tiles(corners[worker], first, count, rows, columns)
                transform_chunk(inputs[worker], padded[worker], corners[worker], x, 0, 1, first, count, rows, columns, padding)
                multiply_chunk(
                    y, products[worker], strips[worker], inputs[worker], transformed, scale, shift, 0, 1, first, count,
                    activation, slope,
                )  # fmt: skip
        return
    shared, places = inputs.reshape((-1, inputs.shape[2], inputs.shape[3])), corners.reshape(-1)
    chunk = shared_chunk(places.size)
    for first in range(0, tiles, chunk):
        count = min(chunk, tiles - first)
        place_tiles(places, first, count, rows, columns)
        for worker in prange(workers):
            transform_chunk(shared, padded[worker], places, x, worker, workers, first, count, rows, columns, padding)
        for worker in prange(workers):
            multiply_chunk(
                y, products[worker], strips[worker], shared, transformed, scale, shift, worker, workers, first, count,
                activation, slope,
            )  # fmt: skip


@inner
def each_takes_tiles(tiles, outputs, lanes, team):
    """Whether threads take tiles each, or work on the same ones, each on some channels.

    What a thread transforms lies in the cache of its core: with two threads of an Intel Xeon 64 channels at 56 x 56 take 0.52
    of the time so, 128 at 28 x 28 0.7. But each reads all weights: 32 tiles of 512 channels take 1.3 times as long.
    """
    return team == 1 or (tiles >= lanes * team and tiles * TILES_TO_OUTPUTS >= outputs)


@inner
def transform_chunk(inputs, padded, corners, x, part, parts, first, count, rows, columns, padding):
    """Transform a chunk's tiles of one of ``parts`` of the channels into panels of tiles; inputs: (P, 36, C tiles)."""
    lanes, tiles, step = vector_lanes(x), tile_columns(x), inputs.shape[2]
    flat, width, channels = inputs.reshape(inputs.size), padded_width(columns), x.shape[1]
    clear(padded, padded_rows(count, x.shape[0], rows, columns) * width + WIDE)
    for c in range(channels * part // parts, channels * (part + 1) // parts):
        pad_rows(padded, x, c, first, count, rows, columns, padding)
        for t in range(0, count, lanes):
            at = t // tiles * NUMBERS * step + c * tiles + t % tiles
            inputs_to_lanes(flat, at, step, padded, 0, corners, t, width)


@inner
def multiply_chunk(
    y, products, strips, inputs, transformed, scale, shift, part, parts, first, count, activation, slope
):  # fmt: skip
    """Multiply and transform back one of ``parts`` of a chunk: some output channels and a panel of tiles at a time."""
    height, width, lanes, row_panels = tile_rows(y), tile_columns(y), vector_lanes(y), transformed.shape[0]
    channels = (inputs.shape[2] - lanes) // width
    panels, row_blocks = -(-count // width), -(-row_panels // panels_together(channels, width, y.itemsize))
    tasks = row_blocks * panels
    for t in range(tasks * part // parts, tasks * (part + 1) // parts):
        i, p = t // panels, t % panels
        panel, panel_end = i * row_panels // row_blocks, (i + 1) * row_panels // row_blocks
        wanted = -(-min(width, count - p * width) // lanes) * lanes
        multiply_tiles(products, inputs[p], transformed, channels, y.shape[1], panel, panel_end, wanted)
        row, row_end = panel * height, min(y.shape[1], panel_end * height)
        start, stop = first + p * width, first + min(count, (p + 1) * width)
        finish_tiles(y, strips, products, scale, shift, row, row_end, start, stop, activation, slope)


@inner
def finish_tiles(y, strips, products, scale, shift, row, row_end, first, last, activation, slope):
    """Output channels ``row`` to ``row_end`` of tiles ``first`` to ``last``, from their products."""
    width, lanes = tile_columns(y), vector_lanes(y)
    flat, step = products.reshape(products.size), products.shape[1]
    for o in range(row, row_end):
        for t in range(0, last - first, lanes):
            lanes_to_outputs(strips, t * TILE, width * TILE, flat, (o - row) * width + t, step)
        finish_channel(strips, 0, strips.size, scale[o], shift[o], activation, slope)
        write_tiles(y, o, strips, width * TILE, first, last)


class Winograd(Algorithm):
    """F(4x4, 3x3), for stride 1."""

    name = "winograd"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._back = tuple(TAPS - 1 - before for before in problem.padding)

    @classmethod
    def refusal(cls, problem: Problem, one_pass: str = "forward") -> str:
        wanted = {"kernel_size": (problem.taps, TAPS), "stride": (problem.stride, 1), "dilation": (problem.dilation, 1)}
        wrong = [f"{name} {n}, got {pair}" for name, (pair, n) in wanted.items() if pair != (n, n)]
        return "; ".join(wrong + [f"groups 1, got {problem.groups}"] * (problem.groups > 1))

    @classmethod
    def gain(cls, one_pass: str, problem: Problem) -> float:
        """How many times as fast as a direct convolution it is, by an estimate in multiply-adds; it grows with the batch."""
        (images, channels), outputs, sizes = problem.x_shape[:2], problem.y_shape[1], problem.y_shape[2:]
        if one_pass == "input":
            channels, outputs, sizes = outputs, channels, problem.x_shape[2:]
        of_image, lanes = math.prod(tile_grid.py_func(*sizes)), tile_shape(problem.dtype)[1] // VECTORS
        tiles = max(1, images * of_image)
        if one_pass == "weight":
            per_tile = NUMBERS + TAPS_COST / min(tiles, GRADIENT_TILES)
        else:
            # Half a vector is missing in the last one, until there is a batch that fills it.
            missing = 0 if tiles >= math.lcm(of_image, lanes) else lanes // 2
            per_tile = NUMBERS * (tiles + missing) / tiles + (WEIGHT_COST / tiles if one_pass != "inference" else 0)
        direct = TAPS * TAPS * images * math.prod(sizes) / tiles
        return direct / (per_tile + INPUT_COST / outputs + OUTPUT_COST / channels)

    @classmethod
    def error(cls, one_pass: str, problem: Problem) -> float:
        """Estimate of the largest error relative to the largest result: see `rounding_error`."""
        epsilon = float(np.finfo(problem.dtype).eps)
        if one_pass == "weight":
            return epsilon * rounding_error(TAPS, TILE, GRADIENT_TILES)
        return epsilon * rounding_error(TILE, TAPS, problem.y_shape[1] if one_pass == "input" else problem.x_shape[1])

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        x_shape, y_shape, dtype = self.problem.x_shape, self.problem.y_shape, self.problem.dtype
        if one_pass == "weight":
            return gradient_scratch(x_shape, y_shape, dtype, workers)
        return correlation_scratch(*((y_shape, x_shape) if one_pass == "input" else (x_shape, y_shape)), dtype, workers)

    def weight(self, scratch: Arrays, parameter: Parameter) -> Array:
        """Transformed weights."""
        return parameter.packed("winograd", scratch["weight"], functools.partial(self._transform, scratch["taps"]))

    def _transform(self, taps: Array, transformed: Array, weight: Array) -> None:
        winograd_transform_weight.for_work(WEIGHT_WORK * weight.size)(transformed, taps, weight)

    def forward(
        self, scratch: Arrays, y: Array, x: Array, weight: Array, scale: Array, shift: Array, activation: int, slope: float
    ) -> None:
        run, padding = winograd_correlate.for_work(self.problem.work), self.problem.padding
        run(y, *correlation_arrays(scratch), x, weight, scale, shift, padding, activation, slope)

    def backward_input(self, scratch: Arrays, dx: Array, dy: Array, weight: Array) -> None:
        transformed = scratch["weight"]
        winograd_transform_weight_transposed.for_work(WEIGHT_WORK * weight.size)(transformed, scratch["taps"], weight)
        run = winograd_correlate.for_work(self.problem.work)
        run(dx, *correlation_arrays(scratch), dy, transformed, self.ones, self.zeros, self._back, IDENTITY, 0.0)

    def backward_weight(self, scratch: Arrays, dweight: Array, x: Array, dy: Array) -> None:
        run = winograd_backward_weight.for_work(self.problem.work)
        run(dweight.reshape(-1), *scratch.values(), x, dy, self.problem.padding)

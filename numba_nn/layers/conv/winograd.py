"""Convolution with 3 x 3 taps and stride 1 by Winograd's algorithm F(4x4, 3x3): 36 multiplications where 144 would do.

    Y = A' [ sum_c (G g_c G') * (B' d_c B) ] A

for a tile Y of 4 x 4 outputs, the 6 x 6 inputs d_c that it depends on, and the weights g_c of input channel c
(`numba_nn.layers.conv.points` has the matrices and the sources). The sum over channels is a matrix product for each of the 36
numbers of a tile, which is where the time goes. The input gradient is the same convolution of dy, with weights of input and
output channels exchanged, taps reversed, and padding 2 - p.

Images are worked off in chunks of tiles whose transformed inputs stay in the cache. For each chunk, first all channels are
transformed, lanes of a vector holding tiles, right into the panels of the product; then every task multiplies for some output
channels and a panel of tiles, and transforms back.

N images; C input and O output channels; P panels of a chunk. A NaN or infinity in x makes NaN of the tiles that read it, not
of 3 x 3 outputs only.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.epilogue import IDENTITY, finish_channel
from numba_nn.core.gemm import DEPTH, multiply_panels, pack_panels
from numba_nn.core.kernel import In, Out, Scratch, inner, kernel
from numba_nn.core.simd import VECTORS, tile_columns, tile_rows, tile_shape, vector_lanes
from numba_nn.core.tiles import lane_transform, strip_transform
from numba_nn.core.workspace import Shape, Spec
from numba_nn.layers.conv.algorithm import Algorithm, Problem
from numba_nn.layers.conv.points import TAPS, TILE, from_taps, rounding_error, to_outputs
from numba_nn.layers.conv.winograd_tiles import (
    NUMBERS,
    WIDE,
    chunk_size,
    padded_rows,
    padded_width,
    place_tiles,
    tile_grid,
    transform_chunk,
    write_tiles,
)

CHUNK_TILES = 128  # transformed inputs of 128 channels then take 36 x 128 x 128 x 4 B = 2.4 MB
HALF_PANEL = 16  # tiles that are missing in the last panel, more or less, where vectors are widest
INPUT_COST, OUTPUT_COST, WEIGHT_COST = 450, 200, 1000
BLOCK_PANELS = 4  # of output channels: their products with a panel of tiles take 36 x 48 x 32 x 4 B = 221 KB of a 1 MB L2

taps_to_lanes = lane_transform(from_taps(TAPS))
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
    """The same for the input gradient: panels of input channels, taps reversed."""
    rows, channels, size = weight.shape[0], weight.shape[1], TAPS * TAPS
    flat, height = weight.reshape(weight.size), tile_rows(weight)
    panels, workers = transformed.shape[0], taps.shape[0]
    for worker in prange(workers):
        for p in range(panels * worker // workers, panels * (worker + 1) // workers):
            row = p * height
            filled = min(height, channels - row)
            for o in range(rows):
                last_tap = (o * channels + row) * size + size - 1
                pack_panels(taps[worker], o * size * height, flat, last_tap, size, -1, filled, height, size, 0, size)
            transform_panel(transformed[p], taps[worker], rows)


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

    inputs: (P, 36, C tiles), corners: (tiles of a chunk,), and for each worker padded, products: (36, rows tiles), strips.
    """
    rows, columns = tile_grid(y.shape[2], y.shape[3])
    tiles, chunk, workers = y.shape[0] * rows * columns, corners.size, padded.shape[0]
    channels, height, width = x.shape[1], tile_rows(y), tile_columns(y)
    row_panels = transformed.shape[0]
    row_blocks = -(-row_panels // BLOCK_PANELS)
    for first in range(0, tiles, chunk):
        count = min(chunk, tiles - first)
        panels = -(-count // width)
        place_tiles(corners, first, count, rows, columns)
        for worker in prange(workers):
            start, stop = channels * worker // workers, channels * (worker + 1) // workers
            transform_chunk(inputs, padded[worker], corners, x, start, stop, first, count, rows, columns, padding)
        tasks = row_blocks * panels
        for worker in prange(workers):
            for t in range(tasks * worker // workers, tasks * (worker + 1) // workers):
                i, p = t // panels, t % panels
                panel, panel_end = i * row_panels // row_blocks, (i + 1) * row_panels // row_blocks
                multiply_tiles(products[worker], inputs[p], transformed, channels, y.shape[1], panel, panel_end)
                row, row_end = panel * height, min(y.shape[1], panel_end * height)
                start, stop = first + p * width, min(tiles, first + (p + 1) * width)
                finish_tiles(y, strips[worker], products[worker], scale, shift, row, row_end, start, stop, activation, slope)


@inner
def multiply_tiles(products, inputs, transformed, depth, outputs, panel, panel_end):
    """Products of some panels of output channels with one panel of tiles, for each of the numbers of a tile."""
    height, width = tile_rows(products), tile_columns(products)
    rows, step = min(outputs, panel_end * height) - panel * height, products.shape[1]
    flat, weights, tiles = products.reshape(products.size), transformed.reshape(transformed.size), inputs.reshape(inputs.size)
    a_step, b_step = transformed.shape[2], inputs.shape[1]
    for k in range(NUMBERS):
        for c in range(0, depth, DEPTH):
            multiply_panels(
                flat, k * step, width, rows, width, c > 0, weights, (panel * NUMBERS + k) * a_step + c * height,
                NUMBERS * a_step, tiles, k * b_step + c * width, 0, min(DEPTH, depth - c),
            )  # fmt: skip


@inner
def finish_tiles(y, strips, products, scale, shift, row, row_end, first, last, activation, slope):
    """Output channels ``row`` to ``row_end`` of tiles ``first`` to ``last``, from their products."""
    width, lanes = tile_columns(y), vector_lanes(y)
    flat, step = products.reshape(products.size), products.shape[1]
    for o in range(row, row_end):
        for t in range(0, width, lanes):
            lanes_to_outputs(strips, t * TILE, width * TILE, flat, (o - row) * width + t, step)
        finish_channel(strips, 0, strips.size, scale[o], shift[o], activation, slope)
        write_tiles(y, o, strips, width * TILE, first, last)


@kernel
def winograd_forward(
    y: Out, transformed: Scratch, taps: Scratch, inputs: Scratch, padded: Scratch, products: Scratch, strips: Scratch,
    corners: Scratch, x: In, weight: In, scale: In, shift: In, padding: tuple[int, int], activation: int, slope: float,
):  # fmt: skip
    """y = activation(scale times correlation of x and weight + shift); weight: (O, C, 3, 3), scale, shift: (O,)."""
    winograd_transform_weight(transformed, taps, weight)
    winograd_correlate(y, inputs, padded, products, strips, corners, x, transformed, scale, shift, padding, activation, slope)


@kernel
def winograd_backward_input(
    dx: Out, transformed: Scratch, taps: Scratch, inputs: Scratch, padded: Scratch, products: Scratch, strips: Scratch,
    corners: Scratch, dy: In, weight: In, ones: In, zeros: In, padding: tuple[int, int],
):  # fmt: skip
    """dx = correlation of dy with the weights reversed; ones, zeros: (C,)."""
    winograd_transform_weight_transposed(transformed, taps, weight)
    winograd_correlate(dx, inputs, padded, products, strips, corners, dy, transformed, ones, zeros, padding, IDENTITY, 0.0)


class Winograd(Algorithm):
    """F(4x4, 3x3), for stride 1."""

    name = "winograd"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._back = tuple(TAPS - 1 - before for before in problem.padding)

    @classmethod
    def refusal(cls, problem: Problem) -> str:
        wanted = {"kernel_size": (problem.taps, TAPS), "stride": (problem.stride, 1), "dilation": (problem.dilation, 1)}
        wrong = [f"{name} {n}, got {pair}" for name, (pair, n) in wanted.items() if pair != (n, n)]
        return "; ".join(wrong + [f"groups 1, got {problem.groups}"] * (problem.groups > 1))

    @classmethod
    def gain(cls, one_pass: str, problem: Problem) -> float:
        """How many times as fast as a direct convolution it is, by an estimate in multiply-adds.

        A tile's transforms cost about as much, for an input channel and an output channel, as the numbers say; so do, for each
        tap of the weights, theirs, which are bound by memory (Zen 4). It grows with the batch.
        """
        (images, channels), outputs, sizes = problem.x_shape[:2], problem.y_shape[1], problem.y_shape[2:]
        if one_pass == "input":
            channels, outputs, sizes = outputs, channels, problem.x_shape[2:]
        tiles = max(1, images * math.prod(tile_grid.py_func(*sizes)))
        per_tile = NUMBERS * (tiles + HALF_PANEL) / tiles
        direct = TAPS * TAPS * images * math.prod(sizes) / tiles
        return direct / (per_tile + INPUT_COST / outputs + OUTPUT_COST / channels + WEIGHT_COST / tiles)

    @classmethod
    def error(cls, one_pass: str, problem: Problem) -> float:
        """Estimate of the largest error relative to the largest output: see `numba_nn.layers.conv.points.rounding_error`."""
        terms = problem.y_shape[1] if one_pass == "input" else problem.x_shape[1]
        return rounding_error(TILE, TAPS, terms) * np.finfo(problem.dtype).eps

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        x_shape, y_shape, dtype = self.problem.x_shape, self.problem.y_shape, self.problem.dtype
        if one_pass == "input":
            x_shape, y_shape = y_shape, x_shape
        return winograd_scratch(x_shape, y_shape, dtype, workers)

    def forward(
        self, scratch: Arrays, y: Array, x: Array, weight: Array, scale: Array, shift: Array, activation: int, slope: float
    ) -> None:
        arrays, padding = _arrays(scratch), self.problem.padding
        winograd_forward.for_work(self.problem.work)(y, *arrays, x, weight, scale, shift, padding, activation, slope)

    def backward_input(self, scratch: Arrays, dx: Array, dy: Array, weight: Array) -> None:
        arrays = _arrays(scratch)
        winograd_backward_input.for_work(self.problem.work)(dx, *arrays, dy, weight, self.ones, self.zeros, self._back)


def _arrays(scratch: Arrays) -> list[Array]:
    return [scratch[f"winograd {name}"] for name in ("weight", "taps", "inputs", "padded", "products", "strips", "corners")]


def winograd_scratch(x_shape: Shape, y_shape: Shape, dtype: Any, workers: int) -> dict[str, Spec]:
    """Scratch of `winograd_correlate` and of the weights' transformation."""
    (height, width), (images, channels), outputs = tile_shape(dtype), x_shape[:2], y_shape[1]
    lanes, (rows, columns) = width // VECTORS, tile_grid.py_func(*y_shape[2:])
    chunk = chunk_size.py_func(images * rows * columns, width, CHUNK_TILES)
    row_panels = -(-outputs // height)
    shapes = {
        "weight": (row_panels, NUMBERS, channels * height + lanes),
        "taps": (workers, TAPS * TAPS * channels * height + lanes),
        "inputs": (chunk // width, NUMBERS, channels * width + lanes),
        "padded": (workers, padded_rows.py_func(chunk, images, rows, columns) * padded_width.py_func(columns) + WIDE),
        "products": (workers, NUMBERS, min(BLOCK_PANELS, row_panels) * height * width + lanes),
        "strips": (workers, TILE * TILE * width),
    }
    specs = {f"winograd {name}": (shape, dtype) for name, shape in shapes.items()}
    return {**specs, "winograd corners": ((chunk,), np.dtype(np.int64))}

"""The weight gradient of a convolution by Winograd's algorithm: with 3 x 3 taps F(3x3, 4x4), with 5 x 5 F(5x5, 2x2).

    dg_oc = A' [ sum over tiles (G d_y G') * (B' d_x B) ] A

for the gradients dg of 3 x 3 weights, tiles d_y of 4 x 4 output gradients and the 6 x 6 inputs d_x that they were computed
from: a correlation of 6 x 6 numbers with 4 x 4 of them has 3 x 3 results. Its points are those of the forward pass, and so is
B' d_x B; here lanes of a vector hold channels, and the matrix product sums over tiles, a chunk at a time. Other taps likewise.

N images; C input and O output channels; T tiles of a chunk.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from numba_nn.core.kernel import In, Out, Scratch, inner, kernel
from numba_nn.core.simd import tile_columns, tile_rows, transpose_lanes, vector_lanes
from numba_nn.core.threads import team_size
from numba_nn.layers.conv.winograd_matrices import from_taps, outputs_of, to_outputs
from numba_nn.layers.conv.winograd_tiles import (
    BLOCK_PANELS,
    Tiling,
    chunk_span,
    clear,
    inputs_to_lanes,
    multiply_tiles,
    pad_rows,
    padded_width,
    place_tiles,
    tile_count,
)
from numba_nn.layers.conv.winograd_transforms import gather_transform, lane_transform

outputs_to_lanes = gather_transform(lambda taps: from_taps(outputs_of(taps)))
lanes_to_taps = lane_transform(to_outputs)


@kernel
def winograd_backward_weight(
    dweight: Out, inputs: Scratch, gradients: Scratch, padded: Scratch, products: Scratch, strips: Scratch,
    corners: Scratch, planes: Scratch, x: In, dy: In, tiling: tuple[int, ...], padding: tuple[int, int],
):  # fmt: skip
    """dweight += gradient of the weights; dweight: flat (O, C, taps).

    inputs: (panels of C, numbers, T columns), gradients: (panels of O, numbers, T rows), corners: (T,), planes: (lanes,); for
    each worker padded: a vector of channels, products: (numbers, rows columns), strips: ((2 taps + 1) lanes,).
    """
    tiles, chunk, workers = tile_count(dy.shape[0], Tiling(*tiling)), corners.size, padded.shape[0]
    row_panels, column_panels = gradients.shape[0], inputs.shape[0]
    row_blocks = max(-(-row_panels // BLOCK_PANELS), min(row_panels, -(-team_size() // column_panels)))
    tasks, height, width = row_blocks * column_panels, tile_rows(x), tile_columns(x)
    vectors = column_panels * (width // vector_lanes(x))
    for lane in range(planes.size):
        planes[lane] = padded.shape[1] // planes.size * lane
    for first in range(0, tiles, chunk):
        count = min(chunk, tiles - first)
        place_tiles(corners, first, count, Tiling(*tiling))
        for worker in prange(workers):
            clear(padded[worker], padded.shape[1])
            for v in range(vectors * worker // workers, vectors * (worker + 1) // workers):
                transform_inputs(inputs, padded[worker], corners, planes, x, v, first, count, Tiling(*tiling), padding)
            clear(padded[worker], padded.shape[1])
            for p in range(row_panels * worker // workers, row_panels * (worker + 1) // workers):
                transform_gradients(gradients[p], padded[worker], corners, planes, dy, p, first, count, Tiling(*tiling))
        for worker in prange(workers):
            for t in range(tasks * worker // workers, tasks * (worker + 1) // workers):
                i, p = t // column_panels, t % column_panels
                panel, panel_end = i * row_panels // row_blocks, (i + 1) * row_panels // row_blocks
                multiply_tiles(products[worker], inputs[p], gradients, count, dy.shape[1], panel, panel_end, width, width)
                row, row_end, column = panel * height, min(dy.shape[1], panel_end * height), p * width
                add_taps(dweight, strips[worker], products[worker], x.shape[1], row, row_end, column, tiling[:2])


@inner
def pad_planes(padded, planes, x, channel, span, tiling, padding):
    """Copy what a chunk's tiles cover of as many channels as there are lanes; what lanes beyond hold is not used."""
    for lane in range(min(planes.size, x.shape[1] - channel)):
        pad_rows(padded[planes[lane] :], x, channel + lane, span, tiling, padding)


@inner
def transform_inputs(inputs, padded, corners, planes, x, vector, first, count, tiling, padding):
    """Transform the tiles of one vector of input channels; inputs: (panels, numbers, T columns)."""
    width, lanes, step = tile_columns(x), vector_lanes(x), inputs.shape[2]
    flat, length, channel = inputs.reshape(inputs.size), padded_width(tiling), vector * lanes
    pad_planes(padded, planes, x, channel, chunk_span(first, count, tiling), tiling, padding)
    at = channel // width * inputs.shape[1] * step + channel % width
    for t in range(count):
        inputs_to_lanes(tiling[:2], flat, at + t * width, step, padded, corners[t], planes, 0, length)


@inner
def transform_gradients(gradients, padded, corners, planes, dy, panel, first, count, tiling):
    """Transform the tiles of one panel of output channels; gradients: (numbers, T rows)."""
    height, lanes, step = tile_rows(dy), vector_lanes(dy), gradients.shape[1]
    flat, length, span = gradients.reshape(gradients.size), padded_width(tiling), chunk_span(first, count, tiling)
    for r in range((height - 1) // lanes * lanes, -1, -lanes):  # what reaches beyond the rows is written again with the next
        pad_planes(padded, planes, dy, panel * height + r, span, tiling, (0, 0))
        for t in range(count):
            outputs_to_lanes(tiling[:2], flat, t * height + r, step, padded, corners[t], planes, 0, length)


@inner
def add_taps(dweight, strips, products, channels, row, row_end, column, taps):
    """dweight += what the products of some output channels and a panel of input channels make.

    strips: the taps of as many pairs of channels as there are lanes, first a vector for each tap, then pair by pair.
    """
    width, lanes, size = tile_columns(products), vector_lanes(products), taps[0] * taps[1]
    flat, step, transposed = products.reshape(products.size), products.shape[1], size * lanes
    for o in range(row, row_end):
        for c in range(column, min(channels, column + width), lanes):
            lanes_to_taps(taps, strips, 0, lanes, flat, (o - row) * width + c - column, step)
            for k in range((size - 1) // lanes * lanes, -1, -lanes):  # what reaches into the next pair is written again
                transpose_lanes(strips, transposed + k, size, strips, 0, lanes, k, size)
            gradient = dweight[(o * channels + c) * size : (o * channels + min(channels, c + lanes)) * size]
            for i in range(gradient.size):
                gradient[i] += strips[np.uintp(transposed + i)]

"""The weights of Winograd's algorithm, transformed: as a whole, or some panels at a time.

Panels are those of the left factor of a product: of output channels, or, for an input gradient, of input channels, with the
taps reversed. transformed: (panels, numbers, depth rows), taps: room for what is transformed together; both have a vector more,
as panels are written with overlap.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from numba_nn.core.kernel import In, Out, Scratch, inner, kernel
from numba_nn.core.product.packing import pack_panels
from numba_nn.core.simd import tile_rows, transpose_lanes, vector_lanes
from numba_nn.layers.conv.winograd_matrices import from_taps
from numba_nn.layers.conv.winograd_transforms import lane_transform

taps_to_lanes = lane_transform(from_taps)
reversed_to_lanes = lane_transform(lambda taps: tuple(row[::-1] for row in from_taps(taps)))


@kernel
def winograd_transform_weight(transformed: Out, taps: Scratch, weight: In):
    """G g G' of weights (O, C, kh, kw), in panels of output channels; taps: (workers, kh kw C rows)."""
    panels, workers = transformed.shape[0], taps.shape[0]
    for worker in prange(workers):
        first, last = panels * worker // workers, panels * (worker + 1) // workers
        transform_panels(transformed[first:last], taps[worker], weight, first)


@kernel
def winograd_transform_weight_transposed(transformed: Out, taps: Scratch, weight: In):
    """The same for the input gradient: panels of input channels, taps reversed; taps: (workers, see `transpose_taps`)."""
    panels, workers = transformed.shape[0], taps.shape[0]
    for worker in prange(workers):
        first, last = panels * worker // workers, panels * (worker + 1) // workers
        transform_panels_transposed(transformed[first:last], taps[worker], weight, first)


@inner
def transform_panels(transformed, taps, weight, first):
    """Panels of output channels, from the ``first`` on as many as there is room for."""
    depth, height = weight.shape[1] * weight.shape[2] * weight.shape[3], tile_rows(weight)
    flat = weight.reshape(weight.size)
    for p in range(transformed.shape[0]):
        row = (first + p) * height
        pack_panels(taps, 0, flat, row * depth, depth, 1, min(height, weight.shape[0] - row), height, depth, 0, depth)
        transform_panel(transformed[p], taps, weight.shape[1], (weight.shape[2], weight.shape[3]))


@inner
def transform_panels_transposed(transformed, taps, weight, first):
    """Panels of input channels, from the ``first`` on as many as there is room for."""
    rows, channels, step = weight.shape[0], weight.shape[1], transformed.shape[2]
    flat, target, height, lanes = weight.reshape(weight.size), transformed.reshape(-1), tile_rows(weight), vector_lanes(weight)
    kernel_size, size = (weight.shape[2], weight.shape[3]), weight.shape[2] * weight.shape[3]
    for p in range(transformed.shape[0]):
        row, at = (first + p) * height, p * transformed.shape[1] * step
        for o in range(rows):
            for r in range(0, height, lanes):
                transpose_taps(taps, flat, (o * channels + row) * size, r, min(height, channels - row), size)
                reversed_to_lanes(kernel_size, target, at + o * height + r, step, taps, 0, lanes)


@inner
def transpose_taps(transposed, weight, at, first, rows, size):
    """``size`` taps of ``rows`` channels, which lie side by side, from the ``first`` of them on: a channel in each lane.

    transposed: squares of a vector's lanes.
    """
    lanes = vector_lanes(transposed)
    if at + rows * size + lanes <= weight.size:  # whole vectors do not read beyond the weights
        for k in range(0, size, lanes):
            transpose_lanes(transposed, k * lanes, lanes, weight, at + k, size, first, rows)
        return
    for r in range(lanes):
        for k in range(size):
            transposed[np.uintp(k * lanes + r)] = weight[np.uintp(at + (first + r) * size + k)] if first + r < rows else 0


@inner
def transform_panel(transformed, taps, depth, kernel_size):
    """One panel, from packed taps (depth, kh kw, rows) to transformed (numbers, depth rows)."""
    height, lanes, size = tile_rows(taps), vector_lanes(taps), kernel_size[0] * kernel_size[1]
    flat, step = transformed.reshape(transformed.size), transformed.shape[1]
    for c in range(depth):
        for r in range(0, height, lanes):  # what reaches beyond the panel's rows is written again with the next channel
            taps_to_lanes(kernel_size, flat, c * height + r, step, taps, c * size * height + r, height)

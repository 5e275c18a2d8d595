"""How Winograd's convolutions cut images into tiles, and the tiles into chunks that the caches hold.

Output tiles of 4 x 4 are numbered over images, rows and columns of tiles; those at the bottom and at the right may reach
beyond the image. A *chunk* is a run of tiles; a *panel* of it has as many as the multiply-add tile has columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_nn.core.kernel import inner
from numba_nn.core.product.block import CACHED, multiply_block
from numba_nn.core.rows import fill
from numba_nn.core.simd import VECTORS, tile_columns, tile_rows, tile_shape
from numba_nn.core.workspace import Shape, Spec
from numba_nn.layers.conv.winograd_matrices import SIDE, TAPS, TILE, from_inputs
from numba_nn.layers.conv.winograd_transforms import copy_exactly, gather_transform

MARGIN = SIDE - TILE  # inputs that a tile shares with the next, along each axis
NUMBERS = SIDE * SIDE  # of a transformed tile
WIDE = 2 * TILE  # columns that are read of a tile: the next power of two

# A chunk has so many tiles at most, and bytes of transformed inputs, but a panel at least: 36 x 128 x 32 x 4 B = 590 KB for 128
# channels.
CHUNK_TILES, CHUNK_BYTES = 128, 2**19
GRADIENT_TILES = 128
BLOCK_PANELS = 4  # of output channels: their products with a panel of tiles take 36 x 48 x 32 x 4 B = 221 KB of a 1 MB L2

inputs_to_lanes = gather_transform(from_inputs())


@inner
def panels_together(channels, width, itemsize):
    """Panels of output channels of a block: twice as many where a panel of inputs is more than stays in an L2 cache.

    Inputs are then read anew for each block: 256 channels at 14 x 14 take 0.88 to 0.96 of the time so, but 64 take 1.06.
    """
    return BLOCK_PANELS * (2 if channels * NUMBERS * width * itemsize > CACHED else 1)


@inner
def tile_grid(height, width):
    """Rows and columns of tiles that cover an image of this size."""
    return -(-height // TILE), -(-width // TILE)


@inner
def chunk_size(tiles, width, most):
    """Tiles of a chunk, a multiple of ``width``: not more than the images have, rounded up, and than ``most``."""
    return min(max(1, -(-tiles // width)) * width, most)


@inner
def shared_chunk(places):
    """Tiles of a chunk that all threads share, where their own ones together have so many."""
    return min(places, CHUNK_TILES)


@inner
def padded_width(columns):
    """Elements in a row of a padded image with so many columns of tiles, which are read WIDE at a time."""
    return (columns + 1) * TILE


@inner
def padded_rows(tiles, images, rows, columns):
    """Rows that a run of tiles spans at most, over images that each have MARGIN more than their tiles."""
    tile_rows = min(images * rows, (tiles - 2) // columns + 2)
    return tile_rows * TILE + min(images, (tile_rows - 2) // rows + 2) * MARGIN


@inner
def padded_row(tile_row, rows):
    """Row of a stack of padded images where a row of tiles starts."""
    return tile_row // rows * (rows * TILE + MARGIN) + tile_row % rows * TILE


@inner
def place_tiles(corners, first, count, rows, columns):
    """corners[t] = where tile first + t starts in the padded rows of the chunk; those beyond the count lie at 0."""
    start = padded_row(first // columns, rows)
    width = padded_width(columns)
    for t in range(corners.size):
        row, column = (first + t) // columns, (first + t) % columns
        corners[t] = (padded_row(row, rows) - start) * width + column * TILE if t < count else 0


@inner
def pad_rows(padded, x, channel, first, count, rows, columns, padding):
    """Copy what a chunk's tiles cover of one channel, shifted by the padding. The border holds zeros already."""
    flat, height, length = x.reshape(x.size), x.shape[2], x.shape[3]
    width = padded_width(columns)
    left, right = max(0, padding[1]), min(width, length + padding[1])
    top, bottom = first // columns, (first + count - 1) // columns
    start = padded_row(top, rows)
    for n in range(top // rows, bottom // rows + 1):
        source = (n * x.shape[1] + channel) * height
        top_row = padded_row(max(top, n * rows), rows)
        end_row = padded_row(min(bottom, (n + 1) * rows - 1), rows) + TILE + MARGIN
        shift = n * (rows * TILE + MARGIN) + padding[0]  # padded row of the image's first
        for row in range(max(top_row, shift), min(end_row, shift + height)):
            target, origin = (row - start) * width + left, (source + row - shift) * length + left - padding[1]
            copy_exactly(padded, target, flat, origin, right - left)


@inner
def clear(padded, size):
    """Zeros: the border, which all channels of a chunk leave as it is."""
    fill(padded, 0, size, padded.dtype.type(0))


@inner
def multiply_tiles(products, inputs, transformed, depth, outputs, panel, panel_end, columns):
    """Matrix products for each of the 36 numbers of a tile: some panels of ``transformed`` times one panel of ``inputs``.

    products: (36, rows columns), inputs: (36, depth columns), of which whole vectors of ``columns`` are wanted, transformed:
    (panels, 36, depth rows): ``outputs`` rows.
    """
    height, width = tile_rows(products), tile_columns(products)
    rows, step = min(outputs, panel_end * height) - panel * height, products.shape[1]
    flat, weights, tiles = products.reshape(products.size), transformed.reshape(transformed.size), inputs.reshape(inputs.size)
    a_step, b_step = transformed.shape[2], inputs.shape[1]
    for k in range(NUMBERS):
        multiply_block(
            flat, k * step, width, rows, columns, False, weights, (panel * NUMBERS + k) * a_step, (NUMBERS * a_step, 1, height),
            tiles, k * b_step, (b_step, width), depth,
        )  # fmt: skip


@inner
def write_tiles(y, channel, strips, stride, first, last):
    """Write tiles ``first`` to ``last`` of one output channel, which lie side by side in four rows, ``stride`` apart."""
    flat, height, length = y.reshape(y.size), y.shape[2], y.shape[3]
    rows, columns = tile_grid(height, length)
    tile, row, column = first, first // columns, first % columns
    while tile < last:
        run, top, left = min(columns - column, last - tile), row % rows * TILE, column * TILE
        target = ((row // rows * y.shape[1] + channel) * height + top) * length + left
        for i in range(min(TILE, height - top)):
            source = i * stride + (tile - first) * TILE
            copy_exactly(flat, target + i * length, strips, source, min(run * TILE, length - left))
        tile, row, column = tile + run, row + 1, 0


def correlation_scratch(x_shape: Shape, y_shape: Shape, dtype: Any, workers: int) -> dict[str, Spec]:
    """Scratch of a forward or of an input gradient."""
    (height, width), (images, channels), outputs = tile_shape(dtype), x_shape[:2], y_shape[1]
    lanes, (rows, columns) = width // VECTORS, tile_grid.py_func(*y_shape[2:])
    itemsize, tiles = np.dtype(dtype).itemsize, images * rows * columns
    most = max(width, min(CHUNK_TILES, CHUNK_BYTES // (NUMBERS * channels * itemsize) // width * width))
    chunk = chunk_size.py_func(tiles, width, most)
    areas = max(1, min(workers, -(-tiles // lanes)))
    together = panels_together.py_func(channels, width, itemsize)
    panels, squares = -(-outputs // height), -(-TAPS * TAPS // lanes) * lanes * lanes
    products = workers, NUMBERS, min(together, panels) * height * width + lanes
    return {
        "weight": ((panels, NUMBERS, channels * height + lanes), dtype),
        "taps": ((workers, max(squares, TAPS * TAPS * (channels * height + lanes))), dtype),
        "inputs": ((areas, chunk // width, NUMBERS, channels * width + lanes), dtype),
        "padded": ((workers, _padded_size(shared_chunk.py_func(areas * chunk), images, rows, columns)), dtype),
        "products": (products, dtype),
        "strips": ((workers, TILE * TILE * width), dtype),
        "corners": ((areas, chunk), np.dtype(np.int64)),
    }


def correlation_arrays(scratch: dict[str, Any]) -> list[Any]:
    """What `correlation_scratch` holds beside the weights, and the room in which they are transformed."""
    return [scratch[name] for name in ("inputs", "padded", "products", "strips", "corners")]


def gradient_scratch(x_shape: Shape, y_shape: Shape, dtype: Any, workers: int) -> dict[str, Spec]:
    """Scratch of a weight gradient, in the order of the kernel's arguments."""
    (height, width), (images, channels), outputs = tile_shape(dtype), x_shape[:2], y_shape[1]
    lanes, (rows, columns) = width // VECTORS, tile_grid.py_func(*y_shape[2:])
    chunk = chunk_size.py_func(images * rows * columns, 1, GRADIENT_TILES)
    panels = -(-outputs // height)
    return {
        "inputs": ((-(-channels // width), NUMBERS, chunk * width + lanes), dtype),
        "gradients": ((panels, NUMBERS, chunk * height + lanes), dtype),
        "padded": ((workers, lanes * _padded_size(chunk, images, rows, columns)), dtype),
        "products": ((workers, NUMBERS, min(BLOCK_PANELS, panels) * height * width + lanes), dtype),
        "strips": ((workers, (2 * TAPS * TAPS + 1) * lanes), dtype),
        "corners": ((chunk,), np.dtype(np.int64)),
        "planes": ((lanes,), np.dtype(np.int64)),
    }


def _padded_size(chunk: int, images: int, rows: int, columns: int) -> int:
    return padded_rows.py_func(chunk, images, rows, columns) * padded_width.py_func(columns) + WIDE

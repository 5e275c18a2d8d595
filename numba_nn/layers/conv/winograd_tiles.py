"""How Winograd's convolutions cut images into tiles, and the tiles into chunks that the caches hold.

Output tiles of 4 x 4 are numbered over images, rows and columns of tiles; those at the bottom and at the right may reach
beyond the image. A *chunk* is a run of tiles; a *panel* of it has as many as the multiply-add tile has columns.
"""

from __future__ import annotations

from numba_nn.core.gemm import fill
from numba_nn.core.kernel import inner
from numba_nn.core.simd import tile_columns, vector_lanes
from numba_nn.core.tiles import copy_exactly, gather_transform
from numba_nn.layers.conv.points import SIDE, TILE, from_inputs

MARGIN = SIDE - TILE  # inputs that a tile shares with the next, along each axis
NUMBERS = SIDE * SIDE  # of a transformed tile
WIDE = 2 * TILE  # columns that are read of a tile: the next power of two

inputs_to_lanes = gather_transform(from_inputs())


@inner
def tile_grid(height, width):
    """Rows and columns of tiles that cover an image of this size."""
    return -(-height // TILE), -(-width // TILE)


@inner
def chunk_size(tiles, width, most):
    """Tiles of a chunk, a multiple of ``width``: not more than the images have, and than ``most``."""
    return min(-(-tiles // width) * width, most)


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
def transform_chunk(inputs, padded, corners, x, channel, channel_end, first, count, rows, columns, padding):
    """Transform a chunk's tiles of some channels into panels of tiles; inputs: (panels, 36, C tiles)."""
    lanes, tiles, step = vector_lanes(x), tile_columns(x), inputs.shape[2]
    flat, width = inputs.reshape(inputs.size), padded_width(columns)
    fill(padded, 0, padded.size, padded.dtype.type(0))  # the border; all channels leave it as it is
    for c in range(channel, channel_end):
        pad_rows(padded, x, c, first, count, rows, columns, padding)
        for t in range(0, -(-count // tiles) * tiles, lanes):
            at = t // tiles * NUMBERS * step + c * tiles + t % tiles
            inputs_to_lanes(flat, at, step, padded, 0, corners, t, width)


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

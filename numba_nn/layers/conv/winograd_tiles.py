"""How Winograd's convolutions cut images into tiles, and the tiles into chunks that the caches hold.

A convolution with dilation d is one without for each *phase* of an image, the pixels whose rows, or columns, have one remainder
modulo d: output pixel d u + f sees the inputs d (u + i) + f - p. Phases are images here, of d x d times as many.

Output tiles are numbered over phases, rows and columns of tiles; those at the bottom and at the right may reach beyond the
image. A *chunk* is a run of tiles; a *panel* of it has as many as the multiply-add tile has columns.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from numba_nn.core.kernel import inner
from numba_nn.core.product.block import CACHED, multiply_block
from numba_nn.core.rows import fill
from numba_nn.core.simd import VECTORS, tile_rows, tile_shape
from numba_nn.core.workspace import Shape, Spec
from numba_nn.layers.conv.algorithm import Pair
from numba_nn.layers.conv.winograd_matrices import from_inputs, outputs_of, side_of
from numba_nn.layers.conv.winograd_transforms import copy_exactly, gather_transform

WIDE = 8  # columns that are read of a tile of SIDE: the next power of two

# A chunk has so many tiles at most, and bytes of transformed inputs, but a panel at least: 36 x 128 x 32 x 4 B = 590 KB for 128
# channels.
CHUNK_TILES, CHUNK_BYTES = 128, 2**19
GRADIENT_TILES = 128
BLOCK_PANELS = 4  # of output channels: their products with a panel of tiles take 36 x 48 x 32 x 4 B = 221 KB of a 1 MB L2

inputs_to_lanes = gather_transform(from_inputs)


class Tiling(NamedTuple):
    """The tiles of an output.

    Kernels take it as a plain tuple and name it where they hand it on: an argument with names would cost 2 us more a call.
    """

    tap_rows: int
    tap_columns: int
    height: int
    """Outputs of a tile along an axis; along both it shares with the next one inputs of one less than the taps."""
    width: int
    rows: int
    """Of tiles, of a phase."""
    columns: int
    row_step: int
    """From pixel to pixel of a phase: the dilation."""
    column_step: int
    row_phases: int
    column_phases: int

    @classmethod
    def of(cls, sizes: Shape, taps: Pair, dilation: Pair) -> Tiling:
        """Tiles of an output of these ``sizes``, height and width."""
        tile, axes = [outputs_of(k) for k in taps], list(zip(sizes, dilation, strict=True))
        grid = [math.ceil(math.ceil(size / d) / m) for (size, d), m in zip(axes, tile, strict=True)]
        return cls._make((*taps, *tile, *grid, *dilation, *(min(size, d) for size, d in axes)))

    @property
    def numbers(self) -> int:
        """Numbers of a transformed tile."""
        return side_of(self.tap_rows) * side_of(self.tap_columns)


@inner
def panels_together(numbers, channels, width, itemsize):
    """Panels of output channels of a block: twice as many where a panel of inputs is more than stays in an L2 cache.

    Inputs are then read anew for each block: 256 channels at 14 x 14 take 0.88 to 0.96 of the time so, but 64 take 1.06.
    """
    return BLOCK_PANELS * (2 if channels * numbers * width * itemsize > CACHED else 1)


@inner
def tile_count(images, tiling):
    """Tiles of so many images."""
    return images * tiling.row_phases * tiling.column_phases * tiling.rows * tiling.columns


@inner
def chunk_size(tiles, width, most):
    """Tiles of a chunk, a multiple of ``width``: not more than the images have, rounded up, and than ``most``."""
    return min(max(1, -(-tiles // width)) * width, most)


@inner
def shared_chunk(places):
    """Tiles of a chunk that all threads share, where their own ones together have so many."""
    return min(places, CHUNK_TILES)


@inner
def padded_width(tiling):
    """Elements in a row of a padded phase, whose tiles are read WIDE at a time."""
    return tiling.columns * tiling.width + WIDE - tiling.width


@inner
def padded_rows(tiles, images, tiling):
    """Rows that a run of tiles spans at most, over phases that each have some more than their tiles have outputs."""
    phases = images * tiling.row_phases * tiling.column_phases
    tile_rows = min(phases * tiling.rows, (tiles - 2) // tiling.columns + 2)
    return tile_rows * tiling.height + min(phases, (tile_rows - 2) // tiling.rows + 2) * (tiling.tap_rows - 1)


@inner
def padded_row(tile_row, tiling):
    """Row of a stack of padded phases where a row of tiles starts."""
    rows = tiling.rows * tiling.height + tiling.tap_rows - 1
    return tile_row // tiling.rows * rows + tile_row % tiling.rows * tiling.height


@inner
def tile_place(tile, tiling):
    """Number of a tile's phase, and its row and column there."""
    row, column = tile // tiling.columns, tile % tiling.columns
    return row // tiling.rows, row % tiling.rows, column


@inner
def place_tiles(corners, first, count, tiling):
    """corners[t] = where tile first + t starts in the padded rows of the chunk; those beyond the count lie at 0."""
    start = padded_row(first // tiling.columns, tiling)
    width = padded_width(tiling)
    for t in range(corners.size):
        row, column = (first + t) // tiling.columns, (first + t) % tiling.columns
        corners[t] = (padded_row(row, tiling) - start) * width + column * tiling.width if t < count else 0


@inner
def steps_to(distance, step):
    """Steps that cover a distance; most often they are of one pixel, and a division takes as long as a short row."""
    return distance if step == 1 else -(-distance // step)


@inner
def phase_at(number, tiling):
    """Image, and row and column where the phase of this number starts."""
    phases = tiling.row_phases * tiling.column_phases
    if phases == 1:
        return number, 0, 0
    return number // phases, number % phases // tiling.column_phases, number % tiling.column_phases


@inner
def chunk_span(first, count, tiling):
    """First and last phase that a run of tiles covers; its first row in the one, and the row behind it in the other."""
    (first_phase, top, _), (last_phase, bottom, _) = tile_place(first, tiling), tile_place(first + count - 1, tiling)
    return first_phase, last_phase, top * tiling.height, (bottom + 1) * tiling.height + tiling.tap_rows - 1


@inner
def pad_rows(padded, x, channel, span, tiling, padding):
    """Copy what a chunk's tiles cover of one channel, shifted by the padding. The border holds zeros already."""
    flat, height, length, width = x.reshape(x.size), x.shape[2], x.shape[3], padded_width(tiling)
    (down, across), of_phase = (tiling.row_step, tiling.column_step), tiling.rows * tiling.height + tiling.tap_rows - 1
    first_phase, last_phase, start, stop = span
    for number in range(first_phase, last_phase + 1):
        n, row_phase, column_phase = phase_at(number, tiling)
        above, before, shift = padding[0] - row_phase, padding[1] - column_phase, (number - first_phase) * of_phase - start
        left, right = max(0, steps_to(before, across)), min(width, steps_to(length + before, across))
        begin, end = start if number == first_phase else 0, stop if number == last_phase else of_phase
        for row in range(max(begin, steps_to(above, down)), min(end, steps_to(height + above, down))):
            line = ((n * x.shape[1] + channel) * height + row * down - above) * length
            copy_strided(padded, (shift + row) * width + left, 1, flat, line + left * across - before, across, right - left)


@inner
def copy_strided(target, at, step, source, source_at, source_step, length):
    """target[at + i step] = source[source_at + i source_step] for all i up to the length, which may be negative."""
    if step == 1 and source_step == 1:
        copy_exactly(target, at, source, source_at, max(0, length))
        return
    for i in range(length):
        target[np.uintp(at + i * step)] = source[np.uintp(source_at + i * source_step)]


@inner
def clear(padded, size):
    """Zeros: the border, which all channels of a chunk leave as it is."""
    fill(padded, 0, size, padded.dtype.type(0))


@inner
def multiply_tiles(products, inputs, transformed, depth, outputs, panel, panel_end, width, columns):
    """Matrix products for each number of a tile: some panels of ``transformed`` times one panel of ``inputs``.

    products: (numbers, rows width), inputs: (numbers, depth width), of which whole vectors of ``columns`` are wanted,
    transformed: (panels, numbers, depth rows): ``outputs`` rows.
    """
    height = tile_rows(products)
    rows, step = min(outputs, panel_end * height) - panel * height, products.shape[1]
    flat, weights, tiles = products.reshape(products.size), transformed.reshape(transformed.size), inputs.reshape(inputs.size)
    numbers, a_step, b_step = inputs.shape[0], transformed.shape[2], inputs.shape[1]
    for k in range(numbers):
        multiply_block(
            flat, k * step, width, rows, columns, False, weights, (panel * numbers + k) * a_step, (numbers * a_step, 1, height),
            tiles, k * b_step, (b_step, width), depth,
        )  # fmt: skip


@inner
def write_tiles(y, channel, strips, stride, tiles, place, tiling):
    """Write ``tiles`` of one output channel, from ``place`` on; they lie side by side in rows that are ``stride`` apart."""
    flat, height, length, (down, across) = y.reshape(y.size), y.shape[2], y.shape[3], (tiling.row_step, tiling.column_step)
    (number, row, column), tile = place, 0
    while tile < tiles:
        n, row_phase, column_phase = phase_at(number, tiling)
        run, top, left = min(tiling.columns - column, tiles - tile), row * tiling.height, column * tiling.width
        plane = (n * y.shape[1] + channel) * height
        count = min(run * tiling.width, steps_to(length - column_phase, across) - left)
        for i in range(min(tiling.height, steps_to(height - row_phase, down) - top)):
            target = (plane + (top + i) * down + row_phase) * length + left * across + column_phase
            copy_strided(flat, target, across, strips, i * stride + tile * tiling.width, 1, count)
        tile, row, column = tile + run, row + 1, 0
        if row == tiling.rows:
            number, row = number + 1, 0


def most_tiles(tiling: Tiling, channels: int, dtype: Any) -> int:
    """Tiles of a chunk, at most."""
    width, nbytes = tile_shape(dtype)[1], tiling.numbers * channels * np.dtype(dtype).itemsize
    return max(width, min(CHUNK_TILES, CHUNK_BYTES // nbytes // width * width))


def correlation_scratch(tiling: Tiling, x_shape: Shape, y_shape: Shape, dtype: Any, workers: int) -> dict[str, Spec]:
    """Scratch of a forward or of an input gradient."""
    (height, width), (images, channels), outputs = tile_shape(dtype), x_shape[:2], y_shape[1]
    lanes, numbers, area = width // VECTORS, tiling.numbers, tiling.tap_rows * tiling.tap_columns
    itemsize, tiles = np.dtype(dtype).itemsize, tile_count.py_func(images, tiling)
    if tiles <= lanes:  # panels of one vector, as the empty half of two would be fetched, too
        width = lanes
    chunk = chunk_size.py_func(tiles, width, most_tiles(tiling, channels, dtype))
    areas = max(1, min(workers, -(-tiles // lanes)))
    together = panels_together.py_func(numbers, channels, width, itemsize)
    panels, squares = -(-outputs // height), -(-area // lanes) * lanes * lanes
    products = workers, numbers, min(together, panels) * height * width + lanes
    return {
        "weight": ((panels, numbers, channels * height + lanes), dtype),
        "taps": ((workers, max(squares, area * (channels * height + lanes))), dtype),
        "inputs": ((areas, chunk // width, numbers, channels * width + lanes), dtype),
        "padded": ((workers, _padded_size(shared_chunk.py_func(areas * chunk), images, tiling)), dtype),
        "products": (products, dtype),
        "strips": ((workers, tiling.height * tiling.width * width), dtype),
        "corners": ((areas, chunk), np.dtype(np.int64)),
    }


def correlation_arrays(scratch: dict[str, Any]) -> list[Any]:
    """What `correlation_scratch` holds beside the weights, and the room in which they are transformed."""
    return [scratch[name] for name in ("inputs", "padded", "products", "strips", "corners")]


def gradient_scratch(tiling: Tiling, x_shape: Shape, y_shape: Shape, dtype: Any, workers: int) -> dict[str, Spec]:
    """Scratch of a weight gradient, in the order of the kernel's arguments."""
    (height, width), (images, channels), outputs = tile_shape(dtype), x_shape[:2], y_shape[1]
    lanes, numbers, area = width // VECTORS, tiling.numbers, tiling.tap_rows * tiling.tap_columns
    chunk = chunk_size.py_func(tile_count.py_func(images, tiling), 1, GRADIENT_TILES)
    panels = -(-outputs // height)
    return {
        "inputs": ((-(-channels // width), numbers, chunk * width + lanes), dtype),
        "gradients": ((panels, numbers, chunk * height + lanes), dtype),
        "padded": ((workers, lanes * _padded_size(chunk, images, tiling)), dtype),
        "products": ((workers, numbers, min(BLOCK_PANELS, panels) * height * width + lanes), dtype),
        "strips": ((workers, (2 * area + 1) * lanes), dtype),
        "corners": ((chunk,), np.dtype(np.int64)),
        "planes": ((lanes,), np.dtype(np.int64)),
    }


def _padded_size(chunk: int, images: int, tiling: Tiling) -> int:
    return padded_rows.py_func(chunk, images, tiling) * padded_width.py_func(tiling) + WIDE

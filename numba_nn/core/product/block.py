"""A block of a matrix product, whose C stays in the L2 cache: slice by slice of the depth, and tile by tile.

The order of loads follows the caches (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", ACM TOMS
2008): about DEPTH elements of a B panel stay in the L1 cache while the A panels of a block stream from L2.
"""

from __future__ import annotations

from numba_nn.core.kernel import inner
from numba_nn.core.product.fma_tile import FETCH_DEPTHS, ROW_PANELS, fma_tile
from numba_nn.core.simd import partial_rows, tile_columns, tile_rows

DEPTH = 256  # B panel: 256 x 128 B = 32 KB with AVX-512, two thirds of a 48 KB L1
DEPTH_SPARE = 4  # a slice of the depth may be longer by one in so many
PLACED, WIDELY_PLACED, CACHED = 128, 64, 2**20  # see `slice_of`; CACHED: bytes that stay in an L2 cache
BAND_TILES, BAND_BYTES, PAGE = 4, 2**18, 4096  # see `band_of`


@inner
def block_span(block, blocks, panels, length, size):
    """First row (or column) of a block and how many it has; ``panels`` of ``length`` hold ``size`` in all."""
    start, stop = block * panels // blocks * length, (block + 1) * panels // blocks * length
    return start, min(size, stop) - start


@inner
def multiply_block(c, at, stride, rows, columns, accumulate, a, a_at, a_steps, b, b_at, b_steps, depth):
    """C[rows, columns] = A B (+ C if ``accumulate``), in slices of the depth.

    a_steps: from one tile's rows of A to the next one's, from row to row in a tile, and from depth to depth; b_steps: from one
    tile's columns of B to the next one's, and from depth to depth. Both thus may be panels, or matrices as they are.
    """
    length = slice_of(depth, b_steps[1] * c.itemsize, tile_columns(c) * c.itemsize)
    for k in range(0, max(1, depth), length):
        end = min(depth, k + length)
        after = b_at + min(end, depth - (end - k)) * b_steps[1]  # as many depths as this slice has: not beyond B
        multiply_slice(
            c, at, stride, rows, columns, band_of(c, stride, rows, k), accumulate or k > 0,
            a, a_at + k * a_steps[2], a_steps, b, b_at + k * b_steps[1], b_steps, end - k, after,
        )  # fmt: skip


@inner
def slice_of(depth, step, width):
    """Depths of a slice, even ones, as each goes over C; those of B lie ``step`` bytes apart, ``width`` bytes in panels.

    About DEPTH, but where B is read in place, and is large, PLACED, or WIDELY_PLACED if those span more than CACHED. On a
    Xeon 32 x 1024 x 1024 takes 0.98 of MKL's time so, with 256 1.09, with 32 1.08; two threads 1.07, 1.15, 1.42.
    """
    in_cache = step == width or depth * step <= CACHED
    most = DEPTH if in_cache else min(PLACED, max(WIDELY_PLACED, CACHED // step))
    slices = max(1, (depth + most - 1 - most // DEPTH_SPARE) // most)
    return max(1, -(-depth // (slices * FETCH_DEPTHS)) * FETCH_DEPTHS)


@inner
def band_of(c, stride, rows, k):
    """Rows of C that go over its columns together: all, or few where they lie on more pages of 4 KB than the CPU has at hand.

    On an Intel Xeon, MKL's time over ours goes from 0.65 to 0.8 for 2000 x 2000 with a depth of 32 so, 0.8 to 1.0 with 256.
    After the first slice C is in the L2 cache; bands would leave 2048^3 at 0.88 of the peak in place of 0.92.
    """
    return max(1, rows) if k > 0 or rows * min(stride * c.itemsize, PAGE) <= BAND_BYTES else BAND_TILES * tile_rows(c)


@inner
def multiply_slice(c, at, stride, rows, columns, band, accumulate, a, a_at, a_steps, b, b_at, b_steps, depth, after):
    """`multiply_block` of one slice, band by band."""
    for i in range(0, rows, band):
        multiply_band(
            c, at + i * stride, stride, min(band, rows - i), columns, accumulate, a, a_at + i // tile_rows(c) * a_steps[0],
            a_steps, b, b_at, b_steps, depth, after,
        )  # fmt: skip


@inner
def multiply_band(c, at, stride, rows, columns, accumulate, a, a_at, a_steps, b, b_at, b_steps, depth, after):
    """`multiply_slice` of one band. Tiles fetch the next panel of B, each a share of its depths, and the last ones ``after``.

    Nothing beyond B is fetched: looking for the page of an address that is none takes time, too.
    """
    height, width = tile_rows(c), tile_columns(c) * (ROW_PANELS if rows == 1 else 1)
    share, padded = depth // FETCH_DEPTHS, a_steps[1] == 1 and a_steps[2] == height  # panels have all rows of a tile
    for j in range(0, columns, width):
        i, fetched, panel = 0, 0, b_at + j // tile_columns(c) * b_steps[0]
        ahead = panel + b_steps[0] if j + width < columns else after
        while i < rows:
            left, part = rows - i, partial_rows(c)
            taken = min(left, height) if left >= height or padded else min(left, part)
            if height < left <= 2 * part and a_steps[0] == height * a_steps[1]:  # rows of A that lie evenly
                taken = part  # 8 rows as 4 + 4 rather than 6 + 2, which costs as much as 6 + 4
            fma_tile(
                c, at + i * stride + j, stride, taken, min(width, columns - j), accumulate,
                a, a_at + i // height * a_steps[0] + i % height * a_steps[1], a_steps[1], a_steps[2],
                b, panel, b_steps[0], b_steps[1], depth, ahead + fetched * b_steps[1], i > 0,
            )  # fmt: skip
            i, fetched = i + taken, fetched + share if fetched + 2 * share <= depth else 0


@inner
def multiply_columns(
    c, at, stride, rows, first, columns, accumulate, a, a_at, a_steps, b, b_stride, in_place, packed_b, packed_at, depth
):  # fmt: skip
    """Some columns of C = A B (+ C if ``accumulate``), from ``first`` on, where B is packed from its column ``in_place`` on."""
    width = tile_columns(c)
    split = max(0, min(columns, in_place - first))
    multiply_block(
        c, at + first, stride, rows, split, accumulate, a, a_at, a_steps, b, first, (width, b_stride), depth
    )  # fmt: skip
    multiply_block(
        c, at + first + split, stride, rows, columns - split, accumulate, a, a_at, a_steps,
        packed_b[:], packed_at + (first + split - in_place) * depth, (width * depth, width), depth,
    )  # fmt: skip

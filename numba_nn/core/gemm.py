"""The packed matrix product that linear, convolution, recurrent and attention layers share.

C (M x N) is cut into blocks, and each block into tiles that fit the vector registers (`numba_nn.core.simd`). Operands are
packed into *panels* first: a panel of A holds ``tile_rows`` rows as [depth][tile_rows], a panel of B holds ``tile_columns``
columns as [depth][tile_columns], both zero-padded at the edge, so that the tile reads memory in order.

The order of loads follows the caches (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", ACM TOMS
2008): DEPTH elements of a B panel stay in the L1 cache while the A panels of a block stream from L2.

Letters: M rows, N columns, K depth of a product; matrices are flat arrays with an offset and strides in elements.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.kernel import In, Out, Scratch, inner, kernel
from numba_nn.core.simd import copy_run, fma_tile, tile_columns, tile_rows, tile_shape, transpose_lanes, vector_lanes

DEPTH = 256  # B panel: 256 x 128 B = 32 KB with AVX-512, two thirds of a 48 KB L1
BLOCK_ROWS = 240  # A block: 240 x 256 x 4 B = 246 KB, a quarter of a 1 MB L2
BLOCK_COLUMNS = 512
PACK_PANELS, PACK_DEPTH = 8, 128  # what a task packs: 8 panels of 32 columns read 1 KB of each of 128 rows
TASKS = 16  # blocks that a product is cut into at least, where its size allows: a multiple of most core counts


@inner
def pack_panels(packed, at, source, source_at, row_stride, depth_stride, rows, height, depth, first, last):
    """Pack rows of a matrix into panels, from depth ``first`` to ``last``.

    packed[at + p height depth + k height + r] = source[source_at + (p height + r) row_stride + k depth_stride],
    zero where p height + r >= rows.
    """
    lanes = vector_lanes(packed)
    if row_stride == 1:
        for k in range(first, last):
            for row in range(0, rows, height):
                to, origin = at + row * depth + k * height, source_at + row + k * depth_stride
                if k + 1 < last and depth_stride >= lanes and rows - row >= height:
                    copy_run(packed, to, source, origin, height)  # what reaches into the next depth is written again
                else:
                    pack_one(packed, to, source, origin, 1, rows - row, height)
        return
    for row in range(0, rows, height):
        to, origin, filled = at + row * depth, source_at + row * row_stride, min(height, rows - row)
        k = first
        while depth_stride == 1 and k + lanes < last:
            # Squares may reach beyond a panel's height, into the next depth: so squares from the bottom up, the last depth
            # by itself, and what reaches too far is written again.
            for r in range((height - 1) // lanes * lanes, -1, -lanes):
                transpose_lanes(packed, to + k * height + r, height, source, origin + k, row_stride, r, filled)
            k += lanes
        for rest in range(k, last):
            pack_one(packed, to + rest * height, source, origin + rest * depth_stride, row_stride, filled, height)


@inner
def pack_one(packed, at, source, source_at, row_stride, rows, height):
    """One depth of one panel."""
    if row_stride == 1 and rows >= height and height % vector_lanes(packed) == 0:
        copy_run(packed, at, source, source_at, height)
        return
    for r in range(min(rows, height)):  # unsigned indices: see `fill`
        packed[np.uintp(at + r)] = source[np.uintp(source_at + r * row_stride)]
    for r in range(rows, height):
        packed[np.uintp(at + r)] = 0


@inner
def multiply_panels(c, at, stride, rows, columns, keep, a, a_at, a_step, b, b_at, b_step, depth):
    """C[rows, columns] = A B (+ C if ``keep``) over neighbouring panels, which lie a_step and b_step elements apart."""
    height, width = tile_rows(c), tile_columns(c)
    for j in range(0, columns, width):
        for i in range(0, rows, height):
            fma_tile(
                c, at + i * stride + j, stride, min(height, rows - i), min(width, columns - j), keep,
                a, a_at + i // height * a_step, b, b_at + j // width * b_step, depth,
            )  # fmt: skip


@inner
def multiply_block(c, at, stride, rows, columns, keep, a, a_at, b, b_at, depth):
    """C = A B (+ C if ``keep``) for one block, whose panels hold the whole depth, in slices of DEPTH."""
    height, width = tile_rows(c), tile_columns(c)
    for k in range(0, depth, DEPTH):
        multiply_panels(
            c, at, stride, rows, columns, keep or k > 0,
            a, a_at + k * height, height * depth, b, b_at + k * width, width * depth, min(DEPTH, depth - k),
        )  # fmt: skip


@inner
def block_counts(row_panels, column_panels, height, width, others):
    """Blocks along M and along N: no larger than the caches like, and TASKS in all if there are panels enough.

    ``others`` is the number of independent products. The answer depends on the shape alone, as results must.
    """
    row_blocks = -(-row_panels * height // BLOCK_ROWS)
    column_blocks = -(-column_panels * width // BLOCK_COLUMNS)
    wanted = -(-TASKS // max(1, others * row_blocks))
    column_blocks = max(column_blocks, min(column_panels, wanted))
    wanted = -(-TASKS // max(1, others * column_blocks))
    return max(row_blocks, min(row_panels, wanted)), column_blocks


@inner
def block_span(block, blocks, panels, length, size):
    """First row (or column) of a block and how many it has; ``panels`` of ``length`` hold ``size`` in all."""
    start, stop = block * panels // blocks * length, (block + 1) * panels // blocks * length
    return start, min(size, stop) - start


@inner
def fill(array, start, stop, value):
    """array[start:stop] = value."""
    for i in range(start, stop):
        array[np.uintp(i)] = value  # unsigned: no test for negative indices, so the loop vectorises


@inner
def fill_block(c, at, stride, rows, columns, value):
    """C = value in a block."""
    for i in range(rows):
        fill(c, at + i * stride, at + i * stride + columns, value)


@kernel
def pack_matrices(packed: Out, source: In, size: tuple[int, int], strides: tuple[int, int], height: int):
    """Pack every matrix of a stack into panels of ``height`` rows: `pack_panels` in parallel.

    packed: flat; source: (S, rows depth) flat matrices; size: rows, depth; strides: of rows and depth in the source.
    """
    rows, depth = size
    panels = -(-rows // height)
    groups, slices = -(-panels // PACK_PANELS), -(-depth // PACK_DEPTH)
    for t in prange(source.shape[0] * groups * slices):
        s, panel, k = t // (groups * slices), t // slices % groups * PACK_PANELS, t % slices * PACK_DEPTH
        row = panel * height
        pack_panels(
            packed, (s * panels + panel) * height * depth, source[s], row * strides[0], strides[0], strides[1],
            min(rows - row, PACK_PANELS * height), height, depth, k, min(depth, k + PACK_DEPTH),
        )  # fmt: skip


@kernel
def gemm(
    c: Out, packed_a: Scratch, packed_b: Scratch, a: In, b: In, a_of: In, b_of: In,
    shape: tuple[int, int, int], a_strides: tuple[int, int], b_strides: tuple[int, int], keep: int,
):  # fmt: skip
    """C[s] = A[a_of[s]] B[b_of[s]] for every product s, added to what C holds if ``keep``.

    c: (S, M N); a: (A, M K); b: (B, K N); a_of, b_of: (S,) which matrix a product takes (broadcasting);
    strides: of rows and columns, which is how a transposed operand is told.
    """
    m, n, depth = shape
    height, width = tile_rows(c), tile_columns(c)
    pack_matrices(packed_a, a, (m, depth), a_strides, height)
    pack_matrices(packed_b, b, (n, depth), (b_strides[1], b_strides[0]), width)
    row_panels, column_panels = -(-m // height), -(-n // width)
    row_blocks, column_blocks = block_counts(row_panels, column_panels, height, width, c.shape[0])
    for t in prange(c.shape[0] * row_blocks * column_blocks):
        s, i, j = t // (row_blocks * column_blocks), t // column_blocks % row_blocks, t % column_blocks
        i0, rows = block_span(i, row_blocks, row_panels, height, m)
        j0, columns = block_span(j, column_blocks, column_panels, width, n)
        if depth == 0 and keep == 0:
            fill_block(c[s], i0 * n + j0, n, rows, columns, c.dtype.type(0))
        multiply_block(
            c[s], i0 * n + j0, n, rows, columns, keep != 0, packed_a, (a_of[s] * row_panels * height + i0) * depth,
            packed_b, (b_of[s] * column_panels * width + j0) * depth, depth,
        )  # fmt: skip


def packed_sizes(m: int, n: int, k: int, dtype: Any) -> tuple[int, int]:
    """Elements that the packed A (M x K) and packed B (K x N) take."""
    height, width = tile_shape(dtype)
    return -(-m // height) * height * k, -(-n // width) * width * k


def product_work(m: int, n: int, k: int) -> float:
    """The work of an M x N x K product in the units of `Kernel.for_work`: 16 multiply-adds count as one operation."""
    return m * n * k / 16 + m * k + k * n


SINGLE = np.zeros(1, np.int64)
"""``a_of`` and ``b_of`` of a single product."""

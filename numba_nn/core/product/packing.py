"""Packing the operands of a matrix product, in the order in which the multiply-add tile reads them.

A *panel* of A holds ``tile_rows`` rows as [depth][tile_rows], a panel of B holds ``tile_columns`` columns as
[depth][tile_columns], both zero-padded at the edge.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from numba_nn.core.kernel import In, Out, inner, kernel
from numba_nn.core.simd import copy_run, tile_rows, tile_shape, transpose_lanes, vector_lanes
from numba_nn.core.threads import team_size

PACK_PANELS, PACK_DEPTH = 8, 128  # what a task packs: 8 panels of 32 columns read 1 KB of each of 128 rows
SQUARE = 16  # a slice's depths are a multiple: as many lanes as a vector has at most
PACK_WORK = 2  # of an element that is packed, in units of `Kernel.for_work`

Array = NDArray[np.floating[Any]]


@inner
def pack_panels(packed, at, source, source_at, row_stride, depth_stride, rows, height, depth, first, last):
    """Pack rows of a matrix into panels, from depth ``first`` to ``last``.

    packed[at + p height depth + k height + r] = source[source_at + (p height + r) row_stride + k depth_stride],
    zero where p height + r >= rows.
    """
    pack_depths(packed, at, source, source_at, row_stride, depth_stride, rows, height, depth, first, last, last)


@inner
def pack_depths(packed, at, source, source_at, row_stride, depth_stride, rows, height, depth, first, last, end):
    """`pack_panels` where depths from ``last`` to ``end`` are packed later, and may be overwritten until then."""
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
        while depth_stride == 1 and k < last and k + lanes < end:
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
    if rows >= height == tile_rows(packed):
        for r in range(tile_rows(packed)):  # a constant: LLVM unrolls the loop
            packed[np.uintp(at + r)] = source[np.uintp(source_at + r * row_stride)]
        return
    for r in range(min(rows, height)):  # unsigned indices: see `fill`
        packed[np.uintp(at + r)] = source[np.uintp(source_at + r * row_stride)]
    for r in range(rows, height):
        packed[np.uintp(at + r)] = 0


@kernel
def pack_matrices(packed: Out, source: In, size: tuple[int, int], strides: tuple[int, int], height: int, first: int):
    """Pack every matrix of a stack, from its row ``first`` on, into panels of ``height`` rows: `pack_panels` in parallel.

    packed: flat; source: (S, rows depth) flat matrices; size: rows, depth; strides: of rows and depth in the source.
    """
    rows, depth = size[0] - first, size[1]
    panels, squares, stack = -(-rows // height), -(-depth // SQUARE), source.shape[0]
    groups = tasks_of(-(-panels // PACK_PANELS), panels, stack)
    slices = tasks_of(-(-depth // PACK_DEPTH), squares, stack * groups)
    for t in prange(stack * groups * slices):
        s, i, j = t // (groups * slices), t // slices % groups, t % slices
        panel, end = i * panels // groups, (i + 1) * panels // groups
        row, start = panel * height, j * squares // slices * SQUARE
        pack_panels(
            packed, (s * panels + panel) * height * depth, source[s], (first + row) * strides[0], strides[0], strides[1],
            min(rows, end * height) - row, height, depth, start, min(depth, (j + 1) * squares // slices * SQUARE),
        )  # fmt: skip


@inner
def tasks_of(least, most, others):
    """Pieces, from ``least`` to ``most``, of each of ``others``: so many, if that can be, that all threads have as many."""
    team = team_size()
    wanted = least if others % team == 0 else -(-least // team) * team
    return max(1, min(most, wanted))


def panel_sizes(m: int, n: int, k: int, dtype: Any) -> tuple[int, int]:
    """Elements that panels of the rows of A (M x K) and of the columns of B (K x N) take."""
    height, width = tile_shape(dtype)
    return -(-m // height) * height * k, -(-n // width) * width * k


def pack_columns(packed: Array, stack: Array, columns: int, depth: int) -> None:
    """Pack matrices B (K x N), each with its depth in order, as `multiply_packed` reads them; stack: (S, N K)."""
    width = tile_shape(stack.dtype)[1]
    pack_matrices.for_work(PACK_WORK * stack.size)(packed, stack, (columns, depth), (depth, 1), width, 0)

"""The general matrix product: each thread has a block of every C, and packs what it multiplies into room of its own.

B is packed slice by slice, so many depths of so many columns that its panels stay in the L2 cache, while the rows of A go over
them, a few tiles at a time. Matrices that were packed as a whole went to memory and back, and from one core to another: on an
Intel Xeon 512 and 1024 cubed took 1.0 to 1.1 times as long so, and 256 cubed 1.2 times on two threads.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numba
import numpy as np
from numba import prange

from numba_nn.core.kernel import In, Out, Scratch, inner, kernel
from numba_nn.core.product.block import CACHED, DEPTH, DEPTH_SPARE, block_span, multiply_band, slice_of
from numba_nn.core.product.packing import pack_panels, panel_sizes
from numba_nn.core.simd import LINE, register_file, tile_columns, tile_rows
from numba_nn.core.threads import team_size

BLOCK_ROWS = (
    72  # of C, a page each: about what an Intel core has at hand with those of the panels, 96; 240 take 2 to 6 % more time
)
BLOCK_BYTES = 2**20 if register_file()[0] == 64 else 2**19  # of B in a slice: with AVX-512 the L2 cache has 1 MB or more
SHARES = 8  # the rooms of all threads hold B so many times, at most, or a panel each
TASK = 2**19  # multiply-adds for which a thread is worth its while
THIN = 16  # products of no more depth write C in order, a row of tiles after the other, which is most of their work
IN_PLACE_PANELS = 4  # see `columns_in_place`
LEFT_ROWS, LEFT_COLUMNS, MANY_COLUMNS, LEFT_ELEMENTS = 9, 128, 512, 2**18  # see `left_is_packed`
ALIASING = 1024  # rows a multiple of so many elements apart all fall into the same set of the L1 cache


@inner
def left_is_packed(m, n, depth, strides, in_place):
    """Whether A is packed: if it is read very often, is large, its rows alias, or its depths lie apart. ``n``: of a block.

    On Zen 4, share of the peak as it is and packed: 94 and 89 for 256^3, 80 and 91 for 1024^3. With its depths apart it takes
    0.9 to 1.02 of the time on an Intel Xeon, from 128 columns on. For 96 x 512 x 784 there: 60 as it is, 69 packed.

    Where B is read in place, a few rows take 1.2 (3 rows) or 1.08 times (8) as long as they are, with 512 x 512. But 32 packed
    ones take 1.3 times as long, with 2000 x 2000.
    """
    if in_place and strides[1] == 1:
        return m < LEFT_ROWS and n >= MANY_COLUMNS
    often = n >= MANY_COLUMNS and (m >= LEFT_ROWS or in_place)
    return n >= LEFT_COLUMNS and (often or strides[1] != 1 or m * depth > LEFT_ELEMENTS or strides[0] % ALIASING == 0)


@inner
def columns_in_place(n, depth, width, rows, itemsize):
    """How many of n columns, which lie side by side, are read where they are, for so many rows of A: whole panels, or none.

    Packing pays for more rows. It loses 5 % of the peak for 96 rows and gains 3 % for 256 on Zen 4, with panels of 32 columns.
    Where B is larger than the cache it pays earlier: 1024 x 1024 take 0.92 (128 rows), 1.0 (80) and 1.1 times as long (64) on
    an Intel Xeon, and where they are not aligned 0.85, 0.87 and 0.94.
    """
    panels = IN_PLACE_PANELS if n * depth * itemsize <= CACHED else IN_PLACE_PANELS // 2
    return n // width * width if rows < panels * width else 0


@inner
def block_grid(row_panels, column_panels, height, width, products, work):
    """Blocks along M and along N, for all threads as many, if there is work and size enough; ``work``: of a product.

    Of those grids the one whose threads have least to do: the multiply-adds of a block, and packing its rows and its columns,
    of which an element takes as long as ``width`` multiply-adds, or three quarters of them.
    """
    team = team_size()
    wanted = max(1, min(team // gcd(products, team), work // TASK))
    grid, least = (1, 1), -1
    for rows in range(1, wanted + 1):
        if wanted % rows == 0:
            across, down = min(rows, row_panels), min(wanted // rows, column_panels)
            high, wide = -(-row_panels // across) * height, -(-column_panels // down) * width
            cost = high * wide + width * high + width * 3 // 4 * wide
            if least < 0 or cost < least:
                grid, least = (across, down), cost
    return grid


@inner
def shared_rooms(left, right, panels, line, wanted):
    """Threads that can share room of ``left`` and ``right`` elements, and the share of each, in whole cache lines of ``line``.

    As many as ``wanted``, if each has room for ``panels`` elements: of a panel of A, and of B.
    """
    for size, panel in ((left, panels[0]), (right, panels[1])):
        if panel > 0:
            wanted = min(wanted, size // (-(-panel // line) * line))
    workers = max(1, wanted)
    return workers, left // workers // line * line, right // workers // line * line


@kernel
def multiply_stack(
    c: Out, packed_a: Scratch, packed_b: Scratch, a: In, b: In, a_of: In, b_of: In,
    shape: tuple[int, int, int], a_strides: tuple[int, int], b_strides: tuple[int, int], accumulate: int,
):  # fmt: skip
    """`gemm` by way of `fma_tile`: an operand is packed if it is read often enough, or cannot be read where it is."""
    (m, n, depth), width = shape, tile_columns(c)
    in_place = columns_in_place(n, depth, width, m, c.itemsize) if b_strides[1] == 1 else 0
    steps = width * b_strides[1], b_strides[0], b_strides[1]
    multiply_blocks(c, packed_a, packed_b, a, b, a_of, b_of, shape, a_strides, steps, in_place, accumulate)


@kernel
def multiply_packed(
    c: Out, packed_a: Scratch, a: In, panels: In, a_of: In, b_of: In, shape: tuple[int, int, int], a_strides: tuple[int, int]
):  # fmt: skip
    """`gemm` where every B was packed before, by `pack_columns`; panels: (B, elements)."""
    width, depth = tile_columns(c), shape[2]
    multiply_blocks(
        c, packed_a, packed_a, a, panels, a_of, b_of, shape, a_strides, (width * depth, width, 1), shape[1], 0
    )  # fmt: skip


@kernel
def multiply_blocks(
    c: Out, packed_a: Scratch, packed_b: Scratch, a: In, b: In, a_of: In, b_of: In,
    shape: tuple[int, int, int], a_strides: tuple[int, int], b_steps: tuple[int, int, int], in_place: int, accumulate: int,
):  # fmt: skip
    """`gemm` where B's columns before ``in_place`` are read where they lie, and the others are packed.

    b_steps: from one tile's columns to the next one's, from depth to depth, and from column to column of those to be packed.
    packed_a, packed_b: threads share them evenly, as far as each gets a panel; what a block packs at once fits its share.
    """
    m, n, depth = shape
    height, width, line = tile_rows(c), tile_columns(c), LINE // c.itemsize
    row_panels, column_panels = -(-m // height), -(-n // width)
    row_blocks, column_blocks = block_grid(row_panels, column_panels, height, width, c.shape[0], m * n * depth)
    blocks = row_blocks * column_blocks
    tasks, length = c.shape[0] * blocks, min(depth, slice_of(depth, width, width))
    panels = height * length, width * length if in_place < n else 0
    workers, left, right = shared_rooms(packed_a.size, packed_b.size, panels, line, min(team_size(), tasks))
    for worker in prange(workers):
        for t in range(tasks * worker // workers, tasks * (worker + 1) // workers):
            s, i, j = t // blocks, t % blocks // column_blocks, t % column_blocks
            row, rows = block_span(i, row_blocks, row_panels, height, m)
            first, columns = block_span(j, column_blocks, column_panels, width, n)
            multiply_span(
                c[s], row, n, rows, first, columns, in_place, accumulate != 0, a[a_of[s]], a_strides,
                packed_a[worker * left : (worker + 1) * left], b[b_of[s]], b_steps,
                packed_b[worker * right : (worker + 1) * right], depth,
            )  # fmt: skip


@inner
def multiply_span(
    c, row, stride, rows, first, columns, in_place, accumulate, a, a_strides, room_a, b, b_steps, room_b, depth
):  # fmt: skip
    """`multiply_part` of columns of which those before ``in_place`` are read where they lie."""
    split = max(0, min(columns, in_place - first))
    for start, count in ((first, split), (first + split, columns - split)):
        multiply_part(
            c, row, stride, rows, start, count, accumulate, a, a_strides, room_a, b, b_steps, start >= in_place, room_b, depth
        )  # fmt: skip


@inner
def multiply_part(c, row, stride, rows, first, columns, accumulate, a, a_strides, room_a, b, b_steps, packs, room_b, depth):
    """Some rows and columns of C = A B (+ C if ``accumulate``); B is packed on the way if it ``packs``."""
    width = tile_columns(c)
    length = slice_of(depth, (width if packs else b_steps[1]) * c.itemsize, width * c.itemsize)
    most = max(1, min(BLOCK_BYTES // c.itemsize, room_b.size if packs else BLOCK_BYTES) // (width * min(length, max(1, depth))))
    panels = -(-columns // width)
    blocks = -(-panels // most)
    for block in range(blocks):
        start, count = block_span(block, blocks, panels, width, columns)
        for k in range(0, max(1, depth), length):
            span, column = min(depth, k + length) - k, first + start
            right, at, steps = b, column // width * b_steps[0] + k * b_steps[1], (b_steps[0], b_steps[1])
            after = at + min(span, depth - k - span) * b_steps[1]  # as many depths as this slice has: not beyond B
            if packs:
                source = column * b_steps[2] + k * b_steps[1]
                pack_panels(room_b, 0, b, source, b_steps[2], b_steps[1], count, width, span, 0, span)
                right, at, steps, after = room_b, 0, (width * span, width), 0
            multiply_rows(
                c, row, stride, rows, column, count, accumulate or k > 0, a, k, a_strides,
                left_is_packed(rows, count, depth, a_strides, steps[1] != width), room_a, right, at, steps, span, after,
            )  # fmt: skip


@inner
def multiply_rows(
    c, row, stride, rows, first, columns, accumulate, a, k, a_strides, packs, room, b, b_at, b_steps, depth, after
):  # fmt: skip
    """`multiply_part` of one slice, which begins at depth ``k`` of A; A is packed on the way if it ``packs``.

    Or if it lies as panels do, but has no rows to fill the last one: a tile would read beyond it.
    """
    height = tile_rows(c)
    packs = packs or (a_strides[0] == 1 and a_strides[1] == height and rows % height != 0)
    most = height if depth <= THIN else min(BLOCK_ROWS, room.size // depth)
    panels = -(-rows // height)
    blocks = -(-panels // max(1, most // height))
    for block in range(blocks):
        start, taken = block_span(block, blocks, panels, height, rows)
        left, at = a, (row + start) * a_strides[0] + k * a_strides[1]
        steps = height * a_strides[0], a_strides[0], a_strides[1]
        if packs:
            pack_panels(room, 0, a, at, a_strides[0], a_strides[1], taken, height, depth, 0, depth)
            left, at, steps = room, 0, (height * depth, 1, height)
        multiply_band(
            c, (row + start) * stride + first, stride, taken, columns, accumulate, left, at, steps, b, b_at, b_steps, depth,
            after if block + 1 == blocks else b_at,
        )  # fmt: skip


def block_rooms(m: int, n: int, k: int, dtype: Any, products: int) -> tuple[int, int]:
    """Elements of room in which `multiply_blocks` packs A (M x K) and B (K x N), of all threads together."""
    depth, line = min(k, DEPTH + DEPTH // DEPTH_SPARE), LINE // np.dtype(dtype).itemsize
    workers = min(numba.config.NUMBA_NUM_THREADS, max(1, products * m * n * k // TASK))
    left, right = panel_sizes(min(m, BLOCK_ROWS), n, depth, dtype)
    whole, panel = panel_sizes(1, n, k, dtype)[1], panel_sizes(1, 1, depth, dtype)[1]
    # In whole lines, and none of it is less for fewer rows: scratch must not grow with a smaller batch.
    left, right, whole, panel = (-(-size // line) * line for size in (left, right, whole, panel))
    block = max(panel, min(right, BLOCK_BYTES // np.dtype(dtype).itemsize))
    return workers * left, min(workers * block, max(SHARES * whole, workers * panel))

"""The packed matrix product that linear, convolution and recurrent layers share.

C (M x N) is cut into blocks, and each block into tiles that fit the vector registers (`numba_nn.core.simd`). Operands are read
where they lie, or packed into *panels* first if that pays (`numba_nn.core.product.packing`).

Letters: M rows, N columns, K depth of a product; matrices are flat arrays with an offset and strides in elements.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import prange

from numba_nn.core.cuda.gemm import multiply_matrices
from numba_nn.core.cuda.product import ADD, OVERWRITE
from numba_nn.core.kernel import In, Out, Scratch, inner, kernel
from numba_nn.core.product.block import CACHED, multiply_block
from numba_nn.core.product.dot import dot_products
from numba_nn.core.product.packing import pack_matrices, pack_panels, panel_sizes
from numba_nn.core.simd import (
    VECTORS,
    register_file,
    tile_columns,
    tile_rows,
    tile_shape,
    transpose_lanes,
    vector_lanes,
)
from numba_nn.core.threads import team_size

BLOCK_ROWS = 240  # A block: 240 x 256 x 4 B = 246 KB, half of the L2 of Zen 3; 480 rows lose 2 % at 2048^3 on an Intel Xeon
BLOCK_COLUMNS = 1024 if register_file()[0] == 64 else 512  # CPUs with AVX-512 have an L2 of 1 MB or more
DOT_DEPTH = 4  # dot products pay if the depth is so many times greater than the rows
IN_PLACE_PANELS = 4  # see `columns_in_place`
PLACE_ELEMENTS = 2**14  # of C in a block where B is read in place, at least, or ROW_COLUMNS of each row
LEFT_ROWS, LEFT_COLUMNS, MANY_COLUMNS, LEFT_ELEMENTS = 9, 128, 512, 2**18  # see `left_is_packed`
ALIASING = 1024  # rows a multiple of so many elements apart all fall into the same set of the L1 cache
TRANSPOSE_ROWS = 160  # see `transposing_pays`
TRANSPOSE_BLOCK = 48  # rows of C^T that are transposed while they are in the L1 cache
ROW_COLUMNS, ROW_DEPTH = 512, 8  # of one row times a matrix: columns of a task, at least, and rows of B that it adds at once
COPIES = 8  # of an operand, that groups of threads have in their caches, at most
THIN = 16  # products of no more depth are cut into rows of tiles: they write C in order, which is most of their work
TASKS = 16  # what is cut by shape alone is cut into so many, where its size allows: a multiple of most core counts
BLOCKS_EACH, TASK = 4, 2**19  # blocks of a thread, if there are several, and multiply-adds of a block


@inner
def blocks_wanted(work):
    """Blocks that so many multiply-adds are cut into, if sizes allow: one for one thread, for more some for each."""
    team = team_size()
    tasks = min(BLOCKS_EACH * team if team > 1 else 1, work // TASK)
    return max(1, tasks if tasks < team else tasks // team * team)


@inner
def block_counts(row_panels, column_panels, height, width, products, work):
    """Blocks along M and along N: no larger than the caches like, and `blocks_wanted` in all if there are panels enough.

    ``work``: the multiply-adds of each of the ``products``. Blocks change the order in which C is computed, not its sums.
    """
    tasks, team = blocks_wanted(products * work), team_size()
    row_blocks = -(-row_panels * height // BLOCK_ROWS)
    if row_blocks > team:  # a multiple, or the last blocks leave threads idle: 512^3 was cut into nine for two
        row_blocks = -(-row_blocks // team) * team
    column_blocks = -(-column_panels * width // BLOCK_COLUMNS)
    wanted = -(-tasks // max(1, products * row_blocks))
    column_blocks = max(column_blocks, min(column_panels, wanted))
    wanted = -(-tasks // max(1, products * column_blocks))
    return max(row_blocks, min(row_panels, wanted)), column_blocks


@inner
def block_span(block, blocks, panels, length, size):
    """First row (or column) of a block and how many it has; ``panels`` of ``length`` hold ``size`` in all."""
    start, stop = block * panels // blocks * length, (block + 1) * panels // blocks * length
    return start, min(size, stop) - start


@kernel
def gemm(
    c: Out, packed_a: Scratch, packed_b: Scratch, a: In, b: In, a_of: In, b_of: In,
    shape: tuple[int, int, int], a_strides: tuple[int, int], b_strides: tuple[int, int], accumulate: int,
):  # fmt: skip
    """C[s] = A[a_of[s]] B[b_of[s]] for every product s, added to what C holds if ``accumulate``.

    c: (S, M N); a: (A, M K); b: (B, K N); a_of, b_of: (S,) which matrix a product takes (broadcasting);
    strides: of rows and columns, which is how a transposed operand is told.
    """
    m, n, depth = shape
    in_order = a_strides[1] == 1 and b_strides[0] == 1  # of both operands the depth
    if m == 1 and b_strides[1] == 1:
        multiply_row(c, a, b, a_of, b_of, n, depth, accumulate)
    elif n == 1 and a_strides[0] == 1:
        multiply_row(c, b, a, b_of, a_of, m, depth, accumulate)
    elif b_strides[0] == 1 and c.shape[0] == b.shape[0] and transposing_pays(m, n, depth, c):
        multiply_transposed(c, packed_a, packed_b, a, b, a_of, b_of, shape, a_strides, b_strides[1], accumulate)
    elif in_order and few_rows_suffice(m, n, depth, vector_lanes(c)):
        dot_products(c, a, b, a_of, b_of, (m, n, depth), (n, 1), accumulate)
    elif in_order and few_rows_suffice(n, m, depth, vector_lanes(c)):
        dot_products(c, b, a, b_of, a_of, (n, m, depth), (1, n), accumulate)
    elif n == 1 < m:  # rather one row than one column: see `packed_sizes`
        multiply_stack(c, packed_b, packed_a, b, a, b_of, a_of, (n, m, depth), b_strides[::-1], a_strides[::-1], accumulate)
    else:
        multiply_stack(c, packed_a, packed_b, a, b, a_of, b_of, shape, a_strides, b_strides, accumulate)


@gemm.on_cuda(steps=True)
def gemm(
    c: Out, packed_a: Scratch, packed_b: Scratch, a: In, b: In, a_of: In, b_of: In,
    shape: tuple[int, int, int], a_strides: tuple[int, int], b_strides: tuple[int, int], accumulate: int,
):  # fmt: skip
    """On tensor cores, or by multiply-adds; nothing is packed."""
    multiply_matrices(c, a, b, a_of, b_of, shape, a_strides, b_strides, ADD if accumulate else OVERWRITE)


@inner
def few_rows_suffice(m, n, depth, lanes):
    """Whether a product of m rows, had it both operands' depth in order, is faster by dot products: half of the peak."""
    return m <= n and m <= few_rows(lanes) and m * DOT_DEPTH <= depth


@inner
def few_rows(lanes):
    """Rows that fill a vector of ``lanes`` so badly that dot products are faster."""
    return lanes * 3 // 4


@inner
def transposing_pays(m, n, depth, c):
    """Whether C^T = B^T A^T is faster, where B has its depth in order: B^T is read where it lies, and only A is packed.

    What it saves, packing B, takes as long as ``packing`` columns of C^T. What is wasted are columns of panels beyond m (a
    panel of one vector costs three quarters of one of two) and copying C^T, m rows at 3/2 of ``lanes`` each; it has to fit
    where panels of B would lie. On an Intel Xeon it takes 0.45 to 1.05 of the time of `multiply_stack` so, for 16 to 160 rows.
    """
    lanes, width = vector_lanes(c), tile_columns(c)
    columns, left = -(-m // width) * width, m % width
    wasted = columns - m - (width // 4 if 0 < left <= lanes else 0)
    packing = width * 3 // 4 if n * depth * c.itemsize <= CACHED else width
    many = few_rows(lanes) < m <= min(n, TRANSPOSE_ROWS)
    return many and columns <= depth and 3 * lanes * m < 2 * (packing - wasted) * depth


@kernel
def multiply_row(c: Out, a: In, b: In, a_of: In, b_of: In, n: int, depth: int, accumulate: int):
    """`gemm` where A has one row and the columns of B lie side by side: sums of rows of B, which are read in order."""
    blocks = max(1, min(TASKS, n // ROW_COLUMNS))
    for t in prange(c.shape[0] * blocks):
        s, first, last = t // blocks, t % blocks * n // blocks, (t % blocks + 1) * n // blocks
        y, factors, matrix = c[s, first:last], a[a_of[s]], b[b_of[s]]
        for j in range(y.size if accumulate == 0 else 0):
            y[j] = 0
        whole = depth // ROW_DEPTH * ROW_DEPTH
        for k in range(0, whole, ROW_DEPTH):
            add_eight_rows(y, factors[k : k + ROW_DEPTH], matrix, k * n + first, n)
        for k in range(whole, depth):
            row, factor = matrix[k * n + first :], factors[k]
            for j in range(y.size):
                y[j] += factor * row[j]


@inner
def add_eight_rows(y, factors, matrix, at, n):
    """y += factors times rows of the matrix, n apart, from ``at`` on."""
    r0, r1, r2, r3 = matrix[at:], matrix[at + n :], matrix[at + 2 * n :], matrix[at + 3 * n :]
    r4, r5, r6, r7 = matrix[at + 4 * n :], matrix[at + 5 * n :], matrix[at + 6 * n :], matrix[at + 7 * n :]
    f0, f1, f2, f3, f4, f5, f6, f7 = (
        factors[0], factors[1], factors[2], factors[3], factors[4], factors[5], factors[6], factors[7]
    )  # fmt: skip
    for j in range(y.size):
        low = f0 * r0[j] + f1 * r1[j] + f2 * r2[j] + f3 * r3[j]
        y[j] += low + (f4 * r4[j] + f5 * r5[j] + f6 * r6[j] + f7 * r7[j])


@kernel
def multiply_transposed(
    c: Out, packed: Scratch, transposed: Scratch, a: In, b: In, a_of: In, b_of: In,
    shape: tuple[int, int, int], a_strides: tuple[int, int], b_stride: int, accumulate: int,
):  # fmt: skip
    """`gemm` by way of C^T, where every product has a B of its own, whose columns lie ``b_stride`` apart.

    packed: rows of A, as panels of columns, of which each thread has a copy in its own cache if there is room: two threads of
    an Intel Xeon take 0.75 of the time so for 32 x 784 x 256. transposed: (S, N, columns of these panels).
    """
    m, n, depth = shape
    height, width, lanes, team = tile_rows(c), tile_columns(c), vector_lanes(c), team_size()
    columns, blocks = -(-m // width) * width, -(-n // TRANSPOSE_BLOCK)
    size, tasks = columns * depth, c.shape[0] * blocks
    wanted = min(team, tasks, blocks_wanted(c.shape[0] * m * n * depth))
    copies = max(1, min(wanted, packed.size // max(1, a.shape[0] * size)))
    for copy in prange(copies):
        for s in range(a.shape[0]):
            pack_panels(
                packed, (copy * a.shape[0] + s) * size, a[s], 0, a_strides[0], a_strides[1], m, width, depth, 0, depth
            )  # fmt: skip
    for worker in prange(team):
        copy = worker * copies // team * a.shape[0]
        for t in range(tasks * worker // team, tasks * (worker + 1) // team):
            s, first = t // blocks, t % blocks * TRANSPOSE_BLOCK
            rows, at = min(TRANSPOSE_BLOCK, n - first), (s * n + first) * columns
            multiply_block(
                transposed, at, columns, rows, -(-m // lanes) * lanes, False, b[b_of[s]], first * b_stride,
                (height * b_stride, b_stride, 1), packed[:], (copy + a_of[s]) * size, (width * depth, width), depth,
            )  # fmt: skip
            write_transposed(c[s], first, n, transposed, at, rows, columns, m, accumulate)


@inner
def write_transposed(c, first, stride, transposed, at, rows, columns, m, accumulate):
    """C[i, first + j] = transposed[j, i], added to what C holds if ``accumulate``: m rows of C, which lie ``stride`` apart."""
    lanes = vector_lanes(c)
    for j in range(0, rows, lanes):
        for i in range(0, m, lanes):
            if accumulate == 0 and j + lanes <= rows and i + lanes <= m:
                transpose_lanes(c, i * stride + first + j, stride, transposed, at + j * columns + i, columns, 0, lanes)
                continue
            for p in range(i, min(m, i + lanes)):
                for q in range(j, min(rows, j + lanes)):
                    to = np.uintp(p * stride + first + q)
                    held = c[to] if accumulate else c.dtype.type(0)
                    c[to] = held + transposed[np.uintp(at + q * columns + p)]


@inner
def left_is_packed(m, n, depth, strides, in_place):
    """Whether A is packed: if it is read very often, or is large, or its rows alias. ``n``: columns that a thread has of a row.

    On Zen 4, share of the peak as it is and packed: 94 and 89 for 256^3, 80 and 91 for 1024^3. With its depths apart, on an
    Intel Xeon: 68 and 70 for 256^3, 63 and 74 for 512^3. For 96 x 512 x 784 there: 60 as it is, 69 packed.

    Where B is read in place, a few rows take 1.2 (3 rows) or 1.08 times (8) as long as they are, with 512 x 512. But 32 packed
    ones take 1.3 times as long, with 2000 x 2000.
    """
    if in_place and strides[1] == 1:
        return m < LEFT_ROWS and n >= MANY_COLUMNS
    most = LEFT_ELEMENTS if strides[1] == 1 else LEFT_ELEMENTS // 8
    often = n >= MANY_COLUMNS and (m >= LEFT_ROWS or in_place)
    return n >= LEFT_COLUMNS and (often or m * depth > most or strides[0] % ALIASING == 0)


@inner
def columns_in_place(n, width, rows):
    """How many of n columns, which lie side by side, are read where they are, for so many rows of A: whole panels, or none.

    Packing pays for more rows. It loses 5 % of the peak for 96 rows and gains 3 % for 256 on Zen 4, with panels of 32 columns.
    """
    return n // width * width if rows < IN_PLACE_PANELS * width else 0


@kernel
def multiply_stack(
    c: Out, packed_a: Scratch, packed_b: Scratch, a: In, b: In, a_of: In, b_of: In,
    shape: tuple[int, int, int], a_strides: tuple[int, int], b_strides: tuple[int, int], accumulate: int,
):  # fmt: skip
    """`gemm` by way of `fma_tile`: an operand is packed if it is read often enough, or cannot be read where it is."""
    m, n, depth = shape
    in_place = columns_in_place(n, tile_columns(c), m) if b_strides[1] == 1 else 0
    if in_place < n:  # or threads would meet for nothing
        pack_matrices(packed_b, b, (n, depth), (b_strides[1], b_strides[0]), tile_columns(c), in_place)
    multiply_packed(c, packed_a, a, b, packed_b, a_of, b_of, shape, a_strides, b_strides[0], in_place, accumulate)


@kernel
def multiply_packed(
    c: Out, packed_a: Scratch, a: In, b: In, packed_b: In, a_of: In, b_of: In,
    shape: tuple[int, int, int], a_strides: tuple[int, int], b_stride: int, in_place: int, accumulate: int,
):  # fmt: skip
    """`gemm` where B is packed from its column ``in_place`` on, and before it has rows ``b_stride`` apart."""
    m, n, depth = shape
    height, width = tile_rows(c), tile_columns(c)
    row_panels, column_panels = -(-m // height), -(-n // width)
    left, left_size, left_steps = a.reshape(a.size), m * depth, (height * a_strides[0], a_strides[0], a_strides[1])
    rest = (column_panels * width - in_place) * depth
    row_blocks, column_blocks = block_counts(row_panels, column_panels, height, width, c.shape[0], m * n * depth)
    if in_place:  # fewer, that are wider: B is fetched along its rows
        least = -(-m * n // (BLOCK_ROWS * BLOCK_COLUMNS))
        most, team = n // min(ROW_COLUMNS, PLACE_ELEMENTS // max(1, m)), team_size()
        row_blocks, column_blocks = 1, max(least, min(column_blocks, max(1, most // team) * team))
    if depth <= THIN:
        row_blocks, column_blocks = row_panels, -(-min(column_panels, TASKS) // row_panels)
    each = n if row_blocks > 1 else n // column_blocks
    if left_is_packed(m, each, depth, a_strides, in_place > 0):
        pack_matrices(packed_a, a, (m, depth), a_strides, height, 0)
        left, left_size, left_steps = packed_a, row_panels * height * depth, (height * depth, 1, height)
    for t in prange(c.shape[0] * row_blocks * column_blocks):
        s, i, j = t // (row_blocks * column_blocks), t // column_blocks % row_blocks, t % column_blocks
        i0, rows = block_span(i, row_blocks, row_panels, height, m)
        j0, columns = block_span(j, column_blocks, column_panels, width, n)
        a_at = a_of[s] * left_size + i0 // height * left_steps[0]
        multiply_columns(
            c[s], i0 * n, n, rows, j0, columns, accumulate != 0, left, a_at, left_steps,
            b[b_of[s]], b_stride, in_place, packed_b, b_of[s] * rest, depth,
        )  # fmt: skip


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


def packed_sizes(m: int, n: int, k: int, dtype: Any) -> tuple[int, int]:
    """Elements that `gemm` packs of A (M x K) and of B (K x N), or needs in their place."""
    if n == 1 < m:
        return packed_sizes(1, m, k, dtype)[::-1]
    left, right = panel_sizes(m, n, k, dtype)
    rows, fewer = (panel_sizes(1, columns, k, dtype)[1] for columns in (m, min(m, n, TRANSPOSE_ROWS)))
    copies = min(numba.config.NUMBA_NUM_THREADS, COPIES) if min(m, n) > few_rows.py_func(tile_shape(dtype)[1] // VECTORS) else 1
    # Rows of A may be packed as columns: `multiply_transposed`.
    return max(left, rows, min(copies * fewer, right)), right


def packing_pays(m: int, n: int, k: int, dtype: Any) -> bool:
    """Whether B (K x N) is read faster from panels that were packed before, where it has its depth in order.

    On an Intel Xeon 2 to 128 rows take 0.3 to 1.05 of the time of `gemm`; for a row, and for columns that leave a vector
    empty, dot products are faster.
    """
    return m > 1 and n > few_rows.py_func(tile_shape(dtype)[1] // VECTORS)


def product_work(m: int, n: int, k: int, packed: bool = True) -> float:
    """The work of an M x N x K product in the units of `Kernel.for_work`: 16 multiply-adds count as one operation."""
    return m * n * k / 16 + (m * k + k * n if packed else 0)


SINGLE = np.zeros(1, np.int64)
"""``a_of`` and ``b_of`` of a single product: to kernels a constant."""

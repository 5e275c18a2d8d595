"""The packed matrix product that linear, convolution and recurrent layers share.

C (M x N) is cut into blocks, and each block into tiles that fit the vector registers (`numba_nn.core.simd`). Operands are read
where they lie, or packed into *panels* first if that pays (`numba_nn.core.product.packing`): see `numba_nn.core.product.stack`.

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
from numba_nn.core.product.block import CACHED, block_span, multiply_block
from numba_nn.core.product.dot import dot_products
from numba_nn.core.product.packing import pack_panels, panel_sizes
from numba_nn.core.product.stack import TASK, block_rooms, multiply_stack
from numba_nn.core.simd import VECTORS, tile_columns, tile_rows, tile_shape, transpose_lanes, vector_lanes
from numba_nn.core.threads import team_size

DOT_DEPTH = 4  # dot products pay if the depth is so many times greater than the rows
TRANSPOSE_ROWS = 160  # see `transposing_pays`
TRANSPOSE_BLOCK = 48  # rows of C^T that are transposed while they are in the L1 cache
ROW_COLUMNS, ROW_DEPTH = 512, 8  # of one row times a matrix: columns of a task, at least, and rows of B that it adds at once
COPIES = 8  # of a packed A, that groups of threads have in their caches, at most
TASKS = 16  # what is cut by shape alone is cut into so many, where its size allows: a multiple of most core counts


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

    packed: rows of A, as panels of columns. Of a single A each thread has a copy in its own cache, if there is room: two
    threads of an Intel Xeon take 0.75 of the time so for 32 x 784 x 256. transposed: (S, N, columns of these panels).
    """
    m, n, depth = shape
    height, width, lanes, team = tile_rows(c), tile_columns(c), vector_lanes(c), team_size()
    columns, blocks, square = -(-m // width) * width, -(-n // TRANSPOSE_BLOCK), TRANSPOSE_BLOCK
    if c.shape[0] * blocks % team:  # 300 rows, seven blocks, would be four for one thread and three for another
        blocks, square = min(-(-n // lanes), -(-blocks // team) * team), lanes
    size, tasks = columns * depth, c.shape[0] * blocks
    wanted = min(team, tasks, c.shape[0] * m * n * depth // TASK)
    copies = max(1, min(wanted, packed.size // max(1, size))) if a.shape[0] == 1 else 1
    for t in prange(copies * a.shape[0]):
        pack_panels(packed, t * size, a[t % a.shape[0]], 0, a_strides[0], a_strides[1], m, width, depth, 0, depth)
    for worker in prange(team):
        copy = worker * copies // team * a.shape[0]
        for t in range(tasks * worker // team, tasks * (worker + 1) // team):
            s = t // blocks
            first, rows = block_span(t % blocks, blocks, -(-n // square), square, n)
            at = (s * n + first) * columns
            multiply_block(
                transposed, at, columns, rows, -(-m // lanes) * lanes, False, b[b_of[s]], first * b_stride,
                (height * b_stride, b_stride, 1), packed[:], (copy + a_of[s]) * size, (width * depth, width), depth,
            )  # fmt: skip
            write_transposed(c[s], first, n, transposed, at, rows, columns, m, accumulate)


@inner
def write_transposed(c, first, stride, transposed, at, rows, columns, m, accumulate):
    """C[i, first + j] = transposed[j, i], added to what C holds if ``accumulate``: m rows of C, which lie ``stride`` apart."""
    lanes = vector_lanes(c)
    overlapping = accumulate == 0 and rows >= lanes and m >= lanes  # squares at the edge: what both have is written twice
    for j in range(0, rows, lanes):
        for i in range(0, m, lanes):
            if overlapping:
                p, q = min(i, m - lanes), min(j, rows - lanes)
                transpose_lanes(c, p * stride + first + q, stride, transposed, at + q * columns + p, columns, 0, lanes)
                continue
            for p in range(i, min(m, i + lanes)):
                for q in range(j, min(rows, j + lanes)):
                    to = np.uintp(p * stride + first + q)
                    held = c[to] if accumulate else c.dtype.type(0)
                    c[to] = held + transposed[np.uintp(at + q * columns + p)]


def packed_sizes(m: int, n: int, k: int, dtype: Any, lefts: int = 1, rights: int = 1) -> tuple[int, int]:
    """Elements of room that `gemm` needs for A (M x K), of which there are ``lefts``, and for B (K x N), ``rights``."""
    if n == 1 < m:
        return packed_sizes(1, m, k, dtype, rights, lefts)[::-1]
    products = max(lefts, rights)
    left, right = block_rooms(m, n, k, dtype, products)
    if rights == products and min(m, n) > few_rows.py_func(tile_shape(dtype)[1] // VECTORS):  # `multiply_transposed`
        fewer, columns = (panel_sizes(1, length, 1, dtype)[1] for length in (min(m, n, TRANSPOSE_ROWS), n))
        copies = min(numba.config.NUMBA_NUM_THREADS, COPIES, max(1, m * n * k // TASK))
        together = fewer * lefts if lefts > 1 else max(fewer, min(copies * fewer, columns))
        left, right = max(left, together * k), max(right, rights * n * min(fewer, k))  # it wants as much depth as columns
    return left, right


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

"""Products of few rows by dot products: both operands lie with their depth in order, so nothing has to be packed.

A tile multiplies whole vectors along the depth of some rows of A and some columns of B, and adds up the lanes of its sums at
the end. That end costs 50 cycles for 16 sums (Zen 4), what packing the columns would cost for a depth of 20: products of few
rows and much depth go this way.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import prange
from numba.core import cgutils, types
from numba.extending import intrinsic

from numba_nn.core.kernel import In, Out, inner, kernel
from numba_nn.core.simd import INTP, Emitter, data_pointer, register_file

ROW_COLUMNS = 8  # columns of a tile of one row
COLUMNS = 4  # columns of a tile of several rows
TASKS = 16  # blocks of columns, where there are so many tiles


def dot_rows() -> int:
    """Rows of a tile of several rows: what leaves registers for the operands beside rows x COLUMNS sums."""
    return 4 if register_file()[1] == 32 else 2


class DotEmitter(Emitter):
    """Emits dot products over vectors of the array's dtype."""

    def products(self, a: list[Any], b: list[Any], depth: Any) -> list[Any]:
        """Vectors of sums of products, for each pointer to a row of A and each to a column of B."""
        builder = self.builder
        totals = [cgutils.alloca_once_value(builder, self.zero) for _ in range(len(a) * len(b))]
        for total in totals:
            builder.store(self.zero, total)

        def add(load: Any) -> None:
            right = [load(column) for column in b]
            pairs = ((load_row, column) for load_row in map(load, a) for column in right)
            for total, (row, column) in zip(totals, pairs, strict=True):
                builder.store(self.multiply_add(row, column, builder.load(total)), total)

        whole = builder.and_(depth, INTP(-self.lanes))
        with cgutils.for_range_slice(builder, INTP(0), whole, INTP(self.lanes)) as (k, _):
            add(lambda pointer: self.load(pointer, k))
        rest = builder.sub(depth, whole)
        with builder.if_then(builder.icmp_signed(">", rest, INTP(0))):
            mask = self.first_lanes(rest)
            add(lambda pointer: self.load_masked(pointer, whole, mask, self.zero))
        return [builder.load(total) for total in totals]

    def add_lanes(self, vectors: list[Any]) -> list[Any]:
        """Sums of the lanes of each vector, in order, in vectors: a transpose that adds the two halves of every stage."""
        sums = []
        for first in range(0, len(vectors), self.lanes):
            group = vectors[first : first + self.lanes]
            group += [self.zero] * (self.lanes - len(group))
            while len(group) > 1:
                half = len(group) // 2
                mixed = [self.interleave(a, b) for a, b in zip(group[:half], group[half:], strict=True)]
                group = [self.builder.fadd(low, high) for low, high in mixed]
            sums += group
        return sums

    def sums(self, rows: int, columns: int, a: Any, a_row: Any, b: Any, b_row: Any, size: Any) -> Any:
        """The sums of a tile, in order, in memory; rows and columns that are not wanted are copies of the last."""
        wanted_rows, wanted_columns, depth = size
        left, right = self.pointers(a, a_row, rows, wanted_rows), self.pointers(b, b_row, columns, wanted_columns)
        sums = self.add_lanes(self.products(left, right, depth))
        spilled = self.room(len(sums) * self.lanes)
        for n, value in enumerate(sums):
            self.store(value, spilled, INTP(n * self.lanes))
        return spilled

    def write_sums(self, sums: Any, columns: int, c: Any, steps: Any, wanted: Any, accumulate: Any) -> None:
        """C = sums, or C += sums, element by element."""
        builder = self.builder
        with cgutils.for_range(builder, wanted[0]) as row:
            source, target = builder.mul(row.index, INTP(columns)), builder.gep(c, [builder.mul(row.index, steps[0])])
            for j in range(columns):
                with builder.if_then(builder.icmp_signed("<", INTP(j), wanted[1])):
                    value = builder.load(builder.gep(sums, [builder.add(source, INTP(j))]))
                    element = builder.gep(target, [builder.mul(INTP(j), steps[1])])
                    held = builder.select(accumulate, builder.load(element), ir.Constant(self.element, 0))
                    builder.store(builder.fadd(held, value), element)


ROWS = dot_rows()


@intrinsic
def dot_tile(typingctx, c, at, row_step, column_step, rows, columns, accumulate, a, a_at, a_row, b, b_at, b_row, depth):
    """C[i, j] = sum_k A[i, k] B[j, k], added to what C holds if ``accumulate``, for ``rows`` x ``columns`` of a tile.

    ``dot_tile(c, at, row_step, column_step, rows, columns, accumulate, a, a_at, a_row, b, b_at, b_row, depth)``: C starts at
    ``at``, A at ``a_at`` and B at ``b_at``, and their rows lie so many elements apart. columns <= ROW_COLUMNS where rows = 1,
    else rows <= ROWS and columns <= COLUMNS.
    """
    numbers = types.intp, types.intp, types.intp
    signature = types.void(c, *numbers, *numbers[:2], types.boolean, a, *numbers[:2], b, *numbers)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        c, at, row_step, column_step, rows, columns, accumulate, a, a_at, a_row, b, b_at, b_row, depth = arguments
        emit = DotEmitter(builder, signature.args[0])
        places = ((0, c, at), (7, a, a_at), (10, b, b_at))
        target, left, right = (data_pointer(context, builder, signature.args[n], *place) for n, *place in places)
        size = rows, columns, depth
        with builder.if_else(builder.icmp_signed("==", rows, INTP(1))) as (single, several):
            for branch, height, width in ((single, 1, ROW_COLUMNS), (several, ROWS, COLUMNS)):
                with branch:
                    sums = emit.sums(height, width, left, a_row, right, b_row, size)
                    emit.write_sums(sums, width, target, (row_step, column_step), size, accumulate)
        return context.get_dummy_value()

    return signature, codegen


@inner
def dot_block(c, at, row_step, column_step, rows, columns, accumulate, a, a_at, a_row, b, b_at, b_row, depth):
    """C = A B^T (+ C if ``accumulate``) tile by tile."""
    width, height = (ROW_COLUMNS, 1) if rows == 1 else (COLUMNS, ROWS)
    for j in range(0, columns, width):
        for i in range(0, rows, height):
            dot_tile(
                c, at + i * row_step + j * column_step, row_step, column_step, min(height, rows - i), min(width, columns - j),
                accumulate, a, a_at + i * a_row, a_row, b, b_at + j * b_row, b_row, depth,
            )  # fmt: skip


@kernel
def dot_products(
    c: Out, a: In, b: In, a_of: In, b_of: In, shape: tuple[int, int, int], c_steps: tuple[int, int], accumulate: int
):  # fmt: skip
    """C[s] = A[a_of[s]] B[b_of[s]]^T for every product s, added to what C holds if ``accumulate``; letters as in `gemm`.

    a: (A, M K); b: (B, N K); c_steps: elements from row to row and from column to column of C.
    """
    m, n, depth = shape
    flat = c.reshape(c.size)
    tiles = -(-n // ROW_COLUMNS)
    blocks = min(TASKS, tiles)
    for t in prange(c.shape[0] * blocks):
        s, first = t // blocks, t % blocks * tiles // blocks * ROW_COLUMNS
        last = min(n, (t % blocks + 1) * tiles // blocks * ROW_COLUMNS)
        dot_block(
            flat, s * m * n + first * c_steps[1], c_steps[0], c_steps[1], m, last - first, accumulate != 0,
            a[a_of[s]], 0, depth, b[b_of[s]], first * depth, depth, depth,
        )  # fmt: skip

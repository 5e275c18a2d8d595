"""The multiply-add tile whose B lies where it is: a table says where each row starts, as taps of a convolution do.

B needs no packing then, and neighbouring taps share the cache lines that they read. The tile has the rows and columns of
`numba_nn.core.product.fma_tile`, or few rows and more columns, and runs at the same speed: 117 GFLOP/s with 12 or 4 rows
(Zen 4, one thread), all of the measured peak.
"""

from __future__ import annotations

from typing import Any

from numba.core import types
from numba.extending import intrinsic

from numba_nn.core.simd import INTP, VECTORS, Emitter, data_pointer, tile_constant

FEW_ROWS = 4
WIDE = 4  # vectors of columns in a tile of one row

few_columns = tile_constant(lambda rows, columns: columns * (WIDE // VECTORS if rows == 12 else 1))
"""``few_columns(array)`` inside a kernel: columns of a tile of 2 to FEW_ROWS rows; WIDE vectors, if there are 32 registers."""

one_columns = tile_constant(lambda rows, columns: columns * WIDE // VECTORS)
"""``one_columns(array)`` inside a kernel: columns of a tile of one row."""


def _emit_tile(
    emit: Emitter, rows: int, vectors: int, accumulate: Any, c: Any, stride: Any, a: Any, step: Any, b: Any, depth: Any
):
    """One size of tile; ``b``: pointer and table."""
    builder, (origin, table) = emit.builder, b
    places = [
        (builder.gep(c, [builder.mul(stride, INTP(i))]), INTP(j * emit.lanes)) for i in range(rows) for j in range(vectors)
    ]
    before = builder.block
    load, ready, loop, done = (builder.append_basic_block(name) for name in ("load", "ready", "taps", "done"))
    builder.cbranch(accumulate, load, ready)
    builder.position_at_end(load)
    held = [emit.load(*place) for place in places]
    builder.branch(ready)
    builder.position_at_end(ready)
    first = [builder.phi(emit.vector) for _ in places]
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(INTP)
    sums = [builder.phi(emit.vector) for _ in places]
    b_k = builder.gep(origin, [builder.load(builder.gep(table, [k]))])
    a_k = builder.gep(a, [builder.mul(k, step)])
    columns = [emit.load(b_k, INTP(j * emit.lanes)) for j in range(vectors)]
    elements = (emit.broadcast(a_k, INTP(i)) for i in range(rows))
    pairs = ((element, column) for element in elements for column in columns)
    updated = [emit.multiply_add(*pair, total) for pair, total in zip(pairs, sums, strict=True)]
    following = builder.add(k, INTP(1))
    k.add_incoming(INTP(0), ready)
    k.add_incoming(following, loop)
    for start, old, total, new in zip(first, held, sums, updated, strict=True):
        start.add_incoming(emit.zero, before)
        start.add_incoming(old, load)
        total.add_incoming(start, ready)
        total.add_incoming(new, loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)
    builder.position_at_end(done)
    for value, place in zip(updated, places, strict=True):
        emit.store(value, *place)


@intrinsic
def fma_taps(typingctx, c, at, stride, rows, columns, accumulate, a, a_at, step, b, b_at, table, table_at, depth):
    """C[i, j] = sum_k A[k, i] b[b_at + table[table_at + k] + j], added to what C holds if ``accumulate``.

    C's rows lie ``stride`` apart; A[k, i] is a[a_at + k step + i]; depth >= 1. The tile is written whole: 1 row of WIDE
    vectors; FEW_ROWS rows of `few_columns` for 2 to so many ``rows``; `tile_rows` of `tile_columns` for more, or of one vector
    if that holds the ``columns``.
    """
    one = types.intp
    signature = types.void(c, one, one, one, one, types.boolean, a, one, one, b, one, table, one, one)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        c, at, stride, rows, columns, accumulate, a, a_at, step, b, b_at, table, table_at, depth = arguments
        emit = Emitter(builder, signature.args[0])
        target = data_pointer(context, builder, signature.args[0], c, at)
        left = data_pointer(context, builder, signature.args[6], a, a_at)
        right = tuple(data_pointer(context, builder, signature.args[n], *arguments[n : n + 2]) for n in (9, 11))

        def emit_tile(rows: int, vectors: int) -> None:
            _emit_tile(emit, rows, vectors, accumulate, target, stride, left, step, right, depth)

        with builder.if_else(builder.icmp_signed(">", rows, INTP(FEW_ROWS))) as (many, few):
            with many, builder.if_else(builder.icmp_signed(">", columns, INTP(emit.lanes))) as (two, last):
                with two:
                    emit_tile(emit.rows, VECTORS)
                with last:
                    emit_tile(emit.rows, 1)
            with few, builder.if_else(builder.icmp_signed(">", rows, INTP(1))) as (some, single):
                with some:
                    emit_tile(FEW_ROWS, WIDE if emit.rows == 12 else VECTORS)
                with single:
                    emit_tile(1, WIDE)
        return context.get_dummy_value()

    return signature, codegen

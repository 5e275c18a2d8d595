"""The multiply-add tile whose B lies where it is: a table says where each row starts, as taps of a convolution do.

B needs no packing then, and neighbouring taps share the cache lines that they read. The tile has the rows and columns of
`numba_nn.core.product.fma_tile`, or few rows and more columns, and runs at the same speed: 117 GFLOP/s with 12 or 4 rows
(Zen 4, one thread), all of the measured peak. `fma_taps` leaves sums, `finish_taps` what a layer makes of them.
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


def _emit_sums(emit: Emitter, rows: int, vectors: int, start: list[Any], a: Any, step: Any, b: Any, depth: Any) -> list[Any]:
    """Sums of products, added to what they ``start`` with, row by row; ``b``: pointer and table."""
    builder, (origin, table) = emit.builder, b
    before, loop, done = builder.block, *(builder.append_basic_block(name) for name in ("taps", "done"))
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(INTP)
    sums = [builder.phi(emit.vector) for _ in start]
    b_k = builder.gep(origin, [builder.load(builder.gep(table, [k]))])
    a_k = builder.gep(a, [builder.mul(k, step)])
    columns = [emit.load(b_k, INTP(j * emit.lanes)) for j in range(vectors)]
    elements = (emit.broadcast(a_k, INTP(i)) for i in range(rows))
    pairs = ((element, column) for element in elements for column in columns)
    updated = [emit.multiply_add(*pair, total) for pair, total in zip(pairs, sums, strict=True)]
    following = builder.add(k, INTP(1))
    k.add_incoming(INTP(0), before)
    k.add_incoming(following, loop)
    for first, total, new in zip(start, sums, updated, strict=True):
        total.add_incoming(first, before)
        total.add_incoming(new, loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)
    builder.position_at_end(done)
    return updated


def _emit_tile(
    emit: Emitter, rows: int, vectors: int, accumulate: Any, c: Any, stride: Any, a: Any, step: Any, b: Any, depth: Any
) -> None:
    """One size of tile, written whole."""
    builder = emit.builder
    places = [
        (builder.gep(c, [builder.mul(stride, INTP(i))]), INTP(j * emit.lanes)) for i in range(rows) for j in range(vectors)
    ]
    before, load, ready = builder.block, *(builder.append_basic_block(name) for name in ("load", "ready"))
    builder.cbranch(accumulate, load, ready)
    builder.position_at_end(load)
    held = [emit.load(*place) for place in places]
    builder.branch(ready)
    builder.position_at_end(ready)
    start = [builder.phi(emit.vector) for _ in places]
    for first, old in zip(start, held, strict=True):
        first.add_incoming(emit.zero, before)
        first.add_incoming(old, load)
    for value, place in zip(_emit_sums(emit, rows, vectors, start, a, step, b, depth), places, strict=True):
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


def _finish(
    emit: Emitter, sums: list[Any], vectors: int, y: Any, stride: Any, rows: Any, columns: Any, terms: list[Any], least: Any
) -> None:  # fmt: skip
    """y = max(scale sums + shift, least) in the first rows and columns of a tile; terms: where its scales and shifts are."""
    builder, lowest = emit.builder, emit.everywhere(least)
    inside = emit.first_lanes(builder.sub(columns, INTP((vectors - 1) * emit.lanes)))
    for i in range(len(sums) // vectors):
        with builder.if_then(builder.icmp_signed("<", INTP(i), rows)):
            scale, shift = (emit.broadcast(term, INTP(i)) for term in terms)
            row = builder.gep(y, [builder.mul(stride, INTP(i))])
            for j, total in enumerate(sums[i * vectors : (i + 1) * vectors]):
                value = emit.multiply_add(total, scale, shift)
                value = builder.select(builder.fcmp_ordered("<=", value, lowest), lowest, value)
                if j + 1 < vectors:
                    emit.store(value, row, INTP(j * emit.lanes))
                else:
                    emit.store_masked(value, row, INTP(j * emit.lanes), inside)


@intrinsic
def finish_taps(
    typingctx, y, at, stride, rows, columns, scale, shift, channel, least, a, a_at, step, b, b_at, table, depth
):  # fmt: skip
    """y[at + i stride + j] = max(scale[channel + i] s + shift[channel + i], least); NaN for NaN.

    s is the sum over k < depth of a[a_at + k step + i] b[b_at + table[k] + j], depth >= 1. The first ``rows`` and ``columns``
    are written, of a tile with `tile_rows` and `tile_columns`, or with FEW_ROWS and one vector where these do; all are read.
    """
    one = types.intp
    signature = types.void(y, one, one, one, one, scale, shift, one, y.dtype, a, one, one, b, one, table, one)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        y, at, stride, rows, columns, scale, shift, channel, least, a, a_at, step, b, b_at, table, depth = arguments
        emit, kinds = Emitter(builder, signature.args[0]), signature.args
        target, left = (data_pointer(context, builder, kinds[n], *arguments[n : n + 2]) for n in (0, 9))
        right = data_pointer(context, builder, kinds[12], b, b_at), data_pointer(context, builder, kinds[14], table, INTP(0))
        terms = [data_pointer(context, builder, kinds[n], arguments[n], channel) for n in (5, 6)]

        def emit_height(height: int) -> None:
            with builder.if_else(builder.icmp_signed(">", columns, INTP(emit.lanes))) as branches:
                for branch, vectors in zip(branches, (VECTORS, 1), strict=True):
                    with branch:
                        sums = _emit_sums(emit, height, vectors, [emit.zero] * (height * vectors), left, step, right, depth)
                        _finish(emit, sums, vectors, target, stride, rows, columns, terms, least)

        with builder.if_else(builder.icmp_signed(">", rows, INTP(FEW_ROWS))) as (many, few):
            with many:
                emit_height(emit.rows)
            with few:
                emit_height(FEW_ROWS)
        return context.get_dummy_value()

    return signature, codegen

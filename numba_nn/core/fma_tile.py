"""The multiply-add tile under every matrix product: a tile of C stays in vector registers while the depth runs.

Its size is the CPU's (`numba_nn.core.simd`). Lower tiles serve the rows that are left over.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from numba_nn.core.simd import INTP, VECTORS, Emitter, data_pointer, tile_heights

GROUP = 3  # rows of A that share a pointer; with one each, general registers spill: 88 GFLOP/s in place of 116 (Zen 4)
ROW_PANELS = 2  # panels of columns that a tile of one row goes over: two sums would wait for each other


class FmaEmitter(Emitter):
    """Emits tiles of a matrix product."""

    def accumulate(self, a: list[Any], a_step: Any, b: list[Any], b_step: Any, depth: Any) -> list[list[Any]]:
        """The loop over the depth (at least 1): sums of products of rows of A and column vectors of B.

        Rows of A are (pointer, offset); those that share a pointer leave registers to the others.
        """
        builder = self.builder
        before, loop, done = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        k, b_k = builder.phi(INTP), builder.phi(INTP)
        firsts = {id(first): first for first, _ in a}
        places = {key: builder.phi(first.type) for key, first in firsts.items()}
        sums = [[builder.phi(self.vector) for _ in b] for _ in a]
        columns = [self.load(column, b_k) for column in b]
        updated = []
        for (first, offset), totals in zip(a, sums, strict=True):
            element = self.broadcast(places[id(first)], offset)
            pairs = zip(columns, totals, strict=True)
            updated.append([self.multiply_add(element, column, total) for column, total in pairs])
        following = builder.add(k, INTP(1))
        for key, place in places.items():
            place.add_incoming(firsts[key], before)
            place.add_incoming(self.opaque(builder.gep(place, [a_step])), loop)
        for counter, step in ((k, INTP(1)), (b_k, b_step)):
            counter.add_incoming(INTP(0), before)
            counter.add_incoming(following if counter is k else builder.add(counter, step), loop)
        for old, new in zip(sums, updated, strict=True):
            for phi, value in zip(old, new, strict=True):
                phi.add_incoming(self.zero, before)
                phi.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)
        builder.position_at_end(done)
        return updated

    def opaque(self, number: Any) -> Any:
        """The number or pointer, of which LLVM knows nothing.

        Where it knows how rows lie it gives each a pointer, 48 GFLOP/s in place of 115 (Zen 4), or goes from one row to the
        next by twelve additions, each of which waits for the one before: longer than the multiply-adds take.
        """
        return self.builder.asm(ir.FunctionType(number.type, [number.type]), "", "=r,0", [number], side_effect=False)

    def write_whole(self, sums: list[list[Any]], c: Any, stride: Any, keep: bool) -> None:
        """C = sums, or C += sums, over the whole tile."""
        for i, row in enumerate(sums):
            c_row = self.builder.gep(c, [self.builder.mul(stride, INTP(i))])
            for j, value in enumerate(row):
                offset = INTP(j * self.lanes)
                total = self.builder.fadd(self.load(c_row, offset), value) if keep else value
                self.store(total, c_row, offset)

    def write(self, sums: list[list[Any]], c: Any, stride: Any, rows: Any, columns: Any, keep: Any) -> None:
        """C = sums, or C += sums, in the first rows and columns."""
        builder = self.builder
        all_rows = builder.icmp_signed("==", rows, INTP(len(sums)))
        whole = builder.and_(all_rows, builder.icmp_signed("==", columns, INTP(len(sums[0]) * self.lanes)))
        with builder.if_else(whole) as (full, corner):
            with full, builder.if_else(keep) as (add, overwrite):
                with add:
                    self.write_whole(sums, c, stride, keep=True)
                with overwrite:
                    self.write_whole(sums, c, stride, keep=False)
            with corner:
                self.write_corner(sums, c, stride, rows, columns, keep)

    def write_corner(self, sums: list[list[Any]], c: Any, stride: Any, rows: Any, columns: Any, keep: Any) -> None:
        """C = sums, or C += sums, in the first rows and columns only, by way of the stack."""
        builder, vectors = self.builder, len(sums[0])
        width = vectors * self.lanes
        spill = cgutils.alloca_once(builder, ir.ArrayType(self.element, len(sums) * width))
        spilled = builder.bitcast(spill, self.element.as_pointer())
        for i, row in enumerate(sums):
            for j, value in enumerate(row):
                self.store(value, spilled, INTP(i * width + j * self.lanes))
        with cgutils.for_range(builder, rows) as row_loop:
            row = builder.gep(spilled, [builder.mul(row_loop.index, INTP(width))])
            c_row = builder.gep(c, [builder.mul(stride, row_loop.index)])
            with builder.if_then(keep):
                for offset in (INTP(j * self.lanes) for j in range(vectors)):
                    mask = self.first_lanes(builder.sub(columns, offset))
                    kept = self.load_masked(c_row, offset, mask, self.zero)
                    self.store(builder.fadd(kept, self.load(row, offset)), row, offset)
            self.copy_exactly(c_row, row, columns)

    def tile(
        self, height: int, c: Any, a: Any, b: Any, size: Any, strides: Any, keep: Any, column_vectors: int = VECTORS
    ) -> None:
        """A tile of this height; for rows and panels of B that are not wanted, the last one is computed again."""
        builder, (rows, columns, depth), (stride, a_row, a_depth, b_panel, b_depth) = self.builder, size, strides
        if isinstance(a_row, ir.Constant):
            a_rows = [(a, INTP(i * a_row.constant)) for i in range(height)]
        elif height == self.rows:
            offsets = [self.opaque(builder.mul(INTP(i), a_row)) if i else INTP(0) for i in range(GROUP)]
            firsts = [builder.gep(a, [builder.mul(INTP(i), a_row)]) for i in range(0, height, GROUP)]
            a_rows = [(first, offset) for first in firsts for offset in offsets]
        else:
            a_rows = [(row, INTP(0)) for row in self.pointers(a, a_row, height, rows)]
        width = INTP(VECTORS * self.lanes)
        panels = builder.sdiv(builder.add(columns, builder.sub(width, INTP(1))), width)
        panels = self.pointers(b, b_panel, ROW_PANELS if height == 1 else 1, panels)
        vectors = [builder.gep(panel, [INTP(j * self.lanes)]) for panel in panels for j in range(column_vectors)]
        sums = self.accumulate(a_rows, a_depth, vectors, b_depth, depth)
        self.write(sums, c, stride, rows, columns, keep)

    def whole_tile(self, c: Any, a: Any, b: Any, size: Any, strides: Any, keep: Any) -> None:
        """A tile of all rows. Where those of A are a panel, offsets are constants, and no address is computed in the loop.

        On an Intel Xeon additions take the place of multiply-adds: 2048^3 went from 0.68 to 0.80 of MKL's speed.
        """
        builder, (stride, a_row, a_depth, *b_steps) = self.builder, strides
        neighbours = builder.icmp_signed("==", a_row, INTP(1))
        panel = builder.and_(neighbours, builder.icmp_signed("==", a_depth, INTP(self.rows)))
        with builder.if_else(panel) as (packed, other):
            with packed:
                self.tile(self.rows, c, a, b, size, (stride, INTP(1), INTP(self.rows), *b_steps), keep)
            with other:
                self.tile(self.rows, c, a, b, size, strides, keep)


@intrinsic
def fma_tile(typingctx, c, at, stride, rows, columns, keep, a, a_at, a_row, a_depth, b, b_at, b_panel, b_depth, depth):
    """C[i, j] = sum_k A[i, k] B[k, j], added to what C holds if ``keep``, for the first ``rows`` x ``columns`` of a tile.

    ``fma_tile(c, at, stride, rows, columns, keep, a, a_at, a_row, a_depth, b, b_at, b_panel, b_depth, depth)``:
    C starts at element ``at`` of ``c``, its rows lie ``stride`` apart. A starts at ``a_at``; its rows lie ``a_row`` apart and
    its depths ``a_depth``. B starts at ``b_at``; its depths lie ``b_depth`` apart, each with ``tile_columns`` neighbours, which
    may be read also where ``columns`` is less. Rows are tile_rows, or 1 to partial_rows; columns 1 to tile_columns, but up to
    ROW_PANELS times that for a single row, from panels of B that lie ``b_panel`` apart; depth >= 1.
    """
    numbers = types.intp, types.intp, types.intp, types.intp
    signature = types.void(c, *numbers, types.boolean, a, *numbers[:3], b, *numbers)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        c, at, stride, rows, columns, keep, a, a_at, a_row, a_depth, b, b_at, b_panel, b_depth, depth = arguments
        emit = FmaEmitter(builder, signature.args[0])
        left, right = (data_pointer(context, builder, signature.args[n], *arguments[n : n + 2]) for n in (6, 10))
        target = data_pointer(context, builder, signature.args[0], c, at)
        size, strides = (rows, columns, depth), (stride, a_row, a_depth, b_panel, b_depth)
        done = builder.append_basic_block("tile.done")
        for height in tile_heights():
            if height == emit.rows:
                with builder.if_else(builder.icmp_signed(">", columns, INTP(emit.lanes))) as (two, one):
                    with two:
                        emit.whole_tile(target, left, right, size, strides, keep)
                    with one:
                        emit.tile(height, target, left, right, size, strides, keep, column_vectors=1)
                continue
            with builder.if_then(builder.icmp_signed("<=", rows, INTP(height))):
                emit.tile(height, target, left, right, size, strides, keep)
                builder.branch(done)
        builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return signature, codegen

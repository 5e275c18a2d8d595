"""The multiply-add tile under every matrix product: a tile of C stays in vector registers while the depth runs.

Its size is the CPU's (`numba_nn.core.simd`). Lower tiles serve the rows that are left over.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from numba_nn.core.simd import INTP, LINE, VECTORS, Emitter, data_pointer, prefetch, tile_heights

GROUP = 3  # rows of A that share a pointer; with one each, general registers spill: 88 GFLOP/s in place of 116 (Zen 4)
NEAR = 8  # how many depths ahead B is fetched into the L1 cache: see `tile_by_operands`
FETCH_DEPTHS = 8  # depths that go by between fetches of what the tile, and the next panel, need: see `tile_by_operands`
ROW_PANELS = 2  # panels of columns that a tile of one row goes over: two sums would wait for each other


class FmaEmitter(Emitter):
    """Emits tiles of a matrix product."""

    def sum_products(
        self, a: list[Any], a_step: Any, b: list[Any], b_step: Any, depth: Any, fetch: Any = None, near: Any = None
    ) -> list[list[Any]]:
        """Sums of products of rows of A and column vectors of B over the depth.

        Rows of A are (pointer, offset); those that share a pointer leave registers to the others. ``fetch(k)``, if given, emits
        what goes along with every FETCH_DEPTHS from depth k on. ``near``, if given: the depth up to which B is fetched NEAR
        depths ahead, and a pointer to what the last NEAR depths fetch, as B will be read next.
        """
        builder, firsts = self.builder, {id(first): first for first, _ in a}

        def advance(ahead: list[Any], state: list[Any], count: int) -> list[Any]:
            """The state (depth, offset in B, places in A, sums) that many depths later; each fetches what lies ``ahead``."""
            k, b_k, places, totals = state[0], state[1], state[2 : 2 + len(firsts)], state[2 + len(firsts) :]
            for left in range(count, 0, -1):
                rows, old = dict(zip(firsts, places, strict=True)), iter(totals)
                columns, totals = [self.load(column, b_k) for column in b], []
                for line in ahead:
                    prefetch(builder, builder.gep(line, [b_k]), 0, 3)
                for first, offset in a:
                    element = self.broadcast(rows[id(first)], offset)
                    totals += [self.multiply_add(element, column, next(old)) for column in columns]
                places, b_k = [builder.gep(place, [a_step]) for place in places], builder.add(b_k, b_step)
                if left == 1:
                    places = [self.opaque(place) for place in places]
                elif ahead and not isinstance(b_step, ir.Constant):
                    b_k = self.opaque(b_k)
            return [builder.add(k, INTP(count)), b_k, *places, *totals]

        state, following = [INTP(0), INTP(0), *firsts.values(), *[self.zero] * (len(a) * len(b))], []
        if fetch:
            state = self.repeat(state, functools.partial(advance, []), FETCH_DEPTHS, depth, fetch)
        if near:
            together = FETCH_DEPTHS if isinstance(a_step, ir.Constant) else 1
            lines = self.lines(b, builder.mul(INTP(NEAR), b_step))
            state = self.repeat(state, functools.partial(advance, lines), together, near[0])
            state = self.repeat(state, functools.partial(advance, []), 1, builder.sub(depth, INTP(NEAR)))
            following = [builder.gep(near[1], [builder.sub(INTP(j * self.lanes), state[1])]) for j in range(len(b))]
        sums = self.repeat(state, functools.partial(advance, following), 1, depth)[2 + len(firsts) :]
        return [sums[i : i + len(b)] for i in range(0, len(sums), len(b))]

    def lines(self, columns: list[Any], offset: Any) -> list[Any]:
        """Pointers into every cache line of neighbouring vectors, ``offset`` elements on; unaligned, they end in one more."""
        last = self.builder.gep(columns[-1], [INTP(self.lanes - 1)])
        return [self.builder.gep(place, [offset]) for place in (*columns, last)]

    def repeat(self, start: list[Any], advance: Any, count: int, depth: Any, visit: Any = None) -> list[Any]:
        """The state after as many steps of ``count`` depths as there are up to ``depth``; ``visit`` is called in each."""
        builder = self.builder
        before, check, loop, done = builder.block, *(builder.append_basic_block(name) for name in ("check", "loop", "done"))
        builder.branch(check)
        builder.position_at_end(check)
        state = [builder.phi(value.type) for value in start]
        builder.cbranch(builder.icmp_signed("<=", builder.add(state[0], INTP(count)), depth), loop, done)
        builder.position_at_end(loop)
        if visit:
            visit(state[0])
        for phi, first, following in zip(state, start, advance(state, count), strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(following, builder.block)
        builder.branch(check)
        builder.position_at_end(done)
        return state

    def opaque(self, number: Any) -> Any:
        """The number or pointer, of which LLVM knows nothing.

        Where it knows how rows lie it gives each a pointer, 48 GFLOP/s in place of 115 (Zen 4), or goes from one row to the
        next by twelve additions, each of which waits for the one before: longer than the multiply-adds take.
        """
        return self.builder.asm(ir.FunctionType(number.type, [number.type]), "", "=r,0", [number], side_effect=False)

    def write_whole(self, sums: list[list[Any]], c: Any, stride: Any, accumulate: bool) -> None:
        """C = sums, or C += sums, over the whole tile."""
        for i, row in enumerate(sums):
            c_row = self.builder.gep(c, [self.builder.mul(stride, INTP(i))])
            for j, value in enumerate(row):
                offset = INTP(j * self.lanes)
                total = self.builder.fadd(self.load(c_row, offset), value) if accumulate else value
                self.store(total, c_row, offset)

    def write(self, sums: list[list[Any]], c: Any, stride: Any, rows: Any, columns: Any, accumulate: Any) -> None:
        """C = sums, or C += sums, in the first rows and columns."""
        builder = self.builder
        all_rows = builder.icmp_signed("==", rows, INTP(len(sums)))
        whole = builder.and_(all_rows, builder.icmp_signed("==", columns, INTP(len(sums[0]) * self.lanes)))
        with builder.if_else(whole) as (full, corner):
            with full, builder.if_else(accumulate) as (add, overwrite):
                with add:
                    self.write_whole(sums, c, stride, accumulate=True)
                with overwrite:
                    self.write_whole(sums, c, stride, accumulate=False)
            with corner:
                self.write_corner(sums, c, stride, rows, columns, accumulate)

    def write_corner(self, sums: list[list[Any]], c: Any, stride: Any, rows: Any, columns: Any, accumulate: Any) -> None:
        """C = sums, or C += sums, in the first rows and columns only, by way of the stack."""
        builder, vectors = self.builder, len(sums[0])
        width = vectors * self.lanes
        spilled = self.room(len(sums) * width)
        for i, row in enumerate(sums):
            for j, value in enumerate(row):
                self.store(value, spilled, INTP(i * width + j * self.lanes))
        with cgutils.for_range(builder, rows) as row_loop:
            row = builder.gep(spilled, [builder.mul(row_loop.index, INTP(width))])
            c_row = builder.gep(c, [builder.mul(stride, row_loop.index)])
            with builder.if_then(accumulate):
                for offset in (INTP(j * self.lanes) for j in range(vectors)):
                    mask = self.first_lanes(builder.sub(columns, offset))
                    held = self.load_masked(c_row, offset, mask, self.zero)
                    self.store(builder.fadd(held, self.load(row, offset)), row, offset)
            self.copy_exactly(c_row, row, columns)

    def tile(
        self, height: int, c: Any, a: Any, b: Any, size: Any, strides: Any, accumulate: Any,
        vectors: int = VECTORS, ahead: Any = None, cached: Any = None,
    ) -> None:  # fmt: skip
        """A tile of this height; for rows and panels of B that are not wanted, the last one is computed again.

        ``ahead``: where what is fetched meanwhile begins, if anything is. With ``cached``, whether B is in the L1 cache, that
        is B, NEAR depths ahead, and in the end what lies ``ahead``; else see `tile_by_operands`.
        """
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
        columns_of_b = [builder.gep(panel, [INTP(j * self.lanes)]) for panel in panels for j in range(vectors)]
        fetch = functools.partial(self.fetch, c, stride, ahead, b_depth, depth) if ahead and not cached else None
        near = (builder.select(cached, INTP(0), builder.sub(depth, INTP(NEAR))), ahead) if cached else None
        sums = self.sum_products(a_rows, a_depth, columns_of_b, b_depth, depth, fetch, near)
        self.write(sums, c, stride, rows, columns, accumulate)

    def fetch(self, c: Any, stride: Any, ahead: Any, b_depth: Any, depth: Any, k: Any) -> None:
        """Bring the next row of C, and the next one of what lies ahead in B, into caches: see `tile_by_operands`.

        A depth with fewer fetches than C has rows takes three rows at a time, the last one in place of those beyond: 2000 x
        2000 with a depth of 32 take 0.83 of the time so, 4096 x 256 with 64 0.96.
        """
        builder = self.builder
        part, parts = (builder.sdiv(number, INTP(FETCH_DEPTHS)) for number in (k, depth))
        lines, end = range(0, VECTORS * self.lanes, LINE // self.alignment), VECTORS * self.lanes - 1
        self.fetch_lines(ahead, part, b_depth, lines, 0, 2)
        # Unaligned rows of C, which NumPy's arrays have, end in one more line: 2 to 3 % of 256 to 2048 cubed.
        self.fetch_lines(c, self.clamped(part), stride, (*lines, end), 1, 3)
        with builder.if_then(builder.icmp_signed("<", parts, INTP(self.rows))):
            for turn in (1, 2):
                row = self.clamped(builder.add(part, builder.mul(INTP(turn), parts)))
                self.fetch_lines(c, row, stride, (*lines, end), 1, 3)

    def clamped(self, row: Any) -> Any:
        """The row, or the last one of a tile: others would drive B out of the L1 cache."""
        last = INTP(self.rows - 1)
        return self.builder.select(self.builder.icmp_signed("<", row, last), row, last)

    def fetch_lines(self, base: Any, row: Any, step: Any, offsets: Iterable[int], writes: int, level: int) -> None:
        """Prefetch what lies ``offsets`` elements behind the start of a row."""
        start = self.builder.gep(base, [self.builder.mul(row, step)])
        for offset in offsets:
            prefetch(self.builder, self.builder.gep(start, [INTP(offset)]), writes, level)

    def tile_by_operands(
        self, height: int, c: Any, a: Any, b: Any, size: Any, strides: Any, accumulate: Any, ahead: Any, cached: Any
    ) -> None:
        """A tile by how A and B lie: where they are panels, offsets are constants, and no address is computed in the loop.

        On an Intel Xeon additions of addresses crowd out multiply-adds: without them 2048^3 went from 0.68 to 0.80 of MKL's
        speed. Whole tiles fetch C and the next panel a few lines at a time: an L1 cache waits for some 16 lines at once, those
        from L2 among them. With all of them fetched before the tile, packed panels of 2048^3 were multiplied at 0.83 of the
        peak, and at 0.94 so. Lower tiles wait for B, which they alone read: fetched NEAR depths ahead, 512 x 512 take 0.77 of
        the time for a row, and 0.85 for 8 rows that are packed.
        """
        builder, (stride, a_row, a_depth, b_panel, b_depth) = self.builder, strides
        width, panel, one = INTP(VECTORS * self.lanes), INTP(self.rows), INTP(1)

        def emit(a_row: Any, a_depth: Any, b_depth: Any, cached: Any) -> None:
            steps = stride, a_row, a_depth, b_panel, b_depth
            self.tile(height, c, a, b, size, steps, accumulate, ahead=ahead, cached=cached)

        is_panel = builder.and_(builder.icmp_signed("==", a_row, one), builder.icmp_signed("==", a_depth, panel))
        with builder.if_else(is_panel) as (packed, other):
            with packed:
                if height < self.rows:
                    emit(one, panel, b_depth, cached)
                else:
                    with builder.if_else(builder.icmp_signed("==", b_depth, width)) as (both, left_only):
                        with both:
                            emit(one, panel, width, None)
                        with left_only:
                            emit(one, panel, b_depth, None)
            with other:
                emit(a_row, a_depth, b_depth, cached)


@intrinsic
def fma_tile(
    typingctx, c, at, stride, rows, columns, accumulate, a, a_at, a_row, a_depth, b, b_at, b_panel, b_depth, depth, ahead,
    cached,
):  # fmt: skip
    """C[i, j] = sum_k A[i, k] B[k, j], added to what C holds if ``accumulate``, for the first ``rows`` x ``columns`` of a tile.

    C starts at element ``at`` of ``c``, its rows lie ``stride`` apart. A starts at ``a_at``; its rows lie ``a_row`` apart and
    its depths ``a_depth``. B starts at ``b_at``; its depths lie ``b_depth`` apart, each with ``tile_columns`` neighbours, which
    may be read also where ``columns`` is less. Rows are tile_rows, or 1 to partial_rows, or any number where A is a panel, of
    which all rows are read: where ``a_row`` is 1 and ``a_depth`` tile_rows, or ``a_row`` a constant. Columns are 1 to
    tile_columns, but up to ROW_PANELS times that for a single row, from panels of B that lie ``b_panel`` apart. Where B goes
    on after this tile begins at ``ahead``; ``cached`` tells whether it is in the L1 cache now.
    """
    numbers = [types.intp] * 4
    signature = types.void(c, *numbers, types.boolean, a, *numbers[:3], b, *numbers, types.intp, types.boolean)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        c, at, stride, rows, columns, accumulate, a, a_at, a_row, a_depth, *of_b, cached = arguments
        b, b_at, b_panel, b_depth, depth, ahead = of_b
        emit = FmaEmitter(builder, signature.args[0])
        left, right = (data_pointer(context, builder, signature.args[n], *arguments[n : n + 2]) for n in (6, 10))
        target, ahead = (
            data_pointer(context, builder, signature.args[0], c, at),
            data_pointer(context, builder, signature.args[10], b, ahead),
        )
        size, strides = (rows, columns, depth), (stride, a_row, a_depth, b_panel, b_depth)
        done = builder.append_basic_block("tile.done")

        def emit_height(height: int) -> None:
            """A second vector that is not wanted may hold anything, such as numbers so small that each takes 100 cycles."""
            with builder.if_else(builder.icmp_signed(">", columns, INTP(emit.lanes))) as (two, one):
                with two:
                    emit.tile_by_operands(height, target, left, right, size, strides, accumulate, ahead, cached)
                with one:
                    emit.tile(height, target, left, right, size, strides, accumulate, vectors=1)

        for height in tile_heights()[:-1]:
            with builder.if_then(builder.icmp_signed("<=", rows, INTP(height))):
                emit_height(height)
                builder.branch(done)
        emit_height(emit.rows)
        builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return signature, codegen

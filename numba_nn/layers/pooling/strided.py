"""Max pooling of windows of 2 x 2 or 3 x 3, two apart, a vector of them at a time.

Each row of the windows is pooled by itself, then the rows' maxima. Where a window's first column lies in the padding, the
second stands in for it: that changes no maximum, and the position is one in the image.

LLVM makes branches of a loop's selects where vectors have 32 bytes: 10 ns a window on random images in place of 0.4 (Zen 3).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from numba_nn.core.simd import INT32, INTP, VECTORS, Emitter, data_pointer, tile_constant

PARTS = 1, 2, 4  # of a vector: rows of fewer windows than it has lanes take a half of it, or a quarter


class WindowEmitter(Emitter):
    """Emits windows two apart, in vectors of a part of the CPU's; ``columns``: of the first window."""

    def __init__(self, builder: Any, array: Any, part: int, columns: tuple[int, ...]) -> None:
        super().__init__(builder, array)
        self.lanes //= part
        self.vector = ir.VectorType(self.element, self.lanes)
        self.columns = columns

    def column(self, row: Any, at: Any) -> list[Any]:
        """The windows' columns, those of the first at element ``at`` of a row of pixels: a vector of each."""
        builder, lanes = self.builder, self.lanes
        low, high = (self.load(row, builder.add(at, INTP(n))) for n in (0, lanes))
        values = [self.shuffle(low, high, list(range(side, 2 * lanes, 2))) for side in (0, 1)]
        if self.columns[0] == -1:
            before = builder.select(builder.icmp_signed(">", at, INTP(0)), builder.sub(at, INTP(1)), INTP(0))
            return [self.shuffle(self.broadcast(row, before), values[1], [0, *range(lanes, 2 * lanes - 1)]), *values]
        if self.columns[-1] == 2:
            behind = self.broadcast(row, builder.add(at, INTP(2 * lanes)))
            return [*values, self.shuffle(values[0], behind, list(range(1, lanes + 1)))]
        return values

    def maxima(self, values: list[Any], places: list[Any]) -> tuple[Any, Any]:
        """The first largest value, or the last NaN, and its place."""
        builder, (best, at) = self.builder, (values[0], places[0])
        for value, place in zip(values[1:], places[1:], strict=True):
            larger, nan = builder.fcmp_ordered(">", value, best), builder.fcmp_unordered("uno", value, value)
            taken = builder.or_(larger, nan)
            best, at = builder.select(taken, value, best), builder.select(taken, place, at)
        return best, at

    def row(self, target: Any, places: Any, plane: Any, starts: list[Any], count: Any) -> None:
        """A row of windows, a vector of them at least; the last vector may overlap the one before.

        ``starts``: of the rows of pixels in the plane. Until the end, positions count from pixel j of the first of them.
        """
        builder, last = self.builder, self.builder.sub(count, INTP(self.lanes))
        numbers = ir.VectorType(INT32, self.lanes)
        columns = [ir.Constant(numbers, [2 * i + column for i in range(self.lanes)]) for column in self.columns]
        rows = [builder.gep(plane, [start]) for start in starts]
        below = [self.everywhere(builder.trunc(builder.sub(start, starts[0]), INT32)) for start in starts[1:]]
        with cgutils.for_range_slice(builder, INTP(0), count, INTP(self.lanes)) as (i, _):
            i = builder.select(builder.icmp_signed("<", i, last), i, last)
            j = builder.mul(i, INTP(2))
            if self.columns[0] == -1:
                edge = self.everywhere(builder.trunc(builder.neg(j), INT32))
                columns[0] = builder.select(builder.icmp_signed(">", columns[0], edge), columns[0], edge)
            values, at = map(list, zip(*(self.maxima(self.column(row, j), columns) for row in rows), strict=True))
            at[1:] = [builder.add(column, down) for column, down in zip(at[1:], below, strict=True)]
            best, place = self.maxima(values, at)
            place = builder.add(place, self.everywhere(builder.trunc(builder.add(starts[0], j), INT32)))
            self.store(best, target, i)
            builder.store(place, builder.bitcast(builder.gep(places, [i]), numbers.as_pointer()), align=4)


fewest_windows = tile_constant(lambda rows, columns: max(1, columns // VECTORS // PARTS[-1]))
"""``fewest_windows(array)`` inside a kernel: windows that `pool_pairs` and others need, a compile-time constant."""


def _row_of_windows(columns: tuple[int, ...], text: str) -> Any:
    """An intrinsic that pools a row of windows, the first of which has these columns."""

    @intrinsic
    def pool_row(typingctx, y, indices, y_at, x, x_at, starts, count):
        signature = types.void(y, indices, types.intp, x, types.intp, starts, types.intp)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            y, indices, y_at, x, x_at, starts, count = arguments
            target, places = (data_pointer(context, builder, signature.args[n], (y, indices)[n], y_at) for n in (0, 1))
            plane, done = data_pointer(context, builder, signature.args[3], x, x_at), builder.append_basic_block("row.done")
            rows = cgutils.unpack_tuple(builder, starts)[: len(columns)]
            for part in PARTS:
                emit = WindowEmitter(builder, signature.args[0], part, columns)
                if emit.lanes == 0:
                    break
                with builder.if_then(builder.icmp_signed(">=", count, INTP(emit.lanes))):
                    emit.row(target, places, plane, rows, count)
                    builder.branch(done)
            builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        return signature, codegen

    pool_row.__doc__ = text
    return pool_row


pool_pairs = _row_of_windows(
    (0, 1),
    """A row of ``count`` windows of 2 x 2, `fewest_windows` at least: largest values and their positions in the plane.

    ``pool_pairs(y, indices, y_at, x, x_at, starts, count)``: y and indices from element ``y_at`` on; the plane begins at x_at,
    and rows of pixels at ``starts`` in it.
    """,
)
pool_threes = _row_of_windows((0, 1, 2), "`pool_pairs` for windows of 3 x 3.")
pool_padded_threes = _row_of_windows((-1, 0, 1), "`pool_pairs` for windows of 3 x 3, the first of which begins in the padding.")

"""Max pooling of windows of 2 x 2 side by side, a vector of them at a time.

LLVM makes branches of this loop's selects where vectors have 32 bytes: 10 ns a window on random images in place of 0.4 (Zen 3).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from numba_nn.core.simd import INT32, INTP, VECTORS, Emitter, data_pointer, tile_constant

PARTS = 1, 2, 4  # of a vector: rows of fewer windows than it has lanes take a half of it, or a quarter


class PairEmitter(Emitter):
    """Emits windows of 2 x 2, in vectors of a part of the CPU's."""

    def __init__(self, builder: Any, array: Any, part: int) -> None:
        super().__init__(builder, array)
        self.lanes //= part
        self.vector = ir.VectorType(self.element, self.lanes)

    def columns(self, row: Any, at: Any) -> list[Any]:
        """Left and right columns of the windows from element ``at`` on of a row of pixels."""
        low, high = (self.load(row, self.builder.add(at, INTP(n))) for n in (0, self.lanes))
        return [self.shuffle(low, high, list(range(side, 2 * self.lanes, 2))) for side in (0, 1)]

    def maxima(self, values: list[Any], places: list[Any]) -> tuple[Any, Any]:
        """The first largest value, or the last NaN, and its place."""
        builder, (best, at) = self.builder, (values[0], places[0])
        for value, place in zip(values[1:], places[1:], strict=True):
            larger, nan = builder.fcmp_ordered(">", value, best), builder.fcmp_unordered("uno", value, value)
            taken = builder.or_(larger, nan)
            best, at = builder.select(taken, value, best), builder.select(taken, place, at)
        return best, at

    def row(self, target: Any, places: Any, upper: Any, width: Any, place: Any, count: Any) -> None:
        """A row of windows, a vector of them at least; the last vector may overlap the one before."""
        builder, lower, last = self.builder, self.builder.gep(upper, [width]), self.builder.sub(count, INTP(self.lanes))
        numbers = ir.VectorType(INT32, self.lanes)
        below = builder.trunc(width, INT32)
        steps = [self.everywhere(step) for step in (INT32(0), INT32(1), below, builder.add(below, INT32(1)))]
        with cgutils.for_range_slice(builder, INTP(0), count, INTP(self.lanes)) as (i, _):
            i = builder.select(builder.icmp_signed("<", i, last), i, last)
            j = builder.mul(i, INTP(2))
            best, at = self.maxima([*self.columns(upper, j), *self.columns(lower, j)], steps)
            first = self.everywhere(builder.trunc(builder.add(place, j), INT32))
            at = builder.add(at, builder.add(first, ir.Constant(numbers, list(range(0, 2 * self.lanes, 2)))))
            self.store(best, target, i)
            builder.store(at, builder.bitcast(builder.gep(places, [i]), numbers.as_pointer()), align=4)


fewest_pairs = tile_constant(lambda rows, columns: max(1, columns // VECTORS // PARTS[-1]))
"""``fewest_pairs(array)`` inside a kernel: windows that `pool_pairs` needs at least, a compile-time constant."""


@intrinsic
def pool_pairs(typingctx, y, indices, y_at, x, x_at, width, place, count):
    """A row of ``count`` windows of 2 x 2, `fewest_pairs` at least: largest values and their positions.

    ``pool_pairs(y, indices, y_at, x, x_at, width, place, count)``: y and indices from element ``y_at`` on, x from ``x_at`` on,
    in rows of ``width``; ``place`` is the position of the first pixel in its plane.
    """
    signature = types.void(y, indices, types.intp, x, types.intp, types.intp, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        y, indices, y_at, x, x_at, *numbers = arguments
        target, places = (data_pointer(context, builder, signature.args[n], (y, indices)[n], y_at) for n in (0, 1))
        upper, done = data_pointer(context, builder, signature.args[3], x, x_at), builder.append_basic_block("pairs.done")
        for part in PARTS:
            emit = PairEmitter(builder, signature.args[0], part)
            if emit.lanes == 0:
                break
            with builder.if_then(builder.icmp_signed(">=", numbers[-1], INTP(emit.lanes))):
                emit.row(target, places, upper, *numbers)
                builder.branch(done)
        builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return signature, codegen

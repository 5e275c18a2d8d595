"""Max pooling of windows of 2 x 2 side by side, a vector of them at a time.

LLVM makes branches of this loop's selects where vectors have 32 bytes: 10 ns a window on random images in place of 0.4 (Zen 3).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from numba_nn.core.simd import INT32, INTP, Emitter, data_pointer


class PairEmitter(Emitter):
    """Emits windows of 2 x 2."""

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


@intrinsic
def pool_pairs(typingctx, y, indices, y_at, x, x_at, width, place, count):
    """A row of ``count`` windows of 2 x 2, a vector of them at least: largest values and their positions.

    ``pool_pairs(y, indices, y_at, x, x_at, width, place, count)``: y and indices from element ``y_at`` on, x from ``x_at`` on,
    in rows of ``width``; ``place`` is the position of the first pixel in its plane. The last vector may overlap the one before.
    """
    signature = types.void(y, indices, types.intp, x, types.intp, types.intp, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        y, indices, y_at, x, x_at, width, place, count = arguments
        emit = PairEmitter(builder, signature.args[0])
        target, places = (data_pointer(context, builder, signature.args[n], (y, indices)[n], y_at) for n in (0, 1))
        upper = data_pointer(context, builder, signature.args[3], x, x_at)
        lower, last = builder.gep(upper, [width]), builder.sub(count, INTP(emit.lanes))
        numbers = ir.VectorType(INT32, emit.lanes)
        below = builder.trunc(width, INT32)
        steps = [emit.everywhere(step) for step in (INT32(0), INT32(1), below, builder.add(below, INT32(1)))]
        with cgutils.for_range_slice(builder, INTP(0), count, INTP(emit.lanes)) as (i, _):
            i = builder.select(builder.icmp_signed("<", i, last), i, last)
            j = builder.mul(i, INTP(2))
            best, at = emit.maxima([*emit.columns(upper, j), *emit.columns(lower, j)], steps)
            first = emit.everywhere(builder.trunc(builder.add(place, j), INT32))
            at = builder.add(at, builder.add(first, ir.Constant(numbers, list(range(0, 2 * emit.lanes, 2)))))
            emit.store(best, target, i)
            builder.store(at, builder.bitcast(builder.gep(places, [i]), numbers.as_pointer()), align=4)
        return context.get_dummy_value()

    return signature, codegen

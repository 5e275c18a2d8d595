"""Vectors as values in a kernel, for loops that keep them from one pass to the next; LLVM's own vectors load all anew.

A vector holds ``vector_lanes`` elements of float32 or float64. A mask is an integer with a bit for each.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.core.errors import TypingError
from numba.extending import intrinsic, register_model

from numba_nn.core.kernel import inlined
from numba_nn.core.simd import INT32, LINE, Emitter, float_vector
from numba_nn.core.simd import prefetch as emit_prefetch

UNCACHED = 2**19  # elements from which an array is fetched ahead: 2 MB of float32
AHEAD = 1536  # elements to fetch ahead: 3 x 3 max pooling of 64 MB takes 2.5 ms so, 5.3 without (Zen 5, one thread)


class Vector(types.Type):
    """The Numba type of a vector of floats."""

    def __init__(self, dtype: Any) -> None:
        if dtype not in (types.float32, types.float64):
            raise TypingError(f"expected float32 or float64, got {dtype}")
        self.dtype = dtype
        self.lanes = float_vector(dtype).count
        super().__init__(f"Vector({dtype} x {self.lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, float_vector(kind.dtype))


@intrinsic
def elements(typingctx, array):
    """``elements(array)``: where its elements are, which `load` and `store` take: the loop then counts no references."""
    pointer = types.CPointer(array.dtype)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.make_array(array)(context, builder, arguments[0]).data

    return pointer(array), codegen


@intrinsic
def zeros(typingctx, source):
    """``zeros(source)``: a vector of zeros, of the elements' dtype."""
    kind = Vector(source.dtype)
    return kind(source), lambda context, builder, signature, arguments: ir.Constant(float_vector(kind.dtype), None)


@intrinsic
def lanes_of(typingctx, source):
    """``lanes_of(source)``: elements in a vector of the elements' dtype."""
    lanes = ir.Constant(ir.IntType(64), Vector(source.dtype).lanes)
    return types.intp(source), lambda context, builder, signature, arguments: lanes


@intrinsic
def splat(typingctx, value):
    """``splat(value)``: a vector with a number in every lane."""
    kind = Vector(value)
    return kind(value), lambda context, builder, signature, arguments: Emitter(builder, kind).everywhere(*arguments)


@inlined
def lanes_between(first, stop):
    """The mask of the lanes first <= lane < stop, none if first >= stop; else 0 <= first, stop <= 32."""
    return ((1 << stop) - 1) >> first << first if first < stop else 0


def _bits(builder: Any, mask: Any, vector: Vector) -> Any:
    """The lowest bits of a number, as a vector of bits; a comparison: LLVM may move single bits one by one."""
    lane = ir.IntType(vector.dtype.bitwidth)
    number = mask if lane.width == mask.type.width else builder.trunc(mask, lane)
    places = ir.Constant(ir.VectorType(lane, vector.lanes), [1 << i for i in range(vector.lanes)])
    return builder.icmp_signed("==", builder.and_(Emitter(builder, vector).everywhere(number), places), places)


@intrinsic
def load(typingctx, source, at, mask, other):
    """``load(source, at, mask, other)``: source[at + lane] where the mask is set, and only there; elsewhere ``other``.

    A branch takes whole vectors past the mask, which AVX2 has to build from its bits; a constant mask costs no branch.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (pointer, at, mask, rest), emit = arguments, Emitter(builder, other)
        whole = ir.Constant(mask.type, 2**other.lanes - 1)
        with builder.if_else(builder.icmp_signed("==", mask, whole)) as (full, partial):
            with full:
                plain, plainly = emit.load(pointer, at), builder.block
            with partial:
                masked, maskedly = emit.load_masked(pointer, at, _bits(builder, mask, other), rest), builder.block
        value = builder.phi(emit.vector)
        value.add_incoming(plain, plainly)
        value.add_incoming(masked, maskedly)
        return value

    return other(source, types.intp, types.intp, other), codegen


@intrinsic
def store(typingctx, target, at, vector, mask, end):
    """``store(target, at, vector, mask, end)``: target[at + lane] = vector[lane] where the mask is set.

    Lanes without may be written as well, up to ``end``: whoever writes what lies there later spares a masked store, which takes
    an AMD CPU ten cycles and more with AVX2.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (pointer, at, value, mask, end), emit = arguments, Emitter(builder, vector)
        stop = builder.add(at, ir.Constant(at.type, vector.lanes))
        inside = builder.icmp_signed("==", mask, ir.Constant(mask.type, 2**vector.lanes - 1))
        with builder.if_else(builder.or_(inside, builder.icmp_signed("<=", stop, end))) as (full, partial):
            with full:
                emit.store(value, pointer, at)
            with partial:
                emit.store_masked(value, pointer, at, _bits(builder, mask, vector))
        return context.get_dummy_value()

    return types.void(target, types.intp, vector, types.intp, types.intp), codegen


def _prefetch(writes: int, text: str) -> Any:
    """An intrinsic that fetches cache lines for reading or writing, into the L1 cache."""

    @intrinsic
    def prefetch(typingctx, source, start, stop):
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer, first, end = arguments
            step = ir.Constant(first.type, 8 * LINE // source.dtype.bitwidth)
            with cgutils.for_range_slice(builder, first, end, step, first.type) as (at, _):
                emit_prefetch(builder, builder.gep(pointer, [at]), writes, level=3)
            return context.get_dummy_value()

        return types.void(source, types.intp, types.intp), codegen

    prefetch.__doc__ = text
    return prefetch


prefetch_read = _prefetch(
    0, "``prefetch_read(source, start, stop)``: bring what will be read into the cache; a hint, never a fault."
)
prefetch_write = _prefetch(1, "``prefetch_write(target, start, stop)``: bring what will be written into the cache.")


@inlined
def read_ahead(x, start, count):
    """Bring ``count`` elements of a flat array, which are read soon, into the cache, unless all of it may be there."""
    if x.size >= UNCACHED:
        prefetch_read(elements(x), start, start + count)


@inlined
def write_ahead(y, start, count):
    """The same for elements that are written soon."""
    if y.size >= UNCACHED:
        prefetch_write(elements(y), start, start + count)


@intrinsic
def multiply_add(typingctx, a, b, c):
    """``multiply_add(a, b, c)``: a b + c."""
    return a(a, a, a), lambda context, builder, signature, arguments: Emitter(builder, a).multiply_add(*arguments)


@intrinsic
def add(typingctx, a, b):
    """``add(a, b)``: a + b."""
    return a(a, a), lambda context, builder, signature, arguments: builder.fadd(*arguments)


@intrinsic
def multiply(typingctx, a, b):
    """``multiply(a, b)``: a b."""
    return a(a, a), lambda context, builder, signature, arguments: builder.fmul(*arguments)


@intrinsic
def choose(typingctx, mask, a, b):
    """``choose(mask, a, b)``: a where the mask is set, elsewhere b."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        mask, one, other = arguments
        return builder.select(_bits(builder, mask, a), one, other)

    return a(types.intp, a, a), codegen


@intrinsic
def half_totals(typingctx, vector):
    """``half_totals(vector)``: the sums of its lower and of its upper half."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (value,), lanes, emit = arguments, vector.lanes, Emitter(builder, vector)
        for bit in (1 << i for i in range((lanes // 2).bit_length() - 1)):
            value = builder.fadd(value, emit.shuffle(value, value, [i ^ bit for i in range(lanes)]))
        halves = [builder.extract_element(value, INT32(i)) for i in (0, lanes // 2)]
        return context.make_tuple(builder, signature.return_type, halves)

    return types.UniTuple(vector.dtype, 2)(vector), codegen


def _shuffle(order: Any, text: str) -> Any:
    """An intrinsic of two vectors a, b that picks elements of a followed by b."""

    @intrinsic
    def shuffle(typingctx, a, b):
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            one, other = arguments
            return Emitter(builder, a).shuffle(one, other, [order(i, a.lanes) for i in range(a.lanes)])

        return a(a, a), codegen

    shuffle.__doc__ = text
    return shuffle


evens = _shuffle(lambda i, lanes: 2 * i, "``evens(a, b)``: every second element of a followed by b, from the first.")
odds = _shuffle(lambda i, lanes: 2 * i + 1, "``odds(a, b)``: every second element of a followed by b, from the second.")
zip_low = _shuffle(lambda i, lanes: i // 2 + lanes * (i % 2), "``zip_low(a, b)``: a[0], b[0], a[1], b[1], ..., one vector.")
zip_high = _shuffle(lambda i, lanes: (i + lanes) // 2 + lanes * (i % 2), "``zip_high(a, b)``: what follows `zip_low`.")
join_halves = _shuffle(lambda i, lanes: i + i // (lanes // 2) * lanes, "``join_halves(a, b)``: lower half of a, upper of b.")
swap_halves = _shuffle(lambda i, lanes: i ^ lanes // 2, "``swap_halves(a, a)``: upper half of a, lower of a.")
shift_up = _shuffle(lambda i, lanes: i + lanes - 1, "``shift_up(zero, a)``: 0, a[0], a[1], ...: a without its last element.")
shift_down = _shuffle(lambda i, lanes: i + 1, "``shift_down(a, zero)``: a[1], a[2], ..., 0.")

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
from numba_nn.core.simd import INT32, VECTORS, Emitter, tile_shape


class Vector(types.Type):
    """The Numba type of a vector of floats."""

    def __init__(self, dtype: Any) -> None:
        if dtype not in (types.float32, types.float64):
            raise TypingError(f"expected float32 or float64, got {dtype}")
        self.dtype = dtype
        self.lanes = tile_shape(f"f{dtype.bitwidth // 8}")[1] // VECTORS
        super().__init__(f"Vector({dtype} x {self.lanes})")


def _of_floats(vector: Vector) -> Any:
    return ir.VectorType(ir.FloatType() if vector.dtype == types.float32 else ir.DoubleType(), vector.lanes)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, _of_floats(kind))


def _function(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


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
    return kind(source), lambda context, builder, signature, arguments: ir.Constant(_of_floats(kind), None)


@intrinsic
def splat(typingctx, value):
    """``splat(value)``: a vector with a number in every lane."""
    kind = Vector(value)
    return kind(value), lambda context, builder, signature, arguments: Emitter(builder, kind).everywhere(*arguments)


@inlined
def lanes_between(first, stop):
    """The mask of the lanes first <= lane < stop; 0 <= first, stop <= 32."""
    return ((1 << stop) - 1) >> first << first if first < stop else 0


def _bits(builder: Any, mask: Any, lanes: int) -> Any:
    """The lowest bits of a number, as a vector of bits."""
    return builder.bitcast(builder.trunc(mask, ir.IntType(lanes)), ir.VectorType(ir.IntType(1), lanes))


@intrinsic
def load(typingctx, source, at, mask, other):
    """``load(source, at, mask, other)``: source[at + lane] where the mask is set, and only there; elsewhere ``other``."""
    size = other.dtype.bitwidth // 8

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector, bits = _of_floats(other), _bits(builder, arguments[2], other.lanes)
        name = f"llvm.masked.load.v{other.lanes}f{8 * size}.p0"
        function = _function(builder, name, vector, vector.as_pointer(), INT32, bits.type, vector)
        origin = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), vector.as_pointer())
        return builder.call(function, [origin, INT32(size), bits, arguments[3]])

    return other(source, types.intp, types.intp, other), codegen


@intrinsic
def store(typingctx, target, at, vector, mask):
    """``store(target, at, vector, mask)``: target[at + lane] = vector[lane] where the mask is set."""
    size = vector.dtype.bitwidth // 8

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, bits = _of_floats(vector), _bits(builder, arguments[3], vector.lanes)
        name = f"llvm.masked.store.v{vector.lanes}f{8 * size}.p0"
        function = _function(builder, name, ir.VoidType(), kind, kind.as_pointer(), INT32, bits.type)
        place = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), kind.as_pointer())
        builder.call(function, [arguments[2], place, INT32(size), bits])
        return context.get_dummy_value()

    return types.void(target, types.intp, vector, types.intp), codegen


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

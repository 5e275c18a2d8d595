"""CPU vector intrinsics, and the size of the multiply-add tile of matrix products on this CPU.

A tile of C, ``rows x columns``, is held in vector registers (`numba_nn.core.product.fma_tile`). Its size is what the registers
allow: two vectors of columns, and as many rows as leave room for two vectors of B and one broadcast element of A.
Lower tiles serve the rows that are left over.

==============  =======  =========  ====================  ====================
instructions    vector   registers  float32 tile          float64 tile
==============  =======  =========  ====================  ====================
AVX-512         64 B     32         12 x 32               12 x 16
AVX2 with FMA   32 B     16         6 x 16                6 x 8
NEON            16 B     32         12 x 8                12 x 4
SSE             16 B     16         6 x 8                 6 x 4
==============  =======  =========  ====================  ====================

The features are those that Numba compiles for, so ``NUMBA_CPU_NAME`` and ``NUMBA_CPU_FEATURES`` choose the tile too.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.core.registry import cpu_target
from numba.extending import intrinsic

LINE = 64  # bytes of a cache line
VECTORS = 2  # vectors of columns in a tile
INTP = ir.IntType(64)
INT32 = ir.IntType(32)


@functools.cache
def register_file() -> tuple[int, int]:
    """Bytes in a vector register and number of registers of the CPU that Numba compiles for."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    enabled = {name[1:] for name in features.split(",") if name.startswith("+")}
    if "avx512f" in enabled:
        return 64, 32
    if {"avx2", "fma"} <= enabled:
        return 32, 16
    return (16, 32) if triple.startswith(("aarch64", "arm64")) else (16, 16)


def tile_shape(dtype: Any) -> tuple[int, int]:
    """Rows and columns of the multiply-add tile for float32 or float64."""
    vector_bytes, registers = register_file()
    return (12 if registers == 32 else 6), VECTORS * (vector_bytes // np.dtype(dtype).itemsize)


def tile_heights() -> tuple[int, ...]:
    """Rows of the tiles that there are. The first and the last take just so many, those between them fewer too."""
    return (1, 4, 8, 12) if register_file()[1] == 32 else (1, 4, 6)


def _array_tile(array: types.Array) -> tuple[int, int]:
    if array.dtype not in (types.float32, types.float64):
        raise TypingError(f"expected an array of float32 or float64, got {array}")
    return tile_shape(f"f{array.dtype.bitwidth // 8}")


def tile_constant(value_of: Any) -> Any:
    """An intrinsic of an array: what ``value_of(rows, columns)`` of its dtype's tile gives, a compile-time constant."""

    @intrinsic
    def constant(typingctx: Any, array: types.Array) -> Any:
        value = value_of(*_array_tile(array))

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return context.get_constant(types.intp, value)

        return types.intp(array), codegen

    return constant


tile_rows = tile_constant(lambda rows, columns: rows)
"""``tile_rows(array)`` inside a kernel: rows of the tile for the array's dtype, a compile-time constant."""
tile_columns = tile_constant(lambda rows, columns: columns)
"""``tile_columns(array)`` inside a kernel: columns of the tile for the array's dtype, a compile-time constant."""
vector_lanes = tile_constant(lambda rows, columns: columns // VECTORS)
"""``vector_lanes(array)`` inside a kernel: elements in a vector register, a compile-time constant."""
partial_rows = tile_constant(lambda rows, columns: tile_heights()[-2])
"""``partial_rows(array)`` inside a kernel: rows up to which a tile takes any number of them, a compile-time constant."""


def float_vector(dtype: Any) -> ir.VectorType:
    """LLVM's type of a vector of float32 or float64."""
    return ir.VectorType(ir.FloatType() if dtype == types.float32 else ir.DoubleType(), tile_shape(dtype.name)[1] // VECTORS)


class Emitter:
    """Emits instructions over vectors of the array's dtype; `builder` stands where they go."""

    def __init__(self, builder: Any, array: Any) -> None:
        self.builder = builder
        self.rows = _array_tile(array)[0]
        self.vector = float_vector(array.dtype)
        self.element, self.lanes = self.vector.element, self.vector.count
        self.zero = ir.Constant(self.vector, None)
        self.alignment = array.dtype.bitwidth // 8

    def call(self, name: str, result: Any, arguments: list[Any], suffix: str = "") -> Any:
        """Call LLVM's intrinsic ``name`` for these vectors: llvmlite's own declarations know none of vectors."""
        name = f"llvm.{name}.v{self.lanes}f{8 * self.alignment}{suffix}"
        kind = ir.FunctionType(result, [a.type for a in arguments])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), arguments)

    def room(self, count: int) -> Any:
        """Memory on the stack for so many elements, with whatever contents, aligned to cache lines.

        Numba's ``alloca_once`` aligns nothing, and fills it with zeros whenever the function is entered: 10 KB for the tile of
        matrix products. Without both, 50 x 70 x 90 takes 0.94 of the time, 20 steps of an LSTM of 4 rows 0.8 (Intel Xeon).
        """
        with self.builder.goto_entry_block():
            memory = self.builder.alloca(ir.ArrayType(self.element, count))
            memory.align = LINE
            return self.builder.bitcast(memory, self.element.as_pointer())

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """a b + c."""
        return self.call("fmuladd", self.vector, [a, b, c])

    def shuffle(self, a: Any, b: Any, lanes: list[int]) -> Any:
        """Elements of a followed by b, by number."""
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT32, len(lanes)), lanes))

    def everywhere(self, value: Any) -> Any:
        """A number in every lane."""
        undefined = ir.Constant(ir.VectorType(value.type, self.lanes), ir.Undefined)
        return self.shuffle(self.builder.insert_element(undefined, value, INT32(0)), undefined, [0] * self.lanes)

    def vector_pointer(self, base: Any, offset: Any) -> Any:
        """A pointer to the vector at base[offset]."""
        return self.builder.bitcast(self.builder.gep(base, [offset]), self.vector.as_pointer())

    def load(self, base: Any, offset: Any) -> Any:
        """The vector at base[offset]."""
        return self.builder.load(self.vector_pointer(base, offset), align=self.alignment)

    def store(self, value: Any, base: Any, offset: Any) -> None:
        """base[offset : offset + lanes] = value."""
        self.builder.store(value, self.vector_pointer(base, offset), align=self.alignment)

    def broadcast(self, base: Any, offset: Any) -> Any:
        """base[offset] in every lane."""
        return self.everywhere(self.builder.load(self.builder.gep(base, [offset]), align=self.alignment))

    def first_lanes(self, count: Any) -> Any:
        """A mask of the first ``count`` lanes; none or all where that is out of range."""
        numbers = ir.Constant(ir.VectorType(INTP, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", numbers, self.everywhere(count))

    def load_masked(self, base: Any, offset: Any, mask: Any, other: Any) -> Any:
        """The vector at base[offset] where the mask is set, and only there; ``other`` elsewhere."""
        pointer = self.vector_pointer(base, offset)
        return self.call("masked.load", self.vector, [pointer, INT32(self.alignment), mask, other], ".p0")

    def store_masked(self, value: Any, base: Any, offset: Any, mask: Any) -> None:
        """base[offset + lane] = value[lane] where the mask is set."""
        pointer = self.vector_pointer(base, offset)
        self.call("masked.store", ir.VoidType(), [value, pointer, INT32(self.alignment), mask], ".p0")

    def copy_exactly(self, target: Any, source: Any, length: Any) -> None:
        """target[:length] = source[:length] and nothing beyond; length >= 0.

        In vectors, the last of which may overlap the one before, or in parts of a vector where the whole is shorter: a masked
        store takes a dozen cycles on AMD's CPUs before Zen 4.
        """
        builder, lanes = self.builder, INTP(self.lanes)
        with builder.if_else(builder.icmp_signed(">=", length, lanes)) as (long, short):
            with long:
                last = builder.sub(length, lanes)
                with cgutils.for_range_slice(builder, INTP(0), last, lanes) as (i, _):
                    self.store(self.load(source, i), target, i)
                self.store(self.load(source, last), target, last)
            with short:
                size = self.lanes // 2
                while size:
                    with builder.if_then(builder.icmp_signed("!=", builder.and_(length, INTP(size)), INTP(0))):
                        at = builder.and_(length, INTP(-2 * size))  # what larger parts have copied
                        pointer = ir.VectorType(self.element, size).as_pointer()
                        origin, to = (builder.bitcast(builder.gep(base, [at]), pointer) for base in (source, target))
                        builder.store(builder.load(origin, align=self.alignment), to, align=self.alignment)
                    size //= 2

    def stream(self, target: Any, data: Any, length: Any) -> None:
        """target[:length] = data[:length], whole vectors past the caches, which needs their addresses aligned.

        Other threads see them after a locked instruction of this one, as all locks and barriers have.
        """
        builder, lanes = self.builder, INTP(self.lanes)
        vector = self.lanes * self.alignment
        address = builder.and_(builder.neg(builder.ptrtoint(target, INTP)), INTP(vector - 1))
        lead = builder.udiv(address, INTP(self.alignment))
        lead = builder.select(builder.icmp_signed("<", lead, length), lead, length)
        self.copy_exactly(target, data, lead)
        whole = builder.add(lead, builder.and_(builder.sub(length, lead), INTP(-self.lanes)))
        with cgutils.for_range_slice(builder, lead, whole, lanes) as (i, _):
            store = builder.store(self.load(data, i), self.vector_pointer(target, i), align=vector)
            store.set_metadata("nontemporal", builder.module.add_metadata([INT32(1)]))
        end, rest = (builder.gep(array, [whole]) for array in (target, data))
        self.copy_exactly(end, rest, builder.sub(length, whole))

    def interleave(self, one: Any, other: Any) -> tuple[Any, Any]:
        """Two vectors, lane by lane in turn: the lower half, and the upper."""
        lanes = self.lanes
        low, high = ([start + i // 2 + lanes * (i % 2) for i in range(lanes)] for start in (0, lanes // 2))
        return self.shuffle(one, other, low), self.shuffle(one, other, high)

    def interleave_all(self, vectors: list[Any]) -> list[Any]:
        """All elements of lane 0, then those of lane 1, and so on: the transpose of a square of vectors.

        Perfect shuffles: each of log2(vectors) stages interleaves the two halves.
        """
        half = len(vectors) // 2
        for _ in range(len(vectors).bit_length() - 1):
            pairs = zip(vectors[:half], vectors[half:], strict=True)
            vectors = [vector for a, b in pairs for vector in self.interleave(a, b)]
        return vectors

    def pointers(self, base: Any, step: Any, count: int, wanted: Any) -> list[Any]:
        """Pointers ``step`` elements apart; those beyond the ``wanted`` ones equal the last of these."""
        builder = self.builder
        last, pointers = builder.sub(wanted, INTP(1)), [base]
        for i in range(1, count):
            index = builder.select(builder.icmp_signed("<", INTP(i), last), INTP(i), last)
            pointers.append(builder.gep(base, [builder.mul(index, step)]))
        return pointers


def data_pointer(context: Any, builder: Any, array_type: Any, value: Any, offset: Any) -> Any:
    """Pointer to element `offset` of an array's memory."""
    return builder.gep(context.make_array(array_type)(context, builder, value).data, [offset])


def prefetch(builder: Any, pointer: Any, writes: int, level: int) -> None:
    """Fetch the cache line for reading or writing, into the L1 cache (level 3) or the L2 cache (2): a hint, never a fault."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, INT32, INT32, INT32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.bitcast(pointer, byte), INT32(writes), INT32(level), INT32(1)])


@intrinsic
def copy_run(typingctx, target, at, source, source_at, length):
    """target[at : at + length] = source[source_at : source_at + length], in whole vectors.

    ``copy_run(target, at, source, source_at, length)`` reads and writes up to ``tile_columns // 2 - 1`` elements beyond the
    end: both arrays need that slack, and what lies behind in the target must be written later. Runs of 8 to 32 elements,
    as rows of small images are, copy several times faster than through a loop with a remainder.
    """
    signature = types.void(target, types.intp, source, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, at, source, source_at, length = arguments
        emit = Emitter(builder, signature.args[0])
        to = data_pointer(context, builder, signature.args[0], target, at)
        origin = data_pointer(context, builder, signature.args[2], source, source_at)
        with cgutils.for_range_slice(builder, INTP(0), length, INTP(emit.lanes)) as (i, _):
            emit.store(emit.load(origin, i), to, i)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def affine_run(typingctx, target, at, source, source_at, length, scale, shift, least):
    """target[at : at + length] = max(scale source[source_at : source_at + length] + shift, least); NaN for NaN.

    ``affine_run(target, at, source, source_at, length, scale, shift, least)`` takes at least ``vector_lanes`` elements, and
    touches no others: the last vector may overlap the one before. The arrays are not the same.
    """
    numbers = [target.dtype] * 3
    signature = types.void(target, types.intp, source, types.intp, types.intp, *numbers)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, at, source, source_at, length, *terms = arguments
        emit = Emitter(builder, signature.args[0])
        to = data_pointer(context, builder, signature.args[0], target, at)
        origin = data_pointer(context, builder, signature.args[2], source, source_at)
        scale, shift, least = map(emit.everywhere, terms)

        def one(place: Any) -> None:
            value = emit.multiply_add(emit.load(origin, place), scale, shift)
            emit.store(builder.select(builder.fcmp_ordered("<=", value, least), least, value), to, place)

        last = builder.sub(length, INTP(emit.lanes))
        with cgutils.for_range_slice(builder, INTP(0), last, INTP(emit.lanes)) as (i, _):
            one(i)
        one(last)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def transpose_lanes(typingctx, target, at, step, source, source_at, stride, row, rows):
    """target[at + k step + r] = source[source_at + (row + r) stride + k] for 0 <= k, r < lanes; zero where row + r >= rows.

    ``transpose_lanes(target, at, step, source, source_at, stride, row, rows)``: a square of ``vector_lanes`` goes through
    the registers: 16 loads, 64 shuffles and 16 stores for 256 floats, where a loop makes 256 loads and stores.
    """
    signature = types.void(target, *[types.intp] * 2, source, *[types.intp] * 4)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, at, step, source, source_at, stride, row, rows = arguments
        emit = Emitter(builder, signature.args[0])
        origin = data_pointer(context, builder, signature.args[3], source, source_at)
        last = builder.sub(rows, INTP(1))
        loaded = []
        for r in range(emit.lanes):
            index = builder.add(row, INTP(r))
            inside = builder.icmp_signed("<=", index, last)
            value = emit.load(origin, builder.mul(builder.select(inside, index, last), stride))
            loaded.append(builder.select(inside, value, emit.zero))
        to = data_pointer(context, builder, signature.args[0], target, at)
        for k, value in enumerate(emit.interleave_all(loaded)):
            emit.store(value, to, builder.mul(step, INTP(k)))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def maximum(typingctx, a, b):
    """The larger of two floats, NaN if either is NaN: unlike ``max``, LLVM makes vectors of it (14 times as fast over a row).

    Which zero is larger is left open (``nsz``), or each vector takes four instructions more: twice the time.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        function = builder.module.declare_intrinsic("llvm.maximum", [kind], ir.FunctionType(kind, [kind, kind]))
        return builder.call(function, arguments, fastmath=("nsz",))

    return a(a, a), codegen

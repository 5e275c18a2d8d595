"""CPU vector intrinsics: the multiply-add tile under every matrix product, and its size on this CPU.

A tile of C, ``rows x columns``, is held in vector registers while the depth of the product runs. Its size is what the
registers allow: two vectors of columns, and as many rows as leave room for two vectors of B and one broadcast element of A.

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

VECTORS = 2  # vectors of columns in a tile
FEW_ROWS = 4  # a tile of so few rows leaves the others out: 3 times the speed for the 3 channels of an image
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


def _array_tile(array: types.Array) -> tuple[int, int]:
    if array.dtype not in (types.float32, types.float64):
        raise TypingError(f"expected an array of float32 or float64, got {array}")
    return tile_shape(f"f{array.dtype.bitwidth // 8}")


def _constant_intrinsic(value_of: Any) -> Any:
    @intrinsic
    def constant(typingctx: Any, array: types.Array) -> Any:
        value = value_of(*_array_tile(array))

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return context.get_constant(types.intp, value)

        return types.intp(array), codegen

    return constant


tile_rows = _constant_intrinsic(lambda rows, columns: rows)
"""``tile_rows(array)`` inside a kernel: rows of the tile for the array's dtype, a compile-time constant."""
tile_columns = _constant_intrinsic(lambda rows, columns: columns)
"""``tile_columns(array)`` inside a kernel: columns of the tile for the array's dtype, a compile-time constant."""
vector_lanes = _constant_intrinsic(lambda rows, columns: columns // VECTORS)
"""``vector_lanes(array)`` inside a kernel: elements in a vector register, a compile-time constant."""


class _Emitter:
    """Emits the instructions of one tile; `builder` stands where they go."""

    def __init__(self, builder: Any, array: types.Array) -> None:
        self.builder = builder
        self.rows, columns = _array_tile(array)
        self.lanes = columns // VECTORS
        self.element = ir.FloatType() if array.dtype == types.float32 else ir.DoubleType()
        self.vector = ir.VectorType(self.element, self.lanes)
        name = f"llvm.fmuladd.v{self.lanes}f{array.dtype.bitwidth}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        self.multiply_add = cgutils.get_or_insert_function(builder.module, kind, name)
        self.alignment = array.dtype.bitwidth // 8
        self.align, mask, pointer = INT32(self.alignment), ir.VectorType(ir.IntType(1), self.lanes), self.vector.as_pointer()
        load = ir.FunctionType(self.vector, [pointer, INT32, mask, self.vector])
        store = ir.FunctionType(ir.VoidType(), [self.vector, pointer, INT32, mask])
        suffix = f"v{self.lanes}f{array.dtype.bitwidth}.p0"
        self.masked_load = cgutils.get_or_insert_function(builder.module, load, f"llvm.masked.load.{suffix}")
        self.masked_store = cgutils.get_or_insert_function(builder.module, store, f"llvm.masked.store.{suffix}")

    def vector_pointer(self, base: Any, offset: Any) -> Any:
        """A pointer to the vector at base[offset]."""
        return self.builder.bitcast(self.builder.gep(base, [offset]), self.vector.as_pointer())

    def load(self, base: Any, offset: Any) -> Any:
        return self.builder.load(self.vector_pointer(base, offset), align=self.alignment)

    def store(self, value: Any, base: Any, offset: Any) -> None:
        self.builder.store(value, self.vector_pointer(base, offset), align=self.alignment)

    def broadcast(self, base: Any, offset: Any) -> Any:
        """base[offset] in every lane."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        scalar = self.builder.load(self.builder.gep(base, [offset]), align=self.alignment)
        first = self.builder.insert_element(undefined, scalar, INT32(0))
        everywhere = ir.Constant(ir.VectorType(INT32, self.lanes), None)
        return self.builder.shuffle_vector(first, undefined, everywhere)

    def accumulate(self, rows: int, a: Any, b: Any, depth: Any) -> list[list[Any]]:
        """The loop over the depth (at least 1): accumulators of the first rows, a vector per row and column vector."""
        builder, zero = self.builder, ir.Constant(self.vector, None)
        before, loop, done = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(INTP)
        sums = [[builder.phi(self.vector) for _ in range(VECTORS)] for _ in range(rows)]
        a_k = builder.gep(a, [builder.mul(k, INTP(self.rows))])
        b_k = builder.gep(b, [builder.mul(k, INTP(VECTORS * self.lanes))])
        columns = [self.load(b_k, INTP(j * self.lanes)) for j in range(VECTORS)]
        updated = []
        for i, row in enumerate(sums):
            element = self.broadcast(a_k, INTP(i))
            updated.append([builder.call(self.multiply_add, [element, columns[j], row[j]]) for j in range(VECTORS)])
        following = builder.add(k, INTP(1))
        k.add_incoming(INTP(0), before)
        k.add_incoming(following, loop)
        for i in range(rows):
            for j in range(VECTORS):
                sums[i][j].add_incoming(zero, before)
                sums[i][j].add_incoming(updated[i][j], loop)
        builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)
        builder.position_at_end(done)
        return updated

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
        all_rows = builder.icmp_signed("==", rows, INTP(self.rows))
        whole = builder.and_(all_rows, builder.icmp_signed("==", columns, INTP(VECTORS * self.lanes)))
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
        builder, width = self.builder, VECTORS * self.lanes
        spill = cgutils.alloca_once(builder, ir.ArrayType(self.element, len(sums) * width))
        spilled = builder.bitcast(spill, self.element.as_pointer())
        for i, row in enumerate(sums):
            for j, value in enumerate(row):
                self.store(value, spilled, INTP(i * width + j * self.lanes))
        zero = ir.Constant(self.vector, None)
        with cgutils.for_range(builder, rows) as row_loop:
            source, c_row = builder.mul(row_loop.index, INTP(width)), builder.gep(c, [builder.mul(stride, row_loop.index)])
            for j in range(VECTORS):
                offset = INTP(j * self.lanes)
                mask, target = self.first_lanes(builder.sub(columns, offset)), self.vector_pointer(c_row, offset)
                kept = builder.select(keep, builder.call(self.masked_load, [target, self.align, mask, zero]), zero)
                total = builder.fadd(kept, self.load(spilled, builder.add(source, offset)))
                builder.call(self.masked_store, [total, target, self.align, mask])

    def first_lanes(self, count: Any) -> Any:
        """A mask of the first ``count`` lanes; none or all where that is out of range."""
        lanes = ir.VectorType(INTP, self.lanes)
        one = self.builder.insert_element(ir.Constant(lanes, ir.Undefined), count, INT32(0))
        counts = self.builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(INT32, self.lanes), None))
        return self.builder.icmp_signed("<", ir.Constant(lanes, list(range(self.lanes))), counts)

    def transpose(self, rows: list[Any]) -> list[Any]:
        """Transpose a square of lanes x lanes by perfect shuffles: each of log2(lanes) stages interleaves the two halves."""
        lanes, half = self.lanes, self.lanes // 2
        index = ir.VectorType(INT32, lanes)
        low = ir.Constant(index, [i // 2 + lanes * (i % 2) for i in range(lanes)])
        high = ir.Constant(index, [half + i // 2 + lanes * (i % 2) for i in range(lanes)])
        for _ in range(lanes.bit_length() - 1):
            pairs = zip(rows[:half], rows[half:], strict=True)
            rows = [self.builder.shuffle_vector(a, b, mask) for a, b in pairs for mask in (low, high)]
        return rows


def _data(context: Any, builder: Any, array_type: Any, value: Any, offset: Any) -> Any:
    """Pointer to element `offset` of an array's memory."""
    return builder.gep(context.make_array(array_type)(context, builder, value).data, [offset])


@intrinsic
def fma_tile(typingctx, c, at, stride, rows, columns, keep, a, a_at, b, b_at, depth):
    """C[i, j] = sum_k A[k, i] B[k, j], added to what C holds if ``keep``, for the first ``rows`` x ``columns`` of a tile.

    ``fma_tile(c, at, stride, rows, columns, keep, a, a_at, b, b_at, depth)``: C starts at element ``at`` of ``c``, its rows
    lie ``stride`` apart; A and B are panels, ``tile_rows`` and ``tile_columns`` wide, at ``a_at`` and ``b_at``; depth >= 1.
    """
    at_rest = (types.intp, types.intp, types.intp, types.intp, types.boolean)
    signature = types.void(c, *at_rest, a, types.intp, b, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        c, at, stride, rows, columns, keep, a, a_at, b, b_at, depth = arguments
        emit = _Emitter(builder, signature.args[0])
        a_panel = _data(context, builder, signature.args[6], a, a_at)
        b_panel = _data(context, builder, signature.args[8], b, b_at)
        target = _data(context, builder, signature.args[0], c, at)
        with builder.if_else(builder.icmp_signed("<=", rows, INTP(FEW_ROWS))) as (few, many):
            with few:
                sums = emit.accumulate(FEW_ROWS, a_panel, b_panel, depth)
                emit.write_corner(sums, target, stride, rows, columns, keep)
            with many:
                sums = emit.accumulate(emit.rows, a_panel, b_panel, depth)
                emit.write(sums, target, stride, rows, columns, keep)
        return context.get_dummy_value()

    return signature, codegen


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
        emit = _Emitter(builder, signature.args[0])
        to = _data(context, builder, signature.args[0], target, at)
        origin = _data(context, builder, signature.args[2], source, source_at)
        with cgutils.for_range_slice(builder, INTP(0), length, INTP(emit.lanes)) as (i, _):
            emit.store(emit.load(origin, i), to, i)
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
        emit = _Emitter(builder, signature.args[0])
        origin = _data(context, builder, signature.args[3], source, source_at)
        last = builder.sub(rows, INTP(1))
        loaded = []
        for r in range(emit.lanes):
            index = builder.add(row, INTP(r))
            inside = builder.icmp_signed("<=", index, last)
            value = emit.load(origin, builder.mul(builder.select(inside, index, last), stride))
            loaded.append(builder.select(inside, value, ir.Constant(emit.vector, None)))
        to = _data(context, builder, signature.args[0], target, at)
        for k, value in enumerate(emit.transpose(loaded)):
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

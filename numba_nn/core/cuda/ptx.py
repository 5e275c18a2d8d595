"""The door to ``numba.cuda``, which no other module imports, and this one only for a twin; and instructions it has no name for.

A CUDA twin writes ``cuda.grid(1)`` as in any Numba tutorial:

    from numba_nn.core.cuda.ptx import cuda

    @relu_forward.on_cuda
    def relu_forward(y: Out, x: In):
        i = cuda.grid(1)
        ...

`cuda` imports the real module at its first attribute, and Numba's compiler takes it for that module. So a machine without
a GPU, or without ``numba-cuda``, imports every layer and pays nothing.

The instructions below are named in the PTX ISA 9.0; which elements of a matrix a lane holds stands there under ``mma`` and
``ldmatrix``. An array and ``at`` stand for an address, the array's first element plus so many elements: a multiple of the bytes
moved. Numbers of 16 bits travel as uint16: the bits of a float16 or bfloat16.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable
from types import ModuleType
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from numba_nn.core.cuda.narrow import FORMS, convert, narrowed, stored_bits, widened
from numba_nn.core.parts import Helper

I16, I32, I64 = (ir.IntType(bits) for bits in (16, 32, 64))
F32 = ir.FloatType()
GLOBAL, SHARED = 1, 3  # address spaces
VECTOR_BYTES = 16
LEAST = 0, 30  # numba-cuda: it launches by cuda.core, whose streams record graphs and whose views read DLPack
WINDOW = 4  # elements that a thread of an element-wise kernel takes at a time: 16 bytes of float32


def installed_cuda() -> ModuleType:
    """The module ``numba.cuda``, as the package numba-cuda puts it in the place of Numba's own.

    Raises
    ------
    ImportError
        If the package is missing or too old, or lies in a folder whose ``.pth`` files Python does not read (PYTHONPATH's).
    """
    from numba import cuda

    found = "only Numba's own target"
    if cuda.implementation == "NVIDIA":
        found = importlib.metadata.version("numba-cuda")
        if tuple(map(int, found.split(".")[:2])) >= LEAST:
            module: ModuleType = cuda
            return module
    least = ".".join(map(str, LEAST))
    raise ImportError(f"CUDA twins need numba-cuda {least} or newer, found {found}: pip install 'numba_nn[cuda]'")


class LazyCuda:
    """Stands for the module ``numba.cuda``, in Python and in compiled twins."""

    @functools.cached_property
    def _module(self) -> ModuleType:
        return installed_cuda()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # introspection (copy, pickle, doctest) does not open the door
            raise AttributeError(name)
        return getattr(self._module, name)

    @property
    def _numba_type_(self) -> types.Type:
        return types.Module(self._module)


cuda = LazyCuda()
REFUSALS = {"CudaAPIError", "CUDAError"}  # numba-cuda's for allocations; cuda.core's for launches, which has no public name


def is_refusal(error: Exception) -> bool:
    """Whether an exception is the driver's answer."""
    return type(error).__name__ in REFUSALS


def device_function(py_func: Callable[..., Any]) -> Helper:
    """Decorator of a function that twins call: it becomes part of each, so that local arrays it is given stay in registers."""
    return Helper(py_func, {"nopython": True, "forceinline": True})


# ---- how an instruction is spelled ----------------------------------------------------------------------------------------


def _address(context: Any, builder: Any, kinds: tuple[Any, Any], given: Any) -> Any:
    """A pointer to an element of a C-contiguous array: from the types of an array and an index, and their values."""
    array, at = kinds
    data = context.make_array(array)(context, builder, given[0]).data
    return builder.gep(data, [context.cast(builder, given[1], at, types.intp if at.signed else types.uintp)])


def _number(builder: Any, pointer: Any, space: int) -> Any:
    """A pointer as a number in an address space: 32 bits for shared memory, 64 for global."""
    there = builder.addrspacecast(pointer, ir.PointerType(pointer.type.pointee, space))
    return builder.ptrtoint(there, I32 if space == SHARED else I64)


def _assemble(builder: Any, result: Any, text: str, constraints: str, operands: list[Any]) -> Any:
    """A PTX instruction that touches memory, or needs the whole warp, and stays where it is."""
    function = ir.FunctionType(result, [operand.type for operand in operands])
    code = ir.InlineAsm(function, text, f"{constraints},~{{memory}}".lstrip(","), side_effect=True)
    return builder.call(code, operands, attrs=("convergent",))


def _tuple_of(context: Any, builder: Any, kind: types.Type, values: Any, extract: Callable[[Any, int], Any]) -> Any:
    return context.make_tuple(builder, kind, [extract(values, i) for i in range(kind.count)])


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise TypingError(what)


def _lanes(array: types.Type) -> int:
    """Elements of 16 bytes."""
    _require(isinstance(array, types.Array) and array.layout == "C", f"expected a C-contiguous array, got {array}")
    return VECTOR_BYTES * 8 // stored_bits(array)


# ---- 16 bytes at a time ---------------------------------------------------------------------------------------------------


def _align(array: types.Array, count: int) -> int:
    """Bytes at whose multiples so many elements begin, if they are moved by accesses of up to 16 bytes."""
    return min(VECTOR_BYTES, count * stored_bits(array) // 8)


def _load(name: str, count_of: Callable[[types.Array], int]) -> Any:
    def typer(typingctx, array, at):
        result = types.UniTuple(array.dtype, count_of(array))

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = _address(context, builder, (array, at), arguments)
            vector = ir.VectorType(pointer.type.pointee, result.count)
            values = builder.load(builder.bitcast(pointer, vector.as_pointer()), align=_align(array, result.count))
            return _tuple_of(
                context, builder, result, values, lambda v, i: widened(builder, array, builder.extract_element(v, I32(i)))
            )

        return result(array, at), codegen

    typer.__name__ = name
    return intrinsic(typer)


def _store(name: str, count_of: Callable[[types.Array], int]) -> Any:
    def typer(typingctx, array, at, values):
        expected = types.UniTuple(array.dtype, count_of(array))
        _require(values == expected, f"{name}: expected {expected}, got {values}")

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = _address(context, builder, (array, at), arguments[:2])
            vector = ir.Constant(ir.VectorType(pointer.type.pointee, expected.count), ir.Undefined)
            for i in range(expected.count):
                value = narrowed(builder, array, builder.extract_value(arguments[2], i))
                vector = builder.insert_element(vector, value, I32(i))
            there = builder.bitcast(pointer, vector.type.as_pointer())
            builder.store(vector, there, align=_align(array, expected.count))
            return context.get_dummy_value()

        return types.void(array, at, values), codegen

    typer.__name__ = name
    return intrinsic(typer)


load16, store16 = _load("load16", _lanes), _store("store16", _lanes)
"""``load16(array, at)``: a tuple of the elements in 16 bytes, by one access (``ld.v4.b32``); ``store16(array, at, values)``."""
load_window, store_window = _load("load_window", lambda array: WINDOW), _store("store_window", lambda array: WINDOW)
"""The same for four elements, by accesses of up to 16 bytes; the address is a multiple of `starts_aligned`'s."""


@intrinsic
def starts_aligned(typingctx, array):
    """``starts_aligned(array)``: whether its memory begins where four elements may be loaded at once."""
    _require(isinstance(array, types.Array) and array.layout == "C" and array.ndim == 1, f"expected a flat array, got {array}")

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = builder.ptrtoint(context.make_array(array)(context, builder, arguments[0]).data, I64)
        rest = builder.and_(address, I64(_align(array, WINDOW) - 1))
        return builder.icmp_unsigned("==", rest, I64(0))

    return types.boolean(array), codegen


@intrinsic
def flat_part(typingctx, array, start, stop):
    """``flat_part(array, start, stop)``: elements of a C-contiguous array of any rank, as a flat one in the same memory."""
    part = array.copy(ndim=1, layout="C")
    _lanes(array)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first, last = (context.cast(builder, arguments[n], signature.args[n], types.intp) for n in (1, 2))
        itemsize, there = context.get_constant(types.intp, stored_bits(array) // 8), context.make_array(part)(context, builder)
        data = _address(context, builder, (array, types.intp), (arguments[0], first))
        populate_array(there, data, [builder.sub(last, first)], [itemsize], itemsize, None)
        return there._getvalue()

    return part(array, start, stop), codegen


# ---- copies that go on while the thread does: from global to shared memory ------------------------------------------------


def _copy(name: str, cache: str, size_of: Callable[[types.Array], int]) -> Any:
    """An asynchronous copy of so many bytes, of which ``count`` elements are read and the others zero."""

    def typer(typingctx, to, to_at, source, at, count):
        size, bits = size_of(source), source.dtype.bitwidth
        _require(to.dtype == source.dtype and size in (4, 8, 16), f"{name}: cannot copy {size} bytes of {source} to {to}")

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            there = _number(builder, _address(context, builder, (to, to_at), arguments[:2]), SHARED)
            here = _number(builder, _address(context, builder, (source, at), arguments[2:4]), GLOBAL)
            read = builder.mul(context.cast(builder, arguments[4], count, types.int32), I32(bits // 8))
            text = f"cp.async.{cache}.shared.global [$0], [$1], {size}, $2;"
            _assemble(builder, ir.VoidType(), text, "r,l,r", [there, here, read])
            return context.get_dummy_value()

        return types.void(to, to_at, source, at, count), codegen

    typer.__name__ = name
    return intrinsic(typer)


copy16 = _copy("copy16", "cg", lambda array: VECTOR_BYTES)
"""``copy16(to, to_at, source, at, count)``: begin to copy ``count`` elements, and zeros up to 16 bytes (``cp.async.cg 16``)."""
copy_element = _copy("copy_element", "ca", lambda array: array.dtype.bitwidth // 8)
"""``copy_element(to, to_at, source, at, count)``: begin to copy one element of 4 or 8 bytes, or a zero (``cp.async.ca``)."""


@intrinsic
def commit_copies(typingctx):
    """``commit_copies()``: the copies begun since the last call are a group (``cp.async.commit_group``)."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _assemble(builder, ir.VoidType(), "cp.async.commit_group;", "", [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic(prefer_literal=True)
def wait_copies(typingctx, pending):
    """``wait_copies(n)``: wait until all groups of this thread but the n newest are there (``cp.async.wait_group n``)."""
    _require(isinstance(pending, types.IntegerLiteral), "wait_copies: expected a constant")

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _assemble(builder, ir.VoidType(), f"cp.async.wait_group {pending.literal_value};", "", [])
        return context.get_dummy_value()

    return types.void(pending), codegen


# ---- tensor cores ---------------------------------------------------------------------------------------------------------


def _load_matrices(name: str, transposed: str) -> Any:
    def typer(typingctx, array, at):
        result = types.UniTuple(types.uint32, 4)
        _lanes(array)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            here = _number(builder, _address(context, builder, (array, at), arguments), SHARED)
            text = f"ldmatrix.sync.aligned.m8n8.x4{transposed}.shared.b16 {{$0,$1,$2,$3}}, [$4];"
            found = _assemble(builder, ir.LiteralStructType([I32] * 4), text, "=r,=r,=r,=r,r", [here])
            return _tuple_of(context, builder, result, found, builder.extract_value)

        return result(array, at), codegen

    typer.__name__ = name
    return intrinsic(typer)


load_matrices = _load_matrices("load_matrices", "")
"""``load_matrices(array, at)``: four 8 x 8 matrices of 16 bits from shared memory; lane i names row i % 8 of matrix i / 8, and
gets two elements of each matrix, those of row i / 4 from column 2 (i % 4) on (``ldmatrix.x4``)."""
load_matrices_transposed = _load_matrices("load_matrices_transposed", ".trans")
"""`load_matrices` of transposed matrices (``ldmatrix.x4.trans``)."""


def _multiply(name: str, kind: str) -> Any:
    def typer(typingctx, a, b, c):
        given = types.UniTuple(types.uint32, 4), types.UniTuple(types.uint32, 2), types.UniTuple(types.float32, 4)
        _require((a, b, c) == given, f"{name}: expected {given}, got {(a, b, c)}")

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            operands = [builder.extract_value(v, i) for v, t in zip(arguments, given, strict=True) for i in range(t.count)]
            text = f"mma.sync.aligned.{kind} {{$0,$1,$2,$3}}, {{$4,$5,$6,$7}}, {{$8,$9}}, {{$10,$11,$12,$13}};"
            constraints = ",".join(["=f"] * 4 + ["r"] * 6 + ["f"] * 4)
            found = _assemble(builder, ir.LiteralStructType([F32] * 4), text, constraints, operands)
            return _tuple_of(context, builder, c, found, builder.extract_value)

        return c(a, b, c), codegen

    typer.__name__ = name
    return intrinsic(typer)


multiply_tf32 = _multiply("multiply_tf32", "m16n8k8.row.col.f32.tf32.tf32.f32")
"""``multiply_tf32(a, b, c)``: a b + c of fragments, 16 x 8 times 8 x 8, tf32 into float32 (``mma.m16n8k8``)."""
multiply_bf16 = _multiply("multiply_bf16", "m16n8k16.row.col.f32.bf16.bf16.f32")
"""``multiply_bf16(a, b, c)``: a b + c of fragments, 16 x 16 times 16 x 8, bfloat16 into float32 (``mma.m16n8k16``)."""
multiply_f16 = _multiply("multiply_f16", "m16n8k16.row.col.f32.f16.f16.f32")
"""``multiply_f16(a, b, c)``: a b + c of fragments, 16 x 16 times 16 x 8, float16 into float32 (``mma.m16n8k16``)."""


# ---- numbers of fewer bits ------------------------------------------------------------------------------------------------


def _convert(name: str, argument: types.Type, result: types.Type, instruction: tuple[str, str]) -> Any:
    def typer(typingctx, x):
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return convert(builder, context.get_value_type(result), instruction, arguments[0])

        return result(argument), codegen

    typer.__name__ = name
    return intrinsic(typer)


round_tf32 = _convert("round_tf32", types.float32, types.uint32, ("cvt.rna.tf32.f32 $0, $1;", "=r,f"))
"""``round_tf32(x)``: the bits of a float32, rounded to 10 bits of mantissa, ties away from zero (``cvt.rna.tf32.f32``)."""
to_bf16 = _convert("to_bf16", types.float32, types.uint16, FORMS["bfloat16"].narrow)
"""``to_bf16(x)``: the bits of the bfloat16 next to a float32, ties to even (``cvt.rn.bf16.f32``)."""
from_bf16 = _convert("from_bf16", types.uint16, types.float32, FORMS["bfloat16"].widen)
"""``from_bf16(bits)``: a bfloat16 as a float32, exact (``mov.b32``)."""
to_f16 = _convert("to_f16", types.float32, types.uint16, FORMS["float16"].narrow)
"""``to_f16(x)``: the bits of the float16 next to a float32, ties to even (``cvt.rn.f16.f32``)."""
from_f16 = _convert("from_f16", types.uint16, types.float32, FORMS["float16"].widen)
"""``from_f16(bits)``: a float16 as a float32, exact (``cvt.f32.f16``)."""

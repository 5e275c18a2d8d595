"""Floats of 16 bits, which only a GPU takes: stored as float16 or bfloat16, computed with as float32.

To the compiler an array of them is one of float32 whose elements are converted as they are loaded and stored: the body of a
CUDA twin serves it as it is, and sums, constants and local arrays in it are float32. `NarrowArray` is that type. What a kernel
is launched with are the bits, as uint16; `as_float16` and `as_bfloat16` say in it what they are. Beside arrays of 16 bits,
statistics, partial sums and parameters are `wide`.

bfloat16 comes from the package ml_dtypes, which NumPy's own dtypes know nothing of.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel.models import ArrayModel, StructModel
from numba.core.errors import TypingError
from numba.extending import intrinsic, lower_builtin, register_model
from numba.np import arrayobj

from numba_nn.core.errors import ArgumentError

I16, F32 = ir.IntType(16), ir.FloatType()


# ---- dtypes ---------------------------------------------------------------------------------------------------------------


class Form(NamedTuple):
    """A way to store a float in 16 bits: PTX instructions, and their operands, that load one as a float32 and store it."""

    widen: tuple[str, str]
    narrow: tuple[str, str]


FORMS = {
    "float16": Form(("cvt.f32.f16 $0, $1;", "=f,h"), ("cvt.rn.f16.f32 $0, $1;", "=h,f")),
    "bfloat16": Form(("mov.b32 $0, {0, $1};", "=f,h"), ("cvt.rn.bf16.f32 $0, $1;", "=h,f")),
}


def is_narrow(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is a float of 16 bits."""
    return dtype.itemsize == 2 and dtype.name in FORMS


def as_bits(array: Any) -> Any:
    """An array of 16-bit floats as uint16; anything else as it is."""
    return array.view(np.uint16) if hasattr(array, "dtype") and is_narrow(array.dtype) else array


def wide(dtype: Any) -> np.dtype[Any]:
    """The dtype of sums, statistics and parameters beside arrays of a dtype."""
    dtype = np.dtype(dtype)
    return np.dtype(np.float32) if is_narrow(dtype) else dtype


def narrow_dtype(where: object, given: Any) -> np.dtype[Any]:
    """float16 or bfloat16 as a dtype; raises `ArgumentError` for anything else, `ImportError` where ml_dtypes is missing."""
    if given == "bfloat16":
        try:
            from ml_dtypes import bfloat16  # type: ignore[import-not-found]
        except ImportError as error:
            raise ImportError("bfloat16 needs the package ml_dtypes: pip install 'numba_nn[cuda]'") from error
        return np.dtype(bfloat16)
    try:
        dtype = np.dtype(given)
    except TypeError:
        dtype = np.dtype(object)
    if given is None or not is_narrow(dtype):
        raise ArgumentError(f"{where}: dtype must be 'float16' or 'bfloat16', got {given!r}")
    return dtype


# ---- their arrays, to the compiler ----------------------------------------------------------------------------------------


class NarrowArray(types.Array):
    """An array of float32 to those that compute with it, stored in a form of 16 bits.

    Parameters
    ----------
    form : {"float16", "bfloat16"}
        How elements are stored.
    ndim : int
        Dimensions.
    layout : {"C", "A"}
        Of the elements in memory.
    """

    def __init__(self, form: str, ndim: int, layout: str) -> None:
        self.form = form
        super().__init__(types.float32, ndim, layout, name=f"array({form} as float32, {ndim}d, {layout})")

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two types the same."""
        return self.form, self.ndim, self.layout

    @property
    def mangling_args(self) -> tuple[str, list[Any]]:
        """What tells kernels apart by name."""
        return type(self).__name__, [self.form, self.ndim, self.layout]

    def copy(self, dtype: Any = None, ndim: int | None = None, layout: str | None = None, readonly: Any = None) -> NarrowArray:
        """The type of a view."""
        return NarrowArray(self.form, self.ndim if ndim is None else ndim, layout or self.layout)

    @property
    def bits(self) -> types.Array:
        """The same array, of its bits."""
        return types.Array(types.uint16, self.ndim, self.layout)


@register_model(NarrowArray)
class NarrowModel(StructModel):
    """In registers, what an array of the bits is."""

    def __init__(self, dmm: Any, fe_type: NarrowArray) -> None:
        like = ArrayModel(dmm, fe_type.bits)
        super().__init__(dmm, fe_type, list(zip(like._fields, like._members, strict=True)))


def convert(builder: Any, result: Any, instruction: tuple[str, str], x: Any) -> Any:
    """A number, by an instruction of one operand."""
    text, constraints = instruction
    return builder.call(ir.InlineAsm(ir.FunctionType(result, [x.type]), text, constraints), [x])


def stored_bits(array: types.Array) -> int:
    """Bits of an element in memory."""
    return 16 if isinstance(array, NarrowArray) else int(array.dtype.bitwidth)


def widened(builder: Any, array: types.Array, stored: Any) -> Any:
    """An element to compute with, from what was loaded."""
    return convert(builder, F32, FORMS[array.form].widen, stored) if isinstance(array, NarrowArray) else stored


def narrowed(builder: Any, array: types.Array, value: Any) -> Any:
    """An element to store, from what was computed."""
    return convert(builder, I16, FORMS[array.form].narrow, value) if isinstance(array, NarrowArray) else value


def _place(context: Any, builder: Any, array: types.Array, given: Any, index: Any, at: Any) -> Any:
    """A pointer to an element."""
    several = isinstance(index, types.BaseTuple)
    kinds = index.types if several else (index,)
    indices = cgutils.unpack_tuple(builder, at, count=len(kinds)) if several else (at,)
    there = context.make_array(array)(context, builder, given)
    pointer, shape, _ = arrayobj.basic_indexing(context, builder, array, there, kinds, indices, boundscheck=False)
    if shape:
        raise TypingError(f"an array stored as {array.form} takes one element at a time")
    return pointer


@lower_builtin(operator.getitem, NarrowArray, types.Integer)
@lower_builtin(operator.getitem, NarrowArray, types.BaseTuple)
def _load(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """``array[i]``: an element, or a view as of any array."""
    array, index = signature.args
    if isinstance(signature.return_type, types.Array):
        several = isinstance(index, types.BaseTuple)
        view_of = arrayobj.getitem_array_tuple if several else arrayobj.getitem_arraynd_intp
        return view_of(context, builder, signature, arguments)
    return widened(builder, array, builder.load(_place(context, builder, array, arguments[0], index, arguments[1])))


@lower_builtin(operator.setitem, NarrowArray, types.Any, types.Any)
def _store(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
    """``array[i] = value``."""
    array, index, kind = signature.args
    value = narrowed(builder, array, context.cast(builder, arguments[2], kind, types.float32))
    builder.store(value, _place(context, builder, array, arguments[0], index, arguments[1]))


def _reader(form: str) -> Callable[..., Any]:
    def typer(typingctx: Any, bits: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return arguments[0]

        return NarrowArray(form, bits.ndim, bits.layout)(bits), codegen

    typer.__name__ = f"as_{form}"
    return intrinsic(typer)


as_float16, as_bfloat16 = map(_reader, FORMS)
"""``as_float16(bits)``: an array of uint16 as one of float32 that is stored so."""
READERS = dict(zip(FORMS, (as_float16, as_bfloat16), strict=True))

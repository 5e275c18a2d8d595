"""Arrays by address: how one kernel updates all parameters of a model.

An optimiser's table holds, for each parameter, the addresses of its value, gradient and state. `Parameter` promises that
these arrays stay where they are for its life, or until it moves to another device.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from numba_nn.core.ptx import GLOBAL


@intrinsic
def part_at(typingctx: Any, address: Any, start: Any, stop: Any, like: Any) -> Any:
    """``part_at(address, start, stop, like)``: a flat array of the elements ``start`` to ``stop`` from an address on.

    Of the dtype of the array ``like``; loops over it from 0 on vectorise.
    """
    part = types.Array(like.dtype, 1, "C")

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, start, stop, _ = arguments
        data = builder.inttoptr(address, context.get_value_type(types.CPointer(like.dtype)))
        itemsize = context.get_constant(types.intp, context.get_abi_sizeof(context.get_value_type(like.dtype)))
        array = make_array(part)(context, builder)
        populate_array(
            array, builder.gep(data, [start]), shape=[builder.sub(stop, start)], strides=[itemsize], itemsize=itemsize,
            meminfo=None,
        )  # fmt: skip
        return array._getvalue()

    return part(types.intp, types.intp, types.intp, like), codegen


@intrinsic
def device_array_at(typingctx: Any, address: Any, size: Any, like: Any) -> Any:
    """``device_array_at(address, size, like)``: elements on the GPU; the size is for the simulator."""
    pointer = types.CPointer(like.dtype)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(pointer)
        there = builder.inttoptr(arguments[0], ir.PointerType(kind.pointee, GLOBAL))  # else a load asks which memory is meant
        return builder.addrspacecast(there, kind)

    return pointer(types.intp, size, like), codegen

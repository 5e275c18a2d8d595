"""Arrays by address: how one kernel updates all parameters of a model.

An optimiser's table holds, for each parameter, the addresses of its value, gradient and state. `Parameter` promises that
these arrays stay where they are for its life, or until it moves to another device.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.cpu import CPUContext
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from numba_nn.core.cuda.ptx import GLOBAL


@intrinsic
def part_at(typingctx: Any, address: Any, start: Any, stop: Any, like: Any) -> Any:
    """``part_at(address, start, stop, like)``: a flat array of the elements ``start`` to ``stop`` from an address on.

    Of the dtype of the array ``like``; loops over it from 0 on vectorise. On a GPU it lies in global memory: were that not
    said, a load would ask which memory is meant.
    """
    part = types.Array(like.dtype, 1, "C")

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, start, stop, _ = arguments
        pointer = context.get_value_type(types.CPointer(like.dtype))
        there = pointer if isinstance(context, CPUContext) else ir.PointerType(pointer.pointee, GLOBAL)
        data = builder.inttoptr(address, there)
        if there is not pointer:
            data = builder.addrspacecast(data, pointer)
        itemsize = context.get_constant(types.intp, context.get_abi_sizeof(context.get_value_type(like.dtype)))
        array = make_array(part)(context, builder)
        populate_array(
            array, builder.gep(data, [start]), shape=[builder.sub(stop, start)], strides=[itemsize], itemsize=itemsize,
            meminfo=None,
        )  # fmt: skip
        return array._getvalue()

    return part(types.intp, types.intp, types.intp, like), codegen

"""Arrays by address: how one kernel updates all parameters of a model.

An optimiser's table holds, for each parameter, the addresses of its value, gradient and state. `Parameter` promises that
these arrays stay where they are for its life, or until it moves to another device.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import carray
from numba.core import types
from numba.extending import intrinsic

from numba_nn.core.kernel import inner

GLOBAL = 1  # the address space of what cudaMalloc gives: without its name a load asks first which memory is meant


@intrinsic
def pointer_like(typingctx: Any, address: Any, array: Any) -> Any:
    """``pointer_like(address, array)``: the address as a pointer to elements of the array's dtype."""
    pointer = types.CPointer(array.dtype)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(types.intp, array), codegen


@inner
def array_at(address, size, like):
    """The flat array of ``size`` elements at an address, of the dtype of ``like``."""
    return carray(pointer_like(address, like), size)


@intrinsic
def device_array_at(typingctx: Any, address: Any, size: Any, like: Any) -> Any:
    """``device_array_at(address, size, like)``: `array_at` on the GPU; the size is for who reads it, and the simulator."""
    pointer = types.CPointer(like.dtype)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(pointer)
        there = builder.inttoptr(arguments[0], ir.PointerType(kind.pointee, GLOBAL))
        return builder.addrspacecast(there, kind)

    return pointer(types.intp, size, like), codegen

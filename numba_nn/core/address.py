"""Arrays by address: how one kernel updates all parameters of a model.

An optimiser's table holds, for each parameter, the addresses of its value, gradient and state. `Parameter` promises that
these arrays stay where they are for its life.
"""

from __future__ import annotations

from typing import Any

from numba import carray
from numba.core import types
from numba.extending import intrinsic

from numba_nn.core.kernel import inner


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

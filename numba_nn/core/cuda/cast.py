"""Copies from one dtype to another: float32 weights as the 16-bit floats that they are multiplied with."""

from __future__ import annotations

from typing import Any

from numba import prange

from numba_nn.core.call import Array
from numba_nn.core.cuda.narrow import is_narrow
from numba_nn.core.kernel import In, Out, portable
from numba_nn.core.parameter import Parameter
from numba_nn.core.workspace import Shape, Spec


@portable
def copy_forward(y: Out, x: In) -> None:
    """y = x."""
    for i in prange(x.size):
        y[i] = x[i]


def weight_room(shape: Shape, dtype: Any) -> Spec:
    """Scratch for `weight_as`: nothing, where the weights are of the dtype themselves."""
    return shape if is_narrow(dtype) else (0,), dtype


def weight_as(parameter: Parameter, room: Array) -> Array:
    """A parameter's value as one of the room's dtype: as it is, or rounded, into the room or once while it is locked."""
    if parameter.memory.dtype == room.dtype:
        return parameter.memory
    return parameter.packed(room.dtype.name, room, round_into)


def round_into(room: Array, value: Array) -> None:
    """room = value, rounded."""
    copy_forward(room.reshape(-1), value.reshape(-1))

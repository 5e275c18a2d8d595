"""What the functions of `ops` share: a name, a docstring, and the checks of their arrays."""

from __future__ import annotations

import inspect
from typing import Any, TypeGuard

from numpy import ndarray

from numba_nn.core.call import Array
from numba_nn.core.checks import FLOATS, check_array, check_destination
from numba_nn.core.device import Device
from numba_nn.core.workspace import Shape


class Function:
    """A function of arrays that has a destination; a subclass has a ``__call__``.

    Parameters
    ----------
    name : str
        Its name in `numba_nn.ops`.
    formula : str
        What it computes.
    """

    def __init__(self, name: str, formula: str) -> None:
        self.__name__ = name
        self.__doc__ = f"{name}: {formula}.\n\n{inspect.getdoc(type(self).__call__)}"

    def __reduce__(self) -> str:
        return self.__name__  # copied and pickled by reference, as a function is

    def __repr__(self) -> str:
        return f"<function {self.__name__} of arrays>"

    def _checked(self, name: str, given: Any, dtype: Any, device: Device) -> Any:
        """An argument as an array of the device's; of this dtype, if there is one."""
        array = device.accept(given)
        check_array(self.__name__, name, array, dtype, device)
        return array

    def _destination(self, out: Any, shape: Shape, dtype: Any, device: Device, *apart: Array) -> Any:
        """Where to write: ``out``, apart from these, or a fresh array."""
        if out is None:
            return device.empty(shape, dtype)
        y = device.accept(out)
        check_destination(self.__name__, "out", y, shape, dtype, *apart, device=device)
        return y


def is_plain(a: Any) -> TypeGuard[Array]:
    """Whether an operand needs no further look: one of NumPy's arrays of floats, in order. It takes 0.1 us."""
    return type(a) is ndarray and a.dtype in FLOATS and a.flags.carray

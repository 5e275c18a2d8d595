"""`Device`: what is asked of the place where arrays live, and the CPU's answers, for arrays of NumPy."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.typing import NDArray

Shape = tuple[int, ...]
ALIGNMENT = 64  # bytes: a cache line, and the widest vector register
NO_STREAM = nullcontext()


class Held(ndarray):
    """Memory of an array that a model holds: users see views of it, which `Device.is_held` recognises by their base."""


def memory_of(array: NDArray[Any]) -> Any:
    """What owns the memory under an array: a `Held`, or what is no array of NumPy's; None for any other array."""
    base = array.base
    while isinstance(base, ndarray) and type(base) is not Held:
        base = base.base
    return base


class Device:
    """The CPU, and what every device can do; an array is one of the device's own.

    Attributes
    ----------
    name : str
        As `Module.to` takes it.
    noun : str
        What its arrays are called in messages.
    """

    name = "cpu"
    noun = "a NumPy array"

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> Any:
        return self.name.upper()  # one object of each: copied and pickled by reference

    def require(self) -> None:
        """Raise `DeviceError` unless this machine has the device."""

    @property
    def records(self) -> bool:
        """Whether work is recorded, to be done later: then nothing can be known of it."""
        return False

    def on(self, stream: Any) -> AbstractContextManager[None]:
        """Within, work goes to this stream, unless it is None; the CPU has no streams."""
        return NO_STREAM

    def wait(self) -> None:
        """Wait for the work of the current stream."""

    def owns(self, array: Any) -> bool:
        """Whether an array lives here; masked ones do not, as kernels know no masks."""
        return type(array) is ndarray or (isinstance(array, ndarray) and not isinstance(array, np.ma.MaskedArray))

    def accept(self, array: Any) -> Any:
        """An array of another library's, or a subclass, as one of the device's own, without a copy; anything else as it is."""
        return array.view(ndarray) if type(array) is not ndarray and self.owns(array) else array

    def is_plain(self, array: Any) -> bool:
        """Whether an array is C-contiguous and aligned."""
        flags = array.flags
        return bool(flags.c_contiguous and flags.aligned)

    def is_writable(self, array: Any) -> bool:
        """Whether a kernel may write an array."""
        return bool(array.flags.writeable)

    def alias(self, array: Any) -> Any:
        """The same array, for kernels: writable whatever becomes of the other."""
        return array.view()

    def protect(self, array: Any, locked: bool) -> None:
        """Make an array read-only, or writable again."""
        array.flags.writeable = not locked

    def hold(self, array: Any) -> Any:
        """The array in memory that `is_held` knows, for parameters, gradients and running statistics."""
        if type(memory_of(array)) is Held:
            return array
        memory = Held(array.shape, array.dtype)
        memory[...] = array
        return memory.view(ndarray)

    def is_held(self, array: Any) -> bool:
        """Whether an array may lie in what was given by `hold`; what is no view of another array never does."""
        return memory_of(array) is not None  # what is no array of NumPy's may be anybody's

    def overlap(self, first: Any, second: Any) -> bool:
        """Whether two arrays may share memory."""
        return np.may_share_memory(first, second)

    def address(self, array: Any) -> int:
        """Where an array begins."""
        return int(array.ctypes.data)

    def empty(self, shape: Shape, dtype: Any) -> Any:
        """A fresh array with whatever contents it has."""
        return np.empty(shape, dtype)

    def zeros(self, shape: Shape, dtype: Any) -> Any:
        """A fresh array of zeros."""
        return np.zeros(shape, dtype)

    def buffer(self, nbytes: int) -> Any:
        """So many bytes, aligned."""
        raw = np.empty(nbytes + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        return raw[start : start + nbytes]

    def clear(self, array: Any) -> None:
        """Overwrite an array with zeros."""
        array.fill(0)

    def from_host(self, array: NDArray[Any]) -> Any:
        """A copy of a NumPy array, on the device."""
        return np.array(array, order="C")

    def to_host(self, array: Any) -> NDArray[Any]:
        """A copy of the device's array, as a NumPy array; waits until it is computed."""
        copy: NDArray[Any] = array.copy()
        return copy

    def number(self, array: Any) -> float:
        """The first element of a flat array; waits until it is computed."""
        return float(array[0])

    def bind(self, array: Any, stream: Any) -> None:
        """Have others see that work on an array is done in this stream, None for the default one; the CPU has no streams."""

    def copy(self, to: Any, source: Any) -> None:
        """Overwrite a C-contiguous array with another, of the same shape or repeated along dimensions."""
        np.copyto(to, source)

    def assign(self, to: Any, values: Any) -> None:
        """Overwrite an array with numbers from the host, broadcast and converted."""
        to[...] = values


CPU = Device()

"""How device arrays and streams are copied and pickled, which by themselves can be neither.

An object gives `departing` as its state, and takes `arrived`. A copy has arrays of its own on the same device, and works on the
same streams. A pickle holds the numbers as NumPy arrays and no streams; what comes of it lives on a GPU again.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from numba_nn.core.device import CUDA, Device


@dataclass(frozen=True)
class CarriedArray:
    """A device array, and the stream in whose order it is read; None for that of whoever calls."""

    thing: Any
    stream: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> CarriedArray:
        if id(self.thing) not in memo:
            with CUDA.on(self.stream):
                twin = memo[id(self.thing)] = CUDA.empty(self.thing.shape, self.thing.dtype)
                CUDA.copy(twin, self.thing)
                CUDA.wait()  # then any stream may read it
        return CarriedArray(memo[id(self.thing)])

    def __reduce__(self) -> tuple[Any, ...]:
        with CUDA.on(self.stream):
            return _from_host, (CUDA, CUDA.to_host(self.thing))


_carried: weakref.WeakValueDictionary[tuple[int, int], CarriedArray] = weakref.WeakValueDictionary()
"""Of an array and a stream, by their ids: what pickle meets twice, in two handles on a model, is one object to it."""


def _from_host(device: Device, host: NDArray[Any]) -> CarriedArray:
    return CarriedArray(device.from_host(host))


@dataclass(frozen=True)
class CarriedStream:
    """A stream of ``numba.cuda``, or None for the default one, which is what becomes of it in another process."""

    thing: Any

    def __deepcopy__(self, memo: dict[int, Any]) -> CarriedStream:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return CarriedStream, (None,)


def packed(value: Any, stream: Any) -> Any:
    """A device array, or each in a tuple, to be copied or pickled; anything else as it is."""
    if type(value) is tuple:
        return tuple([packed(one, stream) for one in value])
    return _carried.setdefault((id(value), id(stream)), CarriedArray(value, stream)) if CUDA.owns(value) else value


def unpacked(value: Any) -> Any:
    """What was packed."""
    if type(value) is tuple:
        return tuple(map(unpacked, value))
    return value.thing if isinstance(value, (CarriedArray, CarriedStream)) else value


_held: dict[int, Any] = {}
"""What became of arrays that came with a copy, by their ids, for as long as these live."""


def held_once(device: Device, array: Any) -> Any:
    """`Device.hold` for a part of a copy: where two handles shared an array, they share what it becomes."""
    if id(array) in _held:
        return _held[id(array)]
    held = device.hold(array)
    if held is not array:
        _held[id(array)] = held
        weakref.finalize(array, _held.pop, id(array), None)
    return held


def departing(state: Mapping[str, Any], stream: Any) -> dict[str, Any]:
    """Attributes to be copied or pickled."""
    return {name: packed(value, stream) for name, value in state.items()}


def arrived(state: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a copy, or of what was unpickled."""
    return {name: unpacked(value) for name, value in state.items()}

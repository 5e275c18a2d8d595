"""`Parameter`: an array that training changes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from numba_nn.core.device import CPU, Device


class Parameter:
    """An array that training changes, and its gradient.

    ``value`` and ``grad`` are the same two arrays for the life of the layer, unless it moves to another device: optimisers keep
    their addresses.

    Parameters
    ----------
    value : ndarray
        Initial value, copied; float32 or float64.
    name : str, optional
        Name within its layer, for messages.

    Attributes
    ----------
    device : Device
        Where both arrays live.
    name : str
        Name within its layer.
    requires_grad : bool
        Whether backward computes ``grad`` and optimisers change ``value``.
    """

    __slots__ = ("_grad", "_value", "device", "name", "requires_grad")

    moves: ClassVar[int] = 0
    """How often any parameter moved: who keeps addresses sees by it that some may be stale."""

    def __init__(self, value: NDArray[Any], name: str = "") -> None:
        self._value = np.array(value, order="C")
        self._grad = np.zeros_like(self._value)
        self.device: Device = CPU
        self.name = name
        self.requires_grad = True

    @property
    def value(self) -> NDArray[Any]:
        """The parameter; write into it (``p.value[...] = a``), it cannot be replaced."""
        return self._value

    @property
    def grad(self) -> NDArray[Any]:
        """Gradient of the loss, accumulated by every backward since it was last cleared."""
        return self._grad

    def zero_grad(self) -> None:
        """Clear the gradient."""
        self.device.clear(self._grad)

    def move(self, device: Device) -> None:
        """Have value and gradient on this device, in new arrays unless they are there."""
        if device is not self.device:
            self._value, self._grad = (device.from_host(self.device.to_host(a)) for a in (self._value, self._grad))
            self.device = device
            Parameter.moves += 1

    def __repr__(self) -> str:
        return f"Parameter({self.name or 'unnamed'}, shape={self._value.shape}, dtype={self._value.dtype})"

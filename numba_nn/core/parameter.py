"""`Parameter`: an array that training changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from numba_nn.core.carry import CarriedStream, packed, unpacked
from numba_nn.core.checks import check_flag
from numba_nn.core.device import CPU, Device, device_of
from numba_nn.core.errors import ArgumentError, DeviceError
from numba_nn.core.workspace import Shape, aligned_like


class Parameter:
    """An array that training changes, and its gradient.

    ``value`` and ``grad`` are the same two arrays for the life of the layer, unless it moves to another device: optimisers keep
    their addresses.

    While a parameter is *locked*, in eval mode, its value is read-only, and what kernels read in its place (panels of a matrix
    product, transformed weights) is made once. Whoever changes the value unlocks it, and so forgets what was made of it.

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
    stream : object or None
        On a GPU, the stream of ``numba.cuda`` on which optimisers change it; None for that of whoever calls.
    name : str
        Name within its layer.
    guard : object or None
        What says, on a GPU, whether optimisers pass over the parameter in a step: see `guarded_by`.
    requires_grad : bool
        Whether backward computes ``grad`` and optimisers change ``value``.
    memory : ndarray
        The value as layers hand it to kernels: a view, always writable, as Numba looks at read-only arrays for longer.
    """

    __slots__ = ("_grad", "_locked", "_packs", "_value", "device", "guard", "memory", "name", "requires_grad", "stream")

    moves: ClassVar[int] = 0
    """How often any parameter moved, or got another guard: who keeps addresses sees by it that some may be stale."""

    def __init__(self, value: NDArray[Any], name: str = "") -> None:
        value = np.asarray(value)
        self.__setstate__((value.copy(), np.zeros(value.shape, value.dtype), name, True, False, None))

    def __getstate__(self) -> tuple[Any, ...]:
        arrays = packed((self._value, self._grad), self.stream)
        return *arrays, self.name, self.requires_grad, self.locked, CarriedStream(self.stream)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        value, grad, self.name, self.requires_grad, locked, self.stream = unpacked(state)
        self.device: Device = device_of(value)
        self.guard: Any = None
        self._grad = self.device.hold(grad)
        self._take(self.device.hold(value), locked)

    def _take(self, value: Any, locked: bool) -> None:
        self._value, self.memory, self._locked = value, self.device.alias(value), locked
        self._packs: dict[Hashable, NDArray[Any]] = {}
        self.device.protect(value, locked)

    @property
    def value(self) -> NDArray[Any]:
        """The parameter; write into it (``p.value[...] = a``), it cannot be replaced.

        Read-only while it is locked, in eval mode: ``model.train()``, write, ``model.eval()``. NumPy's "assignment destination
        is read-only" means this.
        """
        return self._value

    @value.setter
    def value(self, given: Any) -> None:
        """Refuse another array; what ``p.value += a`` gives is the array itself."""
        self._check_kept("value", given, self._value)

    @property
    def grad(self) -> NDArray[Any]:
        """Gradient of the loss, accumulated by every backward since it was last cleared."""
        return self._grad

    @grad.setter
    def grad(self, given: Any) -> None:
        """Refuse another array."""
        self._check_kept("grad", given, self._grad)

    def _check_kept(self, name: str, given: Any, own: Any) -> None:
        if given is not own:
            how = f".{name}[...] = a writes an array into it" + ", .zero_grad() clears it" * (name == "grad")
            raise ArgumentError(f"{self!r}: {name} must stay the array that it is, got {type(given).__name__}; {how}")

    @property
    def shape(self) -> Shape:
        """Shape of value and gradient."""
        return tuple(self._value.shape)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of value and gradient."""
        dtype: np.dtype[Any] = self._value.dtype
        return dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The value, for NumPy's functions: ``np.asarray(p)`` is ``p.value``. On a GPU this raises `DeviceError`."""
        if self.device is not CPU:
            raise DeviceError(f"{self!r} lives on '{self.device}'; .value.copy_to_host() gives a NumPy array")
        return np.array(self._value, dtype, copy=copy)

    @property
    def locked(self) -> bool:
        """Whether the value is read-only, as `Module.eval` makes it."""
        return self._locked

    @property
    def packed_nbytes(self) -> int:
        """Bytes of what was made of the value while it is locked."""
        return sum(pack.nbytes for pack in self._packs.values())

    def lock(self) -> None:
        """Make the value read-only."""
        if not self.locked:
            self._take(self._value, locked=True)

    def unlock(self) -> None:
        """Make the value writable, and forget what was made of it."""
        if self.locked:
            self._take(self._value, locked=False)

    def packed(self, form: Hashable, room: NDArray[Any], pack: Callable[[NDArray[Any], NDArray[Any]], None]) -> NDArray[Any]:
        """The value in a form that a kernel reads: in memory of its own while it is locked, else made anew in ``room``.

        Parameters
        ----------
        form : hashable
            Name of the form, the same for all that read the same.
        room : ndarray
            Scratch of the shape that the form has.
        pack : callable
            ``pack(to, value)`` makes it.

        Returns
        -------
        ndarray
            ``room``, or what must not be written to.
        """
        packs = self._packs  # of this lock: another thread may unlock the value meanwhile
        if not self.locked:
            pack(room, self.memory)
            return room
        made = packs.get(form)
        if made is None:
            made = aligned_like(room)
            pack(made, self.memory)
            packs[form] = made
        return made

    def kept(self, form: Hashable) -> NDArray[Any] | None:
        """What `packed` made of the locked value, if it has: 0.1 us, where preparing `packed`'s arguments takes 0.6."""
        return self._packs.get(form)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set whether backward computes the gradient and optimisers change the value."""
        self.requires_grad = check_flag(self, "requires_grad", requires_grad)
        return self

    def zero_grad(self) -> None:
        """Clear the gradient."""
        with self.device.on(self.stream):
            self.device.clear(self._grad)
            if self.guard is not None:
                self.guard.discard()

    def move(self, device: Device, stream: Any = None) -> None:
        """Have value and gradient on this device, in new arrays unless they are there, and work on them in a stream."""
        self.stream = stream
        if device is not self.device:
            copies = (device.from_host(self.device.to_host(a)) for a in (self._value, self._grad))
            value, self._grad = map(device.hold, copies)
            self.device = device
            self._take(value, self.locked)
            self.guarded_by(None if device is CPU else self.guard)
        for array in (self._value, self._grad):
            device.bind(array, stream)

    def guarded_by(self, guard: Any) -> None:
        """Have optimisers call ``guard.admit(rows, members)`` before they change the value, with rows of their table."""
        self.guard = guard
        Parameter.moves += 1

    def __repr__(self) -> str:
        return f"Parameter({self.name or 'unnamed'}, shape={self.shape}, dtype={self.dtype})"

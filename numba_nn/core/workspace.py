"""Buffers that are allocated once: every array that a layer needs beside its parameters is a view of one of these."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from numba_nn.core.carry import CarriedStream
from numba_nn.core.device import CPU, CUDA, Device, device_of
from numba_nn.core.errors import ConcurrencyError, ReserveError
from numba_nn.core.host import ALIGNMENT
from numba_nn.core.host import Shape as Shape

Spec = tuple[Shape, np.dtype[Any]]
"""Shape and dtype of an array to come."""

MOST_ARRAYS = 256  # views that a workspace keeps ready: making one takes 1 us


def spec_nbytes(spec: Spec) -> int:
    """Bytes of an array, rounded up to the alignment."""
    shape, dtype = spec
    return -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT


def view(buffer: NDArray[np.uint8], offset: int, spec: Spec) -> NDArray[Any]:
    """The array of this shape and dtype at a byte offset of a buffer."""
    shape, dtype = spec
    return buffer[offset : offset + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


def aligned_like(array: NDArray[Any]) -> NDArray[Any]:
    """Memory for an array of the same shape and dtype."""
    spec = array.shape, array.dtype
    return view(device_of(array).buffer(spec_nbytes(spec)), 0, spec)


class InUse:
    """A ``with`` block in which a workspace is used; see `Workspace.in_use`."""

    __slots__ = ("_by", "_workspace")

    def __init__(self, workspace: Workspace, by: object) -> None:
        self._workspace, self._by = workspace, by

    def __enter__(self) -> None:
        if not self._workspace.lock.acquire(False):
            self._workspace.refuse(self._by)

    def __exit__(self, *_: object) -> None:
        self._workspace.lock.release()


class StreamLock:
    """A lock whose holder's work goes to a stream: all that enters a model takes the model's lock.

    Parameters
    ----------
    stream : object
        Stream of ``numba.cuda``.
    """

    def __init__(self, stream: Any) -> None:
        self._lock, self._stream = threading.RLock(), stream
        self._before: list[Any] = []

    def acquire(self, blocking: bool) -> bool:
        """Take the lock; False if another thread holds it."""
        taken = self._lock.acquire(blocking)
        if taken:
            self._before.append(CUDA.stream)
            CUDA.stream = self._stream
        return taken

    def release(self) -> None:
        """Give it back; work goes where it went before."""
        CUDA.stream = self._before.pop()
        self._lock.release()


class Workspace:
    """Named buffers that grow when they must and are otherwise handed out again, to one thread at a time.

    A copy of a workspace, by ``copy`` or ``pickle``, is an empty one: contents are dead between calls.

    Parameters
    ----------
    device : Device, optional
        Where the buffers live.
    stream : object, optional
        Stream of ``numba.cuda`` for the work of whoever holds the lock.

    Attributes
    ----------
    device : Device
        Where the buffers live.
    stream : object or None
        Where the work of whoever holds the lock goes.
    generation : int
        Grows with every allocation; a view taken in an earlier generation may belong to a buffer since replaced.
    strict : bool
        Refuse to grow, but for copies of strided arrays.
    lock : RLock or StreamLock
        Held by the thread that is inside; see `in_use`.
    """

    def __init__(self, device: Device = CPU, stream: Any = None) -> None:
        self.device, self.stream = device, stream
        self._buffers: dict[str, NDArray[np.uint8]] = {}
        self._arrays: dict[tuple[str, Shape, Any], NDArray[Any]] = {}
        self.generation = 0
        self.strict = False
        self.lock: Any = threading.RLock() if stream is None else StreamLock(stream)

    def __reduce__(self) -> tuple[Any, ...]:
        return _empty_workspace, (self.device, CarriedStream(self.stream))

    def in_use(self, by: object) -> InUse:
        """Keep other threads out of a ``with`` block; calls within calls of one thread may enter.

        Parameters
        ----------
        by : object
            Who uses it, for the message.

        Raises
        ------
        ConcurrencyError
            If another thread is inside.
        """
        return InUse(self, by)

    def refuse(self, by: object) -> NoReturn:
        """Say that another thread is inside; see `in_use`."""
        raise ConcurrencyError(
            f"{by} is in use by another thread; each thread needs one of its own (a model gives more by share())"
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def buffer(self, name: str, nbytes: int) -> NDArray[np.uint8]:
        """The named buffer, at least this long.

        Parameters
        ----------
        name : str
            Any name.
        nbytes : int
            Its least length.

        Raises
        ------
        ReserveError
            If it is shorter and the workspace is strict.
        """
        present = self._buffers.get(name)
        if present is not None and present.nbytes >= nbytes:
            return present
        if self.strict:
            held = 0 if present is None else present.nbytes
            raise ReserveError(f"buffer '{name}' needs {nbytes} bytes, {held} are reserved; reserve the larger shape first")
        return self._allocate(name, nbytes)

    def contiguous(self, name: str, array: Any) -> Any:
        """The array itself if it is C-contiguous, else a copy in the named buffer; a strict workspace provides it too.

        Of a tuple each array likewise, in a buffer of its own; None stays None.
        """
        if array is None or (type(array) is np.ndarray and array.flags.carray):
            return array
        if isinstance(array, tuple):
            if all(one is None or self.device.is_plain(one) for one in array):
                return array
            return tuple([self.contiguous(f"{name}{i}", one) for i, one in enumerate(array)])
        if self.device.is_plain(array):
            return array
        spec = array.shape, array.dtype
        nbytes = spec_nbytes(spec)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.nbytes < nbytes:
            buffer = self._allocate(name, nbytes)
        copy = view(buffer, 0, spec)
        self.device.copy(copy, array)
        return copy

    def _allocate(self, name: str, nbytes: int) -> NDArray[np.uint8]:
        self._arrays.clear()  # they may be views of the buffer that is replaced
        self._buffers[name] = self.device.buffer(nbytes)
        self.generation += 1
        return self._buffers[name]

    def array(self, name: str, shape: Shape, dtype: Any) -> NDArray[Any]:
        """A view of the named buffer, with whatever contents it has."""
        array = self._arrays.get((name, shape, dtype))
        if array is None:
            if len(self._arrays) >= MOST_ARRAYS:
                self._arrays.clear()
            spec = (shape, np.dtype(dtype))
            array = self._arrays[name, shape, dtype] = view(self.buffer(name, spec_nbytes(spec)), 0, spec)
        return array

    def carve(self, name: str, specs: Mapping[str, Spec]) -> dict[str, NDArray[Any]]:
        """Several arrays that lie one after the other in the named buffer."""
        offsets, total = [], 0
        for spec in specs.values():
            offsets.append(total)
            total += spec_nbytes(spec)
        return self.place(name, specs, offsets, total)

    def place(self, name: str, specs: Mapping[str, Spec], offsets: list[int], total: int) -> dict[str, NDArray[Any]]:
        """Several arrays at given byte offsets of the named buffer, which is ``total`` bytes long."""
        buffer = self.buffer(name, total)
        return {key: view(buffer, offset, spec) for (key, spec), offset in zip(specs.items(), offsets, strict=True)}


def _empty_workspace(device: Device, stream: CarriedStream) -> Workspace:
    return Workspace(device, stream.thing)


_of_thread = threading.local()


def thread_workspace(device: Device = CPU) -> Workspace:
    """Memory for functions that belong to no model: one workspace for every Python thread, device and stream."""
    name = "cpu" if device is CPU else f"cuda {int(CUDA.stream)}"  # the work of one stream waits for that of no other
    workspace: Workspace | None = getattr(_of_thread, name, None)
    if workspace is None:
        workspace = Workspace(device)
        setattr(_of_thread, name, workspace)
    return workspace

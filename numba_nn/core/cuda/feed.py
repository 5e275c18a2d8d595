"""Numbers that the host writes again and again, and kernels read: on a GPU they go there without anybody waiting."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.device import CPU, CUDA, Device
from numba_nn.core.workspace import Shape

STAGES = 2  # the host writes one while the other is on its way


class Stage:
    """Room for one copy: a pinned array, which the host writes, and its place on the device.

    Parameters
    ----------
    shape : tuple of int
        Shape of either.
    dtype : dtype
        Dtype.

    Attributes
    ----------
    pinned, place : ndarray, device array
        Of the same shape.
    arrived, taken : event
        The numbers are in the place, and were taken out of it.
    """

    def __init__(self, shape: Shape, dtype: Any) -> None:
        self.pinned, self.place = CUDA.pinned(shape, dtype), CUDA.empty(shape, dtype)
        self.arrived, self.taken = cuda.event(timing=False), cuda.event(timing=False)


class Feed:
    """A device array that the host overwrites, by way of stages that take turns.

    What is sent crosses to the device in a stream of its own, which may be while kernels read what was sent before. From there
    it goes into the array in the order of the current stream. The host waits only if it is two copies ahead.

    Parameters
    ----------
    shape : tuple of int
        Shape; the leading dimension is the most that is sent at once.
    dtype : dtype
        Dtype.

    Attributes
    ----------
    array : device array
        What kernels read; it stays where it is.
    """

    def __init__(self, shape: Shape, dtype: Any) -> None:
        self.array = CUDA.empty(shape, dtype)
        self._stages: list[Stage] = []
        self._crossing: Any = None

    def takes(self, values: NDArray[Any]) -> bool:
        """Whether values fit into the array."""
        room = self.array
        return values.dtype == room.dtype and values.shape[1:] == room.shape[1:] and len(values) <= len(room)

    def send(self, values: NDArray[Any]) -> Any:
        """Have these values in the leading part of the array, in the order of the current stream; gives that part."""
        if not self._stages:  # an array that only device arrays are copied to needs none
            self._crossing = cuda.stream()
            self._stages = [Stage(self.array.shape, self.array.dtype) for _ in range(STAGES)]
        stage, crossing, stream = self._stages[0], self._crossing, CUDA.stream or cuda.default_stream()
        count = len(values)
        part, place, pinned = self.array[:count], stage.place[:count], stage.pinned[:count]
        self._stages.reverse()
        stage.arrived.synchronize()
        np.copyto(pinned, values)
        stage.taken.wait(crossing)
        place.copy_to_device(pinned, stream=crossing)
        stage.arrived.record(crossing)
        stage.arrived.wait(stream)
        part.copy_to_device(place, stream=stream)
        stage.taken.record(stream)
        return part


class Mirror:
    """Numbers of the host's that kernels read: one array on the CPU; on a GPU two, of which the host writes one.

    Parameters
    ----------
    host : ndarray
        The numbers.
    device : Device
        Where kernels read them.

    Attributes
    ----------
    host, array : ndarray
        What the host writes, and what kernels read.
    """

    def __init__(self, host: NDArray[Any], device: Device) -> None:
        self.host = self.array = host
        self._feed = None
        if device is not CPU:
            self._feed, self._sent = Feed(host.shape, host.dtype), host.copy()
            self.array = self._feed.send(host)
            device.wait()  # then any stream may read it

    def __reduce__(self) -> tuple[Any, ...]:
        return Mirror, (self.host, CPU if self._feed is None else CUDA)

    def send(self) -> None:
        """Have the host's numbers in the array, if they changed."""
        if self._feed is not None and not np.array_equal(self.host, self._sent):
            self._feed.send(self.host)
            np.copyto(self._sent, self.host)

"""Numbers that the host writes again and again, and kernels read: on a GPU they go there without anybody waiting."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from numba_nn.core.device import CPU, CUDA, Device
from numba_nn.core.ptx import cuda
from numba_nn.core.workspace import Shape

PINNED_ARRAYS = 2  # the host writes one while the other is on its way


class Feed:
    """A device array that the host overwrites, by way of pinned arrays that take turns.

    A copy from pinned memory runs while the host goes on; the host waits only if it is two copies ahead.

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
        self._stages = [(CUDA.pinned(shape, dtype), cuda.event(timing=False)) for _ in range(PINNED_ARRAYS)]

    def takes(self, values: NDArray[Any]) -> bool:
        """Whether values fit into the array."""
        room = self.array
        return values.dtype == room.dtype and values.shape[1:] == room.shape[1:] and len(values) <= len(room)

    def send(self, values: NDArray[Any]) -> Any:
        """Have these values in the leading part of the array, in the order of the current stream; gives that part."""
        stage, through = self._stages[0]
        self._stages.reverse()
        through.synchronize()
        stream = CUDA.stream or cuda.default_stream()
        part, pinned = self.array[: len(values)], stage[: len(values)]
        np.copyto(pinned, values)
        part.copy_to_device(pinned, stream=stream)
        through.record(stream)
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
            np.copyto(self._sent, self.host)
            self._feed.send(self.host)

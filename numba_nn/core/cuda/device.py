"""`CudaDevice`: the answers of a GPU, for device arrays of ``numba.cuda``."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from numba_nn.core.cuda.dlpack import lendable, lender_of
from numba_nn.core.cuda.ptx import cuda, is_refusal
from numba_nn.core.errors import DeviceError, OutOfMemoryError
from numba_nn.core.host import Device, Shape

OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY


class CudaDevice(Device, threading.local):
    """The current CUDA device; its arrays are those of ``numba.cuda``.

    Kernels and copies go to ``stream``. Copies from and to the host are waited for, so that their arrays can be used in any
    stream: they, like allocations, are refused by the driver while a stream is captured, when they would be done once and never
    again. Each thread has attributes of its own.

    Attributes
    ----------
    stream : object
        A stream of ``numba.cuda``; 0 for the default one. See `on`.
    used : list or None
        Where it is a list, everything that kernels and copies are given is kept in it: see `numba_nn.core.cuda.capture`.
    """

    name = "cuda"
    noun = "a device array (numba.cuda.to_device, or any with __dlpack__ or __cuda_array_interface__) of a dtype that NumPy has"
    stream: Any = 0
    used: list[Any] | None = None
    held: ClassVar[dict[int, tuple[int, int]]] = {}
    """Extents of the arrays that were given by `hold` and live, by the id of each."""

    @property
    def records(self) -> bool:
        """Whether work is recorded, to be done later: then nothing can be known of it."""
        return self.used is not None

    def use(self, *arrays: Any) -> None:
        """Note what work on the device is given."""
        if self.used is not None:
            self.used.append(arrays)

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        """Within, work goes to this stream, unless it is None."""
        before = self.stream
        self.stream = before if stream is None else stream
        try:
            yield
        finally:
            self.stream = before

    @property
    def queue(self) -> Any:
        """The stream as an object: by 0, numba's copies mean the one that the array is bound to."""
        return self.stream or cuda.default_stream()

    def wait(self) -> None:
        """Wait for the work of the current stream."""
        self.queue.synchronize()

    def bind(self, array: Any, stream: Any) -> None:
        """Have others see that work on an array is done in this stream, None for the default one."""
        array.stream = stream or 0

    def __reduce__(self) -> Any:
        from numba_nn.core.device import as_device  # which refuses it where there is none, and knows this module

        return as_device, ("unpickled", self.name)

    def require(self) -> None:
        """Raise `DeviceError` unless this machine has the device."""
        try:
            available = cuda.is_available()
        except ImportError as error:
            raise DeviceError(f"device 'cuda': {error}") from error
        if not available:
            raise DeviceError("device 'cuda': numba-cuda finds no GPU or no driver (numba_nn's layers then run on 'cpu' only)")

    def owns(self, array: Any) -> bool:
        """Whether an array lives here."""
        return getattr(array, "__cuda_ndarray__", False) is True

    def accept(self, array: Any) -> Any:
        """An array of another library's as one of the device's own, without a copy; anything else as it is."""
        lender = None if self.owns(array) else lender_of(array, self.stream)
        if lender is None:
            return array
        taken = cuda.as_cuda_array(lender)
        taken.read_only = lender.__cuda_array_interface__["data"][1]  # which numba's arrays know nothing of
        return taken

    def is_plain(self, array: Any) -> bool:
        """Whether an array is C-contiguous and aligned."""
        return bool(array.is_c_contiguous()) and self.address(array) % array.dtype.itemsize == 0

    def is_writable(self, array: Any) -> bool:
        """Whether a kernel may write an array."""
        return not getattr(array, "read_only", False)

    def alias(self, array: Any) -> Any:
        """The array itself: device arrays know no read-only."""
        return array

    def protect(self, array: Any, locked: bool) -> None:
        """Nothing: device arrays know no read-only."""

    def hold(self, array: Any) -> Any:
        """The array itself, noted for as long as it lives."""
        if id(array) not in self.held:
            self.held[id(array)] = self.extent(array)
            weakref.finalize(array, self.held.pop, id(array), None)
        return array

    def is_held(self, array: Any) -> bool:
        """Whether an array shares memory with one that was given by `hold`."""
        start, stop = self.extent(array)
        return any(start < end and begin < stop for begin, end in list(self.held.values()))

    def overlap(self, first: Any, second: Any) -> bool:
        """Whether two arrays may share memory."""
        starts, stops = zip(self.extent(first), self.extent(second), strict=True)
        return bool(max(starts) < min(stops))

    def extent(self, array: Any) -> tuple[int, int]:
        """Addresses of an array's lowest byte and of the one behind its highest, which are equal where it has no element."""
        first = self.address(array)
        if array.size == 0:
            return first, first
        reaches = [(n - 1) * step for n, step in zip(array.shape, array.strides, strict=True)]
        return first + sum(r for r in reaches if r < 0), first + sum(r for r in reaches if r > 0) + array.dtype.itemsize

    def address(self, array: Any) -> int:
        """Where an array begins."""
        return int(array.__cuda_array_interface__["data"][0])

    def empty(self, shape: Shape, dtype: Any) -> Any:
        """A fresh array with whatever contents it has, bound to the stream: other libraries see by it what to wait for."""
        return self._allocate(shape, dtype, self.stream)

    def pinned(self, shape: Shape, dtype: Any) -> NDArray[Any]:
        """A fresh array of the host's that copies go from while the host does something else."""
        with self._room_for("bytes of pinned memory", shape, dtype):
            array: NDArray[Any] = cuda.pinned_array(shape, dtype)
        return array

    def _allocate(self, shape: Shape, dtype: Any, stream: Any = 0) -> Any:
        with self._room_for("bytes", shape, dtype):
            return lendable(cuda.device_array(shape, dtype, stream=stream))

    @contextmanager
    def _room_for(self, what: str, shape: Shape, dtype: Any) -> Iterator[None]:
        """Within, a refusal for want of memory is `OutOfMemoryError`, which says how much was asked for."""
        try:
            yield
        except Exception as error:
            if not is_refusal(error) or int(getattr(error, "code", 0)) != OUT_OF_MEMORY:
                raise
            nbytes = math.prod(shape) * np.dtype(dtype).itemsize
            raise OutOfMemoryError(f"device 'cuda': no room for {nbytes:,} {what}, {self.room()} ({error})") from error

    def room(self) -> str:
        """How much memory there is, in words."""
        try:
            free, total = cuda.current_context().get_memory_info()
        except Exception:  # after an error that stays, the driver answers nothing more
            return "an unknown number of bytes are free"
        return f"{free:,} of {total:,} bytes are free"

    def zeros(self, shape: Shape, dtype: Any) -> Any:
        """A fresh array of zeros."""
        return self.from_host(np.zeros(shape, dtype))

    def buffer(self, nbytes: int) -> Any:
        """So many bytes, aligned; cudaMalloc gives multiples of 256."""
        return self._allocate((nbytes,), np.uint8)

    def clear(self, array: Any) -> None:
        """Overwrite an array with zeros."""
        self.use(array)
        if array.size:
            cuda.cudadrv.driver.device_memset(array, 0, array.nbytes, stream=self.stream)

    def from_host(self, array: NDArray[Any]) -> Any:
        """A copy of a NumPy array, on the device."""
        copy = self._allocate(array.shape, array.dtype)
        self.assign(copy, array)
        return copy

    def to_host(self, array: Any) -> NDArray[Any]:
        """A copy of the device's array, as a NumPy array; waits until it is computed."""
        copy: NDArray[Any] = array.copy_to_host(stream=self.queue)
        self.wait()
        return copy

    def number(self, array: Any) -> float:
        """The first element of a flat array; waits until it is computed."""
        return float(self.to_host(array)[0])

    def copy(self, to: Any, source: Any) -> None:
        """Overwrite a C-contiguous array with another, of the same shape or repeated along dimensions."""
        from numba_nn.core.strided import copy_strided  # kernels, which stand on this module

        self.use(to, source)
        if source.is_c_contiguous() and source.shape == to.shape:
            to.copy_to_device(source, stream=self.queue)
        else:
            copy_strided(to, source)

    def assign(self, to: Any, values: Any) -> None:
        """Overwrite an array with numbers from the host, broadcast and converted."""
        host = np.ascontiguousarray(np.broadcast_to(values, to.shape), to.dtype).reshape(to.shape)
        to.copy_to_device(host, stream=self.queue)
        self.wait()

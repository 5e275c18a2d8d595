"""Stands for ``numba.cuda`` where there is no GPU: device arrays in host memory, and kernels that run in the simulator.

With it in place of the module, `to("cuda")`, layers, losses and optimisers run unchanged; only the launch is simulated.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn
from unittest import mock

import numpy as np
from fake_cuda import Dim3
from graphs import DEFAULT, Event, GraphBuilder, Stream, on_device, queued, refuse_in_capture
from simulator import launch

from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.cuda.twin import CudaKernel


class DeviceArray:
    """What `numba_nn` uses of numba's device arrays. NumPy cannot compute with it: the host has no business there."""

    __cuda_ndarray__ = True
    __array_ufunc__ = None

    def __init__(self, host: np.ndarray, stream: Any = 0) -> None:
        self._host, self.stream = host, stream

    shape = property(lambda self: self._host.shape)
    strides = property(lambda self: self._host.strides)
    dtype = property(lambda self: self._host.dtype)
    size = property(lambda self: self._host.size)
    ndim = property(lambda self: self._host.ndim)
    nbytes = property(lambda self: self._host.nbytes)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        found = self._host.__array_interface__
        data = found["data"][0], False
        return {"shape": self.shape, "typestr": found["typestr"], "strides": found["strides"], "data": data, "version": 3}

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise AssertionError("a device array was copied to the host in silence")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise AssertionError("a device array was copied or pickled as an object")

    def __len__(self) -> int:
        return len(self._host)

    def __getitem__(self, key: Any) -> Any:
        found = self._host[key]
        if not isinstance(found, np.ndarray):
            raise AssertionError("an element of a device array was read on the host")
        return type(self)(found, self.stream)

    def is_c_contiguous(self) -> bool:
        """Whether the elements lie in order, without gaps."""
        return self._host.flags.c_contiguous

    def _viewed(self, host: np.ndarray, stream: Any = 0) -> DeviceArray:
        assert np.may_share_memory(host, self._host) or host.size == 0, "a device array cannot be reshaped without a copy"
        return type(self)(host, stream)

    def reshape(self, *shape: Any) -> DeviceArray:
        """The elements in another shape; as numba has it, the stream is forgotten."""
        return self._viewed(self._host.reshape(*shape))

    def ravel(self) -> DeviceArray:
        """The elements in one row."""
        return self._viewed(self._host.ravel(), self.stream)

    def view(self, dtype: Any) -> DeviceArray:
        """The bytes as another dtype; as numba has it, the class is forgotten."""
        return DeviceArray(self._host.view(dtype), self.stream)

    def squeeze(self) -> DeviceArray:
        """Without dimensions of one; likewise."""
        return DeviceArray(self._host.squeeze(), self.stream)

    def copy_to_host(self, stream: Any = 0) -> np.ndarray:
        """The elements as a NumPy array."""
        refuse_in_capture("a copy to the host")
        queued.append(stream or self.stream)
        return self._host.copy()

    def copy_to_device(self, source: Any, stream: Any = 0) -> None:
        """Overwrite with an array of the same shape and dtype, from here or from the host."""
        if not isinstance(source, DeviceArray):
            refuse_in_capture("a copy from the host")
        source = source._host if isinstance(source, DeviceArray) else source
        assert source.shape == self.shape, (source.shape, self.shape)
        assert source.dtype == self.dtype, (source.dtype, self.dtype)
        assert self._host.flags.c_contiguous
        on_device(stream or self.stream, lambda: self._host.__setitem__(..., source))


MOST_BLOCKS, MOST_THREADS, MOST_IN_A_BLOCK = (2**31 - 1, 65535, 65535), (1024, 1024, 64), 1024


def refuse_too_large(grid: Any, block: Any) -> None:
    """Raise where a grid, or a block, is larger than the driver takes (CUDA C++ Programming Guide, compute capabilities)."""
    blocks, threads = Dim3.of(grid), Dim3.of(block)
    fits = all(n <= most for n, most in zip((*blocks, *threads), (*MOST_BLOCKS, *MOST_THREADS), strict=True))
    if not fits or math.prod(threads) > MOST_IN_A_BLOCK:
        raise CUDAError(f"CUDA_ERROR_INVALID_VALUE: a grid of {tuple(blocks)}, blocks of {tuple(threads)}")


class Dispatcher:
    """A kernel; ``dispatcher[blocks, threads](...)`` runs it in the simulator."""

    def __init__(self, kernel: CudaKernel) -> None:
        self.kernel, self.py_func = kernel, kernel.py_func

    def __getitem__(self, configuration: tuple[Any, ...]) -> Callable[..., None]:
        def run(*arguments: Any) -> None:
            refuse_too_large(*configuration[:2])
            hosts = [a._host if isinstance(a, DeviceArray) else a for a in arguments]
            on_device(configuration[2], lambda: cuda.launch(self, *configuration[:2], hosts))

        return run


def _poisoned(shape: Any, dtype: Any = np.float64, stream: Any = 0) -> DeviceArray:
    refuse_in_capture("an allocation")
    host = np.empty(shape, dtype)
    host.reshape(-1).view(np.uint8)[:] = 255  # NaN, or -1
    return DeviceArray(host, stream)


def _memset(array: DeviceArray, value: int, nbytes: int, stream: Any = 0) -> None:
    assert nbytes == array.nbytes
    on_device(stream, lambda: array._host.reshape(-1).view(np.uint8).fill(value))


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("a device array was allocated")


class CudaAPIError(Exception):
    """How numba-cuda says that the driver refused an allocation."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code


class CUDAError(Exception):
    """How cuda.core says that the driver refused a launch."""


class SimulatedCuda(types.ModuleType):
    """The module; ``launch`` is asked for by each kernel that runs.

    Parameters
    ----------
    launch : function
        From kernel, grid, block and arguments.
    allocates : bool
        Whether it gives memory.
    """

    def __init__(self, launch: Callable[..., None], allocates: bool) -> None:
        super().__init__("simulated numba.cuda")
        self.cudadrv = types.SimpleNamespace(driver=types.SimpleNamespace(device_memset=_memset))
        self.launch = launch
        self.device_array = _poisoned if allocates else _refuse

    is_available = staticmethod(lambda: True)
    current_context = staticmethod(lambda: types.SimpleNamespace(get_memory_info=lambda: (1000, 4000)))
    jit = staticmethod(lambda **options: Dispatcher)
    synchronize = staticmethod(lambda: None)
    stream = staticmethod(lambda: Stream())
    default_stream = staticmethod(lambda: DEFAULT)
    external_stream = staticmethod(Stream)
    pinned_array = staticmethod(np.empty)
    defer_cleanup = staticmethod(nullcontext)
    event = staticmethod(lambda timing=True: Event())
    event_elapsed_time = staticmethod(lambda start, stop: 1.0)
    get_current_device = staticmethod(
        lambda: types.SimpleNamespace(name="simulated", id=0, compute_capability=(0, 0), MULTIPROCESSOR_COUNT=1)
    )

    @staticmethod
    def as_cuda_array(array: Any) -> DeviceArray:
        """Another library's device array, without a copy."""
        interface = array.__cuda_array_interface__
        dtype = np.dtype(interface["typestr"])
        there = types.SimpleNamespace(__array_interface__={**interface, "typestr": dtype.str}, owner=array)
        return DeviceArray(np.asarray(there).view(dtype))


@contextmanager
def simulated(launch: Callable[..., None] = launch, allocates: bool = True) -> Iterator[None]:
    """Within, ``cuda`` is simulated; ``launch`` runs the kernels, and nothing is allocated unless ``allocates``."""
    before = vars(cuda).get("_module")
    vars(cuda)["_module"] = SimulatedCuda(launch, allocates)
    try:
        # A kernel that has a dispatcher of numba.cuda's keeps it, and gets another one in here.
        simulated_dispatcher = property(lambda kernel: Dispatcher(kernel))
        with (
            mock.patch("numba_nn.core.cuda.capture.graph_builder", GraphBuilder),
            mock.patch.object(CudaKernel, "dispatcher", simulated_dispatcher),
        ):
            yield
    finally:
        if before is None:
            del vars(cuda)["_module"]
        else:
            vars(cuda)["_module"] = before

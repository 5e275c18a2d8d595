"""What the files of this folder share.

A benchmark is a class with ``configurations``; every one of them is measured on each number of threads, and on the GPU.
``setup`` compiles, allocates and calls once, so that nothing of this is timed. What a commit or a machine lacks is "n/a" there.
"""

from __future__ import annotations

import abc
import importlib
import timeit
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numba
import numpy as np
from numba.core.registry import cpu_target

from .allocations import allocations

THREADS = [1, 2]
DEVICES = ["cpu", "cuda"]

cpu_target.target_context.refresh()  # imports the rest of numba, once for all the processes that asv forks


def normal(shape: tuple[int, ...]) -> np.ndarray:
    """N(0, 1) * 0.1, float32, the same at every call."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32) * np.float32(0.1)


def feature(module: ModuleType, name: str) -> Any:
    """A public name, which an older commit may not have yet."""
    if not hasattr(module, name):
        raise NotImplementedError(f"{module.__name__} has no {name}")
    return getattr(module, name)


def seconds(call: Callable[[], Any], sample_time: float = 0.02, samples: int = 5) -> float:
    """Shortest time of a call, from samples of at least this many seconds."""
    timer, number = timeit.Timer(call), 1
    while timer.timeit(number) < sample_time:
        number *= 4
    return min(timer.repeat(samples, number)) / number


class Cpu:
    """Where benchmarks run on any commit: NumPy arrays."""

    empty = staticmethod(np.empty)
    take = staticmethod(lambda layer: layer)
    move = staticmethod(lambda parameter: None)

    @staticmethod
    def from_host(array: np.ndarray) -> Any:
        """The array itself."""
        return array

    @staticmethod
    def wait() -> None:
        """Nothing to wait for."""


class Gpu(Cpu):
    """The GPU, on commits that know it."""

    def __init__(self) -> None:
        device = importlib.import_module("numba_nn.core.device").CUDA
        device.require()
        self.empty, self.from_host, self.wait = device.empty, device.from_host, device.wait
        self.move = lambda parameter: parameter.move(device)

    @staticmethod
    def take(layer: Any) -> Any:
        """Move a layer."""
        return layer.to("cuda")


def place(device: str) -> Cpu:
    """The device of this name; NotImplementedError, which asv shows as "n/a", where there is none."""
    try:
        return {"cpu": Cpu, "cuda": Gpu}[device]()
    except (KeyError, ImportError, RuntimeError) as error:
        raise NotImplementedError(f"not on '{device}': {error}") from error


class Benchmark(abc.ABC):
    """A call, in several configurations, on several numbers of threads, or on a GPU (which counts as one thread)."""

    version = "1"  # of what is measured: raise it to start a new record
    timeout = 600  # seconds; the first setup on a commit compiles
    param_names = ("configuration", "threads", "device")
    devices = DEVICES  # that it can run on

    @property
    @abc.abstractmethod
    def configurations(self) -> dict[str, tuple[Any, ...]]:
        """Name to arguments of `prepare`; asv keeps results by name."""

    @abc.abstractmethod
    def prepare(self, nn: ModuleType, *arguments: Any) -> None:
        """Make the objects and arrays that `call` uses; the number of threads is set."""

    @abc.abstractmethod
    def call(self) -> None:
        """The operation whose allocations are counted."""

    def __init_subclass__(cls) -> None:
        if isinstance(cls.configurations, dict):
            cls.params = (list(cls.configurations), THREADS, DEVICES)

    def setup(self, configuration: str, threads: int, device: str) -> None:
        import numba_nn  # not above: asv forks, and in a process forked after this import numba_nn stays on one thread

        self.device = place(device if device in self.devices and (device, threads) != ("cuda", 2) else "none")
        if threads > numba.config.NUMBA_NUM_THREADS:
            raise NotImplementedError(f"this machine has no {threads} cores")
        numba.set_num_threads(threads)
        feature(numba_nn, "manual_seed")(0)
        self.prepare(numba_nn, *self.configurations[configuration])
        self.call()

    def teardown(self, *_: Any) -> None:
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)

    def normal(self, shape: tuple[int, ...]) -> Any:
        """N(0, 1) * 0.1 on the device."""
        return self.device.from_host(normal(shape))

    def empty(self, shape: tuple[int, ...]) -> Any:
        """A destination on the device."""
        return self.device.empty(shape, np.float32)

    def track_allocations(self, *_: Any) -> int:
        return allocations(self.call).blocks

    def track_bytes(self, *_: Any) -> int:
        return allocations(self.call).nbytes

    track_allocations.unit = "allocations"
    track_bytes.unit = "bytes"


class WithFlops(Benchmark):
    """A benchmark whose `prepare` sets ``flops``, the floating-point operations of the call."""

    flops: int

    def track_ps_per_flop(self, *_: Any) -> float:
        return seconds(lambda: (self.call(), self.device.wait())) * 1e12 / self.flops

    track_ps_per_flop.unit = "ps/FLOP"


class LayerBenchmark(Benchmark):
    """The layer of the class's name; ``configurations`` gives the input's shape and the constructor's arguments.

    The call is a forward in training mode and its backward, with destinations, after `reserve`. The backward's time is the
    difference of the two times.
    """

    def prepare(self, nn: ModuleType, x_shape: tuple[int, ...], arguments: dict[str, Any]) -> None:
        self.layer = self.device.take(self.make(nn, arguments)).reserve(x_shape)
        y_shape = self.layer.output_shape(x_shape)
        self.x, self.dy = self.normal(x_shape), self.normal(y_shape)
        self.y, self.dx = self.empty(y_shape), self.empty(x_shape)
        self.flops = 3 * self.layer.forward_flops(x_shape)  # forward, and the gradients of input and weight

    def make(self, nn: ModuleType, arguments: dict[str, Any]) -> Any:
        """The layer."""
        return feature(nn, type(self).__name__)(**arguments)

    def call(self) -> None:
        self.layer.forward(self.x, out=self.y)
        self.layer.backward(self.dy, out=self.dx)

    def time_forward(self, *_: Any) -> None:
        self.layer.forward(self.x, out=self.y)
        self.device.wait()

    def time_forward_backward(self, *_: Any) -> None:
        self.call()
        self.device.wait()

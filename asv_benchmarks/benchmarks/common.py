"""What the files of this folder share.

A benchmark is a class with ``configurations``; every one of them is measured on each number of threads. ``setup`` compiles,
allocates and calls once, so that nothing of this is timed. What a commit lacks is "n/a" there: `feature`.
"""

from __future__ import annotations

import abc
import timeit
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numba
import numpy as np
from numba.core.registry import cpu_target

from .allocations import allocations

THREADS = [1, 2]

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


class Benchmark(abc.ABC):
    """A call, in several configurations, on several numbers of threads."""

    version = "1"  # of what is measured: raise it to start a new record
    timeout = 600  # seconds; the first setup on a commit compiles
    param_names = ("configuration", "threads")

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
            cls.params = (list(cls.configurations), THREADS)

    def setup(self, configuration: str, threads: int) -> None:
        import numba_nn  # not above: asv forks, and in a process forked after this import numba_nn stays on one thread

        if threads > numba.config.NUMBA_NUM_THREADS:
            raise NotImplementedError(f"this machine has no {threads} cores")
        numba.set_num_threads(threads)
        feature(numba_nn, "manual_seed")(0)
        self.prepare(numba_nn, *self.configurations[configuration])
        self.call()

    def teardown(self, configuration: str, threads: int) -> None:
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)

    def track_allocations(self, configuration: str, threads: int) -> int:
        return allocations(self.call).blocks

    def track_bytes(self, configuration: str, threads: int) -> int:
        return allocations(self.call).nbytes

    track_allocations.unit = "allocations"
    track_bytes.unit = "bytes"


class WithFlops(Benchmark):
    """A benchmark whose `prepare` sets ``flops``, the floating-point operations of the call."""

    flops: int

    def track_ps_per_flop(self, configuration: str, threads: int) -> float:
        return seconds(self.call) * 1e12 / self.flops

    track_ps_per_flop.unit = "ps/FLOP"


class LayerBenchmark(Benchmark):
    """The layer of the class's name; ``configurations`` gives the input's shape and the constructor's arguments.

    The call is a forward in training mode and its backward, with destinations, after `reserve`. The backward's time is the
    difference of the two times.
    """

    def prepare(self, nn: ModuleType, x_shape: tuple[int, ...], arguments: dict[str, Any]) -> None:
        self.layer = feature(nn, type(self).__name__)(**arguments).reserve(x_shape)
        self.x = normal(x_shape)
        self.dx = np.empty_like(self.x)
        self.dy = normal(self.layer.output_shape(x_shape))
        self.y = np.empty_like(self.dy)
        self.flops = 3 * self.layer.forward_flops(x_shape)  # forward, and the gradients of input and weight

    def call(self) -> None:
        self.layer.forward(self.x, out=self.y)
        self.layer.backward(self.dy, out=self.dx)

    def time_forward(self, configuration: str, threads: int) -> None:
        self.layer.forward(self.x, out=self.y)

    def time_forward_backward(self, configuration: str, threads: int) -> None:
        self.call()

"""Runs the body of a CUDA twin on the CPU, thread after thread. Needs neither a GPU nor numba-cuda.

For twins whose threads do not speak to each other: barriers, shared memory and warp operations raise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from host_twins import HOST_TWINS, Math
from numba.core.dispatcher import Dispatcher

from numba_nn.core.ptx import LazyCuda


@dataclass(frozen=True)
class Dim3:
    """The x of CUDA's x, y, z; the others are the grid's first row."""

    x: int
    y: int = 0
    z: int = 0


class FakeCuda:
    """The module ``cuda`` as one thread sees it, in a one-dimensional grid."""

    def __init__(self, blocks: int, threads: int) -> None:
        self.gridDim, self.blockDim = Dim3(blocks, 1, 1), Dim3(threads, 1, 1)
        self.blockIdx = self.threadIdx = Dim3(0)

    def grid(self, ndim: int) -> int:
        """Index of this thread in the grid."""
        assert ndim == 1
        return self.blockIdx.x * self.blockDim.x + self.threadIdx.x

    def gridsize(self, ndim: int) -> int:
        """Number of threads in the grid."""
        assert ndim == 1
        return self.gridDim.x * self.blockDim.x

    def __getattr__(self, name: str) -> Any:
        raise NotImplementedError(f"cuda.{name}: this simulator runs one thread to its end before the next starts")


def converted(value: Any, fake: FakeCuda, done: dict[Any, Any]) -> Any:
    """What stands for a global of a kernel while it is simulated."""
    if isinstance(value, LazyCuda):
        return fake
    if value is math:
        return Math()
    if getattr(value, "__hash__", None) and value in HOST_TWINS:
        return HOST_TWINS[value]
    if isinstance(value, Dispatcher):
        return body(value.py_func, fake, done)
    return value


def body(function: Any, fake: FakeCuda, done: dict[Any, Any]) -> Callable[..., Any]:
    """A kernel's or helper's own code, with the fake in place of ``cuda``."""
    if function not in done:
        names = dict(function.__globals__)
        done[function] = FunctionType(function.__code__, names, function.__name__)
        names.update({name: converted(names[name], fake, done) for name in function.__code__.co_names if name in names})
    return done[function]


def launch(twin: Any, blocks: int, threads: int, arguments: Iterable[Any], *, backwards: bool = False) -> None:
    """Run every thread of a grid; ``backwards`` from the last to the first, which shows threads that depend on another."""
    fake = FakeCuda(blocks, threads)
    run, arguments = body(twin.py_func, fake, {}), list(arguments)
    order = range(blocks * threads)
    for number in reversed(order) if backwards else order:
        fake.blockIdx, fake.threadIdx = Dim3(number // threads), Dim3(number % threads)
        run(*arguments)

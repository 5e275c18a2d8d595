"""The kernels that are launched, each with the types that it is compiled for: found by running layers, training and `ops`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from numba.core import types
from offline import types_of
from simulated_cuda import simulated
from training import train_for_launches
from trials import run_for_launches

from numba_nn.core.cuda.twin import CudaKernel
from numba_nn.core.device import CUDA
from numba_nn.gpu_check.operations import OPERATIONS


class Launch(NamedTuple):
    """A kernel, and the types of its arguments."""

    kernel: CudaKernel
    argument_types: tuple[types.Type, ...]

    def __str__(self) -> str:
        return self.kernel.__name__


@functools.cache
def launches(dtype: Any) -> list[Launch]:
    """Every launch with arrays of a dtype, once, by name."""
    found: dict[tuple[Callable[..., Any], tuple[types.Type, ...]], Launch] = {}

    def note(dispatcher: Any, grid: Any, block: Any, arguments: list[Any]) -> None:
        key = dispatcher.py_func, types_of(arguments)
        found.setdefault(key, Launch(dispatcher.kernel, key[1]))

    with simulated(note):
        run_for_launches(dtype)
        for case in OPERATIONS:
            case.run(CUDA, dtype)
        train_for_launches(dtype)
    return sorted(found.values(), key=str)

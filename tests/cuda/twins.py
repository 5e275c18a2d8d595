"""Every CUDA twin of the package, and arguments to try it with. A new twin is found, not registered."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import numba_nn
from numba_nn.core.cuda.portable import covering_windows
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.cuda.twin import CudaKernel, covering
from numba_nn.core.kernel import In, Kernel, Out, Role, kernel

HOMES = ("numba_nn.core", "numba_nn.layers", "numba_nn.losses", "numba_nn.ops", "numba_nn.optim")
"""Of kernels whose iterations are tried in any order, with several blocks."""


@kernel
def clip_below(y: Out, x: In):
    """A kernel with a twin, so that the machinery is tried whatever the package holds: y = max(x, 0)."""
    for i in range(x.size):
        y[i] = x.dtype.type(0) if x[i] <= 0 else x[i]


@clip_below.on_cuda
def clip_below(y: Out, x: In):
    i, stride = np.uint64(cuda.grid(1)), np.uint64(cuda.gridsize(1))
    while i < np.uint64(x.size):
        y[i] = x.dtype.type(0) if x[i] <= 0 else x[i]
        i += stride


def modules() -> Iterator[Any]:
    """Every module of the package that can be imported without doing something."""
    for found in pkgutil.walk_packages(numba_nn.__path__, "numba_nn."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def twins() -> Iterator[CudaKernel]:
    """Every CUDA kernel that a module of the package holds, by itself or as a twin; some factories make more."""
    for value in {id(value): value for module in modules() for value in vars(module).values()}.values():
        twin = value.cuda if isinstance(value, Kernel) and value.has_twin else value
        if isinstance(twin, CudaKernel):
            yield twin


def elementwise_kernels() -> list[Kernel]:
    """Every kernel of the package whose twin has a thread for each element, by name; and the one above.

    All others are run and compiled with the arguments of real launches: see `launches`.
    """
    homes = [vars(module).values() for module in modules() if module.__name__.startswith(HOMES)]
    found = {value.__name__: value for values in homes for value in values if isinstance(value, Kernel)}
    return [clip_below, *(found[name] for name in sorted(found) if found[name].has_twin and is_elementwise(found[name].cuda))]


def is_elementwise(twin: Any) -> bool:
    """Whether a grid of any size does, and arrays are flat and of one dtype and size."""
    return (
        isinstance(twin, CudaKernel)
        and twin.grid in (covering, covering_windows)
        and not {"table", "ignore_index", "dims"} & twin.roles.keys()
    )


def values(n: int, dtype: Any, seed: int) -> np.ndarray:
    """Numbers of either sign, some of them zero."""
    x = np.random.default_rng(seed).standard_normal(n).astype(dtype)
    x[::7] = 0
    return x


def flat(k: Kernel, n: int, dtype: Any) -> list[Any]:
    """Arguments for an element-wise kernel: flat arrays of one size, destinations poisoned, inputs read-only."""
    arguments: list[Any] = []
    for seed, role in enumerate(k.roles.values()):
        if not isinstance(role, Role):
            arguments.append(role(2))
        elif role.name in ("out", "scratch"):
            arguments.append(np.full(n, np.nan, dtype))
        else:
            arguments.append(values(n, dtype, seed))
            arguments[-1].flags.writeable = role.writes
    return arguments


def shares(k: Kernel, n: int, dtype: Any) -> list[Any]:
    """`flat`, with numbers between 0 and 1."""
    arguments = flat(k, n, dtype)
    for argument, role in zip(arguments, k.roles.values(), strict=True):
        if isinstance(role, Role) and role.name == "in":
            argument.flags.writeable = True
            argument[:] = 0.5 + np.arctan(argument) / 4
            argument.flags.writeable = False
    return arguments


# For those that take something else: kernel's name to a function like `flat`.
EXAMPLES: dict[str, Callable[[Kernel, int, Any], list[Any]]] = {
    "gradient_clamp": lambda k, n, dtype: [values(n, dtype, 0), 0.5],
    **dict.fromkeys(("likelihood_error_each_forward", "likelihood_error_backward", "recall_running", "fold_running"), shares),
    **dict.fromkeys(("divide_forward", "sqrt_forward", "log_forward"), shares),
    "activate_all": lambda k, n, dtype: [values(n, dtype, 0), 2, 0.1],
}


def example(k: Kernel, n: int, dtype: Any) -> list[Any]:
    """Arguments of about ``n`` elements for a kernel and its twin."""
    return EXAMPLES.get(k.__name__, flat)(k, n, dtype)

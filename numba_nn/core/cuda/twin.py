"""CUDA twins: how a function is compiled for the GPU and launched.

`CudaKernel` is one launch. A kernel's twin takes its place on device arrays, with the same arguments. It is one of

* a body of its own, ``@k.on_cuda`` or ``@k.on_cuda(grid=...)``;
* the CPU's body, where iterations of its `prange` loop are independent: ``@portable``, see `numba_nn.core.cuda.portable`;
* several launches, ``@k.on_cuda(steps=True)``: a plain function that calls `CudaKernel` objects made by `cuda_kernel`.

Bodies index in 32 bits, as 64-bit arithmetic costs several instructions for each: arrays of 2^31 elements are refused. They
serve arrays of float16 and bfloat16 too: see `numba_nn.core.cuda.narrow`.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable
from typing import Any

import numpy as np

from numba_nn.core.checks import FLOATS
from numba_nn.core.cuda.narrow import READERS, as_bits, is_narrow
from numba_nn.core.cuda.ptx import cuda, device_function, is_refusal
from numba_nn.core.device import CUDA
from numba_nn.core.errors import ArgumentError, DeviceError
from numba_nn.core.parts import Helper
from numba_nn.core.roles import Role, argument_roles

THREADS = 256
MULTIPROCESSORS = 132  # of an H100 or H200
MAX_BLOCKS = MULTIPROCESSORS * 16  # 2,048 resident threads on each, twice
MOST_ELEMENTS = 2**31 - 1
OPTIONS = {"fastmath": False}  # of the compiler: it would flush denormals

Dimensions = int | tuple[int, ...]
Grid = Callable[..., tuple[Dimensions, Dimensions]]
"""From a launch's arguments to the blocks of its grid, and the threads of a block."""


def covering(first: Any, *_: Any) -> tuple[int, int]:
    """A grid with a thread for each element of the first argument, or as many as are resident; bodies loop with its stride."""
    return min(MAX_BLOCKS, -(-first.size // THREADS)), THREADS


class CudaKernel:
    """A function compiled for the GPU at its first launch; ``numba.cuda`` is not imported before. See `cuda_kernel`.

    Parameters
    ----------
    py_func : function
        The body; its arguments carry roles.
    grid : callable, optional
        From the arguments to blocks and threads; nothing is launched where there is no block.
    launch_bounds : tuple of int, optional
        Threads of a block, and blocks that a multiprocessor shall hold at once: the compiler takes as many registers.
    """

    __name__: str

    def __init__(
        self, py_func: Callable[..., Any], grid: Grid = covering, launch_bounds: tuple[int, int] | None = None
    ) -> None:
        functools.update_wrapper(self, py_func)
        self.py_func = py_func
        self.grid = grid
        self.options = {**OPTIONS, "launch_bounds": launch_bounds}
        self._launch_bounds = launch_bounds
        self._narrow: dict[tuple[str, ...], CudaKernel] = {}

    @functools.cached_property
    def roles(self) -> dict[str, Any]:
        """Name to role of every argument, in order."""
        return argument_roles(self.py_func)

    @functools.cached_property
    def dispatcher(self) -> Any:
        """The ``numba.cuda`` dispatcher (lazy: decorating compiles nothing)."""
        return cuda.jit(**self.options)(self.py_func)

    def arguments(self, given: tuple[Any, ...]) -> list[Any]:
        """The arguments of a launch: numbers for a ``float`` take the arrays' own precision, as float64 is slow on a GPU."""
        kind = next((a.dtype.type for a in given if hasattr(a, "dtype") and a.dtype in FLOATS), np.float32)
        return [kind(a) if role is float else as_bits(a) for a, role in zip(given, self.roles.values(), strict=True)]

    def on_forms_of(self, given: tuple[Any, ...]) -> CudaKernel:
        """The kernel for arrays stored as these are: itself, or one that reads some of them as floats of 16 bits."""
        forms = tuple([a.dtype.name if hasattr(a, "dtype") and is_narrow(a.dtype) else "" for a in given])
        if not any(forms):
            return self
        if forms not in self._narrow:
            self._narrow[forms] = CudaKernel(reading(self.py_func, forms), self.grid, self._launch_bounds)
        return self._narrow[forms]

    def __call__(self, *given: Any) -> None:
        for name, role, array in zip(self.roles, self.roles.values(), given, strict=True):
            if isinstance(role, Role):
                self._check(name, array)
        CUDA.use(given)
        blocks, threads = self.grid(*given)
        if np.prod(blocks):
            kernel = self.on_forms_of(given)
            try:
                kernel.dispatcher[blocks, threads, CUDA.stream](*kernel.arguments(given))
            except Exception as error:
                if not is_refusal(error):
                    raise
                nbytes = sum(a.size * a.dtype.itemsize for a in given if hasattr(a, "dtype"))
                asked = f"a launch of {blocks} blocks, each of {threads} threads, on arrays of {nbytes:,} bytes"
                raise DeviceError(f"kernel '{self.__name__}': the driver refused {asked}; {CUDA.room()} ({error})") from error

    def _check(self, name: str, array: Any) -> None:
        if not CUDA.owns(array):
            # numba.cuda would copy a NumPy array to the device and back, in silence.
            where = f"kernel '{self.__name__}', argument '{name}'"
            raise TypeError(f"{where}: expected device arrays only, got {type(array).__name__}")
        if array.size > MOST_ELEMENTS:
            where = f"kernel '{self.__name__}', argument '{name}'"
            raise ArgumentError(f"{where}: an array on a GPU has at most 2^31 - 1 elements, got {array.size}")


def reading(body: Callable[..., Any], forms: tuple[str, ...]) -> Callable[..., Any]:
    """A kernel's body with arguments that are bits; it reads each in its form, where it has one."""
    arguments = list(argument_roles(body))
    given = ", ".join(f"as_{form}({name})" if form else name for name, form in zip(arguments, forms, strict=True))
    names: dict[str, Any] = {"body": device_function(body), **{f"as_{form}": reader for form, reader in READERS.items()}}
    exec(f"def {body.__name__}({', '.join(arguments)}):\n    body({given})", names)
    wrapper: Callable[..., Any] = names[body.__name__]
    wrapper.__annotations__ = typing.get_type_hints(body, include_extras=True)
    return wrapper


def cuda_kernel(
    grid: Grid = covering, launch_bounds: tuple[int, int] | None = None
) -> Callable[[Callable[..., Any]], CudaKernel]:
    """Decorator of what runs on the GPU only: a step of a twin, or of a layer's algorithm for it."""
    return lambda py_func: CudaKernel(py_func, grid, launch_bounds)


def cuda_helper(py_func: Callable[..., Any]) -> Helper:
    """Decorator of helpers that run on the GPU only."""
    return Helper(py_func, {"nopython": True})

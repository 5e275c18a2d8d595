"""Runs the body of any CUDA kernel on the CPU, unchanged. Needs neither a GPU nor numba-cuda.

    launch(kernel, grid, block, arguments, order="depth-first")

The body and the helpers that it calls run as Python, with `FakeCuda` in place of ``cuda`` and the functions of `TWINS` in
place of intrinsics. NumPy's scalars keep float32 arithmetic in float32. What it shows:

* indices out of bounds, negative ones too, and writes to read-only inputs;
* shared and local memory read before it is written: it is poisoned;
* barriers that are missing (a wrong result in one of `lanes.ORDERS`) or that not all threads reach;
* asynchronous copies that nobody waits for.

Threads that do not speak to each other run one after the other; those that do are greenlets (`lanes.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from types import CellType, FunctionType
from typing import Any

import numpy as np
from fake_cuda import SPEAKING, Dim3, FakeCuda, Shared, guarded
from host_ptx import PTX_TWINS
from host_twins import HOST_TWINS, Math
from lanes import ORDERS, Block
from numba.core.dispatcher import Dispatcher

from numba_nn.core.cuda.ptx import LazyCuda

TWINS = {**HOST_TWINS, **PTX_TWINS}


class Simulated:
    """A kernel's body, and all that it calls, with the fake in place of ``cuda``.

    Attributes
    ----------
    body : function
        What a thread runs.
    speaks : bool
        Whether threads may depend on each other.
    """

    def __init__(self, function: Any, fake: FakeCuda) -> None:
        self.fake, self.speaks = fake, False
        self._done: dict[Any, FunctionType] = {}
        self.body = self._function(function)

    def _function(self, function: Any) -> FunctionType:
        if function not in self._done:
            code, names = function.__code__, dict(function.__globals__)
            cells = tuple(CellType(self._value(cell.cell_contents)) for cell in function.__closure__ or ())
            self._done[function] = FunctionType(code, names, function.__name__, function.__defaults__, cells)
            names.update({name: self._value(names[name]) for name in code.co_names if name in names})
            self.speaks |= not SPEAKING.isdisjoint(code.co_names)
        return self._done[function]

    def _value(self, value: Any) -> Any:
        """What stands for a global, or a variable of a closure."""
        if isinstance(value, LazyCuda):
            return self.fake
        if value is math:
            return Math()
        if getattr(value, "__hash__", None) and value in TWINS:
            twin = TWINS[value]
            self.speaks |= getattr(twin, "speaks", False)
            return twin
        return self._function(value.py_func) if isinstance(value, Dispatcher) else value


def launch(kernel: Any, grid: Any, block: Any, arguments: Iterable[Any], *, order: str = "depth-first") -> None:
    """Run a kernel, any object with a ``py_func``.

    Parameters
    ----------
    kernel : CudaKernel or dispatcher
        Its ``py_func`` is run.
    grid, block : int or tuple of up to three int
        Blocks of the grid, threads of a block.
    arguments : iterable
        NumPy arrays and scalars.
    order : {"depth-first", "reversed", "interleaved"}
        Who runs first; see `lanes.ORDERS`.
    """
    fake = FakeCuda(Dim3.of(grid), Dim3.of(block))
    simulated, given = Simulated(kernel.py_func, fake), [guarded(a) for a in arguments]
    blocks, threads = fake.gridDim.points(), fake.blockDim.points()
    with np.errstate(all="ignore"):
        if simulated.speaks:
            _run_blocks(fake, lambda: simulated.body(*given), blocks[::-1] if order == "reversed" else blocks, threads, order)
        else:
            _run_threads(fake, simulated.body, given, blocks, threads, order)


def _run_blocks(fake: FakeCuda, run: Callable[[], None], blocks: list[Dim3], threads: list[Dim3], order: str) -> None:
    """Block after block, each with shared memory of its own."""

    def enter(thread: Dim3) -> None:
        fake.threadIdx = thread

    for fake.blockIdx in blocks:
        fake.shared = Shared()
        Block(run, threads, order, enter).run()


def _run_threads(
    fake: FakeCuda, body: Callable[..., None], arguments: list[Any], blocks: list[Dim3], threads: list[Dim3], order: str
) -> None:
    """Thread after thread: of a block, or if interleaved the same one of every block."""
    assert order in ORDERS, f"order must be one of {ORDERS}, got {order!r}"
    if order == "interleaved":
        pairs = [(block, thread) for thread in threads for block in blocks]
    else:
        pairs = [(block, thread) for block in blocks for thread in threads]
    for fake.blockIdx, fake.threadIdx in reversed(pairs) if order == "reversed" else pairs:
        body(*arguments)

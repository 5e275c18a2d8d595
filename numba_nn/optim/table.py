"""All parameters of a model as a table of addresses, which one kernel walks in tasks of up to `CHUNK` elements.

On a GPU a task is a block of threads, and shorter: `CUDA_CHUNK` elements.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from numba_nn.core.address import part_at
from numba_nn.core.call import Array
from numba_nn.core.carry import packed, unpacked
from numba_nn.core.cuda.feed import Mirror
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.cuda.reduce import one_block
from numba_nn.core.cuda.twin import THREADS, cuda_kernel
from numba_nn.core.device import CPU, Device
from numba_nn.core.errors import ArgumentError, DeviceError
from numba_nn.core.kernel import In, Out, inner, portable
from numba_nn.core.parameter import Parameter

CHUNK = 16_384  # elements of a task: 64 KB of each array in float32
CUDA_CHUNK = 8 * THREADS
SIZE, GROUP, ACTIVE, VALUE, GRADIENT, STATE = range(6)
"""Columns of a table: size, group, whether it requires a gradient (-1 where a guard, or a loss, has it passed over), then
addresses; state is the last ones."""


class Tasks(NamedTuple):
    """What a kernel is launched for: the parameters of one dtype.

    Attributes
    ----------
    like : ndarray
        A (0,) array of their dtype.
    members : ndarray
        Their rows in the table.
    chunks : ndarray
        (T, 3): row, first element, and the one after the last, of every task.
    elements : int
        Their number of elements.
    """

    like: Array
    members: Array
    chunks: Array
    elements: int


class ParameterTable:
    """Addresses of parameters, and of the arrays that an optimiser keeps beside each.

    It follows parameters that move to another device. A copy, or what is unpickled, holds the addresses of its own parameters.

    Parameters
    ----------
    entries : iterable of tuple of Parameter, int and tuple of ndarray
        A parameter, the number of its group, and the arrays beside it.

    Attributes
    ----------
    entries : list of tuple
        What was given.
    device : Device
        Where all of it lives.
    rows : Mirror
        (P, 5 + arrays beside each) int64; see the columns above.
    tasks : list of Tasks
        One for every dtype.
    guards : list of (object, ndarray)
        What guards some of the parameters, and their rows.

    Raises
    ------
    DeviceError
        If the parameters live on several devices.
    """

    def __init__(self, entries: Iterable[tuple[Parameter, int, tuple[Array, ...]]]) -> None:
        self.entries = list(entries)
        self.parameters = [p for p, _, _ in self.entries]
        self._build()

    def __reduce__(self) -> tuple[Any, ...]:
        return _table_of, ([(p, g, packed(beside, self.stream)) for p, g, beside in self.entries],)

    def _build(self) -> None:
        self.device = self._common_device()
        self._moves, self._addressed = Parameter.moves, [(p.value, p.guard) for p in self.parameters]
        self._active = [p.requires_grad for p in self.parameters]
        rows = [
            [p.value.size, g, p.requires_grad, *map(self.device.address, (p.value, p.grad, *beside))]
            for p, g, beside in self.entries
        ]
        self.rows = Mirror(np.array(rows, np.int64), self.device)
        self.tasks = [self._tasks_of(dtype) for dtype in sorted({p.value.dtype for p in self.parameters}, key=str)]
        guarded: dict[Any, list[int]] = {}
        for i, p in enumerate(self.parameters):
            guarded.setdefault(p.guard, []).append(i)
        guarded.pop(None, None)
        self._no_loss = self.device.zeros((1,), np.float32)
        self.guards = [(guard, self.device.from_host(np.array(rows, np.int64))) for guard, rows in guarded.items()]

    def _common_device(self) -> Device:
        devices = {p.device for p in self.parameters}
        if len(devices) > 1:
            raise DeviceError(f"parameters live on {sorted(map(str, devices))}; move the whole model: model.to('cuda')")
        return devices.pop() if devices else CPU

    def _tasks_of(self, dtype: np.dtype[Any]) -> Tasks:
        sizes = [(i, p.value.size) for i, p in enumerate(self.parameters) if p.value.dtype == dtype]
        step = CHUNK if self.device is CPU else CUDA_CHUNK
        chunks = [(i, start, min(size, start + step)) for i, size in sizes for start in range(0, size, step)]
        members = self.device.from_host(np.array([i for i, _ in sizes], np.int64))
        places = self.device.from_host(np.array(chunks, np.int64).reshape(-1, 3))
        return Tasks(self.device.empty((0,), dtype), members, places, sum(n for _, n in sizes))

    def refresh(self) -> None:
        """Note which parameters require a gradient now, and follow those that moved."""
        if self._moves != Parameter.moves:
            self._follow()
        active = [p.requires_grad for p in self.parameters]
        if active != self._active:
            self._active, self.rows.host[:, ACTIVE] = active, active
        self.rows.send()

    def _follow(self) -> None:
        if all(p.value is value and p.guard is g for p, (value, g) in zip(self.parameters, self._addressed, strict=True)):
            self._moves = Parameter.moves
            return
        before, after = self.device, self._common_device()  # raises before anything changes
        if before is not after:
            moved = [tuple([after.from_host(before.to_host(a)) for a in beside]) for _, _, beside in self.entries]
            self.entries = [(p, g, beside) for (p, g, _), beside in zip(self.entries, moved, strict=True)]
        self._build()

    def on_stream(self) -> AbstractContextManager[None]:
        """Within, work goes to the stream of the parameters, which is that of their model."""
        return self.device.on(self.stream)

    @property
    def stream(self) -> Any:
        """The stream of the parameters; None for that of whoever calls."""
        return self.parameters[0].stream if self.parameters else None

    def clear_gradients(self) -> None:
        """Overwrite all gradients with zeros, also of parameters that require none."""
        with self.on_stream():
            self.refresh()
            for tasks in self.tasks:
                gradient_clear.for_work(tasks.elements, self.device)(tasks.like, self.rows.array, tasks.chunks)
            for guard, _ in self.guards:
                guard.discard()

    def admit(self, loss: Array | None) -> None:
        """On a GPU, say there what a step may change: nothing where the loss is NaN, no parameter whose guard forbids it."""
        if self.device is CPU:
            return
        pass_over(self.rows.array, self._no_loss if loss is None else loss)
        for guard, members in self.guards:
            guard.admit(self.rows.array, members)

    def unlock(self) -> None:
        """Have every value that will be written forget what was packed of it."""
        for parameter, _, _ in self.entries:
            if parameter.requires_grad:
                parameter.unlock()


def _table_of(entries: list[tuple[Parameter, int, Any]]) -> ParameterTable:
    return ParameterTable((p, g, unpacked(beside)) for p, g, beside in entries)


@inner
def task_bounds(table, chunks, t):
    """Parameter of a task, its first element, and the one after its last; the tasks of one that is passed over are empty."""
    p, start, stop = chunks[t, 0], chunks[t, 1], chunks[t, 2]
    return p, start, stop if table[p, ACTIVE] > 0 else start


@cuda_kernel(grid=one_block)
def pass_over(table: Out, loss: In):
    """Have an optimiser's kernels pass over all parameters where the loss is NaN, otherwise over none but frozen ones.

    Only the device's copy of the table says so: every step begins with this, so the host need not know.
    """
    i, is_nan = np.uint32(cuda.threadIdx.x), loss[0] != loss[0]
    while i < np.uint32(table.shape[0]):
        active = abs(table[i, ACTIVE])
        table[i, ACTIVE] = -active if is_nan else active
        i = np.uint32(i + np.uint32(THREADS))


@portable
def gradient_clear(like: In, table: In, chunks: In):
    """g = 0, in every chunk; it writes through the addresses in the table, hence no argument is an Out."""
    zero = like.dtype.type(0)
    for t in prange(chunks.shape[0]):
        gradient = part_at(table[chunks[t, 0], GRADIENT], chunks[t, 1], chunks[t, 2], like)
        for i in range(gradient.size):
            gradient[i] = zero


def as_parameters(where: str, name: str, given: Any) -> list[Parameter]:
    """Parameters as a list.

    Parameters
    ----------
    where : str
        Who asks, for messages.
    name : str
        Of the argument.
    given : Parameter, or iterable of Parameter or (str, Parameter)
        What was passed; names, as `Module.named_parameters` gives them, are left out.

    Returns
    -------
    list of Parameter
        Each once.

    Raises
    ------
    ArgumentError
        If anything else is among them, or one appears twice.
    """
    if isinstance(given, Parameter):
        return [given]
    items = list(given) if isinstance(given, Iterable) else [given]
    parameters = [
        item[1] if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) else item for item in items
    ]
    for parameter in parameters:
        if not isinstance(parameter, Parameter):
            got = type(parameter).__name__
            raise ArgumentError(f"{where}: {name} must be Parameter objects (model.parameters()), got {got}")
    check_once(where, parameters)
    return parameters


def check_once(where: str, parameters: Iterable[Parameter]) -> None:
    """Raise `ArgumentError` if a parameter appears twice: two tasks would change it at the same time."""
    seen: set[int] = set()
    for parameter in parameters:
        if id(parameter) in seen:
            raise ArgumentError(f"{where}: {parameter!r} appears twice")
        seen.add(id(parameter))

"""All parameters of a model as a table of addresses, which one kernel walks in tasks of up to `CHUNK` elements."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from numba_nn.core.call import Array
from numba_nn.core.errors import ArgumentError
from numba_nn.core.kernel import inner
from numba_nn.core.parameter import Parameter

CHUNK = 16_384  # elements of a task: 64 KB of each array in float32
SIZE, GROUP, ACTIVE, VALUE, GRADIENT, STATE = range(6)
"""Columns of a table: size, group, whether it requires a gradient, then addresses; state is the last ones."""


class ParameterTable:
    """Addresses of parameters, and of the arrays that an optimiser keeps beside each.

    A copy, or what is unpickled, holds the addresses of its own parameters.

    Parameters
    ----------
    entries : iterable of tuple of Parameter, int and tuple of ndarray
        A parameter, the number of its group, and the arrays beside it.

    Attributes
    ----------
    entries : list of tuple
        What was given.
    rows : ndarray
        (P, 5 + arrays beside each) int64; see the columns above.
    tasks : list of tuple of ndarray, ndarray and int
        For every dtype: a (0,) array of it, the tasks (T, 2) as parameter and first element, and the number of elements.
    """

    def __init__(self, entries: Iterable[tuple[Parameter, int, tuple[Array, ...]]]) -> None:
        self.entries = list(entries)
        rows = []
        for p, group, beside in self.entries:
            rows.append([p.value.size, group, p.requires_grad, *(a.ctypes.data for a in (p.value, p.grad, *beside))])
        self.rows = np.array(rows, np.int64)
        self.tasks: list[tuple[Array, Array, int]] = []
        for dtype in sorted({p.value.dtype for p, _, _ in self.entries}, key=str):
            sizes = [(i, p.value.size) for i, (p, _, _) in enumerate(self.entries) if p.value.dtype == dtype]
            chunks = [(i, start) for i, size in sizes for start in range(0, size, CHUNK)]
            self.tasks.append((np.empty(0, dtype), np.array(chunks, np.int64).reshape(-1, 2), sum(n for _, n in sizes)))

    def __reduce__(self) -> tuple[Any, ...]:
        return ParameterTable, (self.entries,)

    def see_frozen(self) -> None:
        """Note which parameters require a gradient now."""
        for i, (parameter, _, _) in enumerate(self.entries):
            self.rows[i, ACTIVE] = parameter.requires_grad

    def unlock(self) -> None:
        """Have every value that will be written forget what was packed of it."""
        for parameter, _, _ in self.entries:
            if parameter.requires_grad:
                parameter.unlock()


@inner
def task_bounds(table, chunks, t):
    """Parameter of a task, its first element, and the one after its last; a frozen parameter's tasks are empty."""
    p, start = chunks[t, 0], chunks[t, 1]
    stop = min(table[p, SIZE], start + CHUNK) if table[p, ACTIVE] != 0 else start
    return p, start, stop


def as_parameters(where: str, given: Any) -> list[Parameter]:
    """Parameters as a list.

    Parameters
    ----------
    where : str
        Who asks, for messages.
    given : Parameter or iterable of Parameter
        What was passed.

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
    if not isinstance(given, Iterable):
        raise ArgumentError(f"{where}: params must be Parameter objects (model.parameters()), got {type(given).__name__}")
    parameters = list(given)
    for parameter in parameters:
        if not isinstance(parameter, Parameter):
            got = type(parameter).__name__
            raise ArgumentError(f"{where}: params must be Parameter objects (model.parameters()), got {got}")
    check_once(where, parameters)
    return parameters


def check_once(where: str, parameters: Iterable[Parameter]) -> None:
    """Raise `ArgumentError` if a parameter appears twice: two tasks would change it at the same time."""
    seen: set[int] = set()
    for parameter in parameters:
        if id(parameter) in seen:
            raise ArgumentError(f"{where}: {parameter!r} appears twice")
        seen.add(id(parameter))

"""Whole numbers that choose: rows of a table, classes. They are checked before the first write."""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_nn.core.call import Array
from numba_nn.core.errors import RangeError
from numba_nn.core.kernel import In, Out, kernel
from numba_nn.core.workspace import thread_workspace


@kernel
def find_outside(found: Out, indices: In, count: int, ignored: int):
    """found[0] = first position of an index that is neither in 0 .. count - 1 nor ``ignored``; -1 if there is none."""
    found[0] = -1
    for i in range(indices.size):
        if (indices[i] < 0 or indices[i] >= count) and indices[i] != ignored:
            found[0] = i
            break


def check_range(where: object, name: str, indices: Array, count: int, ignored: int = 0) -> None:
    """Raise `RangeError` unless every index lies in 0 .. count - 1, or is ``ignored``.

    Parameters
    ----------
    where : object
        Who asks, for the message.
    name : str
        The argument's name, for the message.
    indices : ndarray
        int64 or int32, C-contiguous.
    count : int
        Number of things to choose from.
    ignored : int, optional
        A number that is allowed too, if there is anything to choose from.
    """
    found = thread_workspace().array("found", (1,), np.int64)
    find_outside(found, indices.reshape(-1), count, ignored if count else -1)
    position = int(found[0])
    if position >= 0:
        at: Any = tuple(int(i) for i in np.unravel_index(position, indices.shape)) if indices.ndim else ()
        raise RangeError(f"{where}: {name} must lie in 0 .. {count - 1}, got {indices[at]} at {list(at)}")

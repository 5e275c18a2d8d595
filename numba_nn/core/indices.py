"""Whole numbers that choose: rows of a table, classes. They are checked before the first write."""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_nn.core.call import Array
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.cuda.reduce import WARPS, block_maximum, one_block
from numba_nn.core.device import CPU, device_of
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


@find_outside.on_cuda(grid=one_block)
def find_outside(found: Out, indices: In, count: int, ignored: int):
    """One block: every thread stops at its first, and the first of these is found."""
    room = cuda.shared.array(WARPS, np.int64)
    i, size = np.uint32(cuda.threadIdx.x), np.uint32(indices.size)
    while i < size and ((indices[i] >= 0 and indices[i] < count) or indices[i] == ignored):
        i = np.uint32(i + np.uint32(cuda.blockDim.x))
    first = -block_maximum(-np.int64(i), room)
    if cuda.threadIdx.x == 0:
        found[0] = first if first < indices.size else -1


def check_range(where: object, name: str, indices: Array, count: int, ignored: int = 0) -> None:
    """Raise `RangeError` unless every index lies in 0 .. count - 1, or is ``ignored``; on a GPU this waits for the answer.

    While a GPU's work is recorded nothing is looked at: the caller's kernels give NaN for an index out of range.

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
    device = device_of(indices)
    if device.records:
        return
    found = thread_workspace(device).array("found", (1,), np.int64)
    find_outside(found, indices.reshape(-1), count, ignored if count else -1)
    position = int(found[0] if device is CPU else device.to_host(found)[0])
    if position >= 0:
        at: Any = tuple(int(i) for i in np.unravel_index(position, indices.shape)) if indices.ndim else ()
        wrong = device.to_host(indices)[at]
        raise RangeError(f"{where}: {name} must lie in 0 .. {count - 1}, got {wrong} at {list(at)}")

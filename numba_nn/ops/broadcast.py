"""Functions of two arrays whose shapes differ: one pass, and no copy of an operand that is repeated.

Dimensions of the result that an operand runs along, or is repeated along, together become one. The last is a *row*: there an
operand's elements lie side by side, or one of them serves all. The others say where the operands' rows begin:

    (64, 3, 32, 32) + (3, 1, 1)     rows of 1024, from 64 x 3 places of the first operand and 3 of the second
"""

from __future__ import annotations

import functools

import numpy as np

from numba_nn.core.call import Array
from numba_nn.core.cuda_planes import split
from numba_nn.core.device import CPU, Device
from numba_nn.core.each import each
from numba_nn.core.kernel import inlined, inner
from numba_nn.core.ptx import cuda, device_function, flat_part
from numba_nn.core.reduce import BLOCK
from numba_nn.core.workspace import Shape


@inner
def rows_at(row, dims):
    """Where the operands' rows begin; dims: length, and steps of a and of b in elements, of all dimensions, the row last."""
    a_at, b_at = 0, 0
    for d in range(dims.shape[0] - 2, -1, -1):
        index, row = (row % dims[d, 0], row // dims[d, 0]) if d > 0 else (row, 0)
        a_at += index * dims[d, 1]
        b_at += index * dims[d, 2]
    return a_at, b_at


@inner
def row_tasks(y):
    """Number of tasks: pieces of a long row, or several short ones together."""
    rows, length = y.shape
    return -(-rows // max(1, BLOCK // length)) * -(-length // BLOCK)


@inlined
def combine_rows(function, task, y, a, b, dims):
    """y = function(a, b) over a task; y: (R, L), a, b: flat, dims: see `rows_at`.

    Inlined, or else the function's address would be handed over, which no cache on disk can hold.
    """
    rows, length = y.shape
    pieces, together, last = -(-length // BLOCK), max(1, BLOCK // length), dims.shape[0] - 1
    start, first = task % pieces * BLOCK, task // pieces * together
    stop = min(length, start + BLOCK)
    for r in range(first, min(rows, first + together)):
        a_at, b_at = rows_at(r, dims)
        if dims[last, 1] == 0:
            each(function, y[r, start:stop], (a[a_at], b[b_at + start : b_at + stop]))
        elif dims[last, 2] == 0:
            each(function, y[r, start:stop], (a[a_at + start : a_at + stop], b[b_at]))
        else:
            each(function, y[r, start:stop], (a[a_at + start : a_at + stop], b[b_at + start : b_at + stop]))


@device_function
def combine_elements(function, y, a, b, dims):
    """`combine_rows` on a GPU, element by element."""
    i, flat = np.uint32(cuda.grid(1)), flat_part(y, 0, y.size)
    while i < np.uint32(y.size):
        rest, a_at, b_at = i, np.uint32(0), np.uint32(0)
        for n in range(np.uint32(dims.shape[0])):
            d = np.uint32(dims.shape[0] - 1 - n)
            rest, index = split(rest, dims[d, 0])
            a_at = np.uint32(a_at + index * np.uint32(dims[d, 1]))
            b_at = np.uint32(b_at + index * np.uint32(dims[d, 2]))
        flat[i] = function(a[a_at], b[b_at])
        i = np.uint32(i + np.uint32(cuda.gridsize(1)))


@functools.lru_cache(maxsize=256)
def dimensions(a: Shape, b: Shape, device: Device = CPU) -> tuple[Shape, int, Array]:
    """The shape that a and b broadcast to, the length of its rows, and what `rows_at` takes; ValueError where they do not."""
    shape = np.broadcast_shapes(a, b)
    lengths = zip(shape, *((1,) * (len(shape) - len(s)) + s for s in (a, b)), strict=True)
    merged: list[list[int]] = []  # length of the result, and of a and of b, which is 1 where they are repeated
    for n, along_a, along_b in lengths:
        same = merged and (merged[-1][1] > 1) == (along_a > 1) and (merged[-1][2] > 1) == (along_b > 1)
        if same:
            merged[-1] = [p * q for p, q in zip(merged[-1], (n, along_a, along_b), strict=True)]
        elif n > 1:
            merged.append([n, along_a, along_b])
    dims: list[list[int]] = []
    steps = [1, 1]
    for n, *along in reversed(merged or [[1, 1, 1]]):
        dims.append([n, *(step if length == n else 0 for length, step in zip(along, steps, strict=True))])
        steps = [step * length for step, length in zip(steps, along, strict=True)]
    return shape, dims[0][0], device.from_host(np.array(dims[::-1], np.int64))

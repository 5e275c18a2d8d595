"""Functions of two arrays whose shapes differ: one pass, and no copy of an operand that is repeated.

Dimensions of the result that an operand runs along, or is repeated along, together become one. The last is a *row*: there an
operand's elements lie side by side, or one of them serves all. The others say where the operands' rows begin:

    (64, 3, 32, 32) + (3, 1, 1)     rows of 1024, from 64 x 3 places of the first operand and 3 of the second
"""

from __future__ import annotations

import functools
import math

import numpy as np

from numba_nn.core.call import Array
from numba_nn.core.cuda.planes import fetch_row, split
from numba_nn.core.cuda.portable import put
from numba_nn.core.cuda.ptx import WINDOW, cuda, device_function, flat_part
from numba_nn.core.cuda.twin import cuda_helper
from numba_nn.core.device import CPU, Device
from numba_nn.core.each import PIECE, each_far, is_far
from numba_nn.core.kernel import inlined, inner
from numba_nn.core.reduce import BLOCK
from numba_nn.core.workspace import Shape

u32 = np.uint32


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
    stop, far = min(length, start + BLOCK), is_far(y) and length >= PIECE
    for r in range(first, min(rows, first + together)):
        a_at, b_at = rows_at(r, dims)
        if dims[last, 1] == 0:
            each_far(function, y[r, start:stop], (a[a_at], b[b_at + start : b_at + stop]), far)
        elif dims[last, 2] == 0:
            each_far(function, y[r, start:stop], (a[a_at + start : a_at + stop], b[b_at]), far)
        else:
            each_far(function, y[r, start:stop], (a[a_at + start : a_at + stop], b[b_at + start : b_at + stop]), far)


@cuda_helper
def operands_at(i, dims):
    """Where the operands have element i of the result, and how many elements its row has from there on."""
    last = u32(dims.shape[0] - 1)
    rest, place = split(i, dims[last, 0]) if last > 0 else (u32(0), i)
    a_at, b_at = u32(place * u32(dims[last, 1])), u32(place * u32(dims[last, 2]))
    for n in range(last):
        d = u32(last - u32(1) - u32(n))
        rest, index = split(rest, dims[d, 0]) if d > 0 else (rest, rest)
        a_at = u32(a_at + u32(index * u32(dims[d, 1])))
        b_at = u32(b_at + u32(index * u32(dims[d, 2])))
    return a_at, b_at, u32(u32(dims[last, 0]) - place)


@device_function
def fetch_operand(window, x, at, step):
    """Fill a window from a flat array's element ``at`` on: with neighbours for a step of 1, with that element for 0."""
    if step == 0:
        repeated = x[at]
        for lane in range(WINDOW):
            window[lane] = repeated
    else:
        fetch_row(window, x, at, u32(WINDOW), u32(0))


@device_function
def combine_window(function, y, at, a, a_at, b, b_at, steps):
    """y = function(a, b) for four neighbours in a row of the result; all flat."""
    a_window, b_window = cuda.local.array(WINDOW, a.dtype), cuda.local.array(WINDOW, b.dtype)
    y_window = cuda.local.array(WINDOW, y.dtype)
    fetch_operand(a_window, a, a_at, steps[0])
    fetch_operand(b_window, b, b_at, steps[1])
    for lane in range(WINDOW):
        y_window[lane] = function(a_window[lane], b_window[lane])
    put(y, at, y_window, y.size)


@device_function
def combine_windows(function, y, a, b, dims):
    """`combine_rows` on a GPU: a thread has four neighbours of y at a time, and looks for the operands once in every row."""
    flat, row = flat_part(y, 0, y.size), u32(dims.shape[0] - 1)
    steps, at = (u32(dims[row, 1]), u32(dims[row, 2])), u32(u32(cuda.grid(1)) * u32(WINDOW))
    while at < u32(y.size):
        i, stop = at, min(u32(at + u32(WINDOW)), u32(y.size))
        while i < stop:
            a_at, b_at, left = operands_at(i, dims)
            count = min(left, u32(stop - i))
            if count == WINDOW:
                combine_window(function, flat, i, a, a_at, b, b_at, steps)
            else:
                for n in range(count):
                    flat[u32(i + u32(n))] = function(
                        a[u32(a_at + u32(u32(n) * steps[0]))], b[u32(b_at + u32(u32(n) * steps[1]))]
                    )
            i = u32(i + count)
        at = u32(at + u32(u32(cuda.gridsize(1)) * u32(WINDOW)))


@functools.lru_cache(maxsize=256)
def dimensions(a: Shape, b: Shape, device: Device = CPU) -> tuple[Shape, Shape | None, Array | None]:
    """The shape that a and b broadcast to, that of its rows, and what `rows_at` takes; ValueError where they do not.

    Where no element is repeated, so that flat arrays do, there are no rows.
    """
    shape = np.broadcast_shapes(a, b)
    size = math.prod(shape)
    if math.prod(a) == math.prod(b) == size:
        return shape, None, None
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
    return shape, (size // dims[0][0], dims[0][0]), device.from_host(np.array(dims[::-1], np.int64))

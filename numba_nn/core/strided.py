"""Copies into a C-contiguous array from one whose elements lie in any order: permuted, strided, backwards or repeated.

What is copied are loops: sizes and strides in x of the dimensions of y. They are brought to few first: those of size 1 go, and
neighbours that go through x as one become one. What is left is copied matrix by matrix. Where elements of the last dimension
are neighbours in x, the rows of a matrix are copied as they are. Where those of another are, a matrix spans that one and the
last, and is transposed. Otherwise rows have one element.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.cuda.planes import first_plane, next_plane, place_of_window, plane_grid, split
from numba_nn.core.cuda.portable import fetch, put
from numba_nn.core.cuda.ptx import WINDOW, cuda, flat_part
from numba_nn.core.cuda.reduce import WARP
from numba_nn.core.cuda.twin import MAX_BLOCKS, MOST_ELEMENTS, THREADS, cuda_helper
from numba_nn.core.device import CUDA
from numba_nn.core.errors import ShapeError
from numba_nn.core.kernel import In, Out, inner, kernel
from numba_nn.core.simd import transpose_lanes, vector_lanes

WORD = 8  # bytes: the largest whole number that copies move
TILE = 64  # rows and columns of a matrix that a task transposes: 2 x 16 KB of float32 fit into a 48 KB L1
RUN = 4096  # elements of a row that a task copies
PADDED = WARP + 1  # of a square in a GPU's shared memory: its columns then lie in different banks
OUTER = 8  # dimensions around the matrices, as many as kernels are compiled for
MOST_DIMENSIONS = OUTER + 2


@inner
def copy_part(y, at, x, origin, length):
    """y[at : at + length] = x[origin : origin + length]."""
    for i in range(length):
        y[np.uintp(at + i)] = x[np.uintp(origin + i)]  # unsigned: no test for negative indices, so the loop vectorises


@inner
def matrix_start(t, start, outer):
    """Where matrix t starts in y and in x.

    start: where x does; outer: size and strides in y and x of every dimension, the last one first.
    """
    to, origin = 0, start
    for d in range(0, len(outer), 3):
        if outer[d] > 1:
            index, t = t % outer[d], t // outer[d]
            to += index * outer[d + 1]
            origin += index * outer[d + 2]
    return to, origin


@kernel
def copy_rows(y: Out, x: In, start: int, outer: tuple[int, ...], size: tuple[int, int, int], strides: tuple[int, int]):
    """y[r y_stride + c] = x[r x_stride + c] in every matrix.

    start, outer: see `matrix_start`; size: matrices, rows, columns; strides: of rows, in y and x.
    """
    matrices, rows, columns = size
    row_blocks, blocks = -(-rows // TILE), -(-columns // RUN)
    for t in prange(matrices * row_blocks * blocks):
        to, origin = matrix_start(t // (row_blocks * blocks), start, outer)
        row, column = t // blocks % row_blocks * TILE, t % blocks * RUN
        run = min(RUN, columns - column)
        for r in range(row, min(rows, row + TILE)):
            copy_part(y, to + r * strides[0] + column, x, origin + r * strides[1] + column, run)


@copy_rows.on_cuda(grid=lambda y, x, start, outer, size, strides: plane_grid(size[0], size[1] * -(-size[2] // WINDOW)))
def copy_rows(y: Out, x: In, start: int, outer: tuple[int, ...], size: tuple[int, int, int], strides: tuple[int, int]):
    """A thread has a window of a row of the matrices."""
    columns, window, t = np.uint32(size[2]), cuda.local.array(WINDOW, x.dtype), first_plane()
    r, q = split(place_of_window() >> 2, (columns + 3) >> 2)
    at = np.uint32(4 * q)
    while r < np.uint32(size[1]) and t < np.uint32(size[0]):
        to, origin = matrix_start_on_cuda(t, start, outer)
        to, origin = to + r * np.uint32(strides[0]), np.uint32(origin + r * np.uint32(strides[1]))
        fetch(window, flat_part(x, origin, origin + columns), at)
        put(flat_part(y, to, to + columns), at, window, columns)
        t = next_plane(t)


@cuda_helper
def matrix_start_on_cuda(t, start, outer):
    """`matrix_start` in 32 bits: what is negative goes around."""
    to, origin = np.uint32(0), np.uint32(start)
    for d in range(OUTER):
        if outer[3 * d] > 1:
            t, index = split(t, outer[3 * d])
            to = np.uint32(to + index * np.uint32(outer[3 * d + 1]))
            origin = np.uint32(origin + index * np.uint32(outer[3 * d + 2]))
    return to, origin


@kernel
def transpose_matrices(y: Out, x: In, start: int, outer: tuple[int, ...], size: tuple[int, int, int], strides: tuple[int, int]):
    """y[r y_stride + c] = x[r + c x_stride] in every matrix.

    start, outer, size: as in `copy_rows`; strides: of rows in y, of columns in x.
    """
    matrices, rows, columns = size
    row_blocks, blocks = -(-rows // TILE), -(-columns // TILE)
    for t in prange(matrices * row_blocks * blocks):
        to, origin = matrix_start(t // (row_blocks * blocks), start, outer)
        row, column = t // blocks % row_blocks * TILE, t % blocks * TILE
        transpose_tile(
            y, to + row * strides[0] + column, strides[0], x, origin + row + column * strides[1], strides[1],
            min(TILE, rows - row), min(TILE, columns - column),
        )  # fmt: skip


def square_grid(y: Any, x: Any, start: int, outer: Any, size: tuple[int, int, int], strides: Any) -> tuple[int, int]:
    """A block for every square of every matrix, or as many as are resident."""
    matrices, rows, columns = size
    return min(MAX_BLOCKS, matrices * -(-rows // WARP) * -(-columns // WARP)), THREADS


@transpose_matrices.on_cuda(grid=square_grid)
def transpose_matrices(y: Out, x: In, start: int, outer: tuple[int, ...], size: tuple[int, int, int], strides: tuple[int, int]):
    """Squares of 32 x 32 go by way of shared memory: a thread reads a window of a column, and writes one of a row."""
    square, window = cuda.shared.array((WARP, PADDED), x.dtype), cuda.local.array(WINDOW, x.dtype)
    line, first = np.uint32(cuda.threadIdx.x >> 3), np.uint32(4 * (cuda.threadIdx.x & 7))
    rows, columns = np.uint32(size[1]), np.uint32(size[2])
    across = np.uint32((columns + 31) >> 5)
    down, t = np.uint32((rows + 31) >> 5), np.uint32(cuda.blockIdx.x)
    while t < np.uint32(size[0]) * down * across:
        matrix, rest = split(t, down * across)
        top, left = split(rest, across)
        to, origin = matrix_start_on_cuda(matrix, start, outer)
        r, c = np.uint32(32 * top + line), np.uint32(32 * left + line)
        if c < columns:
            origin = np.uint32(origin + c * np.uint32(strides[1]))
            fetch(window, flat_part(x, origin, origin + rows), np.uint32(32 * top + first))
            for lane in range(WINDOW):
                square[line, first + lane] = window[lane]
        cuda.syncthreads()
        if r < rows:
            to = to + r * np.uint32(strides[0])
            for lane in range(WINDOW):
                window[lane] = square[first + lane, line]
            put(flat_part(y, to, to + columns), np.uint32(32 * left + first), window, columns)
        cuda.syncthreads()
        t = np.uint32(t + np.uint32(cuda.gridDim.x))


@inner
def transpose_tile(y, at, y_stride, x, origin, x_stride, rows, columns):
    """y[at + r y_stride + c] = x[origin + r + c x_stride]: squares through the vector registers, and what is left."""
    lanes = vector_lanes(y)
    whole_rows, whole_columns = rows // lanes * lanes, columns // lanes * lanes
    for r in range(0, whole_rows, lanes):
        for c in range(0, whole_columns, lanes):
            transpose_lanes(y, at + r * y_stride + c, y_stride, x, origin + r + c * x_stride, x_stride, 0, lanes)
    for row in range(0, rows, lanes):
        for c in range(whole_columns, columns):
            for r in range(row, min(rows, row + lanes)):
                y[np.uintp(at + r * y_stride + c)] = x[np.uintp(origin + r + c * x_stride)]
    for r in range(whole_rows, rows):
        for c in range(whole_columns):
            y[np.uintp(at + r * y_stride + c)] = x[np.uintp(origin + r + c * x_stride)]


def in_order(dimensions: list[tuple[int, int]], start: int = 0) -> tuple[Any, ...]:
    """The kernel that copies the elements of x in the order of y, and its arguments after y and x.

    Parameters
    ----------
    dimensions : list of tuple of int
        Of y: sizes, and strides in x.
    start : int, optional
        Where x starts.

    Returns
    -------
    tuple
        The kernel, ``start``, ``outer``, ``size`` and ``strides``.

    Raises
    ------
    ShapeError
        If more dimensions are left than kernels are compiled for.
    """
    kept = [(size, step) for size, step in dimensions if size != 1]
    if 0 in (size for size, _ in kept):
        kept = [(0, 1)]
    merged = [(1, 1), *kept[:1]][-1:]
    for size, step in kept[1:]:
        if merged[-1][1] == size * step:
            merged[-1] = (merged[-1][0] * size, step)
        else:
            merged.append((size, step))
    if all(step != 1 for _, step in merged):
        merged.append((1, 1))
    if len(merged) > MOST_DIMENSIONS:
        raise ShapeError(f"a copy goes through {MOST_DIMENSIONS} dimensions at most, got sizes and strides {merged}")
    run, *arguments = matrices_of([(n, math.prod(n for n, _ in merged[k + 1 :]), step) for k, (n, step) in enumerate(merged)])
    return run, start, *arguments


def matrices_of(loops: list[tuple[int, int, int]]) -> tuple[Any, ...]:
    """`in_order` of sizes and strides in y and x; one of those in x is 1."""
    columns, y_stride, step = loops.pop()
    if step == 1:
        rows, y_stride, x_stride = loops.pop() if loops else (1, 0, 0)
        run = copy_rows
    else:
        rows, y_stride, _ = loops.pop(next(k for k, loop in enumerate(loops) if loop[2] == 1))
        run, x_stride = transpose_matrices, step
    outer = [*loops[::-1], *[(1, 0, 0)] * (OUTER - len(loops))]
    matrices = math.prod(size for size, _, _ in loops)
    return run, tuple(n for loop in outer for n in loop), (matrices, rows, columns), (y_stride, x_stride)


# ---- device arrays --------------------------------------------------------------------------------------------------------


class Words:
    """The memory that a device array reaches over, as whole numbers of so many bytes, for ``numba.cuda`` to take."""

    def __init__(self, array: Any, nbytes: int) -> None:
        self.array = array  # which owns the memory
        start, stop = CUDA.extent(array)
        self.__cuda_array_interface__ = {
            "shape": ((stop - start) // nbytes,),
            "strides": None,
            "typestr": f"<u{nbytes}",
            "data": (start, False),
            "version": 3,
        }


def copy_strided(to: Any, source: Any) -> None:
    """Overwrite a C-contiguous device array with another, of the same shape or repeated along dimensions, bit by bit."""
    if to.size == 0:
        return
    first, itemsize = CUDA.address(source), to.dtype.itemsize
    word = math.gcd(WORD, itemsize, CUDA.address(to), first, *source.strides)
    start, stop = CUDA.extent(source)
    if stop - start > MOST_ELEMENTS * word:
        raise ShapeError(
            f"a strided device array may reach over {MOST_ELEMENTS * word:,} bytes to be copied, got {stop - start:,}"
        )
    steps = [0 if n == 1 else step // word for n, step in zip(source.shape, source.strides, strict=True)]
    steps = [0] * (len(to.shape) - len(steps)) + steps
    loops = [*zip(to.shape, steps, strict=True), (itemsize // word, 1)]
    run, *arguments = in_order(loops, (first - start) // word)
    y, x = (cuda.as_cuda_array(Words(array, word)) for array in (to, source))
    run.cuda(y, x, *arguments)

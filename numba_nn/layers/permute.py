"""Layers that put dimensions in another order.

    y[i_{d_0}, i_{d_1}, ...] = x[i_0, i_1, ...]

Dimension k of y is dimension d_k of x. The backward is the inverse order. Kernels take flat arrays.

An order is brought to few dimensions first: those of size 1 go, and neighbours that stay neighbours become one. What is left
is copied matrix by matrix. Where the last dimension stays the last, the rows of a matrix are copied as they are. Otherwise a
matrix spans the dimension that was the last and the one that becomes the last, and is transposed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.cuda_planes import first_plane, next_plane, place_of_window, plane_grid, split
from numba_nn.core.cuda_reduce import WARP
from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.core.kernel import In, Out, inner, kernel
from numba_nn.core.layer import Layer
from numba_nn.core.portable import fetch, put
from numba_nn.core.ptx import WINDOW, cuda, flat_part
from numba_nn.core.simd import transpose_lanes, vector_lanes
from numba_nn.core.twin import MAX_BLOCKS, THREADS, cuda_helper
from numba_nn.core.workspace import Shape
from numba_nn.layers.shape import check_dim, copy_part, dimension, unpacked

TILE = 64  # rows and columns of a matrix that a task transposes: 2 x 16 KB of float32 fit into a 48 KB L1
RUN = 4096  # elements of a row that a task copies
PADDED = WARP + 1  # of a square in a GPU's shared memory: its columns then lie in different banks
OUTER = 8  # dimensions around the matrices, as many as kernels are compiled for


@inner
def matrix_start(t, outer):
    """Where matrix t starts in y and in x; outer: size and strides in y and x of every dimension, the last one first."""
    to, origin = 0, 0
    for d in range(0, len(outer), 3):
        if outer[d] > 1:
            index, t = t % outer[d], t // outer[d]
            to += index * outer[d + 1]
            origin += index * outer[d + 2]
    return to, origin


@kernel
def copy_rows(y: Out, x: In, outer: tuple[int, ...], size: tuple[int, int, int], strides: tuple[int, int]):
    """y[r y_stride + c] = x[r x_stride + c] in every matrix.

    outer: see `matrix_start`; size: matrices, rows, columns; strides: of rows, in y and x.
    """
    matrices, rows, columns = size
    row_blocks, blocks = -(-rows // TILE), -(-columns // RUN)
    for t in prange(matrices * row_blocks * blocks):
        to, origin = matrix_start(t // (row_blocks * blocks), outer)
        row, column = t // blocks % row_blocks * TILE, t % blocks * RUN
        run = min(RUN, columns - column)
        for r in range(row, min(rows, row + TILE)):
            copy_part(y, to + r * strides[0] + column, x, origin + r * strides[1] + column, run)


@copy_rows.on_cuda(grid=lambda y, x, outer, size, strides: plane_grid(size[0], size[1] * -(-size[2] // WINDOW)))
def copy_rows(y: Out, x: In, outer: tuple[int, ...], size: tuple[int, int, int], strides: tuple[int, int]):
    """A thread has a window of a row of the matrices."""
    columns, window, t = np.uint32(size[2]), cuda.local.array(WINDOW, x.dtype), first_plane()
    r, q = split(place_of_window() >> 2, (columns + 3) >> 2)
    at = np.uint32(4 * q)
    while r < np.uint32(size[1]) and t < np.uint32(size[0]):
        to, origin = matrix_start_on_cuda(t, outer)
        to, origin = to + r * np.uint32(strides[0]), origin + r * np.uint32(strides[1])
        fetch(window, flat_part(x, origin, origin + columns), at)
        put(flat_part(y, to, to + columns), at, window, columns)
        t = next_plane(t)


@cuda_helper
def matrix_start_on_cuda(t, outer):
    """`matrix_start` in 32 bits."""
    to, origin = np.uint32(0), np.uint32(0)
    for d in range(OUTER):
        if outer[3 * d] > 1:
            t, index = split(t, outer[3 * d])
            to = np.uint32(to + index * np.uint32(outer[3 * d + 1]))
            origin = np.uint32(origin + index * np.uint32(outer[3 * d + 2]))
    return to, origin


@kernel
def transpose_matrices(y: Out, x: In, outer: tuple[int, ...], size: tuple[int, int, int], strides: tuple[int, int]):
    """y[r y_stride + c] = x[r + c x_stride] in every matrix.

    outer, size: as in `copy_rows`; strides: of rows in y, of columns in x.
    """
    matrices, rows, columns = size
    row_blocks, blocks = -(-rows // TILE), -(-columns // TILE)
    for t in prange(matrices * row_blocks * blocks):
        to, origin = matrix_start(t // (row_blocks * blocks), outer)
        row, column = t // blocks % row_blocks * TILE, t % blocks * TILE
        transpose_tile(
            y, to + row * strides[0] + column, strides[0], x, origin + row + column * strides[1], strides[1],
            min(TILE, rows - row), min(TILE, columns - column),
        )  # fmt: skip


def square_grid(y: Any, x: Any, outer: Any, size: tuple[int, int, int], strides: Any) -> tuple[int, int]:
    """A block for every square of every matrix, or as many as are resident."""
    matrices, rows, columns = size
    return min(MAX_BLOCKS, matrices * -(-rows // WARP) * -(-columns // WARP)), THREADS


@transpose_matrices.on_cuda(grid=square_grid)
def transpose_matrices(y: Out, x: In, outer: tuple[int, ...], size: tuple[int, int, int], strides: tuple[int, int]):
    """Squares of 32 x 32 go by way of shared memory: a thread reads a window of a column, and writes one of a row."""
    square, window = cuda.shared.array((WARP, PADDED), x.dtype), cuda.local.array(WINDOW, x.dtype)
    line, first = np.uint32(cuda.threadIdx.x >> 3), np.uint32(4 * (cuda.threadIdx.x & 7))
    rows, columns = np.uint32(size[1]), np.uint32(size[2])
    across = np.uint32((columns + 31) >> 5)
    down, t = np.uint32((rows + 31) >> 5), np.uint32(cuda.blockIdx.x)
    while t < np.uint32(size[0]) * down * across:
        matrix, rest = split(t, down * across)
        top, left = split(rest, across)
        to, origin = matrix_start_on_cuda(matrix, outer)
        r, c = np.uint32(32 * top + line), np.uint32(32 * left + line)
        if c < columns:
            origin = origin + c * np.uint32(strides[1])
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


def permutation(x_shape: Shape, dims: tuple[int, ...]) -> tuple[Any, ...]:
    """The kernel that makes dimension ``dims[k]`` of x the k-th, and its arguments after y and x."""
    kept = [(x_shape[d], math.prod(x_shape[d + 1 :])) for d in dims if x_shape[d] != 1]  # size, stride in x
    if 0 in x_shape:
        kept = [(0, 1)]
    merged = [(1, 1), *kept[:1]][-1:]
    for size, step in kept[1:]:
        if merged[-1][1] == size * step:
            merged[-1] = (merged[-1][0] * size, step)
        else:
            merged.append((size, step))
    loops = [(size, math.prod(n for n, _ in merged[k + 1 :]), step) for k, (size, step) in enumerate(merged)]
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


class Reordering(Layer):
    """Base of the layers that put dimensions in another order."""

    def _dims(self, x_shape: Shape) -> tuple[int, ...]:
        """Which dimension of x becomes the first, the second, ...; raises `ShapeError` if x has not the dimensions for it."""
        raise NotImplementedError

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output.

        Raises
        ------
        ShapeError
            If the input has not the dimensions that are to be moved, or more than ten.
        """
        if len(x_shape) > OUTER + 2:
            raise ShapeError(f"{self!r}: x may have {OUTER + 2} dimensions at most, got {x_shape}")
        return tuple(x_shape[d] for d in self._dims(x_shape))

    def _geometry(self, x_shape: Shape, dtype: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Kernel and arguments of the forward and of the backward."""
        dims = self._dims(x_shape)
        inverse = tuple(dims.index(d) for d in range(len(dims)))
        return permutation(x_shape, dims), permutation(self.output_shape(x_shape), inverse)

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        run, *arguments = call.geometry[0]
        run(y.reshape(-1), x.reshape(-1), *arguments)

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if dx is not None:
            run, *arguments = call.geometry[1]
            run(dx.reshape(-1), dy.reshape(-1), *arguments)


class Permute(Reordering):
    """Put the dimensions in another order.

    Parameters
    ----------
    *dims : int, or one tuple of int
        Every dimension of the input once, in the order of the output; negative ones count from the end.

    Raises
    ------
    ArgumentError
        If ``dims`` is not such an order.
    """

    def __init__(self, *dims: Any) -> None:
        super().__init__()
        self.dims = tuple(check_dim("Permute", "dims", d) for d in unpacked(dims))
        rank = len(self.dims)
        if sorted(d + rank if d < 0 else d for d in self.dims) != list(range(rank)):
            raise ArgumentError(f"Permute: dims must name each of {rank} dimensions once, got {self.dims}")

    def _dims(self, x_shape: Shape) -> tuple[int, ...]:
        if len(x_shape) != len(self.dims):
            raise ShapeError(f"{self!r}: x must have {len(self.dims)} dimensions, got shape {x_shape}")
        return tuple(d % len(x_shape) for d in self.dims)

    def _arguments(self) -> str:
        return ", ".join(map(str, self.dims))


class Transpose(Reordering):
    """Exchange two dimensions.

    Parameters
    ----------
    dim0, dim1 : int
        Which; negative ones count from the end.

    Raises
    ------
    ArgumentError
        If an argument is no int.
    """

    def __init__(self, dim0: int, dim1: int) -> None:
        super().__init__()
        self.dim0 = check_dim("Transpose", "dim0", dim0)
        self.dim1 = check_dim("Transpose", "dim1", dim1)

    def _dims(self, x_shape: Shape) -> tuple[int, ...]:
        first, second = dimension(self, self.dim0, x_shape), dimension(self, self.dim1, x_shape)
        dims = list(range(len(x_shape)))
        dims[first], dims[second] = second, first
        return tuple(dims)

    def _arguments(self) -> str:
        return f"dim0={self.dim0}, dim1={self.dim1}"

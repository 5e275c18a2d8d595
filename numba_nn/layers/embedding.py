"""Rows of a table, chosen by index.

    y[b] = weight[x[b]]        dweight[x[b]] += dy[b]

B indices (all dimensions of x), V rows of the table, D numbers in each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.checks import check_count, check_dtype, is_whole
from numba_nn.core.cuda.planes import first_plane, next_plane, over_rows, place_of_window
from numba_nn.core.cuda.portable import fetch, put
from numba_nn.core.cuda.ptx import WINDOW, cuda
from numba_nn.core.cuda.reduce import ALL_LANES, WARP
from numba_nn.core.cuda.twin import THREADS, cuda_helper
from numba_nn.core.errors import ArgumentError
from numba_nn.core.indices import check_range
from numba_nn.core.kernel import In, Out, kernel
from numba_nn.core.layer import Layer
from numba_nn.core.parameter import Parameter
from numba_nn.core.random import normal
from numba_nn.core.workspace import Shape

COLUMNS = 64  # of the table, that a task adds to: four cache lines of float32 in a row


@kernel
def take_rows(y: Out, table: In, indices: In):
    """y[b] = table[indices[b]]; y: (B, D), table: (V, D), indices: (B,)."""
    for b in prange(indices.size):
        row = indices[b]
        for d in range(table.shape[1]):
            y[b, d] = table[row, d]


@take_rows.on_cuda(grid=over_rows)
def take_rows(y: Out, table: In, indices: In):
    """A thread has a window of columns.

    Where an index is no row it is NaN, as nobody looks while a step is recorded and repeated.
    """
    at, window, b = place_of_window(), cuda.local.array(WINDOW, table.dtype), first_plane()
    while at < np.uint32(y.shape[1]) and b < np.uint32(indices.size):
        if is_row(table, indices[b]):
            fetch(window, table[np.uint32(indices[b])], at)
        else:
            window[0] = window[1] = window[2] = window[3] = y.dtype.type(np.nan)
        put(y[b], at, window, y.shape[1])
        b = next_plane(b)


@kernel
def add_rows(table: Out, indices: In, rows: In, skipped: int):
    """table[indices[b]] += rows[b], in the order of b, but where indices[b] is ``skipped``.

    Rows may meet in one of the table's, so tasks share out columns.
    """
    for task in prange(-(-table.shape[1] // COLUMNS)):
        first, last = task * COLUMNS, min(table.shape[1], (task + 1) * COLUMNS)
        for b in range(indices.size):
            row = indices[b]
            if row != skipped:
                target, source = table[row, first:last], rows[b, first:last]
                for d in range(target.size):
                    target[d] += source[d]


def warp_per_index(table: Any, indices: Any, *_: Any) -> tuple[int, tuple[int, int]]:
    """A warp for each index, and several in a block."""
    warps = THREADS // WARP
    return -(-indices.size // warps), (WARP, warps)


@add_rows.on_cuda(grid=warp_per_index)
def add_rows(table: Out, indices: In, rows: In, skipped: int):
    """A warp for every b: the first b that chooses a row adds all that choose it, in their order.

    An index that is no row is skipped.
    """
    b, size = np.uint32(cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y), np.uint32(indices.size)
    total, window = cuda.local.array(WINDOW, table.dtype), cuda.local.array(WINDOW, rows.dtype)
    if b >= size or indices[b] == skipped or not is_row(table, indices[b]):
        return
    row, start = indices[b], np.uint32(0)
    while start < b:
        if lanes_that_choose(row, indices, start, b) != 0:
            return
        start = np.uint32(start + np.uint32(WARP))
    start = b
    while start < size:
        chosen = lanes_that_choose(row, indices, start, size)
        d = np.uint32(np.uint32(WINDOW) * np.uint32(cuda.threadIdx.x))
        while chosen != 0 and d < np.uint32(table.shape[1]):
            fetch(total, table[np.uint32(row)], d)
            for i in range(np.int32(WARP)):
                if chosen >> np.uint32(i) & np.uint32(1):
                    fetch(window, rows[start + np.uint32(i)], d)
                    for lane in range(WINDOW):
                        total[lane] += window[lane]
            put(table[np.uint32(row)], d, total, table.shape[1])
            d = np.uint32(d + np.uint32(WINDOW * WARP))
        start = np.uint32(start + np.uint32(WARP))


@cuda_helper
def is_row(table, index):
    """Whether an index is one of the table's rows."""
    return index >= 0 and index < table.shape[0]


@cuda_helper
def lanes_that_choose(row, indices, start, stop):
    """A bit for each of 32 positions from the start: whether it lies before stop and its index is the row."""
    b = np.uint32(start + np.uint32(cuda.threadIdx.x))
    return np.uint32(cuda.ballot_sync(ALL_LANES, b < stop and indices[b] == row))


class Embedding(Layer):
    """Table of vectors: every index of the input becomes a row of the table.

    Parameters
    ----------
    num_embeddings : int
        Rows of the table.
    embedding_dim : int
        Numbers in a row.
    padding_idx : int, optional
        A row that starts as zeros and gets no gradient; a negative one counts from the end.
    dtype : dtype, optional
        float32 or float64.

    Attributes
    ----------
    weight : Parameter
        (num_embeddings, embedding_dim), normal numbers of mean 0 and variance 1.

    Raises
    ------
    ArgumentError
        If a number is less than 1, or ``padding_idx`` no row.

    Notes
    -----
    The input holds int64 or int32 numbers, in any shape; an index outside of the table raises `RangeError` before anything is
    written. There is no gradient with respect to it: ``backward`` returns None.

    On a GPU this check waits for the device. In a `TrainStep` that is repeated as a CUDA graph it cannot be made: there such an
    index gives a row of NaN, so that the loss is NaN, and adds no gradient to the table.
    """

    keeps_input = True
    takes_indices = True

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, *, dtype: Any = np.float32
    ) -> None:
        super().__init__()
        self.num_embeddings = check_count("Embedding", "num_embeddings", num_embeddings)
        self.embedding_dim = check_count("Embedding", "embedding_dim", embedding_dim)
        self.dtype = check_dtype("Embedding", dtype)
        if padding_idx is not None and not (is_whole(padding_idx) and -num_embeddings <= padding_idx < num_embeddings):
            rows = f"-{num_embeddings} .. {num_embeddings - 1}"
            raise ArgumentError(f"Embedding: padding_idx must be an int in {rows}, got {padding_idx!r}")
        self.padding_idx = None if padding_idx is None else int(padding_idx) % self.num_embeddings
        self.weight = Parameter(normal((num_embeddings, embedding_dim), 1.0, self.dtype), "weight")
        if self.padding_idx is not None:
            self.weight.value[self.padding_idx] = 0

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output: the input's, and ``embedding_dim`` last."""
        return (*x_shape, self.embedding_dim)

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        check_range(self, "x", x, self.num_embeddings)
        run = take_rows.for_work(y.size, self.device)
        run(y.reshape(x.size, self.embedding_dim), self.weight.memory, x.reshape(-1))

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if self.weight.requires_grad:
            skipped = -1 if self.padding_idx is None else self.padding_idx
            rows = dy.reshape(x.size, self.embedding_dim)
            add_rows.for_work(dy.size, self.device)(self.weight.grad, x.reshape(-1), rows, skipped)

    def _arguments(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"

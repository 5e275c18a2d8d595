"""The main loop of matrix products on a GPU, for whatever brings tiles of the operands: matrices here, images elsewhere.

Each block of threads computes a tile of C. While it multiplies one pair of tiles, the next pair is copied to the other half of
its shared memory. What lies beyond a matrix's edge is zero. Sums run over the depth in order, whatever the grid: results are
the same every time. A product may be cut along its depth into slices, each with partial sums of its own.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from numba_nn.core.cuda.loaders import LoaderOf, TileLoader
from numba_nn.core.cuda.planes import split
from numba_nn.core.cuda.ptx import VECTOR_BYTES, commit_copies, cuda, device_function, wait_copies
from numba_nn.core.cuda.tiles import TILE_THREADS, Kind, as_it_is, u32
from numba_nn.core.cuda.twin import CudaKernel
from numba_nn.core.epilogue import IDENTITY, LEAKY_RELU, RELU, RELU6, SIGMOID, TANH, leaky_relu, relu, relu6
from numba_nn.core.parts import Helper
from numba_nn.core.roles import In, Out
from numba_nn.core.vmath import sigmoid, tanh

STAGES = 2  # pairs of tiles in shared memory: three of the largest would pass 48 KB
MANY_SUMS = 64  # of a thread: the compiler is told to make do with 128 registers, so that two blocks are resident, not one
STORED_AT_ONCE = 16  # sums of one loop: registers cannot be indexed at run time, and LLVM would not unroll a longer one
OVERWRITE, ADD = -2, -1
"""What is done with finished sums: C = sums, C += sums; an activation's code stands for activation(scale sums + shift)."""


class Shape(NamedTuple):
    """Of C, which has ``products`` matrices, and how sums are cut along the depth: ``slices`` of ``span``, but the last."""

    rows: int
    columns: int
    depth: int
    products: int
    slices: int
    span: int


# ---- what is done with finished sums --------------------------------------------------------------------------------------


@device_function
def in_rows(row, column, product, view):
    """Where an element of C lies, and its feature: matrices one after the other, in rows; features are columns."""
    return (product * u32(view[0]) + row) * u32(view[1]) + column, column


@device_function
def in_strided_rows(row, column, product, view):
    """`in_rows` where matrices and rows lie apart: view is the distance of either."""
    return product * u32(view[0]) + row * u32(view[1]) + column, column


def without_slope(function: Any) -> Helper:
    """An activation that takes a slope as others do."""

    @device_function
    def activation(x, slope):
        return function(x)

    return activation


ACTIVATIONS = {
    IDENTITY: without_slope(as_it_is),
    RELU: without_slope(relu),
    LEAKY_RELU: leaky_relu,
    RELU6: without_slope(relu6),
    SIGMOID: without_slope(sigmoid),
    TANH: without_slope(tanh),
}


def finisher(kind: Kind, code: int, narrow: bool) -> Helper:
    """``finish(c, at, total, scale, shift, feature, slope)``: store a sum; narrow: as one of the kind's own numbers."""
    activation: Any = ACTIVATIONS.get(code)
    read, write = (kind.read, kind.write) if narrow else (as_it_is, as_it_is)

    @device_function
    def overwrite(c, at, total, scale, shift, feature, slope):
        c[at] = write(total)

    @device_function
    def add(c, at, total, scale, shift, feature, slope):
        c[at] = write(total + read(c[at]))

    @device_function
    def activate(c, at, total, scale, shift, feature, slope):
        c[at] = write(activation(scale[feature] * total + shift[feature], slope))

    return {OVERWRITE: overwrite, ADD: add}.get(code, activate)


def store_sums(count: int, row_of: Helper, column_of: Helper, place: Helper, finish: Helper) -> Helper:
    """``store(c, sums, scale, shift, shape, top, left, z, view, slope, t)``: finish a thread's sums, if inside of C."""

    def some_and(first: int, others: Any) -> Helper:
        @device_function
        def store(c, sums, scale, shift, shape, top, left, z, view, slope, t):
            for n in range(first, first + STORED_AT_ONCE):
                row, column = u32(top + row_of(t, n)), u32(left + column_of(t, n))
                if row < u32(shape[0]) and column < u32(shape[1]):
                    at, feature = place(row, column, z, view)
                    finish(c, u32(at), sums[n], scale, shift, u32(feature), slope)
            others(c, sums, scale, shift, shape, top, left, z, view, slope, t)

        return store

    @device_function
    def nothing(c, sums, scale, shift, shape, top, left, z, view, slope, t):
        pass

    return functools.reduce(lambda others, first: some_and(first, others), range(0, count, STORED_AT_ONCE)[::-1], nothing)


# ---- the kernel -----------------------------------------------------------------------------------------------------------


def main_loop(kind: Kind, loader_a: TileLoader, loader_b: TileLoader, accumulate: Helper) -> Helper:
    """``multiply(sums, a, b, a_view, b_view, matrix_a, matrix_b, top, left, k, end, t)``: add the products from k to end.

    One pair of tiles is copied while the one before it is multiplied.
    """
    (layout_a, load_a), (layout_b, load_b), dtype, step = loader_a, loader_b, kind.dtype, kind.depth
    size_a, size_b, room_a, room_b = layout_a.size, layout_b.size, STAGES * layout_a.size, STAGES * layout_b.size

    @device_function
    def multiply(sums, a, b, a_view, b_view, matrix_a, matrix_b, top, left, k, end, t):
        tiles_a = cuda.shared.array(room_a, dtype, VECTOR_BYTES)
        tiles_b = cuda.shared.array(room_b, dtype, VECTOR_BYTES)
        stage, loaded = u32(0), 0
        while k < end or loaded == 1:
            wait_copies(0)
            cuda.syncthreads()
            before, more = u32(1) - stage, 1 if k < end else 0
            if more == 1:
                load_a(tiles_a, u32(stage * u32(size_a)), a, a_view, matrix_a, top, k, end, t)
                load_b(tiles_b, u32(stage * u32(size_b)), b, b_view, matrix_b, left, k, end, t)
                commit_copies()
            if loaded == 1:
                accumulate(sums, tiles_a, u32(before * u32(size_a)), tiles_b, u32(before * u32(size_b)), t)
            k, stage, loaded = u32(k + u32(step)), u32(before), more

    return multiply


@functools.cache
def tiled_product(
    kind: Kind, tile: tuple[int, int], loaders: tuple[LoaderOf, LoaderOf], place: Helper, finish: int, narrow: bool
) -> CudaKernel:
    """The kernel of a kind of product, made once.

    Parameters
    ----------
    kind : Kind
        Of numbers.
    tile : tuple of int
        Rows and columns of C that a block computes.
    loaders : tuple of callable
        Of the operands: from kind and rows of a tile to its `TileLoader`.
    place : Helper
        Where an element of C lies, and its feature; see `in_rows`.
    finish : int
        `OVERWRITE`, `ADD`, or an activation's code.
    narrow : bool
        Whether C holds the kind's own numbers; otherwise it holds sums.

    Returns
    -------
    CudaKernel
        Of c, a, b, flat; a_of, b_of, which matrix a product takes; scale, shift; `Shape`; the views of a, b and c; slope.
    """
    rows, columns = tile
    loader_a, loader_b = loaders[0](kind, rows), loaders[1](kind, columns)
    count, accumulate, row_of, column_of = kind.sums(kind, rows, columns, loader_a.layout, loader_b.layout)
    multiply, sum_dtype = main_loop(kind, loader_a, loader_b, accumulate), kind.sum_dtype
    store = store_sums(count, row_of, column_of, place, finisher(kind, finish, narrow))

    def product(
        c: Out, a: In, b: In, a_of: In, b_of: In, scale: In, shift: In,
        shape: tuple[int, ...], a_view: tuple[int, ...], b_view: tuple[int, ...], c_view: tuple[int, ...], slope: float,
    ):  # fmt: skip
        down, across, depth, _, slices, span = shape
        wide, high = u32((u32(across) + u32(columns - 1)) // u32(columns)), u32((u32(down) + u32(rows - 1)) // u32(rows))
        z, rest = split(cuda.blockIdx.x, u32(wide * high))
        i, j = split(rest, wide)
        t, top, left = u32(cuda.threadIdx.x), i * u32(rows), j * u32(columns)  # as u32, 24 bytes of a convolution's sums spill
        which, part = z // u32(slices), z % u32(slices)
        k, end = u32(part * u32(span)), min(u32(depth), u32((part + u32(1)) * u32(span)))
        sums = cuda.local.array(count, sum_dtype)
        for n in range(count):
            sums[n] = sum_dtype(0)
        multiply(sums, a, b, a_view, b_view, u32(a_of[which]), u32(b_of[which]), top, left, k, end, t)
        store(c, sums, scale, shift, shape, top, left, z, c_view, slope, t)

    product.__name__ = product.__qualname__ = f"product_{kind.name}_{rows}x{columns}"
    launch_bounds = (TILE_THREADS, 2) if count >= MANY_SUMS else None
    return CudaKernel(product, functools.partial(grid_of, rows, columns), launch_bounds)


def grid_of(rows: int, columns: int, *arguments: Any) -> tuple[int, int]:
    """A block for each tile of C, and each slice of each product, all in one dimension: others hold 65,535 at most."""
    shape = Shape(*arguments[7])
    return -(-shape.columns // columns) * -(-shape.rows // rows) * shape.products * shape.slices, TILE_THREADS

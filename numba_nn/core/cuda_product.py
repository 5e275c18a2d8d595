"""The main loop of matrix products on a GPU, for whatever brings tiles of the operands: matrices here, images elsewhere.

Each block of threads computes a tile of C. While it multiplies one pair of tiles, the next pair is copied to the other half of
its shared memory. What lies beyond a matrix's edge is zero. Sums run over the depth in order, whatever the grid: results are
the same every time. A product may be cut along its depth into slices, each with partial sums of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from numba_nn.core.cuda_tiles import THREADS, Kind, Layout, as_it_is, depths_in_order, rows_in_order, u32
from numba_nn.core.epilogue import IDENTITY, LEAKY_RELU, RELU, RELU6, SIGMOID, TANH, leaky_relu, relu, relu6
from numba_nn.core.parts import Helper
from numba_nn.core.ptx import VECTOR_BYTES, commit_copies, copy16, cuda, device_function, wait_copies
from numba_nn.core.roles import In, Out
from numba_nn.core.twin import CudaKernel
from numba_nn.core.vmath import sigmoid, tanh

STAGES = 2  # pairs of tiles in shared memory: three of the largest would pass 48 KB
AT_ONCE = 4  # elements that a thread copies in a row: a loop over all would be unrolled, and take 90 registers more
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


class Loader(NamedTuple):
    """How tiles of an operand come into shared memory.

    Attributes
    ----------
    layout : Layout
        How they lie there.
    load : Helper
        ``load(tile, at, source, view, product, first, k, end, t)``: thread t's part in copying a tile: rows from ``first``
        on and depths from ``k`` to ``end``; ``view`` are the operand's numbers, ``product`` says which matrix of several.
    """

    layout: Layout
    load: Helper


# ---- loaders of matrices, whose view is (rows, depth, row stride, depth stride) -------------------------------------------


def vectors_along_depth(kind: Kind, rows: int) -> Loader:
    """16 bytes of a row at a time: its elements lie side by side, and rows and matrices a multiple of 16 bytes apart."""
    lanes, across, layout = kind.lanes, kind.depth // kind.lanes, rows_in_order(rows, kind.depth, VECTOR_BYTES // kind.lanes)

    @device_function
    def load(tile, at, source, view, product, first, k, end, t):
        for i in range(rows * across // THREADS):
            e = t + u32(i * THREADS)
            row, depth = e // u32(across), e % u32(across) * u32(lanes)
            count = u32(0)
            if first + row < u32(view[0]) and k + depth < end:
                count = min(u32(lanes), u32(end - k - depth))
            where = u32(product) * u32(view[0] * view[1]) + (first + row) * u32(view[2]) + k + depth
            copy16(tile, at + row * u32(layout.row_step) + depth, source, u32(where), count)

    return Loader(layout, load)


def vectors_along_rows(kind: Kind, rows: int) -> Loader:
    """16 bytes of a depth at a time: its elements lie side by side, and depths and matrices a multiple of 16 bytes apart."""
    lanes, across, layout = kind.lanes, rows // kind.lanes, depths_in_order(rows, kind.depth)
    depths = kind.depth

    @device_function
    def load(tile, at, source, view, product, first, k, end, t):
        for i in range(depths * across // THREADS):
            e = t + u32(i * THREADS)
            depth, row = e // u32(across), e % u32(across) * u32(lanes)
            count = u32(0)
            if first + row < u32(view[0]) and k + depth < end:
                count = min(u32(lanes), u32(u32(view[0]) - first - row))
            where = u32(product) * u32(view[0] * view[1]) + (k + depth) * u32(view[3]) + first + row
            copy16(tile, at + depth * u32(layout.depth_step) + row, source, u32(where), count)

    return Loader(layout, load)


def elements(kind: Kind, rows: int, along_depth: bool) -> Loader:
    """One element at a time, wherever it lies; neighbouring threads read along the depth, or along the rows."""
    depths, copy = kind.depth, kind.copy
    layout = rows_in_order(rows, depths, VECTOR_BYTES // kind.lanes)
    if kind.plain or not along_depth:
        layout = depths_in_order(rows, depths)

    total = rows * depths
    at_once = min(AT_ONCE, total // THREADS)

    @device_function
    def load(tile, at, source, view, product, first, k, end, t):
        e = t
        while e < u32(total):
            for _ in range(at_once):
                row, depth = e // u32(depths), e % u32(depths)
                if not along_depth:
                    row, depth = e % u32(rows), e // u32(rows)
                count = 1 if first + row < u32(view[0]) and k + depth < end else 0
                where = u32(product) * u32(view[0] * view[1]) + (first + row) * u32(view[2]) + (k + depth) * u32(view[3])
                copy(tile, u32(at + row * u32(layout.row_step) + depth * u32(layout.depth_step)), source, u32(where), count)
                e = u32(e + u32(THREADS))

    return Loader(layout, load)


elements_along_depth = functools.partial(elements, along_depth=True)
elements_along_rows = functools.partial(elements, along_depth=False)

LoaderOf = Callable[[Kind, int], Loader]


# ---- what is done with finished sums --------------------------------------------------------------------------------------


@device_function
def in_rows(row, column, product, view):
    """Where an element of C lies, and its feature: matrices one after the other, in rows; features are columns."""
    return (product * u32(view[0]) + row) * u32(view[1]) + column, column


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


def finisher(code: int, read: Any, write: Any) -> Helper:
    """``finish(c, at, total, scale, shift, feature, slope)``: store a sum."""
    activation: Any = ACTIVATIONS.get(code)

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


def each_sum(count: int, row_of: Helper, column_of: Helper, place: Helper, finish: Helper) -> Helper:
    """Stores a thread's sums, 16 to a loop: registers cannot be indexed at run time, and LLVM would not unroll a longer one."""

    @device_function
    def some(c, sums, scale, shift, shape, top, left, z, view, slope, t, first):
        for n in range(first, first + 16):
            row, column = u32(top + row_of(t, n)), u32(left + column_of(t, n))
            if row < u32(shape[0]) and column < u32(shape[1]):
                at, feature = place(row, column, z, view)
                finish(c, u32(at), sums[n], scale, shift, u32(feature), slope)

    @device_function
    def store(c, sums, scale, shift, shape, top, left, z, view, slope, t):
        some(c, sums, scale, shift, shape, top, left, z, view, slope, t, 0)
        if count == 64:
            some(c, sums, scale, shift, shape, top, left, z, view, slope, t, 16)
            some(c, sums, scale, shift, shape, top, left, z, view, slope, t, 32)
            some(c, sums, scale, shift, shape, top, left, z, view, slope, t, 48)

    return store


# ---- the kernel -----------------------------------------------------------------------------------------------------------


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
        Of the operands: from kind and rows of a tile to its `Loader`.
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
    load_a, load_b, size_a, size_b = loader_a.load, loader_b.load, loader_a.layout.size, loader_b.layout.size
    count, accumulate, row_of, column_of = kind.sums(kind, rows, columns, loader_a.layout, loader_b.layout)
    store = each_sum(
        count, row_of, column_of, place, finisher(finish, *((kind.read, kind.write) if narrow else (as_it_is,) * 2))
    )
    dtype, sum_dtype, step, room_a, room_b = kind.dtype, kind.sum_dtype, kind.depth, STAGES * size_a, STAGES * size_b

    def product(
        c: Out, a: In, b: In, a_of: In, b_of: In, scale: In, shift: In,
        shape: tuple[int, ...], a_view: tuple[int, ...], b_view: tuple[int, ...], c_view: tuple[int, ...], slope: float,
    ):  # fmt: skip
        tiles_a = cuda.shared.array(room_a, dtype, VECTOR_BYTES)
        tiles_b = cuda.shared.array(room_b, dtype, VECTOR_BYTES)
        sums = cuda.local.array(count, sum_dtype)
        t, z = u32(cuda.threadIdx.x), u32(cuda.blockIdx.z)
        top, left = u32(cuda.blockIdx.y) * u32(rows), u32(cuda.blockIdx.x) * u32(columns)
        which, part = z // u32(shape[4]), z % u32(shape[4])
        k, end = u32(part * u32(shape[5])), min(u32(shape[2]), u32((part + u32(1)) * u32(shape[5])))
        matrix_a, matrix_b = u32(a_of[which]), u32(b_of[which])
        for n in range(count):
            sums[n] = sum_dtype(0)
        stage, loaded = u32(0), 0
        while k < end or loaded == 1:  # one pair of tiles is copied while the one before it is multiplied
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
        store(c, sums, scale, shift, shape, top, left, z, c_view, slope, t)

    product.__name__ = product.__qualname__ = f"product_{kind.name}_{rows}x{columns}"
    return CudaKernel(product, functools.partial(grid_of, rows, columns))


def grid_of(rows: int, columns: int, *arguments: Any) -> tuple[tuple[int, int, int], int]:
    """A block for each tile of C, and each slice of each product."""
    shape = Shape(*arguments[7])
    return (-(-shape.columns // columns), -(-shape.rows // rows), shape.products * shape.slices), THREADS

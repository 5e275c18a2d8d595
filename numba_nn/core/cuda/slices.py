"""Products on a GPU, by tiles of C. Where these are few, the depth is cut, so that all multiprocessors have work.

A slice's partial sums go to scratch, and a second kernel adds them in order and finishes them. How a depth is cut follows from
the shape alone, so results are the same every time.
"""

from __future__ import annotations

import functools
from typing import Any

from numba_nn.core.cuda.loaders import LoaderOf
from numba_nn.core.cuda.planes import split
from numba_nn.core.cuda.product import OVERWRITE, Shape, finisher, in_rows, tiled_product
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.cuda.tiles import FLOAT64, Kind, u32
from numba_nn.core.cuda.twin import MULTIPROCESSORS, CudaKernel
from numba_nn.core.parts import Helper
from numba_nn.core.roles import In, Out

Views = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
LARGE_TILE, SMALL_TILE = (128, 128), (64, 64)
LEAST_SPAN = 256  # depths of a slice, at least: loads of its operands are then 4 times what its sums cost to write and read
SPAN_STEP = 32  # the largest depth of a tile


def tiles_of(tile: tuple[int, int], rows: int, columns: int, products: int) -> int:
    """Tiles of C, of all products."""
    return -(-rows // tile[0]) * -(-columns // tile[1]) * products


def tile_for(kind: Kind, rows: int, columns: int, products: int) -> tuple[int, int]:
    """Rows and columns of a block's tile of C.

    Large where no multiprocessor is left without one; float64 has no registers for these.
    """
    many = tiles_of(LARGE_TILE, rows, columns, products) >= MULTIPROCESSORS
    return LARGE_TILE if many and kind is not FLOAT64 else SMALL_TILE


def most_slices(rows: int, columns: int, depth: int, products: int) -> int:
    """Slices of a depth at the most: two blocks for each multiprocessor, and no more for a smaller depth."""
    tiles = tiles_of(SMALL_TILE, rows, columns, products)
    return max(1, min(2 * MULTIPROCESSORS // max(1, tiles), depth // LEAST_SPAN))


def slices_of(rows: int, columns: int, depth: int, products: int) -> tuple[int, int]:
    """Slices of a depth, and how long they are but the last."""
    span = -(-depth // (most_slices(rows, columns, depth, products) * SPAN_STEP)) * SPAN_STEP
    return (-(-depth // span), span) if depth else (1, 1)


def partial_size(rows: int, columns: int, depth: int, products: int = 1) -> int:
    """Partial sums at the most, of a product and of all with fewer rows or a smaller depth."""
    most = 0
    for fewer in [*range(SMALL_TILE[0], min(rows, 2 * MULTIPROCESSORS * SMALL_TILE[0]), SMALL_TILE[0]), rows]:
        slices = most_slices(fewer, columns, depth, products)
        most = max(most, slices * fewer * columns * products if slices > 1 else 0)
    return most


def multiply(
    kind: Kind, loaders: tuple[LoaderOf, LoaderOf], place: Helper, finish: int, c: Any, partial: Any,
    operands: tuple[Any, Any, Any, Any], scale: Any, shift: Any, size: tuple[int, int, int], views: Views, slope: float = 0.0,
) -> None:  # fmt: skip
    """C[s] = finish(A[a_of[s]] B[b_of[s]]) for every product s, on device arrays; see `tiled_product`.

    Parameters
    ----------
    kind : Kind
        Of numbers.
    loaders : tuple of callable
        Of the operands.
    place : Helper
        Where an element of C lies, and its feature.
    finish : int
        `OVERWRITE`, `ADD`, or an activation's code.
    c : device array
        Flat.
    partial : device array or None
        Flat, `partial_size` elements of the kind of sums; the depth is not cut where there is no room.
    operands : tuple of device array
        A, B, a_of, b_of.
    scale, shift : device array or None
        By features, for an activation.
    size : tuple of int
        Rows, columns, depth.
    views : tuple of tuple
        Of A, B and C.
    slope : float, optional
        Of a leaky ReLU.
    """
    rows, columns, depth = size
    products = operands[2].size
    slices, span = slices_of(rows, columns, depth, products)
    if partial is None or partial.dtype != kind.sum_dtype or partial.size < slices * products * rows * columns:
        slices, span = 1, depth
    narrow, tile = c.dtype == kind.dtype, tile_for(kind, rows, columns, products) if slices == 1 else SMALL_TILE
    scale, shift = (c if terms is None else terms for terms in (scale, shift))
    shape = tuple(Shape(rows, columns, depth, products, slices, span))
    if slices == 1:
        run = tiled_product(kind, tile, loaders, place, finish, narrow)
        run(c, *operands, scale, shift, shape, *views, slope)
    else:
        run = tiled_product(kind, tile, loaders, in_rows, OVERWRITE, partial.dtype == kind.dtype)
        run(partial, *operands, partial, partial, shape, *views[:2], (rows, columns), slope)
        slices_added(kind, place, finish, narrow)(c, partial, scale, shift, shape, views[2], slope)


@functools.cache
def slices_added(kind: Kind, place: Helper, finish: int, narrow: bool) -> CudaKernel:
    """The kernel that finishes sums over slices, made once; see `tiled_product`."""
    finish_sum, sum_dtype = finisher(kind, finish, narrow), kind.sum_dtype

    def add_slices(c: Out, partial: In, scale: In, shift: In, shape: tuple[int, ...], view: tuple[int, ...], slope: float):
        rows, columns, _, _, slices, _ = shape
        i, size = u32(cuda.grid(1)), u32(rows * columns)
        while i < u32(c.size):
            product, rest = split(i, size)
            row, column = split(rest, columns)
            at, total = u32(product * u32(slices) * size + rest), sum_dtype(0)
            for _ in range(u32(slices)):
                total += partial[at]
                at = u32(at + size)
            to, feature = place(row, column, product, view)
            finish_sum(c, u32(to), total, scale, shift, u32(feature), slope)
            i = u32(i + u32(cuda.gridsize(1)))

    return CudaKernel(add_slices)

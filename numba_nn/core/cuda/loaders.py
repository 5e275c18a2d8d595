"""How tiles of a matrix product's operands come into shared memory: 16 bytes at a time, or element by element.

An operand has a *view*, the numbers by which its elements are found: the first is its rows, the others belong to a helper

    where(view, product, row, depth) -> index, whether there is such an element

A matrix has the view (rows, depth, row stride, depth stride); images bring helpers of their own. Neighbouring threads copy
elements that lie side by side: along the depth, or along the rows. What is beyond an edge, or not there, is zero.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from numba_nn.core.cuda.ptx import copy16, device_function
from numba_nn.core.cuda.tiles import TILE_THREADS, Kind, Layout, depths_in_order, rows_in_order, u32
from numba_nn.core.parts import Helper

AT_ONCE = 4  # elements that a thread copies in a row: a loop over all would be unrolled, and take 90 registers more


class TileLoader(NamedTuple):
    """How tiles of an operand come into shared memory.

    Attributes
    ----------
    layout : Layout
        How they lie there.
    load : Helper
        ``load(tile, at, source, view, product, first, k, end, t)``: thread t's part in copying a tile: rows from ``first``
        on and depths from ``k`` to ``end``; ``product`` says which matrix of several.
    """

    layout: Layout
    load: Helper


LoaderOf = Callable[[Kind, int], TileLoader]
"""From a kind of numbers, and the rows of a tile."""


def layout_of(kind: Kind, rows: int, along_depth: bool) -> Layout:
    """How a tile lies in shared memory."""
    return rows_in_order(rows, kind.depth, kind.lanes) if along_depth else depths_in_order(rows, kind.depth)


@device_function
def in_matrix(view, product, row, depth):
    """Where an element of a matrix lies, of several one after the other."""
    return product * u32(view[0] * view[1]) + row * u32(view[2]) + depth * u32(view[3]), True


def vectors(kind: Kind, rows: int, along_depth: bool) -> TileLoader:
    """16 bytes at a time of a matrix: its lines lie in order, and lines and matrices a multiple of 16 bytes apart."""
    lanes, layout, copies = kind.lanes, layout_of(kind, rows, along_depth), rows * kind.depth // kind.lanes
    in_line = (kind.depth if along_depth else rows) // lanes

    @device_function
    def load(tile, at, source, view, product, first, k, end, t):
        for i in range(copies // TILE_THREADS):
            e = t + u32(i * TILE_THREADS)
            row, depth = e // u32(in_line), e % u32(in_line) * u32(lanes)
            if not along_depth:
                row, depth = depth, row
            count = u32(0)
            if first + row < u32(view[0]) and k + depth < end:
                count = min(u32(lanes), u32(end - k - depth) if along_depth else u32(u32(view[0]) - first - row))
            index, _ = in_matrix(view, product, first + row, k + depth)
            copy16(tile, at + row * u32(layout.row_step) + depth * u32(layout.depth_step), source, u32(index), count)

    return TileLoader(layout, load)


def elements(kind: Kind, rows: int, where: Helper, along_depth: bool) -> TileLoader:
    """One element at a time, wherever it lies. Multiply-adds want a tile's depths in order, tensor cores its lines."""
    depths, total, copy, layout = (
        kind.depth,
        rows * kind.depth,
        kind.copy,
        layout_of(kind, rows, along_depth and not kind.plain),
    )
    at_once = min(AT_ONCE, total // TILE_THREADS)

    @device_function
    def load(tile, at, source, view, product, first, k, end, t):
        e = t
        while e < u32(total):
            for _ in range(at_once):
                row, depth = e // u32(depths), e % u32(depths)
                if not along_depth:
                    row, depth = e % u32(rows), e // u32(rows)
                index, there = where(view, product, u32(first + row), u32(k + depth))
                there = there and first + row < u32(view[0]) and k + depth < end
                to = u32(at + row * u32(layout.row_step) + depth * u32(layout.depth_step))
                copy(tile, to, source, u32(index), 1 if there else 0)
                e = u32(e + u32(TILE_THREADS))

    return TileLoader(layout, load)


vectors_along_depth = functools.partial(vectors, along_depth=True)
vectors_along_rows = functools.partial(vectors, along_depth=False)
elements_along_depth = functools.partial(elements, where=in_matrix, along_depth=True)
elements_along_rows = functools.partial(elements, where=in_matrix, along_depth=False)

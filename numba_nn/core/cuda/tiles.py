"""What a block of threads does with tiles of a matrix product that lie in shared memory, for each kind of number.

    C[i, j] += sum_k A[i, k] B[j, k]

Both operands have rows and a depth: B is told by its columns. A tile of A holds some rows, one of B some columns, both the same
slice of the depth. `Kind` names how they are multiplied: by fused multiply-adds, or on tensor cores.

Constants of a closure are constants to the compiler: loops over them are unrolled, so that sums stay in registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from numba_nn.core.cuda.ptx import (
    VECTOR_BYTES,
    copy_element,
    cuda,
    device_function,
    from_bf16,
    from_f16,
    load16,
    load_matrices,
    load_matrices_transposed,
    multiply_bf16,
    multiply_f16,
    multiply_tf32,
    round_tf32,
    to_bf16,
    to_f16,
)
from numba_nn.core.cuda.reduce import WARP
from numba_nn.core.parts import Helper

WARP_ROWS, WARP_COLUMNS = 2, 4  # warps of a block over its tile of C; each has a rectangle of fragments, 16 x 8
TILE_THREADS = WARP * WARP_ROWS * WARP_COLUMNS
SIDE = 16  # where there are no fragments: threads over the rows, and over the columns
u32 = np.uint32


class Layout(NamedTuple):
    """Where a tile's elements lie in shared memory: (row, k) at ``row row_step + k depth_step``, of ``size`` elements in all.

    Steps are such that the rows, or depths, that a warp reads at once lie in different banks.
    """

    row_step: int
    depth_step: int
    size: int


def rows_in_order(rows: int, depth: int, lanes: int) -> Layout:
    """Row after row, 16 bytes of so many elements between them."""
    step = depth + lanes
    return Layout(step, 1, rows * step)


def depths_in_order(rows: int, depth: int) -> Layout:
    """Depth after depth, 8 elements between them."""
    return Layout(1, rows + 8, depth * (rows + 8))


class Sums(NamedTuple):
    """How a block's threads share the sums of its tile of C.

    Attributes
    ----------
    size : int
        Sums of a thread.
    accumulate : Helper
        ``accumulate(sums, tile_a, at_a, tile_b, at_b, t)``: add the product of two tiles, for thread t.
    row, column : Helper
        ``row(t, n)``: where the n-th sum of thread t lies in the tile.
    """

    size: int
    accumulate: Helper
    row: Helper
    column: Helper


class Kind(NamedTuple):
    """A kind of numbers and how they are multiplied.

    Attributes
    ----------
    name : str
        As kernels are called.
    dtype, sum_dtype : type
        Of elements of A and B, and of sums.
    depth : int
        Of a tile.
    plain : bool
        Multiplied by multiply-adds, which want tiles with `depths_in_order`.
    sums : callable
        From a tile's rows and columns, and the layouts of A and B, to `Sums`.
    copy : Helper
        ``copy(to, to_at, source, at, count)``: one element, or zero if the count is 0, like `ptx.copy_element`.
    read, write : Helper
        From an element of C to a sum, and back, where C is of the same kind.
    """

    name: str
    dtype: Any
    sum_dtype: Any
    depth: int
    plain: bool
    sums: Callable[[Kind, int, int, Layout, Layout], Sums]
    copy: Any
    read: Any
    write: Any

    @property
    def lanes(self) -> int:
        """Elements of 16 bytes."""
        return VECTOR_BYTES // np.dtype(self.dtype).itemsize


# ---- multiply-adds --------------------------------------------------------------------------------------------------------


def plain_sums(kind: Kind, rows: int, columns: int, layout_a: Layout, layout_b: Layout) -> Sums:
    """A thread has sums of as many neighbouring rows and columns as 16 bytes hold, and more where all threads have theirs."""
    down, across, lanes, depth, dtype = rows // SIDE, columns // SIDE, kind.lanes, kind.depth, kind.dtype

    @device_function
    def accumulate(sums, tile_a, at_a, tile_b, at_b, t):
        left, right = cuda.local.array(down, dtype), cuda.local.array(across, dtype)
        first, second = at_a + t // u32(SIDE) * u32(lanes), at_b + t % u32(SIDE) * u32(lanes)
        for k in range(depth):
            for i in range(0, down, lanes):
                values = load16(tile_a, first + u32(k * layout_a.depth_step + i * SIDE))
                for lane in range(lanes):
                    left[i + lane] = values[lane]
            for j in range(0, across, lanes):
                values = load16(tile_b, second + u32(k * layout_b.depth_step + j * SIDE))
                for lane in range(lanes):
                    right[j + lane] = values[lane]
            for i in range(down):
                for j in range(across):
                    sums[i * across + j] += left[i] * right[j]

    @device_function
    def row(t, n):
        i = n // across
        return t // u32(SIDE) * u32(lanes) + u32(i // lanes * SIDE * lanes + i % lanes)

    @device_function
    def column(t, n):
        j = n % across
        return t % u32(SIDE) * u32(lanes) + u32(j // lanes * SIDE * lanes + j % lanes)

    return Sums(down * across, accumulate, row, column)


# ---- tensor cores ---------------------------------------------------------------------------------------------------------


def fragment_tf32(layout: Layout) -> Helper:
    """``fragment(tile, at, row, k, lane)``: a lane's registers of 16 rows and a depth of 8, rounded to tf32."""
    row_step, depth_step, _ = layout

    @device_function
    def fragment(tile, at, row, k, lane):
        p = u32(at + (row + lane // u32(4)) * u32(row_step) + (k + lane % u32(4)) * u32(depth_step))
        return (
            round_tf32(tile[p]),
            round_tf32(tile[p + u32(8 * row_step)]),
            round_tf32(tile[p + u32(4 * depth_step)]),
            round_tf32(tile[p + u32(8 * row_step + 4 * depth_step)]),
        )

    return fragment


def fragment_of_16_bits(layout: Layout) -> Helper:
    """``fragment(tile, at, row, k, lane)``: a lane's registers of 16 rows and a depth of 16."""
    row_step, depth_step, _ = layout

    @device_function
    def of_rows(tile, at, row, k, lane):
        return load_matrices(tile, u32(at + (row + lane % u32(16)) * u32(row_step) + k + lane // u32(16) * u32(8)))

    @device_function
    def of_depths(tile, at, row, k, lane):
        deeper, lower = lane // u32(16) * u32(8), lane // u32(8) % u32(2) * u32(8)
        return load_matrices_transposed(tile, u32(at + (k + lane % u32(8) + deeper) * u32(depth_step) + row + lower))

    return of_rows if depth_step == 1 else of_depths


def tensor_sums(fragment_of: Callable[[Layout], Helper], multiply: Any, step: int) -> Callable[..., Sums]:
    """`Sums` on tensor cores, which take ``step`` of the depth at once. Two fragments of B are loaded like one of A."""

    def sums_of(kind: Kind, rows: int, columns: int, layout_a: Layout, layout_b: Layout) -> Sums:
        warp_rows, warp_columns, depth = rows // WARP_ROWS, columns // WARP_COLUMNS, kind.depth
        down, across = warp_rows // 16, warp_columns // 8
        fragment_a, fragment_b = fragment_of(layout_a), fragment_of(layout_b)

        @device_function
        def accumulate(sums, tile_a, at_a, tile_b, at_b, t):
            right = cuda.local.array((across, 2), np.uint32)
            lane, warp = t % u32(WARP), t // u32(WARP)
            top, left = warp % u32(WARP_ROWS) * u32(warp_rows), warp // u32(WARP_ROWS) * u32(warp_columns)
            for k in range(0, depth, step):
                for j in range(0, across, 2):
                    b = fragment_b(tile_b, at_b, left + u32(8 * j), u32(k), lane)
                    right[j, 0], right[j + 1, 0], right[j, 1], right[j + 1, 1] = b[0], b[1], b[2], b[3]
                for i in range(down):
                    a = fragment_a(tile_a, at_a, top + u32(16 * i), u32(k), lane)
                    for j in range(across):
                        n = 4 * (i * across + j)
                        c = sums[n], sums[n + 1], sums[n + 2], sums[n + 3]
                        c = multiply(a, (right[j, 0], right[j, 1]), c)
                        sums[n], sums[n + 1], sums[n + 2], sums[n + 3] = c[0], c[1], c[2], c[3]

        @device_function
        def row(t, n):
            in_fragment = t % u32(WARP) // u32(4) + u32(n % 4 // 2 * 8)
            return t // u32(WARP) % u32(WARP_ROWS) * u32(warp_rows) + u32(n // 4 // across * 16) + in_fragment

        @device_function
        def column(t, n):
            in_fragment = t % u32(4) * u32(2) + u32(n % 2)
            return t // u32(WARP * WARP_ROWS) * u32(warp_columns) + u32(n // 4 % across * 8) + in_fragment

        return Sums(4 * down * across, accumulate, row, column)

    return sums_of


# ---- kinds ----------------------------------------------------------------------------------------------------------------


@device_function
def as_it_is(x):
    """A number that is stored as it is computed."""
    return x


@device_function
def copy_now(to, to_at, source, at, count):
    """`ptx.copy_element` for 16 bits, which no instruction copies asynchronously."""
    value = to.dtype.type(0)
    if count > 0:
        value = source[at]
    to[to_at] = value


FLOAT32 = Kind("float32", np.float32, np.float32, 16, True, plain_sums, copy_element, as_it_is, as_it_is)
FLOAT64 = Kind("float64", np.float64, np.float64, 8, True, plain_sums, copy_element, as_it_is, as_it_is)
TF32 = Kind(
    "tf32", np.float32, np.float32, 16, False, tensor_sums(fragment_tf32, multiply_tf32, 8), copy_element, as_it_is, as_it_is
)
BFLOAT16 = Kind(
    "bfloat16", np.uint16, np.float32, 32, False, tensor_sums(fragment_of_16_bits, multiply_bf16, 16),
    copy_now, from_bf16, to_bf16,
)  # fmt: skip
FLOAT16 = Kind(
    "float16", np.uint16, np.float32, 32, False, tensor_sums(fragment_of_16_bits, multiply_f16, 16),
    copy_now, from_f16, to_f16,
)  # fmt: skip

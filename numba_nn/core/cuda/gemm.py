"""The matrix product on a GPU: which kernel computes it, by type, precision and shape. See `numba_nn.core.cuda.product`.

float32 runs on tensor cores in tf32, with factors of 11 significant bits and sums of 24, unless `set_precision` is "exact";
float64 by multiply-adds; float16 and bfloat16 on tensor cores, as bits.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from numba_nn.core.cuda.loaders import (
    LoaderOf,
    elements_along_depth,
    elements_along_rows,
    vectors_along_depth,
    vectors_along_rows,
)
from numba_nn.core.cuda.narrow import as_bits
from numba_nn.core.cuda.product import OVERWRITE, in_rows, in_strided_rows
from numba_nn.core.cuda.ptx import VECTOR_BYTES
from numba_nn.core.cuda.slices import multiply
from numba_nn.core.cuda.tiles import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, TF32, Kind
from numba_nn.core.device import CUDA
from numba_nn.core.precision import get_precision


def kind_of(dtype: Any) -> Kind:
    """How numbers of a type are multiplied, in the precision that is set."""
    if dtype == np.float32:
        return FLOAT32 if get_precision() == "exact" else TF32
    return {"float64": FLOAT64, "float16": FLOAT16, "bfloat16": BFLOAT16}[np.dtype(dtype).name]


def loader_of(kind: Kind, matrix: Any, size: int, strides: tuple[int, int]) -> LoaderOf:
    """What brings tiles of an operand, whose matrices have so many elements, and strides of rows and depths."""
    along_depth = strides[1] == 1
    aligned = all(n % kind.lanes == 0 for n in (size, strides[0] if along_depth else strides[1]))
    if 1 not in strides or not aligned or CUDA.address(matrix) % VECTOR_BYTES or (along_depth and kind.plain):
        return elements_along_depth if along_depth else elements_along_rows
    return vectors_along_depth if along_depth else vectors_along_rows


@functools.cache
def own_matrices(count: int) -> Any:
    """0, 1, 2, ..., on the device: ``a_of`` and ``b_of`` where every product has matrices of its own."""
    return CUDA.from_host(np.arange(count, dtype=np.int64))


def multiply_matrices(
    c: Any, a: Any, b: Any, a_of: Any, b_of: Any,
    shape: tuple[int, int, int], a_strides: tuple[int, int], b_strides: tuple[int, int],
    finish: int = OVERWRITE, scale: Any = None, shift: Any = None, slope: float = 0.0,
    partial: Any = None, c_strides: tuple[int, int] | None = None,
) -> None:  # fmt: skip
    """C[s] = A[a_of[s]] B[b_of[s]] for every product s, on device arrays; see `numba_nn.core.product.gemm.gemm`.

    Parameters
    ----------
    c, a, b : device array
        (S, M N), (A, M K), (B, K N).
    a_of, b_of : device array
        (S,) int64, which matrix a product takes.
    shape : tuple of int
        M, N, K.
    a_strides, b_strides : tuple of int
        Of rows and columns, in elements.
    finish : int, optional
        `OVERWRITE`; `ADD`, to what C holds; or an activation's code: C = activation(scale C + shift) by columns.
    scale, shift : device array, optional
        (N,), for an activation.
    slope : float, optional
        Of a leaky ReLU.
    partial : device array, optional
        Flat, of `partial_size` for partial sums; without room the depth of a product of few tiles is not cut.
    c_strides : tuple of int, optional
        Of matrices and rows of C, where these do not follow each other; then the depth is not cut.
    """
    (rows, columns, depth), kind = shape, kind_of(a.dtype)
    c, a, b = (as_bits(array.ravel()) for array in (c, a, b))
    transposed = b_strides[::-1]
    loaders = loader_of(kind, a, rows * depth, a_strides), loader_of(kind, b, depth * columns, transposed)
    place, partial = (in_rows, partial) if c_strides is None else (in_strided_rows, None)
    views = (rows, depth, *a_strides), (columns, depth, *transposed), c_strides or (rows, columns)
    multiply(kind, loaders, place, finish, c, partial, (a, b, a_of, b_of), scale, shift, shape, views, slope)

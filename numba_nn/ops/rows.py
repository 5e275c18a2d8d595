"""Rows of an array, by index."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numba_nn.core.call import Array
from numba_nn.core.checks import check_array, check_destination, check_indices, check_shape
from numba_nn.core.errors import ShapeError
from numba_nn.core.indices import check_range
from numba_nn.core.workspace import Shape, thread_workspace
from numba_nn.layers.embedding import add_rows, take_rows


def take(x: Array, indices: Array, out: Array | None = None) -> Array:
    """Rows of an array: y[b] = x[indices[b]].

    Parameters
    ----------
    x : ndarray
        (V, ...), float32 or float64.
    indices : ndarray
        int64 or int32, of any shape.
    out : ndarray, optional
        Where to write the result, of the shape of the indices followed by that of a row: C-contiguous, apart from ``x``.

    Returns
    -------
    ndarray
        ``out`` itself, or a fresh array.

    Raises
    ------
    RangeError
        If an index is no row; nothing was written.
    ShapeError, DTypeError, DestinationError
        If an array does not fit; nothing was written.
    """
    check_array("take", "x", x, None)
    shape = (*_checked(("take", "x"), x, indices), *x.shape[1:])
    if out is None:
        out = np.empty(shape, x.dtype)
    else:
        check_destination("take", "out", out, shape, x.dtype, x)
    workspace = thread_workspace()
    size = math.prod(x.shape[1:])
    rows, chosen = workspace.contiguous("x", x).reshape(len(x), size), workspace.contiguous("indices", indices)
    take_rows(out.reshape(indices.size, size), rows, chosen.reshape(-1))
    return out


def scatter_add(out: Array, indices: Array, x: Array) -> Array:
    """Add rows to those of an array, in order: out[indices[b]] += x[b]; an index may come several times.

    Parameters
    ----------
    out : ndarray
        (V, ...), float32 or float64, C-contiguous.
    indices : ndarray
        int64 or int32, of any shape.
    x : ndarray
        Of the shape of the indices followed by that of a row, and the dtype of ``out``.

    Returns
    -------
    ndarray
        ``out`` itself.

    Raises
    ------
    RangeError
        If an index is no row; nothing was written.
    ShapeError, DTypeError, DestinationError
        If an array does not fit; nothing was written.
    """
    check_array("scatter_add", "out", out, None)
    shape = _checked(("scatter_add", "out"), out, indices)
    check_array("scatter_add", "x", x, out.dtype)
    check_shape("scatter_add", "x", x.shape, (*shape, *out.shape[1:]))
    check_destination("scatter_add", "out", out, out.shape, out.dtype, x)
    workspace = thread_workspace()
    size = math.prod(out.shape[1:])
    rows, chosen = workspace.contiguous("x", x).reshape(indices.size, size), workspace.contiguous("indices", indices)
    add_rows.for_work(x.size)(out.reshape(len(out), size), chosen.reshape(-1), rows, -1)
    return out


def _checked(where: tuple[str, str], table: Array, indices: Any) -> Shape:
    """The shape of the indices, all of which are rows of the table."""
    function, name = where
    if table.ndim == 0:
        raise ShapeError(f"{function}: {name} must have rows, got shape ()")
    check_indices(function, "indices", indices)
    check_range(function, "indices", thread_workspace().contiguous("indices", indices), len(table))
    return indices.shape

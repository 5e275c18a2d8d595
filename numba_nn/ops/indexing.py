"""Rows of an array, by index."""

from __future__ import annotations

import math
from typing import Any

from numba_nn.core.call import Array
from numba_nn.core.checks import check_array, check_destination, check_indices, check_shape
from numba_nn.core.device import Device, device_of
from numba_nn.core.errors import ShapeError
from numba_nn.core.indices import check_range
from numba_nn.core.workspace import thread_workspace
from numba_nn.layers.embedding import add_rows, take_rows


def take(x: Array, indices: Array, out: Array | None = None) -> Array:
    """Rows of an array: y[b] = x[indices[b]].

    Parameters
    ----------
    x : ndarray or device array
        (V, ...), float32 or float64; on a GPU also of 16 bits. All arrays live on one device.
    indices : ndarray or device array
        int64 or int32, of any shape.
    out : ndarray or device array, optional
        Where to write the result, of the shape of the indices followed by that of a row: C-contiguous, apart from ``x``.

    Returns
    -------
    ndarray or device array
        ``out`` itself, or a fresh array.

    Raises
    ------
    RangeError
        If an index is no row; nothing was written. While a CUDA graph is recorded nobody looks, as in `Embedding`.
    ShapeError, DTypeError, DestinationError
        If an array does not fit; nothing was written.
    DeviceError
        If arrays live on different devices.
    """
    device = device_of(x)
    x = device.accept(x)
    check_array("take", "x", x, None, device)
    chosen = _checked(("take", "x"), x, indices, device)
    shape = (*chosen.shape, *x.shape[1:])
    if out is None:
        out = device.empty(shape, x.dtype)
    y = device.accept(out)
    check_destination("take", "out", y, shape, x.dtype, x, device=device)
    if y.size:
        size = math.prod(x.shape[1:])
        rows = thread_workspace(device).contiguous("x", x).reshape(x.shape[0], size)
        take_rows.for_work(y.size, device)(y.reshape(chosen.size, size), rows, chosen.reshape(chosen.size))
    return out


def scatter_add(out: Array, indices: Array, x: Array) -> Array:
    """Add rows to those of an array, in order: out[indices[b]] += x[b]; an index may come several times.

    Parameters
    ----------
    out : ndarray or device array
        (V, ...), float32 or float64, C-contiguous; on a GPU also of 16 bits. All arrays live on one device.
    indices : ndarray or device array
        int64 or int32, of any shape.
    x : ndarray or device array
        Of the shape of the indices followed by that of a row, and the dtype of ``out``.

    Returns
    -------
    ndarray or device array
        ``out`` itself.

    Raises
    ------
    RangeError
        If an index is no row; nothing was written. While a CUDA graph is recorded nobody looks, as in `Embedding`.
    ShapeError, DTypeError, DestinationError
        If an array does not fit; nothing was written.
    DeviceError
        If arrays live on different devices.
    """
    device = device_of(out)
    table, x = device.accept(out), device.accept(x)
    check_array("scatter_add", "out", table, None, device)
    chosen = _checked(("scatter_add", "out"), table, indices, device)
    check_array("scatter_add", "x", x, table.dtype, device)
    check_shape("scatter_add", "x", x.shape, (*chosen.shape, *table.shape[1:]))
    check_destination("scatter_add", "out", table, table.shape, table.dtype, x, device=device)
    if x.size:
        size = math.prod(table.shape[1:])
        rows = thread_workspace(device).contiguous("x", x).reshape(chosen.size, size)
        run = add_rows.for_work(x.size, device)
        run(table.reshape(table.shape[0], size), chosen.reshape(chosen.size), rows, -1)
    return out


def _checked(where: tuple[str, str], table: Array, indices: Any, device: Device) -> Array:
    """The indices, C-contiguous, all of which are rows of the table; on a GPU this waits for the answer."""
    function, name = where
    if table.ndim == 0:
        raise ShapeError(f"{function}: {name} must have rows, got shape ()")
    indices = device.accept(indices)
    check_indices(function, "indices", indices, device)
    chosen = thread_workspace(device).contiguous("indices", indices)
    check_range(function, "indices", chosen, table.shape[0])
    return chosen

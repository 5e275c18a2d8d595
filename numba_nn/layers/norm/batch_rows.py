"""Batch normalisation over rows: x, y, dx, dy are (N, C), and the loops run along C.

A tile is up to ROWS rows; a task is up to COLUMNS channels of a tile, which stay in the first cache while they are read twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.cuda.planes import (
    PlaneGrid,
    first_plane,
    next_plane,
    over_planes,
    place_of_window,
    plane_grid,
    planes_together,
    split,
)
from numba_nn.core.cuda.portable import fetch, put
from numba_nn.core.cuda.ptx import WINDOW, cuda, flat_part
from numba_nn.core.cuda.twin import cuda_helper
from numba_nn.core.kernel import In, Out, Saved, Scratch, inner, kernel

ROWS, COLUMNS = 64, 128


@inner
def rows_and_columns(task, rows, channels):
    """Tile, and the bounds of the rows and channels of a task."""
    strips = -(-channels // COLUMNS)
    t, strip = task // strips, task % strips
    return t, t * ROWS, min(rows, (t + 1) * ROWS), strip * COLUMNS, min(channels, (strip + 1) * COLUMNS)


@kernel
def row_moments(tiles: Scratch, x: In):
    """Of every tile n, a shift s near its mean, sum of x - s, sum of (x - s)^2; tiles: (4, T, C)."""
    rows, channels = x.shape
    for task in prange(tiles.shape[1] * -(-channels // COLUMNS)):
        t, top, bottom, left, right = rows_and_columns(task, rows, channels)
        count = x.dtype.type(bottom - top)
        tiles[0, t, left:right] = count
        shift, deviation, square = tiles[1, t, left:right], tiles[2, t, left:right], tiles[3, t, left:right]
        shift[:] = deviation[:] = square[:] = x.dtype.type(0)
        for n in range(top, bottom):
            row = x[n, left:right]
            for c in range(row.size):
                shift[c] += row[c]
        for c in range(shift.size):
            shift[c] /= count
        for n in range(top, bottom):
            row = x[n, left:right]
            for c in range(row.size):
                difference = row[c] - shift[c]
                deviation[c] += difference
                square[c] += difference * difference


def over_tiles(tiles: Any, *_: Any) -> PlaneGrid:
    """`over_rows` of one of (A, T, C)."""
    return plane_grid(tiles.shape[1], -(-tiles.shape[2] // WINDOW))


@cuda_helper
def rows_of_tile(t, x):
    """The first row of a tile, and the one after its last."""
    return t * np.uint32(ROWS), min(np.uint32(x.shape[0]), (t + np.uint32(1)) * np.uint32(ROWS))


@row_moments.on_cuda(grid=over_tiles)
def row_moments(tiles: Scratch, x: In):
    """A thread has four channels of a tile."""
    c, t, window = place_of_window(), first_plane(), cuda.local.array(WINDOW, x.dtype)
    shifts, deviations = cuda.local.array(WINDOW, x.dtype), cuda.local.array(WINDOW, x.dtype)
    squares = cuda.local.array(WINDOW, x.dtype)
    while c < np.uint32(x.shape[1]) and t < np.uint32(tiles.shape[1]):
        top, bottom = rows_of_tile(t, x)
        count = x.dtype.type(bottom - top)
        for lane in range(WINDOW):
            shifts[lane] = deviations[lane] = squares[lane] = x.dtype.type(0)
        for n in range(top, bottom):
            fetch(window, x[n], c)
            for lane in range(WINDOW):
                shifts[lane] += window[lane]
        for lane in range(WINDOW):
            shifts[lane] /= count
        for n in range(top, bottom):
            fetch(window, x[n], c)
            for lane in range(WINDOW):
                deviations[lane] += window[lane] - shifts[lane]
                squares[lane] += (window[lane] - shifts[lane]) * (window[lane] - shifts[lane])
        window[0] = window[1] = window[2] = window[3] = count
        put(tiles[0, t], c, window, x.shape[1])
        put(tiles[1, t], c, shifts, x.shape[1])
        put(tiles[2, t], c, deviations, x.shape[1])
        put(tiles[3, t], c, squares, x.shape[1])
        t = next_plane(t)


@kernel
def row_normalize(y: Out, mean: Saved, inv_std: Saved, x: In, weight: In, bias: In):
    """y = (x - mean) inv_std weight + bias."""
    for n in prange(x.shape[0]):
        for c in range(x.shape[1]):
            y[n, c] = (x[n, c] - mean[c]) * (inv_std[c] * weight[c]) + bias[c]


@row_normalize.on_cuda(grid=over_planes)
def row_normalize(y: Out, mean: Saved, inv_std: Saved, x: In, weight: In, bias: In):
    """A thread has four channels, perhaps of several rows: see `numba_nn.core.cuda.planes`."""
    at, channels, g = place_of_window(), np.uint32(x.shape[1]), first_plane()
    together, window, centers = planes_together(channels), cuda.local.array(WINDOW, x.dtype), cuda.local.array(WINDOW, x.dtype)
    scales, shifts = cuda.local.array(WINDOW, x.dtype), cuda.local.array(WINDOW, x.dtype)
    for lane in range(WINDOW):
        _, c = split(at + np.uint32(lane), channels)
        centers[lane], scales[lane], shifts[lane] = mean[c], inv_std[c] * weight[c], bias[c]
    while at < together * channels and g * together < np.uint32(x.shape[0]):
        i = g * together * channels + at
        fetch(window, flat_part(x, 0, x.size), i)
        for lane in range(WINDOW):
            window[lane] = (window[lane] - centers[lane]) * scales[lane] + shifts[lane]
        put(flat_part(y, 0, y.size), i, window, y.size)
        g = next_plane(g)


@kernel
def row_gradient_sums(mean: Saved, tiles: Scratch, x: In, dy: In):
    """Of every tile the sum of dy, and of dy (x - mean); tiles: (2, T, C)."""
    rows, channels = x.shape
    for task in prange(tiles.shape[1] * -(-channels // COLUMNS)):
        t, top, bottom, left, right = rows_and_columns(task, rows, channels)
        level, slope, center = tiles[0, t, left:right], tiles[1, t, left:right], mean[left:right]
        level[:] = slope[:] = x.dtype.type(0)
        for n in range(top, bottom):
            row, gradient = x[n, left:right], dy[n, left:right]
            for c in range(row.size):
                level[c] += gradient[c]
                slope[c] += gradient[c] * (row[c] - center[c])


@row_gradient_sums.on_cuda(grid=lambda mean, tiles, *_: over_tiles(tiles))
def row_gradient_sums(mean: Saved, tiles: Scratch, x: In, dy: In):
    """A thread has four channels of a tile."""
    c, t, centers = place_of_window(), first_plane(), cuda.local.array(WINDOW, x.dtype)
    values, gradients = cuda.local.array(WINDOW, x.dtype), cuda.local.array(WINDOW, x.dtype)
    levels, slopes = cuda.local.array(WINDOW, x.dtype), cuda.local.array(WINDOW, x.dtype)
    fetch(centers, mean, c)
    while c < np.uint32(x.shape[1]) and t < np.uint32(tiles.shape[1]):
        for lane in range(WINDOW):
            levels[lane] = slopes[lane] = x.dtype.type(0)
        top, bottom = rows_of_tile(t, x)
        for n in range(top, bottom):
            fetch(values, x[n], c)
            fetch(gradients, dy[n], c)
            for lane in range(WINDOW):
                levels[lane] += gradients[lane]
                slopes[lane] += gradients[lane] * (values[lane] - centers[lane])
        put(tiles[0, t], c, levels, x.shape[1])
        put(tiles[1, t], c, slopes, x.shape[1])
        t = next_plane(t)


@kernel
def row_backward_input(dx: Out, mean: Saved, coefficients: Scratch, x: In, dy: In):
    """dx = scale dy - level - slope (x - mean); coefficients: scale, level and slope, (3, C)."""
    for n in prange(x.shape[0]):
        for c in range(x.shape[1]):
            dx[n, c] = coefficients[0, c] * dy[n, c] - coefficients[1, c] - coefficients[2, c] * (x[n, c] - mean[c])


@row_backward_input.on_cuda(grid=over_planes)
def row_backward_input(dx: Out, mean: Saved, coefficients: Scratch, x: In, dy: In):
    """A thread has four channels, perhaps of several rows."""
    at, channels, g = place_of_window(), np.uint32(x.shape[1]), first_plane()
    together = planes_together(channels)
    values, gradients = cuda.local.array(WINDOW, x.dtype), cuda.local.array(WINDOW, x.dtype)
    centers, scales = cuda.local.array(WINDOW, x.dtype), cuda.local.array(WINDOW, x.dtype)
    levels, slopes = cuda.local.array(WINDOW, x.dtype), cuda.local.array(WINDOW, x.dtype)
    for lane in range(WINDOW):
        _, c = split(at + np.uint32(lane), channels)
        centers[lane], scales[lane] = mean[c], coefficients[0, c]
        levels[lane], slopes[lane] = coefficients[1, c], coefficients[2, c]
    while at < together * channels and g * together < np.uint32(x.shape[0]):
        i = g * together * channels + at
        fetch(values, flat_part(x, 0, x.size), i)
        fetch(gradients, flat_part(dy, 0, dy.size), i)
        for lane in range(WINDOW):
            difference = values[lane] - centers[lane]
            values[lane] = scales[lane] * gradients[lane] - levels[lane] - slopes[lane] * difference
        put(flat_part(dx, 0, dx.size), i, values, dx.size)
        g = next_plane(g)

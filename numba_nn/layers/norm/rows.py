"""Batch normalisation over rows: x, y, dx, dy are (N, C), and the loops run along C.

A tile is up to ROWS rows; a task is up to COLUMNS channels of a tile, which stay in the first cache while they are read twice.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from numba_nn.core.cuda_planes import first_plane, next_plane, over_planes, place_in_plane, plane_grid
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


@row_moments.on_cuda(grid=lambda tiles, x: plane_grid(*tiles.shape[1:]))
def row_moments(tiles: Scratch, x: In):
    """A thread has a channel of a tile."""
    c = place_in_plane()
    if c < np.uint32(x.shape[1]):
        t = first_plane()
        while t < np.uint32(tiles.shape[1]):
            top, bottom = t * np.uint32(ROWS), min(np.uint32(x.shape[0]), (t + np.uint32(1)) * np.uint32(ROWS))
            shift = deviation = square = x.dtype.type(0)
            for n in range(top, bottom):
                shift += x[n, c]
            count = x.dtype.type(bottom - top)
            shift /= count
            for n in range(top, bottom):
                difference = x[n, c] - shift
                deviation += difference
                square += difference * difference
            tiles[0, t, c], tiles[1, t, c], tiles[2, t, c], tiles[3, t, c] = count, shift, deviation, square
            t = next_plane(t)


@kernel
def row_normalize(y: Out, mean: Saved, inv_std: Saved, x: In, weight: In, bias: In):
    """y = (x - mean) inv_std weight + bias."""
    for n in prange(x.shape[0]):
        for c in range(x.shape[1]):
            y[n, c] = (x[n, c] - mean[c]) * (inv_std[c] * weight[c]) + bias[c]


@row_normalize.on_cuda(grid=over_planes)
def row_normalize(y: Out, mean: Saved, inv_std: Saved, x: In, weight: In, bias: In):
    """A thread has a channel."""
    c = place_in_plane()
    if c < np.uint32(x.shape[1]):
        center, scale, shift = mean[c], inv_std[c] * weight[c], bias[c]
        n = first_plane()
        while n < np.uint32(x.shape[0]):
            y[n, c] = (x[n, c] - center) * scale + shift
            n = next_plane(n)


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


@row_gradient_sums.on_cuda(grid=lambda mean, tiles, x, dy: plane_grid(*tiles.shape[1:]))
def row_gradient_sums(mean: Saved, tiles: Scratch, x: In, dy: In):
    """A thread has a channel of a tile."""
    c = place_in_plane()
    if c < np.uint32(x.shape[1]):
        center, t = mean[c], first_plane()
        while t < np.uint32(tiles.shape[1]):
            level = slope = x.dtype.type(0)
            for n in range(t * np.uint32(ROWS), min(np.uint32(x.shape[0]), (t + np.uint32(1)) * np.uint32(ROWS))):
                level += dy[n, c]
                slope += dy[n, c] * (x[n, c] - center)
            tiles[0, t, c], tiles[1, t, c] = level, slope
            t = next_plane(t)


@kernel
def row_backward_input(dx: Out, mean: Saved, coefficients: Scratch, x: In, dy: In):
    """dx = scale dy - level - slope (x - mean); coefficients: scale, level and slope, (3, C)."""
    for n in prange(x.shape[0]):
        for c in range(x.shape[1]):
            dx[n, c] = coefficients[0, c] * dy[n, c] - coefficients[1, c] - coefficients[2, c] * (x[n, c] - mean[c])


@row_backward_input.on_cuda(grid=over_planes)
def row_backward_input(dx: Out, mean: Saved, coefficients: Scratch, x: In, dy: In):
    """A thread has a channel."""
    c = place_in_plane()
    if c < np.uint32(x.shape[1]):
        center, scale, level, slope = mean[c], coefficients[0, c], coefficients[1, c], coefficients[2, c]
        n = first_plane()
        while n < np.uint32(x.shape[0]):
            dx[n, c] = scale * dy[n, c] - level - slope * (x[n, c] - center)
            n = next_plane(n)

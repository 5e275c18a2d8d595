"""Batch normalisation over long runs: x, y, dx, dy are (N, C, L), and the loops run along L.

A tile is up to BLOCK elements of one run: it stays in the first cache while it is read twice. Tile n J + j of channel c is
part j of the run (n, c); J is the number of parts of a run.
"""

from __future__ import annotations

from numba import prange

from numba_nn.core.kernel import In, Out, Saved, Scratch, inner, kernel
from numba_nn.core.reduce import BLOCK, block_bounds


@inner
def tile_of(task, channels, length):
    """Sample, channel, index and bounds of a tile, for tasks in the order of memory."""
    parts = -(-length // BLOCK)
    plane, part = task // parts, task % parts
    n, c = plane // channels, plane % channels
    start, stop = block_bounds(part, length)
    return n, c, n * parts + part, start, stop


@kernel
def plane_moments(tiles: Scratch, x: In):
    """Of every tile n, a shift s near its mean, sum of x - s, sum of (x - s)^2; tiles: (4, T, C)."""
    channels, length = x.shape[1:]
    for task in prange(tiles.shape[1] * channels):
        n, c, t, start, stop = tile_of(task, channels, length)
        run = x[n, c, start:stop]
        shift = deviation = square = x.dtype.type(0)
        for i in range(run.size):
            shift += run[i]
        count = x.dtype.type(run.size)
        shift /= count
        for i in range(run.size):
            deviation += run[i] - shift
            square += (run[i] - shift) * (run[i] - shift)
        tiles[0, t, c], tiles[1, t, c], tiles[2, t, c], tiles[3, t, c] = count, shift, deviation, square


@kernel
def plane_normalize(y: Out, mean: Saved, inv_std: Saved, x: In, weight: In, bias: In):
    """y = (x - mean) inv_std weight + bias."""
    samples, channels, length = x.shape
    for task in prange(samples * channels * -(-length // BLOCK)):
        n, c, _, start, stop = tile_of(task, channels, length)
        source, target = x[n, c, start:stop], y[n, c, start:stop]
        scale = inv_std[c] * weight[c]
        for i in range(source.size):
            target[i] = (source[i] - mean[c]) * scale + bias[c]


@kernel
def plane_gradient_sums(mean: Saved, tiles: Scratch, x: In, dy: In):
    """Of every tile the sum of dy, and of dy (x - mean); tiles: (2, T, C)."""
    channels, length = x.shape[1:]
    for task in prange(tiles.shape[1] * channels):
        n, c, t, start, stop = tile_of(task, channels, length)
        run, gradient = x[n, c, start:stop], dy[n, c, start:stop]
        level = slope = x.dtype.type(0)
        for i in range(run.size):
            level += gradient[i]
            slope += gradient[i] * (run[i] - mean[c])
        tiles[0, t, c], tiles[1, t, c] = level, slope


@kernel
def plane_backward_input(dx: Out, mean: Saved, coefficients: Scratch, x: In, dy: In):
    """dx = scale dy - level - slope (x - mean); coefficients: scale, level and slope, (3, C)."""
    samples, channels, length = x.shape
    for task in prange(samples * channels * -(-length // BLOCK)):
        n, c, _, start, stop = tile_of(task, channels, length)
        run, gradient, target = x[n, c, start:stop], dy[n, c, start:stop], dx[n, c, start:stop]
        scale, level, slope = coefficients[0, c], coefficients[1, c], coefficients[2, c]
        for i in range(run.size):
            target[i] = scale * gradient[i] - level - slope * (run[i] - mean[c])

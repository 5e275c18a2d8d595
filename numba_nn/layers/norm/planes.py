"""Batch normalisation over long runs: x, y, dx, dy are (N, C, L), and the loops run along L.

A tile is up to BLOCK elements of one run: it stays in the first cache while it is read twice. Tile n J + j of channel c is
part j of the run (n, c); J is the number of parts of a run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.cuda_planes import first_plane, next_plane, place_in_plane, row_of_threads, run_grid, split
from numba_nn.core.cuda_reduce import WARP, warp_sum
from numba_nn.core.kernel import In, Out, Saved, Scratch, inner, kernel
from numba_nn.core.ptx import cuda
from numba_nn.core.reduce import BLOCK, block_bounds
from numba_nn.core.twin import THREADS, cuda_helper


@inner
def tile_of(task, channels, length):
    """Sample, channel, index and bounds of a tile, for tasks in the order of memory."""
    parts = -(-length // BLOCK)
    plane, part = task // parts, task % parts
    n, c = plane // channels, plane % channels
    start, stop = block_bounds(part, length)
    return n, c, n * parts + part, start, stop


def warp_per_tile(tiles: Any, *_: Any) -> tuple[int, int]:
    """A warp for each tile of each channel."""
    return -(-tiles.shape[1] * tiles.shape[2] * WARP // THREADS), THREADS


@cuda_helper
def tile_of_warp(x):
    """Sample, channel, and index of this warp's tile, its first element for this thread, and the one after its last."""
    channels, length = np.uint32(x.shape[1]), np.uint32(x.shape[2])
    parts = np.uint32((length + np.uint32(BLOCK - 1)) // np.uint32(BLOCK))
    plane, part = split(np.uint32(cuda.grid(1)) >> np.uint32(5), parts)
    n, c = split(plane, channels)
    start = np.uint32(part * np.uint32(BLOCK))
    stop = np.uint32(min(length, start + np.uint32(BLOCK)))
    return n, c, np.uint32(n * parts + part), np.uint32(start + np.uint32(cuda.threadIdx.x & 31)), stop


def over_runs(first: Any, *_: Any) -> tuple[tuple[int, int], int]:
    """`run_grid` of the runs (n, c) of (N, C, L)."""
    n, c, length = first.shape
    return run_grid(n * c, length)


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


@plane_moments.on_cuda(grid=warp_per_tile)
def plane_moments(tiles: Scratch, x: In):
    """A warp has a tile."""
    n, c, t, first, stop = tile_of_warp(x)
    if n < np.uint32(x.shape[0]):  # for all of a warp or none
        shift = deviation = square = x.dtype.type(0)
        i = first
        while i < stop:
            shift += x[n, c, i]
            i = np.uint32(i + np.uint32(WARP))
        count = x.dtype.type(stop - (first - np.uint32(cuda.threadIdx.x & 31)))
        shift = warp_sum(shift) / count
        i = first
        while i < stop:
            difference = x[n, c, i] - shift
            deviation += difference
            square += difference * difference
            i = np.uint32(i + np.uint32(WARP))
        deviation, square = warp_sum(deviation), warp_sum(square)
        if cuda.threadIdx.x & 31 == 0:
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


@plane_normalize.on_cuda(grid=over_runs)
def plane_normalize(y: Out, mean: Saved, inv_std: Saved, x: In, weight: In, bias: In):
    """A row of threads has a run."""
    p = first_plane()
    while p < np.uint32(x.shape[0]) * np.uint32(x.shape[1]):
        n, c = split(p, x.shape[1])
        center, scale, shift, i = mean[c], inv_std[c] * weight[c], bias[c], place_in_plane()
        while i < np.uint32(x.shape[2]):
            y[n, c, i] = (x[n, c, i] - center) * scale + shift
            i = np.uint32(i + row_of_threads())
        p = next_plane(p)


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


@plane_gradient_sums.on_cuda(grid=lambda mean, tiles, *_: warp_per_tile(tiles))
def plane_gradient_sums(mean: Saved, tiles: Scratch, x: In, dy: In):
    """A warp has a tile."""
    n, c, t, i, stop = tile_of_warp(x)
    if n < np.uint32(x.shape[0]):
        level = slope = x.dtype.type(0)
        while i < stop:
            level += dy[n, c, i]
            slope += dy[n, c, i] * (x[n, c, i] - mean[c])
            i = np.uint32(i + np.uint32(WARP))
        level, slope = warp_sum(level), warp_sum(slope)
        if cuda.threadIdx.x & 31 == 0:
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


@plane_backward_input.on_cuda(grid=over_runs)
def plane_backward_input(dx: Out, mean: Saved, coefficients: Scratch, x: In, dy: In):
    """A row of threads has a run."""
    p = first_plane()
    while p < np.uint32(x.shape[0]) * np.uint32(x.shape[1]):
        n, c = split(p, x.shape[1])
        center, scale, level, slope = mean[c], coefficients[0, c], coefficients[1, c], coefficients[2, c]
        i = place_in_plane()
        while i < np.uint32(x.shape[2]):
            dx[n, c, i] = scale * dy[n, c, i] - level - slope * (x[n, c, i] - center)
            i = np.uint32(i + row_of_threads())
        p = next_plane(p)

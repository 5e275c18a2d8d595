"""Batch normalisation over long runs: x, y, dx, dy are (N, C, L), and the loops run along L.

A tile is up to BLOCK elements of one run: it stays in the first cache while it is read twice. Tile n J + j of channel c is
part j of the run (n, c); J is the number of parts of a run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.cuda.planes import first_plane, next_plane, place_of_window, row_of_windows, run_grid, split
from numba_nn.core.cuda.portable import fetch, put
from numba_nn.core.cuda.ptx import WINDOW, cuda
from numba_nn.core.cuda.reduce import WARP, warp_sum
from numba_nn.core.cuda.twin import THREADS, cuda_helper
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


def warp_per_tile(tiles: Any, *_: Any) -> tuple[int, int]:
    """A warp for each tile of each channel."""
    return -(-tiles.shape[1] * tiles.shape[2] * WARP // THREADS), THREADS


@cuda_helper
def tile_of_warp(x):
    """Sample, channel, index and bounds of this warp's tile, and the first element in it for this thread."""
    channels, length = np.uint32(x.shape[1]), np.uint32(x.shape[2])
    parts = np.uint32((length + np.uint32(BLOCK - 1)) // np.uint32(BLOCK))
    plane, part = split(np.uint32(cuda.grid(1)) >> np.uint32(5), parts)
    n, c = split(plane, channels)
    start = np.uint32(part * np.uint32(BLOCK))
    stop = np.uint32(min(length, start + np.uint32(BLOCK)))
    return n, c, np.uint32(n * parts + part), start, stop, np.uint64(cuda.threadIdx.x & 31) * np.uint64(WINDOW)


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
    n, c, t, start, stop, first = tile_of_warp(x)
    if n < np.uint32(x.shape[0]):  # for all of a warp or none
        run, window = x[n, c, start:stop], cuda.local.array(WINDOW, x.dtype)
        shift = deviation = square = x.dtype.type(0)
        at = first
        while at < np.uint64(run.size):
            fetch(window, run, at)
            shift += window[0] + window[1] + window[2] + window[3]
            at += np.uint64(WARP * WINDOW)
        count = x.dtype.type(run.size)
        shift, at = warp_sum(shift) / count, first
        while at < np.uint64(run.size):
            fetch(window, run, at)
            for lane in range(WINDOW):
                if at + np.uint64(lane) < np.uint64(run.size):
                    deviation += window[lane] - shift
                    square += (window[lane] - shift) * (window[lane] - shift)
            at += np.uint64(WARP * WINDOW)
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
    window, p = cuda.local.array(WINDOW, x.dtype), first_plane()
    while p < np.uint32(x.shape[0]) * np.uint32(x.shape[1]):
        n, c = split(p, x.shape[1])
        source, target, at = x[n, c], y[n, c], np.uint64(place_of_window())
        center, scale, shift = mean[c], inv_std[c] * weight[c], bias[c]
        while at < np.uint64(source.size):
            fetch(window, source, at)
            for lane in range(WINDOW):
                window[lane] = (window[lane] - center) * scale + shift
            put(target, at, window, target.size)
            at += np.uint64(row_of_windows())
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
    n, c, t, start, stop, at = tile_of_warp(x)
    if n < np.uint32(x.shape[0]):
        run, gradient = x[n, c, start:stop], dy[n, c, start:stop]
        values, slopes = cuda.local.array(WINDOW, x.dtype), cuda.local.array(WINDOW, x.dtype)
        level = slope = x.dtype.type(0)
        while at < np.uint64(run.size):
            fetch(values, run, at)
            fetch(slopes, gradient, at)  # beyond the end 0: what follows is 0 too
            for lane in range(WINDOW):
                level += slopes[lane]
                slope += slopes[lane] * (values[lane] - mean[c])
            at += np.uint64(WARP * WINDOW)
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
    values, slopes, p = cuda.local.array(WINDOW, x.dtype), cuda.local.array(WINDOW, x.dtype), first_plane()
    while p < np.uint32(x.shape[0]) * np.uint32(x.shape[1]):
        n, c = split(p, x.shape[1])
        run, gradient, target, at = x[n, c], dy[n, c], dx[n, c], np.uint64(place_of_window())
        center, scale, level, slope = mean[c], coefficients[0, c], coefficients[1, c], coefficients[2, c]
        while at < np.uint64(run.size):
            fetch(values, run, at)
            fetch(slopes, gradient, at)
            for lane in range(WINDOW):
                values[lane] = scale * slopes[lane] - level - slope * (values[lane] - center)
            put(target, at, values, target.size)
            at += np.uint64(row_of_windows())
        p = next_plane(p)

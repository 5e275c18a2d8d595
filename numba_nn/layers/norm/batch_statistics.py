"""Statistics of channels: a batch's from the sums over tiles, in float64 and in a fixed order, and running ones.

``tiles`` holds some sums over every one of the T tiles of each channel.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import float64, prange

from numba_nn.core.cuda.portable import thread, threads_in_grid
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.cuda.reduce import WARP, one_block, warp_sum
from numba_nn.core.kernel import In, Out, Saved, Scratch, inlined, kernel
from numba_nn.core.vmath import constant

CUMULATIVE = -1.0  # in place of a momentum: the mean over all batches


@inlined
def beside(shift, deviation):
    """A tile's sum of x - s beside n s: of an infinity x - s is NaN, but the mean is infinite."""
    return deviation if math.isfinite(shift) else constant(deviation, 0)


@kernel
def batch_statistics(mean: Saved, inv_std: Saved, variance: Scratch, tiles: Scratch, eps: float):
    """Mean, biased variance, and 1 / sqrt(variance + eps), from tiles of n, shift s, sum of x - s, sum of (x - s)^2.

    sum (x - mean)^2 = sum (x - s)^2 + 2 (s - mean) sum (x - s) + n (s - mean)^2: nothing large cancels, since s is near the
    tile's mean.
    """
    for c in prange(mean.size):
        count = total = squares = 0.0
        for t in range(tiles.shape[1]):
            n, shift = float64(tiles[0, t, c]), float64(tiles[1, t, c])
            count += n
            total += n * shift + beside(shift, float64(tiles[2, t, c]))
        center = total / count
        for t in range(tiles.shape[1]):
            away = tiles[1, t, c] - center
            squares += tiles[3, t, c] + away * (2.0 * tiles[2, t, c] + tiles[0, t, c] * away)
        mean[c] = center
        variance[c] = squares / count
        inv_std[c] = 1.0 / math.sqrt(squares / count + eps)


def warp_per_channel(first: Any, *_: Any) -> tuple[int, int]:
    """A grid with a warp for each element of the first argument."""
    return first.size, WARP


@batch_statistics.on_cuda(grid=warp_per_channel)
def batch_statistics(mean: Saved, inv_std: Saved, variance: Scratch, tiles: Scratch, eps: float):
    """A warp has a channel. Sums are of differences from the first tile's shift: so float32 serves in place of float64."""
    c, lane, count = np.uint32(cuda.blockIdx.x), np.uint32(cuda.threadIdx.x), mean.dtype.type(0)
    total, squares, near, t = count, count, beside(tiles[1, 0, c], tiles[1, 0, c]), lane
    while t < np.uint32(tiles.shape[1]):
        count += tiles[0, t, c]
        total += tiles[0, t, c] * (tiles[1, t, c] - near) + beside(tiles[1, t, c], tiles[2, t, c])
        t = np.uint32(t + np.uint32(WARP))
    count = warp_sum(count)
    away, t = warp_sum(total) / count, lane
    while t < np.uint32(tiles.shape[1]):
        apart = (tiles[1, t, c] - near) - away
        squares += tiles[3, t, c] + apart * (tiles[2, t, c] + tiles[2, t, c] + tiles[0, t, c] * apart)
        t = np.uint32(t + np.uint32(WARP))
    spread = warp_sum(squares) / count
    if lane == 0:
        mean[c], variance[c] = near + away, spread
        inv_std[c] = mean.dtype.type(1) / math.sqrt(spread + eps)


@kernel
def update_running(
    running_mean: Out, running_var: Out, tracked: Out, variance: Scratch, mean: In, momentum: float, unbiased: float
):  # fmt: skip
    """running = (1 - factor) running + factor statistic, with variance * unbiased, and one batch more tracked.

    factor: the momentum; 1 / number of batches for `CUMULATIVE`. Arrays are empty where the batch is: it is counted only.
    """
    factor = 1.0 / (tracked[0] + 1) if momentum == CUMULATIVE else momentum
    for c in prange(mean.size):
        running_mean[c] = (1.0 - factor) * running_mean[c] + factor * mean[c]
        running_var[c] = (1.0 - factor) * running_var[c] + factor * unbiased * variance[c]
    tracked[0] += 1


@update_running.on_cuda(grid=one_block)
def update_running(
    running_mean: Out, running_var: Out, tracked: Out, variance: Scratch, mean: In, momentum: float, unbiased: float
):  # fmt: skip
    """One block: all of its threads have read `tracked` before one counts on."""
    one, c = mean.dtype.type(1), np.uint32(cuda.threadIdx.x)
    factor = one / mean.dtype.type(tracked[0] + 1) if momentum == CUMULATIVE else momentum
    while c < np.uint32(mean.size):
        running_mean[c] = (one - factor) * running_mean[c] + factor * mean[c]
        running_var[c] = (one - factor) * running_var[c] + factor * unbiased * variance[c]
        c = np.uint32(c + np.uint32(cuda.blockDim.x))
    cuda.syncthreads()  # all have read how many there were
    if cuda.threadIdx.x == 0:
        tracked[0] += 1


@kernel
def recall_running(mean: Saved, inv_std: Saved, running_mean: In, running_var: In, eps: float):
    """The statistics of eval mode."""
    for c in prange(mean.size):
        mean[c] = running_mean[c]
        inv_std[c] = 1.0 / math.sqrt(running_var[c] + eps)


@recall_running.on_cuda
def recall_running(mean: Saved, inv_std: Saved, running_mean: In, running_var: In, eps: float):
    """A thread has a channel."""
    c = thread()
    while c < np.uint64(mean.size):
        mean[c] = running_mean[c]
        inv_std[c] = mean.dtype.type(1) / math.sqrt(running_var[c] + eps)
        c += threads_in_grid()


@kernel
def fold_running(
    scale: Out, shift: Out, bias_before: In, running_mean: In, running_var: In, weight: In, bias: In, eps: float
):  # fmt: skip
    """scale z + shift is the normalisation of z + bias_before by running statistics."""
    for c in prange(scale.size):
        scale[c] = weight[c] / math.sqrt(running_var[c] + eps)
        shift[c] = (bias_before[c] - running_mean[c]) * scale[c] + bias[c]


@fold_running.on_cuda
def fold_running(
    scale: Out, shift: Out, bias_before: In, running_mean: In, running_var: In, weight: In, bias: In, eps: float
):  # fmt: skip
    """A thread has a channel."""
    c = thread()
    while c < np.uint64(scale.size):
        factor = weight[c] / math.sqrt(running_var[c] + eps)
        scale[c], shift[c] = factor, (bias_before[c] - running_mean[c]) * factor + bias[c]
        c += threads_in_grid()


@kernel
def gradient_coefficients(
    dweight: Out, dbias: Out, inv_std: Saved, coefficients: Scratch, tiles: Scratch, weight: In, share: float
):  # fmt: skip
    """From tiles of sum dy and sum dy (x - mean): what is added to dweight and dbias, and scale, level and slope of dx.

    dweight, dbias may be empty; share: of one value in its channel's mean; 0 if the statistics did not come from the batch. Not
    a product with 0 then: a NaN in one sample's dy stays there.
    """
    for c in prange(inv_std.size):
        level = slope = 0.0
        for t in range(tiles.shape[1]):
            level += tiles[0, t, c]
            slope += tiles[1, t, c]
        scale = inv_std[c] * weight[c]
        if c < dbias.size:
            dbias[c] += dbias.dtype.type(level)
        if c < dweight.size:
            dweight[c] += dweight.dtype.type(slope * inv_std[c])
        coefficients[0, c] = scale
        coefficients[1, c] = scale * level * share if share > 0.0 else 0.0
        coefficients[2, c] = scale * slope * inv_std[c] * inv_std[c] * share if share > 0.0 else 0.0


@gradient_coefficients.on_cuda(grid=lambda dweight, dbias, inv_std, *_: warp_per_channel(inv_std))
def gradient_coefficients(
    dweight: Out, dbias: Out, inv_std: Saved, coefficients: Scratch, tiles: Scratch, weight: In, share: float
):  # fmt: skip
    """A warp has a channel."""
    c, t, zero = np.uint32(cuda.blockIdx.x), np.uint32(cuda.threadIdx.x), inv_std.dtype.type(0)
    level = slope = zero
    while t < np.uint32(tiles.shape[1]):
        level += tiles[0, t, c]
        slope += tiles[1, t, c]
        t = np.uint32(t + np.uint32(WARP))
    level, slope = warp_sum(level), warp_sum(slope) * inv_std[c]
    if cuda.threadIdx.x == 0:
        if dbias.size > 0:
            dbias[c] += level
        if dweight.size > 0:
            dweight[c] += slope
        scale = inv_std[c] * weight[c]
        coefficients[0, c] = scale
        coefficients[1, c] = scale * level * share if share > 0 else zero
        coefficients[2, c] = scale * slope * inv_std[c] * share if share > 0 else zero

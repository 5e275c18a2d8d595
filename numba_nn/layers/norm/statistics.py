"""Statistics of channels: a batch's from the sums over tiles, in float64 and in a fixed order, and running ones.

``tiles`` holds some sums over every one of the T tiles of each channel.
"""

from __future__ import annotations

import math

from numba import float64, prange

from numba_nn.core.kernel import In, Out, Saved, Scratch, kernel


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
            total += n * shift + tiles[2, t, c]
        center = total / count
        for t in range(tiles.shape[1]):
            away = tiles[1, t, c] - center
            squares += tiles[3, t, c] + away * (2.0 * tiles[2, t, c] + tiles[0, t, c] * away)
        mean[c] = center
        variance[c] = squares / count
        inv_std[c] = 1.0 / math.sqrt(squares / count + eps)


@kernel
def update_running(
    running_mean: Out, running_var: Out, tracked: Out, variance: Scratch, mean: In, factor: float, unbiased: float
):  # fmt: skip
    """running = (1 - factor) running + factor statistic, with variance * unbiased, and one batch more tracked."""
    for c in prange(mean.size):
        running_mean[c] = (1.0 - factor) * running_mean[c] + factor * mean[c]
        running_var[c] = (1.0 - factor) * running_var[c] + factor * unbiased * variance[c]
    tracked[0] += 1


@kernel
def recall_running(mean: Saved, inv_std: Saved, running_mean: In, running_var: In, eps: float):
    """The statistics of eval mode."""
    for c in prange(mean.size):
        mean[c] = running_mean[c]
        inv_std[c] = 1.0 / math.sqrt(running_var[c] + eps)


@kernel
def fold_running(
    scale: Out, shift: Out, bias_before: In, running_mean: In, running_var: In, weight: In, bias: In, eps: float
):  # fmt: skip
    """scale z + shift is the normalisation of z + bias_before by running statistics."""
    for c in prange(scale.size):
        scale[c] = weight[c] / math.sqrt(running_var[c] + eps)
        shift[c] = (bias_before[c] - running_mean[c]) * scale[c] + bias[c]


@kernel
def gradient_coefficients(
    inv_std: Saved, sums: Scratch, coefficients: Scratch, tiles: Scratch, weight: In, share: float
):  # fmt: skip
    """From tiles of sum dy and sum dy (x - mean): sums, which are added to dbias and dweight, and scale, level and slope of dx.

    share: of one value in its channel's mean; 0 if the statistics did not come from the batch. Not a product with 0 then: a NaN
    in one sample's dy stays there.
    """
    for c in prange(inv_std.size):
        level = slope = 0.0
        for t in range(tiles.shape[1]):
            level += tiles[0, t, c]
            slope += tiles[1, t, c]
        scale = inv_std[c] * weight[c]
        sums[0, c] = level
        sums[1, c] = slope * inv_std[c]
        coefficients[0, c] = scale
        coefficients[1, c] = scale * level * share if share > 0.0 else 0.0
        coefficients[2, c] = scale * slope * inv_std[c] * inv_std[c] * share if share > 0.0 else 0.0

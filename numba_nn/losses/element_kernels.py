"""Kernels of the losses of single elements, `numba_nn.losses.elementwise`.

They take flat arrays: p prediction, t target, w weight, v weight of the positive class. A loss has three: the sum, each single
loss, and the gradient. Those with exponentials and logarithms run over fixed blocks, as sums do. A value out of range,
where there is a range, makes the loss NaN.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from numba_nn.core.cuda.portable import fetch
from numba_nn.core.cuda.ptx import WINDOW, cuda
from numba_nn.core.cuda.twin import cuda_kernel
from numba_nn.core.kernel import In, Out, Scratch, exact, inner, kernel, portable
from numba_nn.core.reduce import block_bounds, block_count, ordered_sum
from numba_nn.core.vmath import constant, exp_below, log, multiply_add, polynomial, sigmoid
from numba_nn.losses.sums import STEP, block_per_sum, put_sum, scaled_total, windows_of_thread

LEAST_LOG = -100.0  # PyTorch's bound on the logarithms of BCELoss
LEAST_VARIANCE = 1e-12  # and on p (1 - p) in its gradient
ARTANH_SINGLE = tuple(2 / (2 * k + 1) for k in range(8))  # of 2 artanh(s) / s, in s^2 <= 1/9: the rest is below rounding
ARTANH_DOUBLE = tuple(2 / (2 * k + 1) for k in range(17))


@kernel
def squared_error_forward(loss: Out, partial: Scratch, prediction: In, target: In, scale: float):
    """loss[0] = scale sum (p - t)^2; partial: float64, one element for each block."""
    for block in prange(partial.size):
        start, stop = block_bounds(block, prediction.size)
        p, t, total = prediction[start:stop], target[start:stop], prediction.dtype.type(0)
        for i in range(p.size):
            total += (p[i] - t[i]) * (p[i] - t[i])
        partial[block] = total
    loss[0] = ordered_sum(partial) * scale


@portable
def squared_error_each_forward(loss: Out, prediction: In, target: In):
    """loss = (p - t)^2, element by element."""
    for i in prange(prediction.size):
        difference = prediction[i] - target[i]
        loss[i] = difference * difference


@portable
def squared_error_backward(dx: Out, prediction: In, target: In, scale: float):
    """dx = 2 scale (p - t)."""
    factor = prediction.dtype.type(2 * scale)
    for i in prange(prediction.size):
        dx[i] = factor * (prediction[i] - target[i])


@kernel
def absolute_error_forward(loss: Out, partial: Scratch, prediction: In, target: In, scale: float):
    """loss[0] = scale sum |p - t|; partial: float64, one element for each block."""
    for block in prange(partial.size):
        start, stop = block_bounds(block, prediction.size)
        p, t, total = prediction[start:stop], target[start:stop], prediction.dtype.type(0)
        for i in range(p.size):
            total += abs(p[i] - t[i])
        partial[block] = total
    loss[0] = ordered_sum(partial) * scale


@portable
def absolute_error_each_forward(loss: Out, prediction: In, target: In):
    """loss = |p - t|, element by element."""
    for i in prange(prediction.size):
        loss[i] = abs(prediction[i] - target[i])


@portable
def absolute_error_backward(dx: Out, prediction: In, target: In, scale: float):
    """dx = scale sign(p - t); 0 where they are equal."""
    factor = prediction.dtype.type(scale)
    for i in prange(prediction.size):
        difference = prediction[i] - target[i]
        signed = -factor if difference < 0 else difference  # 0 or NaN, unless it is positive
        dx[i] = factor if difference > 0 else signed


@inner
def log_one_plus(e, one):
    """log(1 + e) for -1/2 <= e <= 1, with all its digits where e is small: 2 artanh(e / (2 + e)), by its series."""
    s = e / (one + one + e)
    return s * polynomial(s * s, ARTANH_SINGLE, ARTANH_DOUBLE)


@inner
def likelihood_error(p, t, w, one, least):
    """-w (t log p + (1 - t) log(1 - p)); 1 - p is exact where p is above 1/2, and its logarithm a series elsewhere.

    NaN for a t out of range, as for such a p.
    """
    t = t if (t >= 0) & (t <= one) else constant(t, math.nan)
    log_p, log_q = log(p), log(one - p)
    log_q = log_one_plus(-p, one) if p + p < one else log_q
    log_p = least if log_p < least else log_p
    log_q = least if log_q < least else log_q
    return -w * (t * log_p + (one - t) * log_q)


@kernel
def likelihood_error_forward(loss: Out, partial: Scratch, prediction: In, target: In, weight: In, scale: float):
    """loss[0] = -scale sum w (t log p + (1 - t) log(1 - p)); partial: float64, one element for each block."""
    one, least = prediction.dtype.type(1), prediction.dtype.type(LEAST_LOG)
    for block in prange(partial.size):
        start, stop = block_bounds(block, prediction.size)
        p, t, w, total = prediction[start:stop], target[start:stop], weight[start:stop], prediction.dtype.type(0)
        for i in range(p.size):
            total += likelihood_error(p[i], t[i], w[i], one, least)
        partial[block] = total
    loss[0] = ordered_sum(partial) * scale


@portable
def likelihood_error_each_forward(loss: Out, prediction: In, target: In, weight: In):
    """loss = -w (t log p + (1 - t) log(1 - p)), element by element."""
    one, least = prediction.dtype.type(1), prediction.dtype.type(LEAST_LOG)
    for block in prange(block_count(prediction.size)):
        start, stop = block_bounds(block, prediction.size)
        single, p, t, w = loss[start:stop], prediction[start:stop], target[start:stop], weight[start:stop]
        for i in range(p.size):
            single[i] = likelihood_error(p[i], t[i], w[i], one, least)


@portable
def likelihood_error_backward(dx: Out, prediction: In, target: In, weight: In, scale: float):
    """dx = scale w (p - t) / (p (1 - p))."""
    factor, one = prediction.dtype.type(scale), prediction.dtype.type(1)
    least = prediction.dtype.type(LEAST_VARIANCE)
    for i in prange(prediction.size):
        variance = prediction[i] * (one - prediction[i])
        variance = least if variance < least else variance
        dx[i] = factor * weight[i] * (prediction[i] - target[i]) / variance


@inner
def logistic_error(p, t, w, v, one):
    """w (v t log(1 + exp(-p)) + (1 - t) log(1 + exp(p))); exp never overflows, and small losses keep their digits."""
    positive, negative = v * t, one - t
    slack = log_one_plus(exp_below(-abs(p)), one)
    return w * ((positive + negative) * slack + (negative * p if p > 0 else -positive * p))


@kernel
def logistic_error_forward(
    loss: Out, partial: Scratch, prediction: In, target: In, weight: In, pos_weight: In, scale: float
):  # fmt: skip
    """loss[0] = scale sum w (v t log(1 + exp(-p)) + (1 - t) log(1 + exp(p))); partial: float64, one for each block."""
    one = prediction.dtype.type(1)
    for block in prange(partial.size):
        start, stop = block_bounds(block, prediction.size)
        p, t, w, v = prediction[start:stop], target[start:stop], weight[start:stop], pos_weight[start:stop]
        total = prediction.dtype.type(0)
        for i in range(p.size):
            total += logistic_error(p[i], t[i], w[i], v[i], one)
        partial[block] = total
    loss[0] = ordered_sum(partial) * scale


@portable
def logistic_error_each_forward(loss: Out, prediction: In, target: In, weight: In, pos_weight: In):
    """loss = w (v t log(1 + exp(-p)) + (1 - t) log(1 + exp(p))), element by element."""
    one = prediction.dtype.type(1)
    for block in prange(block_count(prediction.size)):
        start, stop = block_bounds(block, prediction.size)
        p, t, w, v = prediction[start:stop], target[start:stop], weight[start:stop], pos_weight[start:stop]
        single = loss[start:stop]
        for i in range(p.size):
            single[i] = logistic_error(p[i], t[i], w[i], v[i], one)


@exact
def logistic_gradient(p, t, w, v, one):
    """w ((v t + 1 - t) sigmoid(p) - v t), with all digits of a small v t."""
    positive = v * t
    return w * multiply_add(positive + (one - t), sigmoid(p), -positive)


@portable
def logistic_error_backward(dx: Out, prediction: In, target: In, weight: In, pos_weight: In, scale: float):
    """dx = scale w ((v t + 1 - t) sigmoid(p) - v t)."""
    factor, one = prediction.dtype.type(scale), prediction.dtype.type(1)
    for block in prange(block_count(prediction.size)):
        start, stop = block_bounds(block, prediction.size)
        p, t, w, v = prediction[start:stop], target[start:stop], weight[start:stop], pos_weight[start:stop]
        dp = dx[start:stop]
        for i in range(p.size):
            dp[i] = factor * logistic_gradient(p[i], t[i], w[i], v[i], one)


# ---- sums on a GPU -----------------------------------------------------------------------------------------------------


@cuda_kernel(grid=block_per_sum)
def squared_error_sums(partial: Out, prediction: In, target: In):
    """partial = sum of the single losses of every block."""
    total, (at, stop) = prediction.dtype.type(0), windows_of_thread(prediction)
    p = cuda.local.array(WINDOW, prediction.dtype)
    t = cuda.local.array(WINDOW, target.dtype)
    while at < stop:
        fetch(p, prediction, at)
        fetch(t, target, at)
        for lane in range(WINDOW):
            total += (p[lane] - t[lane]) * (p[lane] - t[lane])
        at += np.uint64(STEP)
    put_sum(partial, total, prediction)


@squared_error_forward.on_cuda(steps=True)
def squared_error_forward(
    loss: Out, partial: Scratch, prediction: In, target: In, scale: float
):  # fmt: skip
    """Sums of blocks, then their sum."""
    squared_error_sums(partial, prediction, target)
    scaled_total(loss, partial, scale)


@cuda_kernel(grid=block_per_sum)
def absolute_error_sums(partial: Out, prediction: In, target: In):
    """partial = sum of the single losses of every block."""
    total, (at, stop) = prediction.dtype.type(0), windows_of_thread(prediction)
    p = cuda.local.array(WINDOW, prediction.dtype)
    t = cuda.local.array(WINDOW, target.dtype)
    while at < stop:
        fetch(p, prediction, at)
        fetch(t, target, at)
        for lane in range(WINDOW):
            total += abs(p[lane] - t[lane])
        at += np.uint64(STEP)
    put_sum(partial, total, prediction)


@absolute_error_forward.on_cuda(steps=True)
def absolute_error_forward(
    loss: Out, partial: Scratch, prediction: In, target: In, scale: float
):  # fmt: skip
    """Sums of blocks, then their sum."""
    absolute_error_sums(partial, prediction, target)
    scaled_total(loss, partial, scale)


@cuda_kernel(grid=block_per_sum)
def likelihood_error_sums(partial: Out, prediction: In, target: In, weight: In):
    """partial = sum of the single losses of every block."""
    one, least = prediction.dtype.type(1), prediction.dtype.type(LEAST_LOG)
    total, (at, stop) = prediction.dtype.type(0), windows_of_thread(prediction)
    p = cuda.local.array(WINDOW, prediction.dtype)
    t = cuda.local.array(WINDOW, target.dtype)
    w = cuda.local.array(WINDOW, weight.dtype)
    while at < stop:
        fetch(p, prediction, at)
        fetch(t, target, at)
        fetch(w, weight, at)
        for lane in range(WINDOW):
            total += likelihood_error(p[lane], t[lane], w[lane], one, least)
        at += np.uint64(STEP)
    put_sum(partial, total, prediction)


@likelihood_error_forward.on_cuda(steps=True)
def likelihood_error_forward(
    loss: Out, partial: Scratch, prediction: In, target: In, weight: In, scale: float
):  # fmt: skip
    """Sums of blocks, then their sum."""
    likelihood_error_sums(partial, prediction, target, weight)
    scaled_total(loss, partial, scale)


@cuda_kernel(grid=block_per_sum)
def logistic_error_sums(partial: Out, prediction: In, target: In, weight: In, pos_weight: In):
    """partial = sum of the single losses of every block."""
    one = prediction.dtype.type(1)
    total, (at, stop) = prediction.dtype.type(0), windows_of_thread(prediction)
    p = cuda.local.array(WINDOW, prediction.dtype)
    t = cuda.local.array(WINDOW, target.dtype)
    w = cuda.local.array(WINDOW, weight.dtype)
    v = cuda.local.array(WINDOW, pos_weight.dtype)
    while at < stop:
        fetch(p, prediction, at)
        fetch(t, target, at)
        fetch(w, weight, at)
        fetch(v, pos_weight, at)
        for lane in range(WINDOW):
            total += logistic_error(p[lane], t[lane], w[lane], v[lane], one)
        at += np.uint64(STEP)
    put_sum(partial, total, prediction)


@logistic_error_forward.on_cuda(steps=True)
def logistic_error_forward(
    loss: Out, partial: Scratch, prediction: In, target: In, weight: In, pos_weight: In, scale: float
):  # fmt: skip
    """Sums of blocks, then their sum."""
    logistic_error_sums(partial, prediction, target, weight, pos_weight)
    scaled_total(loss, partial, scale)

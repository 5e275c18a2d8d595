"""Losses of a prediction and a target of one shape.

With L the mean, the sum, or nothing, of the single losses l:

    MSELoss              l = (p - t)^2
    L1Loss               l = |p - t|
    BCELoss              l = -w (t log p + (1 - t) log(1 - p)), logarithms no less than -100
    BCEWithLogitsLoss    l = w (v t log(1 + exp(-p)) + (1 - t) log(1 + exp(p)))

Kernels take flat arrays: p prediction, t target, w weight, v weight of the positive class. A loss has three: the sum, each
single loss, and the gradient. Those with exponentials and logarithms run over fixed blocks, as sums do.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.checks import check_array, check_shape
from numba_nn.core.errors import RangeError, ShapeError
from numba_nn.core.kernel import In, Kernel, Out, Scratch, inner, kernel
from numba_nn.core.reduce import BLOCK, block_bounds, block_count, ordered_sum
from numba_nn.core.vmath import exp_below, log, polynomial, sigmoid
from numba_nn.core.workspace import Shape, Spec
from numba_nn.layers.softmax import EXP_WORK
from numba_nn.losses.base import Loss, own_weight

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


@kernel
def squared_error_each_forward(loss: Out, prediction: In, target: In):
    """loss = (p - t)^2, element by element."""
    for i in prange(prediction.size):
        difference = prediction[i] - target[i]
        loss[i] = difference * difference


@kernel
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


@kernel
def absolute_error_each_forward(loss: Out, prediction: In, target: In):
    """loss = |p - t|, element by element."""
    for i in prange(prediction.size):
        loss[i] = abs(prediction[i] - target[i])


@kernel
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
    """-w (t log p + (1 - t) log(1 - p)); 1 - p is exact where p is above 1/2, and its logarithm a series elsewhere."""
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


@kernel
def likelihood_error_each_forward(loss: Out, prediction: In, target: In, weight: In):
    """loss = -w (t log p + (1 - t) log(1 - p)), element by element."""
    one, least = prediction.dtype.type(1), prediction.dtype.type(LEAST_LOG)
    for block in prange(-(-prediction.size // BLOCK)):
        start, stop = block_bounds(block, prediction.size)
        single, p, t, w = loss[start:stop], prediction[start:stop], target[start:stop], weight[start:stop]
        for i in range(p.size):
            single[i] = likelihood_error(p[i], t[i], w[i], one, least)


@kernel
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


@kernel
def logistic_error_each_forward(loss: Out, prediction: In, target: In, weight: In, pos_weight: In):
    """loss = w (v t log(1 + exp(-p)) + (1 - t) log(1 + exp(p))), element by element."""
    one = prediction.dtype.type(1)
    for block in prange(-(-prediction.size // BLOCK)):
        start, stop = block_bounds(block, prediction.size)
        p, t, w, v = prediction[start:stop], target[start:stop], weight[start:stop], pos_weight[start:stop]
        single = loss[start:stop]
        for i in range(p.size):
            single[i] = logistic_error(p[i], t[i], w[i], v[i], one)


@kernel
def logistic_error_backward(dx: Out, prediction: In, target: In, weight: In, pos_weight: In, scale: float):
    """dx = scale w ((v t + 1 - t) sigmoid(p) - v t)."""
    factor, one = prediction.dtype.type(scale), prediction.dtype.type(1)
    for block in prange(-(-prediction.size // BLOCK)):
        start, stop = block_bounds(block, prediction.size)
        p, t, w, v = prediction[start:stop], target[start:stop], weight[start:stop], pos_weight[start:stop]
        dp = dx[start:stop]
        for i in range(p.size):
            positive = v[i] * t[i]
            dp[i] = factor * w[i] * ((positive + one - t[i]) * sigmoid(p[i]) - positive)


@kernel
def probability_check(wrong: Out, prediction: In):
    """wrong[0] = how many predictions lie outside of 0 .. 1; NaN does not."""
    count = 0
    for i in range(prediction.size):
        count += (prediction[i] < 0) | (prediction[i] > 1)
    wrong[0] = count


class _ElementwiseLoss(Loss):
    """A loss of single elements, by its three kernels; weights are spread over the prediction's shape, once for each shape."""

    sum_kernel: ClassVar[Kernel]
    each_kernel: ClassVar[Kernel]
    gradient_kernel: ClassVar[Kernel]
    work: ClassVar[int] = 1  # of an element, in simple operations
    weights: ClassVar[tuple[str, ...]] = ()

    def loss_shape(self, shape: Shape) -> Shape:
        """Shape of the single losses: the prediction's.

        Raises
        ------
        ShapeError
            If a weight does not broadcast to it.
        """
        for name in self.weights:
            weight = getattr(self, name)
            if weight is not None and not _broadcasts(weight.shape, shape):
                raise ShapeError(f"{self!r}: {name} of shape {weight.shape} does not broadcast to prediction of shape {shape}")
        return shape

    def saved_spec(self, shape: Shape, dtype: Any) -> dict[str, Spec]:
        """Weights of every element."""
        return dict.fromkeys(self.weights, (shape, dtype))

    def scratch_spec(self, shape: Shape, dtype: Any) -> dict[str, Spec]:
        """Partial sums."""
        return {"partial": ((block_count(int(np.prod(shape))),), np.dtype(np.float64))}

    def _fill(self, arrays: Arrays) -> None:
        for name in self.weights:
            weight = getattr(self, name)
            np.copyto(arrays[name], 1 if weight is None else weight, casting="same_kind")

    def _check(self, prediction: Array, target: Any) -> None:
        check_array(self, "target", target, prediction.dtype, self.device)
        check_shape(self, "target", target.shape, prediction.shape)

    def _inputs(self, prediction: Array, target: Array, arrays: Arrays) -> list[Array]:
        return [array.reshape(-1) for array in (prediction, target, *(arrays[name] for name in self.weights))]

    def _forward(self, loss: Array, prediction: Array, target: Array, arrays: Arrays) -> None:
        inputs, work = self._inputs(prediction, target, arrays), prediction.size * self.work
        if self.reduction == "none":
            self.each_kernel.for_work(work, self.device)(loss.reshape(-1), *inputs)
        else:
            self.sum_kernel.for_work(work, self.device)(loss, arrays["partial"], *inputs, self._scale(prediction.size))

    def _backward(self, dx: Array, prediction: Array, target: Array, arrays: Arrays) -> None:
        run = self.gradient_kernel.for_work(prediction.size * self.work, self.device)
        run(dx.reshape(-1), *self._inputs(prediction, target, arrays), self._scale(prediction.size))


def _broadcasts(shape: Shape, to: Shape) -> bool:
    """Whether an array of one shape fills another."""
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(reversed(shape), reversed(to), strict=False))


class MSELoss(_ElementwiseLoss):
    """Squared error: mean, sum, or element by element of (prediction - target)^2, for arrays of any shape.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the squares of single elements: their mean, their sum, or nothing.
    """

    sum_kernel, each_kernel, gradient_kernel = squared_error_forward, squared_error_each_forward, squared_error_backward


class L1Loss(_ElementwiseLoss):
    """Absolute error: mean, sum, or element by element of |prediction - target|, for arrays of any shape.

    The gradient where they are equal is 0.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the errors of single elements: their mean, their sum, or nothing.
    """

    sum_kernel, each_kernel, gradient_kernel = absolute_error_forward, absolute_error_each_forward, absolute_error_backward


class BCELoss(_ElementwiseLoss):
    """Binary cross-entropy of probabilities: -w (t log p + (1 - t) log(1 - p)), for arrays of any shape.

    Logarithms count no less than -100, as in PyTorch. `BCEWithLogitsLoss` is more precise, where logits are at hand.

    Parameters
    ----------
    weight : ndarray, optional
        Factor w of every loss; broadcasts to the prediction's shape. Copied.
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the single losses: their mean (not divided by the weights), their sum, or nothing.

    Raises
    ------
    DTypeError
        If ``weight`` is no array of floats.
    """

    sum_kernel, each_kernel = likelihood_error_forward, likelihood_error_each_forward
    gradient_kernel = likelihood_error_backward
    work = 2 * EXP_WORK
    weights = ("weight",)

    def __init__(self, weight: Array | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.weight = own_weight(type(self).__name__, "weight", weight)
        self._wrong = np.zeros(1, np.int64)

    def _check(self, prediction: Array, target: Any) -> None:
        super()._check(prediction, target)
        probability_check(self._wrong, self._workspace.contiguous("checked", prediction).reshape(-1))
        if self._wrong[0]:
            at = np.argwhere((prediction < 0) | (prediction > 1))[0].tolist()
            raise RangeError(
                f"{self!r}: prediction must lie in 0 .. 1, got {prediction[tuple(at)]} at {at}; for logits: BCEWithLogitsLoss"
            )


class BCEWithLogitsLoss(_ElementwiseLoss):
    """Binary cross-entropy of logits: w (v t log(1 + exp(-x)) + (1 - t) log(1 + exp(x))), for arrays of any shape.

    Parameters
    ----------
    weight : ndarray, optional
        Factor w of every loss; broadcasts to the prediction's shape. Copied.
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the single losses: their mean (not divided by the weights), their sum, or nothing.
    pos_weight : ndarray, optional
        Factor v of the positive class, above 1 for more recall; broadcasts to the prediction's shape. Copied.

    Raises
    ------
    DTypeError
        If a weight is no array of floats.
    """

    sum_kernel, each_kernel, gradient_kernel = logistic_error_forward, logistic_error_each_forward, logistic_error_backward
    work = 2 * EXP_WORK
    weights = ("weight", "pos_weight")

    def __init__(
        self, weight: Array | None = None, reduction: str = "mean", pos_weight: Array | None = None
    ) -> None:  # fmt: skip
        super().__init__(reduction)
        self.weight = own_weight(type(self).__name__, "weight", weight)
        self.pos_weight = own_weight(type(self).__name__, "pos_weight", pos_weight)

"""Losses of a prediction and a target of one shape.

With L the mean, the sum, or nothing, of the single losses l:

    MSELoss              l = (p - t)^2
    L1Loss               l = |p - t|
    BCELoss              l = -w (t log p + (1 - t) log(1 - p)), logarithms no less than -100
    BCEWithLogitsLoss    l = w (v t log(1 + exp(-p)) + (1 - t) log(1 + exp(p)))
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from numba_nn.core.call import Array, Arrays
from numba_nn.core.checks import check_array, check_shape
from numba_nn.core.device import CPU
from numba_nn.core.errors import RangeError, ShapeError
from numba_nn.core.kernel import In, Kernel, Out, kernel
from numba_nn.core.reduce import block_count
from numba_nn.core.vmath import EXP_WORK
from numba_nn.core.workspace import Shape, Spec
from numba_nn.losses.base import Loss, own_weight
from numba_nn.losses.element_kernels import (
    absolute_error_backward,
    absolute_error_each_forward,
    absolute_error_forward,
    likelihood_error_backward,
    likelihood_error_each_forward,
    likelihood_error_forward,
    logistic_error_backward,
    logistic_error_each_forward,
    logistic_error_forward,
    squared_error_backward,
    squared_error_each_forward,
    squared_error_forward,
)  # fmt: skip


@kernel
def probability_check(wrong: Out, values: In):
    """wrong[0] = whether any value lies outside of 0 .. 1; NaN does not."""
    found = False
    for i in range(values.size):
        found |= (values[i] < 0) | (values[i] > 1)
    wrong[0] = found


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
            self.device.assign(arrays[name], 1 if weight is None else weight)

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

    Predictions p and targets t outside of 0 .. 1 are refused.
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

    def _check_values(self, prediction: Array, target: Array) -> None:
        for name, array in (("prediction", prediction), ("target", target)):
            host = self._workspace.contiguous("checked", array) if self.device is CPU else self.device.to_host(array)
            probability_check(self._wrong, host.reshape(-1))
            if self._wrong[0]:
                at = np.argwhere((host < 0) | (host > 1))[0].tolist()
                advice = "; for logits: BCEWithLogitsLoss" if array is prediction else ""
                raise RangeError(f"{self!r}: {name} must lie in 0 .. 1, got {host[tuple(at)]} at {at}{advice}")


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

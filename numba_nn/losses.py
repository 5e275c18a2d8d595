"""Losses. ``forward`` gives a number, ``backward`` the gradient with respect to the prediction.

    MSELoss    mean: 1/n sum_i (p_i - t_i)^2      sum: sum_i (p_i - t_i)^2      none: (p_i - t_i)^2

Kernels take flat arrays: p prediction, t target.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.checks import check_array, check_destination, check_dtype, check_shape
from numba_nn.core.errors import ArgumentError, BackwardError
from numba_nn.core.kernel import In, Out, Scratch, kernel
from numba_nn.core.reduce import block_bounds, block_count, ordered_sum
from numba_nn.core.workspace import Shape, Spec, Workspace


@kernel
def squared_error_forward(loss: Out, partial: Scratch, prediction: In, target: In, scale: float):
    """loss[0] = scale sum (p - t)^2; partial: float64, one element for each block."""
    for block in prange(partial.size):
        start, stop = block_bounds(block, prediction.size)
        total = prediction.dtype.type(0)
        for i in range(start, stop):
            difference = prediction[i] - target[i]
            total += difference * difference
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


class Loss:
    """Base of the losses: checks, buffers, and what backward needs.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the losses of single elements: their mean, their sum, or nothing.

    Raises
    ------
    ArgumentError
        For another reduction.
    """

    def __init__(self, reduction: str = "mean") -> None:
        if reduction not in ("mean", "sum", "none"):
            raise ArgumentError(f"{type(self).__name__}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
        self.reduction = reduction
        self._workspace = Workspace()
        self._kept: tuple[Array, Array] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": None}

    def scratch_spec(self, size: int) -> dict[str, Spec]:
        """Shape and dtype of every array that forward needs within a call, for so many elements."""
        return {}

    def reserve(self, shape: Shape, dtype: Any = np.float32) -> Self:
        """Allocate everything that later calls need, for predictions of up to this shape.

        Parameters
        ----------
        shape : tuple of int
            Shape of the largest prediction.
        dtype : dtype, optional
            Of the prediction, float32 or float64.

        Returns
        -------
        Loss
            The loss itself.
        """
        with self._workspace.in_use(type(self).__name__):
            self._workspace.array("loss", (1,), check_dtype(type(self).__name__, dtype))
            self._workspace.carve("scratch", self.scratch_spec(math.prod(shape)))
        return self

    def __call__(self, prediction: Array, target: Array) -> Any:
        """``forward(prediction, target)``."""
        return self.forward(prediction, target)

    def forward(self, prediction: Array, target: Array, out: Array | None = None) -> Any:
        """Compute the loss.

        Parameters
        ----------
        prediction, target : ndarray
            Arrays of one shape and dtype; borrowed until `backward`.
        out : ndarray, optional
            Where to write the loss: one element, or with reduction "none" the prediction's shape.

        Returns
        -------
        float or ndarray
            ``out`` itself if given; else a float, or with reduction "none" a fresh array.

        Raises
        ------
        ShapeError, DTypeError, DestinationError
            If an array does not fit; nothing was written.
        ConcurrencyError
            If another thread is inside this loss.
        """
        with self._workspace.in_use(type(self).__name__):
            return self._checked_forward(prediction, target, out)

    def _checked_forward(self, prediction: Array, target: Array, out: Array | None) -> Any:
        where = type(self).__name__
        check_array(where, "prediction", prediction, None)
        check_array(where, "target", target, prediction.dtype)
        check_shape(where, "target", target.shape, prediction.shape)
        shape = prediction.shape if self.reduction == "none" else (1,)
        if out is not None:
            check_destination(where, "out", out, shape, prediction.dtype, prediction, target)
        elif self.reduction == "none":
            out = np.empty(shape, prediction.dtype)
        loss = self._workspace.array("loss", (1,), prediction.dtype) if out is None else out
        scratch = self._workspace.carve("scratch", self.scratch_spec(prediction.size))
        prediction = self._workspace.contiguous("prediction", prediction)
        target = self._workspace.contiguous("target", target)
        self._kept = prediction, target
        self._forward(loss.reshape(-1), prediction.reshape(-1), target.reshape(-1), scratch)
        return float(loss[0]) if out is None else out

    def backward(self, out: Array | None = None) -> Array:
        """Gradient of the last loss (with reduction "none", of its sum) with respect to the prediction.

        Parameters
        ----------
        out : ndarray, optional
            Where to write it: of the prediction's shape and dtype.

        Returns
        -------
        ndarray
            ``out`` itself, or a fresh array.

        Raises
        ------
        BackwardError
            Before any forward.
        ShapeError, DTypeError, DestinationError
            If ``out`` does not fit; nothing was written.
        ConcurrencyError
            If another thread is inside this loss.
        """
        with self._workspace.in_use(type(self).__name__):
            return self._checked_backward(out)

    def _checked_backward(self, out: Array | None) -> Array:
        where = type(self).__name__
        if self._kept is None:
            raise BackwardError(f"{where}: backward before forward")
        prediction = self._kept[0]
        if out is None:
            out = np.empty(prediction.shape, prediction.dtype)
        else:
            check_destination(where, "out", out, prediction.shape, prediction.dtype, *self._kept)
        self._backward(out.reshape(-1), *(array.reshape(-1) for array in self._kept))
        return out

    def _scale(self, size: int) -> float:
        """Factor of the sum. The mean of no elements is NaN."""
        if self.reduction != "mean":
            return 1.0
        return 1.0 / size if size else float("nan")

    def _forward(self, loss: Array, prediction: Array, target: Array, scratch: Arrays) -> None:
        raise NotImplementedError

    def _backward(self, dx: Array, prediction: Array, target: Array) -> None:
        raise NotImplementedError


class MSELoss(Loss):
    """Squared error: mean, sum, or element by element of (prediction - target)^2.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the squares of single elements: their mean, their sum, or nothing.
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def scratch_spec(self, size: int) -> dict[str, Spec]:
        """Partial sums."""
        return {} if self.reduction == "none" else {"partial": ((block_count(size),), np.dtype(np.float64))}

    def _forward(self, loss: Array, prediction: Array, target: Array, scratch: Arrays) -> None:
        if self.reduction == "none":
            squared_error_each_forward(loss, prediction, target)
            return
        run = squared_error_forward.for_work(prediction.size)
        run(loss, scratch["partial"], prediction, target, self._scale(prediction.size))

    def _backward(self, dx: Array, prediction: Array, target: Array) -> None:
        squared_error_backward(dx, prediction, target, self._scale(prediction.size))

"""Losses of scores of classes: what they share, and the one that takes log-probabilities x and classes t.

    NLLLoss    l = -w_t x_t      dx_t = -w_t

w are the classes' weights. An ignored target has l = 0 and dx = 0. The mean divides by the sum of the targets' w_t.

Kernels take the prediction as (O, K, I), as those of `numba_nn.layers.softmax` do, and targets as (O, I).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.checks import check_indices, check_shape
from numba_nn.core.cuda.planes import place_of_window, plane_row_column, row_of_windows, split
from numba_nn.core.cuda.portable import covering_windows, fetch, put
from numba_nn.core.cuda.ptx import WINDOW, cuda, flat_part
from numba_nn.core.cuda.reduce import one_block
from numba_nn.core.cuda.twin import cuda_helper, cuda_kernel
from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.core.indices import check_range
from numba_nn.core.kernel import In, Out, Saved, Scratch, kernel
from numba_nn.core.reduce import block_bounds, block_count, ordered_sum
from numba_nn.core.rows import task_bounds, task_count
from numba_nn.core.workspace import Shape, Spec
from numba_nn.losses.base import Loss, own_weight
from numba_nn.losses.sums import STEP, block_per_sum, put_sum, total_of, windows_of_thread


@kernel
def class_loss_sum(loss: Out, scale: Saved, partial: Scratch, each: In, factor: float):
    """loss[0] = factor sum each, and scale[0] = factor; partial: float64, (2, blocks)."""
    for block in prange(partial.shape[1]):
        start, stop = block_bounds(block, each.size)
        losses, total = each[start:stop], 0.0
        for i in range(losses.size):
            total += losses[i]
        partial[0, block] = total
    loss[0] = ordered_sum(partial[0]) * factor
    scale[0] = factor


@class_loss_sum.on_cuda(steps=True)
def class_loss_sum(loss: Out, scale: Saved, partial: Scratch, each: In, factor: float):
    """Sums of blocks, then their sum."""
    pair_sums(partial, each, each)
    sum_of_sums(loss, scale, partial, factor)


@kernel
def class_loss_mean(loss: Out, scale: Saved, partial: Scratch, each: In, mass: In):
    """loss[0] = sum each / sum mass, and scale[0] = 1 / sum mass; partial: float64, (2, blocks)."""
    for block in prange(partial.shape[1]):
        start, stop = block_bounds(block, each.size)
        losses, masses, total, weight = each[start:stop], mass[start:stop], 0.0, 0.0
        for i in range(losses.size):
            total += losses[i]
            weight += masses[i]
        partial[0, block], partial[1, block] = total, weight
    weight = ordered_sum(partial[1])
    loss[0] = ordered_sum(partial[0]) / weight
    scale[0] = 1 / weight


@class_loss_mean.on_cuda(steps=True)
def class_loss_mean(loss: Out, scale: Saved, partial: Scratch, each: In, mass: In):
    """Sums of blocks, then their sums."""
    pair_sums(partial, each, mass)
    mean_of_sums(loss, scale, partial)


@cuda_kernel(grid=block_per_sum)
def pair_sums(partial: Out, each: In, mass: In):
    """partial[0] = sum each and partial[1] = sum mass of every block."""
    total, weight = each.dtype.type(0), each.dtype.type(0)
    losses, masses = cuda.local.array(WINDOW, each.dtype), cuda.local.array(WINDOW, mass.dtype)
    at, stop = windows_of_thread(each)
    while at < stop:
        fetch(losses, each, at)
        fetch(masses, mass, at)
        for lane in range(WINDOW):
            total += losses[lane]
            weight += masses[lane]
        at += np.uint64(STEP)
    put_sum(partial[0], total, each)
    put_sum(partial[1], weight, each)


@cuda_kernel(grid=one_block)
def sum_of_sums(loss: Out, scale: Saved, partial: In, factor: float):
    """loss[0] = factor sum partial[0], and scale[0] = factor."""
    total = total_of(partial[0])
    if cuda.threadIdx.x == 0:
        loss[0], scale[0] = total * factor, factor


@cuda_kernel(grid=one_block)
def mean_of_sums(loss: Out, scale: Saved, partial: In):
    """loss[0] = sum partial[0] / sum partial[1], and scale[0] = 1 / sum partial[1]."""
    total, weight = total_of(partial[0]), total_of(partial[1])
    if cuda.threadIdx.x == 0:
        loss[0], scale[0] = total / weight, 1 / weight


@kernel
def nll_forward(each: Out, mass: Saved, x: In, target: In, weight: In, ignore_index: int):
    """each = -w_t x_t and mass = w_t; both 0 where the target is ignored."""
    zero = x.dtype.type(0)
    for task in prange(task_count(x)):
        o, start, stop = task_bounds(task, x)
        for i in range(start, stop):
            mass[o, i] = each[o, i] = zero
            if target[o, i] != ignore_index:
                mass[o, i] = weight[target[o, i]]
                each[o, i] = -mass[o, i] * x[o, target[o, i], i]


@kernel
def nll_backward(dx: Out, mass: Saved, scale: Saved, target: In, ignore_index: int):
    """dx = -scale w_t at the target, 0 elsewhere."""
    factor, zero = dx.dtype.type(scale[0]), dx.dtype.type(0)
    for task in prange(task_count(dx)):
        o, start, stop = task_bounds(task, dx)
        if dx.shape[2] == 1:
            dx_row = dx[o].reshape(-1)
            for k in range(dx_row.size):
                dx_row[k] = zero
        else:
            for k in range(dx.shape[1]):
                dx_line = dx[o, k, start:stop]
                for i in range(dx_line.size):
                    dx_line[i] = zero
        for i in range(start, stop):
            if target[o, i] != ignore_index:
                dx[o, target[o, i], i] = -factor * mass[o, i]


@cuda_helper
def class_or_none(target, count, ignored):
    """Whether a target counts, and whether it does though it is no class, so that its loss is NaN."""
    counts = target != ignored
    return counts, counts and (target < 0 or target >= count)


@nll_forward.on_cuda
def nll_forward(each: Out, mass: Saved, x: In, target: In, weight: In, ignore_index: int):
    """A thread has a row; one whose target is no class is NaN."""
    n, zero = np.uint32(cuda.grid(1)), x.dtype.type(0)
    while n < np.uint32(each.size):
        o, i = split(n, each.shape[1])
        counts, wrong = class_or_none(target[o, i], x.shape[1], ignore_index)
        mass[o, i] = each[o, i] = x.dtype.type(np.nan) if wrong else zero
        if counts and not wrong:
            mass[o, i] = weight[target[o, i]]
            each[o, i] = -mass[o, i] * x[o, target[o, i], i]
        n = np.uint32(n + np.uint32(cuda.gridsize(1)))


@nll_backward.on_cuda(grid=lambda dx, *_: covering_windows(dx))  # writes by windows, but reads no array by them
def nll_backward(dx: Out, mass: Saved, scale: Saved, target: In, ignore_index: int):
    """A thread has a window; in a row whose target is no class elements are NaN, as its mass is."""
    at, factor, window = place_of_window(), dx.dtype.type(scale[0]), cuda.local.array(WINDOW, dx.dtype)
    while at < np.uint32(dx.size):
        for lane in range(WINDOW):
            o, k, i = plane_row_column(at + np.uint32(lane), dx)
            window[lane] = dx.dtype.type(0)
            if o < np.uint32(dx.shape[0]):
                counts, wrong = class_or_none(target[o, i], dx.shape[1], ignore_index)
                if counts and (wrong or target[o, i] == k):
                    window[lane] = -factor * mass[o, i]
        put(flat_part(dx, 0, dx.size), at, window, dx.size)
        at = np.uint32(at + row_of_windows())


def score_cube(shape: Shape) -> tuple[int, int, int]:
    """(O, K, I) of a prediction (K), (N, K) or (N, K, d1, ...)."""
    return (shape[0], shape[1], math.prod(shape[2:])) if len(shape) > 1 else (1, shape[0], 1)


class ClassLoss(Loss):
    """A loss of scores (K), (N, K) or (N, K, d1, ...), one for each of K classes.

    Parameters
    ----------
    weight : ndarray, optional
        (K): a factor for each class. Copied.
    ignore_index : int, optional
        A target that counts nothing, whether it is a class or not.
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the single losses.
    """

    def __init__(self, weight: Array | None, ignore_index: int, reduction: str) -> None:
        super().__init__(reduction)
        self.weight = own_weight(type(self).__name__, "weight", weight)
        if self.weight is not None and self.weight.ndim != 1:
            raise ShapeError(f"{type(self).__name__}: weight must have shape (classes,), got {self.weight.shape}")
        if not isinstance(ignore_index, (int, np.integer)) or isinstance(ignore_index, bool):
            raise ArgumentError(f"{type(self).__name__}: ignore_index must be an int, got {ignore_index!r}")
        self.ignore_index = int(ignore_index)

    def loss_shape(self, shape: Shape) -> Shape:
        """Shape of the single losses: the prediction's, without the classes.

        Raises
        ------
        ShapeError
            If the prediction has no classes, or their number is not that of the weights.
        """
        if not shape or score_cube(shape)[1] < 1:
            raise ShapeError(
                f"{self!r}: prediction must have shape (K), (N, K) or (N, K, d1, ...) with K at least 1, got {shape}"
            )
        if self.weight is not None and self.weight.size != score_cube(shape)[1]:
            raise ShapeError(f"{self!r}: prediction must have {self.weight.size} classes as weight has, got shape {shape}")
        return (*shape[:1], *shape[2:]) if len(shape) > 1 else ()

    def saved_spec(self, shape: Shape, dtype: Any) -> dict[str, Spec]:
        """Weights of classes and of rows, and the factor of the sum."""
        outer, classes, inside = score_cube(shape)
        return {"weight": ((classes,), dtype), "mass": ((outer, inside), dtype), "scale": ((1,), np.dtype(np.float64))}

    def scratch_spec(self, shape: Shape, dtype: Any) -> dict[str, Spec]:
        """Single losses, and partial sums."""
        outer, _, inside = score_cube(shape)
        blocks = (2, block_count(outer * inside)), np.dtype(np.float64)
        return {"each": ((outer, inside), dtype), "partial": blocks}

    def _fill(self, arrays: Arrays) -> None:
        self.device.assign(arrays["weight"], 1 if self.weight is None else self.weight)
        self.device.assign(arrays["scale"], 1)  # which a reduction overwrites

    def _check(self, prediction: Array, target: Any) -> None:
        check_indices(self, "target", target, self.device)
        check_shape(self, "target", target.shape, self.loss_shape(prediction.shape))

    def _check_values(self, prediction: Array, target: Array) -> None:
        flat = self._workspace.contiguous("checked", target)
        check_range(self, "target", flat, score_cube(prediction.shape)[1], ignored=self.ignore_index)

    def _each(self, loss: Array, arrays: Arrays) -> Array:
        """Where the single losses go, (O, I): into the loss itself if nothing becomes of them."""
        return loss.reshape(arrays["each"].shape) if self.reduction == "none" else arrays["each"]

    def _reduce(self, loss: Array, arrays: Arrays, counted: Array | None) -> None:
        """The mean or sum of ``each``, and the factor that backward needs; the mean divides by the sum of ``counted``."""
        each = arrays["each"].reshape(-1)
        if self.reduction == "mean" and counted is not None:
            run = class_loss_mean.for_work(each.size, self.device)
            run(loss, arrays["scale"], arrays["partial"], each, counted.reshape(-1))
        elif self.reduction != "none":
            run = class_loss_sum.for_work(each.size, self.device)
            run(loss, arrays["scale"], arrays["partial"], each, self._scale(each.size))

    def _divisor(self, shape: Shape, arrays: Arrays) -> float:
        scale = self.device.number(arrays["scale"])  # infinite where no target counts
        return 1 / scale if scale else math.inf

    def _arguments(self) -> str:
        weight = None if self.weight is None else f"({self.weight.size} classes)"
        return f"weight={weight}, ignore_index={self.ignore_index}, reduction={self.reduction!r}"


class NLLLoss(ClassLoss):
    """Negative log-likelihood: -w_t x_t, for log-probabilities x and target classes t.

    The prediction has the shape (K), (N, K) or (N, K, d1, ...); the target, int64 or int32, has it without the K.

    Parameters
    ----------
    weight : ndarray, optional
        (K): a factor w for each class. Copied.
    ignore_index : int, optional
        A target that counts nothing, whether it is a class or not.
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the single losses: their sum divided by the sum of the targets' weights, their sum, or nothing.

    Raises
    ------
    ArgumentError, ShapeError, DTypeError
        If an argument is out of range or ``weight`` no array (K) of floats.
    """

    def __init__(self, weight: Array | None = None, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(weight, ignore_index, reduction)

    def _forward(self, loss: Array, prediction: Array, target: Array, arrays: Arrays) -> None:
        each, x = self._each(loss, arrays), prediction.reshape(score_cube(prediction.shape))
        nll_forward(each, arrays["mass"], x, target.reshape(each.shape), arrays["weight"], self.ignore_index)
        self._reduce(loss, arrays, arrays["mass"])

    def _backward(self, dx: Array, prediction: Array, target: Array, arrays: Arrays) -> None:
        mass, cube = arrays["mass"], dx.reshape(score_cube(dx.shape))
        nll_backward(cube, mass, arrays["scale"], target.reshape(mass.shape), self.ignore_index)

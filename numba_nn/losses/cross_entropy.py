"""Cross-entropy of classes, or of their probabilities.

With logits x, p = softmax(x), the classes' weights w, and label smoothing a,

    l = -sum_k q_k log p_k      dx_k = p_k sum_l q_l - q_k
    q_k = w_k ((1 - a) [k = t] + a / K)     for a class t
    q_k = w_k ((1 - a) t_k + a / K)         for probabilities t

An ignored target has l = 0 and dx = 0. The mean over targets that are classes divides by the sum of their w_t.

Kernels take logits, and targets that are probabilities, as (O, K, I), as those of `numba_nn.layers.softmax` do; classes as
(O, I). Forward keeps the exponentials of the softmax and their sums, so backward needs no exp.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.checks import INDICES, check_array, check_number, check_shape
from numba_nn.core.cuda_reduce import WARPS
from numba_nn.core.errors import ArgumentError
from numba_nn.core.kernel import In, Out, Saved, Scratch, inner, kernel
from numba_nn.core.ptx import WINDOW, cuda
from numba_nn.core.twin import cuda_helper
from numba_nn.core.vmath import exp_below, log
from numba_nn.core.workspace import Shape, Spec
from numba_nn.layers.cuda_rows import give, row_grid, row_maximum, row_of_thread, row_sum, take, windows_of_thread
from numba_nn.layers.softmax import EXP_WORK, exponentials, task_bounds, task_count
from numba_nn.losses.classes import ClassLoss, class_or_none, score_cube


@inner
def expected_scores(mass, score, largest, x, t, weight, share, floor, o, start, stop):
    """With q = w (share t + floor): mass = sum_k q and score = sum_k q (x - largest), over a task."""
    tops, masses, scores = largest[o, start:stop], mass[o, start:stop], score[o, start:stop]
    for i in range(tops.size):
        masses[i] = scores[i] = 0
    if x.shape[2] == 1:
        x_row, t_row, top = x[o].reshape(-1), t[o].reshape(-1), tops[0]
        whole = part = masses[0]
        for k in range(x_row.size):
            q = weight[k] * (share * t_row[k] + floor)
            whole += q
            part += q * (x_row[k] - top)
        masses[0], scores[0] = whole, part
    else:
        for k in range(x.shape[1]):
            x_line, t_line, w = x[o, k, start:stop], t[o, k, start:stop], weight[k]
            for i in range(tops.size):
                q = w * (share * t_line[i] + floor)
                masses[i] += q
                scores[i] += q * (x_line[i] - tops[i])


@inner
def score_gradients(dx, e, total, mass, scale, t, weight, share, floor, o, start, stop):
    """dx = scale (mass p - w (share t + floor)), over a task."""
    totals, masses = total[o, start:stop], mass[o, start:stop]
    if dx.shape[2] == 1:
        dx_row, e_row, t_row = dx[o].reshape(-1), e[o].reshape(-1), t[o].reshape(-1)
        factor = scale * masses[0] / totals[0]
        for k in range(dx_row.size):
            dx_row[k] = factor * e_row[k] - scale * weight[k] * (share * t_row[k] + floor)
    else:
        for k in range(dx.shape[1]):
            dx_line, e_line, t_line, w = dx[o, k, start:stop], e[o, k, start:stop], t[o, k, start:stop], scale * weight[k]
            for i in range(totals.size):
                dx_line[i] = scale * masses[i] / totals[i] * e_line[i] - w * (share * t_line[i] + floor)


@kernel
def cross_entropy_forward(
    each: Out, e: Saved, total: Saved, mass: Saved, largest: Scratch, counted: Scratch, x: In, target: In, weight: In,
    ignore_index: int, smoothing: float,
):  # fmt: skip
    """each = -sum_k q log p for classes; e = exp(x - largest), total its sum, mass = sum_k q, counted = w_t."""
    zero, share = x.dtype.type(0), x.dtype.type(1 - smoothing)
    floor = x.dtype.type(smoothing / x.shape[1])
    for task in prange(task_count(x)):
        o, start, stop = task_bounds(task, x)
        exponentials(e, largest, total, x, o, start, stop)
        if smoothing > 0:
            expected_scores(mass, each, largest, x, e, weight, zero, floor, o, start, stop)
        for i in range(start, stop):
            k = target[o, i]
            if k == ignore_index:
                each[o, i] = mass[o, i] = counted[o, i] = zero
                continue
            counted[o, i] = weight[k]
            score = share * weight[k] * (x[o, k, i] - largest[o, i])
            if smoothing > 0:
                mass[o, i] += share * weight[k]
                score += each[o, i]
            else:
                mass[o, i] = weight[k]
            each[o, i] = mass[o, i] * log(total[o, i]) - score


@kernel
def cross_entropy_backward(
    dx: Out, e: Saved, total: Saved, mass: Saved, scale: Saved, target: In, weight: In, ignore_index: int, smoothing: float
):  # fmt: skip
    """dx = scale (p sum_k q - q), for classes."""
    zero, factor = dx.dtype.type(0), dx.dtype.type(scale[0])
    share, floor = dx.dtype.type(1 - smoothing), dx.dtype.type(smoothing / dx.shape[1])
    for task in prange(task_count(dx)):
        o, start, stop = task_bounds(task, dx)
        score_gradients(dx, e, total, mass, factor, e, weight, zero, floor, o, start, stop)
        for i in range(start, stop):
            k = target[o, i]
            if k != ignore_index:
                dx[o, k, i] -= factor * share * weight[k]
            else:
                for j in range(dx.shape[1]):
                    dx[o, j, i] = zero


@kernel
def soft_cross_entropy_forward(
    each: Out, e: Saved, total: Saved, mass: Saved, largest: Scratch, x: In, target: In, weight: In, smoothing: float
):  # fmt: skip
    """each = -sum_k q log p for probabilities; e = exp(x - largest), total its sum, mass = sum_k q."""
    share, floor = x.dtype.type(1 - smoothing), x.dtype.type(smoothing / x.shape[1])
    for task in prange(task_count(x)):
        o, start, stop = task_bounds(task, x)
        exponentials(e, largest, total, x, o, start, stop)
        expected_scores(mass, each, largest, x, target, weight, share, floor, o, start, stop)
        for i in range(start, stop):
            each[o, i] = mass[o, i] * log(total[o, i]) - each[o, i]


@kernel
def soft_cross_entropy_backward(
    dx: Out, e: Saved, total: Saved, mass: Saved, scale: Saved, target: In, weight: In, smoothing: float
):  # fmt: skip
    """dx = scale (p sum_k q - q), for probabilities."""
    factor = dx.dtype.type(scale[0])
    share, floor = dx.dtype.type(1 - smoothing), dx.dtype.type(smoothing / dx.shape[1])
    for task in prange(task_count(dx)):
        o, start, stop = task_bounds(task, dx)
        score_gradients(dx, e, total, mass, factor, target, weight, share, floor, o, start, stop)


# ---- on a GPU: rows are shared out as those of a softmax are -------------------------------------------------------------


@cuda_helper
def thread_exponentials(e, top, room, x):
    """e = exp(x - top), and the sum of e, over this thread's row."""
    window, (o, i, k, step) = cuda.local.array(WINDOW, x.dtype), windows_of_thread(x)
    mass = x.dtype.type(0)
    while k < np.uint32(x.shape[1]):
        take(window, x, o, i, k)
        for lane in range(WINDOW):
            window[lane] = exp_below(window[lane] - top)
            mass += window[lane] if k + np.uint32(lane) < np.uint32(x.shape[1]) else x.dtype.type(0)
        give(e, o, i, k, window)
        k = np.uint32(k + step)
    return row_sum(mass, room, x)


@cross_entropy_forward.on_cuda(grid=lambda each, e, *_: row_grid(e))
def cross_entropy_forward(
    each: Out, e: Saved, total: Saved, mass: Saved, largest: Scratch, counted: Scratch, x: In, target: In, weight: In,
    ignore_index: int, smoothing: float,
):  # fmt: skip
    """See `row_of_thread`; a row whose target is no class is NaN."""
    room, zero, one = cuda.shared.array(WARPS, x.dtype), x.dtype.type(0), x.dtype.type(1)
    o, i, first, step = row_of_thread(x)
    top = row_maximum(room, x)
    whole = thread_exponentials(e, top, room, x)
    floor, q, score, k = smoothing / x.dtype.type(x.shape[1]), zero, zero, first
    if smoothing > zero:
        while k < np.uint32(x.shape[1]):
            q += weight[k] * floor
            score += weight[k] * floor * (x[o, k, i] - top)
            k = np.uint32(k + step)
        q, score = row_sum(q, room, x), row_sum(score, room, x)
    if first == 0:  # this thread writes what belongs to the row
        t = target[o, i]
        counts, wrong = class_or_none(t, x.shape[1], ignore_index)
        total[o, i] = whole
        counted[o, i] = mass[o, i] = each[o, i] = x.dtype.type(np.nan) if wrong else zero
        if counts and not wrong:
            w = weight[t]
            counted[o, i], q = w, q + (one - smoothing) * w
            mass[o, i], each[o, i] = q, q * log(whole) - (score + (one - smoothing) * w * (x[o, t, i] - top))


@cross_entropy_backward.on_cuda(grid=row_grid)
def cross_entropy_backward(
    dx: Out, e: Saved, total: Saved, mass: Saved, scale: Saved, target: In, weight: In, ignore_index: int, smoothing: float
):  # fmt: skip
    """See `row_of_thread`; a row whose target is no class is NaN, as its mass is."""
    o, i, k, step = row_of_thread(dx)
    if k < np.uint32(dx.shape[1]):
        factor, one, t = dx.dtype.type(scale[0]), dx.dtype.type(1), target[o, i]
        floor, spread = smoothing / dx.dtype.type(dx.shape[1]), factor * mass[o, i] / total[o, i]
        while k < np.uint32(dx.shape[1]):
            share = floor + (one - smoothing) if t == k else floor
            dx[o, k, i] = dx.dtype.type(0) if t == ignore_index else spread * e[o, k, i] - factor * weight[k] * share
            k = np.uint32(k + step)


@soft_cross_entropy_forward.on_cuda(grid=lambda each, e, *_: row_grid(e))
def soft_cross_entropy_forward(
    each: Out, e: Saved, total: Saved, mass: Saved, largest: Scratch, x: In, target: In, weight: In, smoothing: float
):  # fmt: skip
    """See `row_of_thread`."""
    room, zero = cuda.shared.array(WARPS, x.dtype), x.dtype.type(0)
    o, i, first, step = row_of_thread(x)
    top = row_maximum(room, x)
    whole = thread_exponentials(e, top, room, x)
    share, floor = x.dtype.type(1) - smoothing, smoothing / x.dtype.type(x.shape[1])
    mean, score, k = zero, zero, first
    while k < np.uint32(x.shape[1]):
        q = weight[k] * (share * target[o, k, i] + floor)
        mean += q
        score += q * (x[o, k, i] - top)
        k = np.uint32(k + step)
    mean, score = row_sum(mean, room, x), row_sum(score, room, x)
    if first == 0:  # this thread writes what belongs to the row
        total[o, i], mass[o, i], each[o, i] = whole, mean, mean * log(whole) - score


@soft_cross_entropy_backward.on_cuda(grid=row_grid)
def soft_cross_entropy_backward(
    dx: Out, e: Saved, total: Saved, mass: Saved, scale: Saved, target: In, weight: In, smoothing: float
):  # fmt: skip
    """See `row_of_thread`."""
    o, i, k, step = row_of_thread(dx)
    if k < np.uint32(dx.shape[1]):
        factor, share = dx.dtype.type(scale[0]), dx.dtype.type(1) - smoothing
        floor, spread = smoothing / dx.dtype.type(dx.shape[1]), factor * mass[o, i] / total[o, i]
        while k < np.uint32(dx.shape[1]):
            dx[o, k, i] = spread * e[o, k, i] - factor * weight[k] * (share * target[o, k, i] + floor)
            k = np.uint32(k + step)


class CrossEntropyLoss(ClassLoss):
    """Cross-entropy between logits and classes, or probabilities of classes: -sum_k q_k log softmax(x)_k.

    The prediction has the shape (K), (N, K) or (N, K, d1, ...). The target is either a class for each row, int64 or int32, of
    this shape without the K: then q_k = w_k ((1 - a) [k = t] + a / K). Or it is a probability for each class, of the
    prediction's shape and dtype: then q_k = w_k ((1 - a) t_k + a / K). Formula: PyTorch's CrossEntropyLoss; label smoothing is
    from Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2016).

    Parameters
    ----------
    weight : ndarray, optional
        (K): a factor w for each class. Copied.
    ignore_index : int, optional
        A target that counts nothing, whether it is a class or not; negative where the target is probabilities.
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the single losses: their mean, their sum, or nothing. The mean divides by the sum of the targets'
        weights, or by the number of rows where the target is probabilities.
    label_smoothing : float, optional
        The share a of the target, from 0 to 1, that is spread evenly over all classes.

    Raises
    ------
    ArgumentError, ShapeError, DTypeError
        If an argument is out of range or ``weight`` no array (K) of floats.
    """

    def __init__(
        self, weight: Array | None = None, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0
    ) -> None:  # fmt: skip
        super().__init__(weight, ignore_index, reduction)
        self.label_smoothing = check_number("CrossEntropyLoss", "label_smoothing", label_smoothing, 0, 1)

    def saved_spec(self, shape: Shape, dtype: Any) -> dict[str, Spec]:
        """As for every loss of classes, and the softmax: exponentials and their sums."""
        outer, classes, inside = score_cube(shape)
        softmax = {"e": ((outer, classes, inside), dtype), "total": ((outer, inside), dtype)}
        return {**super().saved_spec(shape, dtype), **softmax}

    def scratch_spec(self, shape: Shape, dtype: Any) -> dict[str, Spec]:
        """As for every loss of classes, and two numbers for each row."""
        outer, _, inside = score_cube(shape)
        rows = (outer, inside), dtype
        return {**super().scratch_spec(shape, dtype), "largest": rows, "counted": rows}

    def _check(self, prediction: Array, target: Any) -> None:
        if not self._is_soft(target):
            super()._check(prediction, target)
            return
        check_array(self, "target", target, prediction.dtype, self.device)
        check_shape(self, "target", target.shape, prediction.shape)
        if self.ignore_index >= 0:
            raise ArgumentError(f"{self!r}: ignore_index must be negative where target is probabilities; nothing is ignored")

    def _check_values(self, prediction: Array, target: Array) -> None:
        if not self._is_soft(target):
            super()._check_values(prediction, target)

    def _is_soft(self, target: Any) -> bool:
        return self.device.owns(target) and target.dtype.kind == "f"

    def _forward(self, loss: Array, prediction: Array, target: Array, arrays: Arrays) -> None:
        each, cube = self._each(loss, arrays), score_cube(prediction.shape)
        kept = each, arrays["e"], arrays["total"], arrays["mass"], arrays["largest"]
        x, weight, work = prediction.reshape(cube), arrays["weight"], prediction.size * EXP_WORK
        if target.dtype in INDICES:
            run, classes = cross_entropy_forward.for_work(work, self.device), target.reshape(each.shape)
            run(*kept, arrays["counted"], x, classes, weight, self.ignore_index, self.label_smoothing)
            self._reduce(loss, arrays, arrays["counted"])
        else:
            run = soft_cross_entropy_forward.for_work(work, self.device)
            run(*kept, x, target.reshape(cube), weight, self.label_smoothing)
            self._reduce(loss, arrays, None)

    def _backward(self, dx: Array, prediction: Array, target: Array, arrays: Arrays) -> None:
        kept = dx.reshape(arrays["e"].shape), arrays["e"], arrays["total"], arrays["mass"], arrays["scale"]
        if target.dtype in INDICES:
            classes = target.reshape(arrays["mass"].shape)
            cross_entropy_backward(*kept, classes, arrays["weight"], self.ignore_index, self.label_smoothing)
        else:
            soft_cross_entropy_backward(*kept, target.reshape(kept[0].shape), arrays["weight"], self.label_smoothing)

    def _arguments(self) -> str:
        return f"{super()._arguments()}, label_smoothing={self.label_smoothing}"

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
from numba_nn.core.cuda.ptx import cuda, device_function
from numba_nn.core.cuda.reduce import WARPS, team_sum
from numba_nn.core.cuda.rows import (
    HELD,
    held_exponentials,
    hold,
    in_row,
    maximum_of_row,
    place,
    place_of_row,
    release,
    row_grid,
    row_of_team,
    row_of_weights,
    u32,
)
from numba_nn.core.errors import ArgumentError
from numba_nn.core.kernel import In, Out, Saved, Scratch, inner, kernel
from numba_nn.core.rows import task_bounds, task_count
from numba_nn.core.vmath import EXP_WORK, log
from numba_nn.core.workspace import Shape, Spec
from numba_nn.layers.exponentials import exponentials
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


# ---- on a GPU: a team of threads has a row, see `numba_nn.core.cuda.rows` ----------------------------------------------


@device_function
def held_scores(mass, score, x, top, t, weight, share, floor, row, start):
    """mass + sum_k q and score + sum_k q (x - top) over what a thread holds, with q = w (share t + floor)."""
    for n in range(HELD):
        if in_row(row, place(start, n)):
            q = weight[n] * (share * t[n] + floor)
            mass += q
            score += q * (x[n] - top)
    return mass, score


@cross_entropy_forward.on_cuda(grid=lambda each, e, *_: row_grid(e))
def cross_entropy_forward(
    each: Out, e: Saved, total: Saved, mass: Saved, largest: Scratch, counted: Scratch, x: In, target: In, weight: In,
    ignore_index: int, smoothing: float,
):  # fmt: skip
    """See `soft_cross_entropy_forward`; a row whose target is no class is NaN."""
    room, zero, one = cuda.shared.array(WARPS, x.dtype), x.dtype.type(0), x.dtype.type(1)
    held, p, w = cuda.local.array(HELD, x.dtype), cuda.local.array(HELD, x.dtype), cuda.local.array(HELD, x.dtype)
    team, start, floor = row_of_team(x), u32(0), smoothing / x.dtype.type(x.shape[1])
    row, reach, stretch = team
    top = maximum_of_row(held, x, team, room)
    whole = q = score = zero
    while start < reach:
        if reach > stretch:
            hold(held, x, row, start, x.dtype.type(-np.inf))
        whole += held_exponentials(p, held, row, start, top)
        release(e, row, start, p)
        if smoothing > zero:
            hold(w, weight, row_of_weights(row), start, zero)
            q, score = held_scores(q, score, held, top, p, w, zero, floor, row, start)
        start = u32(start + stretch)
    whole, q, score = team_sum(whole, room), team_sum(q, room), team_sum(score, room)
    o, i = place_of_row(x)
    if cuda.threadIdx.x == 0 and o < u32(x.shape[0]):  # this thread writes what belongs to the row
        t = target[o, i]
        counts, wrong = class_or_none(t, x.shape[1], ignore_index)
        total[o, i] = whole
        counted[o, i] = mass[o, i] = each[o, i] = x.dtype.type(np.nan) if wrong else zero
        if counts and not wrong:
            own = weight[t]
            counted[o, i], q = own, q + (one - smoothing) * own
            mass[o, i], each[o, i] = q, q * log(whole) - (score + (one - smoothing) * own * (x[o, t, i] - top))


@cross_entropy_backward.on_cuda(grid=row_grid)
def cross_entropy_backward(
    dx: Out, e: Saved, total: Saved, mass: Saved, scale: Saved, target: In, weight: In, ignore_index: int, smoothing: float
):  # fmt: skip
    """A row whose target is no class is NaN, as its mass is."""
    p, w = cuda.local.array(HELD, dx.dtype), cuda.local.array(HELD, dx.dtype)
    (row, reach, stretch), start, (o, i) = row_of_team(dx), u32(0), place_of_row(dx)
    if o < u32(dx.shape[0]):
        factor, zero, one, t = dx.dtype.type(scale[0]), dx.dtype.type(0), dx.dtype.type(1), target[o, i]
        floor, spread = smoothing / dx.dtype.type(dx.shape[1]), factor * mass[o, i] / total[o, i]
        _, _, first, _ = row
        while start < reach:
            hold(p, e, row, start, zero)
            hold(w, weight, row_of_weights(row), start, zero)
            for n in range(HELD):
                share = floor + (one - smoothing) if t == u32(place(start, n) - first) else floor
                p[n] = zero if t == ignore_index else spread * p[n] - factor * w[n] * share
            release(dx, row, start, p)
            start = u32(start + stretch)


@soft_cross_entropy_forward.on_cuda(grid=lambda each, e, *_: row_grid(e))
def soft_cross_entropy_forward(
    each: Out, e: Saved, total: Saved, mass: Saved, largest: Scratch, x: In, target: In, weight: In, smoothing: float
):  # fmt: skip
    """Targets and weights are read once."""
    room, zero, one = cuda.shared.array(WARPS, x.dtype), x.dtype.type(0), x.dtype.type(1)
    held, p = cuda.local.array(HELD, x.dtype), cuda.local.array(HELD, x.dtype)
    t, w = cuda.local.array(HELD, x.dtype), cuda.local.array(HELD, x.dtype)
    team, start, floor = row_of_team(x), u32(0), smoothing / x.dtype.type(x.shape[1])
    row, reach, stretch = team
    top = maximum_of_row(held, x, team, room)
    whole = q = score = zero
    while start < reach:
        if reach > stretch:
            hold(held, x, row, start, x.dtype.type(-np.inf))
        whole += held_exponentials(p, held, row, start, top)
        release(e, row, start, p)
        hold(t, target, row, start, zero)
        hold(w, weight, row_of_weights(row), start, zero)
        q, score = held_scores(q, score, held, top, t, w, one - smoothing, floor, row, start)
        start = u32(start + stretch)
    whole, q, score = team_sum(whole, room), team_sum(q, room), team_sum(score, room)
    o, i = place_of_row(x)
    if cuda.threadIdx.x == 0 and o < u32(x.shape[0]):  # this thread writes what belongs to the row
        total[o, i], mass[o, i], each[o, i] = whole, q, q * log(whole) - score


@soft_cross_entropy_backward.on_cuda(grid=row_grid)
def soft_cross_entropy_backward(
    dx: Out, e: Saved, total: Saved, mass: Saved, scale: Saved, target: In, weight: In, smoothing: float
):  # fmt: skip
    """Each element is read once, and written."""
    p, t, w = cuda.local.array(HELD, dx.dtype), cuda.local.array(HELD, dx.dtype), cuda.local.array(HELD, dx.dtype)
    (row, reach, stretch), start, (o, i) = row_of_team(dx), u32(0), place_of_row(dx)
    if o < u32(dx.shape[0]):
        factor, zero, share = dx.dtype.type(scale[0]), dx.dtype.type(0), dx.dtype.type(1) - smoothing
        floor, spread = smoothing / dx.dtype.type(dx.shape[1]), factor * mass[o, i] / total[o, i]
        while start < reach:
            hold(p, e, row, start, zero)
            hold(t, target, row, start, zero)
            hold(w, weight, row_of_weights(row), start, zero)
            for n in range(HELD):
                p[n] = spread * p[n] - factor * w[n] * (share * t[n] + floor)
            release(dx, row, start, p)
            start = u32(start + stretch)


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

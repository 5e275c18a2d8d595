"""Softmax over one dimension, and its logarithm.

    Softmax      y_k = p_k                   dx_k = p_k (dy_k - sum_l dy_l p_l)
    LogSoftmax   y_k = x_k - m - log(s)      dx_k = dy_k - p_k sum_l dy_l

where m = max_k x_k, s = sum_k exp(x_k - m), p_k = exp(x_k - m) / s: with the largest subtracted, exp never overflows. A row
with a NaN or a plus infinity, or of minus infinities alone, gives NaN, as the formula does.

Kernels take x as (O, K, I): all dimensions before the one in question, that one, and all after it. What belongs to a row
over k is (O, I). A task is one row where I is 1, so that loops run along k, and otherwise `LANES` neighbouring rows, so that
inner loops run along i.
"""

from __future__ import annotations

import math
from math import exp, log
from typing import Any, ClassVar

import numpy as np
from numba import prange

from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.core.kernel import In, Kernel, Out, Saved, Scratch, inner, kernel
from numba_nn.core.layer import Array, Arrays, Call, Layer
from numba_nn.core.reduce import BLOCK, block_bounds
from numba_nn.core.simd import maximum
from numba_nn.core.workspace import Shape, Spec

LANES = 256  # neighbouring rows of a task: 1 KB of float32
EXP_WORK = 4  # of an exponential, in simple element operations


@inner
def task_count(x):
    """Number of tasks over x: (O, K, I)."""
    return x.shape[0] * (-(-x.shape[2] // LANES))


@inner
def task_bounds(task, x):
    """The o of a task, its first i, and the one after its last."""
    blocks = -(-x.shape[2] // LANES)
    start = task % blocks * LANES
    return task // blocks, start, min(x.shape[2], start + LANES)


@inner
def row(x, o):
    """x[o, :, 0] of (O, K, 1), as a contiguous array."""
    return x[o].reshape(x.shape[1])


@inner
def exponentials(e, largest, total, x, o, start, stop):
    """largest = max_k x, e = exp(x - largest) and total = sum_k e, over a task; a NaN in x spreads over its row."""
    floor, zero = x.dtype.type(-np.inf), x.dtype.type(0)
    if x.shape[2] == 1:
        x_row, e_row = row(x, o), row(e, o)
        top, mass = floor, 0.0
        for k in range(x_row.size):
            top = maximum(top, x_row[k])
        for block in range(-(-x_row.size // BLOCK)):
            first, last = block_bounds(block, x_row.size)
            part = zero
            for k in range(first, last):
                e_row[k] = exp(x_row[k] - top)
                part += e_row[k]
            mass += part
        largest[o, 0] = top
        total[o, 0] = mass
        return
    for i in range(start, stop):
        largest[o, i] = floor
        total[o, i] = zero
    for k in range(x.shape[1]):
        for i in range(start, stop):
            largest[o, i] = maximum(largest[o, i], x[o, k, i])
    for k in range(x.shape[1]):
        for i in range(start, stop):
            e[o, k, i] = exp(x[o, k, i] - largest[o, i])
            total[o, i] += e[o, k, i]


@kernel
def softmax_forward(y: Out, saved_p: Saved, largest: Scratch, total: Scratch, x: In):
    """y = p, which is kept a second time for backward."""
    for task in prange(task_count(x)):
        o, start, stop = task_bounds(task, x)
        exponentials(y, largest, total, x, o, start, stop)
        if x.shape[2] == 1:
            y_row, p_row, mass = row(y, o), row(saved_p, o), total[o, 0]
            for k in range(x.shape[1]):
                y_row[k] = y_row[k] / mass
                p_row[k] = y_row[k]
        else:
            for k in range(x.shape[1]):
                for i in range(start, stop):
                    y[o, k, i] = y[o, k, i] / total[o, i]
                    saved_p[o, k, i] = y[o, k, i]


@kernel
def softmax_backward(dx: Out, saved_p: Saved, total: Scratch, dy: In):
    """dx = p (dy - sum_k dy p)."""
    zero = dy.dtype.type(0)
    for task in prange(task_count(dx)):
        o, start, stop = task_bounds(task, dx)
        if dx.shape[2] == 1:
            dx_row, p_row, dy_row = row(dx, o), row(saved_p, o), row(dy, o)
            mean = zero
            for k in range(dx.shape[1]):
                mean += dy_row[k] * p_row[k]
            for k in range(dx.shape[1]):
                dx_row[k] = p_row[k] * (dy_row[k] - mean)
        else:
            for i in range(start, stop):
                total[o, i] = zero
            for k in range(dx.shape[1]):
                for i in range(start, stop):
                    total[o, i] += dy[o, k, i] * saved_p[o, k, i]
            for k in range(dx.shape[1]):
                for i in range(start, stop):
                    dx[o, k, i] = saved_p[o, k, i] * (dy[o, k, i] - total[o, i])


@kernel
def log_softmax_forward(y: Out, saved_p: Saved, largest: Scratch, total: Scratch, x: In):
    """y = log p, and p for backward."""
    for task in prange(task_count(x)):
        o, start, stop = task_bounds(task, x)
        exponentials(saved_p, largest, total, x, o, start, stop)
        if x.shape[2] == 1:
            y_row, p_row, x_row = row(y, o), row(saved_p, o), row(x, o)
            top, mass, depth = largest[o, 0], total[o, 0], log(total[o, 0])
            for k in range(x.shape[1]):
                p_row[k] = p_row[k] / mass
                y_row[k] = (x_row[k] - top) - depth
        else:
            for k in range(x.shape[1]):
                for i in range(start, stop):
                    saved_p[o, k, i] = saved_p[o, k, i] / total[o, i]
            for i in range(start, stop):
                total[o, i] = log(total[o, i])
            for k in range(x.shape[1]):
                for i in range(start, stop):
                    y[o, k, i] = (x[o, k, i] - largest[o, i]) - total[o, i]


@kernel
def log_softmax_backward(dx: Out, saved_p: Saved, total: Scratch, dy: In):
    """dx = dy - p sum_k dy."""
    zero = dy.dtype.type(0)
    for task in prange(task_count(dx)):
        o, start, stop = task_bounds(task, dx)
        if dx.shape[2] == 1:
            dx_row, p_row, dy_row = row(dx, o), row(saved_p, o), row(dy, o)
            mass = zero
            for k in range(dx.shape[1]):
                mass += dy_row[k]
            for k in range(dx.shape[1]):
                dx_row[k] = dy_row[k] - p_row[k] * mass
        else:
            for i in range(start, stop):
                total[o, i] = zero
            for k in range(dx.shape[1]):
                for i in range(start, stop):
                    total[o, i] += dy[o, k, i]
            for k in range(dx.shape[1]):
                for i in range(start, stop):
                    dx[o, k, i] = dy[o, k, i] - saved_p[o, k, i] * total[o, i]


class _OverRows(Layer):
    """A layer over the rows along one dimension; ``call.geometry`` is the shape (O, K, I)."""

    forward_kernel: ClassVar[Kernel]
    backward_kernel: ClassVar[Kernel]

    def __init__(self, dim: int) -> None:
        super().__init__()
        if not isinstance(dim, (int, np.integer)) or isinstance(dim, bool):
            raise ArgumentError(f"{type(self).__name__}: dim must be an int (-1 for the last dimension), got {dim!r}")
        self.dim = int(dim)

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output: the input's.

        Raises
        ------
        ShapeError
            If the input has no dimension ``dim``.
        """
        rank = max(1, len(x_shape))  # a single number is a row of one
        if not -rank <= self.dim < rank:
            raise ShapeError(f"{self!r}: x must have a dimension {self.dim}, got shape {x_shape}")
        return x_shape

    def _geometry(self, x_shape: Shape, dtype: Any) -> Shape:
        shape = x_shape or (1,)
        dim = self.dim % len(shape)
        return math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :])

    def saved_spec(self, x_shape: Shape, dtype: Any) -> dict[str, Spec]:
        """The probabilities p."""
        return {"p": (self._geometry(x_shape, dtype), dtype)}

    def scratch_spec(self, x_shape: Shape, dtype: Any) -> dict[str, Spec]:
        """Maximum and sum of every row."""
        outer, _, inside = self._geometry(x_shape, dtype)
        return {"largest": ((outer, inside), dtype), "total": ((outer, inside), dtype)}

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        shape, scratch = call.geometry, call.scratch
        run = self.forward_kernel.for_work(x.size * EXP_WORK)
        run(y.reshape(shape), saved["p"], scratch["largest"], scratch["total"], x.reshape(shape))

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if dx is not None:
            self.backward_kernel(dx.reshape(call.geometry), saved["p"], call.scratch["total"], dy.reshape(call.geometry))

    def _arguments(self) -> str:
        return f"dim={self.dim}"


class Softmax(_OverRows):
    """Probabilities y_k = exp(x_k) / sum_l exp(x_l) along one dimension, for arrays of any shape.

    Parameters
    ----------
    dim : int
        The dimension along which the output sums to 1; negative ones count from the last. It has no default: PyTorch's
        ``None`` means dimension 0 or 1, depending on the rank, and is deprecated there.

    Raises
    ------
    ArgumentError
        If ``dim`` is no int.
    """

    forward_kernel = softmax_forward
    backward_kernel = softmax_backward


class LogSoftmax(_OverRows):
    """Logarithms of probabilities, y_k = x_k - log(sum_l exp(x_l)) along one dimension, for arrays of any shape.

    Parameters
    ----------
    dim : int
        The dimension along which exp(y) sums to 1; negative ones count from the last. It has no default, as in `Softmax`.

    Raises
    ------
    ArgumentError
        If ``dim`` is no int.
    """

    forward_kernel = log_softmax_forward
    backward_kernel = log_softmax_backward

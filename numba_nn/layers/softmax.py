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
from typing import Any, ClassVar

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.core.kernel import In, Kernel, Out, Saved, Scratch, inner, kernel
from numba_nn.core.layer import Layer
from numba_nn.core.reduce import BLOCK, block_bounds
from numba_nn.core.simd import maximum
from numba_nn.core.vmath import exp, log
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
    """largest = max_k x, e = exp(x - largest) and total = sum_k e, over a task; a NaN in x spreads over its row.

    Loops run over whole slices: over a part of an array, from an index that might be negative, LLVM makes no vectors.
    """
    if x.shape[2] == 1:
        x_row, e_row = row(x, o), row(e, o)
        largest[o, 0], mass = row_maximum(x_row), 0.0
        for block in range(-(-x_row.size // BLOCK)):
            first, last = block_bounds(block, x_row.size)
            mass += row_exponentials(e_row[first:last], x_row[first:last], largest[o, 0])
        total[o, 0] = mass
    else:
        tops, masses = largest[o, start:stop], total[o, start:stop]
        for i in range(tops.size):
            tops[i], masses[i] = -np.inf, 0
        for k in range(x.shape[1]):
            x_line = x[o, k, start:stop]
            for i in range(tops.size):
                tops[i] = maximum(tops[i], x_line[i])
        for k in range(x.shape[1]):
            x_line, e_line = x[o, k, start:stop], e[o, k, start:stop]
            for i in range(tops.size):
                e_line[i] = exp(x_line[i] - tops[i])
                masses[i] += e_line[i]


@inner
def row_maximum(x):
    """The largest of an array; minus infinity of an empty one."""
    top = x.dtype.type(-np.inf)
    for k in range(x.size):
        top = maximum(top, x[k])
    return top


@inner
def row_exponentials(e, x, top):
    """e = exp(x - top); returns their sum."""
    mass = x.dtype.type(0)
    for k in range(x.size):
        e[k] = exp(x[k] - top)
        mass += e[k]
    return mass


@kernel
def softmax_forward(y: Out, saved_p: Saved, largest: Scratch, total: Scratch, x: In):
    """y = p, which is kept a second time for backward."""
    for task in prange(task_count(x)):
        o, start, stop = task_bounds(task, x)
        exponentials(y, largest, total, x, o, start, stop)
        if x.shape[2] == 1:
            y_row, p_row, mass = row(y, o), row(saved_p, o), total[o, 0]
            for k in range(y_row.size):
                y_row[k] = y_row[k] / mass
                p_row[k] = y_row[k]
        else:
            masses = total[o, start:stop]
            for k in range(x.shape[1]):
                y_line, p_line = y[o, k, start:stop], saved_p[o, k, start:stop]
                for i in range(masses.size):
                    y_line[i] = y_line[i] / masses[i]
                    p_line[i] = y_line[i]


@kernel
def softmax_backward(dx: Out, saved_p: Saved, total: Scratch, dy: In):
    """dx = p (dy - sum_k dy p)."""
    zero = dy.dtype.type(0)
    for task in prange(task_count(dx)):
        o, start, stop = task_bounds(task, dx)
        if dx.shape[2] == 1:
            dx_row, p_row, dy_row, mean = row(dx, o), row(saved_p, o), row(dy, o), zero
            for k in range(dx_row.size):
                mean += dy_row[k] * p_row[k]
            for k in range(dx_row.size):
                dx_row[k] = p_row[k] * (dy_row[k] - mean)
        else:
            means = total[o, start:stop]
            for i in range(means.size):
                means[i] = zero
            for k in range(dx.shape[1]):
                p_line, dy_line = saved_p[o, k, start:stop], dy[o, k, start:stop]
                for i in range(means.size):
                    means[i] += dy_line[i] * p_line[i]
            for k in range(dx.shape[1]):
                dx_line, p_line, dy_line = dx[o, k, start:stop], saved_p[o, k, start:stop], dy[o, k, start:stop]
                for i in range(means.size):
                    dx_line[i] = p_line[i] * (dy_line[i] - means[i])


@kernel
def log_softmax_forward(y: Out, saved_p: Saved, largest: Scratch, total: Scratch, x: In):
    """y = log p, and p for backward."""
    for task in prange(task_count(x)):
        o, start, stop = task_bounds(task, x)
        exponentials(saved_p, largest, total, x, o, start, stop)
        tops, masses = largest[o, start:stop], total[o, start:stop]
        if x.shape[2] == 1:
            y_row, p_row, x_row = row(y, o), row(saved_p, o), row(x, o)
            top, mass, depth = tops[0], masses[0], log(masses[0])
            for k in range(y_row.size):
                p_row[k] = p_row[k] / mass
                y_row[k] = (x_row[k] - top) - depth
        else:
            for k in range(x.shape[1]):
                p_line = saved_p[o, k, start:stop]
                for i in range(masses.size):
                    p_line[i] = p_line[i] / masses[i]
            for i in range(masses.size):
                masses[i] = log(masses[i])
            for k in range(x.shape[1]):
                y_line, x_line = y[o, k, start:stop], x[o, k, start:stop]
                for i in range(masses.size):
                    y_line[i] = (x_line[i] - tops[i]) - masses[i]


@kernel
def log_softmax_backward(dx: Out, saved_p: Saved, total: Scratch, dy: In):
    """dx = dy - p sum_k dy."""
    zero = dy.dtype.type(0)
    for task in prange(task_count(dx)):
        o, start, stop = task_bounds(task, dx)
        if dx.shape[2] == 1:
            dx_row, p_row, dy_row, mass = row(dx, o), row(saved_p, o), row(dy, o), zero
            for k in range(dx_row.size):
                mass += dy_row[k]
            for k in range(dx_row.size):
                dx_row[k] = dy_row[k] - p_row[k] * mass
        else:
            masses = total[o, start:stop]
            for i in range(masses.size):
                masses[i] = zero
            for k in range(dx.shape[1]):
                dy_line = dy[o, k, start:stop]
                for i in range(masses.size):
                    masses[i] += dy_line[i]
            for k in range(dx.shape[1]):
                dx_line, p_line, dy_line = dx[o, k, start:stop], saved_p[o, k, start:stop], dy[o, k, start:stop]
                for i in range(masses.size):
                    dx_line[i] = dy_line[i] - p_line[i] * masses[i]


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

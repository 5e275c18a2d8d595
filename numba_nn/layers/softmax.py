"""Softmax over one dimension, and its logarithm.

    Softmax      y_k = p_k                   dx_k = p_k (dy_k - sum_l dy_l p_l)
    LogSoftmax   y_k = x_k - m - log(s)      dx_k = dy_k - p_k sum_l dy_l

where m = max_k x_k, s = sum_k exp(x_k - m), p_k = exp(x_k - m) / s: with the largest subtracted, exp never overflows. A row
with a NaN or a plus infinity, or of minus infinities alone, gives NaN, as the formula does. Backward has p from y.

Kernels take x as (O, K, I): all dimensions before the one in question, that one, and all after it. What belongs to a row
over k is (O, I). Tasks are those of `numba_nn.core.rows`.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.cuda.reduce import WARPS, team_sum
from numba_nn.core.cuda.rows import HELD, exponentials_of_row, held_exponentials, hold, release, row_grid, row_of_team, u32
from numba_nn.core.each import PIECE, PIECES_AHEAD, each, each_far, each_sum, is_far, same
from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.core.kernel import In, Kernel, Out, Saved, Scratch, inlined, kernel
from numba_nn.core.rows import task_bounds, task_count
from numba_nn.core.vmath import EXP_WORK, exp_below, log
from numba_nn.core.workspace import Shape, Spec
from numba_nn.layers.exponentials import exp_less, exponentials, next_row, row_exponentials, row_top
from numba_nn.layers.from_output import FromOutput, copy_unless_empty
from numba_nn.layers.merge import product


@inlined
def exp_share(x, top, share):
    """exp(x - top) share where x <= top."""
    return exp_below(x - top) * share


@inlined
def log_share(x, top, depth):
    """x - top - depth, in this order: the difference is exact near the top."""
    return (x - top) - depth


@inlined
def share_gradient(dy, p, mean):
    """p (dy - mean)."""
    return p * (dy - mean)


@inlined
def less_share(dy, y, mass):
    """dy - exp(y) mass, for y <= 0."""
    return dy - exp_below(y) * mass


@kernel
def softmax_forward(y: Out, saved_y: Saved, largest: Scratch, total: Scratch, x: In):
    """y = p; saved_y: flat, for a second copy, or empty."""
    flat, flat_y, size, far = x.reshape(x.size), y.reshape(y.size), x.shape[1], is_far(saved_y) and x.shape[1] >= PIECE
    for task in prange(task_count(x)):
        o, start, stop = task_bounds(task, x)
        if x.shape[2] == 1:
            first, last = o * size, (o + 1) * size
            x_row, y_row, saved_row = flat[first:last], flat_y[first:last], saved_y[first:last]
            if far:  # exponentials are computed twice: two copies of y past the caches gain more than that costs, one does not
                top = row_top(x_row)
                share = x.dtype.type(1 / each_sum(exp_less, (x_row, top), next_row(x_row)))
                each_far(exp_share, (y_row, saved_row), (x_row, top, share), far)
                continue
            share = x.dtype.type(1 / row_exponentials(flat_y, flat, first, last)[1])
            for k in range(y_row.size):
                y_row[k] *= share
            copy_unless_empty(saved_row, y_row)
        else:
            exponentials(y, largest, total, x, o, start, stop)
            shares = total[o, start:stop]
            for i in range(shares.size):
                shares[i] = 1 / shares[i]
            for k in range(x.shape[1]):
                y_line = y[o, k, start:stop]
                for i in range(shares.size):
                    y_line[i] *= shares[i]
                at = (o * x.shape[1] + k) * x.shape[2] + start
                copy_unless_empty(saved_y[at : at + y_line.size], y_line)


@kernel
def softmax_backward(dx: Out, saved_y: Saved, total: Scratch, dy: In):
    """dx = p (dy - sum_k dy p), where p = y."""
    zero, far = dy.dtype.type(0), is_far(dx) and dx.shape[1] >= PIECE
    for task in prange(task_count(dx)):
        o, start, stop = task_bounds(task, dx)
        if dx.shape[2] == 1:
            dx_row, p_row, dy_row = dx[o].reshape(-1), saved_y[o].reshape(-1), dy[o].reshape(-1)
            mean = zero
            if far:
                mean = dy.dtype.type(each_sum(product, (dy_row, p_row), PIECES_AHEAD))
                each_far(share_gradient, dx_row, (dy_row, p_row, mean), far)
                continue
            for k in range(dx_row.size):  # a tenth faster on rows of 128
                mean += dy_row[k] * p_row[k]
            for k in range(dx_row.size):
                dx_row[k] = p_row[k] * (dy_row[k] - mean)
        else:
            means = total[o, start:stop]
            for i in range(means.size):
                means[i] = zero
            for k in range(dx.shape[1]):
                p_line, dy_line = saved_y[o, k, start:stop], dy[o, k, start:stop]
                for i in range(means.size):
                    means[i] += dy_line[i] * p_line[i]
            for k in range(dx.shape[1]):
                dx_line, p_line, dy_line = dx[o, k, start:stop], saved_y[o, k, start:stop], dy[o, k, start:stop]
                for i in range(means.size):
                    dx_line[i] = p_line[i] * (dy_line[i] - means[i])


@kernel
def log_softmax_forward(y: Out, saved_y: Saved, largest: Scratch, total: Scratch, x: In):
    """y = log p; saved_y: flat, for a second copy, or empty."""
    flat, flat_y, size, far = x.reshape(x.size), y.reshape(y.size), x.shape[1], is_far(y) and x.shape[1] >= PIECE
    for task in prange(task_count(x)):
        o, start, stop = task_bounds(task, x)
        if x.shape[2] == 1:
            first, last = o * size, (o + 1) * size
            x_row, top = flat[first:last], row_top(flat[first:last])
            depth = log(x.dtype.type(each_sum(exp_less, (x_row, top), next_row(x_row))))
            each_far(log_share, (flat_y[first:last], saved_y[first:last]), (x_row, top, depth), far)
        else:
            exponentials(y, largest, total, x, o, start, stop)
            tops, depths = largest[o, start:stop], total[o, start:stop]
            for i in range(depths.size):
                depths[i] = log(depths[i])
            for k in range(x.shape[1]):
                y_line, x_line = y[o, k, start:stop], x[o, k, start:stop]
                for i in range(depths.size):
                    y_line[i] = (x_line[i] - tops[i]) - depths[i]
                at = (o * x.shape[1] + k) * x.shape[2] + start
                copy_unless_empty(saved_y[at : at + y_line.size], y_line)


@kernel
def log_softmax_backward(dx: Out, saved_y: Saved, total: Scratch, dy: In):
    """dx = dy - p sum_k dy, where p = exp_below(y)."""
    zero, far = dy.dtype.type(0), is_far(dx) and dx.shape[1] >= PIECE
    for task in prange(task_count(dx)):
        o, start, stop = task_bounds(task, dx)
        if dx.shape[2] == 1:
            dx_row, y_row, dy_row, mass = dx[o].reshape(-1), saved_y[o].reshape(-1), dy[o].reshape(-1), zero
            if far:
                mass = dy.dtype.type(each_sum(same, (dy_row,), PIECES_AHEAD))
                each_far(less_share, dx_row, (dy_row, y_row, mass), far)
                continue
            for k in range(dx_row.size):
                mass += dy_row[k]
            each(less_share, dx_row, (dy_row, y_row, mass))
        else:
            masses = total[o, start:stop]
            for i in range(masses.size):
                masses[i] = zero
            for k in range(dx.shape[1]):
                dy_line = dy[o, k, start:stop]
                for i in range(masses.size):
                    masses[i] += dy_line[i]
            for k in range(dx.shape[1]):
                dx_line, y_line, dy_line = dx[o, k, start:stop], saved_y[o, k, start:stop], dy[o, k, start:stop]
                each(less_share, dx_line, (dy_line, y_line, masses))


# ---- on a GPU: a team of threads has a row, see `numba_nn.core.cuda.rows` ------------------------------------------------


@softmax_forward.on_cuda(grid=row_grid)
def softmax_forward(y: Out, saved_y: Saved, largest: Scratch, total: Scratch, x: In):
    """Exponentials that are held need no second look at x."""
    room, held = cuda.shared.array(WARPS, x.dtype), cuda.local.array(HELD, x.dtype)
    team, start = row_of_team(x), u32(0)
    row, reach, stretch = team
    top, mass = exponentials_of_row(held, held, x, team, room)
    share = x.dtype.type(1) / mass
    while start < reach:
        if reach > stretch:
            hold(held, x, row, start, x.dtype.type(-np.inf))
            held_exponentials(held, held, row, start, top)
        for n in range(HELD):
            held[n] *= share
        release(y, row, start, held)
        if saved_y.size > 0:
            release(saved_y, row, start, held)
        start = u32(start + stretch)


@log_softmax_forward.on_cuda(grid=row_grid)
def log_softmax_forward(y: Out, saved_y: Saved, largest: Scratch, total: Scratch, x: In):
    """Exponentials are only summed."""
    room, held, e = cuda.shared.array(WARPS, x.dtype), cuda.local.array(HELD, x.dtype), cuda.local.array(HELD, x.dtype)
    team, start = row_of_team(x), u32(0)
    row, reach, stretch = team
    top, mass = exponentials_of_row(e, held, x, team, room)
    depth = log(mass)
    while start < reach:
        if reach > stretch:
            hold(held, x, row, start, x.dtype.type(-np.inf))
        for n in range(HELD):
            held[n] = (held[n] - top) - depth
        release(y, row, start, held)
        if saved_y.size > 0:
            release(saved_y, row, start, held)
        start = u32(start + stretch)


@softmax_backward.on_cuda(grid=row_grid)
def softmax_backward(dx: Out, saved_y: Saved, total: Scratch, dy: In):
    """Both p and dy are held."""
    room, p, g = cuda.shared.array(WARPS, dy.dtype), cuda.local.array(HELD, dy.dtype), cuda.local.array(HELD, dy.dtype)
    (row, reach, stretch), start, zero = row_of_team(dx), u32(0), dy.dtype.type(0)
    mean = zero
    while start < reach:
        hold(p, saved_y, row, start, zero)
        hold(g, dy, row, start, zero)
        for n in range(HELD):
            mean += g[n] * p[n]
        start = u32(start + stretch)
    mean, start = team_sum(mean, room), u32(0)
    while start < reach:
        if reach > stretch:
            hold(p, saved_y, row, start, zero)
            hold(g, dy, row, start, zero)
        for n in range(HELD):
            p[n] *= g[n] - mean
        release(dx, row, start, p)
        start = u32(start + stretch)


@log_softmax_backward.on_cuda(grid=row_grid)
def log_softmax_backward(dx: Out, saved_y: Saved, total: Scratch, dy: In):
    """Only dy is held: y is needed once."""
    room, y, g = cuda.shared.array(WARPS, dy.dtype), cuda.local.array(HELD, dy.dtype), cuda.local.array(HELD, dy.dtype)
    (row, reach, stretch), start, zero = row_of_team(dx), u32(0), dy.dtype.type(0)
    mass = zero
    while start < reach:
        hold(g, dy, row, start, zero)
        for n in range(HELD):
            mass += g[n]
        start = u32(start + stretch)
    mass, start = team_sum(mass, room), u32(0)
    while start < reach:
        if reach > stretch:
            hold(g, dy, row, start, zero)
        hold(y, saved_y, row, start, zero)
        for n in range(HELD):
            g[n] -= exp_below(y[n]) * mass
        release(dx, row, start, g)
        start = u32(start + stretch)


class _OverRows(FromOutput):
    """A layer over the rows along one dimension; ``call.geometry`` is the shape (O, K, I)."""

    forward_kernel: ClassVar[Kernel]
    backward_kernel: ClassVar[Kernel]
    backward_work: ClassVar[int] = 1

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

    def scratch_spec(self, x_shape: Shape, dtype: Any) -> dict[str, Spec]:
        """Maximum and sum of every row."""
        outer, _, inside = self._geometry(x_shape, dtype)
        return {"largest": ((outer, inside), dtype), "total": ((outer, inside), dtype)}

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        shape, scratch = call.geometry, call.scratch
        run = self.forward_kernel.for_work(x.size * EXP_WORK, self.device)
        run(y.reshape(shape), self._room(call, y, saved), scratch["largest"], scratch["total"], x.reshape(shape))

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if dx is not None:
            shape, run = call.geometry, self.backward_kernel.for_work(dx.size * self.backward_work, self.device)
            run(dx.reshape(shape), saved["y"].reshape(shape), call.scratch["total"], dy.reshape(shape))

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

    def __init__(self, dim: int) -> None:
        super().__init__(dim)


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
    backward_work = EXP_WORK

    def __init__(self, dim: int) -> None:
        super().__init__(dim)

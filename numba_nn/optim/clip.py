"""Clipping of gradients: all by their common norm, or each number by itself.

norm    n = (sum |g|^p)^(1/p), the largest |g| for an infinite p;    g <- g max_norm / (n + 1e-6), where that is below 1
value   g <- min(max(g, -clip_value), clip_value)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from numba import prange

from numba_nn.core.address import part_at
from numba_nn.core.checks import check_flag, check_number
from numba_nn.core.cuda.portable import fetch
from numba_nn.core.cuda.ptx import WINDOW, cuda
from numba_nn.core.cuda.reduce import WARPS, block_maximum, block_sum, larger, one_block
from numba_nn.core.cuda.twin import THREADS, cuda_kernel
from numba_nn.core.device import CPU
from numba_nn.core.errors import ArgumentError, NonFiniteError
from numba_nn.core.kernel import In, Out, inner, kernel, portable
from numba_nn.core.parameter import Parameter
from numba_nn.optim.table import (
    GRADIENT,
    ParameterTable,
    as_parameters,
    task_bounds,
)  # fmt: skip


@inner
def power_sum(g, power):
    """Sum of |g|^power, in float64, where squares of float32 cannot overflow; NaN is the largest |g|."""
    total = 0.0
    if power == 2:
        for i in range(g.size):
            total += np.float64(g[i]) * np.float64(g[i])
    elif power == 1:
        for i in range(g.size):
            total += abs(np.float64(g[i]))
    elif power == math.inf:
        for i in range(g.size):
            size = abs(np.float64(g[i]))
            total = size if size > total or size != size else total
    else:
        for i in range(g.size):
            total += abs(np.float64(g[i])) ** power
    return total


@kernel
def gradient_power_sums(partial: Out, like: In, table: In, chunks: In, power: float):
    """partial = sum of |g|^power of every chunk; for an infinite power its largest |g|."""
    for t in prange(chunks.shape[0]):
        p, start, stop = task_bounds(table, chunks, t)
        partial[t] = power_sum(part_at(table[p, GRADIENT], start, stop, like), power)


@gradient_power_sums.on_cuda(grid=lambda partial, *_: (partial.size, THREADS))
def gradient_power_sums(partial: Out, like: In, table: In, chunks: In, power: float):
    """`gradient_power_sums` with a block of threads for each task."""
    p, start, stop = task_bounds(table, chunks, cuda.blockIdx.x)
    gradient, i = part_at(table[p, GRADIENT], start, stop, like), np.uint32(np.uint32(WINDOW) * np.uint32(cuda.threadIdx.x))
    room, total, window = cuda.shared.array(WARPS, np.float64), np.float64(0), cuda.local.array(WINDOW, like.dtype)
    while i < np.uint32(gradient.size):
        fetch(window, gradient, i)  # beyond the end 0, whose powers are 0
        for lane in range(WINDOW):
            size = abs(np.float64(window[lane]))
            if power == math.inf:
                total = larger(size, total)
            else:
                total += size * size if power == 2 else size if power == 1 else size**power
        i = np.uint32(i + np.uint32(WINDOW * THREADS))
    total = block_maximum(total, room) if power == math.inf else block_sum(total, room)
    if cuda.threadIdx.x == 0:
        partial[cuda.blockIdx.x] = total


@cuda_kernel(grid=one_block)
def norm_and_factor(norm: Out, factor: Out, partial: In, power: float, max_norm: float):
    """norm = (sum partial)^(1 / power), or the largest for an infinite power; factor: what brings it down to max_norm."""
    room, total, i = cuda.shared.array(WARPS, np.float64), np.float64(0), np.uint32(cuda.threadIdx.x)
    while i < np.uint32(partial.size):
        total = larger(partial[i], total) if power == math.inf else total + partial[i]
        i = np.uint32(i + np.uint32(THREADS))
    total = block_maximum(total, room) if power == math.inf else block_sum(total, room)
    if cuda.threadIdx.x == 0:
        norm[0] = math.sqrt(total) if power == 2 else total if power == math.inf else total ** (1 / power)
        factor[0] = max_norm / (norm[0] + 1e-6)


@portable
def gradient_scale(factor: In, like: In, table: In, chunks: In):
    """g = factor g, in every chunk, unless the factor is 1 or larger: on a GPU the host does not know it.

    It writes through the addresses in the table, hence no argument is an Out.
    """
    scale, one = like.dtype.type(factor[0]), like.dtype.type(1)
    for t in prange(chunks.shape[0]):
        p, start, stop = task_bounds(table, chunks, t)
        gradient = part_at(table[p, GRADIENT], start, start if scale >= one else stop, like)
        for i in range(gradient.size):
            gradient[i] *= scale


@portable
def gradient_clamp(gradient: Out, limit: float):
    """g = min(max(g, -limit), limit); NaN stays. gradient: flat."""
    high = gradient.dtype.type(limit)
    for i in prange(gradient.size):
        g = gradient[i]
        gradient[i] = high if g > high else -high if g < -high else g


class ClipNorm:
    """Scales gradients down so that their norm, taken over all of them together, is at most ``max_norm``.

    Make it once and call it between backward and the optimiser's step: a call allocates nothing, and on a GPU it waits for
    nothing. Only parameters that require a gradient count. The norm has the same bits on any number of threads. R. Pascanu,
    T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural networks", ICML 2013; the formula is that of
    PyTorch's ``clip_grad_norm_``.

    Parameters
    ----------
    parameters : Parameter or iterable of Parameter
        Whose gradients are clipped.
    max_norm : float
        Largest norm that is left as it is.
    norm_type : float or "inf", optional
        Order of the norm, above 0; ``math.inf`` for the largest magnitude.
    error_if_nonfinite : bool, optional
        Raise where the norm is NaN or infinite; otherwise the gradients become NaN or 0, as arithmetic has it. On a GPU every
        call then waits for the norm, and a training step that does so cannot be captured.

    Raises
    ------
    ArgumentError
        If a number is out of range, something else is among the parameters, or one is given twice.

    Examples
    --------
    >>> clip = nn.optim.ClipNorm(model.parameters(), max_norm=1.0)
    >>> model.backward(loss.backward())
    >>> norm = clip()
    >>> optimizer.step()
    """

    _where: ClassVar[str] = "ClipNorm"
    """What users have called, for messages."""

    def __init__(
        self, parameters: Parameter | Iterable[Parameter], max_norm: float, norm_type: float | str = 2.0,
        error_if_nonfinite: bool = False,
    ) -> None:  # fmt: skip
        where = self._where
        self.parameters = as_parameters(where, "parameters", parameters)
        self.max_norm = check_number(where, "max_norm", max_norm, 0)
        self.norm_type = math.inf if norm_type == "inf" else check_number(where, "norm_type", norm_type, 0)
        if self.norm_type == 0:
            raise ArgumentError(f"{where}: norm_type must be above 0, got {norm_type!r}")
        self.error_if_nonfinite = check_flag(where, "error_if_nonfinite", error_if_nonfinite)
        self._table = ParameterTable((p, 0, ()) for p in self.parameters)
        self._place()

    def __reduce__(self) -> tuple[Any, ...]:
        return ClipNorm, (self.parameters, self.max_norm, self.norm_type, self.error_if_nonfinite)

    def _place(self) -> None:
        """Have partial sums, norm and factor where the parameters are."""
        self._device = device = self._table.device
        self._partial = device.zeros((sum(len(tasks.chunks) for tasks in self._table.tasks),), np.float64)
        self._norm, self._factor = device.zeros((1,), np.float64), device.zeros((1,), np.float64)

    def __call__(self) -> Any:
        """Clip the gradients.

        Returns
        -------
        float or device array
            Their norm before. On a GPU an array of one float64, which the next call overwrites.

        Raises
        ------
        NonFiniteError
            If the norm is NaN or infinite, and this was asked for; the gradients stay as they were.
        """
        with self._table.on_stream():
            return self._clip()

    def _clip(self) -> Any:
        self.refresh()
        self._sum_powers()
        if self._device is CPU:
            self._reduce()
        else:
            norm_and_factor(self._norm, self._factor, self._partial, self.norm_type, self.max_norm)
        norm = float(self._norm[0]) if self._device is CPU else self._norm
        if self.error_if_nonfinite and not math.isfinite(known := self._device.number(self._norm)):
            raise NonFiniteError(
                f"{self._where}: the gradients' norm of order {self.norm_type:g} is {known}, so nothing was clipped"
            )
        if self._device is CPU and self._factor[0] >= 1:
            return norm
        for like, _, chunks, elements in self._table.tasks:
            gradient_scale.for_work(elements, self._device)(self._factor, like, self._table.rows.array, chunks)
        return norm

    def refresh(self) -> None:
        """Have kernels see what changed on the host: frozen parameters, parameters that moved; a call does it too."""
        with self._table.on_stream():
            self._table.refresh()
        if self._table.device is not self._device:
            self._place()

    def _sum_powers(self) -> None:
        first = 0
        for like, _, chunks, elements in self._table.tasks:
            partial = self._partial[first : first + len(chunks)]
            run = gradient_power_sums.for_work(elements, self._device)
            run(partial, like, self._table.rows.array, chunks, self.norm_type)
            first += len(chunks)

    def _reduce(self) -> None:
        """What `norm_and_factor` does, on the CPU."""
        with np.errstate(over="ignore"):
            if self.norm_type == math.inf:
                np.maximum.reduce(self._partial, out=self._norm.reshape(()), initial=0.0)
            else:
                np.add.reduce(self._partial, out=self._norm.reshape(()))
                self._norm[0] = self._norm[0] ** (1 / self.norm_type)
        self._factor[0] = self.max_norm / (self._norm[0] + 1e-6)


class _ClipOnce(ClipNorm):
    _where = "clip_grad_norm_"


def clip_grad_norm_(
    parameters: Parameter | Iterable[Parameter], max_norm: float, norm_type: float | str = 2.0, error_if_nonfinite: bool = False
) -> Any:
    """Scale gradients down so that their common norm is at most ``max_norm``.

    Every call makes a table of the parameters; in a loop a `ClipNorm` makes it once.

    Parameters
    ----------
    parameters : Parameter or iterable of Parameter
        Whose gradients are clipped, where they require one.
    max_norm : float
        Largest norm that is left as it is.
    norm_type : float or "inf", optional
        Order of the norm, above 0; ``math.inf`` for the largest magnitude.
    error_if_nonfinite : bool, optional
        Raise where the norm is NaN or infinite.

    Returns
    -------
    float or device array
        The norm before; see `ClipNorm`.

    Raises
    ------
    ArgumentError
        If a number is out of range, something else is among the parameters, or one is given twice.
    NonFiniteError
        If the norm is NaN or infinite, and this was asked for; the gradients stay as they were.
    """
    return _ClipOnce(parameters, max_norm, norm_type, error_if_nonfinite)()


def clip_grad_value_(parameters: Parameter | Iterable[Parameter], clip_value: float) -> None:
    """Limit every number of the gradients to [-clip_value, clip_value].

    Parameters
    ----------
    parameters : Parameter or iterable of Parameter
        Whose gradients are clipped, where they require one.
    clip_value : float
        Largest magnitude that is left as it is.

    Raises
    ------
    ArgumentError
        If it is negative, something else is among the parameters, or one is given twice.
    """
    limit = check_number("clip_grad_value_", "clip_value", clip_value, 0)
    for parameter in as_parameters("clip_grad_value_", "parameters", parameters):
        if parameter.requires_grad:
            with parameter.device.on(parameter.stream):
                gradient_clamp(parameter.grad.reshape(-1), limit)

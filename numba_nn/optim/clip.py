"""Clipping of gradients: all by their common norm, or each number by itself.

norm    n = (sum |g|^p)^(1/p), the largest |g| for an infinite p;    g <- g max_norm / (n + 1e-6), where that is below 1
value   g <- min(max(g, -clip_value), clip_value)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.address import part_at
from numba_nn.core.checks import check_number
from numba_nn.core.errors import ArgumentError, NonFiniteError
from numba_nn.core.kernel import In, Out, inner, kernel
from numba_nn.core.parameter import Parameter
from numba_nn.optim.table import GRADIENT, ParameterTable, as_parameters, task_bounds


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


@kernel
def gradient_scale(like: In, table: In, chunks: In, factor: float):
    """g = factor g, in every chunk; it writes through the addresses in the table, hence no argument is an Out."""
    for t in prange(chunks.shape[0]):
        p, start, stop = task_bounds(table, chunks, t)
        gradient = part_at(table[p, GRADIENT], start, stop, like)
        for i in range(gradient.size):
            gradient[i] *= like.dtype.type(factor)


@kernel
def gradient_clamp(gradient: Out, limit: float):
    """g = min(max(g, -limit), limit); NaN stays. gradient: flat."""
    high = gradient.dtype.type(limit)
    for i in prange(gradient.size):
        g = gradient[i]
        gradient[i] = high if g > high else -high if g < -high else g


class ClipNorm:
    """Scales gradients down so that their norm, taken over all of them together, is at most ``max_norm``.

    Make it once and call it between backward and the optimiser's step: a call allocates nothing. Only parameters that
    require a gradient count. The norm has the same bits on any number of threads. R. Pascanu, T. Mikolov and Y. Bengio,
    "On the difficulty of training recurrent neural networks", ICML 2013; the formula is that of PyTorch's
    ``clip_grad_norm_``.

    Parameters
    ----------
    parameters : Parameter or iterable of Parameter
        Whose gradients are clipped.
    max_norm : float
        Largest norm that is left as it is.
    norm_type : float, optional
        Order of the norm, above 0; ``math.inf`` for the largest magnitude.
    error_if_nonfinite : bool, optional
        Raise where the norm is NaN or infinite; otherwise the gradients become NaN or 0, as arithmetic has it.

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

    def __init__(
        self, parameters: Parameter | Iterable[Parameter], max_norm: float, norm_type: float = 2.0,
        error_if_nonfinite: bool = False,
    ) -> None:  # fmt: skip
        self.parameters = as_parameters("ClipNorm", parameters)
        self.max_norm = check_number("ClipNorm", "max_norm", max_norm, 0)
        self.norm_type = check_number("ClipNorm", "norm_type", norm_type, 0)
        if norm_type == 0:
            raise ArgumentError("ClipNorm: norm_type must be above 0, got 0")
        self.error_if_nonfinite = error_if_nonfinite
        self._table = ParameterTable((p, 0, ()) for p in self.parameters)
        self._partial = np.empty(sum(len(chunks) for _, chunks, _ in self._table.tasks))
        self._total = np.empty(())

    def __reduce__(self) -> tuple[Any, ...]:
        return ClipNorm, (self.parameters, self.max_norm, self.norm_type, self.error_if_nonfinite)

    def __call__(self) -> float:
        """Clip the gradients.

        Returns
        -------
        float
            Their norm before.

        Raises
        ------
        NonFiniteError
            If the norm is NaN or infinite, and this was asked for; the gradients stay as they were.
        """
        self._table.see_frozen()
        norm = self._norm()
        if self.error_if_nonfinite and not math.isfinite(norm):
            raise NonFiniteError(f"ClipNorm: the gradients' norm of order {self.norm_type:g} is {norm}, so nothing was clipped")
        factor = self.max_norm / (norm + 1e-6)
        if not factor >= 1:
            for like, chunks, elements in self._table.tasks:
                gradient_scale.for_work(elements)(like, self._table.rows, chunks, factor)
        return norm

    def _norm(self) -> float:
        first = 0
        for like, chunks, elements in self._table.tasks:
            partial = self._partial[first : first + len(chunks)]
            gradient_power_sums.for_work(elements)(partial, like, self._table.rows, chunks, self.norm_type)
            first += len(chunks)
        with np.errstate(over="ignore"):
            if self.norm_type == math.inf:
                return float(np.maximum.reduce(self._partial, out=self._total, initial=0.0))
            np.add.reduce(self._partial, out=self._total)
            return float(self._total[()] ** (1 / self.norm_type))


def clip_grad_norm_(
    parameters: Parameter | Iterable[Parameter], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> float:
    """Scale gradients down so that their common norm is at most ``max_norm``.

    Every call makes a table of the parameters; in a loop a `ClipNorm` makes it once.

    Parameters
    ----------
    parameters : Parameter or iterable of Parameter
        Whose gradients are clipped, where they require one.
    max_norm : float
        Largest norm that is left as it is.
    norm_type : float, optional
        Order of the norm, above 0; ``math.inf`` for the largest magnitude.
    error_if_nonfinite : bool, optional
        Raise where the norm is NaN or infinite.

    Returns
    -------
    float
        The norm before.

    Raises
    ------
    ArgumentError
        If a number is out of range, something else is among the parameters, or one is given twice.
    NonFiniteError
        If the norm is NaN or infinite, and this was asked for; the gradients stay as they were.
    """
    return ClipNorm(parameters, max_norm, norm_type, error_if_nonfinite)()


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
    for parameter in as_parameters("clip_grad_value_", parameters):
        if parameter.requires_grad:
            gradient_clamp(parameter.grad.reshape(-1), limit)

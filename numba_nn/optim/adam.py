"""Adam, and Adam with decoupled weight decay."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

from numba import prange

from numba_nn.core.address import part_at
from numba_nn.core.checks import check_finite, check_flag, check_number
from numba_nn.core.errors import ArgumentError
from numba_nn.core.kernel import In, Out, Saved, inlined, portable
from numba_nn.optim.optimizer import Optimizer
from numba_nn.optim.table import ACTIVE, GRADIENT, GROUP, STATE, VALUE, task_bounds

LR, SCALE, BETA1, FRESH1, BETA2, FRESH2, EPS, DECAY, KEEP, SIGN, AMSGRAD = range(11)
"""Columns of coefficients: lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), beta1, 1 - beta1, beta2, 1 - beta2, eps, weight decay in
the gradient, factor of the value, sign of the gradient, amsgrad."""


@portable
def adam_prepare(coefficients: Out, steps: Saved, members: In, table: In, rates: In):
    """Coefficients of this step; see `Optimizer`. rates: lr, beta1, beta2, eps, decay, factor of the value, sign, amsgrad."""
    for m in prange(members.size):
        p = members[m]
        rate, step = rates[table[p, GROUP]], float(steps[p] + 1)
        coefficients[p, LR], coefficients[p, SCALE] = rate[0] / (1 - rate[1] ** step), 1 / math.sqrt(1 - rate[2] ** step)
        coefficients[p, BETA1], coefficients[p, FRESH1] = rate[1], 1 - rate[1]
        coefficients[p, BETA2], coefficients[p, FRESH2] = rate[2], 1 - rate[2]
        for k in range(5):
            coefficients[p, EPS + k] = rate[3 + k]
        if table[p, ACTIVE] > 0:
            steps[p] += 1


@inlined
def adam_moments(w, g, m, v, constants):
    """The moments after a step of one element."""
    beta1, fresh1, beta2, fresh2, decay, sign = constants
    g = sign * g
    if decay != 0:
        g += decay * w
    return beta1 * m + fresh1 * g, beta2 * v + fresh2 * g * g


@portable
def adam_update(coefficients: In, table: In, chunks: In):
    """Update every chunk of every parameter in a table; see `Optimizer` for the arguments."""
    for t in prange(chunks.shape[0]):
        p, start, stop = task_bounds(table, chunks, t)
        value = part_at(table[p, VALUE], start, stop, coefficients)
        gradient = part_at(table[p, GRADIENT], start, stop, coefficients)
        first = part_at(table[p, STATE], start, stop, coefficients)
        second = part_at(table[p, STATE + 1], start, stop, coefficients)
        c = coefficients[p]
        constants = c[BETA1], c[FRESH1], c[BETA2], c[FRESH2], c[DECAY], c[SIGN]
        lr, scale, eps, keep, amsgrad = c[LR], c[SCALE], c[EPS], c[KEEP], c[AMSGRAD] != 0
        last = stop if amsgrad else start  # else there is no such array
        largest = part_at(table[p, table.shape[1] - 1], start, last, coefficients)
        for i in range(value.size):
            w = keep * value[i]
            m, v = adam_moments(w, gradient[i], first[i], second[i], constants)
            first[i], second[i] = m, v
            if amsgrad:
                v = largest[i] if largest[i] > v else v
                largest[i] = v
            value[i] = w - lr * m / (math.sqrt(v) * scale + eps)


class Adam(Optimizer):
    """Steps in proportion to a running mean of the gradient, over the root of a running mean of its square.

    For a parameter w with gradient g (-g to maximise), in its t-th step, as PyTorch defines it::

        g <- g + weight_decay w
        m <- beta1 m + (1 - beta1) g
        v <- beta2 v + (1 - beta2) g^2
        w <- w - lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)

    With amsgrad the largest v so far takes the place of v in the last line. D. P. Kingma and J. Ba, "Adam: a method for
    stochastic optimization", ICLR 2015; S. J. Reddi, S. Kale and S. Kumar, "On the convergence of Adam and beyond", ICLR 2018.

    Parameters
    ----------
    params : iterable of Parameter or of dict
        Parameters, or groups ``{"params": [...], "lr": ..., ...}`` with settings of their own.
    lr : float, optional
        Learning rate.
    betas : tuple of float, optional
        Decay rates of the running means of g and g^2, in [0, 1).
    eps : float, optional
        Added to the root, against division by 0.
    weight_decay : float, optional
        Factor of w in the gradient.
    amsgrad : bool, optional
        Use the largest v so far. It takes an array more beside every parameter, so it cannot be switched on later, unless
        one group has it from the beginning.
    maximize : bool, optional
        Climb instead of descend.

    Attributes
    ----------
    param_groups : list of dict
        The groups; settings may be changed between steps, as a schedule does.

    Raises
    ------
    ArgumentError
        If a setting is out of range, no parameter is given, or one is given twice.
    """

    _prepare, _update, _coefficient_count = adam_prepare, adam_update, 11
    _decoupled: ClassVar[bool] = False
    """Whether weight decay shrinks the value itself, apart from the gradient."""

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, amsgrad: bool = False, *, maximize: bool = False,
    ) -> None:  # fmt: skip
        rates = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**rates, "amsgrad": amsgrad, "maximize": maximize})

    def _state_names(self) -> tuple[str, ...]:
        largest = ("max_exp_avg_sq",) if any(group["amsgrad"] for group in self.param_groups) else ()
        return ("exp_avg", "exp_avg_sq", *largest)

    def _rates_of(self, group: dict[str, Any]) -> tuple[float, ...]:
        where, lr, betas, decay = type(self).__name__, group["lr"], group["betas"], group["weight_decay"]
        for name in ("lr", "eps", "weight_decay"):
            check_finite(where, name, group[name], 0)
        for name in ("amsgrad", "maximize"):
            check_flag(where, name, group[name])
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ArgumentError(f"{where}: betas must be two numbers, got {betas!r}")
        if max(check_number(where, "betas", beta, 0, 1) for beta in betas) == 1:
            raise ArgumentError(f"{where}: betas must be below 1, got {betas!r}")
        if group["amsgrad"] and "max_exp_avg_sq" not in self._names:
            raise ArgumentError(f"{where}: amsgrad keeps an array beside every parameter; set it when the optimiser is made")
        in_gradient, keep = (0.0, 1 - lr * decay) if self._decoupled else (decay, 1.0)
        return lr, *betas, group["eps"], in_gradient, keep, -1 if group["maximize"] else 1, bool(group["amsgrad"])


class AdamW(Adam):
    """Adam whose weight decay acts on the parameter itself, not through the gradient.

    As `Adam`, with ``w <- w - lr weight_decay w`` before the step in place of the first line. I. Loshchilov and F. Hutter,
    "Decoupled weight decay regularization", ICLR 2019.

    Parameters
    ----------
    params : iterable of Parameter or of dict
        Parameters, or groups ``{"params": [...], "lr": ..., ...}`` with settings of their own.
    lr : float, optional
        Learning rate.
    betas : tuple of float, optional
        Decay rates of the running means of g and g^2, in [0, 1).
    eps : float, optional
        Added to the root, against division by 0.
    weight_decay : float, optional
        Share of w that a step with a learning rate of 1 would take away.
    amsgrad : bool, optional
        Use the largest v so far; see `Adam`.
    maximize : bool, optional
        Climb instead of descend.

    Attributes
    ----------
    param_groups : list of dict
        The groups; settings may be changed between steps, as a schedule does.

    Raises
    ------
    ArgumentError
        If a setting is out of range, no parameter is given, or one is given twice.
    """

    _decoupled = True

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False, *, maximize: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)

"""Stochastic gradient descent."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from numba import prange

from numba_nn.core.address import part_at
from numba_nn.core.checks import check_finite, check_flag
from numba_nn.core.errors import ArgumentError
from numba_nn.core.kernel import In, Out, Saved, inlined, portable
from numba_nn.optim.optimizer import Optimizer
from numba_nn.optim.table import ACTIVE, GRADIENT, GROUP, STATE, VALUE, task_bounds

LR, MOMENTUM, FRESH, DECAY, AHEAD, SIGN, BEGINS = range(7)
"""Columns of coefficients: lr, momentum, 1 - dampening, weight decay, the velocity's share in a step by Nesterov's momentum (0
for another), sign of the gradient, whether the velocity begins."""


@portable
def sgd_prepare(coefficients: Out, steps: Saved, members: In, table: In, rates: In):
    """Coefficients of this step; see `Optimizer`. rates: lr, momentum, 1 - dampening, decay, nesterov, sign."""
    for m in prange(members.size):
        p = members[m]
        rate = rates[table[p, GROUP]]
        coefficients[p, LR], coefficients[p, MOMENTUM], coefficients[p, FRESH] = rate[0], rate[1], rate[2]
        coefficients[p, DECAY], coefficients[p, AHEAD], coefficients[p, SIGN] = rate[3], rate[1] * rate[4], rate[5]
        coefficients[p, BEGINS] = steps[p] == 0
        if table[p, ACTIVE] > 0 and rate[1] != 0:
            steps[p] += 1


@inlined
def sgd_gradient(w, g, decay, sign):
    """What a step of one element follows."""
    g = sign * g
    return g + decay * w if decay != 0 else g


@portable
def sgd_update(coefficients: In, table: In, chunks: In):
    """Update every chunk of every parameter in a table; see `Optimizer` for the arguments."""
    for t in prange(chunks.shape[0]):
        p, start, stop = task_bounds(table, chunks, t)
        value = part_at(table[p, VALUE], start, stop, coefficients)
        gradient = part_at(table[p, GRADIENT], start, stop, coefficients)
        c = coefficients[p]
        lr, momentum, fresh, decay, sign, begins = c[LR], c[MOMENTUM], c[FRESH], c[DECAY], c[SIGN], c[BEGINS] != 0
        ahead, nesterov = c[AHEAD], c[AHEAD] != 0
        velocity = part_at(table[p, STATE], start, stop if momentum != 0 else start, coefficients)
        for i in range(value.size):
            step = g = sgd_gradient(value[i], gradient[i], decay, sign)
            if momentum != 0:
                v = g if begins else momentum * velocity[i] + fresh * g
                velocity[i] = v
                step = g + ahead * v if nesterov else v
            value[i] -= lr * step


class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

    For a parameter w with gradient g (-g to maximise), as PyTorch defines it::

        g <- g + weight_decay w
        v <- momentum v + (1 - dampening) g
        w <- w - lr (g + momentum v if nesterov, else v)

    The velocity v starts as the first g that the parameter sees with a momentum.

    Parameters
    ----------
    params : iterable of Parameter or of dict
        Parameters, or groups ``{"params": [...], "lr": ..., ...}`` with settings of their own.
    lr : float, optional
        Learning rate.
    momentum : float, optional
        Share of the velocity that a step keeps.
    dampening : float, optional
        Share of the gradient that does not enter the velocity.
    weight_decay : float, optional
        Factor of w in the gradient.
    nesterov : bool, optional
        Nesterov's momentum; needs a momentum and no dampening.
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

    _prepare, _update, _coefficient_count = sgd_prepare, sgd_update, 7

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0,
        weight_decay: float = 0.0, nesterov: bool = False, *, maximize: bool = False,
    ) -> None:  # fmt: skip
        rates = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**rates, "nesterov": nesterov, "maximize": maximize})

    def _state_names(self) -> tuple[str, ...]:
        return ("velocity",)

    def _rates_of(self, group: dict[str, Any]) -> tuple[float, ...]:
        for name in ("lr", "momentum", "weight_decay"):
            check_finite("SGD", name, group[name], 0)
        check_finite("SGD", "dampening", group["dampening"], -math.inf)
        for name in ("nesterov", "maximize"):
            check_flag("SGD", name, group[name])
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ArgumentError("SGD: nesterov needs a momentum above 0 and no dampening")
        sign = -1 if group["maximize"] else 1
        return group["lr"], group["momentum"], 1 - group["dampening"], group["weight_decay"], bool(group["nesterov"]), sign

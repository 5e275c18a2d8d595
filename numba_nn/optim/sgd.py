"""Stochastic gradient descent."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from numba import prange

from numba_nn.core.address import part_at
from numba_nn.core.checks import check_number
from numba_nn.core.errors import ArgumentError
from numba_nn.core.kernel import In, kernel
from numba_nn.optim.optimizer import Optimizer
from numba_nn.optim.table import GRADIENT, GROUP, STATE, VALUE, task_bounds


@kernel
def sgd_update(like: In, table: In, chunks: In, steps: In, rates: In):
    """Update every chunk of every parameter in a table; see `Optimizer` for the arguments.

    It writes values and velocities through the addresses in the table, hence no argument is an Out. rates: lr, momentum,
    1 - dampening, weight decay, nesterov, sign of the gradient.
    """
    for t in prange(chunks.shape[0]):
        p, start, stop = task_bounds(table, chunks, t)
        value, gradient = part_at(table[p, VALUE], start, stop, like), part_at(table[p, GRADIENT], start, stop, like)
        velocity = part_at(table[p, STATE], start, stop, like)
        kind, rate, begins = like.dtype.type, rates[table[p, GROUP]], steps[p] == 0
        lr, momentum, fresh, decay, sign = kind(rate[0]), kind(rate[1]), kind(rate[2]), kind(rate[3]), kind(rate[5])
        ahead, nesterov = kind(rate[1] * rate[4]), rate[4] != 0
        for i in range(value.size):
            g = sign * gradient[i]
            if decay != 0:
                g += decay * value[i]
            step = g
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

    _kernel = sgd_update

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
            check_number("SGD", name, group[name], 0)
        check_number("SGD", "dampening", group["dampening"], -math.inf)
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ArgumentError("SGD: nesterov needs a momentum above 0 and no dampening")
        sign = -1 if group["maximize"] else 1
        return group["lr"], group["momentum"], 1 - group["dampening"], group["weight_decay"], bool(group["nesterov"]), sign

    def _keeps_state(self, group: dict[str, Any]) -> bool:
        return bool(group["momentum"] != 0)

"""Optimisers: one kernel walks a table of the addresses of all parameters.

SGD, for a parameter w with gradient g, as PyTorch defines it (velocity v starts as the first g):

    g <- g + weight_decay w
    v <- momentum v + (1 - dampening) g
    w <- w - lr (g + momentum v if nesterov, else v)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.address import array_at
from numba_nn.core.errors import ArgumentError, StateDictError
from numba_nn.core.kernel import In, Out, kernel
from numba_nn.core.layer import Array
from numba_nn.core.parameter import Parameter

CHUNK = 16_384  # elements that a task updates: 64 KB each of value, gradient and velocity in float32


@kernel
def sgd_update(like: Out, table: In, chunks: In, rates: In):
    """Update every chunk of every parameter in a table.

    like: (0,) array of the parameters' dtype; table: (P, 6) addresses of value, gradient and velocity, size, group, and
    whether it requires a gradient; chunks: (T, 2) parameter and first element; rates: (G, 6) lr, momentum, 1 - dampening,
    weight decay, nesterov, whether this is the first step.
    """
    for t in prange(chunks.shape[0]):
        p, start = chunks[t, 0], chunks[t, 1]
        size, rate = table[p, 3], rates[table[p, 4]]
        value, gradient = array_at(table[p, 0], size, like), array_at(table[p, 1], size, like)
        velocity = array_at(table[p, 2], size, like)
        kind = like.dtype.type
        lr, momentum, fresh, decay = kind(rate[0]), kind(rate[1]), kind(rate[2]), kind(rate[3])
        ahead = kind(rate[1] * rate[4])
        stop = min(size, start + CHUNK) if table[p, 5] != 0 else start
        for i in range(start, stop):
            g = gradient[i] + decay * value[i] if decay != 0 else gradient[i]
            step = g
            if momentum != 0:
                v = g if rate[5] != 0 else momentum * velocity[i] + fresh * g
                velocity[i] = v
                step = g + ahead * v if rate[4] != 0 else v
            value[i] -= lr * step


class SGD:
    """Stochastic gradient descent with momentum.

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

    Attributes
    ----------
    param_groups : list of dict
        The groups; settings may be changed between steps, as a schedule does.

    Raises
    ------
    ArgumentError
        If a setting is out of range, no parameter is given, or one is given twice.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0,
        weight_decay: float = 0.0, nesterov: bool = False,
    ) -> None:  # fmt: skip
        rates = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        self.param_groups = parameter_groups(params, {**rates, "nesterov": nesterov})
        for group in self.param_groups:
            _check(group)
        self._steps = 0
        self._rates = np.zeros((len(self.param_groups), 6))
        owners = [(p, g) for g, group in enumerate(self.param_groups) for p in group["params"]]
        self._velocities = [np.zeros_like(p.value) for p, _ in owners]
        self._tables = [
            _table([(p, v, g) for (p, g), v in zip(owners, self._velocities, strict=True) if p.value.dtype == dtype])
            for dtype in sorted({p.value.dtype for p, _ in owners}, key=str)
        ]

    def zero_grad(self) -> None:
        """Clear the gradients of all parameters."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.zero_grad()

    def step(self) -> None:
        """Change every parameter that requires a gradient; allocates nothing."""
        for rates, group in zip(self._rates, self.param_groups, strict=True):
            _check(group)
            rates[:5] = (
                group["lr"], group["momentum"], 1 - group["dampening"], group["weight_decay"], group["nesterov"]
            )  # fmt: skip
            rates[5] = self._steps == 0
        for parameters, like, table, chunks, elements in self._tables:
            for i, parameter in enumerate(parameters):
                table[i, 5] = parameter.requires_grad
            sgd_update.for_work(elements)(like, table, chunks, self._rates)
        self._steps += 1

    def state_dict(self) -> dict[str, Array]:
        """Copies of what a resumed run needs beside the parameters: steps taken, and velocities in order."""
        state = {f"velocity.{i}": v.copy() for i, v in enumerate(self._velocities)}
        return {"steps": np.array(self._steps), **state}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Take up the state of another optimiser over parameters of the same shapes; all or nothing.

        Parameters
        ----------
        state : dict of str to ndarray
            As `state_dict` gives it.

        Raises
        ------
        StateDictError
            If names or shapes differ; nothing was loaded.
        """
        own = self.state_dict()
        wrong = sorted(set(own) ^ set(state)) + [n for n in own if n in state and own[n].shape != np.shape(state[n])]
        if wrong:
            raise StateDictError(f"SGD: the state dict does not fit: {', '.join(wrong)} missing, unexpected or mis-shaped")
        self._steps = int(state["steps"])
        for i, velocity in enumerate(self._velocities):
            velocity[...] = state[f"velocity.{i}"]


def parameter_groups(params: Iterable[Any], defaults: dict[str, Any]) -> list[dict[str, Any]]:
    """Parameters, or groups of them, as a list of groups with every setting filled in.

    Parameters
    ----------
    params : iterable of Parameter or of dict
        As an optimiser takes them.
    defaults : dict
        Settings of a group that names none.

    Returns
    -------
    list of dict
        Groups.

    Raises
    ------
    ArgumentError
        If there is no parameter, something else is among them, one appears twice, or a setting is unknown.
    """
    given = list(params)
    groups = [dict(g) for g in given] if given and all(isinstance(g, dict) for g in given) else [{"params": given}]
    seen: set[int] = set()
    for group in groups:
        unknown = set(group) - set(defaults) - {"params"}
        if unknown or "params" not in group:
            raise ArgumentError(f"optimiser: a group needs 'params' and may set {sorted(defaults)}, got {sorted(group)}")
        group["params"] = [group["params"]] if isinstance(group["params"], Parameter) else list(group["params"])
        for parameter in group["params"]:
            if not isinstance(parameter, Parameter):
                raise ArgumentError(f"optimiser: params must be Parameter objects, got {type(parameter).__name__}")
            if id(parameter) in seen:
                raise ArgumentError(f"optimiser: {parameter!r} appears twice")
            seen.add(id(parameter))
        for name, value in defaults.items():
            group.setdefault(name, value)
    if not seen:
        raise ArgumentError("optimiser: params is empty")
    return groups


def _check(group: dict[str, Any]) -> None:
    for name in ("lr", "momentum", "weight_decay"):
        if not group[name] >= 0:
            raise ArgumentError(f"SGD: {name} must not be negative, got {group[name]!r}")
    if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
        raise ArgumentError("SGD: nesterov needs a momentum above 0 and no dampening")


def _table(entries: list[tuple[Parameter, Array, int]]) -> tuple[list[Parameter], Array, Array, Array, int]:
    """Parameters of one dtype, the kernel's arguments for them, and the number of elements."""
    rows = [(p.value.ctypes.data, p.grad.ctypes.data, v.ctypes.data, p.value.size, g, 1) for p, v, g in entries]
    chunks = [(i, start) for i, row in enumerate(rows) for start in range(0, row[3], CHUNK)]
    like = np.empty(0, entries[0][0].value.dtype)
    table = np.array(rows, np.int64).reshape(-1, 6)
    return [p for p, _, _ in entries], like, table, np.array(chunks, np.int64).reshape(-1, 2), sum(row[3] for row in rows)

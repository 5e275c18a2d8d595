"""Optimisers: one kernel walks a table of the addresses of all parameters.

`Optimizer` holds what all have in common: groups, the arrays kept beside each parameter, the table, the state dict. An
optimiser adds its kernel, and how a group's settings are checked and given to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from numba import prange

from numba_nn.core.address import array_at
from numba_nn.core.call import Array
from numba_nn.core.errors import ArgumentError, StateDictError
from numba_nn.core.kernel import In, Kernel, kernel
from numba_nn.core.parameter import Parameter

CHUNK = 16_384  # elements that a task updates: 64 KB each of value, gradient and velocity in float32
SIZE, GROUP, ACTIVE, VALUE, GRADIENT, STATE = range(6)
"""Columns of an optimiser's table: size, group, whether it requires a gradient, then addresses; state is the last ones."""


class Optimizer:
    """What all optimisers have in common.

    A subclass names its ``_kernel`` and the arrays of its state (``_names``), and defines ``_rates_of``. The kernel takes

    * like: (0,) array of the dtype of the parameters to update;
    * table: (P, 5 + arrays of state), see the columns above;
    * chunks: (T, 2) parameter and first element of every task;
    * steps: (P,) steps that each parameter's state has taken;
    * rates: (G, ...) what ``_rates_of`` makes of each group's settings.

    A copy, or what is unpickled, has parameters of its own, unless the model is copied in the same call.

    Parameters
    ----------
    params : iterable of Parameter or of dict
        Parameters, or groups ``{"params": [...], "lr": ..., ...}`` with settings of their own.
    defaults : dict
        Settings of a group that names none.

    Attributes
    ----------
    param_groups : list of dict
        The groups; settings may be changed between steps, as a schedule does.

    Raises
    ------
    ArgumentError
        If a setting is out of range, no parameter is given, or one is given twice.
    """

    _kernel: ClassVar[Kernel]
    _names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        self.param_groups = parameter_groups(params, defaults)
        values = [p.value for group in self.param_groups for p in group["params"]]
        self._state = {f"{name}.{i}": np.zeros_like(value) for name in self._names for i, value in enumerate(values)}
        self._steps = np.zeros(len(values), np.int64)
        self._make_tables()

    def _rates_of(self, group: dict[str, Any]) -> tuple[float, ...]:
        """A group's settings as the kernel takes them; raises `ArgumentError` where one is out of range."""
        raise NotImplementedError

    def _keeps_state(self, group: dict[str, Any]) -> bool:
        """Whether a step with these settings writes the arrays of state."""
        return bool(self._names)

    def _make_tables(self) -> None:
        """Make all that holds addresses, or follows from the groups."""
        self._owners = [(p, g) for g, group in enumerate(self.param_groups) for p in group["params"]]
        self._rates = np.array([self._rates_of(group) for group in self.param_groups], np.float64)
        self._table = np.empty((len(self._owners), STATE + len(self._names)), np.int64)
        self._tasks = []
        for i, (p, g) in enumerate(self._owners):
            beside = [self._state[f"{name}.{i}"] for name in self._names]
            self._table[i] = p.value.size, g, p.requires_grad, *(a.ctypes.data for a in (p.value, p.grad, *beside))
        for dtype in sorted({p.value.dtype for p, _ in self._owners}, key=str):
            sizes = [(i, p.value.size) for i, (p, _) in enumerate(self._owners) if p.value.dtype == dtype]
            chunks = [(i, start) for i, size in sizes for start in range(0, size, CHUNK)]
            self._tasks.append((np.empty(0, dtype), np.array(chunks, np.int64).reshape(-1, 2), sum(n for _, n in sizes)))

    def __getstate__(self) -> dict[str, Any]:
        made = ("_owners", "_rates", "_table", "_tasks")  # addresses are of this optimiser's arrays alone
        return {name: value for name, value in vars(self).items() if name not in made}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        vars(self).update(attributes)
        self._make_tables()

    def zero_grad(self) -> None:
        """Clear the gradients of all parameters."""
        for parameter, _ in self._owners:
            parameter.zero_grad()

    def step(self) -> None:
        """Change every parameter that requires a gradient; allocates nothing."""
        for rates, group in zip(self._rates, self.param_groups, strict=True):
            rates[:] = self._rates_of(group)
        for i, (parameter, _) in enumerate(self._owners):
            self._table[i, ACTIVE] = parameter.requires_grad
        for like, chunks, elements in self._tasks:
            self._kernel.for_work(elements)(like, self._table, chunks, self._steps, self._rates)
        for i, (parameter, g) in enumerate(self._owners):
            self._steps[i] += parameter.requires_grad and self._keeps_state(self.param_groups[g])

    def state_dict(self) -> dict[str, Array]:
        """Copies of what a resumed run needs beside parameters and settings.

        Returns
        -------
        dict of str to ndarray
            ``steps``, how many each parameter's state has taken, and every array of state, numbered as the parameters are.
        """
        return {name: array.copy() for name, array in self._arrays().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state of another optimiser over parameters of the same shapes; all or nothing.

        Parameters
        ----------
        state : mapping of str to ndarray
            As `state_dict` gives it.

        Raises
        ------
        StateDictError
            Listing every name that is missing, unexpected, or of another shape or kind of number; nothing was loaded.
        """
        own = self._arrays()
        check_state(type(self).__name__, own, state)
        for name, array in own.items():
            array[...] = state[name]

    def _arrays(self) -> dict[str, Array]:
        return {"steps": self._steps, **self._state}


@kernel
def sgd_update(like: In, table: In, chunks: In, steps: In, rates: In):
    """Update every chunk of every parameter in a table; see `Optimizer` for the arguments.

    It writes values and velocities through the addresses in the table, hence no argument is an Out. rates: lr, momentum,
    1 - dampening, weight decay, nesterov.
    """
    for t in prange(chunks.shape[0]):
        p, start = chunks[t, 0], chunks[t, 1]
        size, rate = table[p, SIZE], rates[table[p, GROUP]]
        value, gradient = array_at(table[p, VALUE], size, like), array_at(table[p, GRADIENT], size, like)
        velocity = array_at(table[p, STATE], size, like)
        kind = like.dtype.type
        lr, momentum, fresh, decay = kind(rate[0]), kind(rate[1]), kind(rate[2]), kind(rate[3])
        ahead = kind(rate[1] * rate[4])
        stop = min(size, start + CHUNK) if table[p, ACTIVE] != 0 else start
        for i in range(start, stop):
            g = gradient[i] + decay * value[i] if decay != 0 else gradient[i]
            step = g
            if momentum != 0:
                v = g if steps[p] == 0 else momentum * velocity[i] + fresh * g
                velocity[i] = v
                step = g + ahead * v if rate[4] != 0 else v
            value[i] -= lr * step


class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

    For a parameter w with gradient g, as PyTorch defines it::

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
    _names = ("velocity",)

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0,
        weight_decay: float = 0.0, nesterov: bool = False,
    ) -> None:  # fmt: skip
        rates = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**rates, "nesterov": nesterov})

    def _rates_of(self, group: dict[str, Any]) -> tuple[float, ...]:
        for name in ("lr", "momentum", "weight_decay"):
            if not group[name] >= 0:
                raise ArgumentError(f"SGD: {name} must not be negative, got {group[name]!r}")
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ArgumentError("SGD: nesterov needs a momentum above 0 and no dampening")
        return group["lr"], group["momentum"], 1 - group["dampening"], group["weight_decay"], group["nesterov"]

    def _keeps_state(self, group: dict[str, Any]) -> bool:
        return bool(group["momentum"] != 0)


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
                got = type(parameter).__name__
                raise ArgumentError(f"optimiser: params must be Parameter objects (model.parameters()), got {got}")
            if id(parameter) in seen:
                raise ArgumentError(f"optimiser: {parameter!r} appears twice")
            seen.add(id(parameter))
        for name, value in defaults.items():
            group.setdefault(name, value)
    if not seen:
        raise ArgumentError("optimiser: params is empty")
    return groups


def check_state(where: str, own: Mapping[str, Array], given: Mapping[str, Any]) -> None:
    """Check that arrays can be loaded into arrays of the same names.

    Parameters
    ----------
    where : str
        Whose arrays, for the message.
    own : mapping of str to ndarray
        What is to be overwritten.
    given : mapping of str to ndarray
        What is to be loaded.

    Raises
    ------
    StateDictError
        Listing every name that is missing, unexpected, or of another shape or kind of number.
    """
    problems = [f"missing: {name}" for name in own if name not in given]
    problems += [f"unexpected: {name}" for name in given if name not in own]
    for name in (n for n in own if n in given):
        wanted, got = own[name], np.asarray(given[name])
        if wanted.shape != got.shape or not np.can_cast(got.dtype, wanted.dtype, "same_kind"):
            problems.append(f"{name}: expected {wanted.dtype} {wanted.shape}, got {got.dtype} {got.shape}")
    if problems:
        raise StateDictError(f"{where}: the state dict does not fit: " + "; ".join(problems))

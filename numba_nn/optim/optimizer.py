"""`Optimizer`: what all optimisers have in common.

It holds the groups, the arrays kept beside each parameter, the table of addresses and the state dict. An optimiser adds its
kernels, and how a group's settings are checked and given to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from numba_nn.core.call import Array
from numba_nn.core.carry import arrived, departing
from numba_nn.core.checks import check_array, check_keeps_gradients, check_shape
from numba_nn.core.cuda.feed import Mirror
from numba_nn.core.errors import ArgumentError, DeviceError, StateDictError, undefined
from numba_nn.core.kernel import Kernel
from numba_nn.core.state import check_arrays, load_arrays
from numba_nn.optim.table import ParameterTable, Tasks, as_parameters, check_once


class Optimizer:
    """What all optimisers have in common.

    A subclass defines ``_state_names`` and ``_rates_of``, and names two kernels. ``_prepare`` makes numbers of each parameter's
    step, ``_coefficient_count`` of them in the parameters' dtype, so that on a GPU no thread computes a power. It takes

    * coefficients: (P, ...) written for the members;
    * steps: (P,) steps that each parameter's state has taken; it counts this one;
    * members: (M,) the parameters of one dtype;
    * table: (P, 5 + arrays of state), the rows of a `ParameterTable`;
    * rates: (G, ...) what ``_rates_of`` makes of each group's settings.

    ``_update`` changes values and state through the addresses in the table. It takes coefficients, table, and

    * chunks: (T, 3) parameter, first element, and the one after the last, of every task.

    A copy, or what is unpickled, has parameters of its own, unless the model is copied in the same call.

    Parameters
    ----------
    params : iterable of Parameter or of dict
        Parameters, with their names or without, or groups ``{"params": [...], "lr": ..., ...}`` with settings of their own.
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

    _prepare: ClassVar[Kernel]
    _update: ClassVar[Kernel]
    _coefficient_count: ClassVar[int]

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        self.param_groups = parameter_groups(type(self).__name__, params, defaults)
        self._setting_names = tuple(defaults)
        self._names = self._state_names()
        rates = np.array([self._rates_of(group) for group in self.param_groups], np.float64)
        owners = [(p, g) for g, group in enumerate(self.param_groups) for p in group["params"]]
        beside = [tuple([p.device.zeros(p.value.shape, p.value.dtype) for _ in self._names]) for p, _ in owners]
        self._table = ParameterTable([(p, g, arrays) for (p, g), arrays in zip(owners, beside, strict=True)])
        self._place(rates, np.zeros(len(owners), np.int64))

    def _place(self, rates: Array, steps: Array) -> None:
        """Have the arrays that kernels read or write where the parameters are."""
        self._device = self._table.device
        self._rates, self._steps = Mirror(rates, self._device), self._device.from_host(steps)
        shape = len(steps), self._coefficient_count
        self._coefficients = tuple([self._device.zeros(shape, tasks.like.dtype) for tasks in self._table.tasks])

    def __getstate__(self) -> dict[str, Any]:
        with self._table.on_stream():
            self._follow()
        return departing(vars(self), self._table.stream)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(arrived(state))

    def _state_names(self) -> tuple[str, ...]:
        """Names of the arrays kept beside each parameter."""
        raise undefined(self, "_state_names()")

    def _rates_of(self, group: dict[str, Any]) -> tuple[float, ...]:
        """A group's settings as the kernel takes them; raises `ArgumentError` where one is out of range."""
        raise undefined(self, "_rates_of(group)")

    def __repr__(self) -> str:
        groups = [", ".join(f"{name}={group[name]!r}" for name in self._setting_names) for group in self.param_groups]
        several = "".join(f"\n  ({g}): {settings}" for g, settings in enumerate(groups)) + "\n"
        return f"{type(self).__name__}({groups[0] if len(groups) == 1 else several})"

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Clear the gradients of all parameters.

        Parameters
        ----------
        set_to_none : bool, optional
            False, as gradients keep their arrays.

        Raises
        ------
        ArgumentError
            For True; nothing was cleared.
        """
        check_keeps_gradients(type(self).__name__, set_to_none)
        self._table.clear_gradients()

    def refresh(self) -> None:
        """Have kernels see what changed on the host: settings of groups, frozen parameters, parameters that moved.

        `step` does it too; before a captured step is replayed, this is all of it that the host has to do.
        """
        with self._table.on_stream():
            self._refresh()

    def _refresh(self) -> None:
        self._follow()
        for rates, group in zip(self._rates.host, self.param_groups, strict=True):
            rates[:] = self._rates_of(group)
        self._rates.send()
        for guard, _ in self._table.guards:
            guard.refresh()

    def _follow(self) -> None:
        self._table.refresh()
        if self._table.device is not self._device:
            self._place(self._rates.host, self._device.to_host(self._steps))

    def step(self, loss: Array | None = None) -> None:
        """Change every parameter that requires a gradient, in eval mode too; allocates nothing, waits for no GPU.

        On a GPU its work goes to the stream of the first parameter's model.

        Parameters
        ----------
        loss : ndarray or device array, optional
            One number, where the parameters live: if it is NaN, parameters and state on a GPU stay as they are, without anybody
            waiting for it.

        Raises
        ------
        DTypeError, ShapeError
            If ``loss`` is none such; a function, as PyTorch takes one, is never called.
        DeviceError
            If a GPU's driver refuses a launch; the message says which parameters were updated before. The steps of those of
            the next dtype may be counted though their values stay.
        """
        if loss is not None:
            check_array(type(self).__name__, "loss", loss, None, self._table.device)
            check_shape(type(self).__name__, "loss", loss.shape, (1,))
        with self._table.on_stream():
            self._step(loss)

    def _step(self, loss: Array | None) -> None:
        self._refresh()
        self._table.unlock()
        self._table.admit(loss)
        updated: list[str] = []
        for tasks, coefficients in zip(self._table.tasks, self._coefficients, strict=True):
            try:
                self._step_of(tasks, coefficients)
            except DeviceError as error:
                done = f"only parameters of {', '.join(updated)} are updated" if updated else "no parameter is updated"
                raise DeviceError(f"{type(self).__name__}: {done}: {error}") from error
            updated.append(str(tasks.like.dtype))

    def _step_of(self, tasks: Tasks, coefficients: Array) -> None:
        """A step of the parameters of one dtype."""
        rows, device = self._table.rows.array, self._device
        prepare = self._prepare.for_work(tasks.members.size, device)
        prepare(coefficients, self._steps, tasks.members, rows, self._rates.array)
        self._update.for_work(tasks.elements, device)(coefficients, rows, tasks.chunks)

    def state_dict(self) -> dict[str, Array]:
        """Copies of what a resumed run needs beside parameters, as NumPy arrays.

        Returns
        -------
        dict of str to ndarray
            ``steps``, how many each parameter's state has taken; every array of state, numbered as the parameters are; and the
            settings of every group, ``group.0.lr`` and so on, as float64.
        """
        with self._table.on_stream():
            self._follow()
            return {name: self._device.to_host(array) for name, array in self._arrays().items()} | self._settings()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state of another optimiser over parameters of the same shapes; all or nothing.

        The settings of its groups, learning rates too, take the place of the constructor's. To go on with others, change
        ``param_groups`` afterwards.

        Parameters
        ----------
        state : mapping of str to ndarray
            As `state_dict` gives it; that of a version before 0.3, which held no settings, leaves them as they are.

        Raises
        ------
        StateDictError
            Listing every name that is missing, unexpected, or of another shape or kind of number, or naming a setting that is
            out of range; nothing was loaded.
        """
        with self._table.on_stream():
            self._follow()
            arrays, settings = self._arrays(), self._settings()
            if isinstance(state, Mapping) and settings.keys().isdisjoint(state):
                state = {**state, **settings}
            check_arrays(type(self).__name__, {**arrays, **settings}, state)
            groups = [self._group_from(state, g) for g in range(len(self.param_groups))]
            load_arrays(type(self).__name__, arrays, {name: state[name] for name in arrays})
            for group, loaded in zip(self.param_groups, groups, strict=True):
                group.update(loaded)

    def _settings(self) -> dict[str, Array]:
        names = self._setting_names
        return {
            f"group.{g}.{name}": np.array(group[name], np.float64)
            for g, group in enumerate(self.param_groups)
            for name in names
        }

    def _group_from(self, state: Mapping[str, Any], g: int) -> dict[str, Any]:
        """A group's settings as a state dict has them, checked; flags stay bools, pairs tuples."""
        present = self.param_groups[g]
        loaded = {name: np.asarray(state[f"group.{g}.{name}"], np.float64).tolist() for name in self._setting_names}
        for name, value in loaded.items():
            if isinstance(present[name], (bool, np.bool_)):
                loaded[name] = bool(value)
            elif isinstance(value, list):
                loaded[name] = tuple(value)
        try:
            self._rates_of(loaded)
        except ArgumentError as error:
            raise StateDictError(f"{error}, in group {g} of a state dict") from None
        return loaded

    def _arrays(self) -> dict[str, Array]:
        state = {
            f"{name}.{i}": entry[2][s] for s, name in enumerate(self._names) for i, entry in enumerate(self._table.entries)
        }
        return {"steps": self._steps, **state}


def parameter_groups(where: str, params: Iterable[Any], defaults: dict[str, Any]) -> list[dict[str, Any]]:
    """Parameters, or groups of them, as a list of groups with every setting filled in.

    Parameters
    ----------
    where : str
        Whose groups, for messages.
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
    given = list(params) if isinstance(params, Iterable) else params
    are_groups = isinstance(given, list) and given and all(isinstance(g, dict) for g in given)
    groups = [dict(g) for g in given] if are_groups else [{"params": given}]
    for group in groups:
        unknown = set(group) - set(defaults) - {"params"}
        if unknown or "params" not in group:
            raise ArgumentError(f"{where}: a group needs 'params' and may set {sorted(defaults)}, got {sorted(group)}")
        group["params"] = as_parameters(where, "params", group["params"])
        for name, value in defaults.items():
            group.setdefault(name, value)
    every = [parameter for group in groups for parameter in group["params"]]
    if not every:
        raise ArgumentError(f"{where}: params is empty")
    check_once(where, every)
    return groups

"""Schedules: the learning rates of an optimiser's groups as functions of the epoch, under PyTorch's names.

    StepLR             base gamma^floor(t / step_size)
    CosineAnnealingLR  eta_min + (base - eta_min) (1 + cos(pi t / T_max)) / 2
    LinearLR           base (start_factor + (end_factor - start_factor) min(t, total_iters) / total_iters)
    SequentialLR       one schedule after another, each with a t of its own
    ReduceLROnPlateau  lower whenever a metric has stopped to improve

t counts calls of ``step()``; base is a group's rate when its first schedule was made. An optimiser follows one schedule at a
time, since a schedule sets the rate whatever it was: `SequentialLR` puts several in a row.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from numba_nn.core.checks import check_count, check_number
from numba_nn.core.errors import ArgumentError, StateDictError, undefined
from numba_nn.optim import Optimizer


class Schedule:
    """What all schedules have in common.

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups follow the schedule.

    Attributes
    ----------
    optimizer : Optimizer
        Whose groups follow the schedule.
    last_epoch : int
        Steps so far.

    Raises
    ------
    ArgumentError
        If ``optimizer`` is something else.
    """

    _state: ClassVar[tuple[str, ...]] = ("last_epoch",)
    """Attributes that steps change."""
    _settings: ClassVar[tuple[str, ...]] = ()
    """Attributes that the constructor set, for the repr."""

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise ArgumentError(f"{type(self).__name__}: optimizer must be an Optimizer object, got {optimizer!r}")
        self.optimizer = optimizer
        self.last_epoch = 0

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in (*self._settings, "last_epoch"))
        return f"{type(self).__name__}({shown})"

    def get_last_lr(self) -> list[float]:
        """The present learning rate of every group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, in plain numbers and lists.

        Returns
        -------
        dict of str to number or list
            What steps change, and the rates of the groups.
        """
        return {**{name: getattr(self, name) for name in self._state}, **self._rates()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another schedule, made with the same arguments, stood; sets the rates of the groups.

        Parameters
        ----------
        state : mapping of str to number or list
            As `state_dict` gives it.

        Raises
        ------
        StateDictError
            If a name is missing or unexpected, or the number of groups differs; nothing was loaded.
        """
        where, own = type(self).__name__, self.state_dict()
        if not isinstance(state, Mapping) or set(state) != set(own):
            got = sorted(state) if isinstance(state, Mapping) else type(state).__name__
            raise StateDictError(f"{where}: expected a state dict with {sorted(own)}, got {got}")
        for name in self._rates():
            if not isinstance(state[name], (list, tuple)) or len(state[name]) != len(own[name]):
                raise StateDictError(f"{where}: {name}: expected {len(own[name])} rates, one for a group, got {state[name]!r}")
        for name in self._state:
            setattr(self, name, state[name])
        for name in self._rates():
            for group, rate in zip(self.optimizer.param_groups, state[name], strict=True):
                group[name] = rate

    def _rates(self) -> dict[str, list[float]]:
        """Rates of the groups, under the names that groups have for them."""
        return {"lr": self.get_last_lr()}


class EpochSchedule(Schedule):
    """A schedule whose rates follow from the number of steps alone; it defines ``_rate``.

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups follow the schedule.

    Raises
    ------
    ArgumentError
        If ``optimizer`` is something else.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self._set_rates()

    def step(self) -> None:
        """Set the learning rates of the next epoch (or batch, whichever the schedule counts)."""
        self.last_epoch += 1
        self._set_rates()

    def _set_rates(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(self.last_epoch, group["initial_lr"])

    def _rate(self, epoch: int, base: float) -> float:
        raise undefined(self, "_rate(epoch, base)")

    def _rates(self) -> dict[str, list[float]]:
        return {"initial_lr": [group["initial_lr"] for group in self.optimizer.param_groups], **super()._rates()}


class StepLR(EpochSchedule):
    """Multiply the learning rates by ``gamma`` every ``step_size`` epochs.

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups follow the schedule.
    step_size : int
        Epochs between two changes.
    gamma : float, optional
        Factor of a change.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    """

    _settings = ("step_size", "gamma")

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size = check_count("StepLR", "step_size", step_size)
        self.gamma = check_number("StepLR", "gamma", gamma, 0)
        super().__init__(optimizer)

    def _rate(self, epoch: int, base: float) -> float:
        return base * self.gamma ** (epoch // self.step_size)


class CosineAnnealingLR(EpochSchedule):
    """Lower the learning rates along half a cosine, to ``eta_min`` after ``T_max`` epochs; beyond, they rise again.

    I. Loshchilov and F. Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017 (without the restarts).

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups follow the schedule.
    T_max : int
        Epochs of half a period.
    eta_min : float, optional
        Lowest rate.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    """

    _settings = ("T_max", "eta_min")

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max = check_count("CosineAnnealingLR", "T_max", T_max)
        self.eta_min = check_number("CosineAnnealingLR", "eta_min", eta_min, 0)
        super().__init__(optimizer)

    def _rate(self, epoch: int, base: float) -> float:
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * epoch / self.T_max)) / 2


class LinearLR(EpochSchedule):
    """Change the learning rates along a line, by default a warm-up: from a share of them to all, then constant.

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups follow the schedule.
    start_factor : float, optional
        Share at the beginning, above 0, at most 1.
    end_factor : float, optional
        Share from ``total_iters`` on, at most 1.
    total_iters : int, optional
        Epochs of the change.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    """

    _settings = ("start_factor", "end_factor", "total_iters")

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5
    ) -> None:  # fmt: skip
        self.start_factor = check_number("LinearLR", "start_factor", start_factor, 0, 1)
        if self.start_factor == 0:
            raise ArgumentError(f"LinearLR: start_factor must be above 0, got {start_factor!r}")
        self.end_factor = check_number("LinearLR", "end_factor", end_factor, 0, 1)
        self.total_iters = check_count("LinearLR", "total_iters", total_iters)
        super().__init__(optimizer)

    def _rate(self, epoch: int, base: float) -> float:
        change = (self.end_factor - self.start_factor) * min(epoch, self.total_iters) / self.total_iters
        return base * (self.start_factor + change)


class SequentialLR(EpochSchedule):
    """One schedule after another; each begins at its own first epoch.

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups follow the schedule.
    schedulers : sequence of schedules
        In their order, all of this optimiser; not `ReduceLROnPlateau`. From now on this object steps for them.
    milestones : sequence of int
        Epochs at which the second schedule takes over, the third, and so on.

    Raises
    ------
    ArgumentError
        If the schedules are of another kind or another optimiser, or the milestones do not rise or do not fit in number.

    Examples
    --------
    >>> warm_up = nn.schedules.LinearLR(optimizer, total_iters=5)
    >>> cosine = nn.schedules.CosineAnnealingLR(optimizer, T_max=95)
    >>> schedule = nn.schedules.SequentialLR(optimizer, [warm_up, cosine], milestones=[5])
    """

    _settings = ("schedulers", "milestones")

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[EpochSchedule], milestones: Sequence[int]) -> None:
        self.schedulers, self.milestones = list(schedulers), [check_count("SequentialLR", "milestones", m) for m in milestones]
        for scheduler in self.schedulers:
            if not isinstance(scheduler, EpochSchedule) or scheduler.optimizer is not optimizer:
                raise ArgumentError(f"SequentialLR: schedulers must be schedules by epoch of this optimizer, got {scheduler!r}")
        rising = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        if len(self.milestones) != len(self.schedulers) - 1 or not rising:
            expected = f"one less than the {len(self.schedulers)} schedulers, rising"
            raise ArgumentError(f"SequentialLR: milestones must be {expected}, got {self.milestones}")
        super().__init__(optimizer)

    def _rate(self, epoch: int, base: float) -> float:
        index = bisect.bisect_right(self.milestones, epoch)
        start = self.milestones[index - 1] if index else 0
        return self.schedulers[index]._rate(epoch - start, base)


class ReduceLROnPlateau(Schedule):
    """Lower the learning rates when a metric has not improved for more than ``patience`` epochs.

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups follow the schedule.
    mode : {"min", "max"}, optional
        Whether less or more of the metric is better.
    factor : float, optional
        Factor of a reduction, below 1.
    patience : int, optional
        Epochs without improvement that are borne.
    threshold : float, optional
        What the metric must gain for an improvement.
    threshold_mode : {"rel", "abs"}, optional
        Whether the threshold is a share of the best value, or a difference from it.
    cooldown : int, optional
        Epochs after a reduction that do not count.
    min_lr : float or sequence of float, optional
        Lowest rate, of all groups or of each.
    eps : float, optional
        Smallest change of a rate that is made.

    Attributes
    ----------
    best : float
        Best metric so far.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    """

    _state = ("last_epoch", "best", "num_bad_epochs", "cooldown_counter")
    _settings = ("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lrs", "eps")

    def __init__(
        self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1, patience: int = 10, threshold: float = 1e-4,
        threshold_mode: str = "rel", cooldown: int = 0, min_lr: float | Sequence[float] = 0, eps: float = 1e-8,
    ) -> None:  # fmt: skip
        super().__init__(optimizer)
        where, groups = "ReduceLROnPlateau", len(optimizer.param_groups)
        for name, value, allowed in (("mode", mode, ("min", "max")), ("threshold_mode", threshold_mode, ("rel", "abs"))):
            if value not in allowed:
                raise ArgumentError(f"{where}: {name} must be '{allowed[0]}' or '{allowed[1]}', got {value!r}")
        self.mode, self.threshold_mode = mode, threshold_mode
        self.factor = check_number(where, "factor", factor, 0, 1)
        if self.factor == 1:
            raise ArgumentError(f"{where}: factor must be below 1, got {factor!r}")
        self.patience = check_number(where, "patience", patience, 0)
        self.threshold = check_number(where, "threshold", threshold, 0)
        self.cooldown = check_number(where, "cooldown", cooldown, 0)
        lowest = list(min_lr) if isinstance(min_lr, (list, tuple)) else [min_lr] * groups
        if len(lowest) != groups:
            raise ArgumentError(f"{where}: min_lr must be a number, or one for each of the {groups} groups, got {min_lr!r}")
        self.min_lrs = [check_number(where, "min_lr", low, 0) for low in lowest]
        self.eps = check_number(where, "eps", eps, 0)
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter: float = 0

    def step(self, metric: float) -> None:
        """Take note of an epoch's metric, and lower the rates if it is time.

        Parameters
        ----------
        metric : float
            The epoch's value; NaN is no improvement.

        Raises
        ------
        ArgumentError
            If it is no number; the epoch does not count.
        """
        number = np.asarray(metric)
        if number.ndim or number.dtype.kind not in "iuf":
            raise ArgumentError(f"ReduceLROnPlateau: metric must be a number, got {metric!r}")
        value = float(number)
        self.last_epoch += 1
        if self._improves(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter, self.num_bad_epochs = self.cooldown_counter - 1, 0
        if self.num_bad_epochs > self.patience:
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
            for group, lowest in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
                rate = max(group["lr"] * self.factor, lowest)
                group["lr"] = rate if group["lr"] - rate > self.eps else group["lr"]

    def _improves(self, value: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        change = sign * self.threshold
        bar = self.best * (1 + change) if self.threshold_mode == "rel" else self.best + change
        return value > bar if self.mode == "max" else value < bar

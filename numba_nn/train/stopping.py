"""When to stop before the last epoch."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from numba_nn.core.call import Array
from numba_nn.core.checks import check_count, check_flag, check_number
from numba_nn.core.errors import ArgumentError
from numba_nn.core.layer import Layer


class EarlyStopping:
    """Stop once a value of the history has not improved for some epochs, and go back to the best weights.

    Parameters
    ----------
    patience : int, optional
        Epochs without an improvement after which to stop.
    monitor : str, optional
        Which column of the history.
    mode : {"min", "max"}, optional
        Whether lower or higher is better. A loss is to be low; for any other column it must be said.
    min_delta : float, optional
        The least change that counts as an improvement.
    restore_best : bool, optional
        Load the weights and running statistics of the best epoch in the end, however training ends.

    Attributes
    ----------
    best : float or None
        The best value so far.
    best_epoch : int or None
        Its epoch.

    Raises
    ------
    ArgumentError
        If an argument is out of range, or the history has no column ``monitor``.
    """

    def __init__(
        self, patience: int = 5, monitor: str = "val_loss", mode: Literal["min", "max"] | None = None,
        min_delta: float = 0.0, restore_best: bool = True,
    ) -> None:  # fmt: skip
        self.patience = check_count("EarlyStopping", "patience", patience)
        if not isinstance(monitor, str):
            raise ArgumentError(f"EarlyStopping: monitor must be the name of a column of the history, got {monitor!r}")
        if mode is None and not monitor.endswith("loss"):
            raise ArgumentError(f"EarlyStopping: mode must be 'min' or 'max' for monitor {monitor!r}, which is no loss")
        if mode not in ("min", "max", None):
            raise ArgumentError(f"EarlyStopping: mode must be 'min' or 'max', got {mode!r}")
        self.min_delta = check_number("EarlyStopping", "min_delta", min_delta, 0)
        self.monitor = monitor
        self.restore_best = check_flag("EarlyStopping", "restore_best", restore_best)
        self._sign = -1.0 if mode == "max" else 1.0
        self.best: float | None = None
        self.best_epoch: int | None = None
        self._best_weights: dict[str, Array] | None = None

    def start(self, model: Layer) -> None:
        """Begin anew, with a model's training."""
        self._model = model
        self.best = self.best_epoch = self._best_weights = None

    def on_epoch_end(self, epoch: int, history: dict[str, list[Any]]) -> bool:
        """Look at the newest value.

        Parameters
        ----------
        epoch : int
            Number of the epoch.
        history : dict of list
            The history up to it.

        Returns
        -------
        bool
            Whether to stop.
        """
        if self.monitor not in history:
            raise ArgumentError(f"EarlyStopping: monitor must be one of {sorted(history)}, got {self.monitor!r}")
        value = history[self.monitor][-1]
        if np.ndim(value) != 0:
            raise ArgumentError(f"EarlyStopping: monitor must be a column of numbers, {self.monitor!r} holds arrays")
        if self._improves(value):
            self.best, self.best_epoch = value, epoch
            self._best_weights = self._model.state_dict() if self.restore_best else None
        return epoch - (self.best_epoch or 0) >= self.patience

    def _improves(self, value: float) -> bool:
        """NaN never does."""
        if self.best is None:
            return not np.isnan(value)
        return bool(self._sign * (self.best - value) > self.min_delta)

    def finish(self) -> None:
        """Go back to the best weights."""
        if self._best_weights is not None:
            self._model.load_state_dict(self._best_weights)
            self._best_weights = None

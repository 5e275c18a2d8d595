"""`fit`: epochs of training steps, with validation, a history and an early end."""

from __future__ import annotations

import csv as csv_files
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from numba_nn.core.checks import check_count, check_flag
from numba_nn.core.errors import ArgumentError, TrainingError
from numba_nn.core.layer import Layer
from numba_nn.losses import Loss
from numba_nn.metrics import Metric
from numba_nn.schedules import ReduceLROnPlateau
from numba_nn.train.evaluation import check_trainable, named_metrics
from numba_nn.train.interrupt import Interrupt
from numba_nn.train.loading import as_loader
from numba_nn.train.progress import open_progress
from numba_nn.train.stopping import EarlyStopping
from numba_nn.train.trainer import Trainer

History = dict[str, list[Any]]


def fit(
    model: Layer, loss: Loss, optimizer: Any, train: Any, validation: Any = None, *, epochs: int, batch_size: int = 32,
    seed: int = 0, metrics: Iterable[Metric] | Mapping[str, Metric] = (), callbacks: Iterable[Any] = (),
    schedule: Any = None, early_stopping: EarlyStopping | int | None = None, clip_norm: float | None = None,
    progress: bool = True, csv: str | os.PathLike[str] | None = None,
) -> History:  # fmt: skip
    """Train a model for some epochs.

    Every epoch goes through all of ``train``, its last, smaller batch too, then through ``validation`` in eval mode. Ctrl-C
    ends training after the present step: the history of the whole epochs is returned, and the model can be used (a second
    Ctrl-C interrupts at once).

    Parameters
    ----------
    model : Layer
        The model.
    loss : Loss
        Compares the model's output with the target.
    optimizer : object
        Over parameters of the model.
    train, validation : (x, target) or loader
        Two arrays of equal length, or what gives batches: `data.Batches`, `data.Stream`.
    epochs : int
        How many, at most.
    batch_size : int, optional
        Items in a batch, where the data are arrays.
    seed : int, optional
        Of the order in which items of training arrays come, anew in every epoch.
    metrics : iterable or dict of Metric, optional
        Metrics (`nn.metrics`) of training and validation; a dict names them.
    callbacks : iterable of callable, optional
        ``callback(epoch, history)``, or an object with ``on_epoch_end(epoch, history)``, called after every epoch; training
        stops if it returns something true.
    schedule : object, optional
        A schedule of this optimiser (`nn.schedules`): its ``step()`` is called after every epoch. `ReduceLROnPlateau` gets the
        validation loss, or without validation the training loss.
    early_stopping : EarlyStopping or int, optional
        When to stop before the last epoch; a number is the patience with the validation loss, or without validation with the
        training loss. The best weights are loaded in the end.
    clip_norm : float, optional
        Gradients are scaled down so that their norm, over all parameters of the optimiser, is at most this (`optim.ClipNorm`).
    progress : bool, optional
        Show a bar on a terminal that has rich, a line for every epoch elsewhere; False shows nothing.
    csv : path, optional
        A file to which every epoch's row is written as it ends; what it held before is lost.

    Returns
    -------
    dict of str to list
        A value for every epoch: "epoch" (from 1), "loss" and metrics of training (over all items, while the weights
        change), "val_loss" and "val_..." of validation, "lr" of the optimiser's first group, and "seconds".

    Raises
    ------
    TrainingError
        If a loss, or a norm of gradients that are to be clipped, is not finite. The weights are those before that step, or the
        best ones of ``early_stopping``; the error's ``history`` holds the epochs before.
    ArgumentError, DataError, ShapeError, DTypeError
        If an argument or a batch does not fit.

    Examples
    --------
    >>> optimizer = nn.optim.SGD(model.parameters(), lr=0.1)  # doctest: +SKIP
    >>> history = nn.fit(model, nn.MSELoss(), optimizer, (x, target), epochs=20)  # doctest: +SKIP
    """
    check_trainable("fit", model, loss)
    check_count("fit", "epochs", epochs)
    check_flag("fit", "progress", progress)
    _check_schedule(schedule, optimizer)
    training = as_loader("fit", train, batch_size, shuffle=True, seed=seed)
    validating = None if validation is None else as_loader("fit", validation, batch_size, shuffle=False)
    stopping = _early_stopping(early_stopping, "loss" if validating is None else "val_loss")
    observers = _observers(callbacks) + ([] if stopping is None else [stopping.on_epoch_end])
    history: History = {}
    with (
        Interrupt() as interrupt, open_progress(progress) as shown, CsvFile(csv) as file,
        _best_weights(stopping, model), _history_in_errors(history),
    ):  # fmt: skip
        trainer = Trainer(model, loss, optimizer, named_metrics(metrics), clip_norm, shown, interrupt)
        for epoch in range(1, epochs + 1):
            row = trainer.epoch(epoch, epochs, training, validating)
            if row is None:
                break
            for name, value in row.items():
                history.setdefault(name, []).append(value)
            file.write(row)
            _follow(schedule, history)
            wishes = [at_epoch_end(epoch, history) for at_epoch_end in observers]
            if any(wishes) or interrupt.requested:
                break
    return history


def _early_stopping(given: EarlyStopping | int | None, monitor: str) -> EarlyStopping | None:
    if given is None or isinstance(given, EarlyStopping):
        return given
    return EarlyStopping(given, monitor)


def _observers(callbacks: Any) -> list[Callable[[int, History], Any]]:
    if not isinstance(callbacks, Iterable):
        raise ArgumentError(f"fit: callbacks must be a list, got {callbacks!r}; put a single one into a list")
    return [_observer(callback) for callback in callbacks]


def _observer(callback: Any) -> Callable[[int, History], Any]:
    if isinstance(callback, EarlyStopping):
        raise ArgumentError("fit: an EarlyStopping is no callback; pass it as early_stopping=...")
    observer = getattr(callback, "on_epoch_end", callback)
    if not callable(observer) or isinstance(callback, type):
        raise ArgumentError(f"fit: callbacks must be callable(epoch, history) or have on_epoch_end, got {callback!r}")
    return observer


def _check_schedule(schedule: Any, optimizer: Any) -> None:
    if schedule is None:
        return
    if not callable(getattr(schedule, "step", None)) or isinstance(schedule, type):
        raise ArgumentError(f"fit: schedule must be an object of nn.schedules, made for this optimizer, got {schedule!r}")
    if getattr(schedule, "optimizer", optimizer) is not optimizer:
        raise ArgumentError(f"fit: schedule must be made for this optimizer, got {schedule!r} of another one")
    if isinstance(schedule, ReduceLROnPlateau) and schedule.mode != "min":
        raise ArgumentError(
            "fit: a ReduceLROnPlateau schedule gets a loss, so its mode must be 'min', got 'max'; "
            "for another metric call its step(value) in a callback"
        )


def _follow(schedule: Any, history: History) -> None:
    """Let a schedule set the learning rate of the next epoch."""
    if isinstance(schedule, ReduceLROnPlateau):
        schedule.step(history.get("val_loss", history["loss"])[-1])
    elif schedule is not None:
        schedule.step()


@contextmanager
def _best_weights(stopping: EarlyStopping | None, model: Layer) -> Iterator[None]:
    """However training ends, it ends with the weights that early stopping found best."""
    if stopping is None:
        yield
        return
    stopping.start(model)
    try:
        yield
    finally:
        stopping.finish()


@contextmanager
def _history_in_errors(history: History) -> Iterator[None]:
    try:
        yield
    except TrainingError as error:
        error.history = history
        raise


class CsvFile:
    """A row for every epoch, on disk as soon as it is written.

    Parameters
    ----------
    path : path or None
        The file; None for none.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        # Opened now, so that a path that cannot be written is known before the first epoch; emptied by the first row.
        self._file = None if path is None else open(path, "a", newline="", encoding="utf-8")  # noqa: SIM115
        self._columns: list[str] = []

    def __enter__(self) -> CsvFile:
        return self

    def __exit__(self, *details: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, row: dict[str, Any]) -> None:
        """Write the numbers of a row; the first one makes the header. Arrays have no place in a table."""
        if self._file is None:
            return
        writer = csv_files.writer(self._file)
        if not self._columns:
            self._file.truncate(0)
            self._columns = [name for name, value in row.items() if np.ndim(value) == 0]
            writer.writerow(self._columns)
        writer.writerow([row[name] for name in self._columns])
        self._file.flush()

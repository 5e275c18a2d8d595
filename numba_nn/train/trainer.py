"""One epoch after another: what `fit` repeats."""

from __future__ import annotations

import math
import time
from collections.abc import Sized
from typing import Any

from numba_nn import optim
from numba_nn.core.call import Array
from numba_nn.core.errors import NonFiniteError, TrainingError
from numba_nn.core.layer import Layer
from numba_nn.core.parameter import Parameter
from numba_nn.losses import Loss
from numba_nn.metrics import Metric
from numba_nn.train.evaluation import Evaluator, Tally
from numba_nn.train.interrupt import Interrupt
from numba_nn.train.loading import Loader, pairs
from numba_nn.train.progress import Silence, epoch_line
from numba_nn.train.step import TrainStep

_ADVICE = "lower the learning rate, clip gradients (clip_norm=1.0), or look for NaN and very large numbers in the data"


class Trainer:
    """Epochs of training and validation, over buffers that all of them use.

    Parameters
    ----------
    model, loss, optimizer : object
        As `TrainStep` takes them.
    metrics : dict of str to Metric
        Metrics by name.
    clip_norm : float or None
        Largest norm of the gradients.
    shown : Silence
        Where progress is shown.
    interrupt : Interrupt
        Asked before every step.
    """

    def __init__(
        self, model: Layer, loss: Loss, optimizer: Any, metrics: dict[str, Metric], clip_norm: float | None,
        shown: Silence, interrupt: Interrupt,
    ) -> None:  # fmt: skip
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.evaluator = Evaluator(model, loss, metrics)
        self.metrics = metrics
        self._shown, self._interrupt = shown, interrupt
        self._clip = (
            None if clip_norm is None else optim.ClipNorm(_updated(model, optimizer), clip_norm, error_if_nonfinite=True)
        )
        self._step: TrainStep | None = None

    def epoch(self, number: int, epochs: int, training: Loader, validating: Loader | None) -> dict[str, Any] | None:
        """Train on every batch once, then validate; None if interrupted before all batches had their turn."""
        title, start = f"epoch {number}/{epochs}", time.perf_counter()
        self._shown.start(title, len(training) if isinstance(training, Sized) else None)
        tally = Tally(self.loss, self.metrics)
        for x, target in pairs("fit", training, number - 1):
            if self._interrupt.requested:
                self._shown.line(f"interrupted in {title}")
                return None
            step = self._step_for(x)
            loss = self._train_on(step, x, target, number)
            with self.model.device.on(self.model.stream):
                tally.add(loss, step.output, target)
            self._shown.advance(tally.loss)
        row = {"epoch": number, **tally.values(), **self._validate(validating, number)}
        if hasattr(self.optimizer, "param_groups"):
            row["lr"] = self.optimizer.param_groups[0]["lr"]
        row["seconds"] = time.perf_counter() - start
        self._shown.line(epoch_line(title, row))
        return row

    def _step_for(self, x: Array) -> TrainStep:
        """The step for this batch: made for the first one, and anew for a larger one or another shape."""
        if self._step is None or len(x) > self._step.x_shape[0] or x.shape[1:] != self._step.x_shape[1:]:
            self._step = TrainStep(self.model, self.loss, self.optimizer, x.shape, self._clip)
        return self._step

    def _train_on(self, step: TrainStep, x: Array, target: Array, number: int) -> float:
        loss = step.forward(x, target)
        self._require_finite(loss, f"loss in epoch {number}")
        try:
            step.update()
        except NonFiniteError as error:
            raise TrainingError(f"fit: in epoch {number}, {error}; {_ADVICE}") from error
        return loss

    def _validate(self, validating: Loader | None, number: int) -> dict[str, Any]:
        if validating is None:
            return {}
        values = self.evaluator.run(validating)
        self._require_finite(values["loss"], f"validation loss of epoch {number}")
        return {f"val_{name}": value for name, value in values.items()}

    def _require_finite(self, loss: float, what: str) -> None:
        if not math.isfinite(loss):
            raise TrainingError(f"fit: the {what} is {loss}; {_ADVICE}")


def _updated(model: Layer, optimizer: Any) -> list[Parameter]:
    """What an optimiser updates: of the others, nobody clears the gradients."""
    groups = getattr(optimizer, "param_groups", [{"params": model.parameters()}])
    return [p for group in groups for p in group["params"]]

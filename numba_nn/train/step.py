"""One training step, as one object that allocates nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numba_nn.core.call import Array
from numba_nn.core.errors import ArgumentError, BackwardError, DTypeError, ReserveError, ShapeError
from numba_nn.core.layer import Layer
from numba_nn.core.workspace import Shape
from numba_nn.losses import Loss
from numba_nn.train.evaluation import check_trainable


class TrainStep:
    """Forward, loss, backward and update for batches of up to a reserved shape.

    Parameters
    ----------
    model : Layer
        The model. One in eval mode is put into training mode here, once, with all inside it; in a model in training mode,
        layers that were put into eval mode by themselves stay so. A step refuses a model in eval mode: after validation,
        call ``model.train()``.
    loss : Loss
        Compares the model's output with the target; its reduction gives one number.
    optimizer : object
        With ``zero_grad()`` and ``step()``, over parameters of the model.
    x_shape : tuple of int
        Shape of the largest batch.
    clip : callable, optional
        Called without arguments between backward and update, to clip gradients (`optim.ClipNorm`).

    Attributes
    ----------
    x_shape : tuple of int
        Shape of the largest batch.
    output : ndarray
        The model's output for the last batch, which the next step overwrites.

    Raises
    ------
    ArgumentError
        If ``model`` is no layer or ``loss`` no loss (a class, not an object of it, for instance), the loss gives a number for
        each element, or the optimiser updates nothing of the model, or parameters that are not the model's.
    ShapeError
        If the model cannot take this shape.

    Examples
    --------
    >>> step = nn.TrainStep(model, nn.MSELoss(), nn.optim.SGD(model.parameters(), lr=0.1), (32, 10))
    >>> for x, target in batches:
    ...     loss = step(x, target)
    """

    def __init__(self, model: Layer, loss: Loss, optimizer: Any, x_shape: Shape, clip: Callable[[], Any] | None = None) -> None:
        check_trainable("TrainStep", model, loss)
        if clip is not None and not callable(clip):
            raise ArgumentError(f"TrainStep: clip must be callable, as optim.ClipNorm(parameters, max_norm) is, got {clip!r}")
        _check_optimizer(model, optimizer)
        self.model = model.reserve(x_shape)
        if not model.training:
            model.train()
        self.optimizer = optimizer
        self._clip = clip
        self.x_shape = tuple(x_shape)
        dtype = model.dtype or np.dtype(np.float32)
        self._buffer = np.empty(model.output_shape(self.x_shape), dtype)
        self._gradient = np.empty_like(self._buffer)
        self._loss = np.empty(1, dtype)
        self.output = self._buffer[:0]
        self.loss = loss.reserve(self._buffer.shape, dtype)

    def __call__(self, x: Array, target: Array) -> float:
        """Train on one batch: `forward`, then `update`.

        Parameters
        ----------
        x : ndarray
            Input; its batch dimension at most the reserved one.
        target : ndarray
            What the loss compares the output with.

        Returns
        -------
        float
            The loss before the update.

        Raises
        ------
        ReserveError
            If the batch is larger than the reserved one; nothing was written.
        ShapeError, DTypeError
            If an array does not fit; the parameters stay as they were.
        BackwardError
            If the model is in eval mode.
        """
        self._require_training()
        loss = self.forward(x, target)
        self.update()
        return loss

    def forward(self, x: Array, target: Array) -> float:
        """The loss of one batch, without an update."""
        if not isinstance(x, np.ndarray):
            raise DTypeError(f"TrainStep: x must be a NumPy array, got {type(x).__name__}")
        if x.shape[1:] != self.x_shape[1:] or x.ndim != len(self.x_shape):
            raise ShapeError(f"TrainStep: x must have shape (N, ...) as in {self.x_shape}, got {x.shape}")
        if len(x) > len(self._buffer):
            reserved = f"{len(self._buffer)} are reserved (x_shape {self.x_shape})"
            raise ReserveError(f"TrainStep: x has a batch of {len(x)}, {reserved}; make a TrainStep for the larger batch")
        self.output = self.model.forward(x, out=self._buffer[: len(x)])
        return float(self.loss.forward(self.output, target, out=self._loss)[0])

    def update(self) -> None:
        """Backward and update for the last `forward`.

        Raises
        ------
        BackwardError
            If the model is in eval mode, or no forward is left.
        """
        self._require_training()
        self.optimizer.zero_grad()
        self.model.backward(self.loss.backward(out=self._gradient[: len(self.output)]), input_gradient=False)
        if self._clip is not None:
            self._clip()
        self.optimizer.step()

    def _require_training(self) -> None:
        if not self.model.training:
            raise BackwardError("TrainStep: the model is in eval mode and keeps nothing for backward; call model.train()")


def _check_optimizer(model: Layer, optimizer: Any) -> None:
    """Raise `ArgumentError` unless an optimiser's parameters are the model's; one without groups is taken at its word."""
    for method in ("zero_grad", "step"):
        if not callable(getattr(optimizer, method, None)) or isinstance(optimizer, type):
            raise ArgumentError(f"TrainStep: optimizer must be an object with zero_grad() and step(), got {optimizer!r}")
    if not hasattr(optimizer, "param_groups"):
        return
    own = {id(p) for p in model.parameters()}
    updated = [p for group in optimizer.param_groups for p in group["params"]]
    foreign = [p for p in updated if id(p) not in own]
    if foreign:
        raise ArgumentError(
            f"TrainStep: the optimizer must update parameters of this model only, but {len(foreign)} of its {len(updated)} are "
            f"not the model's, {foreign[0]!r} among them; make it of this model's model.parameters()"
        )
    if not any(p.requires_grad for p in updated):
        raise ArgumentError("TrainStep: no parameter of the optimizer has requires_grad; there is nothing to train")

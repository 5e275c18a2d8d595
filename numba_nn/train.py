"""One training step, as one object that allocates nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_nn.core.call import Array
from numba_nn.core.checks import check_array
from numba_nn.core.errors import ArgumentError, BackwardError, ReserveError, ShapeError
from numba_nn.core.layer import Layer
from numba_nn.core.workspace import Shape
from numba_nn.losses import Loss


class TrainStep:
    """Forward, loss, backward and update for batches of up to a reserved shape.

    Parameters
    ----------
    model : Layer
        The model; put into training mode here, once. A step refuses a model in eval mode: after validation, call
        ``model.train()``.
    loss : Loss
        Compares the model's output with the target.
    optimizer : object
        With ``zero_grad()`` and ``step()``, over the model's parameters.
    x_shape : tuple of int
        Shape of the largest batch.

    Raises
    ------
    ArgumentError
        If ``model`` is no layer or ``loss`` no loss (a class, not an object of it, for instance).
    ShapeError
        If the model cannot take this shape.

    Examples
    --------
    >>> step = nn.TrainStep(model, nn.MSELoss(), nn.optim.SGD(model.parameters(), lr=0.1), (32, 10))
    >>> for x, target in batches:
    ...     loss = step(x, target)
    """

    def __init__(self, model: Layer, loss: Loss, optimizer: Any, x_shape: Shape) -> None:
        for name, value, kind in (("model", model, Layer), ("loss", loss, Loss)):
            if not isinstance(value, kind):
                raise ArgumentError(f"TrainStep: {name} must be a {kind.__name__} object, got {value!r}")
        self.model = model.reserve(x_shape).train()
        self.optimizer = optimizer
        self._x_shape = tuple(x_shape)
        self._dtype = model.dtype or np.dtype(np.float32)
        self._output = np.empty(model.output_shape(self._x_shape), self._dtype)
        self._gradient = np.empty_like(self._output)
        self._loss = np.empty(1, self._dtype)
        self.loss = loss.reserve(self._output.shape, self._dtype)

    def __call__(self, x: Array, target: Array) -> float:
        """Train on one batch.

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
            If the model, or a layer inside, is in eval mode.
        """
        if not self.model.training:
            raise BackwardError("TrainStep: the model is in eval mode and keeps nothing for backward; call model.train()")
        loss = self.forward(x, target)
        self.optimizer.zero_grad()
        self.model.backward(self.loss.backward(out=self._gradient[: len(x)]), input_gradient=False)
        self.optimizer.step()
        return loss

    def forward(self, x: Array, target: Array) -> float:
        """The loss of one batch, without an update."""
        check_array("TrainStep", "x", x, self._dtype)
        if x.shape[1:] != self._x_shape[1:] or x.ndim != len(self._x_shape):
            raise ShapeError(f"TrainStep: x must have shape (N, ...) as in {self._x_shape}, got {x.shape}")
        if len(x) > len(self._output):
            reserved = f"{len(self._output)} are reserved (x_shape {self._x_shape})"
            raise ReserveError(f"TrainStep: x has a batch of {len(x)}, {reserved}; make a TrainStep for the larger batch")
        y = self.model.forward(x, out=self._output[: len(x)])
        return float(self.loss.forward(y, target, out=self._loss)[0])

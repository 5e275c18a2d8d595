"""One training step, as one object that allocates nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_nn.core.layer import Array, Layer
from numba_nn.core.workspace import Shape
from numba_nn.losses import Loss


class TrainStep:
    """Forward, loss, backward and update for batches of up to a reserved shape.

    Parameters
    ----------
    model : Layer
        The model; put into training mode by every step.
    loss : Loss
        Compares the model's output with the target.
    optimizer : object
        With ``zero_grad()`` and ``step()``, over the model's parameters.
    x_shape : tuple of int
        Shape of the largest batch.

    Examples
    --------
    >>> step = nn.TrainStep(model, nn.MSELoss(), nn.optim.SGD(model.parameters(), lr=0.1), (32, 10))
    >>> for x, target in batches:
    ...     loss = step(x, target)
    """

    def __init__(self, model: Layer, loss: Loss, optimizer: Any, x_shape: Shape) -> None:
        self.model = model.reserve(x_shape)
        self.loss = loss
        self.optimizer = optimizer
        dtype = model.dtype or np.dtype(np.float32)
        self._output = np.empty(model.output_shape(x_shape), dtype)
        self._gradient = np.empty_like(self._output)
        self._loss = np.empty(1, dtype)

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
        """
        loss = self.forward(x, target)
        self.optimizer.zero_grad()
        self.model.backward(self.loss.backward(out=self._gradient[: len(x)]), input_gradient=False)
        self.optimizer.step()
        return loss

    def forward(self, x: Array, target: Array) -> float:
        """The loss of one batch, without an update (but in training mode)."""
        self.model.train()
        y = self.model.forward(x, out=self._output[: len(x)])
        return float(self.loss.forward(y, target, out=self._loss)[0])

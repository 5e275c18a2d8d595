"""One training step, as one object that allocates nothing; on a GPU it is recorded, and repeated by one launch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core import random
from numba_nn.core.call import Array
from numba_nn.core.checks import check_place
from numba_nn.core.device import CPU, CUDA
from numba_nn.core.errors import ArgumentError, BackwardError, DeviceError, ReserveError, ShapeError
from numba_nn.core.kernel import In, Out, portable
from numba_nn.core.layer import Layer
from numba_nn.core.parameter import Parameter
from numba_nn.core.precision import get_precision
from numba_nn.core.workspace import Shape
from numba_nn.losses import Loss
from numba_nn.optim import Optimizer
from numba_nn.train.device_step import DeviceStep
from numba_nn.train.evaluation import check_trainable


class TrainStep:
    """Forward, loss, backward and update for batches of up to a reserved shape.

    On a GPU, the second step of a kind (shape of the batch, modes of layers, frozen parameters) is recorded as a CUDA graph,
    and from then on one launch repeats it. The optimiser's settings may change between steps; what else is a number on the
    host (``p`` of a Dropout, ``max_norm`` of a `optim.ClipNorm`) stays as it was: to change it, make a new TrainStep. A step
    that cannot be recorded runs launch by launch, and a warning says why. All goes to the model's stream (`Module.to`), or to
    one of its own that is in order with CUDA's default stream. This has run on a simulated GPU only.

    On a GPU a target out of range makes the loss NaN, as in a recorded step an index does that is no row of an `Embedding`
    (steps before refuse it). A step whose loss is NaN changes no parameter there, and nothing that an `optim.Optimizer` keeps;
    where the loss is read, a target out of range raises `RangeError` as on the CPU.

    Parameters
    ----------
    model : Layer
        The model. One in eval mode is put into training mode here, once, with all inside it; in a model in training mode,
        layers that were put into eval mode by themselves stay so. A step refuses a model in eval mode: after validation,
        call ``model.train()``.
    loss : Loss
        Compares the model's output with the target; its reduction gives one number. A stream of its own that is not the
        model's is forgotten: its work goes where the step's does.
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
        self._device, self._stream = device, stream = model.device, model.stream
        dtype, shape = model.dtype or np.dtype(np.float32), model.output_shape(self.x_shape)
        with device.on(stream):
            self._buffer, self._gradient = device.empty(shape, dtype), device.empty(shape, dtype)
            self._loss, self._losses = device.zeros((1,), dtype), device.zeros((2,), np.float64)
            if loss.stream is not stream:
                loss.to(device)  # its work then goes where a step's goes: several steps may share it
            self.loss = loss.reserve(shape, dtype, device)
        self.output = self._buffer[:0]
        self._target: Any = None  # of the last batch, on a GPU
        self._on_gpu = None if device is CPU else DeviceStep(self.x_shape[0], stream)
        self._parts = list(model.modules()), model.parameters()

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
            The loss before the update. A GPU is waited for.

        Raises
        ------
        ReserveError
            If the batch is larger than the reserved one; nothing was written.
        ShapeError, DTypeError, RangeError
            If an array, or a value of it, does not fit; the parameters stay as they were.
        BackwardError
            If the model is in eval mode.
        DeviceError
            If the model moved since the step was made.
        """
        self._require_training()
        self.run(x, target)
        return self._number()

    def run(self, x: Array, target: Array) -> None:
        """Train on one batch as ``step(x, target)`` does, and wait for nothing: `mean_loss` tells the loss later.

        Parameters
        ----------
        x, target : ndarray
            As above; NumPy arrays may be overwritten at once.
        """
        self._require_training()
        if self._on_gpu is None:
            self._check(x)
            self._train(x, target)
            return
        with CUDA.on(self._on_gpu.stream):
            x, target = self._take(self._on_gpu, x, target)
            kind = (x.shape, x.dtype, target.shape, target.dtype, *self._state())
            self._on_gpu.run(kind, lambda: self._train(x, target), self._refresh)
            self.output, self._target = self._buffer[: len(x)], target

    def mean_loss(self) -> float:
        """Mean of the losses of all batches since it was last asked; a GPU is waited for.

        Returns
        -------
        float
            The mean; NaN if there was none, and on a GPU where a target was out of range.
        """
        with self._device.on(self._stream):
            total, count = self._device.to_host(self._losses)
            self._device.clear(self._losses)
        return float(total / count) if count else math.nan

    def _train(self, x: Array, target: Array) -> None:
        self._forward(x, target)
        self._update()
        count_loss.for_work(1, self._device)(self._losses, self._loss)

    def _state(self) -> tuple[Any, ...]:
        """What a step's launches depend on, beside the batch."""
        modules, parameters = self._parts
        modes, learns = tuple([m.training for m in modules]), tuple([p.requires_grad for p in parameters])
        return modes, learns, Parameter.moves, random.seedings(), get_precision()

    def _refresh(self) -> None:
        """Do what of a step the host has to do before it is repeated as it was recorded."""
        if not hasattr(self.optimizer, "refresh"):
            raise ArgumentError("the optimizer has no refresh(), which gives its settings to the GPU (see optim.Optimizer)")
        self.optimizer.refresh()
        if (refresh := getattr(self._clip, "refresh", None)) is not None:
            refresh()

    def forward(self, x: Array, target: Array) -> float:
        """The loss of one batch, without an update."""
        if self._on_gpu is None:
            self._check(x)
            self._forward(x, target)
        else:
            with CUDA.on(self._on_gpu.stream):
                x, self._target = self._take(self._on_gpu, x, target)
                self._forward(x, self._target)
        return self._number()

    def _number(self) -> float:
        """The loss of the last batch; raises `RangeError` where it is NaN, on a GPU, for a target out of range."""
        with self._device.on(self._stream):
            loss = self._device.number(self._loss)
            if self._on_gpu is not None and math.isnan(loss):
                self.loss.check_values(self.output, self._target)
        return loss

    def _take(self, on_gpu: DeviceStep, x: Any, target: Any) -> tuple[Array, Array]:
        """A batch in the arrays reserved for it."""
        x = CUDA.accept(x)
        self._check(x)
        return on_gpu.take("x", x), on_gpu.take("target", CUDA.accept(target))

    def _check(self, x: Any) -> None:
        if self._device is not self.model.device or self._stream is not self.model.stream:
            where = f"'{self.model.device}'" + (", another stream" if self._device is self.model.device else "")
            raise DeviceError(f"TrainStep: the model moved to {where}; make a TrainStep for it there")
        if not isinstance(x, np.ndarray):
            check_place("TrainStep", "x", x, self._device)
        if x.shape[1:] != self.x_shape[1:] or x.ndim != len(self.x_shape):
            raise ShapeError(f"TrainStep: x must have shape (N, ...) as in {self.x_shape}, got {x.shape}")
        if len(x) > len(self._buffer):
            reserved = f"{len(self._buffer)} are reserved (x_shape {self.x_shape})"
            raise ReserveError(f"TrainStep: x has a batch of {len(x)}, {reserved}; make a TrainStep for the larger batch")

    def _forward(self, x: Array, target: Array) -> None:
        self.output = self.model.forward(x, out=self._buffer[: len(x)])
        self.loss.forward(self.output, target, out=self._loss)

    def update(self) -> None:
        """Backward and update for the last `forward`.

        Raises
        ------
        BackwardError
            If the model is in eval mode, or no forward is left.
        """
        self._require_training()
        with self._device.on(self._stream):
            self._update()

    def _update(self) -> None:
        self.optimizer.zero_grad()
        self.model.backward(self.loss.backward(out=self._gradient[: len(self.output)]), input_gradient=False)
        if self._clip is not None:
            self._clip()
        if self._on_gpu is not None and isinstance(self.optimizer, Optimizer):
            self.optimizer.step(self._loss)
        else:
            self.optimizer.step()

    def _require_training(self) -> None:
        if not self.model.training:
            raise BackwardError("TrainStep: the model is in eval mode and keeps nothing for backward; call model.train()")


@portable
def count_loss(losses: Out, loss: In) -> None:
    """losses[0] += loss, and losses[1] += 1."""
    for i in prange(loss.size):
        losses[0] += loss[i]
        losses[1] += 1


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

"""Training steps of models, and optimisers' steps by themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import numba_nn as nn
from numba_nn.report.measuring.cases import Shape, empty, normal

from .layers import Make, built, tensor
from .work import Passes, Side, Work

STEP_TOLERANCE = 5e-3
"""Where sums round otherwise, a ReLU or a maximum here and there decides otherwise, and a gradient gains or loses a term.

With one image, the autoencoder's gradients differ from those in float64 by 3.7e-3 in PyTorch and by 6e-7 in ours (Intel Xeon).
"""
ADAM_TOLERANCE = 5e-3
"""Adam's first step is lr * g / (|g| + eps): where g is next to nothing, its last digits decide."""


def train_step(make: Make, x_shape: Shape, optimizer: str, tolerance: float = STEP_TOLERANCE, **options: Any) -> Passes:
    """`TrainStep` with the mean squared error against the usual loop of PyTorch."""
    return {"training step": lambda: _train_step(make, x_shape, optimizer, tolerance, options)}


def _train_step(make: Make, x_shape: Shape, optimizer: str, tolerance: float, options: dict[str, Any]) -> Work:
    ours, theirs = built(make, training=True)
    x, target = normal(x_shape), normal(ours.output_shape(x_shape))
    update = getattr(nn.optim, optimizer)(ours.parameters(), **options)
    step = nn.TrainStep(ours, nn.MSELoss(), update, x_shape)
    their_update, criterion = getattr(torch.optim, optimizer)(theirs.parameters(), **options), torch.nn.MSELoss()
    their_x, their_target = tensor(x), tensor(target)

    def their_step() -> float:
        their_update.zero_grad()
        loss = criterion(theirs(their_x), their_target)
        loss.backward()
        their_update.step()
        return loss.item()

    def read(model: Any, array: Callable[[Any], Any], loss: float) -> list[Any]:
        return [loss, *(part for p in model.parameters() for part in (p.grad, array(p)))]

    return Work(
        Side("numba_nn", partial(step, x, target), partial(read, ours, lambda p: p.value)),
        [Side("PyTorch", their_step, partial(read, theirs, lambda p: p))],
        3 * ours.forward_flops(x_shape), tolerance=tolerance,
    )  # fmt: skip


def optimizer_step(name: str, shapes: list[Shape], touched: int, **options: Any) -> Passes:
    """An optimiser's step; ``touched`` arrays of the parameters' size are read or written."""
    return {"step": lambda: _optimizer_step(name, shapes, touched, options)}


def _optimizer_step(name: str, shapes: list[Shape], touched: int, options: dict[str, Any]) -> Work:
    parameters = [nn.Parameter(normal(shape)) for shape in shapes]
    for p in parameters:
        p.grad[...] = p.value
    ours = Side("numba_nn", getattr(nn.optim, name)(parameters, **options).step, lambda _: [p.value for p in parameters])
    ways: dict[str, dict[str, bool]] = {"PyTorch": {}, "PyTorch foreach": {"foreach": True}, "PyTorch fused": {"fused": True}}
    peers = [_torch_step(label, name, shapes, {**options, **way}) for label, way in ways.items()]
    return Work(ours, peers, nbytes=4 * touched * sum(map(math.prod, shapes)))


def _torch_step(label: str, name: str, shapes: list[Shape], options: dict[str, Any]) -> Side:
    parameters = [tensor(normal(shape), gradient=True) for shape in shapes]
    for p in parameters:
        p.grad = p.detach().clone()
    return Side(label, getattr(torch.optim, name)(parameters, **options).step, lambda _: parameters)


def loss(name: str, shape: Shape, classes: bool = False) -> Passes:
    """A loss and its gradient, of numbers or of a class for each row."""
    return {"forward + backward": lambda: _loss(name, shape, classes)}


def _loss(name: str, shape: Shape, classes: bool) -> Work:
    import numpy as np

    prediction = normal(shape)
    target = np.random.default_rng(1).integers(0, shape[1], shape[0]) if classes else 2 * normal(shape)
    made, theirs = getattr(nn, name)().reserve(shape), getattr(torch.nn, name)()
    value, gradient = empty((1,), shape)
    their_prediction, their_target = tensor(prediction, gradient=True), torch.from_numpy(target).clone()

    def call() -> None:
        made.forward(prediction, target, out=value)
        made.backward(out=gradient)

    def their_call() -> Any:
        their_prediction.grad = None
        result = theirs(their_prediction, their_target)
        result.backward()
        return result

    ours_side = Side("numba_nn", call, lambda _: [value, gradient])
    peer = Side("PyTorch", their_call, lambda result: [result.reshape(1), their_prediction.grad])
    return Work(ours_side, [peer], nbytes=(5 if not classes else 3) * prediction.nbytes)

"""Layers and models of one input and one output: forward, and forward with backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

import numba_nn as nn
from numba_nn.report.measuring.cases import OneInput, empty, normal

from .inference import onnxruntime_side
from .work import Passes, Side, Work, as_numpy

Make = Callable[[Any], Any]
"""Makes a layer or a model of a library's parts: of ``numba_nn``, and of ``torch.nn``, which has the same names."""


def tensor(array: np.ndarray, gradient: bool = False) -> Any:
    """A PyTorch tensor with a copy of an array, in memory aligned as PyTorch likes it."""
    return torch.from_numpy(array).clone().requires_grad_(gradient)


def same_weights(ours: Any, theirs: Any) -> Any:
    """PyTorch's layer with the parameters of ours."""
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in ours.state_dict().items()})
    return theirs


def built(make: Make, training: bool) -> tuple[Any, Any]:
    """Ours, and PyTorch's with the same weights."""
    nn.manual_seed(0)
    ours = make(nn)
    return ours.train(training), same_weights(ours, make(torch.nn)).train(training)


def layer_passes(
    made: OneInput, *, training: bool = False, moved: tuple[float, float] | None = None, onnx: bool = False,
    only: str = "", pause: float = 0.0,
) -> Passes:  # fmt: skip
    """The passes of a layer.

    ``training`` is the mode of the forward by itself, ``moved`` the bytes that forward and forward with backward must move, in
    sizes of the input; by default each array counts once, and the input once more in the backward. With ``onnx`` onnxruntime
    is a peer of the forward. ``only`` names the one pass that is wanted.
    """
    forward, both = moved or (None, None)
    passes: Passes = {
        "forward": lambda: _forward(made, training, forward, onnx)._replace(pause=pause),
        "forward + backward": lambda: _forward_backward(made, both)._replace(pause=pause),
    }
    return {name: prepare for name, prepare in passes.items() if only in ("", name)}


def factors(y: Any, x: Any) -> np.ndarray:
    """What dropout multiplied by, whichever elements it met: all that two libraries with their own random numbers agree on."""
    kept = as_numpy(x) != 0
    return np.unique((as_numpy(y)[kept] / as_numpy(x)[kept]).round(4))


def _agreed(made: Any, results: list[Any], x: Any, dy: Any = None) -> list[Any]:
    """What both sides must agree on: all results, but of dropout."""
    if not type(made).__name__.startswith("Dropout"):
        return results
    return [factors(array, source) for array, source in zip(results, (x, dy), strict=False)]


def _forward(made: OneInput, training: bool, moved: float | None, onnx: bool) -> Work:
    ours, theirs = built(made.make, training)
    x = normal(made.x_shape)
    ours.reserve(x.shape, training=training)
    (y,) = empty(ours.output_shape(x.shape))
    peers = [Side("PyTorch", partial(theirs, tensor(x)), lambda result: _agreed(theirs, [result], x), torch.no_grad)]
    if onnx:
        peers.append(onnxruntime_side(ours, x, y.shape))
    nbytes = x.nbytes + y.nbytes + _parameter_bytes(ours) if moved is None else moved * x.nbytes
    ours_side = Side("numba_nn", partial(ours.forward, x, out=y), lambda result: _agreed(ours, [result], x))
    return Work(ours_side, peers, ours.forward_flops(x.shape), nbytes)


def _forward_backward(made: OneInput, moved: float | None) -> Work:
    ours, theirs = built(made.make, training=True)
    x = normal(made.x_shape)
    ours.reserve(x.shape)
    dy = normal(ours.output_shape(x.shape), seed=1)
    y, dx = empty(dy.shape, x.shape)
    their_x, their_dy = tensor(x, gradient=True), tensor(dy)

    def call() -> None:
        ours.forward(x, out=y)
        ours.backward(dy, out=dx)

    def their_call() -> Any:
        their_x.grad = None  # ours is overwritten; gradients of parameters accumulate on both sides
        result = theirs(their_x)
        result.backward(their_dy)
        return result

    def read(one: Any, *results: Any) -> list[Any]:
        return _agreed(one, [*results, *(p.grad for p in one.parameters())], x, dy)

    ours_side = Side("numba_nn", call, lambda _: read(ours, y, dx))
    peer = Side("PyTorch", their_call, lambda result: read(theirs, result, their_x.grad))
    nbytes = 3 * x.nbytes + 2 * y.nbytes + 3 * _parameter_bytes(ours) if moved is None else moved * x.nbytes
    return Work(ours_side, [peer], 3 * ours.forward_flops(x.shape), nbytes)


def _parameter_bytes(made: Any) -> int:
    return sum(4 * math.prod(p.value.shape) for p in made.parameters())

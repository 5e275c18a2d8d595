"""LSTM over sequences, and its single step."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

import numba_nn as nn
from numba_nn.report.measuring.cases import Shape, empty, normal

from .layers import same_weights, tensor
from .work import Passes, Results, Side, Work


def lstm(x_shape: Shape, hidden: int, layers: int = 1, bidirectional: bool = False) -> Passes:
    """`LSTM` over x (steps, batch, features), with a state that comes in and goes out."""
    steps, batch, features = x_shape
    directions = 2 if bidirectional else 1
    state = (layers * directions, batch, hidden)
    make = partial(_make, "LSTM", features, hidden, num_layers=layers, bidirectional=bidirectional)
    inner = (layers - 1) * (directions + 1) * hidden * directions  # elements that a step's later layers take in
    flops = 8 * steps * batch * hidden * (directions * (features + hidden) + inner)
    return _passes(make, x_shape, [(steps, batch, directions * hidden), state, state], flops)


def lstm_cell(x_shape: Shape, hidden: int) -> Passes:
    """`LSTMCell`: one step."""
    batch, features = x_shape
    make = partial(_make, "LSTMCell", features, hidden)
    return _passes(make, x_shape, [(batch, hidden)] * 2, 8 * batch * hidden * (features + hidden))


def _make(name: str, *arguments: int, **options: Any) -> tuple[Any, Any]:
    nn.manual_seed(0)
    ours = getattr(nn, name)(*arguments, **options)
    return ours, same_weights(ours, getattr(torch.nn, name)(*arguments, **options))


def _passes(make: Any, x_shape: Shape, outs: list[Shape], flops: float) -> Passes:
    return {
        "forward": lambda: _forward(*make(), x_shape, outs, flops),
        "forward + backward": lambda: _forward_backward(*make(), x_shape, outs, flops),
    }


def _flat(result: Any) -> Results:
    """(y, (h, c)) or (h, c) as a list."""
    first, second = result
    return [first, *second] if isinstance(second, tuple) else [first, second]


def _destinations(shapes: list[Shape]) -> dict[str, Any]:
    """The arguments that say where a forward writes, of the sequence and of the step."""
    *y, h, c = empty(*shapes)
    return {"out": y[0], "state_out": (h, c)} if y else {"out": (h, c)}


def _forward(ours: Any, theirs: Any, x_shape: Shape, outs: list[Shape], flops: float) -> Work:
    x, state = normal(x_shape), tuple(map(normal, outs[-2:]))
    ours.eval().reserve(x_shape, training=False)
    call = partial(ours.forward, x, state, **_destinations(outs))
    peer = Side("PyTorch", partial(theirs.eval(), tensor(x), tuple(map(tensor, state))), _flat, torch.no_grad)
    return Work(Side("numba_nn", call, _flat), [peer], flops)


def _forward_backward(ours: Any, theirs: Any, x_shape: Shape, outs: list[Shape], flops: float) -> Work:
    x, state, given = normal(x_shape), tuple(map(normal, outs[-2:])), [normal(shape, seed=1) for shape in outs]
    ours.reserve(x_shape)
    forward = partial(ours.forward, x, state, **_destinations(outs))
    dx, *dstate = empty(x_shape, *outs[-2:])
    upstream = (given[0], tuple(given[1:])) if len(given) == 3 else (tuple(given),)
    back = partial(ours.backward, *upstream, out=dx, dstate_out=tuple(dstate))
    their_x, their_state, their_given = tensor(x, True), tuple(tensor(s, True) for s in state), list(map(tensor, given))

    def call() -> Any:
        result = forward()
        back()
        return result

    def their_call() -> Any:
        for leaf in (their_x, *their_state):
            leaf.grad = None
        result = theirs(their_x, their_state)
        torch.autograd.backward(list(_flat(result)), their_given)
        return result

    def read(result: Any) -> Results:
        return [*_flat(result), dx, *dstate, *(p.grad for p in ours.parameters())]

    def their_read(result: Any) -> Results:
        leaves = (their_x, *their_state, *theirs.parameters())
        return [*_flat(result), *(leaf.grad for leaf in leaves)]

    return Work(Side("numba_nn", call, read), [Side("PyTorch", their_call, their_read)], 3 * flops)

"""Our configurations as PyTorch's layers: the class of the same name with the same arguments, where nothing else is said."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn
from tests.case import LSTMCellOutput, LSTMOutput

torch = pytest.importorskip("torch", reason="PyTorch lives in an environment of its own: make parity")


class FirstOutput(torch.nn.Sequential):
    """A layer of several outputs, of which only the first goes on."""

    def forward(self, x):
        return super().forward(x)[0]


class Function(torch.nn.Module):
    """A function of the input as a layer."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


def squeeze(dim=None):
    """All dimensions of size 1 but the batch, where PyTorch leaves out the batch too."""
    return Function(lambda x: torch.squeeze(x, tuple(range(1, x.ndim)) if dim is None else dim))


def whole_plane(adaptive):
    """A function that builds PyTorch's global pooling, (N, C) as ours gives it."""
    return lambda: torch.nn.Sequential(adaptive(1), torch.nn.Flatten())


OTHERWISE: dict = {
    LSTMOutput: lambda *args, **kwargs: FirstOutput(torch.nn.LSTM(*args, **kwargs)),
    LSTMCellOutput: lambda *args, **kwargs: FirstOutput(torch.nn.LSTMCell(*args, **kwargs)),
    nn.Permute: lambda *dims: Function(lambda x: x.permute(*dims)),
    nn.Reshape: lambda *shape: Function(lambda x: x.reshape(x.shape[0], *(shape[0] if isinstance(shape[0], tuple) else shape))),
    nn.Squeeze: squeeze,
    nn.Transpose: lambda *dims: Function(lambda x: x.transpose(*dims)),
    nn.Unsqueeze: lambda dim: Function(lambda x: x.unsqueeze(dim)),
    nn.GlobalAvgPool1d: whole_plane(torch.nn.AdaptiveAvgPool1d),
    nn.GlobalAvgPool2d: whole_plane(torch.nn.AdaptiveAvgPool2d),
    nn.GlobalMaxPool1d: whole_plane(torch.nn.AdaptiveMaxPool1d),
    nn.GlobalMaxPool2d: whole_plane(torch.nn.AdaptiveMaxPool2d),
}
"""Class of ours to a function of its arguments, where PyTorch's name or arguments differ."""


def peer(case, dtype):
    """PyTorch's layer for a case."""
    build = OTHERWISE.get(case.layer) or getattr(torch.nn, case.layer.__name__)
    layer = build(*case.args, **{name: value for name, value in case.kwargs.items() if name != "algorithm"})
    return layer.to(tensor(np.empty(0, dtype)).dtype)


def tensor(array, gradient=False):
    """A tensor with a copy of an array."""
    return torch.tensor(np.array(array, order="C"), requires_grad=gradient)


def peer_gradients(layer, x, dy):
    """What `tests.cases.gradients` gives, of a PyTorch layer."""
    layer.zero_grad()
    x = tensor(x, gradient=True)
    y = layer(x)
    y.backward(tensor(dy))
    named = {name: p.grad.numpy().copy() for name, p in layer.named_parameters()}
    return {"y": y.detach().numpy(), "x": x.grad.numpy(), **named}


def to_torch(state):
    """A state dict of ours for PyTorch."""
    return {name: tensor(array) for name, array in state.items()}


def from_torch(state):
    """A state dict of PyTorch's for us."""
    return {name: value.numpy() for name, value in state.items()}

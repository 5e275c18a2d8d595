"""The layers that are measured: a line for each, with the reference's own figures.

The reference is EasyRobot's package ``x/math/nn`` (Go); its figures are the best of its report, from an Intel i7-8750H. All
arrays are float32 and hold N(0, 1) * 0.1. Layers are in training mode and write to destinations, after ``reserve``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Pass(NamedTuple):
    """A call that is measured, and what runs before each such call without being measured."""

    call: Callable[[], Any]
    before: Callable[[], Any] | None = None


Passes = dict[str, Pass]
Prepare = Callable[[ModuleType], Passes]


class Reference(NamedTuple):
    """The reference's nanoseconds and allocations for one pass; None where it gives none."""

    ns: float | None = None
    allocations: int | None = None


class Case(NamedTuple):
    """One configuration. ``reference`` holds the figures by pass; it is None for what only we measure."""

    family: str
    name: str
    prepare: Prepare
    reference: dict[str, Reference] | None = None
    passes: tuple[str, ...] = ("forward", "backward")


def feature(module: Any, name: str) -> Any:
    """A public name, which another revision may lack."""
    if not hasattr(module, name):
        raise NotImplementedError(f"{module.__name__} has no {name}")
    return getattr(module, name)


def normal(shape: Shape, seed: int = 0) -> Any:
    """N(0, 1) * 0.1, float32, the same at every call."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * np.float32(0.1)


def empty(*shapes: Shape) -> list[Any]:
    """Destinations."""
    return [np.empty(shape, np.float32) for shape in shapes]


# How a case is prepared


@dataclass(frozen=True)
class OneInput:
    """A layer of one input and one output. ``make`` takes the library; names and arguments are such that it may be torch.nn."""

    x_shape: Shape
    make: Callable[[Any], Any]

    def __call__(self, nn: ModuleType) -> Passes:
        return layer_passes(self.make(nn), self.x_shape)


def layer(name: str, x_shape: Shape, *arguments: Any, **options: Any) -> OneInput:
    """A layer by itself."""
    return OneInput(x_shape, lambda nn: feature(nn, name)(*arguments, **options))


def pooled(name: str, x_shape: Shape, pool: str, *arguments: Any) -> OneInput:
    """A layer whose output is averaged over all positions, in one ``Sequential``."""
    return OneInput(x_shape, lambda nn: nn.Sequential(feature(nn, name)(*arguments), feature(nn, pool)(1)))


def layer_passes(made: Any, x_shape: Shape) -> Passes:
    """Forward and backward, with gradients of input and parameters."""
    made.reserve(x_shape)
    x, dy = normal(x_shape), normal(made.output_shape(x_shape))
    y, dx = empty(dy.shape, x_shape)
    forward = partial(made.forward, x, out=y)
    return {"forward": Pass(forward), "backward": Pass(partial(made.backward, dy, out=dx), before=forward)}


def lstm(x_shape: Shape, hidden: int) -> Prepare:
    """`LSTM` over x (steps, batch, features)."""

    def prepare(nn: ModuleType) -> Passes:
        steps, batch, features = x_shape
        made = feature(nn, "LSTM")(features, hidden).reserve(x_shape)
        outs = [(steps, batch, hidden), *[(1, batch, hidden)] * 2]
        (dy, *state), (y, *final), first = map(normal, outs), empty(*outs), empty(*outs[1:])
        forward = partial(made.forward, normal(x_shape), tuple(state), out=y, state_out=tuple(final))
        back = partial(made.backward, dy, tuple(state), out=empty(x_shape)[0], dstate_out=tuple(first))
        return {"forward": Pass(forward), "backward": Pass(back, before=forward)}

    return prepare


def lstm_cell(x_shape: Shape, hidden: int) -> Prepare:
    """`LSTMCell`: one step."""

    def prepare(nn: ModuleType) -> Passes:
        made, pair = feature(nn, "LSTMCell")(x_shape[1], hidden).reserve(x_shape), [(x_shape[0], hidden)] * 2
        state, dstate = (tuple(map(normal, pair)) for _ in range(2))
        forward = partial(made.forward, normal(x_shape), state, out=tuple(empty(*pair)))
        back = partial(made.backward, dstate, out=empty(x_shape)[0], dstate_out=tuple(empty(*pair)))
        return {"forward": Pass(forward), "backward": Pass(back, before=forward)}

    return prepare


def embedding(x_shape: Shape, count: int, features: int) -> Prepare:
    """`Embedding`: whole numbers come in, so no gradient goes out."""

    def prepare(nn: ModuleType) -> Passes:
        made = feature(nn, "Embedding")(count, features).reserve(x_shape)
        x = np.random.default_rng(0).integers(0, count, x_shape)
        dy = normal((*x_shape, features))
        forward = partial(made.forward, x, out=np.empty_like(dy))
        return {"forward": Pass(forward), "backward": Pass(partial(made.backward, dy), before=forward)}

    return prepare


def loss(name: str, shape: Shape, classes: bool = False) -> Prepare:
    """A loss, of numbers or of a class for each row."""

    def prepare(nn: ModuleType) -> Passes:
        made, rng = feature(nn, name)().reserve(shape), np.random.default_rng(0)
        target = rng.integers(0, shape[1], shape[0]) if classes else normal(shape)
        value, gradient = empty((1,), shape)
        forward = partial(made.forward, normal(shape), target, out=value)
        return {"forward": Pass(forward), "backward": Pass(partial(made.backward, out=gradient), before=forward)}

    return prepare


def optimizer(name: str, **options: Any) -> Prepare:
    """An optimiser's step over the parameters of Linears 1000-500-200-50-10."""

    def prepare(nn: ModuleType) -> Passes:
        shapes = [shape for i, o in itertools.pairwise((1000, 500, 200, 50, 10)) for shape in ((o, i), (o,))]
        parameters = [feature(nn, "Parameter")(normal(shape)) for shape in shapes]
        for parameter in parameters:
            parameter.grad[...] = parameter.value
        return {"step": Pass(feature(nn.optim, name)(parameters, **options).step)}

    return prepare


# The table


def both(forward: tuple[float | None, int | None], backward: tuple[float | None, int | None]) -> dict[str, Reference]:
    """The reference's (nanoseconds, allocations) of the two passes."""
    return {"forward": Reference(*forward), "backward": Reference(*backward)}


def activation(name: str, reference: dict[str, Reference] | None = None) -> Case:
    """An activation of [32,512]."""
    return Case("activation", f"{name} x [32,512]", layer(name, (32, 512)), reference)


NO_FIGURES: dict[str, Reference] = {}
"""Of what the reference measures, but gives no figure for."""

CASES = [
    Case("convolution", "Conv2d x [8,64,32,32] -> 128, k3 p1", layer("Conv2d", (8, 64, 32, 32), 64, 128, 3, padding=1),
         both((1.458e9, 15), (7.708e9, 87))),
    Case("convolution", "Conv2d x [1,3,28,28] -> 16, k3 p1", layer("Conv2d", (1, 3, 28, 28), 3, 16, 3, padding=1), NO_FIGURES),
    Case("convolution", "Conv1d x [8,64,256] -> 128, k3 p1", layer("Conv1d", (8, 64, 256), 64, 128, 3, padding=1),
         both((125.9e6, 26), (536.8e6, 59))),
    *(Case("convolution", f"Conv2d x [1,1,32,32] -> 32, k{k}; mean",
           pooled("Conv2d", (1, 1, 32, 32), "AdaptiveAvgPool2d", 1, 32, k), NO_FIGURES) for k in (3, 5, 7)),
    *(Case("convolution", f"Conv1d x [1,1,1024] -> 32, k{k}; mean",
           pooled("Conv1d", (1, 1, 1024), "AdaptiveAvgPool1d", 1, 32, k), NO_FIGURES) for k in (3, 5, 7)),
    Case("linear", "Linear x [32,256] -> 512", layer("Linear", (32, 256), 256, 512), both((27.1e6, 778), (35.2e6, 29))),
    Case("linear", "Linear x [1,1024] -> 32", layer("Linear", (1, 1024), 1024, 32), NO_FIGURES),
    Case("recurrent", "LSTMCell x [16,128], hidden 256", lstm_cell((16, 128), 256), both((24.0e6, 139), (None, None))),
    Case("recurrent", "LSTM x [1,16,128], hidden 256", lstm((1, 16, 128), 256), both((24.0e6, 139), (None, None))),
    Case("recurrent", "LSTM x [32,16,128], hidden 256", lstm((32, 16, 128), 256)),
    Case("pooling", "MaxPool2d x [4,32,16,16], k2 s2", layer("MaxPool2d", (4, 32, 16, 16), 2, 2),
         both((0.348e6, 8), (0.503e6, 5))),
    Case("pooling", "AvgPool2d x [4,32,16,16], k2 s2", layer("AvgPool2d", (4, 32, 16, 16), 2, 2),
         both((0.320e6, 5), (0.304e6, 4))),
    *(activation(name, both((None, None), (None, 0))) for name in ("ReLU", "Sigmoid", "Tanh")),
    activation("GELU"),
    Case("activation", "Softmax x [32,128], dim 1", layer("Softmax", (32, 128), 1), both((138e3, 7), (121e3, 60))),
    Case("dropout", "Dropout x [32,512], p 0.5", layer("Dropout", (32, 512), 0.5), both((3.67e6, 32_798), (64e3, 7))),
    Case("normalisation", "BatchNorm2d x [8,64,32,32]", layer("BatchNorm2d", (8, 64, 32, 32), 64)),
    Case("embedding", "Embedding x [32,100] of (1000,128)", embedding((32, 100), 1000, 128)),
    Case("losses", "MSELoss [32,512]", loss("MSELoss", (32, 512))),
    Case("losses", "CrossEntropyLoss [256,1000]", loss("CrossEntropyLoss", (256, 1000), classes=True)),
    Case("optimisers", "SGD 1000-500-200-50-10", optimizer("SGD", momentum=0.9), passes=("step",)),
    Case("optimisers", "Adam 1000-500-200-50-10", optimizer("Adam"), passes=("step",)),
]  # fmt: skip

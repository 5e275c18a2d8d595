"""What runs on the simulated GPU, and is compiled for a real one: small `tests.cases`, and what those lack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import numba_nn as nn
from numba_nn.core.device import CUDA
from tests.case import FirstOutput
from tests.cases import CASES

PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, FirstOutput)
MOST = 4000  # elements of an input: a simulated thread takes some microseconds


@dataclass(frozen=True)
class Trial:
    """A layer, made by ``build(dtype)``, and inputs for it, made by ``inputs(dtype)``."""

    name: str
    build: Callable[[Any], nn.Layer]
    inputs: Callable[[Any], tuple[Any, ...]]

    def __str__(self) -> str:
        return self.name

    def run(self, device: Any, dtype: Any = np.float32) -> dict[str, np.ndarray]:
        """Output, input gradients, parameter gradients and buffers of a forward and its backward, on the host again."""
        nn.manual_seed(3)
        layer = self.build(dtype).to(device.name)
        y = layer(*map(device.from_host, self.inputs(dtype)))
        found = {"y": y}
        if any(layer._kept for layer in layer.modules()):
            dy = np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
            dx = layer.backward(device.from_host(dy))
            found |= {f"dx{i}": one for i, one in enumerate(dx if isinstance(dx, tuple) else (dx,)) if one is not None}
        found |= {f"d{name}": parameter.grad for name, parameter in layer.named_parameters()}
        return {name: device.to_host(array) for name, array in (found | dict(layer.named_arrays())).items()}


def normal(*shapes: tuple[int, ...]) -> Callable[[Any], tuple[np.ndarray, ...]]:
    """Inputs of these shapes."""
    return lambda dtype: tuple(np.random.default_rng(i).standard_normal(s).astype(dtype) for i, s in enumerate(shapes))


def indices(*shape: int, count: int = 10) -> Callable[[Any], tuple[np.ndarray]]:
    """Numbers below ``count``, some of them often."""
    return lambda _: (np.random.default_rng(0).integers(0, count, shape) // 2 * 2,)


def frozen(layer: nn.Layer) -> nn.Layer:
    """A Sequential that is trained, with a layer in eval mode, whose running statistics are what a batch left."""
    layer(np.random.default_rng(5).standard_normal((6, 3, 4, 5)).astype(layer.dtype))
    layer.backward(np.zeros((6, 3, 4, 5), layer.dtype))
    model = nn.Sequential(layer, nn.ReLU())
    layer.eval()
    return model


EXTRAS = [
    Trial("dropout", lambda _: nn.Dropout(0.3), normal((7, 31))),
    Trial("dropout all", lambda _: nn.Dropout(1.0), normal((3, 5))),
    Trial("dropout, eval mode", lambda _: nn.Dropout(0.3).eval(), normal((3, 5))),
    Trial("dropout, frozen", lambda _: nn.Sequential(nn.ReLU(), nn.Dropout(0.3).eval()), normal((3, 5))),
    Trial("channel dropout", lambda _: nn.Dropout2d(0.3), normal((5, 3, 2, 4))),
    Trial("channel dropout of runs", lambda _: nn.Dropout1d(0.3), normal((2, 3, 300))),
    Trial("embedding", lambda t: nn.Embedding(10, 70, padding_idx=2, dtype=t), indices(4, 6)),
    Trial("embedding, narrow", lambda t: nn.Embedding(10, 3, dtype=t), indices(41, 2)),
    Trial("embedding, int32", lambda t: nn.Embedding(9, 5, dtype=t), lambda _: (np.arange(9, dtype=np.int32),)),
    Trial("concatenate channels", lambda _: nn.Concatenate(), normal((2, 3, 4), (2, 1, 4), (2, 5, 4))),
    Trial("concatenate rows", lambda _: nn.Concatenate(0), normal((2, 3), (5, 3))),
    Trial("add", lambda _: nn.Add(), normal((3, 5), (3, 5), (3, 5))),
    Trial("multiply", lambda _: nn.Multiply(), normal((3, 5), (3, 5), (3, 5))),
    Trial("batch norm, frozen", lambda t: frozen(nn.BatchNorm2d(3, dtype=t)), normal((2, 3, 4, 5))),
    Trial("batch norm, eval mode", lambda t: nn.BatchNorm1d(3, momentum=None, dtype=t).eval(), normal((4, 3))),
    Trial("batch norm of large numbers", lambda t: nn.BatchNorm1d(3, dtype=t), lambda t: (normal((70, 3))(t)[0] + t(100),)),
    Trial("pooling and ReLU", lambda _: nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Tanh()), normal((1, 2, 5, 6))),
    Trial("global pooling", lambda _: nn.Sequential(nn.GlobalMaxPool2d(), nn.Sigmoid()), normal((2, 3, 7, 9))),
    Trial("softmax in a model", lambda _: nn.Sequential(nn.Softmax(1), nn.Softmax(1)).eval(), normal((3, 70))),
]
PRODUCT_TRIALS = [
    Trial("linear", lambda t: nn.Linear(7, 5, dtype=t), normal((3, 7))),
    Trial("linear without bias", lambda t: nn.Linear(3, 66, bias=False, dtype=t), normal((2, 35, 3))),
    Trial("linear of one row", lambda t: nn.Linear(4, 4, dtype=t), normal((1, 4))),
    Trial("conv2d", lambda t: nn.Conv2d(3, 5, 3, padding=1, dtype=t), normal((2, 3, 6, 7))),
    Trial("conv2d of strides", lambda t: nn.Conv2d(2, 3, (3, 2), (2, 3), dilation=(1, 2), dtype=t), normal((1, 2, 9, 8))),
    Trial("conv2d of groups", lambda t: nn.Conv2d(4, 6, 3, groups=2, dtype=t), normal((2, 4, 5, 5))),
    Trial("conv2d of one pixel", lambda t: nn.Conv2d(5, 2, 1, bias=False, dtype=t), normal((2, 5, 3, 3))),
    Trial("conv1d", lambda t: nn.Conv1d(2, 3, 4, padding=2, dtype=t), normal((2, 2, 9))),
    Trial("depthwise", lambda t: nn.Conv2d(3, 3, 3, padding=1, groups=3, dtype=t), normal((1, 3, 5, 6))),
    Trial(
        "a classifier",
        lambda t: nn.Sequential(
            nn.Conv2d(1, 4, 3, dtype=t), nn.BatchNorm2d(4, dtype=t), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(16, 3, dtype=t), nn.Tanh(),
        ),
        normal((2, 1, 6, 6)),
    ),
]  # fmt: skip
"""Layers of matrix products: a simulated tile takes a third of a second."""

TRIALS = [
    *(
        Trial(str(case), case.build, lambda t, case=case: (case.x(t),))
        for case in CASES
        if np.prod(case.x_shape) <= MOST and not issubclass(case.layer, PRODUCTS)
    ),
    *EXTRAS,
]


def run_for_launches(dtype: Any) -> None:
    """Everything once; for what does no arithmetic but takes note of the launches."""
    for trial in TRIALS:
        trial.run(CUDA, dtype)
    norm = nn.BatchNorm2d(3, dtype=dtype).to("cuda")
    norm.fold(CUDA.zeros((3,), dtype))
    pool = nn.MaxPool2d(2, return_indices=True)
    pool(CUDA.zeros((1, 1, 4, 4), dtype))

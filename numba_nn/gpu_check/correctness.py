"""Layers, losses and optimisers on the GPU, against the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import numba_nn as nn
from numba_nn.core.cuda.narrow import FORMS
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.device import CUDA, device_of

EXACT, IN_FLOAT64, TENSOR_CORES, SIXTEEN_BITS = 2e-4, 1e-10, 5e-3, 0.02
"""Of the largest number; tensor cores round float32 to 11 significant bits, bfloat16 has 8."""


@dataclass(frozen=True)
class LayerCase:
    """A layer and the shape of its input; whole numbers below ``indices`` go in where that is not 0.

    ``gradients``: whether they are compared. Where rounding turns a choice (the sign of what a ReLU gets, the largest of a
    window), theirs jump and outputs do not.
    """

    name: str
    make: Callable[[], nn.Layer]
    x_shape: tuple[int, ...]
    tolerance: float = EXACT
    indices: int = 0
    dtype: type = np.float32
    gradients: bool = True

    def compare(self) -> dict[str, Any]:
        """Output and all gradients, on both devices."""
        x = batch(np.random.default_rng(0), self.x_shape, self.indices, self.dtype)
        return compare_layers(self.make(), x, self.tolerance, self.gradients)


def compare_layers(host: nn.Layer, x: Any, tolerance: float, gradients: bool = True) -> dict[str, Any]:
    """Output and all gradients, on the CPU and of a copy on the GPU."""
    device = copy.deepcopy(host).to("cuda")
    y = host(x)
    dy = np.random.default_rng(1).standard_normal(y.shape, dtype=y.dtype)
    pairs: dict[str, tuple[Any, Any]] = {"y": (y, device(CUDA.from_host(x)))}
    dx = host.backward(dy), device.backward(CUDA.from_host(dy))
    if gradients and dx[0] is not None:
        pairs["dx"] = dx
    for (name, p), (_, q) in zip(host.named_parameters(), device.named_parameters(), strict=True):
        if gradients:
            pairs[name] = p.grad, q.grad
    return judged({name: difference(a, CUDA.to_host(b)) for name, (a, b) in pairs.items()}, tolerance)


def perceptron() -> nn.Layer:
    """For 20 numbers and five classes."""
    return nn.Sequential(nn.Linear(20, 33), nn.Tanh(), nn.Linear(33, 5))


def smooth() -> nn.Layer:
    """Convolutions without a choice that rounding could turn, as maximum pooling makes one."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Tanh(), nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.SiLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(192, 5),
    )  # fmt: skip


def mixed(make: Callable[[], nn.Layer], form: str, loss_scale: Any = "auto") -> nn.Layer:
    """A model in 16 bits."""
    return nn.MixedPrecision(make(), form, loss_scale)


@dataclass(frozen=True)
class TrainingCase:
    """Some steps of training; parameters and losses are compared. ``stream`` makes one for the device."""

    name: str
    optimizer: Callable[[Any], Any]
    build: Callable[[], Any] = perceptron
    indices: int = 0
    stream: Callable[[], Any] = lambda: None
    steps: int = 5
    tolerance: float = TENSOR_CORES

    def compare(self) -> dict[str, Any]:
        """Losses of all steps, and parameters after them, on both devices."""
        rng = np.random.default_rng(0)
        host = self.build()
        device = copy.deepcopy(host).to("cuda", self.stream())
        steps = [
            nn.TrainStep(model, nn.CrossEntropyLoss(), self.optimizer(model.parameters()), (16, 20)) for model in (host, device)
        ]
        losses = []
        for _ in range(self.steps):
            x, target = batch(rng, (16, 20), self.indices), rng.integers(0, 5, 16)
            losses.append((steps[0](x, target), steps[1](CUDA.from_host(x), CUDA.from_host(target))))
        here, there = np.array(losses).T
        found = {"loss": difference(here, there)}
        for (name, p), (_, q) in zip(host.named_parameters(), device.named_parameters(), strict=True):
            found[name] = difference(p.value, CUDA.to_host(q.value))
        return judged(found, self.tolerance)


@dataclass(frozen=True)
class ContractCase:
    """A configuration of the tests: ``case`` has ``build(dtype)`` and ``x(dtype)``. Products are exact, as floats go."""

    case: Any
    dtype: Any = np.float32

    def compare(self) -> dict[str, Any]:
        """Output and all gradients, on both devices."""
        before = nn.get_precision()
        nn.set_precision("exact")
        try:
            tolerance = EXACT if self.dtype is np.float32 else IN_FLOAT64
            return compare_layers(self.case.build(self.dtype), self.case.x(self.dtype), tolerance)
        finally:
            nn.set_precision(before)


@dataclass(frozen=True)
class LossCase:
    """A loss of 1,000 predictions, or of rows of 12 scores: its value, and its gradient."""

    name: str
    make: Callable[[], nn.Loss]
    of_classes: bool = False

    def compare(self) -> dict[str, Any]:
        """On both devices."""
        rng = np.random.default_rng(0)
        x, target = rng.random((2, 100, 10), dtype=np.float32)
        if self.of_classes:
            x, target = rng.standard_normal((300, 12), dtype=np.float32), rng.integers(0, 12, 300)
        found = []
        for given in ((x, target), (CUDA.from_host(x), CUDA.from_host(target))):
            loss = self.make()
            value = np.array([loss.forward(*given)])
            found.append((value, device_of(given[0]).to_host(loss.backward())))
        (value, dx), (other, other_dx) = found
        return judged({"loss": difference(value, other), "dx": difference(dx, other_dx)}, EXACT)


def batch(rng: np.random.Generator, shape: tuple[int, ...], indices: int, dtype: Any = np.float32) -> Any:
    """Normal numbers, or whole ones below ``indices`` where that is not 0."""
    return rng.integers(0, indices, shape) if indices else rng.standard_normal(shape, dtype=dtype)


def difference(expected: Any, got: Any) -> float:
    """The largest difference, relative to the largest number; infinite if shapes differ or a NaN came."""
    if expected.shape != got.shape or not np.isfinite(got).all():
        return float("inf")
    if expected.size == 0:
        return 0.0
    return float(np.max(np.abs(got.astype(np.float64) - expected)) / max(1.0, float(np.max(np.abs(expected)))))


def judged(differences: dict[str, float], tolerance: float) -> dict[str, Any]:
    """The differences, and what fails."""
    wrong = [name for name, d in differences.items() if not d <= tolerance]
    rounded = {name: f"{d:.1e}" for name, d in differences.items()}
    return {"differences": rounded, **({"failed": f"{', '.join(wrong)}: more than {tolerance:.0e}"} if wrong else {})}


OF_FLOAT64: tuple[tuple[Callable[..., nn.Layer], tuple[int, ...]], ...] = (
    (partial(nn.Linear, 20, 33), (17, 20)), (partial(nn.Conv2d, 4, 6, 3), (2, 4, 9, 8)), (partial(nn.BatchNorm1d, 9), (40, 9)),
    (lambda dtype: nn.Sequential(nn.LSTM(5, 7, dtype=dtype)), (4, 3, 5)),
)  # fmt: skip
CASES: tuple[LayerCase | LossCase | TrainingCase, ...] = (
    *(LayerCase(f"{make.__name__} {n}", make, (n,))
      for make in (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Sigmoid, nn.Tanh, nn.SiLU, nn.GELU) for n in (1, 1001)),
    *(LayerCase(f"Linear {b}x{i} -> {o}", partial(nn.Linear, i, o), (b, i), TENSOR_CORES)
      for b, i, o in ((1, 4, 4), (33, 65, 31), (128, 256, 512))),
    LayerCase("Conv2d 3x3", lambda: nn.Conv2d(16, 24, 3, padding=1), (2, 16, 13, 11), TENSOR_CORES),
    LayerCase("Conv2d 1x1", lambda: nn.Conv2d(64, 32, 1), (3, 64, 7, 7), TENSOR_CORES),
    LayerCase("Conv2d 5x5 stride 2", lambda: nn.Conv2d(3, 8, 5, stride=2, dilation=2), (2, 3, 30, 25), TENSOR_CORES),
    LayerCase("Conv2d groups", lambda: nn.Conv2d(12, 24, 3, groups=3), (2, 12, 9, 9), TENSOR_CORES),
    LayerCase("Conv2d depthwise", lambda: nn.Conv2d(32, 32, 3, padding=1, groups=32), (2, 32, 9, 9), TENSOR_CORES),
    LayerCase("Conv1d", lambda: nn.Conv1d(8, 16, 3, padding=1), (2, 8, 57), TENSOR_CORES),
    LayerCase("MaxPool2d", lambda: nn.MaxPool2d(2), (2, 5, 14, 15)),
    LayerCase("MaxPool2d 3 stride 2", lambda: nn.MaxPool2d(3, 2, 1), (2, 5, 14, 15)),
    LayerCase("AvgPool2d", lambda: nn.AvgPool2d(3, 2, 1), (2, 5, 14, 15)),
    LayerCase("AdaptiveAvgPool2d", lambda: nn.AdaptiveAvgPool2d(1), (2, 5, 14, 15)),
    LayerCase("BatchNorm2d", lambda: nn.BatchNorm2d(7), (4, 7, 9, 8)),
    LayerCase("Softmax", lambda: nn.Softmax(1), (33, 1000)),
    LayerCase("LogSoftmax", lambda: nn.LogSoftmax(1), (33, 1000)),
    LayerCase("Upsample", lambda: nn.Upsample(scale_factor=2), (2, 3, 8, 9)),
    LayerCase("Embedding", lambda: nn.Embedding(50, 12), (7, 9), indices=50),
    LayerCase("LSTM", lambda: nn.Sequential(nn.LSTM(12, 20, 2, bidirectional=True)), (5, 3, 12), TENSOR_CORES),
    LayerCase("LSTM batch first", lambda: nn.Sequential(nn.LSTM(40, 70, batch_first=True)), (33, 6, 40), TENSOR_CORES),
    LayerCase("Autoencoder", nn.models.Autoencoder, (2, 3, 16, 16), TENSOR_CORES, gradients=False),
    LayerCase("convolutions", smooth, (2, 3, 16, 16), TENSOR_CORES),
    *(LayerCase(f"float64, case {i}", partial(make, dtype=np.float64), shape, IN_FLOAT64, dtype=np.float64)
      for i, (make, shape) in enumerate(OF_FLOAT64)),
    *(LayerCase(f"convolutions in {form}", partial(mixed, smooth, form, 1.0), (2, 3, 16, 16), SIXTEEN_BITS) for form in FORMS),
    *(LossCase(make.__name__, make) for make in (nn.MSELoss, nn.L1Loss, nn.BCELoss, nn.BCEWithLogitsLoss)),
    *(LossCase(make.__name__, make, of_classes=True) for make in (nn.CrossEntropyLoss, nn.NLLLoss)),
    *(TrainingCase(f"Adam in {form}", nn.optim.Adam, partial(mixed, perceptron, form), tolerance=SIXTEEN_BITS)
      for form in FORMS),
    TrainingCase("SGD", lambda p: nn.optim.SGD(p, lr=0.1, momentum=0.9)),
    TrainingCase("Adam", lambda p: nn.optim.Adam(p)),
    TrainingCase("AdamW", lambda p: nn.optim.AdamW(p)),
    TrainingCase("SGD on a stream", nn.optim.SGD, stream=lambda: cuda.stream()),
    TrainingCase("SGD of rows", nn.optim.SGD, lambda: nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(80, 5)), 9),
)  # fmt: skip

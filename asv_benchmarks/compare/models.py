"""Models that are compared, made of either library's parts (see `layers.Make`)."""

from __future__ import annotations

import itertools
from typing import Any


def autoencoder(lib: Any) -> Any:
    """`numba_nn.models.Autoencoder`, and the same of PyTorch's layers."""
    if hasattr(lib, "models"):
        return lib.models.Autoencoder()
    return lib.Sequential(
        lib.Conv2d(3, 256, 3, padding=1), lib.ReLU(), lib.MaxPool2d(2),
        lib.Conv2d(256, 128, 3, padding=1), lib.ReLU(), lib.MaxPool2d(2),
        lib.Conv2d(128, 128, 3, padding=1), lib.ReLU(), lib.Upsample(scale_factor=2),
        lib.Conv2d(128, 256, 3, padding=1), lib.ReLU(), lib.Upsample(scale_factor=2),
        lib.Conv2d(256, 3, 3, padding=1),
    )  # fmt: skip


def perceptron(lib: Any, sizes: tuple[int, ...], activation: str) -> Any:
    """Linear layers with an activation between them."""
    parts: list[Any] = []
    for inputs, outputs in itertools.pairwise(sizes):
        parts += [lib.Linear(inputs, outputs), getattr(lib, activation)()]
    return lib.Sequential(*parts[:-1])


def residual_convolutions(lib: Any, channels: int) -> Any:
    """The convolutions, normalisations and ReLUs of a ResNet-18 block, without the sum."""

    def part() -> list[Any]:
        return [lib.Conv2d(channels, channels, 3, padding=1, bias=False), lib.BatchNorm2d(channels), lib.ReLU()]

    return lib.Sequential(*part(), *part())

"""Losses: forward and backward with destinations, after `reserve`."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from .common import Benchmark, feature, normal


class LossBenchmark(Benchmark):
    """The loss of the class's name; ``configurations`` gives the shape of the prediction."""

    def prepare(self, nn: ModuleType, *shape: int) -> None:
        self.loss = feature(nn, type(self).__name__)().reserve(shape)
        self.prediction, self.target = self.normal(shape), self.device.from_host(self.draw_target(shape))
        self.value, self.gradient = self.empty((1,)), self.empty(shape)

    def draw_target(self, shape: tuple[int, ...]) -> np.ndarray:
        """Numbers, unless the loss is one of classes."""
        return normal(shape)

    def call(self) -> None:
        self.loss.forward(self.prediction, self.target, out=self.value)
        self.loss.backward(out=self.gradient)

    def time_forward(self, *_: Any) -> None:
        self.loss.forward(self.prediction, self.target, out=self.value)
        self.device.wait()

    def time_forward_backward(self, *_: Any) -> None:
        self.call()
        self.device.wait()


class MSELoss(LossBenchmark):
    configurations = {"[32,512]": (32, 512)}


class BCEWithLogitsLoss(LossBenchmark):
    configurations = {"[32,512]": (32, 512)}


class CrossEntropyLoss(LossBenchmark):
    configurations = {"[32,10]": (32, 10), "[256,1000]": (256, 1000), "[4,21,64,64]": (4, 21, 64, 64)}

    def draw_target(self, shape: tuple[int, ...]) -> np.ndarray:
        """A class for each row."""
        return np.random.default_rng(0).integers(0, shape[1], (shape[0], *shape[2:]))

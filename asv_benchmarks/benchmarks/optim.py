"""Optimisers' steps, and clipping by norm: over the parameters of Linears 1000-500-200-50-10, and over one of a million."""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

from .common import Benchmark, feature, normal

PERCEPTRON = [shape for i, o in itertools.pairwise((1000, 500, 200, 50, 10)) for shape in ((o, i), (o,))]
MILLION = [(1_000_000,)]


class UpdateBenchmark(Benchmark):
    """The class of this name in `numba_nn.optim`; ``configurations`` gives the parameters' shapes and its arguments."""

    def prepare(self, nn: ModuleType, shapes: list[tuple[int, ...]], arguments: dict[str, Any]) -> None:
        parameters = [feature(nn, "Parameter")(normal(shape)) for shape in shapes]
        for parameter in parameters:
            parameter.grad[...] = parameter.value
            self.device.move(parameter)
        self.step = self.method(feature(nn.optim, type(self).__name__)(parameters, **arguments))

    def method(self, made: Any) -> Any:
        """What is called."""
        return made.step

    def call(self) -> None:
        self.step()

    def time_step(self, *_: Any) -> None:
        self.step()
        self.device.wait()


class SGD(UpdateBenchmark):
    configurations = {"1000-500-200-50-10": (PERCEPTRON, {"momentum": 0.9}), "1 M": (MILLION, {"momentum": 0.9})}


class Adam(UpdateBenchmark):
    configurations = {"1000-500-200-50-10": (PERCEPTRON, {}), "1 M": (MILLION, {})}


class ClipNorm(UpdateBenchmark):
    # The norm is 0.1 sqrt(n): the first call scales the gradients down, those that are timed only measure them.
    configurations = {"1000-500-200-50-10": (PERCEPTRON, {"max_norm": 1.0}), "1 M": (MILLION, {"max_norm": 1.0})}

    def method(self, made: Any) -> Any:
        return made

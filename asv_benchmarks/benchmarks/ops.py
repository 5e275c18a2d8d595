"""Operations on arrays, with destinations."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from .common import Benchmark, feature


class Operation(Benchmark):
    """The operation ``name``; ``configurations`` gives the shapes of its operands and its other arguments."""

    name: str

    def prepare(self, nn: ModuleType, shapes: tuple[tuple[int, ...], ...], options: dict[str, Any]) -> None:
        self.run, self.options = feature(feature(nn, "ops"), self.name), options
        self.operands = [self.normal(shape) for shape in shapes]
        self.out = self.run(*self.operands, **options)

    def call(self) -> None:
        self.run(*self.operands, **self.options, out=self.out)

    def time_call(self, *_: Any) -> None:
        self.call()
        self.device.wait()


class Add(Operation):
    name = "add"
    configurations = {"[1000,1000] + [1000,1000]": (((1000, 1000), (1000, 1000)), {})}


class Exp(Operation):
    name = "exp"
    configurations = {"[1000,1000]": (((1000, 1000),), {})}


class Sum(Operation):
    name = "sum"
    configurations = {
        f"{list(shape)} axis {axis}": ((shape,), {"axis": axis})
        for shape, axis in (((1000, 1000), 0), ((1000, 1000), 1), ((64, 64, 32, 32), 1), ((100_000, 10), 1))
    }


class ArgMax(Operation):
    name = "argmax"
    configurations = {"[1000,1000] axis 1": (((1000, 1000),), {"axis": 1})}


class Im2col(Operation):
    name = "im2col"
    configurations = {"[32,64,28,28] kernel 3": (((32, 64, 28, 28),), {"kernel_size": 3, "padding": 1})}


class ScatterAdd(Benchmark):
    configurations = {"[4096,64] rows of 1000": (1000, 4096, 64)}

    def prepare(self, nn: ModuleType, rows: int, count: int, size: int) -> None:
        self.scatter_add = feature(feature(nn, "ops"), "scatter_add")
        self.out, self.x = self.normal((rows, size)), self.normal((count, size))
        self.indices = self.device.from_host(np.random.default_rng(0).integers(0, rows, count))

    def call(self) -> None:
        self.scatter_add(self.out, self.indices, self.x)

    def time_call(self, *_: Any) -> None:
        self.call()
        self.device.wait()

"""Functions of `ops` that run on the simulated GPU, and are compiled for a real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from trials import indices, normal

from numba_nn import ops


@dataclass(frozen=True)
class OpTrial:
    """A function of arrays, and arrays for it, made by ``inputs(dtype)``."""

    name: str
    call: Callable[..., Any]
    inputs: Callable[[Any], tuple[np.ndarray, ...]]

    def __str__(self) -> str:
        return self.name

    def run(self, device: Any, dtype: Any = np.float32, values: Any = None) -> np.ndarray:
        """The result, on the host again; ``values``: a dtype that holds the numbers of all inputs, by default the dtype."""
        given = [a.astype(values or dtype).astype(dtype) if a.dtype.kind == "f" else a for a in self.inputs(np.float64)]
        result: np.ndarray = device.to_host(self.call(*map(device.from_host, given)))
        return result


def positive(shape: tuple[int, ...]) -> Callable[[Any], tuple[np.ndarray, ...]]:
    """An input of numbers above 0.1."""
    return lambda dtype: (np.abs(normal(shape)(dtype)[0]) + 0.1,)


ONE = ("negative", "absolute", "square", "exp", "tanh", "sigmoid")
TWO = ("add", "subtract", "multiply", "maximum", "minimum")
ELEMENTWISE = [
    *(OpTrial(name, getattr(ops, name), normal((3, 37))) for name in ONE),
    *(OpTrial(name, getattr(ops, name), positive((3, 37))) for name in ("sqrt", "log")),
    *(OpTrial(name, getattr(ops, name), normal((3, 37), (3, 37))) for name in TWO),
    OpTrial("divide", lambda a, b: ops.divide(a, ops.exp(b)), normal((3, 37), (3, 37))),
    OpTrial("a number first", lambda a: ops.subtract(2, a), normal((5, 3))),
    OpTrial("a number last", lambda a: ops.multiply(a, 0.3), normal((5, 3))),
    OpTrial("a row for all", ops.add, normal((4, 5), (5,))),
    OpTrial("a column and a row", ops.multiply, normal((3, 1), (1, 5))),
    OpTrial("rows for all", lambda a, b: ops.add(a, b[:, :1]), normal((2, 3, 8), (2, 3, 8))),
    OpTrial("every other column", lambda a: ops.negative(a[:, ::2]), normal((4, 10))),
    OpTrial("of no dimension", ops.add, normal((), (4,))),
    OpTrial("of no element", ops.add, normal((0, 3), (3,))),
]
NAMES = ("sum", "mean", "max", "min", "argmax", "argmin")
ORDERS = {"norm of order 1": 1, "norm": 2, "largest norm": np.inf}
REDUCTIONS = [
    *(OpTrial(f"{name} of all", getattr(ops, name), normal((3, 130))) for name in NAMES),
    *(OpTrial(f"{name} of rows", lambda x, name=name: getattr(ops, name)(x, 1), normal((35, 9))) for name in NAMES),
    *(OpTrial(f"{name} of columns", lambda x, name=name: getattr(ops, name)(x, 0), normal((300, 5))) for name in NAMES),
    *(OpTrial(name, lambda x, order=order: ops.norm(x, order), normal((7, 11))) for name, order in ORDERS.items()),
    OpTrial("sum over axes that lie apart", lambda x: ops.sum(x, (0, 2), keepdims=True), normal((3, 4, 5))),
    OpTrial("sum over the first of two", lambda x: ops.sum(x, (0, -1)), normal((3, 1, 4, 8))),
    OpTrial("sum of a number", ops.sum, normal(())),
    OpTrial("sum of nothing", lambda x: ops.sum(x, 0), normal((0, 3))),
    OpTrial("sum of several blocks", ops.sum, normal((9000,))),
    OpTrial("argmin of several blocks", ops.argmin, normal((9001,))),
    OpTrial("largest of several blocks", lambda x: ops.max(x, 1), normal((2, 700, 17))),
    OpTrial("its position", lambda x: ops.argmax(x, 1), normal((2, 700, 17))),
]
ROWS = [
    OpTrial("take", ops.take, lambda t: (*normal((7, 2, 3))(t), *indices(3, 4, count=7)(t))),
    OpTrial("take windows", ops.take, lambda t: (*normal((9, 8))(t), np.arange(9, dtype=np.int32)[::-1].copy())),
    OpTrial("scatter_add", ops.scatter_add, lambda t: (*normal((7, 5))(t), *indices(40, count=7)(t), *normal((40, 5))(t))),
    OpTrial("scatter_add to numbers", ops.scatter_add, lambda t: (*normal((4,))(t), *indices(9, count=4)(t), *normal((9,))(t))),
]
GEOMETRIES = [
    ((2, 3, 5, 6), (3, 1, 0, 1)),
    ((1, 2, 6, 8), (1, 1, 0, 1)),
    ((2, 3, 5, 6), ((2, 3), (2, 1), (1, 2), (1, 2))),
    ((1, 1, 1, 1), (1, 1, 0, 1)),
    ((1, 3, 9, 7), (5, 3, 2, 1)),
]  # of images; kernel size, stride, padding and dilation


def patches(number: int) -> tuple[OpTrial, OpTrial]:
    """`im2col` and `col2im` of a geometry."""
    shape, steps = GEOMETRIES[number]
    columns = ops.im2col(np.zeros(shape), *steps).shape
    return (
        OpTrial(f"im2col {number}", lambda x: ops.im2col(x, *steps), normal(shape)),
        OpTrial(f"col2im {number}", lambda x: ops.col2im(x, shape[2:], *steps), normal(columns)),
    )


PATCHES = [trial for number in range(len(GEOMETRIES)) for trial in patches(number)]
OP_TRIALS = [*ELEMENTWISE, *REDUCTIONS, *ROWS, *PATCHES]

"""Functions of `ops` on the GPU, against the CPU.

The tests run the same cases on a simulated GPU, and compile what they launch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from numba_nn import ops
from numba_nn.core.cuda.narrow import FORMS, narrow_dtype, wide
from numba_nn.core.device import CPU, CUDA
from numba_nn.gpu_check.correctness import EXACT, IN_FLOAT64, SIXTEEN_BITS, difference, judged

Inputs = Callable[[Any], tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class OpCase:
    """A function of arrays, and arrays for it, made by ``inputs(dtype)``; floats are compared in ``dtype``."""

    name: str
    call: Callable[..., Any]
    inputs: Inputs
    dtype: Any = np.float32
    tolerance: float = EXACT

    def __str__(self) -> str:
        return f"{self.name} in {getattr(self.dtype, '__name__', self.dtype)}"

    def run(self, device: Any, dtype: Any = np.float32, values: Any = None) -> np.ndarray:
        """The result, on the host again; ``values``: a dtype that holds the numbers of all inputs, by default the dtype."""
        given = [a.astype(values or dtype).astype(dtype) if a.dtype.kind == "f" else a for a in self.inputs(np.float64)]
        result: np.ndarray = device.to_host(self.call(*map(device.from_host, given)))
        return result

    def compare(self) -> dict[str, Any]:
        """The result, on both devices; the CPU computes in float32 what has 16 bits."""
        dtype = narrow_dtype(self, self.dtype) if self.dtype in FORMS else np.dtype(self.dtype)
        expected = self.run(CPU, wide(dtype), values=dtype)
        return judged({"result": difference(expected, self.run(CUDA, dtype))}, self.tolerance)


def normal(*shapes: tuple[int, ...]) -> Inputs:
    """Inputs of these shapes."""
    return lambda dtype: tuple(np.random.default_rng(i).standard_normal(s).astype(dtype) for i, s in enumerate(shapes))


def indices(*shape: int, count: int = 10) -> Inputs:
    """Numbers below ``count``, some of them often."""
    return lambda _: (np.random.default_rng(0).integers(0, count, shape) // 2 * 2,)


def positive(shape: tuple[int, ...]) -> Inputs:
    """An input of numbers above 0.1."""
    return lambda dtype: (np.abs(normal(shape)(dtype)[0]) + 0.1,)


ONE = ("negative", "absolute", "square", "exp", "tanh", "sigmoid")
TWO = ("add", "subtract", "multiply", "maximum", "minimum")
ELEMENTWISE = [
    *(OpCase(name, getattr(ops, name), normal((3, 37))) for name in ONE),
    *(OpCase(name, getattr(ops, name), positive((3, 37))) for name in ("sqrt", "log")),
    *(OpCase(name, getattr(ops, name), normal((3, 37), (3, 37))) for name in TWO),
    *(OpCase(f"{name} of columns", getattr(ops, name), normal((3, 1, 2), (3, 4, 1))) for name in TWO),
    OpCase("divide by a number", lambda a: ops.divide(a, 3), normal((5, 3))),
    OpCase("divide", lambda a, b: ops.divide(a, ops.exp(b)), normal((3, 37), (3, 37))),
    OpCase("a number first", lambda a: ops.subtract(2, a), normal((5, 3))),
    OpCase("a number last", lambda a: ops.multiply(a, 0.3), normal((5, 3))),
    OpCase("a row for all", ops.add, normal((4, 5), (5,))),
    OpCase("a column and a row", ops.multiply, normal((3, 1), (1, 5))),
    OpCase("rows for all", lambda a, b: ops.add(a, b[:, :1]), normal((2, 3, 8), (2, 3, 8))),
    OpCase("every other column", lambda a: ops.negative(a[:, ::2]), normal((4, 10))),
    OpCase("of no dimension", ops.add, normal((), (4,))),
    OpCase("of no element", ops.add, normal((0, 3), (3,))),
]
NAMES = ("sum", "mean", "max", "min", "argmax", "argmin")
ORDERS = {"norm of order 1": 1, "norm": 2, "largest norm": np.inf}
REDUCTIONS = [
    *(OpCase(f"{name} of all", getattr(ops, name), normal((3, 130))) for name in NAMES),
    *(OpCase(f"{name} of rows", lambda x, name=name: getattr(ops, name)(x, 1), normal((35, 9))) for name in NAMES),
    *(OpCase(f"{name} of columns", lambda x, name=name: getattr(ops, name)(x, 0), normal((300, 5))) for name in NAMES),
    *(OpCase(name, lambda x, order=order: ops.norm(x, order), normal((7, 11))) for name, order in ORDERS.items()),
    OpCase("sum over axes that lie apart", lambda x: ops.sum(x, (0, 2), keepdims=True), normal((3, 4, 5))),
    OpCase("sum over the first of two", lambda x: ops.sum(x, (0, -1)), normal((3, 1, 4, 8))),
    OpCase("sum of a number", ops.sum, normal(())),
    OpCase("sum of nothing", lambda x: ops.sum(x, 0), normal((0, 3))),
    OpCase("sum of several blocks", ops.sum, normal((9000,))),
    OpCase("argmin of several blocks", ops.argmin, normal((9001,))),
    OpCase("largest of several blocks", lambda x: ops.max(x, 1), normal((2, 700, 17))),
    OpCase("its position", lambda x: ops.argmax(x, 1), normal((2, 700, 17))),
]
ROWS = [
    OpCase("take", ops.take, lambda t: (*normal((7, 2, 3))(t), *indices(3, 4, count=7)(t))),
    OpCase("take windows", ops.take, lambda t: (*normal((9, 8))(t), np.arange(9, dtype=np.int32)[::-1].copy())),
    OpCase("scatter_add", ops.scatter_add, lambda t: (*normal((7, 5))(t), *indices(40, count=7)(t), *normal((40, 5))(t))),
    OpCase("scatter_add to numbers", ops.scatter_add, lambda t: (*normal((4,))(t), *indices(9, count=4)(t), *normal((9,))(t))),
]
GEOMETRIES = [
    ((2, 3, 5, 6), (3, 1, 0, 1)),
    ((1, 2, 6, 8), (1, 1, 0, 1)),
    ((2, 3, 5, 6), ((2, 3), (2, 1), (1, 2), (1, 2))),
    ((1, 1, 1, 1), (1, 1, 0, 1)),
    ((1, 3, 9, 7), (5, 3, 2, 1)),
]  # of images; kernel size, stride, padding and dilation


def patches(number: int) -> tuple[OpCase, OpCase]:
    """`im2col` and `col2im` of a geometry."""
    shape, steps = GEOMETRIES[number]

    def columns(dtype: Any) -> tuple[np.ndarray, ...]:
        return normal(ops.im2col(np.zeros(shape), *steps).shape)(dtype)

    return (
        OpCase(f"im2col {number}", lambda x: ops.im2col(x, *steps), normal(shape)),
        OpCase(f"col2im {number}", lambda x: ops.col2im(x, shape[2:], *steps), columns),
    )


PATCHES = [case for number in range(len(GEOMETRIES)) for case in patches(number)]
OPERATIONS = [*ELEMENTWISE, *REDUCTIONS, *ROWS, *PATCHES]
IN_OTHERS: dict[Any, float] = {np.float64: IN_FLOAT64, **dict.fromkeys(FORMS, SIXTEEN_BITS)}
CASES = [*OPERATIONS, *(replace(case, dtype=t, tolerance=e) for t, e in IN_OTHERS.items() for case in OPERATIONS[::5])]
"""All in float32, and every fifth in each of the other dtypes."""

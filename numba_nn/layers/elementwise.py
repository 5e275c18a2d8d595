"""Layers that treat every element alike: what `numba_nn.layers.activation` builds on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.checks import check_flag
from numba_nn.core.kernel import Kernel
from numba_nn.core.layer import Layer
from numba_nn.core.workspace import Shape
from numba_nn.layers.from_output import FromOutput


class Elementwise(Layer):
    """A layer whose output has its input's shape; it names its kernels, and the scalars that they take."""

    _run_forward: Kernel
    _run_backward: Kernel
    slope = 0.0
    _scalars: tuple[float, ...] = ()

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output: the input's, whatever it is."""
        return x_shape

    def _geometry(self, x_shape: Shape, dtype: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The kernels, for this much work."""
        work = math.prod(x_shape)
        return self._run_forward.for_work(work, self.device), self._run_backward.for_work(work, self.device)


class FromInput(Elementwise):
    """Backward needs the input; after an epilogue the output in its place, which has its sign or is its limit."""

    keeps_input = True

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        check_flag(type(self).__name__, "inplace", inplace)

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        call.geometry[0](y.ravel(), x.ravel(), *self._scalars)

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if dx is not None:
            call.geometry[1](dx.ravel(), x.ravel(), dy.ravel(), *self._scalars)


class ElementwiseFromOutput(FromOutput, Elementwise):
    """Backward needs the output."""

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        call.geometry[0](y.ravel(), self._room(call, y, saved), x.ravel())

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if dx is not None:
            call.geometry[1](dx.ravel(), saved["y"].ravel(), dy.ravel())

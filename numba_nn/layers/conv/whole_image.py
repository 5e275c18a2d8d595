"""Convolution with taps as large as the image: a linear layer, whose features are (channel, tap).

Images of one pixel are the usual case, as in squeeze-and-excitation blocks: tiles of pixels would stand empty.
"""

from __future__ import annotations

import math

from numba_nn.core.call import Array, Arrays
from numba_nn.core.parameter import Parameter
from numba_nn.core.product.gemm import packing_pays, product_work
from numba_nn.core.product.packing import pack_columns, panel_sizes
from numba_nn.core.workspace import Spec
from numba_nn.layers.conv.algorithm import Algorithm, Problem
from numba_nn.layers.linear import (
    linear_backward_input,
    linear_backward_weight,
    linear_forward,
    linear_forward_packed,
    operand_room,
)


class WholeImage(Algorithm):
    """One pixel of output from all of the image, in one group."""

    name = "linear"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._sizes = batch, features, depth = problem.x_shape[0], problem.y_shape[1], math.prod(problem.x_shape[1:])
        self._work = product_work(*self._sizes)
        self._packs = packing_pays(batch, features, depth, problem.dtype)

    @classmethod
    def refusal(cls, problem: Problem, one_pass: str = "forward") -> str:
        whole = problem.taps == problem.x_shape[2:] and problem.y_shape[2:] == (1, 1) and problem.padding == (0, 0)
        return "" if whole and problem.groups == 1 else "needs taps as large as the image, no padding, and one group"

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        batch, features, depth = self._sizes
        return operand_room(batch, depth, features, self.problem.dtype)

    def weight(self, scratch: Arrays, parameter: Parameter) -> Array:
        if not (self._packs and parameter.locked):
            return super().weight(scratch, parameter)
        _, features, depth = self._sizes
        room = scratch["right"][: panel_sizes(1, features, depth, self.problem.dtype)[1]]
        return parameter.packed("columns", room, self._pack)

    def _pack(self, panels: Array, weight: Array) -> None:
        pack_columns(panels, weight.reshape(1, -1), *self._sizes[1:])

    def forward(
        self, scratch: Arrays, y: Array, x: Array, weight: Array, scale: Array, shift: Array, activation: int, slope: float
    ) -> None:
        batch, features, depth = self._sizes
        y, x, terms = y.reshape(batch, features), x.reshape(batch, depth), (scale, shift, activation, slope)
        if weight.ndim == 1:
            linear_forward_packed.for_work(self._work)(y, scratch["left"], x, weight, *terms)
        else:
            weight = weight.reshape(features, depth)
            linear_forward.for_work(self._work)(y, scratch["left"], scratch["right"], x, weight, *terms)

    def backward_input(self, scratch: Arrays, dx: Array, dy: Array, weight: Array) -> None:
        batch, features, depth = self._sizes
        linear_backward_input.for_work(self._work)(
            dx.reshape(batch, depth), scratch["left"], scratch["right"], dy.reshape(batch, features),
            weight.reshape(features, depth),
        )  # fmt: skip

    def backward_weight(self, scratch: Arrays, dweight: Array, x: Array, dy: Array) -> None:
        batch, features, depth = self._sizes
        linear_backward_weight.for_work(self._work)(
            dweight.reshape(features, depth), scratch["left"], scratch["right"], x.reshape(batch, depth),
            dy.reshape(batch, features),
        )  # fmt: skip

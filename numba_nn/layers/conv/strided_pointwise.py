"""The input gradient of a convolution by one tap with a stride, as in the shortcuts of residual networks.

It is `Pointwise` on the pixels that the tap sees, spread out, with zeros where no tap was.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.kernel import In, Out, kernel
from numba_nn.core.workspace import Spec
from numba_nn.layers.conv.algorithm import Algorithm, Problem
from numba_nn.layers.conv.pointwise import Pointwise
from numba_nn.layers.image import planes


@kernel
def spread_pixels(dx: Out, taken: In, row_stride: int, column_stride: int):
    """dx[p, h row_stride, w column_stride] = taken[p, h, w], and zero elsewhere."""
    for p in prange(dx.shape[0]):
        for row in range(dx.shape[1]):
            target = dx[p, row]
            for w in range(target.size):
                target[w] = 0
            h = row // row_stride
            if row == h * row_stride and h < taken.shape[1]:
                source = taken[p, h]
                for w in range(source.size):
                    target[np.uintp(w * column_stride)] = source[w]


class StridedPointwise(Algorithm):
    """Input gradient for one tap with a stride, no padding, and channels and pixels enough to fill a tile."""

    name = "pointwise"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._taken = _taken(problem)
        self._pointwise = Pointwise(self._taken)

    @classmethod
    def refusal(cls, problem: Problem, one_pass: str = "forward") -> str:
        if one_pass != "input" or problem.taps != (1, 1) or problem.padding != (0, 0) or problem.stride == (1, 1):
            return "serves the input gradient of one tap with a stride and no padding"
        return Pointwise.refusal(_taken(problem))

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        return {"taken": (self._taken.x_shape, self.problem.dtype), **self._pointwise.scratch_spec(one_pass, workers)}

    def backward_input(self, scratch: Arrays, dx: Array, dy: Array, weight: Array) -> None:
        taken = scratch["taken"]
        self._pointwise.backward_input(scratch, taken, dy, weight)
        spread_pixels.for_work(dx.size)(planes(dx), planes(taken), *self.problem.stride)


def _taken(problem: Problem) -> Problem:
    """The convolution of the pixels that the tap sees."""
    x_shape = *problem.x_shape[:2], *problem.y_shape[2:]
    return dataclasses.replace(problem, x_shape=x_shape, stride=(1, 1))

"""What an algorithm of convolution is to the layers: an object made for one shape, with the three passes and their scratch."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar

from numba_nn.core.call import Array, Arrays
from numba_nn.core.epilogue import neutral_terms
from numba_nn.core.parameter import Parameter
from numba_nn.core.product.gemm import product_work
from numba_nn.core.workspace import Shape, Spec
from numba_nn.layers.image import images

PASSES = "forward", "input", "weight", "inference"
"""The passes of a convolution: output, gradients of input and weights, and the output where weights are packed before."""

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Problem:
    """A convolution of images of one shape; a pair is for height and width.

    Parameters
    ----------
    x_shape, y_shape : tuple of int
        (N, C, H, W) and (N, O, H', W').
    taps, stride, dilation : (int, int)
        Size of the weights, step between output pixels, step between taps.
    padding : (int, int)
        Zeros above and at the left; those below and at the right follow from the output's shape.
    groups : int
        Independent convolutions that the channels are split into.
    dtype : dtype
        float32 or float64.
    """

    x_shape: Shape
    y_shape: Shape
    taps: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    dtype: Any

    @property
    def of_one_image(self) -> Problem:
        """The same for a single image."""
        return dataclasses.replace(self, x_shape=(1, *self.x_shape[1:]), y_shape=(1, *self.y_shape[1:]))

    @property
    def in_one_row(self) -> Problem:
        """The same, where an image is as good as one long row."""
        if self.taps != (1, 1) or self.stride != (1, 1) or self.padding != (0, 0) or self.x_shape[2:] != self.y_shape[2:]:
            return self
        x_shape, y_shape = ((*shape[:2], 1, math.prod(shape[2:])) for shape in (self.x_shape, self.y_shape))
        return dataclasses.replace(self, x_shape=x_shape, y_shape=y_shape)

    @property
    def group_channels(self) -> Pair:
        """Output and input channels of a group."""
        return self.y_shape[1] // self.groups, self.x_shape[1] // self.groups

    @functools.cached_property
    def work(self) -> float:
        """The work of a direct pass in the units of `Kernel.for_work`."""
        depth = self.group_channels[1] * math.prod(self.taps)
        return product_work(self.y_shape[1], self.y_shape[0] * math.prod(self.y_shape[2:]), depth)


class Algorithm:
    """One way to compute a convolution. All arrays are C-contiguous; the contents of scratch are dead between calls."""

    name: ClassVar[str]
    """What it is called; a layer's ``algorithm="direct"`` means all but Winograd's."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.ones, self.zeros, *_ = neutral_terms(problem.x_shape[1], problem.dtype)  # the epilogue of an input gradient

    @classmethod
    def refusal(cls, problem: Problem, one_pass: str = "forward") -> str:
        """Why this algorithm cannot serve a pass, as an error message says it; empty where it can."""
        return ""

    @classmethod
    def cost(cls, problem: Problem, one_pass: str) -> float:
        """The time of a pass, in multiply-adds of a vector, by an estimate; 0 for an algorithm made for such a problem."""
        return 0.0

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        """Shape and dtype of the scratch of one of the `PASSES`, not larger for a smaller batch."""
        raise NotImplementedError

    def weight(self, scratch: Arrays, parameter: Parameter) -> Array:
        """The weights as `forward` reads them: (O, C / groups, kh, kw) as they are, or packed."""
        return images(parameter.memory)

    def forward(
        self, scratch: Arrays, y: Array, x: Array, weight: Array, scale: Array, shift: Array, activation: int, slope: float
    ) -> None:
        """y = activation(scale times convolution of x + shift): see `numba_nn.core.epilogue`.

        y: (N, O, H', W'), x: (N, C, H, W), weight: as `weight` gives it, scale, shift: (O,).
        """
        raise NotImplementedError

    def backward_input(self, scratch: Arrays, dx: Array, dy: Array, weight: Array) -> None:
        """dx = gradient of the input; weight: (O, C / groups, kh, kw)."""
        raise NotImplementedError

    def backward_weight(self, scratch: Arrays, dweight: Array, x: Array, dy: Array) -> None:
        """dweight += gradient of the weights; dweight: as weight."""
        raise NotImplementedError

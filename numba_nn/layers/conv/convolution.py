"""What the convolution layers share. The kernels take images: a signal (N, C, L) is one of height 1."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numba
import numpy as np

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.checks import check_batch, check_count, check_dtype, check_flag, per_axis
from numba_nn.core.epilogue import bias_terms, neutral_terms
from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.core.layer import Layer
from numba_nn.core.parameter import Parameter
from numba_nn.core.precision import get_precision
from numba_nn.core.random import uniform
from numba_nn.core.workspace import Shape, Spec
from numba_nn.layers.conv.algorithm import Pair, Problem
from numba_nn.layers.conv.bias import conv2d_backward_bias
from numba_nn.layers.conv.choice import Passes, check_algorithm, choose, scratch_nbytes, scratch_views
from numba_nn.layers.image import image_shape, images


class ByAlgorithms(Layer):
    """A layer whose passes are made by interchangeable algorithms; a subclass says by which, in `_geometry`."""

    keeps_input = True
    epilogue_role = "product"
    weight: Parameter
    bias: Parameter | None
    out_channels: int

    def scratch_spec(self, x_shape: Shape, dtype: Any) -> dict[str, Spec]:
        """Bytes that the passes share."""
        size = scratch_nbytes(self._geometry(x_shape, dtype), self._workers)
        return {"passes": ((size,), np.dtype(np.uint8))}

    @property
    def _workers(self) -> int:
        """As many as there can be threads: a number that does not change, as that of the threads in use does."""
        return numba.config.NUMBA_NUM_THREADS

    def _allocate(self, call: Call) -> None:
        super()._allocate(call)
        buffer = call.scratch["passes"]
        call.scratch = {mode: scratch_views(passes, self._workers, buffer) for mode, passes in call.geometry.items()}

    def _geometry(self, x_shape: Shape, dtype: Any) -> dict[str, Passes]:
        """The algorithm of every pass, for each precision: it may be switched between a forward and its backward."""
        raise NotImplementedError

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        algorithm, scratch = call.scratch[get_precision()]["inference" if self.weight.locked else "forward"]
        neutral = neutral_terms(self.out_channels, call.dtype, self.device)
        terms = call.epilogue.terms(bias_terms(neutral, self.bias))
        algorithm.forward(scratch, images(y), images(x), algorithm.weight(scratch, self.weight), *terms)

    def _pack_for(self, call: Call) -> None:
        for passes in call.scratch.values() if self.weight.locked else ():  # of both precisions
            algorithm, scratch = passes["inference"]
            algorithm.weight(scratch, self.weight)

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        passes, dy = call.scratch[get_precision()], images(dy)
        if self.weight.requires_grad:
            algorithm, scratch = passes["weight"]
            algorithm.backward_weight(scratch, images(self.weight.grad), images(x), dy)
        if self.bias and self.bias.requires_grad:
            run = conv2d_backward_bias.for_work(dy.size, self.device)
            run(self.bias.grad, dy.reshape(*dy.shape[:2], dy.shape[2] * dy.shape[3]))
        if dx is not None:
            algorithm, scratch = passes["input"]
            algorithm.backward_input(scratch, images(dx), dy, images(self.weight.memory))


class Convolution(ByAlgorithms):
    """Base of `Conv1d` and `Conv2d`, which document the arguments."""

    letters: ClassVar[str]  # the dimensions of an input

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any, groups: int,
        bias: bool, padding_mode: str, dtype: Any, algorithm: str,
    ) -> None:  # fmt: skip
        super().__init__()
        name, axes = type(self).__name__, self.letters.count(",") - 1
        self.in_channels = check_count(name, "in_channels", in_channels)
        self.out_channels = check_count(name, "out_channels", out_channels)
        self.kernel_size = per_axis(name, "kernel_size", kernel_size, 1, axes)
        self.stride = per_axis(name, "stride", stride, 1, axes)
        self.dilation = per_axis(name, "dilation", dilation, 1, axes)
        self.groups = check_count(name, "groups", groups)
        self.padding = padding if isinstance(padding, str) else per_axis(name, "padding", padding, 0, axes)
        if padding_mode != "zeros":
            raise ArgumentError(f"{name}: padding_mode must be 'zeros' (see ReflectionPad), got {padding_mode!r}")
        self._borders = self._border_widths()
        if in_channels % groups or out_channels % groups:
            raise ArgumentError(
                f"{name}: groups must divide in_channels {in_channels} and out_channels {out_channels}, got {groups}"
            )
        self.dtype = check_dtype(name, dtype)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        self.weight = Parameter(uniform(shape, -bound, bound, self.dtype), "weight")
        wanted = check_flag(name, "bias", bias)
        self.bias = Parameter(uniform((out_channels,), -bound, bound, self.dtype), "bias") if wanted else None
        least = [
            max(1, d * (k - 1) + 1 - sum(p)) for d, k, p in zip(self.dilation, self.kernel_size, self._borders, strict=True)
        ]
        self.algorithm = check_algorithm(name, algorithm, self._problem((1, in_channels, *least), self.dtype))

    def _border_widths(self) -> list[tuple[int, int]]:
        """Zeros before and after, along each axis."""
        name = type(self).__name__
        if self.padding == "same":
            if max(self.stride) > 1:
                raise ArgumentError(f"{name}: padding='same' needs stride 1, got {self.stride}")
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            return [(total // 2, total - total // 2) for total in totals]
        if isinstance(self.padding, str):
            if self.padding != "valid":
                raise ArgumentError(f"{name}: padding must be numbers, 'same' or 'valid', got {self.padding!r}")
            return [(0, 0)] * len(self.kernel_size)
        return [(p, p) for p in self.padding]

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output: (N, out_channels, ...).

        Raises
        ------
        ShapeError
            If the input has other dimensions or channels, or is smaller than the dilated kernel.
        """
        check_batch(self, x_shape, self.letters)
        if x_shape[1] != self.in_channels:
            wanted = self.letters.replace("C", str(self.in_channels))
            raise ShapeError(f"{self!r}: x must have shape ({wanted}), got {x_shape}")
        rooms = [
            n + sum(p) - d * (k - 1) - 1
            for n, p, d, k in zip(x_shape[2:], self._borders, self.dilation, self.kernel_size, strict=True)
        ]
        if min(rooms) < 0:
            raise ShapeError(f"{self!r}: x of shape {x_shape} is smaller than the kernel")
        return (x_shape[0], self.out_channels, *(room // s + 1 for room, s in zip(rooms, self.stride, strict=True)))

    def forward_flops(self, x_shape: Shape) -> int:
        """Two for each weight and output position."""
        y_shape = self.output_shape(x_shape)
        return 2 * y_shape[0] * math.prod(y_shape[2:]) * self.weight.value.size

    def _geometry(self, x_shape: Shape, dtype: Any) -> dict[str, Passes]:
        return choose(self._problem(x_shape, dtype), self.algorithm, self.device)

    def _problem(self, x_shape: Shape, dtype: Any) -> Problem:
        def rows_and_columns(numbers: Any, of_one_row: int) -> Pair:
            height, width = (of_one_row, *numbers)[-2:]
            return height, width

        return Problem(
            x_shape=image_shape(x_shape), y_shape=image_shape(self.output_shape(x_shape)),
            taps=rows_and_columns(self.kernel_size, 1), stride=rows_and_columns(self.stride, 1),
            padding=rows_and_columns([before for before, _ in self._borders], 0),
            dilation=rows_and_columns(self.dilation, 1), groups=self.groups, dtype=dtype,
        )  # fmt: skip

    def _arguments(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding!r}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}"
            + (f", algorithm={self.algorithm!r}" if self.algorithm != "auto" else "")
        )

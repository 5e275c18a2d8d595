"""The `Conv2d` layer."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.checks import check_count, check_dtype, check_images, pair
from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.core.gemm import product_work
from numba_nn.core.layer import Layer
from numba_nn.core.parameter import Parameter
from numba_nn.core.random import uniform
from numba_nn.core.workspace import Shape, Spec
from numba_nn.layers.conv.blocks import Geometry, scratch_shapes
from numba_nn.layers.conv.implicit_gemm import (
    conv2d_backward_bias,
    conv2d_backward_input,
    conv2d_backward_weight,
    conv2d_forward,
)


class Conv2d(Layer):
    """Two-dimensional convolution (cross-correlation) of images.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of input and output.
    kernel_size : int or (int, int)
        Height and width of the weights.
    stride : int or (int, int), optional
        Step between output pixels, in input pixels.
    padding : int, (int, int), "same" or "valid", optional
        Zeros around the image; "same" (stride 1) keeps its size, with the odd zero at the bottom and right; "valid" is 0.
    dilation : int or (int, int), optional
        Step between taps.
    groups : int, optional
        Split channels into so many independent convolutions; ``groups=in_channels`` is depthwise.
    bias : bool, optional
        Whether to add a bias to every output channel.
    dtype : dtype, optional
        float32 or float64.

    Attributes
    ----------
    weight : Parameter
        (out_channels, in_channels / groups, kh, kw), drawn from U(-k, k), k = 1 / sqrt(in_channels / groups kh kw).
    bias : Parameter or None
        (out_channels,), likewise.

    Raises
    ------
    ArgumentError
        If an argument is out of range, or ``groups`` does not divide both numbers of channels.
    """

    keeps_input = True

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1, bias: bool = True, dtype: Any = np.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_channels = check_count("Conv2d", "in_channels", in_channels)
        self.out_channels = check_count("Conv2d", "out_channels", out_channels)
        self.kernel_size = pair("Conv2d", "kernel_size", kernel_size, 1)
        self.stride = pair("Conv2d", "stride", stride, 1)
        self.dilation = pair("Conv2d", "dilation", dilation, 1)
        self.groups = check_count("Conv2d", "groups", groups)
        self.padding = padding if isinstance(padding, str) else pair("Conv2d", "padding", padding, 0)
        self._borders = self._border_widths()
        if in_channels % groups or out_channels % groups:
            raise ArgumentError(
                f"Conv2d: groups must divide in_channels {in_channels} and out_channels {out_channels}, got {groups}"
            )
        self.dtype = check_dtype("Conv2d", dtype)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        self.weight = Parameter(uniform(shape, -bound, bound, self.dtype), "weight")
        self.bias = Parameter(uniform((out_channels,), -bound, bound, self.dtype), "bias") if bias else None
        self._bias_value = self.bias.value if self.bias else np.zeros(out_channels, self.dtype)
        self._no_bias = np.zeros(in_channels, self.dtype)

    def _border_widths(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Zeros (above, below), (left, right)."""
        if self.padding == "same":
            if self.stride != (1, 1):
                raise ArgumentError(f"Conv2d: padding='same' needs stride 1, got {self.stride}")
            total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            return (total[0] // 2, total[0] - total[0] // 2), (total[1] // 2, total[1] - total[1] // 2)
        if isinstance(self.padding, str) and self.padding != "valid":
            raise ArgumentError(f"Conv2d: padding must be numbers, 'same' or 'valid', got {self.padding!r}")
        rows, columns = (0, 0) if isinstance(self.padding, str) else self.padding
        return (rows, rows), (columns, columns)

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output, (N, out_channels, H', W').

        Raises
        ------
        ShapeError
            If the input is not (N, in_channels, H, W), or smaller than the dilated kernel.
        """
        check_images(self, x_shape)
        if x_shape[1] != self.in_channels:
            raise ShapeError(f"{self!r}: x must have shape (N, {self.in_channels}, H, W), got {x_shape}")
        rooms = [
            n + sum(p) - d * (k - 1) - 1
            for n, p, d, k in zip(x_shape[2:], self._borders, self.dilation, self.kernel_size, strict=True)
        ]
        if min(rooms) < 0:
            raise ShapeError(f"{self!r}: x of shape {x_shape} is smaller than the kernel")
        return (x_shape[0], self.out_channels, *(room // s + 1 for room, s in zip(rooms, self.stride, strict=True)))

    def scratch_spec(self, x_shape: Shape, dtype: Any) -> dict[str, Spec]:
        """Packed weights, and for each worker a slice of patches, as large as any pass needs."""
        # As many workers as there can be threads: a number that does not change, as that of the threads in use does.
        workers = numba.config.NUMBA_NUM_THREADS
        shapes = scratch_shapes(x_shape, self.output_shape(x_shape), self._passes(), self.groups, dtype, workers)
        return {name: (shape, dtype) for name, shape in shapes.items()}

    def _passes(self) -> tuple[Geometry, Geometry]:
        """Geometry of the forward, and of the input gradient: see `numba_nn.layers.conv.implicit_gemm`."""
        corner = (-self._borders[0][0], -self._borders[1][0])
        reach = (self.dilation[0] * (self.kernel_size[0] - 1), self.dilation[1] * (self.kernel_size[1] - 1))
        back = (-corner[0] - reach[0], -corner[1] - reach[1])
        forward = (*self.kernel_size, *self.stride, *corner, *self.dilation, 1, 1)
        return forward, (*self.kernel_size, 1, 1, *back, *self.dilation, *self.stride)

    def forward_flops(self, x_shape: Shape) -> int:
        """Two for each weight and output pixel."""
        y_shape = self.output_shape(x_shape)
        return 2 * y_shape[0] * math.prod(y_shape[2:]) * self.weight.value.size

    def _geometry(self, x_shape: Shape, dtype: Any) -> tuple[Geometry, Geometry, float]:
        y_shape = self.output_shape(x_shape)
        pixels, depth = y_shape[0] * math.prod(y_shape[2:]), math.prod(self.weight.value.shape[1:])
        return (*self._passes(), product_work(self.out_channels, pixels, depth))

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        scratch, (geometry, _, work) = call.scratch, call.geometry
        conv2d_forward.for_work(work)(
            y, scratch["weight"], scratch["padded"], scratch["patches"], x, self.weight.value, self._bias_value,
            geometry, self.groups,
        )  # fmt: skip

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        scratch, (forward, backward, work) = call.scratch, call.geometry
        if self.weight.requires_grad:
            conv2d_backward_weight.for_work(work)(
                self.weight.grad.reshape(-1), scratch["partial"], scratch["dy"], scratch["padded"], scratch["patches"],
                scratch["panels"], x, dy, forward, self.groups,
            )  # fmt: skip
        if self.bias and self.bias.requires_grad:
            conv2d_backward_bias.for_work(dy.size)(self.bias.grad, dy.reshape(*dy.shape[:2], dy.shape[2] * dy.shape[3]))
        if dx is not None:
            conv2d_backward_input.for_work(work)(
                dx, scratch["weight"], scratch["padded"], scratch["patches"], dy, self.weight.value, self._no_bias,
                backward, self.groups,
            )  # fmt: skip

    def _arguments(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding!r}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}"
        )

"""Pooling over windows of images (N C H W).

    y[n, c, h, w] = max over (i, j) of x[n, c, h s_h - p_h + i d_h, w s_w - p_w + j d_w]

Positions outside of the image count as minus infinity. The first maximum of a window, row by row, is taken; a NaN is larger
than everything, and of several NaNs the last is taken, as in PyTorch. Its flat position h W + w in the plane is kept, and
backward adds the gradient there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.checks import check_images, pair
from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.core.kernel import In, Out, Saved, inner, kernel
from numba_nn.core.layer import Layer
from numba_nn.core.workspace import Shape, Spec
from numba_nn.layers.image import flat_planes, planes

MOST_PIXELS = 2**31 - 1  # of a plane, whose positions are int32


@inner
def taps_inside(first, step, taps, length):
    """Range of the taps whose position, first + tap step, lies in 0 .. length - 1."""
    start, stop = 0, taps
    if first < 0:  # divisions for windows at the border only: they are most of the time of a small window
        start = -(first // step)
    if first + (taps - 1) * step >= length:
        stop = (length - 1 - first) // step + 1
    return start, stop


@kernel
def max_pool2d_forward(
    y: Out, indices: Saved, x: In,
    window: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int],
):  # fmt: skip
    """Largest value of every window, and its flat position in the plane; x: (P, H, W), y and indices: (P, H', W')."""
    height, width = x.shape[1:]
    for p in prange(y.shape[0]):
        plane = x[p].reshape(height * width)
        for h in range(y.shape[1]):
            top = h * stride[0] - padding[0]
            a0, a1 = taps_inside(top, dilation[0], window[0], height)
            for w in range(y.shape[2]):
                left = w * stride[1] - padding[1]
                b0, b1 = taps_inside(left, dilation[1], window[1], width)
                best, position = x.dtype.type(-np.inf), -1
                for a in range(a0, a1):
                    row = (top + a * dilation[0]) * width + left
                    for b in range(b0, b1):
                        value = plane[row + b * dilation[1]]
                        # selects, not branches: on real images a branch here goes wrong every other time
                        larger = (value > best) | (position < 0) | (value != value)
                        best = value if larger else best
                        position = row + b * dilation[1] if larger else position
                y[p, h, w] = best
                indices[p, h, w] = position


@kernel
def max_pool2d_backward(dx: Out, indices: Saved, dy: In):
    """dx = 0, then dx at every window's maximum += dy; dx: (P, H W), indices and dy: (P, H' W')."""
    zero = dx.dtype.type(0)
    for p in prange(dx.shape[0]):
        for i in range(dx.shape[1]):
            dx[p, i] = zero
        for i in range(dy.shape[1]):
            if indices[p, i] >= 0:  # a dilated window can miss a small image altogether
                dx[p, indices[p, i]] += dy[p, i]


class MaxPool2d(Layer):
    """Largest value of every window.

    Parameters
    ----------
    kernel_size : int or (int, int)
        Height and width of the window.
    stride : int or (int, int), optional
        Step between windows; the window's size by default.
    padding : int or (int, int), optional
        Rows and columns of minus infinity around the image, at most half the window.
    dilation : int or (int, int), optional
        Step between the elements of a window.
    return_indices : bool, optional
        ``forward`` returns ``(y, indices)``: the flat position h W + w of every maximum, int64.
        Inside a Sequential only y goes on.
    ceil_mode : bool, optional
        Keep a last window that reaches beyond the padded image, if it starts inside the image or the left padding.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    """

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        return_indices: bool = False, ceil_mode: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        name = type(self).__name__
        self.kernel_size = pair(name, "kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else pair(name, "stride", stride, 1)
        self.padding = pair(name, "padding", padding, 0)
        self.dilation = pair(name, "dilation", dilation, 1)
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode
        if any(2 * p > k for p, k in zip(self.padding, self.kernel_size, strict=True)):
            raise ArgumentError(f"{name}: padding must be at most half of kernel_size {self.kernel_size}, got {self.padding}")

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output, (N, C, H', W').

        Raises
        ------
        ShapeError
            If the input is not (N, C, H, W), or no window fits in it.
        """
        check_images(self, x_shape)
        if x_shape[2] * x_shape[3] > MOST_PIXELS:
            raise ShapeError(f"{self!r}: positions are kept in 32 bits, {MOST_PIXELS} pixels in a plane at most, got {x_shape}")
        height, width = (self._windows(axis, x_shape[2 + axis]) for axis in (0, 1))
        if height < 1 or width < 1:
            raise ShapeError(f"{self!r}: no window fits in x of shape {x_shape}")
        return (*x_shape[:2], height, width)

    def _windows(self, axis: int, length: int) -> int:
        """Number of windows along an axis."""
        stride, padding = self.stride[axis], self.padding[axis]
        room = length + 2 * padding - self.dilation[axis] * (self.kernel_size[axis] - 1) - 1
        if not self.ceil_mode:
            return room // stride + 1
        windows = -(-room // stride) + 1
        # The last window must start inside the image or the left padding.
        return windows - 1 if (windows - 1) * stride >= length + padding else windows

    def saved_spec(self, x_shape: Shape, dtype: Any) -> dict[str, Spec]:
        """Position of every maximum."""
        return {"indices": (self.output_shape(x_shape), np.dtype(np.int32))}

    def forward(self, x: Array, out: Array | None = None) -> Any:
        """As `Layer.forward`; with ``return_indices``, the output and the positions of the maxima.

        Parameters
        ----------
        x : ndarray
            (N, C, H, W).
        out : ndarray, optional
            Where to write the output, (N, C, H', W').

        Returns
        -------
        ndarray or (ndarray, ndarray)
            The output; with ``return_indices`` also the flat position of each maximum in its plane, int64.
        """
        y = super().forward(x, out)
        if not self.return_indices:
            return y
        arrays = self._kept[-1].arrays if self.training else self._call(x.shape, x.dtype).inference
        return y, arrays["indices"].astype(np.int64)

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        run = max_pool2d_forward.for_work(y.size * self.kernel_size[0] * self.kernel_size[1])
        run(
            planes(y), planes(saved["indices"]), planes(x), self.kernel_size, self.stride, self.padding, self.dilation
        )  # fmt: skip

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if dx is not None:
            max_pool2d_backward(flat_planes(dx), flat_planes(saved["indices"]), flat_planes(dy))

    def _arguments(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"return_indices={self.return_indices}, ceil_mode={self.ceil_mode}"
        )

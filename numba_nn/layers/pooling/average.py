"""Average pooling (N C L, N C H W): y = sum of x over a window / divisor.

See `numba_nn.layers.pooling.windows` for where the windows lie. The divisor is a product of one number for the window's row and
one for its column, the third in their tables. Its backward adds dy / divisor to every element of the window.

A row of windows is summed in two steps, as in `maximum`: down every column, then along the row of the columns' sums. Sums are
float64 in either dtype. A single window over the whole plane, the global average, has kernels of its own, 5 times as fast
on planes of 7 x 7.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.checks import is_whole
from numba_nn.core.errors import ArgumentError
from numba_nn.core.kernel import In, Out, Scratch, inner, kernel
from numba_nn.core.workspace import Shape, Spec
from numba_nn.layers.image import flat_planes, planes
from numba_nn.layers.pooling.windows import WORK, Adaptive, Global, Pooling, Sliding, scratch_rows


@inner
def column_sums(sums, plane, first, count):
    """Sum of every column, over count rows from the first."""
    for j in range(plane.shape[1]):
        sums[j] = plane[first, j]
    for i in range(first + 1, first + count):
        for j in range(plane.shape[1]):
            sums[j] += plane[i, j]


@kernel
def avg_pool2d_forward(y: Out, sums: Scratch, x: In, rows: In, columns: In):
    """y = sum of x over the window / divisor; x: (P, H, W), y: (P, H', W'), sums: (workers, W or more) of float64."""
    workers = sums.shape[0]
    for worker in prange(workers):
        of_column = sums[worker]
        for p in range(y.shape[0] * worker // workers, y.shape[0] * (worker + 1) // workers):
            for h in range(y.shape[1]):
                column_sums(of_column, x[p], rows[h, 0], rows[h, 1])
                for w in range(y.shape[2]):
                    total = 0.0
                    for j in range(columns[w, 0], columns[w, 0] + columns[w, 1]):
                        total += of_column[j]
                    y[p, h, w] = total / (rows[h, 2] * columns[w, 2])


@kernel
def avg_pool2d_backward(dx: Out, spread: Scratch, dy: In, rows: In, columns: In):
    """dx = sum of dy / divisor over the windows that hold it; spread: (workers, W or more), a row of windows' gradients."""
    workers, zero, width = spread.shape[0], dx.dtype.type(0), dx.shape[2]
    for worker in prange(workers):
        row = spread[worker]
        for p in range(dx.shape[0] * worker // workers, dx.shape[0] * (worker + 1) // workers):
            for i in range(dx.shape[1]):
                for j in range(width):
                    dx[p, i, j] = zero
            for h in range(dy.shape[1]):
                for j in range(width):
                    row[j] = zero
                for w in range(dy.shape[2]):
                    share = dx.dtype.type(dy[p, h, w] / (rows[h, 2] * columns[w, 2]))
                    for j in range(columns[w, 0], columns[w, 0] + columns[w, 1]):
                        row[j] += share
                for i in range(rows[h, 0], rows[h, 0] + rows[h, 1]):
                    for j in range(width):
                        dx[p, i, j] += row[j]


@kernel
def plane_mean_forward(y: Out, x: In):
    """y = mean of a plane; x: (P, H W), y: (P,)."""
    for p in prange(y.size):
        total = 0.0
        for i in range(x.shape[1]):
            total += x[p, i]
        y[p] = total / x.shape[1]


@kernel
def plane_mean_backward(dx: Out, dy: In):
    """dx = dy / size of the plane."""
    for p in prange(dy.size):
        share = dx.dtype.type(dy[p] / dx.shape[1])
        for i in range(dx.shape[1]):
            dx[p, i] = share


class _Average(Pooling):
    """What the average poolings share."""

    def _divisors(self, axis: int, length: int) -> Array:
        """What sums are divided by along an axis: the elements of every window that lie inside of the input."""
        return super()._windows(axis, length)[:, 1]

    def _windows(self, axis: int, length: int) -> Array:
        return np.column_stack([super()._windows(axis, length), self._divisors(axis, length)])

    def scratch_spec(self, x_shape: Shape, dtype: Any) -> dict[str, Spec]:
        """The columns' sums, and a row of gradients."""
        rows = scratch_rows(x_shape)
        return {"sums": (rows, np.dtype(np.float64)), "spread": (rows, dtype)}

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        avg_pool2d_forward.for_work(WORK * x.size)(planes(y), call.scratch["sums"], planes(x), *call.tables)

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if dx is not None:
            avg_pool2d_backward.for_work(WORK * dx.size)(planes(dx), call.scratch["spread"], planes(dy), *call.tables)


class _SlidingAverage(_Average, Sliding):
    """What AvgPool1d and AvgPool2d share."""

    def __init__(self, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool) -> None:
        super().__init__(kernel_size, stride, padding, 1, ceil_mode)
        self.count_include_pad = count_include_pad

    def _divisors(self, axis: int, length: int) -> Array:
        if not self.count_include_pad:
            return super()._divisors(axis, length)
        starts = self._starts(axis, length)
        # What a last window has beyond the padding, in ceil_mode, is not counted.
        return np.minimum(self.kernel_size[axis], length + self.padding[axis] - starts)

    def _arguments(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, ceil_mode={self.ceil_mode}, "
            f"count_include_pad={self.count_include_pad}"
        )


class _AdaptiveAverage(_Average, Adaptive):
    """What the adaptive average poolings share."""

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        if math.prod(call.y_shape[2:]) == 1:
            plane_mean_forward.for_work(x.size)(y.reshape(-1), flat_planes(x))
        else:
            super()._forward(call, y, x, saved)

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if dx is not None and math.prod(call.y_shape[2:]) == 1:
            plane_mean_backward(flat_planes(dx), dy.reshape(-1))
        else:
            super()._backward(call, dx, dy, x, saved)


class AvgPool1d(_SlidingAverage):
    """Mean of every window of a signal (N, C, L).

    Parameters
    ----------
    kernel_size : int
        Length of the window.
    stride : int, optional
        Step between windows; the window's length by default.
    padding : int, optional
        Zeros at either end, at most half the window.
    ceil_mode : bool, optional
        Keep a last window that reaches beyond the padded signal, if it starts inside the signal or the left padding.
    count_include_pad : bool, optional
        Divide by all elements of the window inside the padded signal; False: by those inside the signal.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    """

    letters = "N, C, L"

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)


class AvgPool2d(_SlidingAverage):
    """Mean of every window of an image (N, C, H, W).

    Parameters
    ----------
    kernel_size : int or (int, int)
        Height and width of the window.
    stride : int or (int, int), optional
        Step between windows; the window's size by default.
    padding : int or (int, int), optional
        Rows and columns of zeros around the image, at most half the window.
    ceil_mode : bool, optional
        Keep a last window that reaches beyond the padded image, if it starts inside the image or the left padding.
    count_include_pad : bool, optional
        Divide by all elements of the window inside the padded image; False: by those inside the image.
    divisor_override : int, optional
        Divide by this number instead.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    """

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)
        if divisor_override is not None and (not is_whole(divisor_override) or divisor_override == 0):
            raise ArgumentError(f"AvgPool2d: divisor_override must be an int other than 0, or None, got {divisor_override!r}")
        self.divisor_override = divisor_override

    def _divisors(self, axis: int, length: int) -> Array:
        if self.divisor_override is None:
            return super()._divisors(axis, length)
        # The divisor is the product over both axes.
        return np.full(self._count(axis, length), self.divisor_override if axis == 0 else 1)

    def _arguments(self) -> str:
        return f"{super()._arguments()}, divisor_override={self.divisor_override}"


class AdaptiveAvgPool1d(_AdaptiveAverage):
    """Mean of each of so many windows that cover a signal (N, C, L).

    Parameters
    ----------
    output_size : int or None
        Number of windows; None keeps the length.

    Raises
    ------
    ArgumentError
        If ``output_size`` is out of range.
    """

    letters = "N, C, L"


class AdaptiveAvgPool2d(_AdaptiveAverage):
    """Mean of each of so many windows that cover an image (N, C, H, W).

    Parameters
    ----------
    output_size : int, None, or a pair of these
        Rows and columns of windows; None keeps the image's.

    Raises
    ------
    ArgumentError
        If ``output_size`` is out of range.
    """


class GlobalAvgPool1d(Global, AdaptiveAvgPool1d):
    """Mean over the length of a signal: (N, C, L) to (N, C), as ``AdaptiveAvgPool1d(1)`` and then ``Flatten()``."""


class GlobalAvgPool2d(Global, AdaptiveAvgPool2d):
    """Mean over the pixels of an image: (N, C, H, W) to (N, C), as ``AdaptiveAvgPool2d(1)`` and then ``Flatten()``."""

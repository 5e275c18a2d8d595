"""Average pooling (N C L, N C H W): y = sum of x over a window / divisor.

See `numba_nn.layers.pooling.windows` for where the windows lie. The divisor is a product of one number for the window's row and
one for its column; tables of shares have their inverses. Backward adds dy / divisor to every element of the window.

A row of windows is summed in two steps, as in `maximum`: down every column, then along the row of the columns' sums; backward
goes the other way. Sums are float64 in either dtype. Two kinds of windows have kernels of their own: 2 x 2 side by side
(7 times as fast on planes of 32 x 32), and the whole plane, in `plane_mean`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.checks import check_flag, is_whole
from numba_nn.core.cuda.narrow import wide
from numba_nn.core.device import CPU
from numba_nn.core.errors import ArgumentError
from numba_nn.core.kernel import In, Out, Scratch, inner, kernel
from numba_nn.core.vector import AHEAD, read_ahead, write_ahead
from numba_nn.core.workspace import Shape, Spec
from numba_nn.layers.image import flat_planes, planes
from numba_nn.layers.pooling.cuda import gather_means, pool_means
from numba_nn.layers.pooling.plane_mean import plane_mean_backward, plane_mean_forward
from numba_nn.layers.pooling.windows import WORK, Adaptive, Global, Pooling, Sliding, collect, deal, scratch_rows


@inner
def column_sums(sums, plane, first, count):
    """Sum of every column, over count rows from the first."""
    for j in range(plane.shape[1]):
        sums[j] = plane[first, j]
    for i in range(first + 1, first + count):
        for j in range(plane.shape[1]):
            sums[j] += plane[i, j]


@inner
def add_run(total, x):
    """total += x."""
    for w in range(total.size):
        total[w] += x[w]


@kernel
def avg_pool2d_forward(
    y: Out, sums: Scratch, totals: Scratch, x: In, rows: In, columns: In, taps: In, row_shares: In, shares: In, stride: int
):  # fmt: skip
    """y = sum of x over the window / divisor.

    x: (P, H, W), y: (P, H', W'), sums: (workers, 2, W + stride or more), totals: (workers, W' or more), both of float64.
    """
    workers = sums.shape[0]
    for worker in prange(workers):
        of_column, parts, total = sums[worker, 0], sums[worker, 1], totals[worker, : y.shape[2]]
        for p in range(y.shape[0] * worker // workers, y.shape[0] * (worker + 1) // workers):
            for h in range(y.shape[1]):
                column_sums(of_column, x[p], rows[h, 0], rows[h, 1])
                for w in range(total.size):
                    total[w] = 0
                if taps.shape[0] == 0:
                    for w in range(total.size):
                        for j in range(columns[w, 0], columns[w, 0] + columns[w, 1]):
                            total[w] += of_column[j]
                else:
                    deal(parts, of_column[: x.shape[2]], stride)
                for b in range(taps.shape[0]):
                    start, stop, j = taps[b]
                    add_run(total[start:stop], parts[j:])
                y_row = y[p, h]
                for w in range(total.size):
                    y_row[w] = total[w] * (row_shares[h] * shares[w])


@kernel
def avg_pool2d_backward(
    dx: Out, spread: Scratch, totals: Scratch, dy: In, rows: In, columns: In, taps: In, row_shares: In, shares: In, stride: int
):  # fmt: skip
    """dx = sum of dy / divisor over the windows that hold it; spread: (workers, 2, W + stride or more)."""
    workers, zero = spread.shape[0], dx.dtype.type(0)
    for worker in prange(workers):
        row, parts, share = spread[worker, 0, : dx.shape[2]], spread[worker, 1], totals[worker, : dy.shape[2]]
        for p in range(dx.shape[0] * worker // workers, dx.shape[0] * (worker + 1) // workers):
            dx[p, :, :] = zero
            for h in range(dy.shape[1]):
                dy_row = dy[p, h]
                for w in range(share.size):
                    share[w] = dy_row[w] * (row_shares[h] * shares[w])
                row[:] = zero
                parts[:] = zero
                for b in range(taps.shape[0]):
                    start, stop, j = taps[b]
                    add_run(parts[j : j + stop - start], share[start:stop])
                if taps.shape[0] == 0:
                    for w in range(share.size):
                        for j in range(columns[w, 0], columns[w, 0] + columns[w, 1]):
                            row[j] += share[w]
                else:
                    collect(row, parts, stride)
                for i in range(rows[h, 0], rows[h, 0] + rows[h, 1]):
                    add_run(dx[p, i], row)


@kernel
def avg_pool2x2_forward(y: Out, x: In, row_shares: In, shares: In):
    """The same for windows of 2 x 2, side by side from the first pixel on, all inside of the image."""
    flat, width = x.reshape(x.size), x.shape[2]
    for p in prange(y.shape[0]):
        for h in range(y.shape[1]):
            read_ahead(flat, (p * x.shape[1] + 2 * h) * width + AHEAD, 2 * width)
            y_row, upper, lower, factor = y[p, h], x[p, 2 * h], x[p, 2 * h + 1], row_shares[h] * shares[0]
            for w in range(y_row.size):
                j = np.uintp(2) * np.uintp(w)
                y_row[w] = (float(upper[j]) + upper[j + np.uintp(1)] + lower[j] + lower[j + np.uintp(1)]) * factor


@kernel
def avg_pool2x2_backward(dx: Out, dy: In, row_shares: In, shares: In):
    """dx = dy / divisor for these windows; 0 in a last row or column that belongs to none."""
    zero, flat, width = dx.dtype.type(0), dx.reshape(dx.size), dx.shape[2]
    for p in prange(dy.shape[0]):
        for h in range(dy.shape[1]):
            write_ahead(flat, (p * dx.shape[1] + 2 * h) * width + AHEAD, 2 * width)
            dy_row, upper, lower = dy[p, h], dx[p, 2 * h], dx[p, 2 * h + 1]
            factor = dx.dtype.type(row_shares[h] * shares[0])
            for w in range(dy_row.size):
                j = np.uintp(2) * np.uintp(w)
                share = dy_row[w] * factor
                upper[j] = upper[j + np.uintp(1)] = lower[j] = lower[j + np.uintp(1)] = share
            upper[2 * dy_row.size :] = lower[2 * dy_row.size :] = zero
        dx[p, 2 * dy.shape[1] :] = zero


class _Average(Pooling):
    """What the average poolings share."""

    def _geometry(self, x_shape: Shape, dtype: Any) -> bool:
        """Whether windows are 2 x 2, side by side, and inside of the image, beginning with its first pixel."""
        inside = all(2 * self._count(axis, length) <= length for axis, length in enumerate(x_shape[2:]))
        return inside and self._two_apart(x_shape) == (0, 1)

    def _divisors(self, axis: int, length: int) -> Array:
        """What sums are divided by along an axis: the elements of every window that lie inside of the input."""
        return super()._windows(axis, length)[:, 1]

    def _tables(self, x_shape: Shape, dtype: Any) -> tuple[Array, ...]:
        """The windows and taps, and 1 / divisor along the height and along the width."""
        shares = [1 / self._divisors(axis, length) for axis, length in enumerate(x_shape[2:])]
        shares = shares if len(shares) == 2 else [np.ones(1), *shares]
        if self.device is not CPU:
            shares = [self.device.from_host(share.astype(wide(dtype))) for share in shares]
        return *super()._tables(x_shape, dtype), *shares

    def scratch_spec(self, x_shape: Shape, dtype: Any) -> dict[str, Spec]:
        """The columns' sums and gradients, in order and dealt into parts, and the windows' totals; a GPU needs none."""
        if self.device is not CPU:
            return {}
        axis, width, double = len(x_shape) - 3, x_shape[-1], np.dtype(np.float64)
        rows = scratch_rows(width, self._stride(axis, width))
        totals = scratch_rows(self._count(axis, width), 0)
        return {"sums": (rows, double), "spread": (rows, dtype), "totals": (totals[::2], double)}

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        if self.device is not CPU:
            pool_means(planes(y), planes(x), *call.tables[:2], *call.tables[-2:])
            return
        if call.geometry:
            avg_pool2x2_forward.for_work(x.size, self.device)(planes(y), planes(x), *call.tables[-2:])
            return
        run, stride = avg_pool2d_forward.for_work(WORK * x.size, self.device), self._stride(x.ndim - 3, x.shape[-1])
        run(planes(y), call.scratch["sums"], call.scratch["totals"], planes(x), *call.tables, stride)

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if dx is not None and self.device is not CPU:
            gather_means(planes(dx), planes(dy), *call.tables[2:])
        elif dx is not None and call.geometry:
            avg_pool2x2_backward(planes(dx), planes(dy), *call.tables[-2:])
        elif dx is not None:
            run, stride = avg_pool2d_backward.for_work(WORK * dx.size, self.device), self._stride(dx.ndim - 3, dx.shape[-1])
            run(planes(dx), call.scratch["spread"], call.scratch["totals"], planes(dy), *call.tables, stride)


class _SlidingAverage(_Average, Sliding):
    """What AvgPool1d and AvgPool2d share."""

    def __init__(self, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool) -> None:
        super().__init__(kernel_size, stride, padding, 1, ceil_mode)
        self.count_include_pad = check_flag(type(self).__name__, "count_include_pad", count_include_pad)

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
            plane_mean_forward.for_work(x.size, self.device)(y.reshape(-1), flat_planes(x))
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

    def __init__(self, output_size: Any) -> None:
        super().__init__(output_size)


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

    def __init__(self, output_size: Any) -> None:
        super().__init__(output_size)


class GlobalAvgPool1d(Global, AdaptiveAvgPool1d):
    """Mean over the length of a signal: (N, C, L) to (N, C), as ``AdaptiveAvgPool1d(1)`` and then ``Flatten()``."""


class GlobalAvgPool2d(Global, AdaptiveAvgPool2d):
    """Mean over the pixels of an image: (N, C, H, W) to (N, C), as ``AdaptiveAvgPool2d(1)`` and then ``Flatten()``."""

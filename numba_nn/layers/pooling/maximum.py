"""Max pooling (N C L, N C H W): y = max of x over a window; see `numba_nn.layers.pooling.windows` for where the windows lie.

Positions outside of the input count as minus infinity. The first maximum of a window, row by row, is taken; a NaN is larger
than everything, and of several NaNs the last is taken, as in PyTorch. Its flat position h W + w in the plane is kept, and
backward adds the gradient there.

A row of windows is pooled in two steps: down every column, then along the row of the columns' maxima, tap by tap where windows
lie a stride apart. Windows of 2 x 2 or 3 x 3 that lie two apart have a kernel of their own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.checks import check_flag
from numba_nn.core.cuda.cast import copy_forward
from numba_nn.core.device import CPU
from numba_nn.core.epilogue import activate_all
from numba_nn.core.errors import ShapeError
from numba_nn.core.kernel import In, Out, Saved, Scratch, inner, kernel
from numba_nn.core.vector import AHEAD, read_ahead, write_ahead
from numba_nn.core.workspace import Shape, Spec
from numba_nn.layers.image import flat_planes, planes
from numba_nn.layers.pooling.cuda import gather_maxima, plane_maxima, pool_maxima
from numba_nn.layers.pooling.order import comes_first, exceeds
from numba_nn.layers.pooling.strided import fewest_windows, pool_padded_threes, pool_pairs, pool_threes
from numba_nn.layers.pooling.windows import WORK, Adaptive, Global, Pooling, Sliding, deal, scratch_rows

MOST_PIXELS = 2**31 - 1  # of a plane, whose positions are int32


@inner
def column_maxima(best, position, plane, first, count, step):
    """Largest value of every column, over count rows from the first, step apart, and its flat position in the plane."""
    width, row = plane.shape[1], plane[first]
    for j in range(width):
        best[j], position[j] = row[j], first * width + j
    for a in range(1, count):
        i = first + a * step
        row = plane[i]
        for j in range(width):
            larger = exceeds(row[j], best[j])
            best[j] = row[j] if larger else best[j]
            position[j] = np.int32(i * width + j) if larger else position[j]


@inner
def pool_tap(y, indices, best, position):
    """Let a run of columns compete in a run of windows."""
    for w in range(y.size):
        taken = comes_first(best[w], position[w], y[w], indices[w])
        y[w] = best[w] if taken else y[w]
        indices[w] = position[w] if taken else indices[w]


@inner
def pool_window(best, position, first, count, step):
    """Largest of count columns from the first, step apart, and its position."""
    top, at = best.dtype.type(-np.inf), np.int32(-1)
    for b in range(count):
        j = first + b * step
        # selects, not branches: on real images a branch here goes wrong every other time
        taken = comes_first(best[j], position[j], top, at)
        top = best[j] if taken else top
        at = position[j] if taken else at
    return top, at


@kernel
def max_pool2d_forward(
    y: Out, indices: Saved, best: Scratch, position: Scratch, x: In, rows: In, columns: In, taps: In,
    dilation: tuple[int, int], stride: int,
):  # fmt: skip
    """Largest value of every window, and its flat position in the plane; -inf at -1 where a window misses the image.

    x: (P, H, W), y and indices: (P, H', W'), best and position: (workers, 2, W + stride or more).
    """
    workers = best.shape[0]
    for worker in prange(workers):
        values, places, parts, dealt = best[worker, 0], position[worker, 0], best[worker, 1], position[worker, 1]
        for p in range(y.shape[0] * worker // workers, y.shape[0] * (worker + 1) // workers):
            for h in range(y.shape[1]):
                y_row, at_row = y[p, h], indices[p, h]
                for w in range(y_row.size):
                    y_row[w], at_row[w] = -np.inf, -1
                if rows[h, 1] == 0:  # as a dilated window can miss a small image
                    continue
                column_maxima(values, places, x[p], rows[h, 0], rows[h, 1], dilation[0])
                if taps.shape[0] == 0:
                    for w in range(y_row.size):
                        y_row[w], at_row[w] = pool_window(values, places, columns[w, 0], columns[w, 1], dilation[1])
                else:
                    deal(parts, values[: x.shape[2]], stride)
                    deal(dealt, places[: x.shape[2]], stride)
                for b in range(taps.shape[0]):
                    start, stop, j = taps[b]
                    pool_tap(y_row[start:stop], at_row[start:stop], parts[j:], dealt[j:])


@kernel
def max_pool_by_two_forward(y: Out, indices: Saved, x: In, columns: tuple[int, ...]):
    """The same for square windows two apart; columns (and rows) of the first: (0, 1), (0, 1, 2) or (-1, 0, 1)."""
    y_flat, at_flat, x_flat = y.reshape(y.size), indices.reshape(y.size), x.reshape(x.size)
    height, width = x.shape[1], x.shape[2]
    whole = min(y.shape[2], (width - 1 - max(columns[-1], 1)) // 2 + 1)  # windows that reach over no right edge
    whole = whole if whole >= fewest_windows(y) else 0
    for p in prange(y.shape[0]):
        plane = p * height * width
        for h in range(y.shape[1] if whole > 0 else 0):
            to, top = (p * y.shape[1] + h) * y.shape[2], 2 * h + columns[0]
            # where rows lie outside of the image, the nearest inside stands in
            rows = max(top, 0) * width, min(top + 1, height - 1) * width, min(top + 2, height - 1) * width
            read_ahead(x_flat, plane + 2 * h * width + AHEAD, 2 * width)
            if len(columns) == 2:
                pool_pairs(y_flat, at_flat, to, x_flat, plane, rows, whole)
            elif columns[0] == 0:
                pool_threes(y_flat, at_flat, to, x_flat, plane, rows, whole)
            else:
                pool_padded_threes(y_flat, at_flat, to, x_flat, plane, rows, whole)
        for h in range(y.shape[1] if whole < y.shape[2] else 0):
            for w in range(whole, y.shape[2]):
                y[p, h, w], indices[p, h, w] = pool_square(x[p], 2 * h, 2 * w, columns)


@inner
def pool_square(plane, row, column, offsets):
    """Largest value of a window, and its position; where elements lie outside, the nearest inside are taken again."""
    height, width = plane.shape
    best, at = plane.dtype.type(-np.inf), np.int32(-1)
    for a in offsets:
        for b in offsets:
            i, j = min(max(row + a, 0), height - 1), min(max(column + b, 0), width - 1)
            taken = exceeds(plane[i, j], best) | (at < 0)
            best, at = plane[i, j] if taken else best, np.int32(i * width + j) if taken else at
    return best, at


@kernel
def max_pool2d_backward(dx: Out, indices: Saved, dy: In):
    """dx = 0, then dx at every window's maximum += dy; dx: (P, H W), indices and dy: (P, H', W')."""
    zero, flat, size = dx.dtype.type(0), dx.reshape(dx.size), dx.shape[1]
    share = -(-size // dy.shape[1])
    for p in prange(dx.shape[0]):
        for i in range(size):
            dx[p, i] = zero
        for h in range(dy.shape[1]):
            write_ahead(flat, (p + 1) * size + h * share, share)  # of the next plane
            for w in range(dy.shape[2]):
                if indices[p, h, w] >= 0:
                    dx[p, indices[p, h, w]] += dy[p, h, w]


class _Max(Pooling):
    """What the max poolings share."""

    epilogue_role: str | None = "maximum"
    return_indices: bool

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output: N, C, and the number of windows along every other axis.

        Raises
        ------
        ShapeError
            If the input has other dimensions or 2**31 elements in a plane, or no window fits in it.
        """
        y_shape = super().output_shape(x_shape)
        if math.prod(x_shape[2:]) > MOST_PIXELS:
            raise ShapeError(f"{self!r}: positions are kept in 32 bits, {MOST_PIXELS} pixels in a plane at most, got {x_shape}")
        return y_shape

    def _geometry(self, x_shape: Shape, dtype: Any) -> tuple[int, ...]:
        """Columns of the first window where `max_pool_by_two_forward` takes them, or none."""
        columns = self._two_apart(x_shape)
        return columns if columns in ((0, 1), (0, 1, 2), (-1, 0, 1)) else ()

    def saved_spec(self, x_shape: Shape, dtype: Any) -> dict[str, Spec]:
        """Position of every maximum."""
        return {"indices": (self.output_shape(x_shape), np.dtype(np.int32))}

    def scratch_spec(self, x_shape: Shape, dtype: Any) -> dict[str, Spec]:
        """The columns' maxima and their positions, in order and dealt into parts; a GPU needs none."""
        if self.device is not CPU:
            return {}
        rows = scratch_rows(x_shape[-1], self._stride(len(x_shape) - 3, x_shape[-1]))
        return {"best": (rows, dtype), "position": (rows, np.dtype(np.int32))}

    def forward(self, x: Array, out: Array | None = None) -> Any:
        """As `Layer.forward`; with ``return_indices``, the output and the positions of the maxima.

        Parameters
        ----------
        x : ndarray
            (N, C, L) or (N, C, H, W), as the layer's name says.
        out : ndarray, optional
            Where to write the output.

        Returns
        -------
        ndarray or (ndarray, ndarray)
            The output; with ``return_indices`` also the flat position of each maximum in its plane, int64.
        """
        y = super().forward(x, out)
        if not self.return_indices:
            return y
        arrays = self._kept[-1].arrays if self.training else self._call(x.shape, x.dtype).inference
        positions = self.device.empty(y.shape, np.int64)
        copy_forward(positions.reshape(-1), arrays["indices"].reshape(-1))
        return y, positions

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        if self.device is not CPU:
            self._forward_on_cuda(call, y, x, saved["indices"])
        elif call.geometry:
            run = max_pool_by_two_forward.for_work(x.size, self.device)
            run(planes(y), planes(saved["indices"]), planes(x), call.geometry)
        else:
            run, scratch = max_pool2d_forward.for_work(WORK * x.size, self.device), call.scratch
            run(
                planes(y), planes(saved["indices"]), scratch["best"], scratch["position"], planes(x), *call.tables,
                (self.dilation[0], self.dilation[-1]), self._stride(x.ndim - 3, x.shape[-1]),
            )  # fmt: skip
        if call.epilogue.activation is not None:
            activate_all(y.reshape(-1), call.epilogue.activation.epilogue_code, call.epilogue.activation.slope)

    def _forward_on_cuda(self, call: Call, y: Array, x: Array, indices: Array) -> None:
        step, (rows, columns, *_) = self.dilation, call.tables
        pool_maxima(planes(y), planes(indices), flat_planes(x), rows, columns, x.shape[-1], step[0], step[-1])

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if dx is not None and self.device is not CPU:
            gather_maxima(planes(dx), planes(saved["indices"]), planes(dy), *call.tables[2:])
        elif dx is not None:
            max_pool2d_backward(flat_planes(dx), planes(saved["indices"]), planes(dy))


class _SlidingMax(_Max, Sliding):
    """What MaxPool1d and MaxPool2d share."""

    def __init__(
        self, kernel_size: Any, stride: Any, padding: Any, dilation: Any, return_indices: bool, ceil_mode: bool
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)
        self.return_indices = check_flag(type(self).__name__, "return_indices", return_indices)
        if max(self.dilation) > 1:  # a window may miss the image: then an activation must not run behind it
            self.epilogue_role = None

    def _arguments(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"return_indices={self.return_indices}, ceil_mode={self.ceil_mode}"
        )


class _AdaptiveMax(_Max, Adaptive):
    """What the adaptive max poolings share."""

    def __init__(self, output_size: Any, return_indices: bool) -> None:
        super().__init__(output_size)
        self.return_indices = check_flag(type(self).__name__, "return_indices", return_indices)

    def _forward_on_cuda(self, call: Call, y: Array, x: Array, indices: Array) -> None:
        if math.prod(call.y_shape[2:]) == 1:
            plane_maxima(y.reshape(-1), indices.reshape(-1), flat_planes(x))
        else:
            super()._forward_on_cuda(call, y, x, indices)

    def _arguments(self) -> str:
        return f"{super()._arguments()}, return_indices={self.return_indices}"


class MaxPool1d(_SlidingMax):
    """Largest value of every window of a signal (N, C, L).

    Parameters
    ----------
    kernel_size : int
        Length of the window.
    stride : int, optional
        Step between windows; the window's length by default.
    padding : int, optional
        Elements of minus infinity at either end, at most half the window.
    dilation : int, optional
        Step between the elements of a window.
    return_indices : bool, optional
        ``forward`` returns ``(y, indices)``: the position of every maximum, int64.
        Inside a Sequential only y goes on.
    ceil_mode : bool, optional
        Keep a last window that reaches beyond the padded signal, if it starts inside the signal or the left padding.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    """

    letters = "N, C, L"

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        return_indices: bool = False, ceil_mode: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)


class MaxPool2d(_SlidingMax):
    """Largest value of every window of an image (N, C, H, W).

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
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)


class AdaptiveMaxPool1d(_AdaptiveMax):
    """Largest value of each of so many windows that cover a signal (N, C, L).

    Parameters
    ----------
    output_size : int or None
        Number of windows; None keeps the length.
    return_indices : bool, optional
        ``forward`` returns ``(y, indices)``: the position of every maximum, int64.
        Inside a Sequential only y goes on.

    Raises
    ------
    ArgumentError
        If ``output_size`` is out of range.
    """

    letters = "N, C, L"

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__(output_size, return_indices)


class AdaptiveMaxPool2d(_AdaptiveMax):
    """Largest value of each of so many windows that cover an image (N, C, H, W).

    Parameters
    ----------
    output_size : int, None, or a pair of these
        Rows and columns of windows; None keeps the image's.
    return_indices : bool, optional
        ``forward`` returns ``(y, indices)``: the flat position h W + w of every maximum, int64.
        Inside a Sequential only y goes on.

    Raises
    ------
    ArgumentError
        If ``output_size`` is out of range.
    """

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__(output_size, return_indices)


class GlobalMaxPool1d(Global, AdaptiveMaxPool1d):
    """Largest value of a signal: (N, C, L) to (N, C), as ``AdaptiveMaxPool1d(1)`` and then ``Flatten()``."""


class GlobalMaxPool2d(Global, AdaptiveMaxPool2d):
    """Largest value of an image: (N, C, H, W) to (N, C), as ``AdaptiveMaxPool2d(1)`` and then ``Flatten()``."""

"""Where the windows of pooling lie, along each axis of signals (N C L) or images (N C H W).

    sliding     window i starts at i s - p and takes every d-th of the following d (k - 1) + 1 positions
    adaptive    window i of o goes from floor(i n / o) to ceil((i + 1) n / o)

An axis's windows are a table with a row for each: its first position inside of the input, and how many of its positions are
inside. One kernel serves both kinds, and a signal is an image of height 1.

Windows that start a stride apart can be pooled tap by tap, element b of all windows at once, which vectorises if these lie
side by side. So a row of the input is dealt into as many parts as the stride: every stride-th element from the first, from the
second, ... Tap b of all windows is then a run in one part, and a table of taps has a row for each: the first window in which
it lies inside of the input, the window after the last, and where its run begins.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numba
import numpy as np

from numba_nn.core.call import Array
from numba_nn.core.checks import check_batch, check_flag, is_whole, per_axis
from numba_nn.core.device import CPU
from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.core.kernel import inner
from numba_nn.core.layer import Layer
from numba_nn.core.workspace import Shape

ONE_ROW = np.array([[0, 1]])  # the windows of height 1 of a signal
WORK = 4  # simple operations that a window's pooling takes for every element of the input, about
CACHE_LINE = 16  # elements of float32
FEW = 8  # so few windows in a row are pooled one by one: 99 us for 3 x 3, stride 2, on 128 planes of 16 x 16, by taps 132 us


@inner
def deal(parts, row, stride):
    """parts = every stride-th element of a row from the first, then from the second, ...; each part has the first's length."""
    size = -(-row.size // stride)
    if stride == 2:  # a loop for itself that reads both of a pair: LLVM then makes whole loads and shuffles of it
        even, odd = parts[:size], parts[size:]
        for i in range(row.size // 2):
            pair = np.uintp(2) * np.uintp(i)
            even[i], odd[i] = row[pair], row[pair + np.uintp(1)]
        if row.size % 2 == 1:
            even[size - 1] = row[row.size - 1]
    else:
        for part in range(min(stride, row.size)):
            target, source = parts[part * size :], row[part:]
            for i in range(-(-source.size // stride)):
                target[i] = source[i * stride]


@inner
def collect(row, parts, stride):
    """The row that was dealt into these parts."""
    size = -(-row.size // stride)
    if stride == 2:
        even, odd = parts[:size], parts[size:]
        for i in range(row.size // 2):
            pair = np.uintp(2) * np.uintp(i)
            row[pair], row[pair + np.uintp(1)] = even[i], odd[i]
        if row.size % 2 == 1:
            row[row.size - 1] = even[size - 1]
    else:
        for part in range(min(stride, row.size)):
            source, target = parts[part * size :], row[part:]
            for i in range(-(-target.size // stride)):
                target[i * stride] = source[i]


def scratch_rows(width: int, stride: int) -> tuple[int, int, int]:
    """Shape of scratch that holds two rows for every worker, one of them dealt into parts, in cache lines of its own."""
    # As many workers as there can be threads: a number that does not change, as that of the threads in use does.
    return numba.config.NUMBA_NUM_THREADS, 2, -(-(width + min(stride, width)) // CACHE_LINE) * CACHE_LINE


def holders(windows: Array, step: int, length: int) -> Array:
    """For every position of an axis, the first window that holds it, and how many there are from that to the last such."""
    first, last = np.full(length, len(windows)), np.full(length, -1)
    start, count = windows.T
    window = np.repeat(np.arange(len(windows)), count)
    tap = np.arange(window.size) - (np.cumsum(count) - count)[window]
    np.minimum.at(first, start[window] + tap * step, window)
    np.maximum.at(last, start[window] + tap * step, window)
    return np.stack([first, np.maximum(last - first + 1, 0)], 1)


class Pooling(Layer):
    """A layer whose output has an element for every window of every plane of its input."""

    letters: ClassVar[str] = "N, C, H, W"
    dilation: tuple[int, ...] = (1,)

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output: N, C, and the number of windows along every other axis.

        Raises
        ------
        ShapeError
            If the input has other dimensions, or no window fits in it.
        """
        check_batch(self, x_shape, self.letters)
        counts = [self._count(axis, length) for axis, length in enumerate(x_shape[2:])]
        if min(counts) < 1:
            raise ShapeError(f"{self!r}: no window fits in x of shape {x_shape}")
        return (*x_shape[:2], *counts)

    def _tables(self, x_shape: Shape, dtype: Any) -> tuple[Array, ...]:
        """The windows along the height and along the width, and the taps along the width: none where windows go one by one.

        On a GPU in place of the taps the windows that hold a row and those that hold a column.
        """
        lengths = (1,) * (4 - len(x_shape)) + x_shape[2:]
        tables = [self._windows(axis, length) for axis, length in enumerate(x_shape[2:])]
        tables = tables if len(tables) == 2 else [ONE_ROW, *tables]
        if self.device is CPU:
            return *tables, self._taps(len(x_shape) - 3, x_shape[-1])
        tables += [holders(*axis) for axis in zip(tables, (self.dilation[0], self.dilation[-1]), lengths, strict=True)]
        return tuple(self.device.from_host(table.astype(np.int32)) for table in tables)

    def _taps(self, axis: int, length: int) -> Array:
        """First window of every tap, the one after its last, and where its run begins in the dealt row."""
        windows, stride, taps = np.arange(self._count(axis, length)), self._stride(axis, length), []
        part = -(-length // stride)
        for offset in self._offsets(axis, length) if windows.size > FEW else ():
            position = windows * stride + offset
            inside = np.flatnonzero((position >= 0) & (position < length))
            if inside.size:
                first = position[inside[0]]
                taps.append((inside[0], inside[-1] + 1, first % stride * part + first // stride))
        return np.array(taps, np.int64).reshape(-1, 3)

    def _two_apart(self, x_shape: Shape) -> tuple[int, ...]:
        """Positions of the first window's elements, where windows are square and two apart; else none."""
        axes = list(enumerate(x_shape[2:]))
        offsets = {tuple(map(int, self._offsets(*axis))) if self._stride(*axis) == 2 else () for axis in axes}
        return offsets.pop() if len(axes) == 2 and len(offsets) == 1 else ()

    def _count(self, axis: int, length: int) -> int:
        """Number of windows along an axis."""
        raise NotImplementedError

    def _windows(self, axis: int, length: int) -> Array:
        """First position and number of positions of every window along an axis."""
        raise NotImplementedError

    def _stride(self, axis: int, length: int) -> int:
        """Step between the windows along an axis."""
        raise NotImplementedError

    def _offsets(self, axis: int, length: int) -> Array:
        """Positions of the elements of the first window, some perhaps outside of the input; none if windows differ in size."""
        raise NotImplementedError


class Sliding(Pooling):
    """Windows of one size, a stride apart."""

    def __init__(self, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> None:
        super().__init__()
        name, axes = type(self).__name__, self.letters.count(",") - 1
        self.kernel_size = per_axis(name, "kernel_size", kernel_size, 1, axes)
        self.stride = self.kernel_size if stride is None else per_axis(name, "stride", stride, 1, axes)
        self.padding = per_axis(name, "padding", padding, 0, axes)
        self.dilation = per_axis(name, "dilation", dilation, 1, axes)
        self.ceil_mode = check_flag(name, "ceil_mode", ceil_mode)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel_size, strict=True)):
            raise ArgumentError(f"{name}: padding must be at most half of kernel_size {self.kernel_size}, got {self.padding}")

    def _count(self, axis: int, length: int) -> int:
        stride, padding = self.stride[axis], self.padding[axis]
        room = length + 2 * padding - self.dilation[axis] * (self.kernel_size[axis] - 1) - 1
        if not self.ceil_mode:
            return room // stride + 1
        count = -(-room // stride) + 1
        # The last window must start inside the input or the left padding.
        return count - 1 if (count - 1) * stride >= length + padding else count

    def _starts(self, axis: int, length: int) -> Array:
        """Position of every window's first element, which may lie in the padding."""
        return np.arange(self._count(axis, length)) * self.stride[axis] - self.padding[axis]

    def _windows(self, axis: int, length: int) -> Array:
        starts, dilation = self._starts(axis, length), self.dilation[axis]
        before = -(np.minimum(starts, 0) // dilation)  # elements of the window that lie before the input
        first = starts + before * dilation
        inside = np.clip(-((first - length) // dilation), 0, self.kernel_size[axis] - before)
        return np.stack([np.minimum(first, length - 1), inside], 1)

    def _stride(self, axis: int, length: int) -> int:
        return self.stride[axis]

    def _offsets(self, axis: int, length: int) -> Array:
        return np.arange(self.kernel_size[axis]) * self.dilation[axis] - self.padding[axis]


class Adaptive(Pooling):
    """As many windows as are asked for, which cover the input."""

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        axes = self.letters.count(",") - 1
        sizes = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,) * axes
        if len(sizes) != axes or not all(size is None or (is_whole(size) and size >= 1) for size in sizes):
            wanted = {1: "an int of at least 1, or None", 2: "one or a pair of ints of at least 1, or None"}[axes]
            raise ArgumentError(f"{type(self).__name__}: output_size must be {wanted}, got {output_size!r}")
        self.output_size = tuple(None if size is None else int(size) for size in sizes)

    def _count(self, axis: int, length: int) -> int:
        return self.output_size[axis] or length

    def _windows(self, axis: int, length: int) -> Array:
        count = self._count(axis, length)
        windows = np.arange(count)
        first = windows * length // count
        return np.stack([first, -(-(windows + 1) * length // count) - first], 1)

    def _stride(self, axis: int, length: int) -> int:
        return max(1, length // self._count(axis, length))

    def _offsets(self, axis: int, length: int) -> Array:
        return np.arange(0 if length % self._count(axis, length) else self._stride(axis, length))

    def _arguments(self) -> str:
        return f"output_size={self.output_size}"


class Global(Adaptive):
    """One window that is the whole plane, and no axes left in the output; goes before an adaptive layer in the bases."""

    def __init__(self) -> None:
        super().__init__(1)

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output, (N, C).

        Raises
        ------
        ShapeError
            If the input has other dimensions, or is empty.
        """
        return super().output_shape(x_shape)[:2]

    def _arguments(self) -> str:
        return ""

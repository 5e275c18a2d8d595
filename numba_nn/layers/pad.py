"""Padding of signals (N C L) and images (N C H W): rows and columns around them, or fewer of them.

    constant:    y[n, c, h, w] = x[n, c, h - t, w - l] inside of the image, value outside
    reflection:  y[n, c, h, w] = x[n, c, m(h - t, H), m(w - l, W)],  m(i, n) = |n - 1 - |n - 1 - i||

t rows are added above, l columns to the left; negative numbers take away. m mirrors at the first and the last element, which
are not repeated. The backward of constant padding is padding by the negative numbers, with zeros; that of a reflection sums,
for every element, the gradients of its mirror images.
"""

from __future__ import annotations

import numbers
from typing import Any, ClassVar

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.checks import check_batch, is_whole
from numba_nn.core.cuda.planes import (
    NOWHERE,
    element,
    first_plane,
    gather,
    gather_planes,
    next_plane,
    over_planes,
    place_of_window,
    plane_row_column,
    planes_together,
)
from numba_nn.core.cuda.portable import put
from numba_nn.core.cuda.ptx import WINDOW, cuda, flat_part
from numba_nn.core.cuda.twin import cuda_helper
from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.core.kernel import In, Out, inner, kernel
from numba_nn.core.layer import Layer
from numba_nn.core.rows import fill
from numba_nn.core.strided import copy_part
from numba_nn.core.workspace import Shape
from numba_nn.layers.image import planes


@inner
def inside(before, length, padded):
    """First element of a padded axis that shows the axis itself, and the one after the last."""
    start = min(max(before, 0), padded)
    return start, max(start, min(before + length, padded))


@inner
def mirrored(i, length):
    """m(i, length): position i of an axis that is mirrored once at either end."""
    return abs(length - 1 - abs(length - 1 - i))


@inner
def mirror_images(i, before, length):
    """Positions in the padded axis that may show element i: mirrored at the start, itself, mirrored at the end; -1 for none."""
    return before - i if i > 0 else -1, before + i, before + 2 * (length - 1) - i if i < length - 1 else -1


@kernel
def constant_pad2d_forward(y: Out, x: In, top: int, left: int, value: float):
    """y = x, moved by (top, left); value elsewhere. x: (P, H, W), y: (P, H', W'), P planes."""
    constant, height, width = y.dtype.type(value), y.shape[1], y.shape[2]
    start, stop = inside(left, x.shape[2], width)
    to, origin = y.reshape(y.size), x.reshape(x.size)
    for r in prange(y.shape[0] * height):
        p, h = r // height, r % height - top
        if h < 0 or h >= x.shape[1]:
            fill(to, r * width, (r + 1) * width, constant)
        else:
            fill(to, r * width, r * width + start, constant)
            copy_part(to, r * width + start, origin, (p * x.shape[1] + h) * x.shape[2] + start - left, stop - start)
            fill(to, r * width + stop, (r + 1) * width, constant)


@constant_pad2d_forward.on_cuda(grid=over_planes)
def constant_pad2d_forward(y: Out, x: In, top: int, left: int, value: float):
    """A thread has a window of y."""
    sources = cuda.local.array(WINDOW, np.uint32)
    for lane in range(WINDOW):
        p, h, w = plane_row_column(place_of_window() + np.uint32(lane), y)
        i, j = np.uint32(h - top), np.uint32(w - left)  # what would be negative is large
        there = (i < np.uint32(x.shape[1])) & (j < np.uint32(x.shape[2]))
        sources[lane] = element(x, p, i, j) if there else np.uint32(NOWHERE)
    gather_planes(y, x, sources, y.dtype.type(value))


@kernel
def reflection_pad2d_forward(y: Out, x: In, top: int, left: int):
    """y = x and its mirror images; x: (P, H, W), y: (P, H', W'), P planes."""
    height, width = y.shape[1], x.shape[2]
    start, stop = inside(left, width, y.shape[2])
    to, origin = y.reshape(y.size), x.reshape(x.size)
    for r in prange(y.shape[0] * height):
        p, h = r // height, r % height
        at, source = r * y.shape[2], (p * x.shape[1] + mirrored(h - top, x.shape[1])) * width
        for w in range(start):
            to[at + w] = origin[source + mirrored(w - left, width)]
        copy_part(to, at + start, origin, source + start - left, stop - start)
        for w in range(stop, y.shape[2]):
            to[at + w] = origin[source + mirrored(w - left, width)]


@reflection_pad2d_forward.on_cuda(grid=over_planes)
def reflection_pad2d_forward(y: Out, x: In, top: int, left: int):
    """A thread has a window of y."""
    sources = cuda.local.array(WINDOW, np.uint32)
    for lane in range(WINDOW):
        p, h, w = plane_row_column(place_of_window() + np.uint32(lane), y)
        sources[lane] = element(x, p, mirrored(h - top, x.shape[1]), mirrored(w - left, x.shape[2]))
    gather_planes(y, x, sources, y.dtype.type(0))


@kernel
def reflection_pad2d_backward(dx: Out, dy: In, top: int, left: int):
    """dx = sum of dy over the mirror images; dx: (P, H, W), dy: (P, H', W'). Every row of dx is summed by one task."""
    height, width = dx.shape[1], dx.shape[2]
    flat, gradient = dx.reshape(dx.size), dy.reshape(dy.size)
    for r in prange(dx.shape[0] * height):
        fill(flat, r * width, (r + 1) * width, dx.dtype.type(0))
        for h in mirror_images(r % height, top, height):
            if h >= 0 and h < dy.shape[1]:
                add_mirrored(flat, r * width, width, gradient, (r // height * dy.shape[1] + h) * dy.shape[2], dy.shape[2], left)


@reflection_pad2d_backward.on_cuda(grid=over_planes)
def reflection_pad2d_backward(dx: Out, dy: In, top: int, left: int):
    """A thread has a window of dx. Where all of it shows once, as anywhere but near the edges, it is copied."""
    at, places, g = place_of_window(), np.uint32(dx.shape[1]) * np.uint32(dx.shape[2]), first_plane()
    window, sources, once = cuda.local.array(WINDOW, dx.dtype), cuda.local.array(WINDOW, np.uint32), True
    for lane in range(WINDOW):
        p, i, j = plane_row_column(at + np.uint32(lane), dx)
        sources[lane] = element(dy, p, i + top, j + left)
        once &= shows_once(i, top, dx.shape[1], dy.shape[1]) and shows_once(j, left, dx.shape[2], dy.shape[2])
    together = planes_together(places)
    while at < together * places and g * together < np.uint32(dx.shape[0]):
        if once:
            first = g * together * np.uint32(dy.shape[1]) * np.uint32(dy.shape[2])
            gather(window, flat_part(dy, 0, dy.size), first, sources, dx.dtype.type(0))
        else:
            for lane in range(WINDOW):
                window[lane] = mirrored_sum(dy, g * together * places + at + np.uint32(lane), dx, top, left)
        put(flat_part(dx, 0, dx.size), g * together * places + at, window, dx.size)
        g = next_plane(g)


@cuda_helper
def shows_once(i, before, length, padded):
    """Whether a padded axis shows element i, and none of its mirror images."""
    start, itself, end = mirror_images(np.int64(i), before, length)
    return 0 <= itself < padded and not 0 <= start < padded and not 0 <= end < padded


@cuda_helper
def mirrored_sum(dy, at, dx, top, left):
    """Sum of dy over the mirror images of element ``at`` of dx, up to nine; 0 beyond the end."""
    p, i, j = plane_row_column(at, dx)
    total = dy.dtype.type(0)
    for h in mirror_images(np.int64(i), top, dx.shape[1]):
        for w in mirror_images(np.int64(j), left, dx.shape[2]):
            if p < np.uint32(dx.shape[0]) and 0 <= h < dy.shape[1] and 0 <= w < dy.shape[2]:
                total += dy[p, h, w]
    return total


@inner
def add_mirrored(dx, at, width, dy, origin, padded, left):
    """Add a padded row of gradients to the row of ``width`` elements that it shows."""
    start, stop = inside(left, width, padded)
    for w in range(start):
        dx[at + mirrored(w - left, width)] += dy[origin + w]
    for w in range(start, stop):
        dx[np.uintp(at + w - left)] += dy[np.uintp(origin + w)]
    for w in range(stop, padded):
        dx[at + mirrored(w - left, width)] += dy[origin + w]


class Padding(Layer):
    """Base of the padding layers, which document the arguments."""

    letters: ClassVar[str]

    def __init__(self, padding: Any) -> None:
        super().__init__()
        sides = ("left", "right", "top", "bottom")[: 2 * self.letters.count(",") - 2]
        widths = tuple(padding) if isinstance(padding, (tuple, list)) else (padding,) * len(sides)
        if len(widths) != len(sides) or not all(map(is_whole, widths)):
            raise ArgumentError(f"{type(self).__name__}: padding must be an int or ({', '.join(sides)}), got {padding!r}")
        self.padding = tuple(map(int, widths))

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output.

        Raises
        ------
        ShapeError
            If the input has other dimensions, or cannot be padded so.
        """
        check_batch(self, x_shape, self.letters)
        pairs = list(zip(self.padding[::2], self.padding[1::2], strict=True))[::-1]  # of axes, the last of which comes first
        y_shape = (*x_shape[:2], *(n + sum(pair) for n, pair in zip(x_shape[2:], pairs, strict=True)))
        if min(y_shape[2:]) < 1:
            raise ShapeError(f"{self!r}: nothing would be left of x of shape {x_shape}")
        return y_shape

    def _corner(self) -> tuple[int, int]:
        """Rows added above and columns added to the left."""
        return (self.padding[2] if len(self.padding) == 4 else 0), self.padding[0]

    def _arguments(self) -> str:
        return f"padding={self.padding}"


class ConstantPadding(Padding):
    """Base of the layers that pad with a number."""

    def __init__(self, padding: Any, value: float) -> None:
        super().__init__(padding)
        if not isinstance(value, numbers.Real):
            raise ArgumentError(f"{type(self).__name__}: value must be a number, got {value!r}")
        self.value: float = float(value)

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        constant_pad2d_forward(planes(y), planes(x), *self._corner(), self.value)

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if dx is not None:
            top, left = self._corner()
            constant_pad2d_forward(planes(dx), planes(dy), -top, -left, 0.0)

    def _arguments(self) -> str:
        return f"{super()._arguments()}, value={self.value}"


class ReflectionPadding(Padding):
    """Base of the layers that pad with mirror images."""

    def output_shape(self, x_shape: Shape) -> Shape:
        """As `Padding.output_shape`; an image that is not larger than its padding has not elements enough to mirror."""
        y_shape = super().output_shape(x_shape)
        sizes = x_shape[:1:-1]
        if any(p >= sizes[i // 2] for i, p in enumerate(self.padding)):
            raise ShapeError(f"{self!r}: padding must be smaller than each size that it extends, got x of shape {x_shape}")
        return y_shape

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        reflection_pad2d_forward(planes(y), planes(x), *self._corner())

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if dx is not None:
            reflection_pad2d_backward(planes(dx), planes(dy), *self._corner())


class ConstantPad1d(ConstantPadding):
    """Extend signals by a number, (N, C, L) to (N, C, L').

    Parameters
    ----------
    padding : int or (left, right)
        Elements to add at either end; negative numbers take away.
    value : float
        What to add.

    Raises
    ------
    ArgumentError
        If an argument is not of that form.
    """

    letters = "N, C, L"

    def __init__(self, padding: Any, value: float) -> None:
        super().__init__(padding, value)


class ConstantPad2d(ConstantPadding):
    """Surround images with a number, (N, C, H, W) to (N, C, H', W').

    Parameters
    ----------
    padding : int or (left, right, top, bottom)
        Columns and rows to add; negative numbers take away.
    value : float
        What to add.

    Raises
    ------
    ArgumentError
        If an argument is not of that form.
    """

    letters = "N, C, H, W"

    def __init__(self, padding: Any, value: float) -> None:
        super().__init__(padding, value)


class ZeroPad1d(ConstantPad1d):
    """`ConstantPad1d` of 0.

    Parameters
    ----------
    padding : int or (left, right)
        Elements to add at either end; negative numbers take away.

    Raises
    ------
    ArgumentError
        If ``padding`` is not of that form.
    """

    def __init__(self, padding: Any) -> None:
        super().__init__(padding, 0.0)


class ZeroPad2d(ConstantPad2d):
    """`ConstantPad2d` of 0.

    Parameters
    ----------
    padding : int or (left, right, top, bottom)
        Columns and rows to add; negative numbers take away.

    Raises
    ------
    ArgumentError
        If ``padding`` is not of that form.
    """

    def __init__(self, padding: Any) -> None:
        super().__init__(padding, 0.0)


class ReflectionPad1d(ReflectionPadding):
    """Extend signals by their mirror images, (N, C, L) to (N, C, L'); the first and last element are not repeated.

    Parameters
    ----------
    padding : int or (left, right)
        Elements to add at either end, fewer than the signal has; negative numbers take away.

    Raises
    ------
    ArgumentError
        If ``padding`` is not of that form.
    """

    letters = "N, C, L"

    def __init__(self, padding: Any) -> None:
        super().__init__(padding)


class ReflectionPad2d(ReflectionPadding):
    """Surround images with their mirror images, (N, C, H, W) to (N, C, H', W'); the outermost pixels are not repeated.

    Parameters
    ----------
    padding : int or (left, right, top, bottom)
        Columns and rows to add, fewer than the image has; negative numbers take away.

    Raises
    ------
    ArgumentError
        If ``padding`` is not of that form.
    """

    letters = "N, C, H, W"

    def __init__(self, padding: Any) -> None:
        super().__init__(padding)

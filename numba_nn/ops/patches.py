"""Patches of images as columns of a matrix, and back.

    im2col    y[n, (c, i, j), (h, w)] = x[n, c, h s_h - p_h + i d_h, w s_w - p_w + j d_w]
    col2im    its transpose: every element is added to where it came from

N images of C channels; i, j taps of a kernel; s stride, p padding (of zeros), d dilation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.call import Array
from numba_nn.core.checks import check_array, check_destination, check_images, check_shape, pair
from numba_nn.core.cuda.planes import (
    NOWHERE,
    element,
    first_plane,
    gather_places,
    next_plane,
    over_planes,
    place_of_window,
    plane_row_column,
    planes_together,
    split,
)
from numba_nn.core.cuda.portable import put
from numba_nn.core.cuda.ptx import WINDOW, cuda, flat_part
from numba_nn.core.cuda.twin import cuda_helper
from numba_nn.core.device import device_of
from numba_nn.core.errors import ShapeError
from numba_nn.core.kernel import In, Out, kernel
from numba_nn.core.workspace import Shape, thread_workspace

u32 = np.uint32


@kernel
def im2col_forward(y: Out, x: In, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]):
    """Patches of planes; y: (P, kh, kw, H', W'), x: (P, H, W)."""
    taps = y.shape[1] * y.shape[2]
    for task in prange(y.shape[0] * taps):
        p, a, b = task // taps, task % taps // y.shape[2], task % y.shape[2]
        for h in range(y.shape[3]):
            row = h * stride[0] - padding[0] + a * dilation[0]
            for w in range(y.shape[4]):
                column = w * stride[1] - padding[1] + b * dilation[1]
                inside = 0 <= row < x.shape[1] and 0 <= column < x.shape[2]
                y[p, a, b, h, w] = x[p, row, column] if inside else 0


@im2col_forward.on_cuda(grid=over_planes)
def im2col_forward(y: Out, x: In, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]):
    """A thread has a window of y. A row or column above or beside the image, as an unsigned number, is large."""
    places = u32(u32(y.shape[1]) * u32(y.shape[2])) * u32(u32(y.shape[3]) * u32(y.shape[4]))
    sources = cuda.local.array(WINDOW, u32)
    for lane in range(WINDOW):
        line, w = split(place_of_window() + u32(lane), y.shape[4])
        line, h = split(line, y.shape[3])
        line, b = split(line, y.shape[2])
        p, a = split(line, y.shape[1])
        row = u32(h * u32(stride[0]) + a * u32(dilation[0]) - u32(padding[0]))
        column = u32(w * u32(stride[1]) + b * u32(dilation[1]) - u32(padding[1]))
        inside = row < u32(x.shape[1]) and column < u32(x.shape[2])
        sources[lane] = element(x, p, row, column) if inside else u32(NOWHERE)
    gather_places(y, u32(places), x, sources, y.dtype.type(0))


@kernel
def col2im_forward(y: Out, x: In, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]):
    """y = 0, then the patches added where they came from; y: (P, H, W), x: (P, kh, kw, H', W')."""
    for p in prange(y.shape[0]):
        y[p] = 0
        for a in range(x.shape[1]):
            for b in range(x.shape[2]):
                for h in range(x.shape[3]):
                    row = h * stride[0] - padding[0] + a * dilation[0]
                    if 0 <= row < y.shape[1]:
                        for w in range(x.shape[4]):
                            column = w * stride[1] - padding[1] + b * dilation[1]
                            if 0 <= column < y.shape[2]:
                                y[p, row, column] += x[p, a, b, h, w]


@col2im_forward.on_cuda(grid=over_planes)
def col2im_forward(y: Out, x: In, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]):
    """A thread has a window of y, and looks up what is added to it."""
    places, at, g = u32(u32(y.shape[1]) * u32(y.shape[2])), place_of_window(), first_plane()
    together, totals = planes_together(places), cuda.local.array(WINDOW, y.dtype)
    while at < together * places and g * together < u32(y.shape[0]):
        first = u32(
            g * together
        )  # one by one: LLVM does not unroll a loop of so much in float64, and the window would go to memory
        totals[0] = sum_at(y, x, first, at, stride, padding, dilation)
        totals[1] = sum_at(y, x, first, u32(at + u32(1)), stride, padding, dilation)
        totals[2] = sum_at(y, x, first, u32(at + u32(2)), stride, padding, dilation)
        totals[3] = sum_at(y, x, first, u32(at + u32(3)), stride, padding, dilation)
        put(flat_part(y, 0, y.size), g * together * places + at, totals, y.size)
        g = next_plane(g)


@cuda_helper
def sum_at(y, x, first, place, stride, padding, dilation):
    """What patches have of the element at a place of plane ``first`` of y, or of those that follow."""
    p, h, w = plane_row_column(place, y)
    return sum_over_taps(x, u32(first + p), u32(h + u32(padding[0])), u32(w + u32(padding[1])), stride, dilation)


@cuda_helper
def sum_over_taps(x, p, row, column, stride, dilation):
    """What patches have of an element of plane p, tap by tap; its row and column count from the padding's corner."""
    flat, total = flat_part(x, 0, x.size), x.dtype.type(0)
    for a in range(u32(x.shape[1] if p < u32(x.shape[0]) else 0)):
        h, between = split(row - u32(a) * u32(dilation[0]), stride[0])
        if between == 0 and h < u32(x.shape[3]):  # what would be negative is large
            for b in range(u32(x.shape[2])):
                w, between = split(column - u32(b) * u32(dilation[1]), stride[1])
                if between == 0 and w < u32(x.shape[4]):
                    tap = (p * u32(x.shape[1]) + u32(a)) * u32(x.shape[2]) + u32(b)
                    total += flat[u32((tap * u32(x.shape[3]) + h) * u32(x.shape[4]) + w)]
    return total


class _Geometry:
    """Checked arguments, and the number of patches of an image."""

    def __init__(self, where: str, image: Shape, kernel_size: Any, stride: Any, padding: Any, dilation: Any) -> None:
        self.size, self.stride = pair(where, "kernel_size", kernel_size, 1), pair(where, "stride", stride, 1)
        self.padding, self.dilation = pair(where, "padding", padding, 0), pair(where, "dilation", dilation, 1)
        sizes = zip(image, self.size, self.stride, self.padding, self.dilation, strict=True)
        self.counts = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
        if min(self.counts) < 1:
            raise ShapeError(f"{where}: an image of {image[0]} x {image[1]} is smaller than the kernel")

    @property
    def steps(self) -> tuple[tuple[int, int], ...]:
        """What the kernels take."""
        return self.stride, self.padding, self.dilation


def im2col(x: Array, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, out: Array | None = None) -> Array:
    """Patches of images as columns.

    Parameters
    ----------
    x : ndarray or device array
        (N, C, H, W), float32 or float64; on a GPU also of 16 bits.
    kernel_size, stride, padding, dilation : int or (int, int), optional
        As a convolution's.
    out : ndarray or device array, optional
        Where to write the result: C-contiguous, apart from ``x``.

    Returns
    -------
    ndarray or device array
        (N, C kh kw, H' W'): ``out`` itself, or a fresh array.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    ShapeError, DTypeError, DestinationError
        If an array does not fit; nothing was written.
    DeviceError
        If arrays live on different devices.
    """
    device = device_of(x)
    x = device.accept(x)
    check_array("im2col", "x", x, None, device)
    check_images("im2col", x.shape)
    geometry = _Geometry("im2col", x.shape[2:], kernel_size, stride, padding, dilation)
    n, c = x.shape[:2]
    (kh, kw), (h, w) = geometry.size, geometry.counts
    shape = (n, c * kh * kw, h * w)
    if out is None:
        out = device.empty(shape, x.dtype)
    y = device.accept(out)
    check_destination("im2col", "out", y, shape, x.dtype, x, device=device)
    planes = thread_workspace(device).contiguous("x", x).reshape(n * c, *x.shape[2:])
    im2col_forward.for_work(y.size, device)(y.reshape(n * c, kh, kw, h, w), planes, *geometry.steps)
    return out


def col2im(
    x: Array, output_size: Any, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    out: Array | None = None,
) -> Array:  # fmt: skip
    """Images as sums of patches: what overlaps is added.

    Parameters
    ----------
    x : ndarray or device array
        (N, C kh kw, H' W'), float32 or float64; on a GPU also of 16 bits.
    output_size : (int, int)
        Height and width of the images.
    kernel_size, stride, padding, dilation : int or (int, int), optional
        As a convolution's.
    out : ndarray or device array, optional
        Where to write the result: C-contiguous, apart from ``x``.

    Returns
    -------
    ndarray or device array
        (N, C, H, W): ``out`` itself, or a fresh array.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    ShapeError, DTypeError, DestinationError
        If an array does not fit; nothing was written.
    DeviceError
        If arrays live on different devices.
    """
    device = device_of(x)
    x = device.accept(x)
    check_array("col2im", "x", x, None, device)
    height, width = pair("col2im", "output_size", output_size, 1)
    geometry = _Geometry("col2im", (height, width), kernel_size, stride, padding, dilation)
    (kh, kw), (h, w) = geometry.size, geometry.counts
    if x.ndim != 3 or x.shape[1] % (kh * kw):
        raise ShapeError(f"col2im: x must have shape (N, C {kh * kw}, {h * w}), got {x.shape}")
    n, c = x.shape[0], x.shape[1] // (kh * kw)
    check_shape("col2im", "x", x.shape, (n, c * kh * kw, h * w))
    shape = (n, c, height, width)
    if out is None:
        out = device.empty(shape, x.dtype)
    y = device.accept(out)
    check_destination("col2im", "out", y, shape, x.dtype, x, device=device)
    columns = thread_workspace(device).contiguous("x", x).reshape(n * c, kh, kw, h, w)
    col2im_forward.for_work(x.size, device)(y.reshape(n * c, height, width), columns, *geometry.steps)
    return out

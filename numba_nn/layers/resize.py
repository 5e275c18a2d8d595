"""Resizing images.

Nearest neighbour (N C H W): y[n, c, h, w] = x[n, c, rows[h], columns[w]], with rows[h] = min(floor(h H / H'), H - 1).
Its backward sums, for every input pixel, the gradients of the output pixels that show it: on a GPU, a pooling
with shares of 1 does that.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.checks import check_flag, check_images, pair
from numba_nn.core.cuda.narrow import wide
from numba_nn.core.cuda.planes import element, gather_planes, over_planes, place_of_window, plane_row_column
from numba_nn.core.cuda.ptx import WINDOW, cuda
from numba_nn.core.device import CPU
from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.core.kernel import In, Out, kernel
from numba_nn.core.layer import Layer
from numba_nn.core.workspace import Shape
from numba_nn.layers.image import planes
from numba_nn.layers.pooling.cuda import pool_means

REAL = (int, float, np.integer, np.floating)


@kernel
def upsample_nearest2d_forward(y: Out, x: In, rows: In, columns: In):
    """y[p, h, w] = x[p, rows[h], columns[w]]; x: (P, H, W), y: (P, H', W'), P planes."""
    for p in prange(y.shape[0]):
        for h in range(y.shape[1]):
            row, source, before = y[p, h], x[p, rows[h]], y[p, max(0, h - 1)]
            if h > 0 and rows[h] == rows[h - 1]:
                for w in range(row.size):
                    row[w] = before[w]
            else:
                for w in range(row.size):
                    row[w] = source[np.uintp(columns[w])]  # unsigned: not looked at for a negative one


@upsample_nearest2d_forward.on_cuda(grid=over_planes)
def upsample_nearest2d_forward(y: Out, x: In, rows: In, columns: In):
    """A thread has a window of y."""
    sources = cuda.local.array(WINDOW, np.uint32)
    for lane in range(WINDOW):
        p, h, w = plane_row_column(place_of_window() + np.uint32(lane), y)
        sources[lane] = element(x, p, rows[h], columns[w])
    gather_planes(y, x, sources, y.dtype.type(0))


@kernel
def upsample_nearest2d_backward(dx: Out, dy: In, rows: In, columns: In):
    """dx[p, i, j] = sum of dy[p, h, w] over rows[h] = i, columns[w] = j."""
    zero = dx.dtype.type(0)
    for p in prange(dx.shape[0]):
        for i in range(dx.shape[1]):
            for j in range(dx.shape[2]):
                dx[p, i, j] = zero
        for h in range(dy.shape[1]):
            row, source = dx[p, rows[h]], dy[p, h]
            for w in range(source.size):
                row[np.uintp(columns[w])] += source[w]


def _factors(value: Any) -> tuple[float, float]:
    """One or two positive finite numbers, as a pair."""
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2 or not all(isinstance(v, REAL) and 0 < v < math.inf for v in both):
        raise ArgumentError(f"Upsample: scale_factor must be one or two positive finite numbers, got {value!r}")
    return float(both[0]), float(both[1])


class Upsample(Layer):
    """Enlarge (or shrink) images by nearest neighbour.

    Parameters
    ----------
    size : int or (int, int), optional
        Height and width of the output; either this or ``scale_factor``.
    scale_factor : float or (float, float), optional
        Output size over input size, rounded down.
    mode : {"nearest"}, optional
        The only mode so far.
    align_corners : None, optional
        For other modes than this one.
    recompute_scale_factor : bool or None, optional
        None or False: an input is read as ``scale_factor`` says, whatever the output's size was rounded to.

    Raises
    ------
    ArgumentError
        If not exactly one of ``size`` and ``scale_factor`` is given, or one is out of range.
    """

    def __init__(
        self, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if align_corners is not None:
            raise ArgumentError(f"Upsample: align_corners must be None for mode 'nearest', got {align_corners!r}")
        if recompute_scale_factor is not None and check_flag("Upsample", "recompute_scale_factor", recompute_scale_factor):
            raise ArgumentError("Upsample: recompute_scale_factor must be False or None, got True; size= says the same")
        if mode != "nearest":
            raise ArgumentError(f"Upsample: mode must be 'nearest', got {mode!r}")
        if (size is None) == (scale_factor is None):
            raise ArgumentError(f"Upsample: give either size or scale_factor, got size={size}, scale_factor={scale_factor}")
        self.size = None if size is None else pair("Upsample", "size", size, 1)
        self.scale_factor = None if scale_factor is None else _factors(scale_factor)

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output, (N, C, H', W').

        Raises
        ------
        ShapeError
            If the input is not (N, C, H, W), or the output would be empty.
        """
        check_images(self, x_shape)
        if self.size is not None:
            return (*x_shape[:2], *self.size)
        assert self.scale_factor is not None
        height, width = (math.floor(n * s) for n, s in zip(x_shape[2:], self.scale_factor, strict=True))
        if height < 1 or width < 1:
            raise ShapeError(f"{self!r}: x of shape {x_shape} would become {height} x {width}")
        return (*x_shape[:2], height, width)

    def _sources(self, x_shape: Shape, dtype: Any) -> list[Array]:
        """The source row of every output row, and the source column of every output column."""
        sizes = zip(x_shape[2:], self.output_shape(x_shape)[2:], strict=True)
        return [self._source(axis, *lengths, wide(dtype).type) for axis, lengths in enumerate(sizes)]

    def _tables(self, x_shape: Shape, dtype: Any) -> tuple[Array, ...]:
        """The sources; on a GPU also the rows and the columns that show one of the input: first, count; and shares of 1."""
        tables = self._sources(x_shape, dtype)
        if self.device is not CPU:
            shown = zip(tables, x_shape[2:], strict=True)
            starts = [np.searchsorted(table, np.arange(length + 1)) for table, length in shown]
            tables += [np.stack([start[:-1], np.diff(start)], 1).astype(np.int32) for start in starts]
            tables += [np.ones(length, wide(dtype)) for length in x_shape[2:]]
        return tuple(map(self.device.from_host, tables))

    def _source(self, axis: int, length: int, target: int, number: type[np.floating[Any]]) -> Array:
        if target in (length, 2 * length):  # as PyTorch has it: whatever the factor was before it was rounded
            return np.arange(target) * length // target
        # as PyTorch rounds where the factor is no integer: products in the precision of x, but to float32 before the floor
        step = number(length / target if self.scale_factor is None else 1.0 / self.scale_factor[axis])
        index = np.floor((np.arange(target, dtype=number) * step).astype(np.float32)).astype(np.int64)
        return np.minimum(index, length - 1)

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        run = upsample_nearest2d_forward.for_work(y.size, self.device)
        run(planes(y), planes(x), *call.tables[:2])

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if dx is not None and self.device is not CPU:
            pool_means(planes(dx), planes(dy), *call.tables[2:])
        elif dx is not None:
            run = upsample_nearest2d_backward.for_work(dy.size, self.device)
            run(planes(dx), planes(dy), *call.tables)

    def _arguments(self) -> str:
        return f"size={self.size}" if self.size else f"scale_factor={self.scale_factor}"

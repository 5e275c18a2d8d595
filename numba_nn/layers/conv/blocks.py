"""How a weight gradient of a convolution is cut into blocks, and the scratch that they take.

Kernels ask the functions of this file where their blocks end, and `scratch_shapes` asks the same functions for the largest
block: sizes and loops cannot drift apart.
"""

from __future__ import annotations

import math
from typing import Any

from numba_nn.core.kernel import inner
from numba_nn.core.product.block import DEPTH
from numba_nn.core.product.gemm import TASKS
from numba_nn.core.simd import tile_shape
from numba_nn.core.workspace import Shape

BLOCK_PIXELS = 256  # patches of a block: 256 x 256 x 4 B = 256 KB, a quarter of a 1 MB L2
BLOCK_ROWS = 240  # output channels of a block: as many values of dy of these pixels

Geometry = tuple[int, ...]


@inner
def pairs(geometry):
    """The four pairs of a geometry."""
    return geometry[0:2], geometry[2:4], geometry[4:6], geometry[6:8]


@inner
def panel_count(rows, height):
    """Panels of ``height`` rows that hold so many rows."""
    return -(-rows // height)


@inner
def channel_slice(channels, taps):
    """Channels whose taps make about DEPTH rows of the patch matrix."""
    return max(1, min(channels, DEPTH // (taps[0] * taps[1])))


@inner
def gradient_blocks(rows, height):
    """Blocks of output channels of a weight gradient; none has more than rows / blocks, rounded up."""
    return -(-rows // (BLOCK_ROWS // height * height))


@inner
def patch_view(first, last, out_width, taps, stride, dilation):
    """The view (see `numba_nn.layers.conv.patches`) under output pixels ``first`` to ``last``.

    All columns of the output, unless the pixels lie in one row of it: then only those that they need.
    """
    row, bottom = first // out_width, (last - 1) // out_width
    left, count = (first - row * out_width, last - first) if row == bottom else (0, out_width)
    rows = (bottom - row) * stride[0] + (taps[0] - 1) * dilation[0] + 1
    columns = (count - 1) * stride[1] + (taps[1] - 1) * dilation[1] + 1
    return rows, columns, row, left, taps, stride, dilation


def scratch_shapes(
    x_shape: Shape, y_shape: Shape, geometry: Geometry, groups: int, dtype: Any, workers: int
) -> dict[str, Shape]:
    """Shapes of the scratch of a weight gradient (geometry: see `numba_nn.layers.conv.weight_gradient`)."""
    height, width = tile_shape(dtype)
    rows, channels = y_shape[1] // groups, x_shape[1] // groups
    taps = geometry[0] * geometry[1]
    padded, patches = _slice_sizes(channels, y_shape, geometry, width)
    blocks, step = gradient_blocks.py_func(rows, height), channel_slice.py_func(channels, geometry[:2])
    # Parts of a batch, so that small layers have tasks enough too.
    parts = max(1, min(x_shape[0], -(-TASKS // (groups * blocks * -(-channels // step)))))
    return {
        "padded": (workers, padded),
        "patches": (workers, patches),
        "partial": (parts, y_shape[1] * channels * taps if parts > 1 else 0),
        "dy": (workers, panel_count.py_func(-(-rows // blocks), height) * height * BLOCK_PIXELS),
        "panels": (workers, panel_count.py_func(step * taps, width) * width * BLOCK_PIXELS),
    }


def _slice_sizes(channels: int, y_shape: Shape, geometry: Geometry, width: int) -> tuple[int, int]:
    """Elements that one worker's padded slice and its patches take at most, for a correlation with this output."""
    taps, stride, _, dilation = pairs.py_func(geometry)
    count, out_width = channel_slice.py_func(channels, taps), y_shape[3]
    # The largest block within a row, and the one over most rows: that which starts with the last pixel of a row.
    within = 0, min(out_width, BLOCK_PIXELS)
    over = out_width - 1, min(y_shape[2] * out_width, out_width - 1 + BLOCK_PIXELS)
    views = (patch_view.py_func(*block, out_width, taps, stride, dilation) for block in (within, over))
    slack = width  # copy_run reads and writes up to a vector beyond the end
    return count * max(math.prod(view[:2]) for view in views) + slack, count * taps[0] * taps[1] * BLOCK_PIXELS

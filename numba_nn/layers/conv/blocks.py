"""How a weight gradient of a convolution is cut into blocks, and the scratch that they take.

Kernels ask the functions of this file where their blocks end, and `scratch_shapes` asks the same functions for the largest
block: sizes and loops cannot drift apart.
"""

from __future__ import annotations

from typing import Any

from numba_nn.core.kernel import inner
from numba_nn.core.product.block import DEPTH
from numba_nn.core.product.gemm import TASKS
from numba_nn.core.simd import tile_shape
from numba_nn.core.workspace import Shape
from numba_nn.layers.conv.patches import Geometry

BLOCK_PIXELS = 256  # patches of a block: 256 x 256 x 4 B = 256 KB, a quarter of a 1 MB L2
BLOCK_ROWS = 240  # output channels of a block: as many values of dy of these pixels


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


def scratch_shapes(
    x_shape: Shape, y_shape: Shape, geometry: Geometry, groups: int, dtype: Any, workers: int
) -> dict[str, Shape]:
    """Shapes of the scratch of a weight gradient (geometry: see `numba_nn.layers.conv.patches`)."""
    height, width = tile_shape(dtype)
    rows, channels = y_shape[1] // groups, x_shape[1] // groups
    taps = geometry[0] * geometry[1]
    blocks, step = gradient_blocks.py_func(rows, height), channel_slice.py_func(channels, geometry[:2])
    # Parts of a batch, so that small layers have tasks enough too.
    parts = max(1, min(x_shape[0], -(-TASKS // (groups * blocks * -(-channels // step)))))
    return {
        "patches": (workers, step * taps * BLOCK_PIXELS),
        "partial": (parts, y_shape[1] * channels * taps if parts > 1 else 0),
        "dy": (workers, panel_count.py_func(-(-rows // blocks), height) * height * BLOCK_PIXELS),
        "panels": (workers, panel_count.py_func(step * taps, width) * width * BLOCK_PIXELS),
    }

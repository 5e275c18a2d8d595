"""How a weight gradient of a convolution is cut into blocks, and the scratch that they take.

Kernels ask the functions of this file where their blocks end, and `scratch_shapes` asks the same functions for the largest
block: sizes and loops cannot drift apart.
"""

from __future__ import annotations

from typing import Any

from numba_nn.core.kernel import inner
from numba_nn.core.product.block import DEPTH
from numba_nn.core.product.gemm import TASKS
from numba_nn.core.simd import VECTORS, tile_shape
from numba_nn.core.threads import team_size
from numba_nn.core.workspace import Shape
from numba_nn.layers.conv.patches import Geometry

BLOCK_PIXELS = 256  # patches of a block: 256 x 256 x 4 B = 256 KB, a quarter of a 1 MB L2
BLOCK_ROWS = 240  # output channels of a block: as many values of dy of these pixels
LEAST_COLUMN_PANELS, LEAST_ROW_PANELS = 3, 8  # of a task: each block of columns costs a pass over weights, each part one over x


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
def task_cuts(products, column_panels, most_columns, row_panels, most_rows):
    """Blocks of columns, and parts of rows, of at most so many panels: tasks for all threads, if sizes allow.

    Blocks change the order in which a matrix product is computed, not its sums.
    """
    team, blocks, parts = team_size(), -(-column_panels // most_columns), -(-row_panels // most_rows)
    if products * blocks * parts % team:
        blocks = max(blocks, min(-(-blocks // team) * team, column_panels // LEAST_COLUMN_PANELS))
        parts = max(parts, min(-(-team // (products * blocks)), row_panels // LEAST_ROW_PANELS))
    return blocks, parts


def panel_vectors(columns: int, width: int) -> float:
    """Vectors of columns in panels of two, of which one takes three quarters of the time by itself."""
    whole, rest = divmod(columns, width)
    return VECTORS * (whole + (0.75 if 0 < rest <= width // VECTORS else rest > 0))


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

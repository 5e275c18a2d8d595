"""How forwards and input gradients that multiply packed panels are cut into tasks, and what their products cost."""

from __future__ import annotations

from numba_nn.core.kernel import inner
from numba_nn.core.simd import VECTORS, tile_heights
from numba_nn.core.threads import team_size

LEAST_COLUMN_PANELS, LEAST_ROW_PANELS = 3, 8  # of a task: each block of columns costs a pass over weights, each part one over x


@inner
def task_cuts(products, column_panels, most_columns, row_panels, most_rows):
    """Into how many blocks of columns, and parts of rows, each of so many equal products is cut.

    None has more than ``most_columns`` or ``most_rows`` panels, which scratch is made for. Where these tasks would not go round
    evenly, there are more of them, for as many threads as there are now: the order of the work changes, no sum does.
    """
    team, blocks, parts = team_size(), -(-column_panels // most_columns), -(-row_panels // most_rows)
    if products * blocks * parts % team:
        blocks = max(blocks, min(-(-blocks // team) * team, column_panels // LEAST_COLUMN_PANELS))
        parts = max(parts, min(-(-team // (products * blocks)), row_panels // LEAST_ROW_PANELS))
    return blocks, parts


def tiled_rows(rows: int, height: int) -> int:
    """Rows that tiles of ``height`` compute for so many, where a lower tile serves what is left."""
    whole, rest = divmod(rows, height)
    return whole * height + (min(tall for tall in tile_heights()[1:] if tall >= rest) if rest else 0)


def panel_vectors(columns: int, width: int) -> float:
    """Vectors of columns in panels of two, of which one by itself takes three quarters of the time (Intel Xeon)."""
    whole, rest = divmod(columns, width)
    return VECTORS * (whole + (0.75 if 0 < rest <= width // VECTORS else rest > 0))

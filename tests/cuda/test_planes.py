"""How planes are dealt to blocks of threads."""

from __future__ import annotations

import pytest

from numba_nn.core.cuda.planes import plane_grid
from numba_nn.core.cuda.twin import MAX_BLOCKS


@pytest.mark.parametrize(
    ("planes", "windows", "blocks", "threads"),
    [
        (100, 2, (1, 7), (2, 16)),  # few: a warp has several
        (100, 40, (1, 100), (40, 1)),
        (5_000, 40, (1, 834), (40, 6)),  # many: a block has several
        (1_000_000, 2, (1, MAX_BLOCKS), (2, 128)),
        (3, 300, (2, 3), (256, 1)),  # long: several blocks have one
        (0, 2, (1, 0), (2, 16)),
        (3, 0, (0, 1), (1, 32)),
    ],
)
def test_short_planes_share_a_block(planes, windows, blocks, threads):
    assert plane_grid(planes, windows) == (blocks, threads)

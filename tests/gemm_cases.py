"""Sizes, transpositions and batches of matrix products, for the CPU and the simulated GPU."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

# Around the tile (12 x 32, or 6 x 16), a packing task (8 panels, 128 deep), and the blocks (72 rows, and 2**18 elements of B or
# half as many, in slices 256 to 320 deep).
EDGES = [
    (1, 1, 1), (2, 1, 3), (1, 33, 7), (11, 31, 5), (12, 32, 256), (13, 33, 257), (6, 16, 1), (7, 17, 255), (95, 65, 127),
    (97, 257, 129), (240, 32, 13), (241, 33, 12), (253, 5, 64), (13, 511, 8), (12, 513, 9), (300, 1, 300), (1, 300, 520),
    (481, 33, 5), (13, 1025, 5), (145, 70, 321), (143, 897, 330), (300, 70, 17),
    (483, 31, 2), (1000, 1, 3), (97, 1, 64), (1, 1, 300), (1, 1000, 3), (1, 1100, 19), (1000, 1, 19), (31, 64, 128),
    (16, 97, 70), (0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0),
]  # fmt: skip
TRANSPOSITIONS = list(itertools.product([False, True], repeat=2))
# Leading dimensions of both operands, which broadcast.
BATCHES = [
    ((3,), (3,)), ((3,), ()), ((), (3,)), ((2, 1), (1, 3)), ((2, 3), (3,)), ((1, 1, 2), (4, 1, 1)), ((40,), (1,)),
    ((0,), ()), ((2, 0), (1, 1)), ((1,), (1,)),
]  # fmt: skip


def operands(
    m: int, n: int, k: int, transpose_a: bool = False, transpose_b: bool = False, dtype: Any = np.float64,
    left: tuple[int, ...] = (), right: tuple[int, ...] = (),
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Normal numbers, which depend on sizes and numbers of dimensions alone."""
    rng = np.random.default_rng((m, n, k, len(left), len(right)))
    a = rng.standard_normal((*left, *((k, m) if transpose_a else (m, k))))
    b = rng.standard_normal((*right, *((n, k) if transpose_b else (k, n))))
    return a.astype(dtype), b.astype(dtype)

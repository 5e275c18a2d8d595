"""Where batches come from: loaders, and pairs of arrays in place of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from numba_nn.core.call import Array
from numba_nn.core.errors import ArgumentError, DataError
from numba_nn.data import Batches


class Loader(Protocol):
    """What gives batches: `data.Batches`, `data.Stream`, or anything else with this method."""

    def epoch(self, e: int) -> Iterator[tuple[Array, ...]]:
        """The batches (x, target) of epoch e."""


def as_loader(where: str, data: Any, batch_size: int, shuffle: bool, seed: int = 0) -> Loader:
    """Arrays (x, target) as batches; a loader as it is."""
    if hasattr(data, "epoch"):
        return data
    if _is_pair(data):
        return Batches(*data, batch_size=batch_size, seed=seed, shuffle=shuffle)
    raise ArgumentError(
        f"{where}: data must be a pair of NumPy arrays (x, target), data.Batches or data.Stream, got {_kinds(data)}; "
        "wrap a generator function in data.Stream"
    )


def pairs(where: str, loader: Loader, epoch: int) -> Iterator[tuple[Array, Array]]:
    """The batches of an epoch, each of which must be x and target."""
    for batch in loader.epoch(epoch):
        if not _is_pair(batch):
            raise DataError(f"{where}: a batch must be a pair of NumPy arrays (x, target), got {_kinds(batch)}")
        yield batch[0], batch[1]


def _is_pair(data: Any) -> bool:
    return isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(a, np.ndarray) for a in data)


def _kinds(data: Any) -> str:
    if isinstance(data, (tuple, list)):
        return f"({', '.join(type(item).__name__ for item in data)})"
    return type(data).__name__

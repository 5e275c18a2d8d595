"""Mini-batches copied into buffers that are allocated once, in an order that a resumed run sees again."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numba_nn.core.checks import check_flag, is_whole
from numba_nn.core.errors import ArgumentError, DataError, DTypeError, ShapeError

KEY_LIMIT = 2**64  # seed and epoch are the two 64-bit words of Philox's key


class Batches:
    """Aligned mini-batches of one or more arrays.

    Parameters
    ----------
    *arrays : ndarray, shape (N, ...)
        Arrays of equal length, of any dtype but object. A C-contiguous array is borrowed; any other is copied once, here.
    batch_size : int
        Items in a batch.
    seed : int
        With the epoch it determines the order; 0 <= seed < 2**64.
    shuffle : bool
        Permute the items anew for each epoch. False gives them in order.
    drop_last : bool
        Leave out the last batch of an epoch where it would be smaller than `batch_size`.

    Raises
    ------
    ArgumentError
        No array, `batch_size` below 1, a seed out of range, or `drop_last` would leave no batch at all.
    DTypeError
        Something is no ndarray, or has dtype object.
    ShapeError
        An array has no dimension or no items, or lengths differ.

    Notes
    -----
    The order of epoch ``e`` is the shuffle by ``numpy.random.Generator(Philox(key=[seed, e]))`` of ``0 .. N-1`` and depends on
    nothing else, so that a run resumed at epoch ``e`` sees the batches that an unbroken run would have seen.

    Each pass over the object, ``for x, target in batches``, is the next epoch: 0, 1, 2, ...; a call of `epoch` sets where
    passes go on. To resume at epoch ``e``, go through ``batches.epoch(e)`` first: passes after it are e + 1, e + 2, ...

    All memory for batches and for the order is taken by the constructor. A batch lies in a buffer that the next batch
    overwrites: copy what must outlive the loop's turn.

    Examples
    --------
    >>> import numpy as np
    >>> batches = Batches(np.arange(5), np.arange(5) * 10, batch_size=2, shuffle=False)
    >>> [(x.tolist(), y.tolist()) for x, y in batches.epoch(0)]
    [([0, 1], [0, 10]), ([2, 3], [20, 30]), ([4], [40])]
    >>> [len(x) for x, y in batches]
    [2, 2, 1]
    """

    def __init__(
        self, *arrays: NDArray[Any], batch_size: int, seed: int = 0, shuffle: bool = True, drop_last: bool = False
    ) -> None:
        count = common_length("Batches", arrays)
        require_whole_number("Batches", "batch_size", batch_size, 1, None)
        require_whole_number("Batches", "seed", seed, 0, KEY_LIMIT)
        self.drop_last = check_flag("Batches", "drop_last", drop_last)
        if drop_last and batch_size > count:
            raise ArgumentError(f"Batches: drop_last with batch_size {batch_size} leaves none of the {count} items")
        self.batch_size = int(batch_size)
        self.seed = int(seed)
        self.shuffle = check_flag("Batches", "shuffle", shuffle)
        # np.take would copy a strided array whole, at every batch.
        self._arrays = tuple(np.require(array, requirements=["C", "A"]) for array in arrays)
        self._buffers = tuple(np.empty((min(self.batch_size, count), *a.shape[1:]), a.dtype) for a in self._arrays)
        self._in_order = np.arange(count)
        self._order = np.arange(count)
        self._newest = 0  # serial number of the newest iterator, the only one that may go on
        self._next_epoch = 0

    def __iter__(self) -> Iterator[tuple[NDArray[Any], ...]]:
        """Iterate over the batches of the next epoch: the one after that of the newest pass or call of `epoch`, at first 0."""
        return self.epoch(self._next_epoch)

    def __len__(self) -> int:
        """Batches in an epoch."""
        count = len(self._order)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def epoch(self, e: int) -> Iterator[tuple[NDArray[Any], ...]]:
        """Iterate over the batches of one epoch.

        Parameters
        ----------
        e : int
            Number of the epoch, 0 <= e < 2**64. Epochs may come in any order, and again. The next pass over the object itself
            goes through epoch e + 1.

        Returns
        -------
        iterator of tuple of ndarray
            One array of shape (batch_size, ...) for each array given, always in a tuple. The last batch may be smaller, and
            is then a view of the same buffer's beginning.

        Raises
        ------
        ArgumentError
            `e` is no whole number or out of range.
        DataError
            From the iterator, when a later call of `epoch` has taken over its buffers.
        """
        require_whole_number("Batches", "epoch", e, 0, KEY_LIMIT)
        self._next_epoch = int(e) + 1
        np.copyto(self._order, self._in_order)
        if self.shuffle:
            key = np.array([self.seed, e], np.uint64)
            np.random.Generator(np.random.Philox(key=key)).shuffle(self._order)
        self._newest += 1
        return self._walk(self._newest)

    def _walk(self, serial: int) -> Iterator[tuple[NDArray[Any], ...]]:
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            if serial != self._newest:
                raise DataError("Batches: this epoch's buffers were taken by a later epoch(); iterate over one at a time")
            chosen = self._order[start : start + self.batch_size]
            full = len(chosen) == self.batch_size
            batch = self._buffers if full else tuple(buffer[: len(chosen)] for buffer in self._buffers)
            for array, out in zip(self._arrays, batch, strict=True):
                # mode="raise" would go through a temporary; every index is in range.
                np.take(array, chosen, axis=0, out=out, mode="clip")
            yield batch


def common_length(where: str, arrays: tuple[NDArray[Any], ...]) -> int:
    """Length that all arrays have; raises `ShapeError` or `DTypeError` where they do not fit each other."""
    if not arrays:
        raise ArgumentError(f"{where}: expected at least one array, got none")
    for i, array in enumerate(arrays):
        if not isinstance(array, np.ndarray):
            raise DTypeError(f"{where}: array {i} must be an ndarray, got {type(array).__name__}")
        if array.dtype.hasobject:
            raise DTypeError(f"{where}: array {i} must hold plain values, got dtype {array.dtype}")
        if array.ndim == 0 or len(array) == 0:
            raise ShapeError(f"{where}: array {i} must have at least one item, got shape {array.shape}")
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        raise ShapeError(f"{where}: arrays must have equal lengths, got {lengths}")
    return lengths[0]


def require_whole_number(where: str, name: str, value: int, low: int, limit: int | None) -> None:
    """Raise `ArgumentError` unless a value is a whole number in a range."""
    if not is_whole(value) or value < low or (limit is not None and value >= limit):
        range_ = f">= {low}" if limit is None else f"in [{low}, 2**64)"
        raise ArgumentError(f"{where}: {name} must be a whole number {range_}, got {value!r}")

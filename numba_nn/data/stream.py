"""Mini-batches from a generator, for data that do not fit into memory or are made on the way."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numba_nn.core.checks import check_flag
from numba_nn.core.errors import ArgumentError, DataError
from numba_nn.data.batches import KEY_LIMIT, require_whole_number

Sample = tuple[NDArray[Any], ...]


class Stream:
    """Mini-batches of the samples that an iterable gives, in its order or through a shuffling buffer.

    Parameters
    ----------
    source : callable or iterable
        A generator function without arguments, called for every epoch, or what can be iterated over again and again. It gives
        samples: tuples (x, target) of arrays or numbers, always of the same shapes; or with ``batch_size=None`` batches.
    batch_size : int or None
        Samples in a batch. None: the source gives whole batches, tuples of arrays (N, ...), which are handed on as they are.
    shuffle_buffer : int
        Samples from which the next one is drawn at random; 0 keeps the order. A buffer shuffles well only if it is large
        beside the runs of similar samples in the source.
    seed : int
        With the epoch it determines the order; 0 <= seed < 2**64.
    drop_last : bool
        Leave out the last batch of an epoch where it would be smaller than `batch_size`.

    Raises
    ------
    ArgumentError
        `source` can be iterated over only once or not at all, or another argument is out of range.

    Notes
    -----
    The first sample determines shapes and dtypes: Python's floats make float64. A batch lies in a buffer that the next batch
    overwrites. Each pass over the object is the next epoch, as of `Batches`.

    Examples
    --------
    >>> def squares():
    ...     for i in range(5):
    ...         yield np.float32(i), np.float32(i * i)
    >>> [y.tolist() for x, y in Stream(squares, batch_size=2).epoch(0)]
    [[0.0, 1.0], [4.0, 9.0], [16.0]]
    """

    def __init__(
        self, source: Callable[[], Iterable[Any]] | Iterable[Any], batch_size: int | None, shuffle_buffer: int = 0,
        seed: int = 0, drop_last: bool = False,
    ) -> None:  # fmt: skip
        if batch_size is not None:
            require_whole_number("Stream", "batch_size", batch_size, 1, None)
        require_whole_number("Stream", "shuffle_buffer", shuffle_buffer, 0, None)
        require_whole_number("Stream", "seed", seed, 0, KEY_LIMIT)
        self.drop_last = check_flag("Stream", "drop_last", drop_last)
        if batch_size is None and (shuffle_buffer or drop_last):
            raise ArgumentError(
                "Stream: shuffle_buffer and drop_last are for samples; with batch_size=None they must not be set"
            )
        if not callable(source) and (not isinstance(source, Iterable) or iter(source) is source):
            raise ArgumentError(
                "Stream: source must be a generator function or something to iterate over anew for every epoch, "
                f"got {type(source).__name__}; pass the function itself: Stream(samples), not Stream(samples())"
            )
        self.source = source
        self.batch_size = batch_size
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed
        self._buffers: Sample | None = None
        self._newest = 0  # serial number of the newest iterator, the only one that may go on
        self._next_epoch = 0

    def __iter__(self) -> Iterator[Sample]:
        """Iterate over the batches of the next epoch: the one after that of the newest pass or call of `epoch`, at first 0."""
        return self.epoch(self._next_epoch)

    def epoch(self, e: int) -> Iterator[Sample]:
        """Iterate over the batches of one epoch.

        Parameters
        ----------
        e : int
            Number of the epoch, 0 <= e < 2**64. The next pass over the object itself goes through epoch e + 1.

        Returns
        -------
        iterator of tuple of ndarray
            One array of shape (batch_size, ...) for each part of a sample. The last batch may be smaller.

        Raises
        ------
        ArgumentError
            `e` is no whole number or out of range.
        DataError
            From the iterator: the source gave no sample, a sample is no tuple or has other shapes than the first one, or a
            later call of `epoch` has taken over the buffers.
        """
        require_whole_number("Stream", "epoch", e, 0, KEY_LIMIT)
        self._next_epoch = int(e) + 1
        self._newest += 1
        if self.batch_size is None:
            return self._checked()
        generator = np.random.Generator(np.random.Philox(key=np.array([self.seed, e], np.uint64)))
        samples = self._shuffled(generator) if self.shuffle_buffer > 1 else self._checked()
        return self._batches(samples, self._newest, self.batch_size)

    def _checked(self) -> Iterator[Sample]:
        """What the source gives, as tuples of arrays."""
        count = 0
        for count, sample in enumerate(self.source() if callable(self.source) else self.source, start=1):
            if not isinstance(sample, (tuple, list)):
                raise DataError(f"Stream: item {count - 1} must be a tuple such as (x, target), got {type(sample).__name__}")
            yield tuple(np.asarray(part) for part in sample)
        if count == 0:
            raise DataError("Stream: the source gave nothing in this epoch")

    def _shuffled(self, generator: np.random.Generator) -> Iterator[Sample]:
        """Samples in another order: each takes the place of a random one of those that wait."""
        waiting: list[Sample] = []
        for sample in self._checked():
            mine = tuple(part.copy() for part in sample)  # a generator may fill one array again and again
            if len(waiting) < self.shuffle_buffer:
                waiting.append(mine)
                continue
            i = int(generator.integers(len(waiting)))
            yield waiting[i]
            waiting[i] = mine
        yield from (waiting[i] for i in generator.permutation(len(waiting)))

    def _batches(self, samples: Iterator[Sample], serial: int, batch_size: int) -> Iterator[Sample]:
        filled = 0
        for i, sample in enumerate(samples):
            if self._buffers is None:
                self._buffers = tuple(np.empty((batch_size, *part.shape), part.dtype) for part in sample)
            self._put(sample, filled, i)
            filled += 1
            if filled == batch_size:
                yield self._buffers
                self._require_newest(serial)
                filled = 0
        if filled and not self.drop_last and self._buffers is not None:
            yield tuple(buffer[:filled] for buffer in self._buffers)

    def _put(self, sample: Sample, row: int, i: int) -> None:
        assert self._buffers is not None
        expected, got = [buffer.shape[1:] for buffer in self._buffers], [part.shape for part in sample]
        if expected != got:
            raise DataError(f"Stream: sample {i} must have the shapes of the first one, {expected}, got {got}")
        for buffer, part in zip(self._buffers, sample, strict=True):
            if not np.can_cast(part.dtype, buffer.dtype, "same_kind"):
                raise DataError(f"Stream: sample {i} must have the dtype of the first one, {buffer.dtype}, got {part.dtype}")
            buffer[row] = part

    def _require_newest(self, serial: int) -> None:
        if serial != self._newest:
            raise DataError("Stream: this epoch's buffers were taken by a later epoch(); iterate over one at a time")

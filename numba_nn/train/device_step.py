"""A training step on a GPU: batches in reserved device arrays, and the step itself as a CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from numba_nn.core.checks import check_place
from numba_nn.core.cuda.capture import Capture
from numba_nn.core.cuda.feed import Feed
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.device import CUDA
from numba_nn.core.errors import ReserveError, ShapeError

MOST_CAPTURES = 16  # kinds of steps: an epoch has two, of whole batches and of the last one


class DeviceStep:
    """Runs work on batches, at first launch by launch, then as recorded.

    The first time for a kind of batch compiles and allocates; the second records what it launches, and from then on this is
    repeated. Where recording fails, a warning says why, once, and everything goes on launch by launch.

    Parameters
    ----------
    rows : int
        Length of the largest batch.
    stream : object or None
        Stream of ``numba.cuda`` to run on; None makes one.

    Attributes
    ----------
    stream : object
        On which everything runs; one that was made here is in order with CUDA's default stream.
    """

    def __init__(self, rows: int, stream: Any) -> None:
        self.stream = cuda.stream() if stream is None else stream
        self._rows = rows
        self._feeds: dict[Any, Feed] = {}
        self._captures: dict[Any, Capture | None] = {}
        self._records = True

    def take(self, name: str, array: Any) -> Any:
        """A batch in the array reserved for it; from a NumPy array it is on its way there, and may be overwritten at once."""
        if not isinstance(array, np.ndarray):
            check_place("TrainStep", name, array, CUDA)
        if not array.shape:
            raise ShapeError(f"TrainStep: {name} must have shape (N, ...), got ()")
        if len(array) > self._rows:
            raise ReserveError(f"TrainStep: {name} has a batch of {len(array)}, {self._rows} are reserved")
        key = name, array.shape[1:], array.dtype
        if key not in self._feeds:
            self._feeds[key] = Feed((self._rows, *array.shape[1:]), array.dtype)
        feed = self._feeds[key]
        if not CUDA.owns(array):
            return feed.send(array)
        part = feed.array[: len(array)]
        CUDA.copy(part, array)
        return part

    def run(self, kind: Any, work: Callable[[], None], refresh: Callable[[], None]) -> None:
        """Do some work.

        Parameters
        ----------
        kind : hashable
            What the work's launches depend on, beside the contents of arrays.
        work : callable
            It, without arguments.
        refresh : callable
            What the host has to do before recorded work is repeated.
        """
        capture = self._captures.get(kind)
        if capture is None and self._records and kind in self._captures:
            capture = self._captures[kind] = self._record(work, refresh)
        if capture is None:
            work()
            self._note(kind)
        else:
            refresh()
            capture.launch()

    def _note(self, kind: Any) -> None:
        if kind not in self._captures and len(self._captures) == MOST_CAPTURES:
            del self._captures[next(iter(self._captures))]
        self._captures.setdefault(kind, None)

    def _record(self, work: Callable[[], None], refresh: Callable[[], None]) -> Capture | None:
        try:
            refresh()
            return Capture(self.stream, work)
        except Exception as error:  # whatever it is, the step can do without
            self._records = False
            warnings.warn(
                f"TrainStep: the step could not be recorded as a CUDA graph and runs launch by launch: {error}",
                RuntimeWarning, stacklevel=4,
            )  # fmt: skip
            return None

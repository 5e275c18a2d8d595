"""What is compared: a piece of work as a call on each side, and what the calls must agree on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

TOLERANCE = 1e-4
"""Largest difference between two sides, relative to the largest value of the peer's array."""

Results = Iterable[Any]
"""Arrays, of NumPy or PyTorch, in the same order on every side."""


class MismatchError(Exception):
    """The two sides compute different things."""


class Side(NamedTuple):
    """One library's way to do the work.

    ``call`` is what is timed. ``read`` takes what the first call returned and gives all that it computed. ``around`` makes a
    context in which calls run.
    """

    name: str
    call: Callable[[], Any]
    read: Callable[[Any], Results]
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


class Work(NamedTuple):
    """The same work on all sides.

    ``flops`` counts the matrix products, ``nbytes`` what must be moved at least. ``pause`` is what lies between two calls, in
    seconds; then every call is timed by itself. ``here`` tells whether our call runs in this process.
    """

    ours: Side
    peers: list[Side]
    flops: float = 0.0
    nbytes: float = 0.0
    tolerance: float = TOLERANCE
    pause: float = 0.0
    here: bool = True


Passes = dict[str, Callable[[], Work]]
"""Name of a pass ("forward") to what prepares it; weights and inputs are the same at every preparation."""


class Case(NamedTuple):
    """A line of the table. Those that are ``large`` are left out of a quick run."""

    group: str
    name: str
    passes: Passes
    large: bool = False


def check(work: Work) -> float:
    """Do the work once on every side; the largest relative difference to ours. Raises `MismatchError` beyond the tolerance."""
    ours = _first_results(work.ours)
    return max((_difference(ours, peer, work.tolerance) for peer in work.peers), default=0.0)


def _first_results(side: Side) -> list[np.ndarray]:
    with side.around():
        return [as_numpy(a) for a in side.read(side.call())]


def as_numpy(array: Any) -> np.ndarray:
    """An array of NumPy or PyTorch as one of NumPy."""
    return array.detach().numpy() if hasattr(array, "detach") else np.asarray(array)


def _difference(ours: list[np.ndarray], peer: Side, tolerance: float) -> float:
    largest = 0.0
    for number, (a, b) in enumerate(itertools.zip_longest(ours, _first_results(peer))):
        if a is None or b is None or a.shape != b.shape:
            raise MismatchError(f"result {number}: shape {getattr(a, 'shape', None)}, {peer.name} {getattr(b, 'shape', None)}")
        difference = float(np.abs(a - b).max(initial=0)) / max(float(np.abs(b).max(initial=0)), 1e-30)
        if not difference <= tolerance:  # so that NaN fails
            raise MismatchError(f"result {number}, shape {a.shape}: {difference:.1e} from {peer.name}, relative to the largest")
        largest = max(largest, difference)
    return largest

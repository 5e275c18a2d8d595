"""Instruments that look into a training step from outside: methods are wrapped for a step or two, and nothing stays behind."""

from __future__ import annotations

import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
from numba.core.registry import CPUDispatcher
from numba.core.runtime import _nrt_python, rtsys

from numba_nn.core.kernel import Variant
from numba_nn.core.layer import Layer
from numba_nn.train import TrainStep

Key = tuple[str, str]  # what was called ("3" for a layer, "loss", ...), and its method
STEP: Key = ("step", "whole")
LAYER_METHODS = {"forward": "_apply", "backward": "_propagate"}  # containers call these; the public methods come to them
METHODS = {
    "loss": {"forward": "forward", "backward": "backward"},
    "optimizer": {"zero_grad": "zero_grad", "step": "step"},
}
"""Of each owner that is no layer: what is timed, and the attribute that is wrapped for it."""


class Counts(NamedTuple):
    """What one call took: array buffers left behind, bytes at its peak, allocations of Numba's runtime beyond the boxes."""

    numpy_arrays: int
    peak_bytes: int
    numba_allocations: int


@contextmanager
def _wrapped(owners: dict[str, Any], around: Callable[[Key, Callable[[], Any]], Any]) -> Iterator[None]:
    """While this lasts, methods of the owners run as ``around(key, call)``."""

    def wrap(owner: Any, key: Key, attribute: str) -> None:
        method = getattr(owner, attribute)
        setattr(owner, attribute, lambda *args, **kwargs: around(key, lambda: method(*args, **kwargs)))
        undo.callback(delattr, owner, attribute)

    with ExitStack() as undo:
        for name, owner in owners.items():
            for method, attribute in METHODS.get(name, LAYER_METHODS).items():
                if attribute not in vars(owner):  # a layer that appears twice is wrapped once
                    wrap(owner, (name, method), attribute)
        yield


def timed_step(step: TrainStep, owners: dict[str, Any], x: Any, target: Any) -> dict[Key, float]:
    """Seconds of every call in one training step.

    Parameters
    ----------
    step : TrainStep
        The step.
    owners : dict of str to object
        Whose methods are timed: layers, model, loss ("forward", "backward") and "optimizer" ("zero_grad", "step").
    x, target : ndarray
        The batch.

    Returns
    -------
    dict
        Seconds by owner and method, and of the whole step under `STEP`.
    """
    seconds: dict[Key, float] = defaultdict(float)

    def timed(key: Key, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        seconds[key] += time.perf_counter() - start
        return result

    with _wrapped(owners, timed):
        timed(STEP, lambda: step(x, target))
    return seconds


def counted_step(step: TrainStep, owners: dict[str, Any], x: Any, target: Any) -> dict[Key, Counts]:
    """What every layer's call allocates in one training step.

    Parameters
    ----------
    step : TrainStep
        The step.
    owners : dict of str to object
        Layers are looked at, others and "model" are passed over.
    x, target : ndarray
        The batch.

    Returns
    -------
    dict
        `Counts` by owner and method.
    """
    counts: dict[Key, Counts] = {}
    layers = {name: owner for name, owner in owners.items() if isinstance(owner, Layer) and name != "model"}

    def counted(key: Key, call: Callable[[], Any]) -> Any:
        arrays, allocations, boxes = _numpy_arrays(), rtsys.get_allocation_stats().alloc, boxed[0]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        result = call()
        peak = tracemalloc.get_traced_memory()[1] - before
        allocations = rtsys.get_allocation_stats().alloc - allocations - (boxed[0] - boxes)
        counts[key] = Counts(_numpy_arrays() - arrays, peak, allocations)
        return result

    with _traced_memory(), _boxes_counted() as boxed:
        step(x, target)  # what only a first traced call allocates
        with _wrapped(layers, counted):
            step(x, target)
    return counts


def _numpy_arrays() -> int:
    only_numpy = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    return len(tracemalloc.take_snapshot().filter_traces([only_numpy]).traces)


@contextmanager
def _traced_memory() -> Iterator[None]:
    """Python's, NumPy's and Numba's allocations are counted while this lasts."""
    was_tracing, was_counting = tracemalloc.is_tracing(), _nrt_python.memsys_stats_enabled()
    tracemalloc.start()
    _nrt_python.memsys_enable_stats()
    try:
        yield
    finally:
        if not was_counting:
            _nrt_python.memsys_disable_stats()
        if not was_tracing:
            tracemalloc.stop()


@contextmanager
def _boxes_counted() -> Iterator[list[int]]:
    """Counts the array arguments of kernel calls from Python, for each of which Numba's runtime allocates a box."""
    count = [0]

    def call(self: Variant, *arguments: Any) -> Any:
        count[0] += sum(isinstance(a, np.ndarray) for a in arguments)
        return CPUDispatcher.__call__(self, *arguments)

    Variant.__call__ = call
    try:
        yield count
    finally:
        del Variant.__call__

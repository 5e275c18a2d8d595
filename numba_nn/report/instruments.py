"""Instruments that look into a training step from outside: methods are wrapped for a step or two, and nothing stays behind."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from numba_nn.core.layer import Layer
from numba_nn.report.measuring.allocations import Count, counted
from numba_nn.train import TrainStep

Key = tuple[str, str]  # what was called ("3" for a layer, "loss", ...), and its method
STEP: Key = ("step", "whole")
LAYER_METHODS = {"forward": "_apply", "backward": "_finish"}  # what users and what containers call comes to these
METHODS = {
    "loss": {"forward": "forward", "backward": "backward"},
    "optimizer": {"zero_grad": "zero_grad", "step": "step"},
}
"""Of each owner that is no layer: what is timed, and the attribute that is wrapped for it."""


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


def counted_step(step: TrainStep, owners: dict[str, Any], x: Any, target: Any) -> dict[Key, Count]:
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
        `Count` by owner and method.
    """
    counts: dict[Key, Count] = {}
    layers = {name: owner for name, owner in owners.items() if isinstance(owner, Layer) and name != "model"}

    def count(key: Key, call: Callable[[], Any]) -> Any:
        with counted() as counts[key]:
            return call()

    with _wrapped(layers, count):
        step(x, target)
    return counts

"""Which algorithm computes which pass of a convolution: a rule on the shape, never on time or data.

A new algorithm is a class (`numba_nn.layers.conv.algorithm.Algorithm`) and its place in the rule.
"""

from __future__ import annotations

import math

from numba_nn.core.workspace import Spec
from numba_nn.layers.conv.algorithm import PASSES, Algorithm, Problem
from numba_nn.layers.conv.depthwise import Depthwise
from numba_nn.layers.conv.implicit_gemm import ImplicitGemm


def best(one_pass: str, problem: Problem) -> type[Algorithm]:
    """The algorithm for one of the `PASSES`."""
    if not Depthwise.refusal(problem):
        return Depthwise
    return ImplicitGemm


def choose(problem: Problem) -> dict[str, Algorithm]:
    """The algorithm of every pass."""
    chosen = {one_pass: best(one_pass, problem) for one_pass in PASSES}
    made = {kind: kind(problem) for kind in set(chosen.values())}
    return {one_pass: made[kind] for one_pass, kind in chosen.items()}


def scratch_spec(chosen: dict[str, Algorithm], workers: int) -> dict[str, Spec]:
    """Shape and dtype of the scratch that all passes share, each name as large as any of them needs."""
    specs: dict[str, Spec] = {}
    for one_pass, algorithm in chosen.items():
        for name, spec in algorithm.scratch_spec(one_pass, workers).items():
            specs[name] = max(spec, specs.get(name, spec), key=_exact_nbytes)
    return specs


def _exact_nbytes(spec: Spec) -> int:
    """Bytes of an array, not rounded up: what one pass uses as it is must not be the shorter of two."""
    shape, dtype = spec
    return math.prod(shape) * dtype.itemsize

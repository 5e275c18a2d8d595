"""Which algorithm computes which pass of a convolution: a rule on the shape, never on time or data.

A new algorithm is a class (`numba_nn.layers.conv.algorithm.Algorithm`) and its place in the rule; one that competes with others
says what it costs, as without a cost it is taken wherever it serves.
"""

from __future__ import annotations

import itertools

from numba_nn.core.call import Array, Arrays
from numba_nn.core.device import CPU, Device
from numba_nn.core.errors import ArgumentError
from numba_nn.core.precision import PRECISIONS
from numba_nn.core.workspace import spec_nbytes, view
from numba_nn.layers.conv.algorithm import PASSES, Algorithm, Problem
from numba_nn.layers.conv.col2im import Col2im
from numba_nn.layers.conv.cuda import OnCuda
from numba_nn.layers.conv.depthwise import Depthwise
from numba_nn.layers.conv.im2col import Im2col
from numba_nn.layers.conv.im2row import Im2row
from numba_nn.layers.conv.implicit_gemm import ImplicitGemm
from numba_nn.layers.conv.pixel_gradient import PixelGradient
from numba_nn.layers.conv.pointwise import Pointwise
from numba_nn.layers.conv.strided_pointwise import StridedPointwise
from numba_nn.layers.conv.tap_gradient import TapGradient
from numba_nn.layers.conv.weight_gradient import TransposedGradient, WeightGradient
from numba_nn.layers.conv.whole_image import WholeImage
from numba_nn.layers.conv.winograd import Winograd

ALGORITHMS = "auto", "direct", "winograd"
Passes = dict[str, Algorithm]
"""The algorithm of every pass."""

DIRECT: dict[str, tuple[type[Algorithm], ...]] = {
    "output": (Depthwise, WholeImage, StridedPointwise, Pointwise, Col2im, Im2row, Im2col, ImplicitGemm),
    "weight": (Depthwise, WholeImage, PixelGradient, TapGradient, TransposedGradient, WeightGradient),
}
"""What computes forward and input gradient, and what the weight gradient: the first of those that cost least."""

LARGEST_ERROR = 2e-5  # of the largest output: what "auto" allows in float32
LEAST_GAIN = 1.3  # the estimate is not off by more


def check_algorithm(where: object, algorithm: str, problem: Problem) -> str:
    """The algorithm that a layer was asked for; raises `ArgumentError` if there is none such, or it cannot serve."""
    if algorithm not in ALGORITHMS:
        raise ArgumentError(f"{where}: algorithm must be one of {ALGORITHMS}, got {algorithm!r}")
    refusal = Winograd.refusal(problem)
    if algorithm == "winograd" and refusal:
        raise ArgumentError(f"{where}: algorithm='winograd' needs {refusal}")
    return algorithm


def candidates(one_pass: str, problem: Problem) -> list[type[Algorithm]]:
    """The algorithms that may compute a pass of this or a smaller batch, Winograd's aside.

    `Im2row` alone packs weights in panels of columns. It serves every batch if it is the best for one image, else none: what is
    packed serves all batches.
    """
    kinds = [kind for kind in DIRECT["weight" if one_pass == "weight" else "output"] if not kind.refusal(problem, one_pass)]
    if Im2row not in kinds:
        return kinds
    of_one = min(kinds, key=lambda kind: kind.cost(problem.of_one_image, one_pass))
    return [kind for kind in kinds if (kind is Im2row) == (of_one is Im2row)]


def best(one_pass: str, problem: Problem, wanted: str, exact: bool) -> type[Algorithm]:
    """The algorithm for one of the `PASSES`; ``wanted`` is one of the `ALGORITHMS`."""
    if wanted == "winograd" and not exact:
        return Winograd
    kind = min(candidates(one_pass, problem), key=lambda kind: kind.cost(problem, one_pass))
    if wanted == "direct" or exact or kind is Depthwise or Winograd.refusal(problem):
        return kind
    pays = Winograd.gain(one_pass, problem) >= LEAST_GAIN and Winograd.error(one_pass, problem) <= LARGEST_ERROR
    return Winograd if pays else kind


def choose(problem: Problem, wanted: str, device: Device = CPU) -> dict[str, Passes]:
    """The algorithm of every pass, for each of the `PRECISIONS`; a GPU has one for all."""
    if device is not CPU:
        return dict.fromkeys(PRECISIONS, dict.fromkeys(PASSES, OnCuda(problem)))
    judged = problem if problem.x_shape[0] else problem.of_one_image  # no images cost nothing, whatever computes them
    kinds = {
        mode: {one_pass: best(one_pass, judged, wanted, exact=mode == "exact") for one_pass in PASSES} for mode in PRECISIONS
    }
    made = {kind: kind(problem) for passes in kinds.values() for kind in set(passes.values())}
    return {mode: {one_pass: made[kind] for one_pass, kind in passes.items()} for mode, passes in kinds.items()}


def scratch_nbytes(plans: dict[str, Passes], workers: int) -> int:
    """Bytes of the scratch that all passes share; it serves smaller batches and either precision, too."""
    chosen = [(one_pass, algorithm) for plan in plans.values() for one_pass, algorithm in plan.items()]
    specs = [rival.scratch_spec(one_pass, workers) for one_pass, algorithm in chosen for rival in rivals(one_pass, algorithm)]
    return max(sum(map(spec_nbytes, spec.values())) for spec in specs)


def rivals(one_pass: str, algorithm: Algorithm) -> list[Algorithm]:
    """The algorithm of a pass, and those that may cost less for a smaller batch."""
    problem = algorithm.problem
    rivalled = problem.x_shape[0] > 1 and algorithm.cost(problem, one_pass) > 0
    others = candidates(one_pass, problem) if rivalled else []
    return [algorithm, *(kind(problem) for kind in others if kind is not type(algorithm))]


def scratch_views(passes: Passes, workers: int, buffer: Array) -> dict[str, tuple[Algorithm, Arrays]]:
    """For every pass its algorithm, and the arrays that this asks for, in one buffer of bytes."""
    views: dict[str, tuple[Algorithm, Arrays]] = {}
    for one_pass, algorithm in passes.items():
        specs = algorithm.scratch_spec(one_pass, workers)
        ends = list(itertools.accumulate(map(spec_nbytes, specs.values()), initial=0))
        arrays = {name: view(buffer, end, spec) for (name, spec), end in zip(specs.items(), ends, strict=False)}
        views[one_pass] = algorithm, arrays
    return views

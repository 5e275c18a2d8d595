"""In which order the layers of a `Sequential` run, and which run as one.

The largest of activated values is the activated largest value, for an activation that never falls. So a ReLU moves behind the
maximum pooling that follows it, where there is less to do, and to keep; gradients are the same too (`in_order`).

A layer does what follows in its epilogue (`numba_nn.core.epilogue`):

* a convolution or linear layer: a batch normalisation in eval mode, folded into scale and shift, where no backward is to come;
* these and maximum poolings: an activation whose backward makes do with its output. Where a backward is to come this needs an
  output that the Sequential owns: not the last one, which is the caller's and may be overwritten.

Backward runs layer by layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numba_nn.core.epilogue import NOTHING, RELU, RELU6, Epilogue
from numba_nn.core.layer import Layer
from numba_nn.core.workspace import Shape

# Activations that are constant but where they are the identity. Elements that one of them makes equal have the gradient 0, so
# it does not matter which of them a pooling takes for the largest. (A LeakyReLU or Tanh rounds other elements to equal ones.)
CLIPPING = (RELU, RELU6)


@dataclass(frozen=True)
class Run:
    """Layers ``start`` to ``stop`` of a Sequential, of which the first does the others in its epilogue."""

    start: int
    stop: int
    epilogue: Epilogue

    def folds(self) -> bool:
        """Whether it can run as one now: a normalisation in training mode wants statistics of its own."""
        return self.epilogue.norm is None or not self.epilogue.norm.measures()


def in_order(layers: Sequence[Layer]) -> list[int]:
    """Positions of the layers in the order in which they run."""
    order = list(range(len(layers)))
    for _ in layers:
        for k in range(len(order) - 1):
            first, second = layers[order[k]], layers[order[k + 1]]
            if first.epilogue_role == "activation" and first.epilogue_code in CLIPPING and second.epilogue_role == "maximum":
                order[k], order[k + 1] = order[k + 1], order[k]
    return order


def fuse(layers: Sequence[Layer], shapes: Sequence[Shape], keep: bool) -> list[Run]:
    """The runs of a Sequential.

    Parameters
    ----------
    layers : sequence of Layer
        Its layers, in the order in which they run.
    shapes : sequence of tuple of int
        Shape of its input, and of every layer's output.
    keep : bool
        Whether a backward is to come.

    Returns
    -------
    list of Run
        All layers, in order; most runs have one.
    """
    runs, start = [], 0
    while start < len(layers):
        epilogue = _epilogue(layers[start:], len(shapes[start + 1]), keep)
        stop = start + 1 + sum(part is not None for part in epilogue)
        if keep and stop == len(layers):
            stop, epilogue = start + 1, NOTHING
        runs.append(Run(start, stop, epilogue))
        start = stop
    return runs


def _epilogue(layers: Sequence[Layer], dimensions: int, keep: bool) -> Epilogue:
    """What the first of these layers can do of the next ones."""
    first, *rest = layers
    if first.epilogue_role not in ("product", "maximum"):
        return NOTHING
    norm = activation = None
    folds = first.epilogue_role == "product" and first.channel_axis % dimensions == 1 and not keep
    if folds and rest and rest[0].epilogue_role == "norm":
        norm = rest.pop(0)
    if rest and rest[0].epilogue_role == "activation":
        activation = rest.pop(0)
    return Epilogue(norm, activation)

"""In which order the layers of a `Sequential` run, and which run as one.

The largest of activated values is the activated largest value, for an activation that never falls. So a ReLU moves behind the
maximum pooling that follows it, where there is less to do, and to keep; gradients are the same too (`in_order`).

A layer does what follows in its epilogue (`numba_nn.core.epilogue`):

* a convolution or linear layer: a batch normalisation in eval mode, folded into scale and shift, where no backward is to come;
* these and maximum poolings: an activation whose backward makes do with its output. Where a backward is to come this needs an
  output that the Sequential owns: not the last one, which is the caller's and may be overwritten.

Backward runs layer by layer. But two layers may have *one in their place* (`Layer.merged_with`), forward and backward: an
`Upsample` and the convolution that follows it.
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
    """Layers ``start`` to ``stop`` of a Sequential, of which the first does the others in its epilogue.

    ``layer`` is the first one, or what stands in place of the first two: those before ``rest`` run as it.
    """

    start: int
    rest: int
    stop: int
    layer: Layer
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


def join(layers: Sequence[Layer]) -> dict[int, Layer]:
    """What may stand in place of two neighbours, by the position of the first."""
    joined = {i: layers[i + 1].merged_with(layers[i]) for i in range(len(layers) - 1)}
    return {i: layer for i, layer in joined.items() if layer is not None}


def fuse(layers: Sequence[Layer], joined: dict[int, Layer], shapes: Sequence[Shape], keep: bool) -> list[Run]:
    """The runs of a Sequential.

    Parameters
    ----------
    layers : sequence of Layer
        Its layers, in the order in which they run.
    joined : dict of int to Layer
        What `join` makes of them.
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
        layer, rest = layers[start], start + 1
        if start in joined and joined[start].merging_pays(shapes[start]):
            layer, rest = joined[start], start + 2
        epilogue = _epilogue(layer, layers[rest:], len(shapes[rest]), keep)
        stop = rest + sum(part is not None for part in epilogue)
        if keep and stop == len(layers):
            stop, epilogue = rest, NOTHING
        runs.append(Run(start, rest, stop, layer, epilogue))
        start = stop
    return runs


def _epilogue(first: Layer, following: Sequence[Layer], dimensions: int, keep: bool) -> Epilogue:
    """What a layer can do of the next ones."""
    rest = list(following)
    if first.epilogue_role not in ("product", "maximum"):
        return NOTHING
    norm = activation = None
    folds = first.epilogue_role == "product" and first.channel_axis % dimensions == 1 and not keep
    if folds and rest and rest[0].epilogue_role == "norm":
        norm = rest.pop(0)
    if rest and rest[0].epilogue_role == "activation":
        activation = rest.pop(0)
    return Epilogue(norm, activation)

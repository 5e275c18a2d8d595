"""Which layers of a `Sequential` run as one.

A layer of matrix products (convolution, linear) does what follows in its epilogue (`numba_nn.core.epilogue`):

* a batch normalisation in eval mode, folded into scale and shift, where no backward is to come;
* an activation whose backward makes do with its output. Where a backward is to come this needs an output that the Sequential
  owns: not the last one, which is the caller's and may be overwritten.

Backward runs layer by layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numba_nn.core.epilogue import NOTHING, Epilogue
from numba_nn.core.layer import Layer
from numba_nn.core.workspace import Shape


@dataclass(frozen=True)
class Run:
    """Layers ``start`` to ``stop`` of a Sequential, of which the first does the others in its epilogue."""

    start: int
    stop: int
    epilogue: Epilogue

    def label(self) -> str:
        """What comes after the first layer: " + BatchNorm2d + ReLU"."""
        return "".join(f" + {type(layer).__name__}" for layer in self.epilogue if layer is not None)

    def folds(self) -> bool:
        """Whether it can run as one now: a normalisation in training mode wants statistics of its own."""
        return self.epilogue.norm is None or not self.epilogue.norm.measures()


def fuse(layers: Sequence[Layer], shapes: Sequence[Shape], keep: bool) -> list[Run]:
    """The runs of a Sequential.

    Parameters
    ----------
    layers : sequence of Layer
        Its layers.
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
    if first.epilogue_role != "product":
        return NOTHING
    norm = activation = None
    channels_fit = first.channel_axis % dimensions == 1  # type: ignore[attr-defined]
    if rest and rest[0].epilogue_role == "norm" and not keep and channels_fit:
        norm = rest.pop(0)
    if rest and rest[0].epilogue_role == "activation":
        activation = rest.pop(0)
    return Epilogue(norm, activation)

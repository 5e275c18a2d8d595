"""`Container`: a layer made of layers.

It shares one scratch with all layers inside, and keeps its forwards and theirs in step: a backward begins only if every layer
inside still keeps the forward that belongs to it.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import Any, Self

from numba_nn.core.call import Array, Call, Slot
from numba_nn.core.device import Device
from numba_nn.core.epilogue import NOTHING, Epilogue
from numba_nn.core.errors import BackwardError
from numba_nn.core.layer import Layer
from numba_nn.core.workspace import Workspace


class Container(Layer):
    """Base of the layers that run other layers.

    A subclass writes what every `Layer` does. In addition it

    * has the layers inside as attributes, or names them in ``children``, and calls ``_adopt(self._workspace, 0)`` once it has
      them all: they then share one scratch;
    * runs them in ``_forward`` by ``_run(call, layer, x, out)``, and in ``_backward``, in the reverse order, by
      ``layer._propagate(dy, dx, dx is not None)``;
    * reserves them in ``_reserve_more(call, training, calls)``, after ``super()``'s, with the shapes of their inputs: otherwise
      they allocate in the first step.

    What it declares in ``scratch_spec`` and ``saved_spec`` lies apart from the buffers of the layers inside, and its input is
    kept for the backward. ``examples/residual.py`` is an example.
    """

    keeps_input = True  # a layer inside may have borrowed it, whose backward comes when this container's does

    def __init__(self) -> None:
        super().__init__()
        self._level = 0

    def _run(self, call: Call, layer: Layer, x: Array, out: Array, epilogue: Epilogue = NOTHING) -> Array:
        """Forward of a layer inside, in `_forward`: kept if this container's is, whatever the layer's own mode."""
        layer._apply(layer._call_for(x), out, x, call.keep, epilogue)
        if call.keep:
            self._kept[-1].parts.append((layer, layer._kept[-1].number))
            if epilogue.activation is not None:
                epilogue.activation._keep_output(out)
                self._kept[-1].parts.append((epilogue.activation, epilogue.activation._kept[-1].number))
        return out

    def _check_parts(self, slot: Slot, taken: dict[Layer, int]) -> None:
        """Go through the backward to come; ``taken`` counts the forwards of each layer that it has passed."""
        for layer, number in reversed(slot.parts):
            index = taken[layer] = taken.get(layer, 0) + 1
            if index > len(layer._kept) or layer._kept[-index].number != number:
                raise BackwardError(
                    f"{layer} has run outside of this forward since; call backward in the reverse order of the forwards "
                    f"(it keeps the last {len(layer._free) + len(layer._kept)}; reserve(..., calls=n) on it keeps more)"
                )
            layer._check_parts(layer._kept[-index], taken)

    def _forget(self) -> None:
        for layer, _ in reversed(self._kept[-1].parts):
            layer._forget()
        super()._forget()

    @property
    def _scratch_name(self) -> str:
        """A buffer apart from those of the layers inside, which run while it is in use."""
        return f"scratch{self._level}"

    def _keep(self, calls: int) -> None:
        for layer, uses in self._places().items():
            Layer._keep(layer, uses * calls)

    def _places(self) -> Counter[Layer]:
        """This layer and all inside it, with the number of forwards of each in one forward of this."""
        places = Counter[Layer]([self])
        for child in self._inner():
            places += child._places() if isinstance(child, Container) else Counter([child])
        return places

    def _adopt(self, workspace: Workspace, level: int) -> None:
        # A layer may have several places: the deepest counts, so that no layer shares buffers with one it lies in.
        self._level = max(level, self._level) if self._workspace is workspace else level
        super()._adopt(workspace, self._level)
        for child in self._inner():
            child._adopt(workspace, self._level + 1)

    def to(self, device: str | Device, stream: Any = None) -> Self:
        """Move this layer and all inside it to another device; see `Module.to`.

        Parameters
        ----------
        device : {"cpu", "cuda"}
            Where to.
        stream : stream or int, optional
            On "cuda", where all work goes that is done for this layer.

        Returns
        -------
        Container
            The layer itself.

        Raises
        ------
        DeviceError
            If this machine lacks the device; nothing moved.
        OutOfMemoryError
            If the GPU has no room; all is where it was.
        ArgumentError
            For another name, or a stream that is none or comes with "cpu"; nothing moved.
        """
        try:
            super().to(device, stream)
        finally:
            self._adopt(self._workspace, 0)  # each layer has come with a workspace of its own, also if it had to go back
        return self

    def __str__(self) -> str:
        """A name for messages and tables, where the repr would be long."""
        count = len(self.children())
        return f"{type(self).__name__} of {count} layer{'' if count == 1 else 's'}"

    def _arguments(self) -> str:
        lines = "\n".join(f"({name}): {child!r}" for name, child in self.children().items())
        return f"\n{textwrap.indent(lines, '  ')}\n"

    def _inner(self) -> list[Layer]:
        """The layers directly inside, once for each place."""
        return [child for child in self.children().values() if isinstance(child, Layer)]

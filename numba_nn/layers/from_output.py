"""Layers whose backward needs the output, which is the caller's: it may be overwritten before."""

from __future__ import annotations

from typing import Any

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.kernel import inner
from numba_nn.core.layer import Layer
from numba_nn.core.workspace import Shape, Spec


@inner
def copy_unless_empty(to, y):
    """to = y, unless it is empty."""
    for i in range(to.size):
        to[i] = y[i]


class FromOutput(Layer):
    """A layer that keeps its output for backward, of the input's shape."""

    def saved_spec(self, x_shape: Shape, dtype: Any) -> dict[str, Spec]:
        """The output."""
        return {"y": (x_shape, dtype)}

    def inference_spec(self, x_shape: Shape, dtype: Any) -> dict[str, Spec]:
        """Nothing: see `_room`."""
        return {}

    def _tables(self, x_shape: Shape, dtype: Any) -> Array:
        """Room for nothing."""
        room: Array = self.device.empty((0,), dtype)
        return room

    def _room(self, call: Call, y: Array, saved: Arrays) -> Array:
        """Where forward writes the output a second time, flat: empty if no backward comes, or y is kept as it is."""
        room: Array = saved["y"].reshape(-1) if call.keep and saved["y"] is not y else call.tables
        return room

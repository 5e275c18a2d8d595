"""What a layer keeps between calls: `Call`, about one input shape, and `Slot`, about one forward until its backward."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from numba_nn.core.device import CPU, Device
from numba_nn.core.epilogue import NOTHING, Epilogue
from numba_nn.core.workspace import Shape, Workspace

if TYPE_CHECKING:
    from numba_nn.core.layer import Layer
    from numba_nn.core.layer_memory import LayerMemory

Array = NDArray[Any]
Arrays = dict[str, Any]
"""Arrays by name; what a forward saves may hold numbers too, which stay on the host."""

NO_ARRAYS: Arrays = {}
_forwards = itertools.count()  # every forward that is kept has a number of its own


class Call:
    """What a layer keeps about one input shape: shapes, its scratch, and whatever it computes from the shape once.

    Parameters
    ----------
    x_shape, y_shape : tuple of int
        Input and output shape; ``x_shape`` is a tuple of shapes in a layer of several inputs.
    dtype : dtype
        Of input and output; of the output alone where the input holds indices.

    Attributes
    ----------
    keep : bool
        Whether the forward that runs now is kept for a backward.
    epilogue : Epilogue
        The layers that follow and that this forward does too.
    scratch : dict
        The arrays of ``scratch_spec``, or what a layer makes of them: contents are dead between calls.
    inference : dict of ndarray
        The arrays of ``inference_spec`` for a forward that no backward follows: scratch too.
    geometry : object
        What the layer's ``_geometry`` returned.
    tables : object
        What its ``_tables`` returned.
    """

    __slots__ = ("dtype", "epilogue", "generation", "geometry", "inference", "keep", "scratch", "tables", "x_shape", "y_shape")

    def __init__(self, x_shape: Any, y_shape: Shape, dtype: np.dtype[Any]) -> None:
        self.x_shape = x_shape
        self.y_shape = y_shape
        self.dtype = dtype
        self.geometry: Any = None
        self.tables: Any = None
        self.scratch: dict[str, Any] = {}
        self.inference: Arrays = {}
        self.generation = -1
        self.keep = False
        self.epilogue: Epilogue = NOTHING


NO_CALL = Call(None, (), np.dtype(np.float32))
"""Stands where there was no call yet; no input has its shape."""


class Slot:
    """Room for one forward until its backward: the call, the input (borrowed), and what the layer saved.

    Parameters
    ----------
    device : Device, optional
        Where the arrays live.

    Attributes
    ----------
    number : int
        Of the forward that is kept.
    x : ndarray or tuple of ndarray
        The input or inputs, if the layer keeps them.
    parts : list of (Layer, int)
        In a container, the layers that ran in this forward, and the number of each one's own.
    """

    __slots__ = ("_views", "arrays", "call", "number", "parts", "workspace", "x")

    def __init__(self, device: Device = CPU) -> None:
        self.workspace = Workspace(device)
        self.call: Call | None = None
        self.x: Any = None
        self.arrays = NO_ARRAYS  # of the forward that is kept: they stay what they are when the buffer is replaced
        self.number = -1
        self.parts: list[tuple[Layer, int]] = []
        self._views: dict[Call, Arrays] = {}

    def keep(self, call: Call, x: Any, arrays: Arrays) -> None:
        """Hold a new forward, in place of what was held."""
        self.call, self.x, self.arrays, self.number = call, x, arrays, next(_forwards)
        if self.parts:
            self.parts = []

    def drop(self) -> None:
        """Let go of the caller's input, and of buffers since replaced."""
        self.x, self.arrays = None, NO_ARRAYS
        if self.parts:
            self.parts = []

    def forget_views(self) -> None:
        """Let go of calls that the layer has forgotten."""
        self._views.clear()

    def saved(self, call: Call, layer: LayerMemory) -> Arrays:
        """The arrays of ``saved_spec`` in this slot, for the shape of a call."""
        views = self._views.get(call)
        if views is None:
            before = self.workspace.generation
            views = self.workspace.carve("saved", layer.saved_spec(call.x_shape, call.dtype))
            if self.workspace.generation != before:
                self._views.clear()  # they are views of the buffer that was replaced
            self._views[call] = views
        return views

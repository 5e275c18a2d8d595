"""`LayerMemory`: the half of a layer that owns memory. What is allocated when, how long it is kept, and how it is shared.

A `Call` is what a layer knows about one input shape, with its views of the scratch; a `Slot` is room for one forward until its
backward.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from numba_nn.core.call import NO_CALL, Arrays, Call, Slot
from numba_nn.core.checks import as_shape, check_count, check_dtype, check_flag
from numba_nn.core.cuda.narrow import wide
from numba_nn.core.device import CPU, Device
from numba_nn.core.errors import ArgumentError, DTypeError, ReserveError, undefined
from numba_nn.core.module import Module
from numba_nn.core.workspace import Shape, Spec, Workspace


class LayerMemory(Module):
    """Base of `numba_nn.core.layer.Layer`.

    Attributes
    ----------
    dtype : dtype or None
        Dtype of parameters and arrays; None for a layer without parameters, which follows its input.
    """

    dtype: np.dtype[Any] | None = None

    def __init__(self) -> None:
        super().__init__()
        self._workspace = Workspace(self.device)
        self._calls: dict[tuple[Shape, np.dtype[Any]], Call] = {}
        self._newest_call = NO_CALL
        self._made: dict[tuple[Any, np.dtype[Any]], Any] = {}
        self._free = [Slot(self.device)]
        self._kept: list[Slot] = []

    def __getstate__(self) -> dict[str, Any]:
        slots = [Slot(self.device) for _ in self._free + self._kept]
        # A copy has buffers and forwards of its own.
        return {**super().__getstate__(), "_calls": {}, "_newest_call": NO_CALL, "_made": {}, "_free": slots, "_kept": []}

    def _move(self, device: Device, stream: Any) -> None:
        if device is CPU and self.dtype is not None:
            self.dtype = wide(self.dtype)  # floats of 16 bits are a GPU's
        super()._move(device, stream)
        self._workspace = Workspace(device, stream)
        self._made = {}
        self._free, self._kept = [Slot(device) for _ in self._free + self._kept], []
        self._forget_calls()

    # ---- what a subclass may define ----------------------------------------------------------------------------------

    def _y_shape(self, x_shape: Any) -> Shape:
        """Output shape for a call's ``x_shape``, which holds several where there are several inputs."""
        raise undefined(self, "_y_shape(x_shape)")

    def saved_spec(self, x_shape: Shape, dtype: np.dtype[Any]) -> dict[str, Spec]:
        """Shape and dtype of every array that forward keeps for backward."""
        return {}

    def inference_spec(self, x_shape: Shape, dtype: np.dtype[Any]) -> dict[str, Spec]:
        """What of `saved_spec` a forward writes even if no backward is to come; found in ``call.inference``."""
        return self.saved_spec(x_shape, dtype)

    def scratch_spec(self, x_shape: Shape, dtype: np.dtype[Any]) -> dict[str, Spec]:
        """Shape and dtype of every array that is dead at return."""
        return {}

    def _geometry(self, x_shape: Shape, dtype: np.dtype[Any]) -> Any:
        """Whatever else depends on the shape alone; computed once and found in ``call.geometry``."""
        return None

    def _tables(self, x_shape: Shape, dtype: np.dtype[Any]) -> Any:
        """Arrays that depend on all dimensions but the first, so that smaller batches share them; found in ``call.tables``."""
        return None

    def _pack_for(self, call: Call) -> None:
        """Have what forwards of a call read of its parameters, where these are locked."""

    # ---- calls and slots ----------------------------------------------------------------------------------------------

    def _call(self, x_shape: Any, dtype: np.dtype[Any]) -> Call:
        call = self._calls.get((x_shape, dtype))
        if call is None:
            call = self._new_call(x_shape, dtype)
        if call.generation != self._workspace.generation:
            try:
                self._allocate(call)
            except ReserveError:
                raise self._too_large(x_shape) from None
            call.generation = self._workspace.generation
            self._calls[x_shape, dtype] = call
        return call

    def _saved(self, slot: Slot, call: Call) -> Arrays:
        """Room in a slot for what a forward keeps."""
        try:
            return slot.saved(call, self)
        except ReserveError:
            raise self._too_large(call.x_shape) from None

    def _too_large(self, x_shape: Any) -> ReserveError:
        return ReserveError(f"{self}: x of shape {x_shape} needs more than was reserved; reserve the larger shape first")

    def _new_call(self, x_shape: Any, dtype: np.dtype[Any]) -> Call:
        call = Call(x_shape, self._y_shape(x_shape), dtype)
        call.geometry = self._geometry(x_shape, dtype)
        if (x_shape[1:], dtype) not in self._made:
            self._made[x_shape[1:], dtype] = self._tables(x_shape, dtype)
        call.tables = self._made[x_shape[1:], dtype]
        return call

    @property
    def _scratch_name(self) -> str:
        return "scratch"

    def _allocate(self, call: Call) -> None:
        """Give a call its views of the scratch, which the layers of a model share."""
        scratch = self.scratch_spec(call.x_shape, call.dtype)
        both = self._workspace.carve(self._scratch_name, {**scratch, **self.inference_spec(call.x_shape, call.dtype)})
        call.scratch = {name: both[name] for name in scratch}
        call.inference = {name: array for name, array in both.items() if name not in scratch}

    def _next_slot(self) -> Slot:
        """Room for a forward; where none is free, the oldest one gives way."""
        return (self._free or self._kept)[0]

    def _keep_in(self, slot: Slot, call: Call, x: Any, saved: Arrays) -> None:
        del (self._free or self._kept)[0]
        slot.keep(call, x, saved)
        self._kept.append(slot)

    def _forget(self) -> None:
        """Drop the newest forward, whose backward will not come."""
        slot = self._kept.pop()
        slot.drop()
        self._free.insert(0, slot)

    def _keep(self, calls: int) -> None:
        """Have room for so many forwards; a container's layers too."""
        while len(self._free) + len(self._kept) < calls:
            self._free.append(Slot(self.device))

    # ---- what users ask for -------------------------------------------------------------------------------------------

    def reserve(
        self, *input_shapes: Shape, dtype: Any = None, training: bool = True, calls: int = 1, strict: bool = False
    ) -> Self:
        """Allocate everything that later calls need, for batches up to the given one.

        From then on, forward and backward with ``out=`` allocate no array data, for inputs whose leading dimension is not
        larger and whose other dimensions are equal. (A strided input costs one copy buffer at its first use, strict or not.)

        Parameters
        ----------
        *input_shapes : tuple of int
            Shape of each input.
        dtype : dtype, optional
            Of the input; the layer's own by default, float32 for a layer without parameters.
        training : bool, optional
            Whether backward will be called.
        calls : int, optional
            Forwards to keep for later backwards.
        strict : bool, optional
            Raise `ReserveError` on a call that needs more, where otherwise the buffers grow.

        Returns
        -------
        Layer
            The layer itself.

        Raises
        ------
        ShapeError, DTypeError, ArgumentError
            If the layer cannot take such inputs; nothing changed.
        """
        calls = check_count(self, "calls", calls)
        training, strict = check_flag(self, "training", training), check_flag(self, "strict", strict)
        wanted = self._dtype_of_input(dtype)
        x_shape = self._reserved_shape(input_shapes)
        self._y_shape(x_shape)  # refuses what does not fit, before anything changes
        with self._workspace.in_use(self):
            self._set_strict(False)
            call = self._call(x_shape, wanted)
            self._reserve_more(call, training, calls)
            self._call(x_shape, wanted)
            self._set_strict(strict)
        return self

    def _reserved_shape(self, input_shapes: tuple[Any, ...]) -> Any:
        """A call's ``x_shape`` from what was given to `reserve`."""
        if len(input_shapes) != 1:
            raise ArgumentError(f"{self}: reserve takes one input shape, got {len(input_shapes)}")
        return as_shape(self, input_shapes[0])

    def _dtype_of_input(self, dtype: Any) -> np.dtype[Any]:
        wanted = check_dtype(self, dtype or self.dtype or np.float32, self.device)
        if self.dtype is not None and wanted != self.dtype:
            raise DTypeError(f"{self}: reserve: dtype must be the layer's, {self.dtype}, got {wanted}")
        return wanted

    def _reserve_more(self, call: Call, training: bool, calls: int) -> None:
        """Make the slots; a container reserves its layers too."""
        self._keep(calls)
        for slot in self._free + self._kept if training else []:
            slot.saved(call, self)
        self._pack_for(call)

    def _pack(self) -> None:
        for call in self._calls.values():
            self._pack_for(call)

    def _set_strict(self, strict: bool) -> None:
        for layer in self._layers_inside():
            layer._workspace.strict = strict
            for slot in layer._free + layer._kept:
                slot.workspace.strict = strict

    def _adopt(self, workspace: Workspace, level: int) -> None:
        """Share the scratch of the model that this layer has become part of, so many containers deep."""
        self._workspace = workspace
        self._forget_calls()

    def _forget_calls(self) -> None:
        self._calls.clear()
        self._newest_call = NO_CALL
        for slot in self._free + self._kept:
            slot.forget_views()

    def _layers_inside(self) -> list[LayerMemory]:
        return [module for module in self.modules() if isinstance(module, LayerMemory)]

    @property
    def scratch_nbytes(self) -> int:
        """Bytes of scratch, shared with the other layers of the model."""
        return self._workspace.nbytes

    @property
    def packed_nbytes(self) -> int:
        """Bytes of what is packed once, in eval mode, of the parameters of this layer and its children."""
        return sum(parameter.packed_nbytes for parameter in self.parameters())

    @property
    def saved_nbytes(self) -> int:
        """Bytes that this layer and its children hold from forward to backward."""
        return sum(slot.workspace.nbytes for layer in self._layers_inside() for slot in layer._free + layer._kept)

"""`Layer`: the contract that every layer keeps, in one place.

A layer class says what it computes and which buffers it needs; `Layer` checks the arrays that users pass, owns the buffers,
and keeps forwards until their backward.

What a subclass writes:

* ``output_shape(x_shape)``: pure; raises `ShapeError` for what it cannot take;
* ``_forward(call, y, x, saved)``: write ``y``;
* ``_backward(call, dx, dy, x, saved)``: add to the parameters' gradients, and write ``dx`` unless it is None;
* ``saved_spec`` and ``scratch_spec``, where it needs arrays from forward to backward, or within a call;
* ``keeps_input = True``, where ``_backward`` reads ``x``.
"""

from __future__ import annotations

import itertools
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from numba_nn.core.checks import as_shape, check_array, check_destination, check_dtype, check_shape
from numba_nn.core.errors import ArgumentError, BackwardError, DTypeError
from numba_nn.core.module import Module
from numba_nn.core.workspace import Shape, Spec, Workspace

Array = NDArray[Any]
Arrays = dict[str, Array]

_forwards = itertools.count()  # every forward that is kept has a number of its own


class Call:
    """What a layer keeps about one input shape: shapes, its scratch, and whatever it computes from the shape once.

    Parameters
    ----------
    x_shape, y_shape : tuple of int
        Input and output shape.
    dtype : dtype
        Of both.

    Attributes
    ----------
    scratch : dict of ndarray
        The arrays of ``scratch_spec``: contents are dead between calls.
    inference : dict of ndarray
        The arrays of ``saved_spec`` for a forward in eval mode, which saves nothing: scratch too.
    geometry : object
        What the layer's ``_geometry`` returned.
    """

    __slots__ = ("dtype", "generation", "geometry", "inference", "scratch", "x_shape", "y_shape")

    def __init__(self, x_shape: Shape, y_shape: Shape, dtype: np.dtype[Any]) -> None:
        self.x_shape = x_shape
        self.y_shape = y_shape
        self.dtype = dtype
        self.geometry: Any = None
        self.scratch: Arrays = {}
        self.inference: Arrays = {}
        self.generation = -1


class Slot:
    """Room for one forward until its backward: the call, the input (borrowed), and what the layer saved.

    Attributes
    ----------
    number : int
        Of the forward that is kept.
    parts : list of (Layer, int or None)
        In a container, the layers that ran in this forward and the number of each one's own; None if it kept nothing.
    """

    __slots__ = ("_views", "arrays", "call", "number", "parts", "workspace", "x")

    def __init__(self) -> None:
        self.workspace = Workspace()
        self.call: Call | None = None
        self.x: Array | None = None
        self.arrays: Arrays = {}  # of the forward that is kept: they stay what they are when the buffer is replaced
        self.number = -1
        self.parts: list[tuple[Layer, int | None]] = []
        self._views: dict[tuple[Shape, np.dtype[Any]], Arrays] = {}

    def keep(self, call: Call, x: Array | None, arrays: Arrays) -> None:
        """Hold a new forward, in place of what was held."""
        self.call, self.x, self.arrays = call, x, arrays
        self.number, self.parts = next(_forwards), []

    def drop(self) -> None:
        """Let go of the caller's input, and of buffers since replaced."""
        self.x, self.arrays, self.parts = None, {}, []

    def saved(self, call: Call, layer: Layer) -> Arrays:
        """The arrays of ``saved_spec`` in this slot, for the shape of a call."""
        key = (call.x_shape, call.dtype)
        if key not in self._views:
            before = self.workspace.generation
            views = self.workspace.carve("saved", layer.saved_spec(call.x_shape, call.dtype))
            if self.workspace.generation != before:
                self._views.clear()  # they are views of the buffer that was replaced
            self._views[key] = views
        return self._views[key]


class Layer(Module):
    """Base of all layers.

    Attributes
    ----------
    dtype : dtype or None
        Dtype of parameters and arrays; None for a layer without parameters, which follows its input.
    """

    keeps_input = False
    dtype: np.dtype[Any] | None = None

    def __init__(self) -> None:
        super().__init__()
        self._workspace = Workspace()
        self._calls: dict[tuple[Shape, np.dtype[Any]], Call] = {}
        self._free = [Slot()]
        self._kept: list[Slot] = []

    def __getstate__(self) -> dict[str, Any]:
        slots = [Slot() for _ in self._free + self._kept]
        return {**vars(self), "_calls": {}, "_free": slots, "_kept": []}  # a copy has buffers and forwards of its own

    # ---- what a subclass defines -------------------------------------------------------------------------------------

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output for an input of this shape; computes nothing else.

        Raises
        ------
        ShapeError
            If the layer cannot take this shape.
        """
        raise NotImplementedError

    def saved_spec(self, x_shape: Shape, dtype: np.dtype[Any]) -> dict[str, Spec]:
        """Shape and dtype of every array that forward keeps for backward."""
        return {}

    def scratch_spec(self, x_shape: Shape, dtype: np.dtype[Any]) -> dict[str, Spec]:
        """Shape and dtype of every array that is dead at return."""
        return {}

    def forward_flops(self, x_shape: Shape) -> int:
        """Floating-point operations of a forward's matrix products; 0 for a layer that has none."""
        return 0

    def _geometry(self, x_shape: Shape, dtype: np.dtype[Any]) -> Any:
        """Whatever else depends on the shape alone; computed once and found in ``call.geometry``."""
        return None

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        raise NotImplementedError

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        raise NotImplementedError

    # ---- calls -------------------------------------------------------------------------------------------------------

    def __call__(self, x: Array) -> Array:
        """``forward(x)``: the output in a fresh array."""
        return self.forward(x)

    def forward(self, x: Array, out: Array | None = None) -> Array:
        """Compute the layer's output.

        Parameters
        ----------
        x : ndarray
            Input; in training mode borrowed until the backward that belongs to it, so it must not be overwritten before.
        out : ndarray, optional
            Where to write the output: C-contiguous, apart from ``x``.

        Returns
        -------
        ndarray
            ``out`` itself, or a fresh array.

        Raises
        ------
        ShapeError, DTypeError, DestinationError
            If an array does not fit; nothing was written.
        ReserveError
            If the layer was reserved strictly, for less.
        ConcurrencyError
            If another thread is inside the model.
        """
        with self._workspace.in_use(self):
            check_array(self, "x", x, self.dtype)
            call = self._call(x.shape, x.dtype)
            y = self._destination(out, "out", call.y_shape, call.dtype, x)
            if self.training:
                self._forward_kept(call, y, x)
            else:
                self._forward(call, y, self._workspace.contiguous("x", x), call.inference)
        return y

    def _forward_kept(self, call: Call, y: Array, x: Array) -> None:
        slot = self._free[-1] if self._free else self._kept[0]
        saved = slot.saved(call, self)
        x = (slot.workspace if self.keeps_input else self._workspace).contiguous("x", x)
        (self._free if self._free else self._kept).remove(slot)
        slot.keep(call, x if self.keeps_input else None, saved)
        self._kept.append(slot)
        try:
            self._forward(call, y, x, saved)
        except BaseException:
            self._forget()
            raise

    def backward(self, dy: Array, out: Array | None = None, *, input_gradient: bool = True) -> Array | None:
        """Propagate a gradient through the newest forward that has not been propagated yet.

        Gradients of parameters accumulate in ``Parameter.grad``; the gradient of the input is overwritten.

        Parameters
        ----------
        dy : ndarray
            Gradient of the loss with respect to the output.
        out : ndarray, optional
            Where to write the gradient with respect to the input: C-contiguous, apart from ``dy`` and the input.
        input_gradient : bool, optional
            False skips the gradient with respect to the input, as the first layer of a network may.

        Returns
        -------
        ndarray or None
            ``out`` itself, or a fresh array; None without ``input_gradient``.

        Raises
        ------
        BackwardError
            If no forward in training mode is left to belong to, or a layer inside kept another; nothing was written.
        ShapeError, DTypeError, DestinationError
            If an array does not fit; nothing was written.
        ConcurrencyError
            If another thread is inside the model.
        """
        with self._workspace.in_use(self):
            if not self._kept:
                raise BackwardError(
                    f"{self!r}: no forward is left for this backward: each allows one, and only in training mode (train()); "
                    f"the last {len(self._free)} forwards are kept (reserve(..., calls=n) keeps more)"
                )
            return self._backward_kept(self._kept[-1], dy, out, input_gradient)

    def _backward_kept(self, slot: Slot, dy: Array, out: Array | None, input_gradient: bool) -> Array | None:
        call, x, saved = slot.call, slot.x, slot.arrays
        assert call is not None
        check_array(self, "dy", dy, call.dtype)
        check_shape(self, "dy", dy.shape, call.y_shape)
        dx = None
        if input_gradient:
            dx = self._destination(out, "out", call.x_shape, call.dtype, dy, *([] if x is None else [x]))
        elif out is not None:
            raise ArgumentError(f"{self!r}: backward takes either out or input_gradient=False")
        self._check_parts(slot, {})
        call = self._call(call.x_shape, call.dtype)
        dy = self._workspace.contiguous("dy", dy)
        self._free.append(self._kept.pop())
        slot.drop()
        self._backward(call, dx, dy, x, saved)
        return dx

    def _check_parts(self, slot: Slot, taken: dict[Layer, int]) -> None:
        """A container raises `BackwardError` unless the layers inside still keep what this forward was made of."""

    def _call(self, x_shape: Shape, dtype: np.dtype[Any]) -> Call:
        call = self._calls.get((x_shape, dtype))
        if call is None:
            call = Call(x_shape, self.output_shape(x_shape), dtype)
            call.geometry = self._geometry(x_shape, dtype)
        if call.generation != self._workspace.generation:
            self._allocate(call)
            call.generation = self._workspace.generation
            self._calls[x_shape, dtype] = call
        return call

    def _allocate(self, call: Call) -> None:
        """Give a call its views of the scratch, which the layers of a model share."""
        scratch = self.scratch_spec(call.x_shape, call.dtype)
        both = self._workspace.carve("scratch", {**scratch, **self.saved_spec(call.x_shape, call.dtype)})
        call.scratch = {name: both[name] for name in scratch}
        call.inference = {name: array for name, array in both.items() if name not in scratch}

    def _destination(self, out: Any, name: str, shape: Shape, dtype: np.dtype[Any], *inputs: Array) -> Array:
        if out is None:
            return np.empty(shape, dtype)
        check_destination(self, name, out, shape, dtype, *inputs)
        return out

    # ---- buffers -----------------------------------------------------------------------------------------------------

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
        if len(input_shapes) != 1:
            raise ArgumentError(f"{self!r}: reserve takes one input shape, got {len(input_shapes)}")
        if calls < 1:
            raise ArgumentError(f"{self!r}: calls must be at least 1, got {calls}")
        wanted = self._dtype_of_input(dtype)
        x_shape = as_shape(self, input_shapes[0])
        self.output_shape(x_shape)  # refuses what does not fit, before anything changes
        with self._workspace.in_use(self):
            self._set_strict(False)
            call = self._call(x_shape, wanted)
            self._reserve_more(call, training, calls)
            self._call(x_shape, wanted)
            self._set_strict(strict)
        return self

    def _dtype_of_input(self, dtype: Any) -> np.dtype[Any]:
        wanted = check_dtype(self, dtype or self.dtype or np.float32)
        if self.dtype is not None and wanted != self.dtype:
            raise DTypeError(f"{self!r}: reserve: dtype must be the layer's, {self.dtype}, got {wanted}")
        return wanted

    def _reserve_more(self, call: Call, training: bool, calls: int) -> None:
        """Make the slots; a container reserves its layers too."""
        self._keep(calls)
        for slot in self._free + self._kept if training else []:
            slot.saved(call, self)

    def _forget(self) -> None:
        """Drop the newest forward, whose backward will not come."""
        self._free.append(self._kept.pop())
        self._free[-1].drop()

    def _keep(self, calls: int) -> None:
        """Have room for so many forwards; a container's layers too."""
        while len(self._free) + len(self._kept) < calls:
            self._free.insert(0, Slot())

    def _set_strict(self, strict: bool) -> None:
        for layer in self._layers_inside():
            layer._workspace.strict = strict
            for slot in layer._free + layer._kept:
                slot.workspace.strict = strict

    def _adopt(self, workspace: Workspace, level: int) -> None:
        """Share the scratch of the model that this layer has become part of, so many containers deep."""
        self._workspace = workspace
        self._calls.clear()

    def _layers_inside(self) -> list[Layer]:
        return [module for module in self.modules() if isinstance(module, Layer)]

    @property
    def scratch_nbytes(self) -> int:
        """Bytes of scratch, shared with the other layers of the model."""
        return self._workspace.nbytes

    @property
    def saved_nbytes(self) -> int:
        """Bytes that this layer and its children hold from forward to backward."""
        return sum(slot.workspace.nbytes for layer in self._layers_inside() for slot in layer._free + layer._kept)

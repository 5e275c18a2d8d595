"""`Layer`: the contract that every layer keeps, in one place.

A layer class says what it computes and which buffers it needs; `Layer` checks the arrays that users pass, owns the buffers,
and keeps forwards until their backward.

What a subclass writes:

* ``output_shape(x_shape)``: pure; raises `ShapeError` for what it cannot take;
* ``_forward(call, y, x, saved)``: write ``y``;
* ``_backward(call, dx, dy, x, saved)``: add to the parameters' gradients, and write ``dx`` unless it is None;
* ``saved_spec`` and ``scratch_spec``, where it needs arrays from forward to backward, or within a call;
* ``keeps_input = True``, where ``_backward`` reads ``x``; ``takes_indices = True``, where x holds whole numbers.

What depends on the mode reads ``self.training`` in ``_forward``. Whether a forward is kept is another matter: a container that
is trained keeps those of layers in eval mode too.

A layer of several inputs or outputs has a ``forward`` and ``backward`` of its own, made of the same parts: `_call`,
`_destination`, `_compute`, `_newest`, `_finish`; its ``_forward`` and ``_backward`` get tuples.
"""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np

from numba_nn.core.call import Array, Arrays, Call, Slot
from numba_nn.core.checks import as_shape, check_array, check_count, check_destination, check_dtype, check_indices, check_shape
from numba_nn.core.epilogue import NOTHING, Epilogue
from numba_nn.core.errors import ArgumentError, BackwardError, DTypeError
from numba_nn.core.module import Module
from numba_nn.core.workspace import Shape, Spec, Workspace, contiguous


class Layer(Module):
    """Base of all layers.

    Attributes
    ----------
    dtype : dtype or None
        Dtype of parameters and arrays; None for a layer without parameters, which follows its input.
    epilogue_role : "product", "norm", "activation" or None
        Its part in `numba_nn.core.epilogue`; a subclass with a `_forward` or `_backward` of its own has none unless it says so.
    """

    keeps_input = False
    takes_indices = False
    epilogue_role: str | None = None
    dtype: np.dtype[Any] | None = None

    def __init__(self) -> None:
        super().__init__()
        self._workspace = Workspace()
        self._calls: dict[tuple[Shape, np.dtype[Any]], Call] = {}
        self._made: dict[tuple[Any, np.dtype[Any]], Any] = {}
        self._free = [Slot()]
        self._kept: list[Slot] = []

    def __init_subclass__(cls) -> None:
        if "epilogue_role" not in vars(cls) and {"_forward", "_backward"} & vars(cls).keys():
            cls.epilogue_role = None

    def __getstate__(self) -> dict[str, Any]:
        slots = [Slot() for _ in self._free + self._kept]
        return {
            **vars(self),
            "_calls": {},
            "_made": {},
            "_free": slots,
            "_kept": [],
        }  # a copy has buffers and forwards of its own

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

    def _tables(self, x_shape: Shape, dtype: np.dtype[Any]) -> Any:
        """Arrays that depend on all dimensions but the first, so that smaller batches share them; found in ``call.tables``."""
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
        return self._apply(x, out, self.training)

    def _apply(self, x: Array, out: Array | None, keep: bool, epilogue: Epilogue = NOTHING) -> Array:
        """`forward`; a container says itself whether it is kept, and what of the next layers it does."""
        with self._workspace.in_use(self):
            self._check_input(x)
            call = self._call(x.shape, self.dtype or x.dtype)
            call.epilogue = epilogue
            y = self._destination(out, "out", call.y_shape, call.dtype, x)
            self._compute(call, y, x, keep)
        return y

    def _check_input(self, x: Any) -> None:
        if self.takes_indices:
            check_indices(self, "x", x)
        else:
            check_array(self, "x", x, self.dtype)

    def _compute(self, call: Call, y: Any, x: Any, keep: bool) -> None:
        """Run `_forward` on arrays that were checked, and keep it for a backward or not."""
        call.keep = keep
        if not keep:
            self._forward(call, y, contiguous(self._workspace, "x", x), call.inference)
            return
        slot = self._free[-1] if self._free else self._kept[0]
        saved = slot.saved(call, self)
        x = contiguous(slot.workspace if self.keeps_input else self._workspace, "x", x)
        self._keep_in(slot, call, x if self.keeps_input else None, saved)
        try:
            self._forward(call, y, x, saved)
        except BaseException:
            self._forget()
            raise

    def _keep_in(self, slot: Slot, call: Call, x: Any, saved: Arrays) -> None:
        (self._free if self._free else self._kept).remove(slot)
        slot.keep(call, x, saved)
        self._kept.append(slot)

    def _keep_output(self, y: Array) -> None:
        """Keep a forward that the layer before has done in its epilogue: backward makes do with the output."""
        slot = self._free[-1] if self._free else self._kept[0]
        self._keep_in(slot, self._call(y.shape, y.dtype), y, {"y": y})

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
        ArgumentError
            If ``out`` is given and there is no input gradient: ``input_gradient=False``, or x holds indices.
        ShapeError, DTypeError, DestinationError
            If an array does not fit; nothing was written.
        ConcurrencyError
            If another thread is inside the model.
        """
        return self._propagate(dy, out, input_gradient)

    def _propagate(self, dy: Array, out: Array | None, input_gradient: bool) -> Array | None:
        """`backward`, as a container calls it."""
        with self._workspace.in_use(self):
            slot, call = self._newest()
            check_array(self, "dy", dy, call.dtype)
            check_shape(self, "dy", dy.shape, call.y_shape)
            dx = None
            if out is not None and (self.takes_indices or not input_gradient):
                reason = "x holds indices" if self.takes_indices else "input_gradient=False"
                raise ArgumentError(f"{self!r}: backward has no input gradient to write to out: {reason}")
            if input_gradient and not self.takes_indices:
                dx = self._destination(out, "out", call.x_shape, call.dtype, dy, *([] if slot.x is None else [slot.x]))
            self._finish(slot, dx, dy)
            return dx

    def _newest(self) -> tuple[Slot, Call]:
        """The forward that the next backward belongs to."""
        if not self._kept:
            raise BackwardError(
                f"{self!r}: no forward is left for this backward: each allows one, and only in training mode (train()); "
                f"the last {len(self._free)} forwards are kept (reserve(..., calls=n) keeps more)"
            )
        slot = self._kept[-1]
        assert slot.call is not None
        return slot, slot.call

    def _finish(self, slot: Slot, dx: Any, dy: Any) -> None:
        """Run `_backward` on arrays that were checked."""
        self._check_parts(slot, {})
        assert slot.call is not None
        call, x, saved = self._call(slot.call.x_shape, slot.call.dtype), slot.x, slot.arrays
        dy = contiguous(self._workspace, "dy", dy)
        Layer._forget(self)
        self._backward(call, dx, dy, x, saved)

    def _check_parts(self, slot: Slot, taken: dict[Layer, int]) -> None:
        """A container raises `BackwardError` unless the layers inside still keep what this forward was made of."""

    def _call(self, x_shape: Any, dtype: np.dtype[Any]) -> Call:
        call = self._calls.get((x_shape, dtype))
        if call is None:
            call = Call(x_shape, self._y_shape(x_shape), dtype)
            call.geometry = self._geometry(x_shape, dtype)
            if (x_shape[1:], dtype) not in self._made:
                self._made[x_shape[1:], dtype] = self._tables(x_shape, dtype)
            call.tables = self._made[x_shape[1:], dtype]
        if call.generation != self._workspace.generation:
            self._allocate(call)
            call.generation = self._workspace.generation
            self._calls[x_shape, dtype] = call
        return call

    def _y_shape(self, x_shape: Any) -> Shape:
        """Output shape for a call's ``x_shape``, which holds several where there are several inputs."""
        return self.output_shape(x_shape)

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
        calls = check_count(self, "calls", calls)
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
            raise ArgumentError(f"{self!r}: reserve takes one input shape, got {len(input_shapes)}")
        return as_shape(self, input_shapes[0])

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

    def share(self) -> Self:
        """A second handle on the same parameters and running statistics, with buffers of its own.

        For a second thread, or for a second place in a program that runs between a forward and its backward. Gradients are
        shared as well: only one thread may train.

        Returns
        -------
        Layer
            A model of the same structure, in the same mode.
        """
        shared = [a for p in self.parameters() for a in (p, p.value, p.grad)] + [a for _, a in self.named_arrays()]
        return copy.deepcopy(self, {id(a): a for a in shared})

    @property
    def scratch_nbytes(self) -> int:
        """Bytes of scratch, shared with the other layers of the model."""
        return self._workspace.nbytes

    @property
    def saved_nbytes(self) -> int:
        """Bytes that this layer and its children hold from forward to backward."""
        return sum(slot.workspace.nbytes for layer in self._layers_inside() for slot in layer._free + layer._kept)

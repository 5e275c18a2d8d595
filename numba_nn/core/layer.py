"""`Layer`: the contract that every layer keeps, in one place.

A layer class says what it computes and which buffers it needs; `Layer` checks the arrays that users pass and runs it, and
`LayerMemory`, its base, owns the memory and keeps forwards until their backward.

What a subclass writes:

* ``output_shape(x_shape)``: pure; raises `ShapeError` for what it cannot take;
* ``_forward(call, y, x, saved)``: write ``y``;
* ``_backward(call, dx, dy, x, saved)``: add to the parameters' gradients, and write ``dx`` unless it is None;
* ``saved_spec`` and ``scratch_spec``, where it needs arrays from forward to backward, or within a call;
* ``keeps_input = True``, where ``_backward`` reads ``x``; ``takes_indices = True``, where x holds whole numbers;
* in its constructor, after ``super().__init__()``, parameters as attributes, ``self.weight = Parameter(array, "weight")``, and
  ``self.dtype``, the `numpy.dtype` of parameters and arrays; a layer without parameters leaves it None and follows its input.

``examples/own_layer.py`` has all of it in one: a factor for each feature, with kernels that run on a GPU, too. A layer may do
without kernels: ``nn.ops`` and NumPy, with ``out=``, serve in ``_forward`` and ``_backward``, NumPy on the CPU alone.

What else a subclass may write, each only where it is needed:

* ``_geometry(x_shape, dtype)``: what follows from the shape, made once, such as the kernels' ``for_work``: ``call.geometry``;
* ``_tables(x_shape, dtype)``: arrays that do not depend on the first dimension, so that smaller batches share them:
  ``call.tables``;
* ``inference_spec``: what of ``saved_spec`` a forward writes even if no backward comes; nothing, in most layers that have one;
* ``buffer_names``: attributes that are state without being learned, such as running statistics;
* ``_derive()``: arrays that follow from parameters or the device, made anew where these change;
* ``_pack_for(call)``: has `Parameter.packed` make what a forward reads of locked parameters;
* ``forward_flops(x_shape)``: of its matrix products, for reports;
* ``_arguments()``: what `repr`, and so every message, shows between the parentheses;
* ``epilogue_role``, ``merged_with(before)``: its part in layers that run as one, see `numba_nn.core.fusion`.

Arrays of statistics and of partial sums are declared with the dtype ``wide(dtype)``, which is float32 where the layer's arrays
have 16 bits.

What depends on the mode reads ``self.training`` in ``_forward``. Whether a forward is kept is another matter: a container that
is trained keeps those of layers in eval mode too.

A layer of several inputs or outputs has a ``forward`` and ``backward`` of its own, made of the same parts: `_call`,
`_destination`, `_compute`, `_newest`, `_finish`; its ``_forward`` and ``_backward`` get tuples. It sets
``takes_several = True`` if it takes several inputs; containers, which pass one array on, refuse it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from numba_nn.core.call import Array, Arrays, Call, Slot
from numba_nn.core.checks import check_array, check_destination, check_fits, check_flag, check_indices, is_destination
from numba_nn.core.device import CPU, device_of
from numba_nn.core.epilogue import NOTHING, Epilogue
from numba_nn.core.errors import ArgumentError, BackwardError, DeviceError, undefined
from numba_nn.core.layer_memory import LayerMemory
from numba_nn.core.workspace import Shape


class Layer(LayerMemory):
    """Base of all layers.

    Attributes
    ----------
    epilogue_role : "product", "maximum", "norm", "activation" or None
        Its part in `numba_nn.core.epilogue`; a subclass with a `_forward` or `_backward` of its own has none unless it says so.
    channel_axis, epilogue_code : int
        Axis of a product's channels; number of an activation.
    """

    keeps_input = False
    takes_indices = False
    takes_several = False
    epilogue_role: str | None = None
    channel_axis = 1
    epilogue_code = 0

    def __init_subclass__(cls) -> None:
        if "epilogue_role" not in vars(cls) and {"_forward", "_backward"} & vars(cls).keys():
            cls.epilogue_role = None

    # ---- what a subclass defines -------------------------------------------------------------------------------------

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output for an input of this shape; computes nothing else.

        Raises
        ------
        ShapeError
            If the layer cannot take this shape.
        """
        raise undefined(self, "output_shape(x_shape)")

    def merged_with(self, before: Layer) -> Layer | None:
        """One layer in place of the one before and this one, if there is such; its `merging_pays` says for which shapes."""
        return None

    def merging_pays(self, x_shape: Shape) -> bool:
        """Whether a layer made by `merged_with` is faster than the two that it stands for; for batches of any size."""
        return False

    def forward_flops(self, x_shape: Shape) -> int:
        """Floating-point operations of a forward's matrix products; 0 for a layer that has none."""
        return 0

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        raise undefined(self, "_forward(call, y, x, saved)")

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        raise undefined(self, "_backward(call, dx, dy, x, saved)")

    def _y_shape(self, x_shape: Any) -> Shape:
        """Output shape for a call's ``x_shape``, which holds several where there are several inputs."""
        return self.output_shape(x_shape)

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
            Where to write the output: C-contiguous, apart from ``x`` and from the layer's parameters, gradients and statistics.

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
        lock = self._workspace.lock
        if not lock.acquire(False):  # as `in_use` does, which takes 0.3 us more
            self._workspace.refuse(self)
        try:
            if type(x) is not ndarray or self.device is not CPU:
                x = self._accept(x)
            call = self._call_for(x)
            y: Any = out
            # What may lie in memory that a model holds is no destination if it is this one's: `_destination` knows.
            sure = self.device is CPU and is_destination(out, call.y_shape, call.dtype, x)
            if not sure or (y.base is not None and self.device.is_held(y)):
                y = self._destination(out, "out", call.y_shape, call.dtype, x)
            self._apply(call, y, x, self.training)
        finally:
            lock.release()
        return y if out is None else out

    def _accept(self, x: Any) -> Any:
        """An input as one of the device's; a layer without parameters goes where its input is."""
        device = device_of(x)
        if device is not self.device:
            if self.dtype is not None:
                raise DeviceError(f"{self}: x lives on '{device}', the layer on '{self.device}'; see layer.to('{device}')")
            self.to(device)
        return device.accept(x)

    def _apply(self, call: Call, y: Array, x: Array, keep: bool, epilogue: Epilogue = NOTHING) -> None:
        """The forward of checked arrays. A container calls it directly, and says which of the next layers it does, too."""
        call.epilogue = epilogue
        if keep or self.device is not CPU or not x.flags.carray:
            self._compute(call, y, x, keep)
        else:
            call.keep = False
            self._forward(call, y, x, call.inference)

    def _call_for(self, x: Any) -> Call:
        """The call for an input, once it is checked; one of the newest call's shape and dtype needs no further look."""
        call = self._newest_call
        if type(x) is ndarray and x.shape == call.x_shape and x.dtype is call.dtype:
            if call.generation == self._workspace.generation:
                return call
        self._check_input(x)
        call = self._call(x.shape, self.dtype or x.dtype)
        if not self.takes_indices and self.device is CPU:
            self._newest_call = call
        return call

    def _check_input(self, x: Any) -> None:
        if self.takes_indices:
            check_indices(self, "x", x, self.device)
        else:
            check_array(self, "x", x, self.dtype, self.device)

    def _compute(self, call: Call, y: Any, x: Any, keep: bool) -> None:
        """Run `_forward` on arrays that were checked, and keep it for a backward or not."""
        call.keep = keep
        if not keep:
            self._forward(call, y, self._workspace.contiguous("x", x), call.inference)
            return
        slot = self._next_slot()
        saved = self._saved(slot, call)
        x = (slot.workspace if self.keeps_input else self._workspace).contiguous("x", x)
        self._keep_in(slot, call, x if self.keeps_input else None, saved)
        try:
            self._forward(call, y, x, saved)
        except BaseException:
            self._forget()
            raise

    def _keep_output(self, y: Array) -> None:
        """Keep a forward that the layer before has done in its epilogue: backward makes do with the output."""
        self._keep_in(self._next_slot(), self._call(y.shape, y.dtype), y, {"y": y})

    def backward(self, dy: Array, out: Array | None = None, *, input_gradient: bool = True) -> Array | None:
        """Propagate a gradient through the newest forward that has not been propagated yet.

        Gradients of parameters accumulate in ``Parameter.grad``; the gradient of the input is overwritten.

        Parameters
        ----------
        dy : ndarray
            Gradient of the loss with respect to the output.
        out : ndarray, optional
            Where to write the gradient with respect to the input: C-contiguous, apart from ``dy``, the input, and
            what the layer holds, as in `forward`.
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
        return self._propagate(dy, out, check_flag(self, "input_gradient", input_gradient))

    def _propagate(self, dy: Array, out: Array | None, input_gradient: bool) -> Array | None:
        """`backward`, as a container calls it."""
        lock = self._workspace.lock
        if not lock.acquire(False):
            self._workspace.refuse(self)
        try:
            slot, call = self._newest()
            dy = self.device.accept(dy)
            check_fits(self, "dy", dy, call.y_shape, call.dtype, self.device)
            dx: Any = None
            if input_gradient and not self.takes_indices:
                dx, x = out, slot.x
                sure = self.device is CPU and is_destination(out, call.x_shape, call.dtype, dy, x)
                if not sure or (dx.base is not None and self.device.is_held(dx)):
                    dx = self._destination(out, "out", call.x_shape, call.dtype, *((dy,) if x is None else (dy, x)))
            elif out is not None:
                reason = "x holds indices" if self.takes_indices else "input_gradient=False"
                raise ArgumentError(f"{self}: backward has no input gradient to write to out: {reason}")
            self._check_parts(slot, {})
            self._finish(slot, dx, dy)
        finally:
            lock.release()
        return dx if out is None else out

    def _apply_backward(self, dx: Array | None, dy: Array) -> None:
        """The backward of checked arrays. A container calls it directly, as `_apply`, once it has checked its parts."""
        self._finish(self._kept[-1], dx, dy)

    def _newest(self) -> tuple[Slot, Call]:
        """The forward that the next backward belongs to."""
        if not self._kept:
            raise BackwardError(
                f"{self}: no forward is left for this backward: each allows one, and only in training mode (train()); "
                f"the last {len(self._free)} forwards are kept (reserve(..., calls=n) keeps more)"
            )
        slot = self._kept[-1]
        assert slot.call is not None
        return slot, slot.call

    def _finish(self, slot: Slot, dx: Any, dy: Any) -> None:
        """Run `_backward` on arrays, and for parts, that were checked."""
        call, x, saved = slot.call, slot.x, slot.arrays
        assert call is not None
        if call is not self._newest_call or call.generation != self._workspace.generation:
            call = self._call(call.x_shape, call.dtype)
        dy = self._workspace.contiguous("dy", dy)
        Layer._forget(self)
        self._backward(call, dx, dy, x, saved)

    def _check_parts(self, slot: Slot, taken: dict[Layer, int]) -> None:
        """A container raises `BackwardError` unless the layers inside still keep what this forward was made of."""

    def _destination(self, out: Any, name: str, shape: Shape, dtype: np.dtype[Any], *inputs: Array) -> Array:
        """Where to write an array: what the caller gave, once checked, or a fresh one."""
        if out is None:
            return self.device.empty(shape, dtype)
        out = self.device.accept(out)
        check_destination(self, name, out, shape, dtype, *inputs, device=self.device)
        if self.device.is_held(out):
            self._check_apart(name, out)
        return out

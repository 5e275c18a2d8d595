"""`Loss`: the contract that every loss keeps, in one place.

What a subclass writes:

* ``loss_shape(shape)``: shape of the single losses (reduction "none"); raises `ShapeError` for a prediction it cannot take;
* ``_check(prediction, target)``: raise for a target that does not fit;
* ``_check_values(prediction, target)``: raise `RangeError` for values out of range. Its kernels make the loss NaN for these;
* ``_forward(loss, prediction, target, arrays)``: write ``loss``, one element unless the reduction is "none";
* ``_backward(dx, prediction, target, arrays)``: write ``dx``;
* ``_divisor(shape, arrays)``, where a mean divides by something else than the number of single losses;
* ``saved_spec`` and ``scratch_spec``, where it needs arrays from forward to backward, or within a call; ``_fill``, where some
  of them hold what only depends on the shape, as weights do.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np

from numba_nn.core.call import Array, Arrays
from numba_nn.core.carry import CarriedStream, arrived
from numba_nn.core.checks import as_shape, check_array, check_destination, check_dtype
from numba_nn.core.device import CPU, Device, as_device, as_stream, device_of
from numba_nn.core.errors import ArgumentError, BackwardError, undefined
from numba_nn.core.workspace import Shape, Spec, Workspace

REDUCTIONS = ("mean", "sum", "none")


def own_weight(where: object, name: str, weight: Any) -> Array | None:
    """A copy of a constructor's weight that nobody changes; raises `DTypeError` unless it is an array of floats, or None."""
    if weight is None:
        return None
    check_array(where, name, weight, None)
    weight = weight.copy()
    weight.flags.writeable = False
    return weight


class Loss:
    """Base of the losses: checks, buffers, and what backward needs.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the single losses: their mean, their sum, or nothing.

    Raises
    ------
    ArgumentError
        For another reduction.
    """

    device: Device = CPU
    """Where the last prediction lived: a loss goes where its prediction is."""
    stream: Any = None
    """On a GPU, the stream of ``numba.cuda`` that its work goes to; None for that of whoever calls. See `to`."""

    def __init__(self, reduction: str = "mean") -> None:
        if reduction not in REDUCTIONS:
            raise ArgumentError(f"{type(self).__name__}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
        self.reduction = reduction
        self._workspace = Workspace()
        self._arrays: tuple[Any, Arrays] = None, {}
        self._kept: tuple[Array, Array, Arrays] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_arrays": (None, {}), "_kept": None, "stream": CarriedStream(self.stream)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(arrived(state))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._arguments()})"

    # ---- what a subclass defines -------------------------------------------------------------------------------------

    def loss_shape(self, shape: Shape) -> Shape:
        """Shape of the single losses for a prediction of this shape.

        Raises
        ------
        ShapeError
            If the loss cannot take this shape.
        """
        raise undefined(self, "loss_shape(shape)")

    def saved_spec(self, shape: Shape, dtype: np.dtype[Any]) -> dict[str, Spec]:
        """Shape and dtype of every array that forward keeps for backward."""
        return {}

    def scratch_spec(self, shape: Shape, dtype: np.dtype[Any]) -> dict[str, Spec]:
        """Shape and dtype of every array that is dead at return."""
        return {}

    def _fill(self, arrays: Arrays) -> None:
        """Write what depends on the shape alone into new arrays."""

    def _check(self, prediction: Array, target: Any) -> None:
        raise undefined(self, "_check(prediction, target)")

    def _check_values(self, prediction: Array, target: Array) -> None:
        pass

    def _forward(self, loss: Array, prediction: Array, target: Array, arrays: Arrays) -> None:
        raise undefined(self, "_forward(loss, prediction, target, arrays)")

    def _backward(self, dx: Array, prediction: Array, target: Array, arrays: Arrays) -> None:
        raise undefined(self, "_backward(dx, prediction, target, arrays)")

    def _divisor(self, shape: Shape, arrays: Arrays) -> float:
        """What a mean divides by, after a forward for predictions of this shape."""
        return math.prod(self.loss_shape(shape))

    def _arguments(self) -> str:
        """Constructor arguments, for the repr."""
        return f"reduction={self.reduction!r}"

    # ---- calls -------------------------------------------------------------------------------------------------------

    def __call__(self, prediction: Array, target: Array) -> Any:
        """``forward(prediction, target)``."""
        return self.forward(prediction, target)

    def forward(self, prediction: Array, target: Array, out: Array | None = None) -> Any:
        """Compute the loss.

        On a GPU a float waits for the loss, so values out of range (a class that is none, a probability above 1) are refused as
        on the CPU. With ``out`` or the reduction "none" nothing is waited for: there such a value gives NaN.

        Parameters
        ----------
        prediction, target : ndarray
            Of the shapes and dtypes that the class says; borrowed until `backward`.
        out : ndarray, optional
            Where to write the loss: one element, or with reduction "none" one for each single loss.

        Returns
        -------
        float or ndarray
            ``out`` itself if given; else a float, or with reduction "none" a fresh array.

        Raises
        ------
        ShapeError, DTypeError, RangeError, DestinationError
            If an array, or a value of it, does not fit; nothing was written.
        ConcurrencyError
            If another thread is inside this loss.
        """
        with self._workspace.in_use(self):
            if device_of(prediction) is not self.device:
                self._move(device_of(prediction))
            prediction, target = self.device.accept(prediction), self.device.accept(target)
            check_array(self, "prediction", prediction, None, self.device)
            each = self.loss_shape(prediction.shape)
            shape = each if self.reduction == "none" else (1,)
            self._check(prediction, target)
            if self.device is CPU:
                self._check_values(prediction, target)
            loss = None
            if out is not None or self.reduction == "none":
                loss = self._destination(out, shape, prediction.dtype, prediction, target)
            result = self._checked_forward(prediction, target, loss)
            return result if out is None else out

    def check_values(self, prediction: Array, target: Array) -> None:
        """Look at what `forward` refuses on the CPU, and on a GPU only where it waits for a float.

        Parameters
        ----------
        prediction, target : ndarray
            As it was given.

        Raises
        ------
        RangeError
            If values are out of range.
        """
        with self._workspace.in_use(self):
            self._check_values(prediction, target)

    def divisor(self) -> float:
        """What the mean of the last `forward` divided by: with it, means of batches make the mean of them all.

        A captured graph that is repeated is no `forward`.

        Returns
        -------
        float
            The number of single losses, or the sum of their targets' weights where the class divides by that. A GPU is waited
            for.

        Raises
        ------
        ArgumentError
            If the reduction is not "mean".
        BackwardError
            Before any forward.
        ConcurrencyError
            If another thread is inside this loss.
        """
        if self.reduction != "mean":
            raise ArgumentError(f'{self!r}: divisor is that of a mean; build the loss with reduction="mean"')
        with self._workspace.in_use(self):
            if self._kept is None:
                raise BackwardError(f"{self!r}: divisor before forward")
            prediction, _, arrays = self._kept
            return self._divisor(prediction.shape, arrays)

    def to(self, device: str | Device, stream: Any = None) -> Self:
        """Have buffers on a device, where the loss would go with its next prediction, and on a GPU its work in a stream.

        Parameters
        ----------
        device : {"cpu", "cuda"}
            Where to; a forward before is forgotten.
        stream : stream or int, optional
            On "cuda", where its work goes, as `Module.to` takes it: that of the model. Another device forgets it.

        Returns
        -------
        Loss
            The loss itself.

        Raises
        ------
        DeviceError
            If this machine lacks the device.
        ArgumentError
            For another name, or a stream that is none or comes with "cpu".
        """
        target = as_device(self, device)
        stream = as_stream(self, target, stream, self.stream)
        if target is not self.device or stream is not self.stream:
            self._move(target, stream)
        return self

    def _move(self, device: Device, stream: Any = None) -> None:
        """Have buffers on this device; a forward before is forgotten."""
        self.device, self.stream = device, stream
        self._workspace, self._arrays, self._kept = Workspace(device, stream), (None, {}), None

    def _destination(self, out: Any, shape: Shape, dtype: np.dtype[Any], *inputs: Array) -> Array:
        """What the caller gave, once checked, or a fresh array."""
        if out is None:
            return self.device.empty(shape, dtype)
        out = self.device.accept(out)
        check_destination(self, "out", out, shape, dtype, *inputs, device=self.device)
        return out

    def _checked_forward(self, prediction: Array, target: Array, out: Array | None) -> Any:
        self._kept = None
        arrays = self._arrays_of(prediction.shape, prediction.dtype)
        prediction = self._workspace.contiguous("prediction", prediction)
        target = self._workspace.contiguous("target", target)
        self._forward(arrays["loss"] if out is None else out, prediction, target, arrays)
        result = self.device.number(arrays["loss"]) if out is None else out
        if out is None and self.device is not CPU and math.isnan(result):
            self._check_values(prediction, target)
        self._kept = prediction, target, arrays
        return result

    def backward(self, out: Array | None = None) -> Array:
        """Gradient of the last loss (with reduction "none", of its sum) with respect to the prediction.

        Parameters
        ----------
        out : ndarray, optional
            Where to write it: of the prediction's shape and dtype.

        Returns
        -------
        ndarray
            ``out`` itself, or a fresh array.

        Raises
        ------
        BackwardError
            Before any forward.
        ShapeError, DTypeError, DestinationError
            If ``out`` does not fit; nothing was written.
        ConcurrencyError
            If another thread is inside this loss.
        """
        with self._workspace.in_use(self):
            if self._kept is None:
                raise BackwardError(f"{self!r}: backward before forward")
            prediction, target, arrays = self._kept
            dx = self._destination(out, prediction.shape, prediction.dtype, prediction, target)
            self._backward(dx, prediction, target, arrays)
            return dx if out is None else out

    # ---- buffers -----------------------------------------------------------------------------------------------------

    def reserve(self, shape: Shape, dtype: Any = np.float32, device: str | Device = CPU) -> Self:
        """Allocate everything that later calls need, for predictions of up to this shape; a forward before is forgotten.

        Parameters
        ----------
        shape : tuple of int
            Shape of the largest prediction.
        dtype : dtype, optional
            Of the prediction, float32 or float64.
        device : {"cpu", "cuda"}, optional
            Where predictions will live.

        Returns
        -------
        Loss
            The loss itself.

        Raises
        ------
        ShapeError, DTypeError
            If the loss cannot take such predictions; nothing changed.
        DeviceError, ArgumentError
            If this machine lacks the device, or for another name; nothing changed.
        """
        dtype, shape = check_dtype(self, dtype), as_shape(self, shape)
        self.loss_shape(shape)  # refuses what does not fit, before anything changes
        target = as_device(self, device)
        if target is not self.device:
            self._move(target)
        with self._workspace.in_use(self):
            self._kept = None  # the arrays may be those it was kept in
            self._arrays_of(shape, dtype)
        return self

    def _arrays_of(self, shape: Shape, dtype: np.dtype[Any]) -> Arrays:
        """Saved, scratch, and ``loss``, one element; those of the newest shape are kept ready."""
        key, arrays = self._arrays
        if key != (shape, dtype):
            specs = {"loss": ((1,), dtype), **self.saved_spec(shape, dtype), **self.scratch_spec(shape, dtype)}
            arrays = self._workspace.carve("arrays", specs)
            self._fill(arrays)
            self._arrays = (shape, dtype), arrays
        return arrays

    def _scale(self, count: int) -> float:
        """Factor of the sum of so many losses. The mean of none is NaN."""
        if self.reduction != "mean":
            return 1.0
        return 1.0 / count if count else float("nan")

"""`MixedPrecision`: a model whose arrays are floats of 16 bits, while its parameters stay float32."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.checks import check_number
from numba_nn.core.container import Container
from numba_nn.core.cuda.cast import copy_forward
from numba_nn.core.cuda.narrow import FORMS, narrow_dtype
from numba_nn.core.device import CPU, Device
from numba_nn.core.errors import ArgumentError
from numba_nn.core.layer import Layer
from numba_nn.core.module import Module
from numba_nn.core.parameter import Parameter
from numba_nn.core.workspace import Shape, Spec
from numba_nn.optim.loss_scale import LossScale, NoScale

_made: weakref.WeakSet[MixedPrecision] = weakref.WeakSet()
"""All that are alive, so that none takes over the parameters of another."""


class MixedPrecision(Container):
    """Runs a model in float16 or bfloat16 on a GPU; on the CPU, which has no such arithmetic, in float32 as it is.

    Input and output are float32. Inside, activations and their gradients are stored in 16 bits, and products run on tensor
    cores that take 16 bits; sums, statistics, parameters and their gradients are float32, so optimisers and state dicts are
    those of the model itself. Weights are rounded for products, once in eval mode.

    The gradients of float16 are scaled, as below 6e-8 they would be 0. Parameters' gradients come without the scale. Where they
    are looked at (see ``loss_scale``), this library's optimisers skip a step whose gradients are not finite, on the GPU, and it
    is counted. The scale is no part of a state dict: after a restart it finds its size again. This has run on a simulated GPU
    only.

    Parameters
    ----------
    model : Layer
        Of float32, with one input and one output, on the CPU, its parameters in no other MixedPrecision. Move the
        MixedPrecision to a GPU, not the model.
    dtype : {"bfloat16", "float16"}, optional
        bfloat16 has the range of float32, and 8 significant bits; float16 has 11, from 6e-8 to 65504. bfloat16 needs the
        package ml_dtypes.
    loss_scale : {"auto", "dynamic"} or float, optional
        What gradients are multiplied by on their way. "dynamic" starts with 65536, halves it when gradients are not finite, and
        doubles it after 2000 steps without; a number stays; "auto" is "dynamic" for float16 and 1, without a look at gradients,
        for bfloat16.

    Raises
    ------
    ArgumentError
        If the model is none, or not as above, or an argument is out of range.
    ImportError
        When it moves to a GPU, if bfloat16 is asked for and ml_dtypes is missing; nothing moved.

    Examples
    --------
    >>> model = nn.MixedPrecision(nn.models.Autoencoder(), "float16").to("cuda")  # doctest: +SKIP
    >>> step = nn.TrainStep(model, nn.MSELoss(), nn.optim.Adam(model.parameters()), (64, 3, 32, 32))  # doctest: +SKIP
    """

    def __init__(self, model: Layer, dtype: str = "bfloat16", loss_scale: str | float = "auto") -> None:
        super().__init__()
        if isinstance(model, Layer) and model.device is not CPU:
            raise ArgumentError(f"MixedPrecision: model must live on the CPU until it moves with this, got '{model.device}'")
        if not isinstance(model, Layer) or model.takes_several or (model.dtype is not None and model.dtype != np.float32):
            got = str(model) if isinstance(model, Layer) else type(model).__name__
            raise ArgumentError(f"MixedPrecision: model must be a layer of float32 with one input, got {got}")
        if dtype not in FORMS:
            raise ArgumentError(f"MixedPrecision: dtype must be one of {tuple(FORMS)}, got {dtype!r}")
        if loss_scale not in ("auto", "dynamic"):
            unless = "loss_scale, where it is not 'auto' or 'dynamic',"
            check_number("MixedPrecision", unless, loss_scale, 2.0**-24, 2.0**24)
        self.model, self.stored_as, self._asked_scale = model, dtype, loss_scale
        self.dtype, self.takes_indices = np.dtype(np.float32), model.takes_indices
        self._scale: LossScale | NoScale = NoScale()
        self._gpu_scale: LossScale | NoScale | None = None
        self._refuse_shared_parameters()
        self._adopt(self._workspace, 0)

    def _refuse_shared_parameters(self) -> None:
        """A parameter has one guard, and a layer one dtype."""
        own = set(map(id, self.parameters()))
        if any(not own.isdisjoint(map(id, other.parameters())) for other in _made):
            raise ArgumentError(f"MixedPrecision: model must not be in another MixedPrecision already, got {self.model}")
        _made.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_gpu_scale": None if self.device is CPU else self._gpu_scale}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._guard()

    # ---- the state is the model's own ---------------------------------------------------------------------------------

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Those of the model, under its own names."""
        return self.model.named_parameters(prefix)

    def named_arrays(self, prefix: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
        """Those of the model, under its own names."""
        return self.model.named_arrays(prefix)

    @property
    def loss_scale(self) -> float:
        """What the gradients of the last backward were multiplied by; waits for the GPU."""
        with self.device.on(self.stream):
            return self._scale.scale

    @property
    def skipped_steps(self) -> int:
        """Steps that optimisers skipped since the model first came to the GPU; waits for it."""
        with self.device.on(self.stream):
            return self._scale.skipped

    # ---- what a layer defines -----------------------------------------------------------------------------------------

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the model's output.

        Raises
        ------
        ShapeError
            If the model cannot take this shape.
        """
        return self.model.output_shape(x_shape)

    def forward_flops(self, x_shape: Shape) -> int:
        """Those of the model."""
        return self.model.forward_flops(x_shape)

    def _check_move(self, device: Device) -> None:
        self._inside(device)

    def _move(self, device: Device, stream: Any) -> None:
        super()._move(device, stream)
        store_as(self.model, self._inside(device))
        self._scale = NoScale() if device is CPU else self._scale_of_gpu()
        self._guard()

    def _guard(self) -> None:
        """Have optimisers ask the scale before they change a parameter, if it looks at gradients."""
        for parameter in self.parameters():
            parameter.guarded_by(self._scale if isinstance(self._scale, LossScale) else None)

    def _scale_of_gpu(self) -> LossScale | NoScale:
        """What it is there, also if the model has been elsewhere since."""
        if self._gpu_scale is None:
            scale = None if isinstance(self._asked_scale, str) else self._asked_scale
            plain = self._asked_scale == "auto" and self.stored_as == "bfloat16"
            self._gpu_scale = NoScale() if plain else LossScale(self.parameters(), scale)
        return self._gpu_scale

    def _inside(self, device: Device) -> np.dtype[Any]:
        """Dtype of the model's arrays on a device."""
        return np.dtype(np.float32) if device is CPU else narrow_dtype(self, self.stored_as)

    def saved_spec(self, x_shape: Shape, dtype: np.dtype[Any]) -> dict[str, Spec]:
        """The model's input, which it may borrow until its backward."""
        passes = self.device is CPU or self.takes_indices
        return {} if passes else {"x": (x_shape, self._inside(self.device))}

    def _allocate(self, call: Call) -> None:
        specs = self.saved_spec(call.x_shape, call.dtype)
        if self.device is not CPU:
            inside = self._inside(self.device)
            specs |= {"y": (call.y_shape, inside), "dy": (call.y_shape, inside), "dx": (call.x_shape, inside)}
        call.scratch = call.inference = self._workspace.carve(f"mixed{self._level}", specs)

    def _reserve_more(self, call: Call, training: bool, calls: int) -> None:
        super()._reserve_more(call, training, calls)
        self.model.reserve(call.x_shape, dtype=None if self.takes_indices else self._inside(self.device), training=training)

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        if self.device is CPU:
            self._run(call, self.model, x, y)
            return
        if not self.takes_indices:
            copy_forward(saved["x"].reshape(-1), x.reshape(-1))
            x = saved["x"]
        copy_forward(y.reshape(-1), self._run(call, self.model, x, call.scratch["y"]).reshape(-1))

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if self.device is CPU:
            self.model._propagate(dy, dx, dx is not None)
            return
        self._scale.begin(call.scratch["dy"], dy)
        try:
            self.model._propagate(call.scratch["dy"], None if dx is None else call.scratch["dx"], dx is not None)
        finally:
            self._scale.end()
        if dx is not None:
            self._scale.unscale(dx, call.scratch["dx"])

    def _arguments(self) -> str:
        scale = "" if self._asked_scale == "auto" else f", loss_scale={self._asked_scale!r}"
        return f"{self.model!r}, dtype={self.stored_as!r}{scale}"


def store_as(model: Module, dtype: np.dtype[Any]) -> None:
    """Have a model's arrays of a dtype; parameters stay what they are."""
    for module in model.modules():
        if isinstance(module, Layer):
            if module.dtype is not None:
                module.dtype = dtype
            module._derive()
            module._forget_calls()

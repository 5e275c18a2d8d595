"""What runs on the simulated GPU, and is compiled for a real one: small `tests.cases`, and what those lack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import numba_nn as nn
from numba_nn.core.cuda.narrow import wide
from numba_nn.core.device import CUDA
from numba_nn.gpu_check.operations import indices, normal
from numba_nn.mixed_precision import store_as
from tests.case import Case, FirstOutput, LSTMOutput
from tests.cases import CASES

PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, FirstOutput)
MOST = 4000  # elements of an input: a simulated thread takes some microseconds
MOST_OF_A_PRODUCT, MOST_OF_A_SEQUENCE = 300, 15


@dataclass(frozen=True)
class Trial:
    """A layer, made by ``build(dtype)``, and inputs for it, made by ``inputs(dtype)``."""

    name: str
    build: Callable[[Any], nn.Layer]
    inputs: Callable[[Any], tuple[Any, ...]]

    def __str__(self) -> str:
        return self.name

    def run(self, device: Any, dtype: Any = np.float32, values: Any = None) -> dict[str, np.ndarray]:
        """Output, input gradients, parameter gradients and buffers of a forward and its backward, on the host again.

        ``values``: a dtype that holds the numbers of all inputs; by default the dtype itself.
        """
        nn.manual_seed(3)
        layer = self.build(wide(dtype).type).to(device.name)
        if wide(dtype) != dtype:
            store_as(layer, np.dtype(dtype))

        def given(array: np.ndarray) -> Any:
            return device.from_host(array.astype(values or dtype).astype(dtype) if array.dtype.kind == "f" else array)

        y = layer(*map(given, self.inputs(wide(dtype).type)))
        found = {"y": y}
        if any(layer._kept for layer in layer.modules()):
            dx = layer.backward(given(np.random.default_rng(1).standard_normal(y.shape)))
            found |= {f"dx{i}": one for i, one in enumerate(dx if isinstance(dx, tuple) else (dx,)) if one is not None}
        found |= {f"d{name}": parameter.grad for name, parameter in layer.named_parameters()}
        return {name: device.to_host(array) for name, array in (found | dict(layer.named_arrays())).items()}


def frozen(layer: nn.Layer) -> nn.Layer:
    """A Sequential that is trained, with a layer in eval mode, whose running statistics are what a batch left."""
    layer(np.random.default_rng(5).standard_normal((6, 3, 4, 5)).astype(layer.dtype))
    layer.backward(np.zeros((6, 3, 4, 5), layer.dtype))
    model = nn.Sequential(layer, nn.ReLU())
    layer.eval()
    return model


WINDOWS = [
    Trial("global pooling of windows", lambda _: nn.GlobalMaxPool2d(), normal((3, 1, 4, 36))),
    Trial("mean of windows", lambda _: nn.GlobalAvgPool2d(), normal((1, 3, 4, 6))),
    Trial("pooling by windows", lambda _: nn.MaxPool2d(2), normal((1, 3, 4, 16))),
    Trial("pooling of pixels in three rows", lambda _: nn.MaxPool2d(3, 2, 1), normal((1, 3, 8, 24))),
    Trial("pooling of large windows", lambda _: nn.MaxPool2d(5, 1, 2), normal((1, 2, 5, 12))),
    Trial("average pooling by windows", lambda _: nn.AvgPool2d(3, 2, 1), normal((1, 3, 8, 16))),
    Trial("upsampling by windows", lambda _: nn.Upsample(scale_factor=2), normal((1, 3, 3, 8))),
    Trial("upsampling by rows", lambda _: nn.Upsample(size=(5, 8)), normal((1, 3, 3, 8))),
    Trial("zeros around windows", lambda _: nn.ZeroPad2d((4, 0, 1, 2)), normal((1, 3, 3, 8))),
    Trial("mirror images of windows", lambda _: nn.ReflectionPad2d((4, 4, 1, 2)), normal((1, 3, 3, 12))),
    Trial("padding of planes that go together", lambda _: nn.ReflectionPad2d((1, 1, 0, -1)), normal((1, 7, 3, 3))),
    Trial("rows of windows in another order", lambda _: nn.Permute(1, 0, 2), normal((3, 5, 8))),
    Trial("columns of windows in another order", lambda _: nn.Permute(2, 0, 1), normal((2, 36, 44))),
    Trial("concatenate windows", lambda _: nn.Concatenate(), normal((3, 2, 4), (3, 1, 4), (3, 4, 4))),
    Trial("embedding by windows", lambda t: nn.Embedding(10, 8, dtype=t), indices(4, 6)),
    Trial("batch norm by windows", lambda t: nn.BatchNorm1d(8, dtype=t), normal((70, 8))),
    Trial("batch norm of rows that go together", lambda t: nn.BatchNorm1d(6, dtype=t), normal((5, 6))),
]
"""Those whose outputs and input gradients are all stored by windows, but for the last elements."""
EXTRAS = [
    Trial("dropout", lambda _: nn.Dropout(0.3), normal((7, 31))),
    Trial("dropout all", lambda _: nn.Dropout(1.0), normal((3, 5))),
    Trial("dropout, eval mode", lambda _: nn.Dropout(0.3).eval(), normal((3, 5))),
    Trial("dropout, frozen", lambda _: nn.Sequential(nn.ReLU(), nn.Dropout(0.3).eval()), normal((3, 5))),
    Trial("channel dropout", lambda _: nn.Dropout2d(0.3), normal((5, 3, 2, 4))),
    Trial("channel dropout of runs", lambda _: nn.Dropout1d(0.3), normal((2, 3, 300))),
    Trial("embedding", lambda t: nn.Embedding(10, 70, padding_idx=2, dtype=t), indices(4, 6)),
    Trial("embedding, narrow", lambda t: nn.Embedding(10, 3, dtype=t), indices(41, 2)),
    Trial("embedding, int32", lambda t: nn.Embedding(9, 5, dtype=t), lambda _: (np.arange(9, dtype=np.int32),)),
    Trial("concatenate channels", lambda _: nn.Concatenate(), normal((2, 3, 4), (2, 1, 4), (2, 5, 4))),
    Trial("concatenate rows", lambda _: nn.Concatenate(0), normal((2, 3), (5, 3))),
    Trial("add", lambda _: nn.Add(), normal((3, 5), (3, 5), (3, 5))),
    Trial("multiply", lambda _: nn.Multiply(), normal((3, 5), (3, 5), (3, 5))),
    Trial("batch norm, frozen", lambda t: frozen(nn.BatchNorm2d(3, dtype=t)), normal((2, 3, 4, 5))),
    Trial("batch norm, eval mode", lambda t: nn.BatchNorm1d(3, momentum=None, dtype=t).eval(), normal((4, 3))),
    Trial("batch norm of large numbers", lambda t: nn.BatchNorm1d(3, dtype=t), lambda t: (normal((70, 3))(t)[0] + t(100),)),
    Trial("pooling and ReLU", lambda _: nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Tanh()), normal((1, 2, 5, 6))),
    Trial("global pooling", lambda _: nn.Sequential(nn.GlobalMaxPool2d(), nn.Sigmoid()), normal((2, 3, 7, 9))),
    Trial("softmax in a model", lambda _: nn.Sequential(nn.Softmax(1), nn.Softmax(1)).eval(), normal((3, 70))),
    *WINDOWS,
]
PRODUCT_EXTRAS = [
    Trial("linear of several tiles", lambda t: nn.Linear(3, 66, bias=False, dtype=t), normal((2, 35, 3))),
    Trial("conv2d of one pixel in slices", lambda t: nn.Conv2d(1, 1, 1, dtype=t), normal((1, 1, 32, 32))),
    Trial("two LSTM layers, both ways", lambda t: LSTMOutput(2, 3, 2, True, True, 0.3, True, dtype=t), normal((2, 2, 2))),
    Trial(
        "a classifier",
        lambda t: nn.Sequential(
            nn.Conv2d(1, 4, 3, dtype=t), nn.BatchNorm2d(4, dtype=t), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(16, 3, dtype=t), nn.Tanh(),
        ),
        normal((2, 1, 6, 6)),
    ),
]  # fmt: skip


def of_case(case: Case) -> Trial:
    """A case of `tests.cases`."""
    return Trial(str(case), case.build, lambda dtype: (case.x(dtype),))


def fits(case: Case) -> bool:
    """Whether the simulator has a case done soon: a tile of a matrix product takes a third of a second."""
    if not issubclass(case.layer, PRODUCTS):
        return np.prod(case.x_shape) <= MOST
    if issubclass(case.layer, FirstOutput):  # every step has several products
        return np.prod(case.x_shape) <= MOST_OF_A_SEQUENCE and "num_layers" not in case.kwargs
    return np.prod(case.x_shape) <= MOST_OF_A_PRODUCT and np.prod(case.build().output_shape(case.x_shape)) <= MOST


PRODUCT_TRIALS = [of_case(case) for case in CASES if issubclass(case.layer, PRODUCTS) and fits(case)] + PRODUCT_EXTRAS
TRIALS = [of_case(case) for case in CASES if not issubclass(case.layer, PRODUCTS) and fits(case)] + EXTRAS


def run_for_launches(dtype: Any) -> None:
    """Everything once; for what does no arithmetic but takes note of the launches."""
    for trial in TRIALS + PRODUCT_EXTRAS:
        trial.run(CUDA, dtype)
    norm = nn.BatchNorm2d(3, dtype=wide(dtype)).to("cuda")
    norm.fold(CUDA.zeros((3,), wide(dtype)))
    pool = nn.MaxPool2d(2, return_indices=True)
    pool(CUDA.zeros((1, 1, 4, 4), dtype))

"""A configuration of a layer: how it is built, its numbers, and how results are compared."""

import inspect
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import numba_nn as nn


@dataclass(frozen=True)
class Case:
    """A layer's class and arguments, its formula in `tests.reference`, and the shape of an input."""

    layer: type[nn.Layer]
    formula: Callable[..., np.ndarray]
    x_shape: tuple[int, ...]
    args: tuple = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __str__(self):
        arguments = [*map(str, self.args), *(f"{name}={value}" for name, value in self.kwargs.items())]
        return f"{self.layer.__name__}({','.join(arguments)})-{'x'.join(map(str, self.x_shape))}".replace(" ", "")

    @property
    def mixes_outputs(self) -> bool:
        """Whether an infinity or NaN may make NaN of outputs that do not depend on it: `tests.test_winograd` says which."""
        return self.kwargs.get("algorithm") == "winograd"

    def build(self, dtype: Any = np.float32) -> nn.Layer:
        """The layer; its parameters are the same numbers in either dtype."""
        own = {"dtype": dtype} if "dtype" in inspect.signature(self.layer).parameters else {}
        layer = self.layer(*self.args, **self.kwargs, **own)
        for name, parameter in layer.named_parameters():
            fan_in = max(1, parameter.value[0].size)
            parameter.value[...] = (self.numbers(name, parameter.value.shape) / np.sqrt(fan_in)).astype(np.float32)
        return layer

    def expected(self, x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
        """The output according to the formula."""
        return self.formula(x, parameters, *self.args, **self.kwargs)

    def numbers(self, name: str, shape: tuple[int, ...], dtype: Any = np.float64) -> np.ndarray:
        """Normal numbers that depend on the layer's class, a name and the shape alone, and are exact in float32."""
        seed = zlib.crc32(f"{self.layer.__name__} {name}".encode())
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(dtype)

    def x(self, dtype: Any = np.float32, name: str = "x") -> np.ndarray:
        """An input."""
        return self.numbers(name, self.x_shape, dtype)

    def dy(self, layer: nn.Layer, dtype: Any = np.float32, name: str = "dy") -> np.ndarray:
        """A gradient of the output."""
        return self.numbers(name, layer.output_shape(self.x_shape), dtype)


def gradients(layer: nn.Layer, x: np.ndarray, dy: np.ndarray) -> dict[str, np.ndarray]:
    """Output and all gradients of one forward and backward, from cleared gradients; ``x`` stands for that of the input."""
    layer.zero_grad()
    y = layer.forward(x)
    return {"y": y, "x": layer.backward(dy), **{name: p.grad.copy() for name, p in layer.named_parameters()}}


def assert_close(got: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for rounding in the dtype of ``got``."""
    assert got.shape == expected.shape
    scale = max(1, np.max(np.abs(expected), initial=0))
    np.testing.assert_allclose(got, expected, rtol=0, atol=scale * (2e-5 if got.dtype == np.float32 else 1e-12))


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Equal to the last bit."""
    assert got.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], name)


class FirstOutput(nn.Sequential):
    """A layer of several outputs, of which a Sequential hands on the first."""

    layer: type[nn.Layer]

    def __init__(self, *args, dtype=np.float32, **kwargs):
        super().__init__(self.layer(*args, dtype=dtype, **kwargs))

    @staticmethod
    def of(formula):
        """The first output of a formula, whose parameters are here those of a Sequential."""
        return lambda x, parameters, *args, **kwargs: formula(
            x, {name.removeprefix("0."): p for name, p in parameters.items()}, *args, **kwargs
        )[0]


class LSTMOutput(FirstOutput):
    layer = nn.LSTM


class LSTMCellOutput(FirstOutput):
    layer = nn.LSTMCell


def case(layer, formula, x_shape, *args, **kwargs):
    return Case(layer, formula, x_shape, args, kwargs)

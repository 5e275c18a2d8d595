"""Element-wise activations.

    ReLU        y = max(x, 0)                           LeakyReLU   y = x where x > 0, else slope x
    ReLU6       y = min(max(x, 0), 6)                   Tanh        y = tanh(x)
    Sigmoid     y = 1 / (1 + exp(-x))                   SiLU        y = x sigmoid(x)
    GELU        y = x (1 + erf(x / sqrt 2)) / 2, or with tanh: y = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2

Backward multiplies dy by the derivative: from y for Sigmoid, y (1 - y), and Tanh, 1 - y^2; from x for all others.

Kernels take flat arrays. NaN passes through both directions. Those with a transcendental function run over fixed blocks: a
vector loop and its remainder may differ in the last bit, so the number of threads must not say which elements are a remainder.

D. Hendrycks and K. Gimpel, "Gaussian error linear units", 2016; S. Elfwing, E. Uchibe and K. Doya, "Sigmoid-weighted linear
units", 2017.
"""

from __future__ import annotations

import math

from numba import prange

from numba_nn.core.checks import check_number
from numba_nn.core.each import each_ahead, each_far, is_far
from numba_nn.core.epilogue import LEAKY_RELU, RELU, RELU6, SIGMOID, TANH, leaky_relu, relu, relu6
from numba_nn.core.errors import ArgumentError
from numba_nn.core.kernel import In, Out, Saved, portable
from numba_nn.core.reduce import block_bounds, block_count
from numba_nn.core.vmath import sigmoid, tanh
from numba_nn.layers.activation_functions import (
    gelu,
    gelu_gradient,
    gelu_tanh,
    gelu_tanh_gradient,
    leaky_relu_gradient,
    relu6_gradient,
    relu_gradient,
    sigmoid_gradient,
    silu,
    silu_gradient,
    tanh_gradient,
)
from numba_nn.layers.elementwise import ElementwiseFromOutput, FromInput

# ---- kernels -------------------------------------------------------------------------------------------------------------


@portable
def relu_forward(y: Out, x: In):
    """y = max(x, 0)."""
    far = is_far(y)
    for block in prange(block_count(x.size)):
        start, stop = block_bounds(block, x.size)
        each_far(relu, y[start:stop], (x[start:stop],), far)


@portable
def relu_backward(dx: Out, x: In, dy: In):
    """dx = dy where x > 0, else 0."""
    far = is_far(dx)
    for block in prange(block_count(x.size)):
        start, stop = block_bounds(block, x.size)
        each_far(relu_gradient, dx[start:stop], (x[start:stop], dy[start:stop]), far)


@portable
def leaky_relu_forward(y: Out, x: In, slope: float):
    """y = x where x > 0, else slope x."""
    far = is_far(y)
    for block in prange(block_count(x.size)):
        start, stop = block_bounds(block, x.size)
        each_far(leaky_relu, y[start:stop], (x[start:stop], slope), far)


@portable
def leaky_relu_backward(dx: Out, x: In, dy: In, slope: float):
    """dx = dy where x > 0, else slope dy."""
    far = is_far(dx)
    for block in prange(block_count(x.size)):
        start, stop = block_bounds(block, x.size)
        each_far(leaky_relu_gradient, dx[start:stop], (x[start:stop], dy[start:stop], slope), far)


@portable
def relu6_forward(y: Out, x: In):
    """y = min(max(x, 0), 6)."""
    far = is_far(y)
    for block in prange(block_count(x.size)):
        start, stop = block_bounds(block, x.size)
        each_far(relu6, y[start:stop], (x[start:stop],), far)


@portable
def relu6_backward(dx: Out, x: In, dy: In):
    """dx = dy where 0 < x < 6, else 0."""
    far = is_far(dx)
    for block in prange(block_count(x.size)):
        start, stop = block_bounds(block, x.size)
        each_far(relu6_gradient, dx[start:stop], (x[start:stop], dy[start:stop]), far)


@portable
def sigmoid_forward(y: Out, saved_y: Saved, x: In):
    """y = 1 / (1 + exp(-x)); saved_y: a second copy, or empty."""
    far = is_far(y)
    for block in prange(block_count(x.size)):
        start, stop = block_bounds(block, x.size)
        each_ahead(sigmoid, (y[start:stop], saved_y[start:stop]), (x[start:stop],), far)


@portable
def sigmoid_backward(dx: Out, saved_y: Saved, dy: In):
    """dx = dy y (1 - y)."""
    far = is_far(dx)
    for block in prange(block_count(dx.size)):
        start, stop = block_bounds(block, dx.size)
        each_far(sigmoid_gradient, dx[start:stop], (saved_y[start:stop], dy[start:stop]), far)


@portable
def tanh_forward(y: Out, saved_y: Saved, x: In):
    """y = tanh(x); saved_y: a second copy, or empty."""
    far = is_far(y)
    for block in prange(block_count(x.size)):
        start, stop = block_bounds(block, x.size)
        each_ahead(tanh, (y[start:stop], saved_y[start:stop]), (x[start:stop],), far)


@portable
def tanh_backward(dx: Out, saved_y: Saved, dy: In):
    """dx = dy (1 - y^2)."""
    far = is_far(dx)
    for block in prange(block_count(dx.size)):
        start, stop = block_bounds(block, dx.size)
        each_far(tanh_gradient, dx[start:stop], (saved_y[start:stop], dy[start:stop]), far)


@portable
def silu_forward(y: Out, x: In):
    """y = x sigmoid(x)."""
    far = is_far(y)
    for block in prange(block_count(x.size)):
        start, stop = block_bounds(block, x.size)
        each_ahead(silu, y[start:stop], (x[start:stop],), far)


@portable
def silu_backward(dx: Out, x: In, dy: In):
    """dx = dy times the derivative at x."""
    far = is_far(dx)
    for block in prange(block_count(x.size)):
        start, stop = block_bounds(block, x.size)
        each_far(silu_gradient, dx[start:stop], (x[start:stop], dy[start:stop]), far)


@portable
def gelu_forward(y: Out, x: In):
    """y = x Phi(x), Phi the standard normal CDF."""
    far = is_far(y)
    for block in prange(block_count(x.size)):
        start, stop = block_bounds(block, x.size)
        each_ahead(gelu, y[start:stop], (x[start:stop],), far)


@portable
def gelu_backward(dx: Out, x: In, dy: In):
    """dx = dy times the derivative at x."""
    far = is_far(dx)
    for block in prange(block_count(x.size)):
        start, stop = block_bounds(block, x.size)
        each_far(gelu_gradient, dx[start:stop], (x[start:stop], dy[start:stop]), far)


@portable
def gelu_tanh_forward(y: Out, x: In):
    """y = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""
    far = is_far(y)
    for block in prange(block_count(x.size)):
        start, stop = block_bounds(block, x.size)
        each_ahead(gelu_tanh, y[start:stop], (x[start:stop],), far)


@portable
def gelu_tanh_backward(dx: Out, x: In, dy: In):
    """dx = dy times the derivative at x."""
    far = is_far(dx)
    for block in prange(block_count(x.size)):
        start, stop = block_bounds(block, x.size)
        each_far(gelu_tanh_gradient, dx[start:stop], (x[start:stop], dy[start:stop]), far)


# ---- layers --------------------------------------------------------------------------------------------------------------


class ReLU(FromInput):
    """Rectified linear unit: y = max(x, 0), for arrays of any shape.

    The gradient at 0 is 0. NaN passes through, forward and backward.

    Parameters
    ----------
    inplace : bool, optional
        No effect: it is PyTorch's way to save memory, here a model plans its buffers.

    Raises
    ------
    ArgumentError
        If ``inplace`` is no bool.
    """

    _run_forward, _run_backward = relu_forward, relu_backward
    epilogue_role, epilogue_code = "activation", RELU


class LeakyReLU(FromInput):
    """Rectified linear unit with a slope below 0: y = x where x > 0, else slope x, for arrays of any shape.

    Parameters
    ----------
    negative_slope : float, optional
        The slope.
    inplace : bool, optional
        No effect, as of `ReLU`.

    Raises
    ------
    ArgumentError
        If the slope is no finite number, or ``inplace`` no bool.
    """

    _run_forward, _run_backward = leaky_relu_forward, leaky_relu_backward
    epilogue_role: str | None = "activation"
    epilogue_code = LEAKY_RELU

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.negative_slope = check_number("LeakyReLU", "negative_slope", negative_slope, -math.inf)
        if negative_slope <= 0:
            self.epilogue_role = None  # the output does not tell the input's sign

    @property
    def slope(self) -> float:  # type: ignore[override]
        """What an epilogue multiplies values below 0 with."""
        return self.negative_slope

    @property
    def _scalars(self) -> tuple[float, ...]:  # type: ignore[override]
        return (self.negative_slope,)

    def _arguments(self) -> str:
        return f"negative_slope={self.negative_slope}"


class ReLU6(FromInput):
    """Rectified linear unit up to 6: y = min(max(x, 0), 6), for arrays of any shape. The gradient at 0 and at 6 is 0.

    Parameters
    ----------
    inplace : bool, optional
        No effect, as of `ReLU`.

    Raises
    ------
    ArgumentError
        If ``inplace`` is no bool.
    """

    _run_forward, _run_backward = relu6_forward, relu6_backward
    epilogue_role, epilogue_code = "activation", RELU6


class Sigmoid(ElementwiseFromOutput):
    """Logistic function: y = 1 / (1 + exp(-x)), for arrays of any shape."""

    _run_forward, _run_backward = sigmoid_forward, sigmoid_backward
    epilogue_role, epilogue_code = "activation", SIGMOID


class Tanh(ElementwiseFromOutput):
    """Hyperbolic tangent, for arrays of any shape."""

    _run_forward, _run_backward = tanh_forward, tanh_backward
    epilogue_role, epilogue_code = "activation", TANH


class SiLU(FromInput):
    """Sigmoid linear unit, or swish: y = x sigmoid(x), for arrays of any shape.

    Parameters
    ----------
    inplace : bool, optional
        No effect, as of `ReLU`.

    Raises
    ------
    ArgumentError
        If ``inplace`` is no bool.
    """

    _run_forward, _run_backward = silu_forward, silu_backward


class GELU(FromInput):
    """Gaussian error linear unit: y = x Phi(x), Phi the standard normal CDF, for arrays of any shape.

    Parameters
    ----------
    approximate : {"none", "tanh"}, optional
        Compute Phi by the error function, or approximate it by a hyperbolic tangent.

    Raises
    ------
    ArgumentError
        For another approximation.
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ArgumentError(f"GELU: approximate must be 'none' or 'tanh', got {approximate!r}")
        self.approximate = approximate
        exact = approximate == "none"
        self._run_forward = gelu_forward if exact else gelu_tanh_forward
        self._run_backward = gelu_backward if exact else gelu_tanh_backward

    def _arguments(self) -> str:
        return f"approximate={self.approximate!r}"

"""Activations of one element and their derivatives; `numba_nn.layers.activation` has formulas and sources."""

from __future__ import annotations

import math

from numba_nn.core.kernel import inlined
from numba_nn.core.vmath import erf, exp_below, multiply_add, number, sigmoid, tanh


@inlined
def relu_gradient(x, dy):
    """dy where x > 0, else 0; dy for NaN."""
    return number(x, 0, 0) if x <= number(x, 0, 0) else dy


@inlined
def leaky_relu_gradient(x, dy, slope):
    """dy where x > 0, else slope dy."""
    return dy if x > number(x, 0, 0) else number(x, slope, slope) * dy


@inlined
def relu6_gradient(x, dy):
    """dy where 0 < x < 6, else 0."""
    zero = number(x, 0, 0)
    return dy if (x > zero) & (x < number(x, 6, 6)) else zero


@inlined
def sigmoid_gradient(y, dy):
    """dy y (1 - y)."""
    return dy * y * (number(y, 1, 1) - y)


@inlined
def tanh_gradient(y, dy):
    """dy (1 - y^2)."""
    return dy * (number(y, 1, 1) - y * y)


@inlined
def silu(x):
    """x sigmoid(x)."""
    return x * sigmoid(x)


@inlined
def silu_gradient(x, dy):
    """dy times its derivative."""
    one, s = number(x, 1, 1), sigmoid(x)
    return dy * (s * (one + x * (one - s)))


@inlined
def normal_cdf(x):
    """Phi(x), the cumulative distribution function of the standard normal distribution."""
    half = number(x, 0.5, 0.5)
    return multiply_add(half, erf(x * number(x, math.sqrt(0.5), math.sqrt(0.5))), half)


@inlined
def gelu(x):
    """x Phi(x)."""
    return x * normal_cdf(x)


@inlined
def gelu_gradient(x, dy):
    """dy times its derivative: Phi(x) + x times the density at x."""
    density = number(x, 1 / math.sqrt(2 * math.pi), 1 / math.sqrt(2 * math.pi)) * exp_below(number(x, -0.5, -0.5) * x * x)
    return dy * (normal_cdf(x) + x * density)


CUBIC = 0.044715
SCALE = math.sqrt(2 / math.pi)


@inlined
def gelu_inside(x):
    """tanh(SCALE (x + CUBIC x^3))."""
    return tanh(number(x, SCALE, SCALE) * (x + number(x, CUBIC, CUBIC) * x * x * x))


@inlined
def gelu_tanh(x):
    """x (1 + `gelu_inside`) / 2."""
    return number(x, 0.5, 0.5) * x * (number(x, 1, 1) + gelu_inside(x))


@inlined
def gelu_tanh_gradient(x, dy):
    """dy times its derivative."""
    half, one, t = number(x, 0.5, 0.5), number(x, 1, 1), gelu_inside(x)
    inside = number(x, SCALE, SCALE) * (one + number(x, 3 * CUBIC, 3 * CUBIC) * x * x)
    return dy * (half * (one + t) + half * x * (one - t * t) * inside)

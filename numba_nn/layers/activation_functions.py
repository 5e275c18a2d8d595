"""Activations of one element and their derivatives; `numba_nn.layers.activation` has formulas and sources."""

from __future__ import annotations

import math

from numba_nn.core.kernel import inlined
from numba_nn.core.vmath import constant, erf, exp_below, multiply_add, sigmoid, tanh


@inlined
def relu_gradient(x, dy):
    """dy where x > 0, else 0; dy for NaN."""
    return constant(x, 0) if x <= constant(x, 0) else dy


@inlined
def leaky_relu_gradient(x, dy, slope):
    """dy where x > 0, else slope dy."""
    return dy if x > constant(x, 0) else constant(x, slope) * dy


@inlined
def relu6_gradient(x, dy):
    """dy where 0 < x < 6, else 0."""
    zero = constant(x, 0)
    return dy if (x > zero) & (x < constant(x, 6)) else zero


@inlined
def sigmoid_gradient(y, dy):
    """dy y (1 - y)."""
    return dy * y * (constant(y, 1) - y)


@inlined
def tanh_gradient(y, dy):
    """dy (1 - y^2)."""
    return dy * (constant(y, 1) - y * y)


@inlined
def silu(x):
    """x sigmoid(x)."""
    return x * sigmoid(x)


@inlined
def silu_gradient(x, dy):
    """dy times its derivative."""
    one, s = constant(x, 1), sigmoid(x)
    return dy * (s * (one + x * (one - s)))


@inlined
def normal_cdf(x):
    """Phi(x), the cumulative distribution function of the standard normal distribution."""
    half = constant(x, 0.5)
    return multiply_add(half, erf(x * constant(x, math.sqrt(0.5))), half)


@inlined
def gelu(x):
    """x Phi(x)."""
    return x * normal_cdf(x)


@inlined
def gelu_gradient(x, dy):
    """dy times its derivative: Phi(x) + x times the density at x."""
    density = constant(x, 1 / math.sqrt(2 * math.pi)) * exp_below(constant(x, -0.5) * x * x)
    return dy * (normal_cdf(x) + x * density)


CUBIC = 0.044715
SCALE = math.sqrt(2 / math.pi)


@inlined
def gelu_inside(x):
    """tanh(SCALE (x + CUBIC x^3))."""
    return tanh(constant(x, SCALE) * (x + constant(x, CUBIC) * x * x * x))


@inlined
def gelu_tanh(x):
    """x (1 + `gelu_inside`) / 2."""
    return constant(x, 0.5) * x * (constant(x, 1) + gelu_inside(x))


@inlined
def gelu_tanh_gradient(x, dy):
    """dy times its derivative."""
    half, one, t = constant(x, 0.5), constant(x, 1), gelu_inside(x)
    inside = constant(x, SCALE) * (one + constant(x, 3 * CUBIC) * x * x)
    return dy * (half * (one + t) + half * x * (one - t * t) * inside)

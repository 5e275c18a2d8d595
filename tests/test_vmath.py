"""The vectorised functions: errors in units of the last place, special values, and that loops over them are vector loops."""

from __future__ import annotations

import math
import platform
import re

import numpy as np
import pytest
import scipy.special
from numba import jit, prange

from numba_nn.core import vmath
from numba_nn.core.kernel import FLAGS, In, Out, kernel

BLOCK = 4096


@kernel
def exp_each(y: Out, x: In):
    """y = exp(x)."""
    for block in prange(-(-x.size // BLOCK)):
        from_x, to_y = x[block * BLOCK : (block + 1) * BLOCK], y[block * BLOCK : (block + 1) * BLOCK]
        for i in range(from_x.size):
            to_y[i] = vmath.exp(from_x[i])


@kernel
def exp_below_each(y: Out, x: In):
    """y = exp(x), x <= 0."""
    for block in prange(-(-x.size // BLOCK)):
        from_x, to_y = x[block * BLOCK : (block + 1) * BLOCK], y[block * BLOCK : (block + 1) * BLOCK]
        for i in range(from_x.size):
            to_y[i] = vmath.exp_below(from_x[i])


@kernel
def expm1_each(y: Out, x: In):
    """y = exp(x) - 1."""
    for i in prange(x.size):
        y[i] = vmath.expm1(x[i])


@kernel
def log_each(y: Out, x: In):
    """y = log(x)."""
    for i in prange(x.size):
        y[i] = vmath.log(x[i])


@kernel
def tanh_each(y: Out, x: In):
    """y = tanh(x)."""
    for i in prange(x.size):
        y[i] = vmath.tanh(x[i])


@kernel
def sigmoid_each(y: Out, x: In):
    """y = 1 / (1 + exp(-x))."""
    for i in prange(x.size):
        y[i] = vmath.sigmoid(x[i])


@kernel
def erf_each(y: Out, x: In):
    """y = erf(x)."""
    for i in prange(x.size):
        y[i] = vmath.erf(x[i])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def erf(x):
    return scipy.special.erf(x.astype(np.float64))


# Kernel, formula, and the units of the last place that the docstring of vmath claims, for float32 and float64.
FUNCTIONS = {
    "exp": (exp_each, np.exp, 1.0, 1.1),
    "expm1": (expm1_each, np.expm1, 1.6, 2.2),
    "log": (log_each, np.log, 0.8, 0.9),
    "tanh": (tanh_each, np.tanh, 2.6, 2.7),
    "sigmoid": (sigmoid_each, sigmoid, 2.7, 2.7),
    "erf": (erf_each, erf, 3.2, 4.1),
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def check(variant, formula, x, units, wider):
    """Within so many units of the last place of the formula, evaluated in the wider type."""
    with np.errstate(all="ignore"):
        exact = formula(x.astype(wider))
        expected = exact.astype(x.dtype)
        y = np.full_like(x, 7)
        variant(y, x)
        finite = np.isfinite(expected) & np.isfinite(y)
        np.testing.assert_array_equal(y[~finite], expected[~finite])
        error = abs(y[finite] - exact[finite]) / np.spacing(abs(expected[finite]))
    worst = np.argmax(error)
    assert error[worst] <= units, (x[finite][worst], y[finite][worst], expected[finite][worst])


@every_function
def test_every_997th_number_of_float32(name):
    k, formula, units, _ = FUNCTIONS[name]
    x = np.arange(0, 2**32, 997, dtype=np.uint64).astype(np.uint32).view(np.float32)
    for variant in (k.serial, k.parallel):
        check(variant, formula, x, units, np.float64)


@every_function
def test_a_million_numbers_of_float64(name):
    k, formula, _, units = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    size = np.exp(rng.uniform(-720, 709, 200_000))
    x = np.concatenate([*(rng.standard_normal(200_000) * s for s in (0.3, 1, 5, 300)), size, -size])
    room = 0 if np.finfo(np.longdouble).eps < 1e-18 else 1  # where long double is no wider, the formula rounds too
    for variant in (k.serial, k.parallel):
        check(variant, formula, x, units + room, np.longdouble)


@every_dtype
@every_function
def test_special_values(name, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, tiny, -tiny, 1e4, -1e4, 1.0], dtype)
    k, formula, _, _ = FUNCTIONS[name]
    with np.errstate(all="ignore"):
        expected = formula(x.astype(np.float64)).astype(dtype)
    if dtype == np.float64 and name == "erf":
        expected[[5, 6]] = tiny, -tiny  # SciPy's erf gives 0 there
    y = np.empty_like(x)
    k.serial(y, x)
    np.testing.assert_allclose(y, expected, rtol=4 * np.finfo(dtype).eps)
    odd = name in ("expm1", "tanh", "erf")
    assert np.signbit(y[:2]).tolist() == ([False, True] if odd else np.signbit(expected[:2]).tolist())


@every_dtype
def test_exp_overflows_and_underflows_where_numpy_does(dtype):
    most, least = math.log(np.finfo(dtype).max), math.log(np.finfo(dtype).smallest_subnormal)
    x = np.array([most * (1 - 1e-6), most * (1 + 1e-6), least + 0.1, least - 1], dtype)
    y = np.empty_like(x)
    exp_each.serial(y, x)
    assert np.isfinite(y).tolist() == [True, False, True, True]
    assert (y > 0).tolist() == [True, True, True, False]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads the machine code of x86")
@every_dtype
@every_function
def test_a_loop_is_made_of_whole_vectors(name, dtype):
    compiled = jit(**FLAGS)(FUNCTIONS[name][0].py_func)  # not the kernel, which may come from the cache without its text
    x = np.ones(8, dtype)
    compiled(x.copy(), x)
    (text,) = compiled.inspect_asm().values()
    packed = "ps" if dtype == np.float32 else "pd"
    assert re.search(rf"\bv?(mul|fm\w+){packed}\b.*[xyz]mm", text)
    assert not re.search(rf"\bcall\w*\b.*\b{name}f?\b", text)  # of the C library
    assert "gather" not in text


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_cheap_exp_gives_the_bits_of_the_other(dtype):
    least = {np.float32: -110, np.float64: -760}[dtype]
    x = np.concatenate([np.linspace(least, 0, 100_001), [-np.inf, np.nan, -0.0, 0.0]]).astype(dtype)
    y, expected = np.empty_like(x), np.empty_like(x)
    exp_below_each(y, x)
    exp_each(expected, x)
    np.testing.assert_array_equal(y, expected)

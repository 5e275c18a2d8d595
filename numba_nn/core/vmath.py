"""exp, expm1, log, tanh, sigmoid and erf of one number, in arithmetic that LLVM turns into vector instructions.

A loop over ``math.exp`` calls the C library element by element. These functions are `inlined` helpers without branches, calls
or tables: what varies is chosen by ``a if condition else b`` with both sides ready, so that a loop over an array runs in whole
vectors. They serve float32 and float64; constants take the type of the argument and never widen it.

All rest on one idea (Cody and Waite, "Software manual for the elementary functions", 1980): bring the argument near 0 by a
power of two, which is exact, and use a polynomial there.

    x = n ln2 + r, |r| <= ln2 / 2       exp(x) = 2^n (1 + p)      expm1(x) = 2^n p + (2^n - 1)      p = r + r^2 P(r)
    x = 2^k m, m in [1/sqrt2, sqrt2)    log(x) = k ln2 + log(m)   log(m) = 2 s + s^3 L(s^2)         s = (m - 1) / (m + 1)
    sigmoid(x) = exp(x) / (exp(x) + 1)  tanh(x) = e / (e + 2)     e = expm1(2 x)
    erf(x) = -expm1(-x Q(x))            Q(x) = -log(erfc(x)) / x, which is smooth where erf itself turns flat

P, L and Q are minimax polynomials: the largest error relative to the function is as small as the degree allows. Lawson's
algorithm finds them (least squares over Chebyshev nodes, each node weighted again by its error), here in 40 digits.

Largest errors found, in units of the last place, with and without fused multiply-add (`tests/test_vmath.py`):

========  ====  ======  ====  =====  ========  ====
dtype     exp   expm1   log   tanh   sigmoid   erf
========  ====  ======  ====  =====  ========  ====
float32   1.0   1.6     0.8   2.6    2.7       3.2
float64   1.1   2.2     0.9   2.7    2.7       4.1
========  ====  ======  ====  =====  ========  ====

NaN stays NaN, infinities and overflow give the limits, underflow is gradual, and -0 keeps its sign where the function is odd.
``reassoc`` among the flags of kernels could undo n ln2 = n HIGH + n LOW, so the reduction is spelled with `multiply_add`.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.cpu import CPUContext
from numba.core.errors import TypingError
from numba.extending import intrinsic

from numba_nn.core.kernel import inlined

EXP_WORK = 4  # of an exponential, in simple element operations
LN2 = math.log(2)
# n ln2 in two parts: n HIGH is exact for every exponent n. A pair of constants is the one for float32 and the one for float64.
LN2_HIGH = 0.693359375, 6.93147180369123816490e-01
LN2_LOW = -2.12194440054690583e-4, 1.90821492927058770002e-10
EXP_LEAST, EXP_MOST = (-104.0, -746.0), (89.0, 710.0)  # exp of what lies beyond is 0, or infinite
# So many times as much, or as little: the exponent of e^x is that of a normal number first, for x <= 0 or x > 0
RAISED, LOWERED = (2.0**64, 2.0**512), (2.0**-64, 2.0**-512)
SIGMOID_ONE = 40.0, 40.0  # sigmoid is 1 from here on
TANH_ONE = 10.0, 20.0  # tanh is 1 from here on
ERF_ONE = 3.95, 5.95
TINY = float(np.finfo(np.float32).tiny), float(np.finfo(np.float64).tiny)
# 1.5 2^23: a sum with it is rounded to a whole number, which is the low bits of the mantissa; here with the exponent's bias
SHIFTER = 1.5 * 2.0**23 + 127, 1.5 * 2.0**52 + 1023
RAISED_SHIFTER = SHIFTER[0] + 64, SHIFTER[1] + 512
LOWERED_SHIFTER = SHIFTER[0] - 64, SHIFTER[1] - 512
MANTISSA_BITS = {types.float32: 23, types.float64: 52}

# Coefficients, the constant one first. Errors are relative to exp, log and erf.
EXP_SINGLE = (  # 3e-9
    0.4999999343693426, 0.16666520472916277, 0.041668389956878896, 0.00836873601129185, 0.0013814555188438105,
)  # fmt: skip
EXP_DOUBLE = (  # 4e-18
    0.5000000000000011, 0.16666666666666413, 0.041666666666529864, 0.008333333333494806, 0.0013888888943717718,
    0.00019841269506045808, 2.4801492998485397e-05, 2.755758665495887e-06, 2.7630287230811734e-07, 2.5000035232725376e-08,
)  # fmt: skip
LOG_SINGLE = 0.6666677641687566, 0.3997753680934694, 0.2987186612186152  # 8e-10
LOG_DOUBLE = (  # 1e-18
    0.6666666666666734, 0.39999999999414193, 0.2857142874249866, 0.22222198561357479, 0.18183564965638732,
    0.15314033528154689, 0.14796126756738648,
)  # fmt: skip
ERF_SINGLE = (  # 4e-8
    1.1283792074242311, 0.6366164715714232, 0.10281465014547066, -0.01932247700459959, 0.00020678885257782611,
    0.0012510004774509925, -0.0003807490847105486, 4.067502234171188e-05,
)  # fmt: skip
ERF_DOUBLE = (  # 7e-17
    1.1283791670955126, 0.6366197723676116, 0.10277260330005752, -0.019128446963019116, -0.0002091952307297006,
    0.0016962105324020427, -0.0005901468224987481, 2.5955233090882226e-05, 6.428995596279195e-05, -2.9323447433272745e-05,
    2.7957431105489054e-06, 3.5648112166471274e-06, -2.429900704232989e-06, 8.537810299650463e-07, -1.7412622491563314e-07,
    8.383522095372539e-09, 7.778941871764581e-09, -3.1523585437528855e-09, 6.809697416949431e-10, -9.54673655808938e-11,
    8.719829667222758e-12, -4.754243469914812e-13, 1.1798589091391419e-14,
)  # fmt: skip


# ---- what the functions below are made of: a few instructions that have no name in Python --------------------------------


def _check_float(x: types.Type) -> None:
    if x not in MANTISSA_BITS:
        raise TypingError(f"expected float32 or float64, got {x}")


def _integer(x: types.Type) -> ir.IntType:
    return ir.IntType(x.bitwidth)


def _emit_multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    function = builder.module.declare_intrinsic("llvm.fmuladd", [a.type], ir.FunctionType(a.type, [a.type] * 3))
    return builder.call(function, [a, b, c])


@intrinsic
def constant(typingctx, x, value):
    """``constant(x, value)``: a value in the type of x."""
    _check_float(x)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return arguments[1]

    return x(x, x), codegen


@intrinsic
def number(typingctx, x, single, double):
    """``number(x, single, double)``: of two values the one for the type of x, in this type."""
    _check_float(x)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return arguments[1 if signature.return_type == types.float32 else 2]

    return x(x, x, x), codegen


@intrinsic
def multiply_add(typingctx, a, b, c):
    """``multiply_add(a, b, c)``: a b + c, rounded once where the CPU can; LLVM does not take it apart."""
    _check_float(a)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _emit_multiply_add(builder, *arguments)

    return a(a, a, a), codegen


@intrinsic
def nearest(typingctx, x):
    """``nearest(x)``: a nearest whole number. Numba has ``np.rint`` for the CPU only, and NVVM no ``llvm.rint``."""
    _check_float(x)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        name, value = "llvm.rint", arguments[0]
        if not isinstance(context, CPUContext):
            name, value = "llvm.floor", builder.fadd(value, ir.Constant(value.type, 0.5))
        function = builder.module.declare_intrinsic(name, [value.type], ir.FunctionType(value.type, [value.type]))
        return builder.call(function, [value])

    return x(x), codegen


@intrinsic
def polynomial(typingctx, x, single, double):
    """``polynomial(x, single, double)``: sum_k c[k] x^k, with the coefficients for the type of x.

    Odd and even powers by themselves, each by Horner's rule in x^2, and the constant last, for the sake of rounding: half as
    many steps wait for one another.
    """
    _check_float(x)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, *tables = arguments
        chosen = 0 if x == types.float32 else 1
        source = signature.args[1 + chosen]
        elements = [builder.extract_value(tables[chosen], k) for k in range(len(source))]
        constant, *others = [context.cast(builder, c, t, x) for c, t in zip(elements, source, strict=True)]
        square, sums = builder.fmul(value, value), []
        for *lower, total in (others[::2], others[1::2]):
            for coefficient in reversed(lower):
                total = _emit_multiply_add(builder, total, square, coefficient)
            sums.append(total)
        return _emit_multiply_add(builder, _emit_multiply_add(builder, sums[1], value, sums[0]), value, constant)

    return x(x, single, double), codegen


@intrinsic
def less(typingctx, a, b):
    """``less(a, b)``: a - b, also where a is a sum with b: LLVM does not take that apart."""
    _check_float(a)
    return a(a, a), lambda context, builder, signature, arguments: builder.fsub(*arguments)


@intrinsic
def whole_quotient(typingctx, a, b):
    """``whole_quotient(a, b)``: a / b, no part of a product: of x (e / d) ``reassoc`` makes (x e) / d, which may overflow."""
    _check_float(a)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if isinstance(context, CPUContext):
            return builder.fdiv(*arguments, flags=("arcp",))  # one that has flags is given no others
        return context.get_function(operator.truediv, signature)(builder, arguments)  # NVVM's, which is faster

    return a(a, a), codegen


@intrinsic
def power_of_two(typingctx, shifted):
    """``power_of_two(n + SHIFTER)``: 2^n for a whole n within the exponents: the sum's low bits, moved to the exponent."""
    _check_float(shifted)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = _integer(shifted)
        bits = builder.bitcast(arguments[0], integer)
        return builder.bitcast(builder.shl(bits, integer(MANTISSA_BITS[shifted])), arguments[0].type)

    return shifted(shifted), codegen


@intrinsic
def split_exponent(typingctx, x):
    """``split_exponent(x)``: m and k with x = 2^k m, m from 1/sqrt2 to sqrt2, for a positive, normal and finite x."""
    _check_float(x)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer, shift = _integer(x), MANTISSA_BITS[x]
        least = integer(int(np.array(math.sqrt(0.5), x.name).view(f"i{x.bitwidth // 8}")))
        above = builder.sub(builder.bitcast(arguments[0], integer), least)  # the exponent steps where m would
        kept = builder.and_(above, integer(2**shift - 1))
        m = builder.bitcast(builder.add(kept, least), arguments[0].type)
        k = builder.sitofp(builder.ashr(above, integer(shift)), arguments[0].type)
        return context.make_tuple(builder, signature.return_type, (m, k))

    return types.UniTuple(x, 2)(x), codegen


# ---- the functions -------------------------------------------------------------------------------------------------------


@inlined
def whole_product(a, b):
    """a b, but no part of a longer product: of (e 2^-64) x ``reassoc`` makes e (2^-64 x), which underflows for a small x.

    Flags of the inner product alone do not forbid that: LLVM asks for those of the outer one.
    """
    return multiply_add(a, b, constant(a, 0))


@inlined
def two_to(n):
    """2^n for a whole n within the exponents of normal numbers."""
    return power_of_two(n + number(n, *SHIFTER))


@inlined
def reduce_exp(x, shifter):
    """p = exp(r) - 1, and n + shifter, where x = n ln2 + r."""
    shifted = multiply_add(x, constant(x, 1 / LN2), shifter)
    n = less(shifted, shifter)
    r = multiply_add(n, -number(x, *LN2_LOW), multiply_add(n, -number(x, *LN2_HIGH), x))
    return multiply_add(r * r, polynomial(r, EXP_SINGLE, EXP_DOUBLE), r), shifted


@inlined
def reduce_exp_anywhere(x):
    """p, h and n - h, for any x: either half of n is the exponent of a normal number where n need not be."""
    low, high, shifter = number(x, *EXP_LEAST), number(x, *EXP_MOST), number(x, *SHIFTER)
    x = low if x < low else x
    x = high if x > high else x
    p, shifted = reduce_exp(x, shifter)
    n = less(shifted, shifter)
    h = nearest(n * constant(x, 0.5))
    return p, h, n - h


@inlined
def exp(x):
    """e^x: see `RAISED`."""
    low, high, above = number(x, *EXP_LEAST), number(x, *EXP_MOST), x > constant(x, 0)
    shifter = number(x, *LOWERED_SHIFTER) if above else number(x, *RAISED_SHIFTER)
    factor = number(x, *RAISED) if above else number(x, *LOWERED)
    x = low if x < low else x
    p, shifted = reduce_exp(high if x > high else x, shifter)
    scale = power_of_two(shifted)
    return whole_product(multiply_add(scale, p, scale), factor)


@inlined
def exp_below(x):
    """`exp` for x <= 0, cheaper: the same bits."""
    low = number(x, *EXP_LEAST)
    p, shifted = reduce_exp(low if x < low else x, number(x, *RAISED_SHIFTER))
    scale = power_of_two(shifted)
    return whole_product(multiply_add(scale, p, scale), number(x, *LOWERED))


@inlined
def expm1(x):
    """e^x - 1, accurate for small x too."""
    p, h, rest = reduce_exp_anywhere(x)
    scale = two_to(rest)
    return math.copysign(multiply_add(scale, p, scale - two_to(-h)) * two_to(h), x)


@inlined
def expm1_within(x):
    """e^x - 1 for |x| <= 80, a third cheaper."""
    p, shifted = reduce_exp(x, number(x, *SHIFTER))
    scale = power_of_two(shifted)
    return multiply_add(scale, p, scale - constant(x, 1))


@inlined
def log(x):
    """Natural logarithm; -inf at 0, NaN below."""
    one, half, zero = constant(x, 1), constant(x, 0.5), constant(x, 0)
    denormal = x < number(x, *TINY)
    m, k = split_exponent(x * constant(x, 2.0**60) if denormal else x)
    k = k - (constant(x, 60) if denormal else zero)
    f = m - one
    s = f / (m + one)
    z = s * s
    square = half * f * f
    # 2 s = f - s f, so log(m) = f - (f^2/2 - s (f^2/2 + z L)): the exact f comes last
    tail = multiply_add(s, multiply_add(z, polynomial(z, LOG_SINGLE, LOG_DOUBLE), square), k * number(x, *LN2_LOW))
    y = multiply_add(k, number(x, *LN2_HIGH), f - (square - tail))
    y = x if x == constant(x, math.inf) else y
    return y if x > zero else constant(x, -math.inf) if x == zero else constant(x, math.nan)


@inlined
def sigmoid(x):
    """e^x / (e^x + 1), exact in either tail, with 2^64 or 2^512 times as much above and below: see `exp_below`."""
    low, high = number(x, *EXP_LEAST), number(x, *SIGMOID_ONE)
    x = low if x < low else x
    p, shifted = reduce_exp(high if x > high else x, number(x, *RAISED_SHIFTER))
    scale = power_of_two(shifted)
    e = multiply_add(scale, p, scale)
    return whole_quotient(e, e + number(x, *RAISED))


@inlined
def tanh(x):
    """Hyperbolic tangent."""
    most, size = number(x, *TANH_ONE), abs(x)
    size = most if size > most else size
    e = expm1_within(size + size)
    return math.copysign(whole_quotient(e, e + constant(x, 2)), x)


@inlined
def erf(x):
    """Error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    most, size = number(x, *ERF_ONE), abs(x)
    size = most if size > most else size
    return math.copysign(expm1_within(-size * polynomial(size, ERF_SINGLE, ERF_DOUBLE)), x)

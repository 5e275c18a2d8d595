"""Operations on arrays with destinations: ``ops.add(a, b, out=y)`` writes ``y`` and returns it.

Operands are float32 or float64 arrays of one dtype, on a GPU also of 16 bits; strided ones are copied into memory that is kept
between calls. Results do not depend on the number of threads.
"""

from numba_nn.linalg import matmul
from numba_nn.ops.binary import add, divide, maximum, minimum, multiply, subtract
from numba_nn.ops.indexing import scatter_add, take
from numba_nn.ops.patches import col2im, im2col
from numba_nn.ops.reductions import argmax, argmin, max, mean, min, norm, sum
from numba_nn.ops.unary import absolute, exp, log, negative, sigmoid, sqrt, square, tanh

__all__ = [
    "absolute",
    "add",
    "argmax",
    "argmin",
    "col2im",
    "divide",
    "exp",
    "im2col",
    "log",
    "matmul",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "multiply",
    "negative",
    "norm",
    "scatter_add",
    "sigmoid",
    "sqrt",
    "square",
    "subtract",
    "sum",
    "take",
    "tanh",
]

"""The matrices of Winograd's convolutions F(4x4, 3x3) and F(3x3, 4x4), from the points that their polynomials are taken at.

m outputs of a correlation with r taps are y = A' [(G g) * (B' d)], where g holds the taps, d the m + r - 1 inputs, and * is
element by element: a product of polynomials, evaluated at m + r - 1 points and interpolated (Toom and Cook). With a_j the
points, f_j = prod_{i != j} (a_j - a_i) and infinity as the last point,

    A'[i, j] = a_j^i            G[j, k] = a_j^k / f_j            B'[j] = coefficients of prod_{i != j} (z - a_i)

and for infinity A' picks the last output, G the last tap, and B' is the product over all points. B' does not know r: the same
six numbers per tile serve a convolution with 3 taps and, with 4, the gradient of its weights.

Two dimensions nest: Y = A' [(G g G') * (B' d B)] A. Winograd, "Arithmetic complexity of computations" (1980); Lavin and Gray,
"Fast algorithms for convolutional neural networks" (2016).

The usual points 0, +-1, +-2 amplify rounding: their powers reach from 1 to 16. With 0, +-3/4, +-3/2, whose powers and products
are exact in binary, the largest error in float32 is a third of that (2.7e-6 of the largest output for 512 channels, where
0, +-1, +-2 give 8.9e-6).
"""

from __future__ import annotations

import math
from fractions import Fraction

from numba_nn.layers.conv.winograd_transforms import Matrix

TAPS = 3  # of the weights, along each axis
TILE = 4  # outputs of a tile, along each axis
SIDE = TILE + TAPS - 1  # inputs of a tile, and points, along each axis
POINTS = Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)  # and infinity


def to_outputs(outputs: int) -> Matrix:
    """A', with a row for each output."""
    return tuple((*(a**i for a in POINTS), Fraction(i == outputs - 1)) for i in range(outputs))


def from_taps(taps: int) -> Matrix:
    """G, with a column for each tap."""
    finite = [
        tuple(a**k / math.prod(a - other for other in POINTS if other != a) for k in range(taps)) for a in POINTS
    ]  # fmt: skip
    return (*finite, tuple(Fraction(k == taps - 1) for k in range(taps)))


def from_inputs() -> Matrix:
    """B'."""
    return tuple(_polynomial([a for a in POINTS if a != left_out]) for left_out in (*POINTS, None))


def rounding_error(outputs: int, taps: int, terms: int) -> float:
    """Estimate of the largest error, relative to the largest output and in units of the dtype's epsilon.

    For inputs and weights that are independent random numbers, the number k of a transformed tile (in one dimension) is a sum
    of ``terms`` products whose variance is |B'_k|^2 |G_k|^2 times that of a plain product. Were each rounded once, by a
    relative error of variance u^2 (u = epsilon / 2), the variance of output i relative to its own would be

        kappa_i / taps, kappa_i = sum_k A'[i, k]^2 |B'_k|^2 |G_k|^2

    per dimension. Rounding of the sum itself grows like a random walk, with variance terms / 6 (the mean of the partial sums'
    variances, u^2 / 3 each, over the last one's); that of the transforms counts as 4, and that of products as 1, which CPUs
    without multiply-adds round by themselves. Higham, "Accuracy and stability of numerical algorithms" (2002), section 2.8, has
    such estimates; `tests/test_winograd.py` measures the error.
    """
    squares = [sum(c * c for c in b) * sum(c * c for c in g) for b, g in zip(from_inputs(), from_taps(taps), strict=True)]
    kappa = max(sum(a * a * s for a, s in zip(row, squares, strict=True)) for row in to_outputs(outputs))
    return float(kappa) / taps * math.sqrt(terms / 6 + 5) / 2


def _polynomial(roots: list[Fraction]) -> tuple[Fraction, ...]:
    """Coefficients of prod (z - root), the constant first, six in all."""
    coefficients = [Fraction(1)]
    for root in roots:
        higher, lower = [Fraction(0), *coefficients], [*coefficients, Fraction(0)]
        coefficients = [h - root * c for h, c in zip(higher, lower, strict=True)]
    return tuple(coefficients) + (Fraction(0),) * (SIDE - len(coefficients))

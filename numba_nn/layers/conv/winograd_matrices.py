"""The matrices of Winograd's convolutions of six points: of 4 outputs with 3 taps, of 2 with 5, and of their gradients.

m outputs of a correlation with r taps are y = A' [(G g) * (B' d)], where g holds the taps, d the m + r - 1 inputs, and * is
element by element: a product of polynomials, evaluated at m + r - 1 points and interpolated (Toom and Cook). With a_j the
points, f_j = prod_{i != j} (a_j - a_i) and infinity as the last point,

    A'[i, j] = a_j^i            G[j, k] = a_j^k / f_j            B'[j] = coefficients of prod_{i != j} (z - a_i)

and for infinity A' picks the last output, G the last tap, and B' is the product over all points. B' does not know r: the same
six numbers per tile serve a convolution with 3 taps and, with 4, the gradient of its weights; or with 5 taps and with 2.

Two dimensions nest: Y = A' [(G g G') * (B' d B)] A. Along an axis of one tap nothing is transformed: there a tile has one
output, and the matrices are `ONE`. Winograd, "Arithmetic complexity of computations" (1980); Lavin and Gray, "Fast algorithms
for convolutional neural networks" (2016).

The usual points 0, +-1, +-2 amplify rounding: their powers reach from 1 to 16. With 0, +-3/4, +-3/2, whose powers and products
are exact in binary, the largest error in float32 is a third of that (2.7e-6 of the largest output for 512 channels, where
0, +-1, +-2 give 8.9e-6).
"""

from __future__ import annotations

import math
from fractions import Fraction

from numba_nn.layers.conv.winograd_transforms import Matrix

SIDE = 6  # inputs of a tile, and points, along an axis
POINTS = Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)  # and infinity
ONE: Matrix = ((Fraction(1),),)
SPREAD = 1.6  # the largest error is up to 1.5 times as far from its estimate by variances, over taps and 1 to 300 terms


def outputs_of(taps: int) -> int:
    """Outputs of a tile along an axis; so many taps has the gradient of the weights, and ``taps`` outputs."""
    return 1 if taps == 1 else SIDE + 1 - taps


def side_of(taps: int) -> int:
    """Inputs of a tile along an axis, and the numbers that it is transformed to."""
    return 1 if taps == 1 else SIDE


def to_outputs(outputs: int) -> Matrix:
    """A', with a row for each output."""
    if outputs == 1:
        return ONE
    return tuple((*(a**i for a in POINTS), Fraction(i == outputs - 1)) for i in range(outputs))


def from_taps(taps: int) -> Matrix:
    """G, with a column for each tap."""
    if taps == 1:
        return ONE
    finite = [
        tuple(a**k / math.prod(a - other for other in POINTS if other != a) for k in range(taps)) for a in POINTS
    ]  # fmt: skip
    return (*finite, tuple(Fraction(k == taps - 1) for k in range(taps)))


def from_inputs(taps: int) -> Matrix:
    """B', which is the same for any taps but one."""
    if taps == 1:
        return ONE
    return tuple(_polynomial([a for a in POINTS if a != left_out]) for left_out in (*POINTS, None))


def rounding_error(taps: tuple[int, int], terms: int, gradient: bool = False) -> float:
    """Estimate of the largest error, relative to the largest output and in units of the dtype's epsilon.

    ``taps`` are those of the convolution; with ``gradient`` it is the error of the weights' gradient.

    For inputs and weights that are independent random numbers, the number k of a transformed tile (in one dimension) is a sum
    of ``terms`` products whose variance is |B'_k|^2 |G_k|^2 times that of a plain product. Were each rounded once, by a
    relative error of variance u^2 (u = epsilon / 2), the variance of output i relative to its own would be

        kappa_i / taps, kappa_i = sum_k A'[i, k]^2 |B'_k|^2 |G_k|^2

    per dimension. Rounding of the sum itself grows like a random walk, with variance terms / 6 (the mean of the partial sums'
    variances, u^2 / 3 each, over the last one's); that of the transforms counts as 4, and that of products as 1, which CPUs
    without multiply-adds round by themselves. Higham, "Accuracy and stability of numerical algorithms" (2002), section 2.8, has
    such estimates. The largest of many numbers is further out than variances say, by `SPREAD` at most; `tests/test_winograd.py`
    measures the error.
    """
    growth = 1.0
    for along in taps:
        seen, outputs = (outputs_of(along), along) if gradient else (along, outputs_of(along))
        squares = [
            sum(c * c for c in b) * sum(c * c for c in g) for b, g in zip(from_inputs(seen), from_taps(seen), strict=True)
        ]
        kappa = max(sum(a * a * s for a, s in zip(row, squares, strict=True)) for row in to_outputs(outputs))
        growth *= math.sqrt(kappa / seen)
    return SPREAD * growth * math.sqrt(terms / 6 + 5) / 2


def _polynomial(roots: list[Fraction]) -> tuple[Fraction, ...]:
    """Coefficients of prod (z - root), the constant first, six in all."""
    coefficients = [Fraction(1)]
    for root in roots:
        higher, lower = [Fraction(0), *coefficients], [*coefficients, Fraction(0)]
        coefficients = [h - root * c for h, c in zip(higher, lower, strict=True)]
    return tuple(coefficients) + (Fraction(0),) * (SIDE - len(coefficients))

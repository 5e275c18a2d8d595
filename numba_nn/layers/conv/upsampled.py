"""Convolution of an image that was enlarged by nearest neighbour, without the enlarged image.

Pixel m of a row shows at s places, m s + r, and tap i of output u meets place u - p + i. So the pixel counts for
u = m s + t + p - (k - 1) with the sum of the taps i = r + k - 1 - t, 0 <= r < s:

    y[u] = sum_{m, t: u = m s + t + p - (k - 1)} wide[t] x[m],        wide[t] = sum_{0 <= r < s} weight[r + k - 1 - t]

with k taps, padding p and t from 0 to k + s - 2. That is the input gradient of a convolution from y to x with stride s, taps
``wide`` and padding k - 1 - p. For 3 x 3 taps and s = 2 it takes 16 multiplications where the enlarged image takes 36.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.device import CPU
from numba_nn.core.epilogue import finish_all
from numba_nn.core.kernel import In, Out, kernel
from numba_nn.core.parameter import Parameter
from numba_nn.core.precision import PRECISIONS
from numba_nn.core.rows import fill
from numba_nn.core.workspace import Shape, Spec
from numba_nn.layers.conv.algorithm import PASSES, Algorithm, Pair, Problem
from numba_nn.layers.conv.choice import Passes, best
from numba_nn.layers.conv.convolution import ByAlgorithms, Convolution
from numba_nn.layers.conv.im2col import Im2col
from numba_nn.layers.conv.im2row import Im2row
from numba_nn.layers.conv.implicit_gemm import ImplicitGemm
from numba_nn.layers.conv.weight_gradient import WeightGradient
from numba_nn.layers.resize import Upsample

# Images of a batch for which Winograd's algorithm pays if it ever does: a smaller batch must not need more scratch.
MANY = 2**20


@kernel
def widen_taps(wide: Out, weight: In, factor: tuple[int, int], groups: int):
    """Weights of the convolution from y to x; wide: (C, O / groups, k + s - 1, ...), weight: (O, C / groups, k, ...)."""
    rows, channels, height, width = weight.shape[0] // groups, weight.shape[1], weight.shape[2], weight.shape[3]
    flat, across, size = wide.reshape(wide.size), wide.shape[3], wide.shape[2] * wide.shape[3]
    for c in prange(wide.shape[0]):
        for o in range(rows):
            taps, at = weight[c // channels * rows + o, c % channels], (c * rows + o) * size
            fill(flat, at, at + size, wide.dtype.type(0))
            for i in range(height):
                for j in range(width):
                    for r in range(factor[0]):
                        line = at + (r + height - 1 - i) * across + width - 1 - j
                        for q in range(line, line + factor[1]):
                            flat[np.uintp(q)] += taps[i, j]


@kernel
def narrow_taps(dweight: Out, dwide: In, factor: tuple[int, int], groups: int):
    """dweight += gradient of the weights, from that of `widen_taps`."""
    rows, channels, height, width = dweight.shape[0] // groups, dweight.shape[1], dweight.shape[2], dweight.shape[3]
    flat, across, size = dwide.reshape(dwide.size), dwide.shape[3], dwide.shape[2] * dwide.shape[3]
    for o in prange(dweight.shape[0]):
        for c in range(channels):
            at = ((o // rows * channels + c) * rows + o % rows) * size
            for i in range(height):
                for j in range(width):
                    total = dweight.dtype.type(0)
                    for r in range(factor[0]):
                        line = at + (r + height - 1 - i) * across + width - 1 - j
                        for q in range(line, line + factor[1]):
                            total += flat[np.uintp(q)]
                    dweight[o, c, i, j] += total


class Upsampled(Algorithm):
    """All passes of a convolution of the enlarged image; x and dx are the small image.

    Parameters
    ----------
    problem : Problem
        The convolution of the enlarged image, with stride 1 and no dilation.
    factor : (int, int)
        How often a pixel shows along either axis.
    """

    name = "upsampled"

    def __init__(self, problem: Problem, factor: Pair) -> None:
        super().__init__(problem)
        self._factor, (n, c, *large) = factor, problem.x_shape
        height, width = (k + s - 1 for k, s in zip(problem.taps, factor, strict=True))
        above, left = (k - 1 - p for k, p in zip(problem.taps, problem.padding, strict=True))
        self._back = dataclasses.replace(
            problem, x_shape=problem.y_shape, y_shape=(n, c, *(size // s for size, s in zip(large, factor, strict=True))),
            taps=(height, width), stride=factor, padding=(above, left),
        )  # fmt: skip
        self._images, self._weights = ImplicitGemm(self._back), WeightGradient(self._back)
        self._wide = (c, problem.y_shape[1] // problem.groups, height, width)

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        """That of the pass from y to x which it is, and room for the wide taps."""
        algorithm: Algorithm = self._weights if one_pass == "weight" else self._images
        opposite = {"forward": "input", "inference": "input", "input": "forward", "weight": "weight"}[one_pass]
        return {"wide": (self._wide, self.problem.dtype), **algorithm.scratch_spec(opposite, workers)}

    def weight(self, scratch: Arrays, parameter: Parameter) -> Array:
        """Panels of the wide taps."""
        form = "upsampled", self._factor, self.problem.groups
        return parameter.packed(form, scratch["weight"], functools.partial(self._pack, 1, scratch["wide"]))

    def _pack(self, which: int, wide: Array, packed: Array, weight: Array) -> None:
        weight = weight.reshape(*weight.shape[:2], *self.problem.taps)
        widen_taps.for_work(wide.size)(wide, weight, self._factor, self.problem.groups)
        self._images.pack(which, packed, wide)

    def forward(
        self, scratch: Arrays, y: Array, x: Array, weight: Array, scale: Array, shift: Array, activation: int, slope: float
    ) -> None:
        self._images.correlate(1, scratch, y, x, weight)
        finish_all.for_work(y.size)(y.reshape(*y.shape[:2], math.prod(y.shape[2:])), scale, shift, activation, slope)

    def backward_input(self, scratch: Arrays, dx: Array, dy: Array, weight: Array) -> None:
        self._pack(0, scratch["wide"], scratch["weight"], weight)
        self._images.correlate(0, scratch, dx, dy, scratch["weight"])

    def backward_weight(self, scratch: Arrays, dweight: Array, x: Array, dy: Array) -> None:
        wide = scratch["wide"]
        wide.fill(0)
        self._weights.backward_weight(scratch, wide, dy, x)
        dweight = dweight.reshape(*dweight.shape[:2], *self.problem.taps)
        narrow_taps.for_work(wide.size)(dweight, wide, self._factor, self.problem.groups)


class UpsampledConvolution(ByAlgorithms):
    """An `Upsample` and the `Conv2d` that follows it as one layer, which shares the parameters of the latter.

    Parameters
    ----------
    upsample : Upsample
        What enlarges.
    convolution : Convolution
        What convolves, in two dimensions.
    """

    def __init__(self, upsample: Upsample, convolution: Convolution) -> None:
        super().__init__()
        self.upsample, self.convolution = upsample, convolution
        self.dtype, self.out_channels = convolution.dtype, convolution.out_channels

    @property
    def weight(self) -> Parameter:  # type: ignore[override]
        """The convolution's, which may be another one by now."""
        return self.convolution.weight

    @property
    def bias(self) -> Parameter | None:  # type: ignore[override]
        """Likewise."""
        return self.convolution.bias

    def output_shape(self, x_shape: Shape) -> Shape:
        return self.convolution.output_shape(self.upsample.output_shape(x_shape))

    def merging_pays(self, x_shape: Shape) -> bool:
        """Whether it is faster than the two by themselves, for batches of any size.

        The factor must be whole, and the convolution one that Winograd's algorithm, or one of its own, does not serve better.
        """
        convolution, dtype = self.convolution, np.dtype(self.dtype)
        factor = self._factor(x_shape, dtype)
        if convolution.device is not CPU or factor is None or factor == (1, 1) or max(convolution.kernel_size) == 1:
            return False
        if (*convolution.stride, *convolution.dilation) != (1, 1, 1, 1):
            return False
        problem = convolution._problem((MANY, *self.upsample.output_shape(x_shape)[1:]), dtype)
        return best("forward", problem, convolution.algorithm, exact=False) in (ImplicitGemm, Im2col, Im2row)

    def _factor(self, x_shape: Shape, dtype: Any) -> Pair | None:
        """How often a pixel shows, where that is the same for all."""
        sizes, tables = x_shape[2:], self.upsample._sources(x_shape, dtype)
        height, width = (table.size // size for table, size in zip(tables, sizes, strict=True))
        even = all(np.array_equal(t, np.arange(n).repeat(s)) for t, n, s in zip(tables, sizes, (height, width), strict=True))
        return (height, width) if even else None

    def _geometry(self, x_shape: Shape, dtype: Any) -> dict[str, Passes]:
        problem, factor = self.convolution._problem(self.upsample.output_shape(x_shape), dtype), self._factor(x_shape, dtype)
        assert factor is not None
        return dict.fromkeys(PRECISIONS, dict.fromkeys(PASSES, Upsampled(problem, factor)))

    def forward_flops(self, x_shape: Shape) -> int:
        """Those of the enlarged image."""
        return self.convolution.forward_flops(self.upsample.output_shape(x_shape))

    def _arguments(self) -> str:
        return f"{self.upsample!r}, {self.convolution!r}"

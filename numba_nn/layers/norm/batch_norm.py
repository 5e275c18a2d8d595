"""Batch normalisation.

    y = (x - mean) / sqrt(variance + eps) weight + bias        for each channel c of (N, C), (N, C, L) or (N, C, H, W)

In training mode mean and (biased) variance are the batch's, over N and all positions; with n of them and
x^ = (x - mean) / sqrt(variance + eps):

    dbias += sum dy        dweight += sum dy x^        dx = weight / sqrt(variance + eps) (dy - sum dy / n - x^ sum (dy x^) / n)

In eval mode they are running statistics, constants for backward: dx = weight / sqrt(variance + eps) dy.

S. Ioffe and C. Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate shift", 2015.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.carry import held_once
from numba_nn.core.checks import check_count, check_dtype, check_finite, check_flag, check_number
from numba_nn.core.cuda.narrow import wide
from numba_nn.core.device import CPU
from numba_nn.core.epilogue import neutral_terms
from numba_nn.core.errors import ShapeError
from numba_nn.core.kernel import Kernel
from numba_nn.core.layer import Layer
from numba_nn.core.parameter import Parameter
from numba_nn.core.reduce import BLOCK
from numba_nn.core.workspace import Shape, Spec
from numba_nn.layers.norm import batch_planes as planes
from numba_nn.layers.norm import batch_rows as rows
from numba_nn.layers.norm.batch_statistics import (
    CUMULATIVE,
    batch_statistics,
    fold_running,
    gradient_coefficients,
    recall_running,
    update_running,
)


class Layout(NamedTuple):
    """The kernels for a layout of the input."""

    moments: Kernel
    normalize: Kernel
    gradient_sums: Kernel
    backward_input: Kernel


PLANES = Layout(planes.plane_moments, planes.plane_normalize, planes.plane_gradient_sums, planes.plane_backward_input)
ROWS = Layout(rows.row_moments, rows.row_normalize, rows.row_gradient_sums, rows.row_backward_input)


class Geometry(NamedTuple):
    """What follows from an input's shape: the kernels, the shape of the arrays that they see, and a channel's tiles."""

    layout: Layout
    shape: Shape
    tiles: int

    @classmethod
    def of(cls, x_shape: Shape) -> Geometry:
        """The layout for an input of this shape."""
        n, c, length = x_shape[0], x_shape[1], math.prod(x_shape[2:])
        if length == 1:
            return cls(ROWS, (n, c), -(-n // rows.ROWS))
        return cls(PLANES, (n, c, length), n * -(-length // BLOCK))


class _BatchNorm(Layer):
    keeps_input = True
    epilogue_role = "norm"
    buffer_names = ("running_mean", "running_var", "num_batches_tracked")
    letters: ClassVar[tuple[str, ...]]

    def __init__(
        self, num_features: int, eps: float, momentum: float | None, affine: bool, track_running_stats: bool, bias: bool,
        dtype: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        name = type(self).__name__
        self.num_features = check_count(name, "num_features", num_features)
        self.dtype = check_dtype(name, dtype)
        self.eps = check_finite(name, "eps", eps, 0)
        self.momentum = None if momentum is None else check_number(name, "momentum", momentum, 0, 1)
        affine, bias = check_flag(name, "affine", affine), check_flag(name, "bias", bias)
        tracks = check_flag(name, "track_running_stats", track_running_stats)
        ones, zeros = np.ones(num_features, self.dtype), np.zeros(num_features, self.dtype)
        self.weight = Parameter(ones, "weight") if affine else None
        self.bias = Parameter(zeros, "bias") if affine and bias else None
        self.running_mean = zeros.copy() if tracks else None
        self.running_var = ones.copy() if tracks else None
        self.num_batches_tracked = np.zeros((), np.int64) if tracks else None
        self._derive()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._hold(functools.partial(held_once, self.device))

    def _hold(self, hold: Callable[[Array], Array]) -> None:
        """Have running statistics in memory that no ``out`` may lie in."""
        for name in self.buffer_names:
            if getattr(self, name) is not None:
                setattr(self, name, hold(getattr(self, name)))

    def _derive(self) -> None:
        self._hold(self.device.hold)
        dtype = wide(self.dtype)
        self._neutral = neutral_terms(self.num_features, dtype, self.device)[:2]
        self._folded = tuple(self.device.empty((self.num_features,), dtype) for _ in range(2))
        self._nothing, self._no_tiles = (self.device.empty(s, dtype) for s in ((0,), (2, 0, self.num_features)))

    @property
    def _affine(self) -> tuple[Array, Array]:
        """Weight and bias, or what stands for them."""
        ones, zeros = self._neutral
        return self.weight.memory if self.weight else ones, self.bias.memory if self.bias else zeros

    def measures(self) -> bool:
        """Whether a forward takes the batch's own statistics now."""
        return self.training or self.running_mean is None

    def fold(self, shift: Array) -> tuple[Array, Array]:
        """Scale and shift that make what comes before, with a bias of ``shift``, normalised by the running statistics."""
        scale, folded = self._folded
        weight, bias = self._affine
        fold_running(scale, folded, shift, self.running_mean, self.running_var, weight, bias, self.eps)
        return scale, folded

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output: the input's.

        Raises
        ------
        ShapeError
            If the input has another number of dimensions, or of channels.
        """
        letters = next((one for one in self.letters if one.count(",") + 1 == len(x_shape)), None)
        if letters is None or x_shape[1] != self.num_features:
            expected = " or ".join(f"({one})" for one in self.letters)
            raise ShapeError(f"{self!r}: x must have shape {expected} with C = {self.num_features}, got {x_shape}")
        return x_shape

    def saved_spec(self, x_shape: Shape, dtype: Any) -> dict[str, Spec]:
        """Statistics that normalised x; forward also stores ``share``: 1 / (values per channel), 0 for running ones."""
        channels = (self.num_features,)
        return {"mean": (channels, wide(dtype)), "inv_std": (channels, wide(dtype))}

    def scratch_spec(self, x_shape: Shape, dtype: Any) -> dict[str, Spec]:
        """Sums of every tile, and of every channel; a GPU is slow at float64."""
        channels, sums = self.num_features, wide(dtype)
        return {
            "tiles": ((4, Geometry.of(x_shape).tiles, channels), sums),
            "variance": ((channels,), np.dtype(np.float64) if self.device is CPU else sums),
            "coefficients": ((3, channels), sums),
        }

    def _geometry(self, x_shape: Shape, dtype: Any) -> Geometry:
        return Geometry.of(x_shape)

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        if x.size == 0:
            self._count_batch(call, (self._nothing, self._nothing), self._nothing, 1.0)  # it counts, as for PyTorch
            return
        mean, inv_std = saved["mean"], saved["inv_std"]
        layout, shape, _ = call.geometry
        x = x.reshape(shape)
        if self.measures():
            self._measure(call, x, mean, inv_std)
            saved["share"] = mean.size / x.size
        else:
            recall_running(mean, inv_std, self.running_mean, self.running_var, self.eps)
            saved["share"] = 0.0
        layout.normalize.for_work(x.size, self.device)(y.reshape(shape), mean, inv_std, x, *self._affine)

    def _measure(self, call: Call, x: Array, mean: Array, inv_std: Array) -> None:
        """Statistics of a batch."""
        tiles, variance = call.scratch["tiles"], call.scratch["variance"]
        count = x.size // mean.size
        if count == 1:
            raise ShapeError(f"{self!r}: a batch has statistics from two values per channel on, got x of shape {call.x_shape}")
        call.geometry.layout.moments.for_work(2 * x.size, self.device)(tiles, x)
        batch_statistics.for_work(tiles.size, self.device)(mean, inv_std, variance, tiles, self.eps)
        self._count_batch(call, (self.running_mean, self.running_var), mean, count / (count - 1))

    def _count_batch(self, call: Call, running: tuple[Any, Any], mean: Array, unbiased: float) -> None:
        """In training mode, count a batch and move running statistics on; they and ``mean`` are empty if the batch is."""
        if self.training and self.running_mean is not None and self.num_batches_tracked is not None:
            tracked, variance = self.num_batches_tracked.reshape(1), call.scratch["variance"]
            momentum = CUMULATIVE if self.momentum is None else self.momentum
            update_running(*running, tracked, variance, mean, momentum, unbiased)

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if x.size == 0:
            return
        layout, shape, _ = call.geometry
        mean, inv_std = saved["mean"], saved["inv_std"]
        x, dy = x.reshape(shape), dy.reshape(shape)
        coefficients, share = call.scratch["coefficients"], saved["share"]
        if share > 0 or any(p and p.requires_grad for p in (self.weight, self.bias)):
            tiles = call.scratch["tiles"][:2]
            layout.gradient_sums.for_work(x.size, self.device)(mean, tiles, x, dy)
        else:
            tiles = self._no_tiles  # dx = scale dy needs no sums
        dweight, dbias = (p.grad if p and p.requires_grad else self._nothing for p in (self.weight, self.bias))
        run = gradient_coefficients.for_work(tiles.size, self.device)
        run(dweight, dbias, inv_std, coefficients, tiles, self._affine[0], share)
        if dx is not None:
            layout.backward_input.for_work(x.size, self.device)(dx.reshape(shape), mean, coefficients, x, dy)

    def _arguments(self) -> str:
        return (
            f"num_features={self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.weight is not None}, track_running_stats={self.running_mean is not None}"
            f"{', bias=False' if self.weight and not self.bias else ''}"
        )


class BatchNorm1d(_BatchNorm):
    """Normalise every channel of (N, C) or (N, C, L) to mean 0 and variance 1 over the batch, then scale and shift it.

    In training mode by the batch's own statistics, which also move the running ones; in eval mode by the running statistics.

    Parameters
    ----------
    num_features : int
        Number of channels, C.
    eps : float, optional
        Added to the variance.
    momentum : float or None, optional
        How far a batch moves the running statistics, from 0 to 1; None makes them the mean over all batches.
    affine : bool, optional
        Whether to scale by a weight and add a bias.
    track_running_stats : bool, optional
        False: the batch's statistics serve in eval mode too.
    bias : bool, optional
        Whether an affine layer adds a bias.
    dtype : dtype, optional
        float32 or float64.

    Attributes
    ----------
    weight, bias : Parameter or None
        (C,); 1 and 0 at first.
    running_mean, running_var : ndarray or None
        (C,), of the dtype; 0 and 1 at first. The variance is the unbiased one.
    num_batches_tracked : ndarray or None
        Number of batches, int64 without dimensions.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    ShapeError
        In ``forward``, if the batch's statistics are needed and a channel has one value only.
    """

    letters = ("N, C", "N, C, L")

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, *, bias: bool = True, dtype: Any = np.float32,
    ) -> None:  # fmt: skip
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias, dtype)


class BatchNorm2d(_BatchNorm):
    """Normalise every channel of (N, C, H, W) to mean 0 and variance 1 over the batch, then scale and shift it.

    In training mode by the batch's own statistics, which also move the running ones; in eval mode by the running statistics.
    Attributes and errors are those of `BatchNorm1d`.

    Parameters
    ----------
    num_features : int
        Number of channels, C.
    eps : float, optional
        Added to the variance.
    momentum : float or None, optional
        How far a batch moves the running statistics, from 0 to 1; None makes them the mean over all batches.
    affine : bool, optional
        Whether to scale by a weight and add a bias.
    track_running_stats : bool, optional
        False: the batch's statistics serve in eval mode too.
    bias : bool, optional
        Whether an affine layer adds a bias.
    dtype : dtype, optional
        float32 or float64.
    """

    letters = ("N, C, H, W",)

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, *, bias: bool = True, dtype: Any = np.float32,
    ) -> None:  # fmt: skip
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias, dtype)

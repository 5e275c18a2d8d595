"""What a layer of matrix products does to rows that are finished, while they are in cache.

    y = activation(scale y + shift)

``shift`` is the layer's bias. In eval mode a batch normalisation that follows is folded into both; an activation that follows,
if its backward can do with its output, is applied too. `Sequential` finds what follows (`Epilogue`); summaries name it.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numba import prange
from numpy.typing import NDArray

from numba_nn.core.cuda.narrow import wide
from numba_nn.core.cuda.planes import place_of_window, row_of_windows
from numba_nn.core.cuda.portable import covering_windows, fetch, put
from numba_nn.core.cuda.ptx import WINDOW, cuda
from numba_nn.core.device import CPU, Device
from numba_nn.core.each import each
from numba_nn.core.kernel import In, Out, inlined, inner, kernel
from numba_nn.core.parameter import Parameter
from numba_nn.core.reduce import block_bounds, block_count
from numba_nn.core.simd import affine_run
from numba_nn.core.vmath import constant, sigmoid, tanh

IDENTITY, RELU, LEAKY_RELU, RELU6, SIGMOID, TANH = range(6)
RUN = 2048  # elements at a time: 8 KB of float32 stay in the L1 cache between the affine pass and the activation

Array = NDArray[np.floating[Any]]


Terms = tuple[Array, Array, int, float]
"""Scale, shift, number of the activation, and its slope."""


class Epilogue(NamedTuple):
    """The layers that follow a layer of matrix products and are done by it.

    Attributes
    ----------
    norm : Layer or None
        A batch normalisation, which has ``fold`` and ``measures``.
    activation : Layer or None
        An activation, which has ``epilogue_code`` and ``slope``.
    """

    norm: Any = None
    activation: Any = None

    def terms(self, plain: Terms) -> Terms:
        """The terms of a layer whose own are ``plain``: its bias is the shift, and nothing else is done."""
        if self is NOTHING:
            return plain
        scale, shift, activation, slope = plain
        if self.norm is not None:
            scale, shift = self.norm.fold(shift)
        if self.activation is not None:
            activation, slope = self.activation.epilogue_code, self.activation.slope
        return scale, shift, activation, slope


NOTHING = Epilogue()


@functools.cache
def neutral_terms(channels: int, dtype: np.dtype[Any], device: Device = CPU) -> Terms:
    """Terms that change nothing, of the precision of sums."""
    dtype = wide(dtype)
    return device.from_host(np.ones(channels, dtype)), device.zeros((channels,), dtype), IDENTITY, 0.0


def bias_terms(neutral: Terms, bias: Parameter | None) -> Terms:
    """`neutral_terms`, but that a bias, if there is one, is added."""
    scale, shift, activation, slope = neutral
    return scale, bias.memory if bias else shift, activation, slope


@inlined
def relu(x):
    """max(x, 0), NaN for NaN."""
    zero = constant(x, 0)
    return zero if x <= zero else x


@inlined
def leaky_relu(x, slope):
    """x where x > 0, else slope x."""
    return x if x > constant(x, 0) else constant(x, slope) * x


@inlined
def relu6(x):
    """min(max(x, 0), 6), NaN for NaN."""
    zero, six = constant(x, 0), constant(x, 6)
    return zero if x <= zero else six if x >= six else x


@inner
def activate(y, activation, slope):
    """y = activation(y), for a flat array."""
    if activation == RELU:
        for i in range(y.size):
            y[i] = relu(y[i])
    elif activation == LEAKY_RELU:
        for i in range(y.size):
            y[i] = leaky_relu(y[i], slope)
    elif activation == RELU6:
        for i in range(y.size):
            y[i] = relu6(y[i])
    elif activation == SIGMOID:
        each(sigmoid, y, (y,))
    elif activation == TANH:
        each(tanh, y, (y,))


@inlined
def activated(x, activation, slope):
    """activation(x), for a number."""
    if activation == RELU:
        return relu(x)
    if activation == LEAKY_RELU:
        return leaky_relu(x, slope)
    if activation == RELU6:
        return relu6(x)
    if activation == SIGMOID:
        return sigmoid(x)
    return tanh(x) if activation == TANH else x


@kernel
def activate_all(y: Out, activation: int, slope: float):
    """y = activation(y), over fixed blocks."""
    for block in prange(block_count(y.size)):
        start, stop = block_bounds(block, y.size)
        activate(y[start:stop], activation, slope)


@activate_all.on_cuda(grid=covering_windows)
def activate_all(y: Out, activation: int, slope: float):
    """A thread has a window, or several."""
    at, window = place_of_window(), cuda.local.array(WINDOW, y.dtype)
    while at < np.uint32(y.size):
        fetch(window, y, at)
        for lane in range(WINDOW):
            window[lane] = activated(window[lane], activation, slope)
        put(y, at, window, y.size)
        at = np.uint32(at + row_of_windows())


@inner
def finish_channel(y, at, count, scale, shift, activation, slope):
    """y = activation(scale y + shift) in a run of one channel; ``scale`` and ``shift`` are numbers."""
    for start in range(at, at + count, RUN):
        run = y[start : min(start + RUN, at + count)]
        for i in range(run.size):
            run[i] = scale * run[i] + shift
        activate(run, activation, slope)


@kernel
def finish_all(y: Out, scale: In, shift: In, activation: int, slope: float):
    """y = activation(scale y + shift), where nothing was finished on the way; y: (N, O, pixels), scale, shift: (O,)."""
    flat, pixels = y.reshape(y.size), y.shape[2]
    for plane in prange(y.shape[0] * y.shape[1]):
        channel = plane % y.shape[1]
        finish_channel(flat, plane * pixels, pixels, scale[channel], shift[channel], activation, slope)


@inner
def finish_copy(y, at, sums, source, count, scale, shift, activation, slope):
    """`finish_channel` of what is not there yet, a vector at least: y = activation(scale sums + shift)."""
    least = y.dtype.type(0 if activation == RELU else -np.inf)
    affine_run(y, at, sums, source, count, scale, shift, least)
    if activation > RELU:
        activate(y[at : at + count], activation, slope)


@inner
def finish_features(y, at, scale, shift, activation, slope):
    """y = activation(scale y + shift) in a row of features; ``scale`` and ``shift`` are arrays, one element per feature."""
    row = y[at : at + scale.size]
    for i in range(row.size):
        row[i] = scale[i] * row[i] + shift[i]
    activate(row, activation, slope)

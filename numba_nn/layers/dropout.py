"""Dropout: random elements, or whole channels (N C H W), are set to zero in training mode.

    y[i] = x[i] m[i] / (1 - p)        dx[i] = dy[i] m[i] / (1 - p)        m[i] = 1 with probability 1 - p, else 0

m[i] is a pure function of (seed, layer, draw, i): word i mod 4 of block i div 4 of a Philox stream, kept where the word is at
least p 2^32. So a mask is the same on any number of threads, and backward computes it again from two integers. That costs more
than to read a mask kept in bytes (3.5 against 1.8 us for 16,384 elements on one core), but a quarter of the activation's memory
and a second kernel less.

As in PyTorch, what is dropped is multiplied by 0: NaN and infinity give NaN.
"""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar

import numpy as np
from numba import prange, uint32

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.checks import check_flag, check_number, check_rank
from numba_nn.core.cuda.portable import fetch, put
from numba_nn.core.cuda.ptx import WINDOW, cuda
from numba_nn.core.cuda.reduce import block_per_row
from numba_nn.core.cuda.twin import THREADS
from numba_nn.core.kernel import In, Out, Saved, kernel
from numba_nn.core.layer import Layer
from numba_nn.core.random import MaskStream, words
from numba_nn.core.random_lanes import drop_blocks
from numba_nn.core.reduce import block_bounds, block_count
from numba_nn.core.workspace import Shape, Spec

WORK = 4  # simple operations that an element's share of Philox counts for


@functools.cache
def mask_terms(p: float) -> tuple[int, float]:
    """The smallest random word that keeps, and what kept elements are multiplied by: 0 where all are dropped."""
    return int(min(p * 4294967296.0 + 0.5, 4294967295.0)), 1.0 / (1.0 - p) if p < 1.0 else 0.0


@kernel
def drop_elements(y: Out, draw: Saved, x: In, least: int, scale: float):
    """y = x, with elements dropped, the others scaled; x and y: flat. Backward is the same on dy.

    draw: seed and stream of the mask; least, scale: see `mask_terms`.
    """
    seed, stream, low, factor, zero = draw[0], draw[1], uint32(least), x.dtype.type(scale), x.dtype.type(0)
    for part in prange(block_count(x.size)):
        start, stop = block_bounds(part, x.size)
        a, b, first = x[start:stop], y[start:stop], start // 4
        done = drop_blocks(b, a, first, stream, seed, low, factor)
        for block in range(done // 4, -(-a.size // 4)):
            w = words(first + block, stream, seed)
            for i in range(4 * block, min(4 * block + 4, a.size)):
                b[i] = a[i] * (factor if w[i % 4] >= low else zero)


@drop_elements.on_cuda(grid=lambda y, *_: (-(-y.size // (WINDOW * THREADS)), THREADS))
def drop_elements(y: Out, draw: Saved, x: In, least: int, scale: float):
    """A thread has the four elements of a block of the stream."""
    block, low, zero = np.uint32(cuda.grid(1)), np.uint32(least), x.dtype.type(0)
    window, at = cuda.local.array(WINDOW, x.dtype), np.uint64(WINDOW) * np.uint64(block)
    a, b, c, d = words(block, draw[1], draw[0])
    fetch(window, x, at)
    window[0] *= scale if a >= low else zero
    window[1] *= scale if b >= low else zero
    window[2] *= scale if c >= low else zero
    window[3] *= scale if d >= low else zero
    put(y, at, window, x.size)


@kernel
def drop_rows(y: Out, draw: Saved, x: In, least: int, scale: float):
    """y = x, with whole rows dropped, the others scaled; x and y: (R, L). Backward is the same on dy."""
    seed, stream, low, kept, zero = draw[0], draw[1], uint32(least), x.dtype.type(scale), x.dtype.type(0)
    for row in prange(x.shape[0]):
        w = words(row // 4, stream, seed)
        factor = kept if w[row % 4] >= low else zero
        for i in range(x.shape[1]):
            y[row, i] = x[row, i] * factor


@drop_rows.on_cuda(grid=block_per_row)
def drop_rows(y: Out, draw: Saved, x: In, least: int, scale: float):
    """A block has a row."""
    row, at = np.uint32(cuda.blockIdx.x), np.uint32(WINDOW) * np.uint32(cuda.threadIdx.x)
    window = cuda.local.array(WINDOW, x.dtype)
    a, b, c, d = words(row >> 2, draw[1], draw[0])
    word = (a if row & 1 == 0 else b) if row & 2 == 0 else (c if row & 1 == 0 else d)
    factor = scale if word >= np.uint32(least) else x.dtype.type(0)
    while at < np.uint32(x.shape[1]):
        fetch(window, x[row], at)
        for lane in range(WINDOW):
            window[lane] *= factor
        put(y[row], at, window, x.shape[1])
        at = np.uint32(at + np.uint32(WINDOW) * np.uint32(cuda.blockDim.x))


class Dropout(Layer):
    """Set random elements to zero in training mode, and scale the others by 1 / (1 - p); in eval mode y = x.

    A mask follows from the seed (`manual_seed`), from how many dropout layers drew first since seeding, and from how many
    masks this one drew.

    Parameters
    ----------
    p : float, optional
        Probability that an element is dropped.
    inplace : bool, optional
        No effect: it is PyTorch's way to save memory, here a model plans its buffers.

    Raises
    ------
    ArgumentError
        If ``p`` is not a number from 0 to 1, or ``inplace`` no bool.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        check_flag(type(self).__name__, "inplace", inplace)
        self.p = check_number(type(self).__name__, "p", p, 0, 1)
        self._derive()

    def _derive(self) -> None:
        self._masks = MaskStream(self.device)

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output: the input's."""
        return x_shape

    def saved_spec(self, x_shape: Shape, dtype: Any) -> dict[str, Spec]:
        """Seed and stream of the mask; forward notes beside them whether it drops."""
        return {"draw": ((2,), np.dtype(np.int64))}

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        saved["drops"] = self.training
        if self.training:
            self._masks.draw(saved["draw"])
        self._drop(y, x, saved)

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if dx is not None:
            self._drop(dx, dy, saved)

    def _drop(self, y: Array, x: Array, saved: Arrays) -> None:
        if saved["drops"]:
            self._drop_masked(y, x, saved["draw"], *mask_terms(self.p))
        else:
            self.device.copy(y, x)

    def _drop_masked(self, y: Array, x: Array, draw: Array, least: int, scale: float) -> None:
        run = drop_elements.for_work(WORK * x.size, self.device)
        run(y.reshape(-1), draw, x.reshape(-1), least, scale)

    def _arguments(self) -> str:
        return f"p={self.p}"


class _ChannelDropout(Dropout):
    letters: ClassVar[str]

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output: the input's.

        Raises
        ------
        ShapeError
            If the input has another number of dimensions.
        """
        check_rank(self, "x", x_shape, self.letters)
        return x_shape

    def _drop_masked(self, y: Array, x: Array, draw: Array, least: int, scale: float) -> None:
        rows = x.shape[0] * x.shape[1], math.prod(x.shape[2:])
        drop_rows(y.reshape(rows), draw, x.reshape(rows), least, scale)


class Dropout1d(_ChannelDropout):
    """Set random channels of (N, C, L) to zero in training mode, and scale the others by 1 / (1 - p); see `Dropout`.

    Parameters
    ----------
    p : float, optional
        Probability that a channel of a sample is dropped.
    inplace : bool, optional
        No effect: it is PyTorch's way to save memory, here a model plans its buffers.

    Raises
    ------
    ArgumentError
        If ``p`` is not a number from 0 to 1, or ``inplace`` no bool.
    """

    letters = "N, C, L"


class Dropout2d(_ChannelDropout):
    """Set random channels of (N, C, H, W) to zero in training mode, and scale the others by 1 / (1 - p); see `Dropout`.

    Parameters
    ----------
    p : float, optional
        Probability that a channel of a sample is dropped.
    inplace : bool, optional
        No effect: it is PyTorch's way to save memory, here a model plans its buffers.

    Raises
    ------
    ArgumentError
        If ``p`` is not a number from 0 to 1, or ``inplace`` no bool.
    """

    letters = "N, C, H, W"

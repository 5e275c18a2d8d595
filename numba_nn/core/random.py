"""Random numbers by counter: Philox4x32-10.

The numbers are a pure function of (seed, stream, position): any thread can compute any part of a sequence, the CPU and the
GPU draw the same, and nothing but the counter need be saved to draw it again.

J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba import prange, uint32, uint64
from numpy.typing import NDArray

from numba_nn.core.checks import is_whole
from numba_nn.core.cuda.twin import cuda_kernel
from numba_nn.core.device import CPU, Device
from numba_nn.core.errors import ArgumentError
from numba_nn.core.kernel import Out, Saved, inlined, inner, kernel

MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
ROUNDS = 10


@inlined  # LLVM takes Philox for too long, and a loop with a call in it stays scalar: 7 times the time of a dropout mask
def philox(c0, c1, c2, c3, k0, k1):
    """Four random 32-bit words for a counter of four words and a key of two."""
    for _ in range(ROUNDS):
        p0, p1 = MULTIPLIERS[0] * uint64(c0), MULTIPLIERS[1] * uint64(c2)
        high0, high1 = uint32(p0 >> uint64(32)), uint32(p1 >> uint64(32))
        c0, c1, c2, c3 = uint32(high1 ^ c1 ^ k0), uint32(p1), uint32(high0 ^ c3 ^ k1), uint32(p0)
        k0, k1 = uint32(k0 + WEYL[0]), uint32(k1 + WEYL[1])
    return c0, c1, c2, c3


@inlined
def words(block, stream, seed):
    """The four random 32-bit words of a block of a stream."""
    b, s, k = uint64(block), uint64(stream), uint64(seed)
    return philox(
        uint32(b), uint32(b >> uint64(32)), uint32(s), uint32(s >> uint64(32)), uint32(k), uint32(k >> uint64(32))
    )  # fmt: skip


@inner
def uniforms(block, stream, seed):
    """The four numbers of a block, in the open interval (0, 1), from 32 bits each."""
    w = words(block, stream, seed)
    scale = 1.0 / 4294967296.0
    return (w[0] + 0.5) * scale, (w[1] + 0.5) * scale, (w[2] + 0.5) * scale, (w[3] + 0.5) * scale


@kernel
def uniform_fill(y: Out, seed: int, stream: int, low: float, high: float):
    """y = numbers of a stream, uniform in (low, high); y: flat."""
    for block in prange(-(-y.size // 4)):
        u = uniforms(block, stream, seed)
        for i in range(min(4, y.size - 4 * block)):
            y[4 * block + i] = low + (high - low) * u[i]


@kernel
def normal_fill(y: Out, seed: int, stream: int, mean: float, std: float):
    """y = numbers of a stream, normal (Box and Muller 1958); y: flat."""
    for block in prange(-(-y.size // 4)):
        u = uniforms(block, stream, seed)
        for i in range(min(4, y.size - 4 * block)):
            radius = math.sqrt(-2.0 * math.log(u[i // 2 * 2]))
            angle = 2.0 * math.pi * u[i // 2 * 2 + 1]
            y[4 * block + i] = mean + std * radius * (math.cos(angle) if i % 2 == 0 else math.sin(angle))


@cuda_kernel(grid=lambda *_: (1, 1))
def next_mask(state: Out, draw: Saved):
    """draw = seed and stream of a layer's next mask; state: seed, the layer's number, draws so far."""
    state[2] += 1
    draw[0] = state[0]
    draw[1] = (state[2] << 32) + state[1]


_seed = 0
_seedings = 0
_streams: Iterator[int] = itertools.count()
_mask_streams: Iterator[int] = itertools.count()


def manual_seed(seed: int) -> None:
    """Start all random streams anew.

    Layers made after this call draw the same initial values in every run; layers that draw while they run, such as `Dropout`,
    begin again with their first draw, also those made before.

    Parameters
    ----------
    seed : int
        Any integer; its low 64 bits count.

    Raises
    ------
    ArgumentError
        If ``seed`` is no integer.
    """
    global _seed, _seedings, _streams, _mask_streams
    if not is_whole(seed):
        raise ArgumentError(f"manual_seed: seed must be an int, got {seed!r}")
    _seed, _seedings = (int(seed) + 2**63) % 2**64 - 2**63, _seedings + 1
    _streams, _mask_streams = itertools.count(), itertools.count()


def seedings() -> int:
    """How often `manual_seed` was called."""
    return _seedings


class MaskStream:
    """The random masks of one layer: one stream for every draw, numbered from the last `manual_seed` on.

    The layer's number is the low half of a stream, the draw's number, from 1, the high half. Initial values have streams whose
    high half is 0, so they and the masks share no random words.

    A layer gets its number when it first draws: so no two that draw after a seed have one number, copies and layers made
    before the seed among them, and those that never draw change nothing.
    """

    def __init__(self, device: Device = CPU) -> None:
        self._device = device
        self._layer, self._draws, self._seedings = -1, 0, -1
        self._state = None if device is CPU else device.zeros((3,), np.int64)

    def draw(self, to: NDArray[Any]) -> None:
        """Write the next mask's seed and stream, which is never 0, to an array on the device.

        A GPU counts by itself, and nothing comes from the host but after a new seed: a captured graph draws new masks.
        """
        if self._seedings != _seedings:
            self._layer, self._draws, self._seedings = next(_mask_streams), 0, _seedings
            if self._device is not CPU:
                self._device.assign(self._state, (_seed, self._layer, 0))
        if self._device is CPU:
            self._draws += 1
            to[0], to[1] = _seed, (self._draws << 32) + self._layer
        else:
            next_mask(self._state, to)

    def __reduce__(self) -> tuple[type[MaskStream], tuple[Device]]:
        return MaskStream, (self._device,)


@contextmanager
def masks_aside() -> Iterator[None]:
    """Layers that draw inside take no number away from those outside."""
    global _mask_streams
    kept, _mask_streams = _mask_streams, itertools.count()
    try:
        yield
    finally:
        _mask_streams = kept


def uniform(shape: tuple[int, ...], low: float, high: float, dtype: Any = np.float32) -> NDArray[Any]:
    """Uniform numbers in (low, high) from the next stream."""
    values = np.empty(shape, dtype)
    uniform_fill(values.reshape(-1), _seed, next(_streams), float(low), float(high))
    return values


def normal(shape: tuple[int, ...], std: float, dtype: Any = np.float32) -> NDArray[Any]:
    """Normal numbers of mean 0 from the next stream."""
    values = np.empty(shape, dtype)
    normal_fill(values.reshape(-1), _seed, next(_streams), 0.0, float(std))
    return values

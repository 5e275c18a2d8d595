"""Scaling of a loss's gradient, so that gradients in float16 neither vanish nor overflow.

The gradient that goes into a model is multiplied by a scale, and what arrives at parameters is divided by it: a power of two,
unless the user gives another number, so nothing is rounded. Where a gradient is infinite or NaN all the same, optimisers skip
the step, and the scale is halved; after `GROWTH_INTERVAL` steps without such a gradient it is doubled. The host neither decides
nor waits: the numbers lie on the GPU, so a training step can be recorded as a graph.

P. Micikevicius et al., "Mixed precision training", ICLR 2018; the constants are those of PyTorch's ``GradScaler``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.address import part_at
from numba_nn.core.call import Array
from numba_nn.core.carry import arrived, departing
from numba_nn.core.cuda.cast import copy_forward
from numba_nn.core.cuda.portable import portable_twin
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.cuda.twin import cuda_kernel
from numba_nn.core.device import CUDA
from numba_nn.core.kernel import In, Out, Saved
from numba_nn.core.parameter import Parameter
from numba_nn.optim.table import ACTIVE, GRADIENT, ParameterTable, task_bounds

INITIAL, LEAST, MOST = 2.0**16, 1.0, 2.0**24
GROWTH_INTERVAL = 2000  # steps
SCALE, CHANGES, STEADY, SKIPPED, FOUND, STEPPED = range(6)
"""Numbers of a state: the scale, whether it changes, steps since it did, steps skipped; whether a gradient since the last step
is not finite, and whether an optimiser has come to that step."""


@cuda_kernel(grid=lambda state: (1, 1))
def settle(state: Saved):
    """Count the step before, if an optimiser has come to it, and have the scale of the next."""
    if state[STEPPED] == 0:
        return
    zero, one, two = state.dtype.type(0), state.dtype.type(1), state.dtype.type(2)
    state[STEADY] += one
    if state[FOUND] != 0:
        state[SKIPPED], state[STEADY] = state[SKIPPED] + one, zero
        if state[CHANGES] != 0:
            state[SCALE] = max(state[SCALE] / two, state.dtype.type(LEAST))
    elif state[CHANGES] != 0 and state[STEADY] >= state.dtype.type(GROWTH_INTERVAL):
        state[STEADY], state[SCALE] = zero, min(state[SCALE] * two, state.dtype.type(MOST))
    state[FOUND] = state[STEPPED] = zero


@cuda_kernel(grid=lambda state: (1, 1))
def give_up(state: Saved):
    """Gradients are cleared: if one was not finite, their step is skipped, though no optimiser came to it."""
    if state[FOUND] != 0:
        state[STEPPED] = state.dtype.type(1)


@portable_twin
def scale_gradients(state: In, like: In, table: In, chunks: In):
    """g = scale g, in every chunk; it writes through the addresses in the table, hence no argument is an Out."""
    for t in prange(chunks.shape[0]):
        p, start, stop = task_bounds(table, chunks, t)
        gradient = part_at(table[p, GRADIENT], start, stop, like)
        scale = state[SCALE]
        for i in range(gradient.size):
            gradient[i] *= scale


@portable_twin
def unscale_gradients(state: Saved, like: In, table: In, chunks: In):
    """g = g / scale, in every chunk; notes a g that is not finite."""
    for t in prange(chunks.shape[0]):
        p, start, stop = task_bounds(table, chunks, t)
        gradient = part_at(table[p, GRADIENT], start, stop, like)
        factor, wrong = like.dtype.type(1) / state[SCALE], like.dtype.type(0)
        for i in range(gradient.size):
            gradient[i] *= factor
            wrong += gradient[i] - gradient[i]  # 0, or NaN
        if wrong != wrong:
            state[FOUND] = like.dtype.type(1)


@portable_twin
def scale_into(y: Out, x: In, state: In):
    """y = scale x; both flat."""
    scale = state[SCALE]
    for i in prange(x.size):
        y[i] = scale * x[i]


@portable_twin
def unscale_into(y: Out, x: In, state: In):
    """y = x / scale; both flat."""
    factor = state.dtype.type(1) / state[SCALE]
    for i in prange(x.size):
        y[i] = factor * x[i]


@cuda_kernel(grid=lambda table, state, members: (1, 256))
def admit(table: Out, state: Saved, members: In):
    """Have an optimiser's kernels pass over the members where a gradient is not finite; see `optim.table.pass_over`."""
    i, found = np.uint32(cuda.grid(1)), state[FOUND] != 0
    while i < np.uint32(members.size):
        row = np.uint32(members[i])
        if found and table[row, ACTIVE] > 0:
            table[row, ACTIVE] = -1
        i = np.uint32(i + np.uint32(cuda.gridsize(1)))
    if cuda.grid(1) == 0:
        state[STEPPED] = state.dtype.type(1)


class NoScale:
    """Gradients as they are, in the manner of `LossScale`."""

    scale, skipped = 1.0, 0

    def begin(self, scaled: Array, dy: Array) -> None:
        """Before a backward: round its gradient."""
        copy_forward(scaled.reshape(-1), dy.reshape(-1))

    def end(self) -> None:
        """Nothing is to do after it."""

    def unscale(self, dx: Array, scaled: Array) -> None:
        """Have an input's gradient in float32."""
        copy_forward(dx.reshape(-1), scaled.reshape(-1))


class LossScale:
    """The scale of one model's gradients; it is what guards its parameters (`Parameter.guard`).

    Parameters
    ----------
    parameters : iterable of Parameter
        Those of the model, on a GPU.
    scale : float, optional
        One that stays; None for one that changes.
    """

    def __init__(self, parameters: Iterable[Parameter], scale: float | None = None) -> None:
        state = np.zeros(6, np.float32)
        state[SCALE], state[CHANGES] = (INITIAL, 1) if scale is None else (scale, 0)
        self._state = CUDA.from_host(state)
        self._table = ParameterTable((p, 0, ()) for p in parameters)

    def __getstate__(self) -> dict[str, Any]:
        return departing(vars(self), self._table.stream)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(arrived(state))

    def begin(self, scaled: Array, dy: Array) -> None:
        """Before a backward: scale its gradient, and those that parameters hold already."""
        settle(self._state)
        scale_into(scaled.reshape(-1), dy.reshape(-1), self._state)
        self._table.refresh()
        self._each(scale_gradients)

    def end(self) -> None:
        """After it: have parameters' gradients without the scale."""
        self._each(unscale_gradients)

    def unscale(self, dx: Array, scaled: Array) -> None:
        """Have an input's gradient without the scale."""
        unscale_into(dx.reshape(-1), scaled.reshape(-1), self._state)

    def _each(self, run: Any) -> None:
        for like, _, chunks, _ in self._table.tasks:
            run(self._state, like, self._table.rows.array, chunks)

    def admit(self, rows: Array, members: Array) -> None:
        """Say in an optimiser's table where its kernels may not change these parameters."""
        admit(rows, self._state, members)

    def discard(self) -> None:
        """Gradients are cleared."""
        give_up(self._state)

    def refresh(self) -> None:
        """Have kernels see which parameters are frozen."""
        self._table.refresh()

    @property
    def scale(self) -> float:
        """The scale of the last backward; a GPU is waited for."""
        return float(CUDA.to_host(self._state)[SCALE])

    @property
    def skipped(self) -> int:
        """Steps that optimisers skipped; a GPU is waited for."""
        state = CUDA.to_host(self._state)
        return int(state[SKIPPED]) + int(state[FOUND] != 0 and state[STEPPED] != 0)

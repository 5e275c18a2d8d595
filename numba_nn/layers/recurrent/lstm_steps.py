"""Long short-term memory: the steps of a sequence, forward and back (Hochreiter and Schmidhuber 1997; Gers et al. 2000).

    i, f, o = sigmoid(gates[0], gates[1], gates[3])        g = tanh(gates[2])
    c[t] = f c[t - 1] + i g                                h[t] = o tanh(c[t])

where gates = x[t] weight_ih^T + h[t - 1] weight_hh^T + biases; the part of x is there before the first step
(`numba_nn.layers.recurrent.gates`, also for the letters). Backward, with dh and dc what arrives at h[t] and c[t]:

    do = dh tanh(c[t])        dc += dh o (1 - tanh(c[t])^2)
    di = dc g                 df = dc c[t - 1]              dg = dc i              dc[t - 1] = dc f

and, times the slopes i (1 - i), f (1 - f), 1 - g^2, o (1 - o), these are the gradients of the gates, which take their place.

*Walk*, where an argument has that name, is (steps, first, step, across): the step s of sequence n is row
first + s step + n across of x, whatever the layout of batches, and a negative step reads the sequence backwards.
*Place* is (offset, length): where the hidden state lies in a row of y, which two directions share.

Loops over units count in unsigned numbers and load before they store: a signed index is tested for being negative, which keeps
LLVM from vectorising (125 us for 16 rows of 256 units, 19 so).

A step is cut into blocks of rows and units by shape alone; a block's product and what follows element by element are one task.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from numba_nn.core.fma_tile import ROW_PANELS
from numba_nn.core.gemm import TASKS, block_span, columns_in_place
from numba_nn.core.kernel import In, Out, Saved, Scratch, inner, kernel
from numba_nn.core.packing import pack_matrices
from numba_nn.core.simd import tile_columns, tile_rows
from numba_nn.core.vmath import sigmoid, tanh
from numba_nn.layers.recurrent.gates import add_recurrent, multiply_recurrent, recurrent_by_dots

GATES = 4
BLOCK_ROWS = 48  # rows of a block: four tiles, which read a panel of weights from the L1 cache


@inner
def step_blocks(batch, hidden, height, width):
    """Blocks of rows and of units that a step is cut into, and panels of both.

    Two panels of units at least: a tile of one row takes so many, and what follows element by element goes over them at once
    (50 steps of 32 rows and 128 units: 1.3 ms of that in place of 2.3 on Zen 3).
    """
    row_panels, unit_panels = -(-batch // height), -(-hidden // width)
    return -(-batch // BLOCK_ROWS), min(TASKS, -(-unit_panels // ROW_PANELS)), row_panels, unit_panels


@inner
def lstm_units(y, y_at, h, c, gates, before, cells, squashed, at, next_at, first, last):
    """Some units of one row: gates become their activations, c moves on a step; h goes into y and ``h`` from ``next_at`` on."""
    at, y_at, next_at = np.uintp(at), np.uintp(y_at), np.uintp(next_at)
    for j in range(np.uintp(first), np.uintp(last)):
        i, f, g, o = sigmoid(gates[0, at + j]), sigmoid(gates[1, at + j]), tanh(gates[2, at + j]), sigmoid(gates[3, at + j])
        old_c = c[j]
        new_c = f * old_c + i * g
        t = tanh(new_c)
        new_h = o * t
        gates[0, at + j], gates[1, at + j], gates[2, at + j], gates[3, at + j] = i, f, g, o
        cells[at + j], squashed[at + j] = old_c, t
        c[j], h[next_at + j], y[y_at + j] = new_c, new_h, new_h


@kernel
def lstm_forward(
    y: Out, h: Out, c: Out, gates: Saved, before: Saved, cells: Saved, squashed: Saved, weight: In, h0: In, c0: In,
    walk: tuple[int, int, int, int], place: tuple[int, int],
):  # fmt: skip
    """Every step from (h0, c0) to (h, c), each (N, H); gates, before, cells, squashed (tanh of c): of all steps.

    weight: (Q, ...), weight_hh as it is if `recurrent_by_dots`, else packed.
    """
    steps, first, step, across = walk
    batch, hidden = h.shape
    height, width = tile_rows(gates), tile_columns(gates)
    by_dots = recurrent_by_dots(steps, batch, hidden)
    for n in prange(batch):
        for j in range(hidden):
            h[n, j], c[n, j] = h0[n, j], c0[n, j]
        at = np.uintp((first + n * across) * hidden)
        for j in range(np.uintp(hidden if steps > 0 else 0)):
            before[at + j] = h0[n, j]
    row_blocks, unit_blocks, row_panels, unit_panels = step_blocks(batch, hidden, height, width)
    for s in range(steps):
        for task in prange(row_blocks * unit_blocks):
            start, rows = block_span(task // unit_blocks, row_blocks, row_panels, height, batch)
            unit, units = block_span(task % unit_blocks, unit_blocks, unit_panels, width, hidden)
            row = first + s * step + start * across
            add_recurrent(gates, row, rows, across, unit, units, before, weight, hidden, by_dots)
            for n in range(rows):
                at = row + n * across
                if s + 1 < steps:
                    target, next_at = before, (at + step) * hidden
                else:
                    target, next_at = h.reshape(h.size), (start + n) * hidden
                lstm_units(
                    y, at * place[1] + place[0], target, c[start + n], gates, before, cells, squashed, at * hidden, next_at,
                    unit, unit + units,
                )  # fmt: skip


@inner
def lstm_units_backward(dh, dc, gates, cells, squashed, at, dy, y_at, first, last):
    """Some units of one row: gates become their gradients, dc moves back a step; dh is what comes from the next step."""
    one = dy.dtype.type(1)
    at, y_at = np.uintp(at), np.uintp(y_at)
    for j in range(np.uintp(first), np.uintp(last)):
        i, f, g, o = gates[0, at + j], gates[1, at + j], gates[2, at + j], gates[3, at + j]
        t, old_c, new_dh = squashed[at + j], cells[at + j], dh[j] + dy[y_at + j]
        new_dc = dc[j] + new_dh * o * (one - t * t)
        gates[0, at + j] = new_dc * g * i * (one - i)
        gates[1, at + j] = new_dc * old_c * f * (one - f)
        gates[2, at + j] = new_dc * i * (one - g * g)
        gates[3, at + j] = new_dh * t * o * (one - o)
        dc[j] = new_dc * f


@kernel
def lstm_backward(
    dh: Out, dc: Out, gates: Saved, cells: Saved, squashed: Saved, packed_weight: Scratch,
    dy: In, weight: In, dh_last: In, dc_last: In, walk: tuple[int, int, int, int], place: tuple[int, int],
):  # fmt: skip
    """Every step from the last: (dh_last, dc_last) arrive at the final state, (dh, dc) at the first; gates: their gradients.

    A task takes its units of dh back through the weights of the step behind it, and then through its own step.
    """
    steps, first, step, across = walk
    batch, hidden = dh.shape
    height, width = tile_rows(gates), tile_columns(gates)
    in_place = columns_in_place(hidden, width, batch) if steps == 1 else 0
    pack_matrices(packed_weight, weight, (hidden, hidden), (1, hidden), width, in_place)
    for n in prange(batch):
        for j in range(hidden):
            dh[n, j], dc[n, j] = dh_last[n, j], dc_last[n, j]
    row_blocks, unit_blocks, row_panels, unit_panels = step_blocks(batch, hidden, height, width)
    for s in range(steps - 1, -2, -1):
        for task in prange(row_blocks * unit_blocks):
            start, rows = block_span(task // unit_blocks, row_blocks, row_panels, height, batch)
            unit, units = block_span(task % unit_blocks, unit_blocks, unit_panels, width, hidden)
            row = first + s * step + start * across
            if s + 1 < steps:
                multiply_recurrent(dh, start, rows, unit, units, gates, row + step, across, weight, in_place, packed_weight)
            for n in range(rows if s >= 0 else 0):
                at = row + n * across
                lstm_units_backward(
                    dh[start + n], dc[start + n], gates, cells, squashed, at * hidden, dy, at * place[1] + place[0],
                    unit, unit + units,
                )  # fmt: skip

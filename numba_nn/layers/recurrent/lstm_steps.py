"""Long short-term memory: the steps of a sequence, forward and back (Hochreiter and Schmidhuber 1997; Gers et al. 2000).

    i, f, o = sigmoid(gates[0], gates[1], gates[3])        g = tanh(gates[2])
    c[t] = f c[t - 1] + i g                                h[t] = o tanh(c[t])

where gates = x[t] weight_ih^T + h[t - 1] weight_hh^T + biases; the part of x is there before the first step, or each step
begins with its own (`numba_nn.layers.recurrent.gates`, also for the letters). Backward, with dh and dc what arrives at h[t] and
c[t]:

    do = dh tanh(c[t])        dc += dh o (1 - tanh(c[t])^2)
    di = dc g                 df = dc c[t - 1]              dg = dc i              dc[t - 1] = dc f

and, times the slopes i (1 - i), f (1 - f), 1 - g^2, o (1 - o), these are the gradients of the gates, which take their place.

*Walk*, where an argument has that name, is (steps, first, step, across): the step s of sequence n is row
first + s step + n across of x, whatever the layout of batches, and a negative step reads the sequence backwards.
*Place* is (offset, length): where the hidden state lies in a row of y, which two directions share.

Loops over units count in unsigned numbers and load before they store: a signed index is tested for being negative, which keeps
LLVM from vectorising (125 us for 16 rows of 256 units, 19 so).

A step is cut into blocks of rows and units; a block's product and what follows element by element are one task. Where each
thread has sequences of its own, a task goes through all steps.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from numba_nn.core.cuda.gemm import multiply_matrices, own_matrices
from numba_nn.core.cuda.planes import fetch_row, first_plane, next_plane, over_rows, place_of_window, put_row
from numba_nn.core.cuda.portable import fetch, put
from numba_nn.core.cuda.product import ADD, OVERWRITE
from numba_nn.core.cuda.ptx import WINDOW, cuda, device_function
from numba_nn.core.cuda.twin import cuda_helper, cuda_kernel
from numba_nn.core.kernel import PARALLEL_GRAIN, In, Out, Saved, Scratch, inlined, inner, kernel
from numba_nn.core.product.block import CACHED, block_span
from numba_nn.core.product.fma_tile import ROW_PANELS
from numba_nn.core.product.gemm import TASKS
from numba_nn.core.product.packing import pack_matrices
from numba_nn.core.product.stack import columns_in_place
from numba_nn.core.simd import tile_columns, tile_rows
from numba_nn.core.threads import team_size
from numba_nn.core.vmath import constant, sigmoid, tanh
from numba_nn.layers.recurrent.gates import (
    add_recurrent,
    begin_gates,
    multiply_gates,
    multiply_recurrent,
    one_matrix,
    recurrent_by_dots,
)

GATES = 4
BLOCK_ROWS = 128  # rows of a block, each of which goes over all weights: 100 in one take 0.94 of the time of three (Intel Xeon)
APART_ROWS, SHARED_WORK = 8, 16 * PARALLEL_GRAIN  # see `workers_apart`; SHARED_WORK: multiply-adds that are work for threads


def may_go_apart(batch: int, nbytes: int) -> bool:
    """Whether threads take sequences of their own, where there are two: see `workers_apart`."""
    return batch >= 2 * APART_ROWS and nbytes <= CACHED


@inner
def workers_apart(batch, weights, itemsize):
    """How many threads take sequences of their own through all steps, and wait for each other once; 0 if they share each step.

    That needs tiles with enough rows, and ``weights`` that the L2 cache of every core holds. Where there are more threads than
    have rows enough, and a step is work for them, all share it.
    """
    team, most = team_size(), batch // APART_ROWS
    shares = team > most and batch * weights >= SHARED_WORK
    return 0 if team == 1 or most < 2 or weights * itemsize > CACHED or shares else min(team, most)


@inner
def step_blocks(batch, hidden, height, width, apart):
    """Blocks of rows and of units that a step is cut into; panels of rows, how many rows each has, and panels of units.

    Four panels of units, or two where threads would have nothing to do: what follows element by element goes over them at once
    (50 steps of 32 rows and 128 units: 1.7 ms in place of 1.8 with two; 28 steps of 100 rows: 2.9 and 3.1 ms, Intel Xeon).
    ``apart``: by `workers_apart`.
    """
    row_blocks, unit_panels, team = -(-batch // BLOCK_ROWS), -(-hidden // width), team_size()
    if apart:
        return -(-row_blocks // apart) * apart, 1, batch, 1, unit_panels
    least = min(team, -(-unit_panels // ROW_PANELS)) if row_blocks == 1 else 1
    return row_blocks, min(TASKS, max(least, -(-unit_panels // (2 * ROW_PANELS)))), -(-batch // height), height, unit_panels


@inlined
def lstm_unit(in_gate, forget, cell, out, old_c):
    """One unit's step, from its gates before they are activated: the gates, c and tanh(c)."""
    i, f, g, o = sigmoid(in_gate), sigmoid(forget), tanh(cell), sigmoid(out)
    c = f * old_c + i * g
    return i, f, g, o, c, tanh(c)


@inner
def lstm_units(y, y_at, h, c, gates, before, cells, squashed, at, next_at, first, last):
    """Some units of one row: gates become their activations, c moves on a step; h goes into y and ``h`` from ``next_at`` on.

    Without room in ``cells`` no backward follows: nothing is kept for it.
    """
    at, y_at, next_at = np.uintp(at), np.uintp(y_at), np.uintp(next_at)
    for j in range(np.uintp(first), np.uintp(last if cells.size == 0 else first)):
        _, _, _, o, new_c, t = lstm_unit(gates[0, at + j], gates[1, at + j], gates[2, at + j], gates[3, at + j], c[j])
        new_h = o * t
        c[j], h[next_at + j], y[y_at + j] = new_c, new_h, new_h
    for j in range(np.uintp(first), np.uintp(last if cells.size > 0 else first)):
        old_c = c[j]
        i, f, g, o, new_c, t = lstm_unit(gates[0, at + j], gates[1, at + j], gates[2, at + j], gates[3, at + j], old_c)
        new_h = o * t
        gates[0, at + j], gates[1, at + j], gates[2, at + j], gates[3, at + j] = i, f, g, o
        cells[at + j], squashed[at + j] = old_c, t
        c[j], h[next_at + j], y[y_at + j] = new_c, new_h, new_h


@kernel
def lstm_forward(
    y: Out, h: Out, c: Out, gates: Saved, before: Saved, cells: Saved, squashed: Saved, x: In, weight_ih: In, bias_ih: In,
    bias_hh: In, weight: In, h0: In, c0: In, walk: tuple[int, int, int, int], place: tuple[int, int],
):  # fmt: skip
    """Every step from (h0, c0) to (h, c), each (N, H); gates, before, cells, squashed (tanh of c): of all steps.

    gates: `gates_forward` of x (B I,), or nothing yet if weight_ih (Q, ...) comes packed: then each step computes its own, as
    `Plan.takes_inputs` says. cells, squashed: empty if no backward follows; then gates are not their activations
    afterwards. weight: (Q, ...), weight_hh as it is if `recurrent_by_dots`, else packed.
    """
    steps, first, step, across = walk
    batch, hidden = h.shape
    height, width = tile_rows(gates), tile_columns(gates)
    by_dots, inputs = recurrent_by_dots(steps, batch, hidden), x.size * hidden // max(1, before.size)
    for n in prange(batch):
        for j in range(hidden):
            h[n, j], c[n, j] = h0[n, j], c0[n, j]
        at = np.uintp((first + n * across) * hidden)
        for j in range(np.uintp(hidden if steps > 0 else 0)):
            before[at + j] = h0[n, j]
    apart = workers_apart(batch, weight.size + weight_ih.size, weight.itemsize)
    row_blocks, unit_blocks, row_panels, panel, unit_panels = step_blocks(batch, hidden, height, width, apart)
    together = max(1, steps) if apart else 1  # steps between which threads do not meet
    for begin in range(0, steps, together):
        for task in prange(row_blocks * unit_blocks):
            start, rows = block_span(task // unit_blocks, row_blocks, row_panels, panel, batch)
            unit, units = block_span(task % unit_blocks, unit_blocks, unit_panels, width, hidden)
            for s in range(begin, begin + together):
                row = first + s * step + start * across
                if weight_ih.size:
                    begin_gates(gates, row, rows, across, unit, units, bias_ih, bias_hh, hidden)
                    multiply_gates(gates, row, rows, across, unit, units, x, inputs, hidden, weight_ih)
                add_recurrent(gates, row, rows, across, unit, units, before, weight, hidden, by_dots)
                for n in range(rows):
                    at = row + n * across
                    if s + 1 < steps:
                        target, next_at = before, (at + step) * hidden
                    else:
                        target, next_at = h.reshape(h.size), (start + n) * hidden
                    lstm_units(
                        y, at * place[1] + place[0], target, c[start + n], gates, before, cells, squashed, at * hidden,
                        next_at, unit, unit + units,
                    )  # fmt: skip


@inlined
def lstm_unit_backward(i, f, g, o, t, old_c, dh, dc):
    """One unit's step back: the gradients of the gates before they are activated, and dc; t: tanh(c)."""
    one = constant(i, 1)
    dc = dc + dh * o * (one - t * t)
    return dc * g * i * (one - i), dc * old_c * f * (one - f), dc * i * (one - g * g), dh * t * o * (one - o), dc * f


@inner
def lstm_units_backward(dh, dc, gates, cells, squashed, at, dy, y_at, first, last):
    """Some units of one row: gates become their gradients, dc moves back a step; dh is what comes from the next step."""
    at, y_at = np.uintp(at), np.uintp(y_at)
    for j in range(np.uintp(first), np.uintp(last)):
        i, f, g, o = gates[0, at + j], gates[1, at + j], gates[2, at + j], gates[3, at + j]
        t, old_c, new_dh = squashed[at + j], cells[at + j], dh[j] + dy[y_at + j]
        di, df, dg, do, old_dc = lstm_unit_backward(i, f, g, o, t, old_c, new_dh, dc[j])
        gates[0, at + j], gates[1, at + j], gates[2, at + j], gates[3, at + j] = di, df, dg, do
        dc[j] = old_dc


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
    in_place = columns_in_place(hidden, hidden, width, batch, gates.itemsize) if steps == 1 else 0
    pack_matrices(packed_weight, weight, (hidden, hidden), (1, hidden), width, in_place)
    for n in prange(batch):
        for j in range(hidden):
            dh[n, j], dc[n, j] = dh_last[n, j], dc_last[n, j]
    apart = workers_apart(batch, weight.size, weight.itemsize)
    row_blocks, unit_blocks, row_panels, panel, unit_panels = step_blocks(batch, hidden, height, width, apart)
    together = steps + 1 if apart else 1  # with the step before the first, in which dh goes through the weights only
    for begin in range(steps - 1, -2, -together):
        for task in prange(row_blocks * unit_blocks):
            start, rows = block_span(task // unit_blocks, row_blocks, row_panels, panel, batch)
            unit, units = block_span(task % unit_blocks, unit_blocks, unit_panels, width, hidden)
            for s in range(begin, begin - together, -1):
                row = first + s * step + start * across
                if s + 1 < steps:
                    multiply_recurrent(dh, start, rows, unit, units, gates, row + step, across, weight, in_place, packed_weight)
                for n in range(rows if s >= 0 else 0):
                    at = row + n * across
                    lstm_units_backward(
                        dh[start + n], dc[start + n], gates, cells, squashed, at * hidden, dy, at * place[1] + place[0],
                        unit, unit + units,
                    )  # fmt: skip


# ---- on a GPU: a product and a kernel for each step -----------------------------------------------------------------------


@lstm_forward.on_cuda(steps=True)
def lstm_forward(
    y: Out, h: Out, c: Out, gates: Saved, before: Saved, cells: Saved, squashed: Saved, x: In, weight_ih: In, bias_ih: In,
    bias_hh: In, weight: In, h0: In, c0: In, walk: tuple[int, int, int, int], place: tuple[int, int],
):  # fmt: skip
    """The product of a step adds to its rows of the gates, which have all but that; weight: as it is."""
    steps, first, step, across = walk
    batch, hidden = h.shape
    take_states(h, c, h0, c0)
    if steps:
        begin_step(before, h0, first, across)
    flat, every, size = gates.reshape(-1), gates.shape[1], (batch, hidden, hidden)
    for s in range(steps):
        row = first + s * step
        multiply_matrices(
            flat[row * hidden :], before[row * hidden :], weight, one_matrix(GATES), own_matrices(GATES), size,
            (across * hidden, 1), (1, hidden), ADD, c_strides=(every, across * hidden),
        )  # fmt: skip
        lstm_step(h, c, y, gates, before, cells, squashed, row, row + step if s + 1 < steps else -1, across, *place)


@cuda_kernel(grid=over_rows)
def take_states(h: Out, c: Out, h0: In, c0: In):
    """h = h0, c = c0; as in all kernels here, a thread has four units of a row."""
    at, n, hidden = place_of_window(), first_plane(), np.uint32(h.shape[1])
    first, second = cuda.local.array(WINDOW, h.dtype), cuda.local.array(WINDOW, c.dtype)
    while at < hidden and n < np.uint32(h.shape[0]):
        fetch(first, h0[n], at)
        fetch(second, c0[n], at)
        put(h[n], at, first, hidden)
        put(c[n], at, second, hidden)
        n = next_plane(n)


@cuda_kernel(grid=lambda before, h0, *_: over_rows(h0))
def begin_step(before: Out, h0: In, row: int, across: int):
    """What the step begins with whose rows start with ``row``."""
    at, n, hidden, window = place_of_window(), first_plane(), np.uint32(h0.shape[1]), cuda.local.array(WINDOW, h0.dtype)
    while at < hidden and n < np.uint32(h0.shape[0]):
        fetch(window, h0[n], at)
        put_row(before, row_of_step(row, n, across) * hidden, hidden, at, window)
        n = next_plane(n)


@cuda_helper
def row_of_step(row, n, across):
    """The row of sequence n in a step whose rows start with ``row``."""
    return np.uint32(np.uint32(row) + n * np.uint32(across))


@device_function
def fetch_gates(i, f, g, o, gates, start, hidden, at):
    """A window of each gate, of the row whose units are the elements from ``start`` on."""
    every = np.uint32(gates.shape[1])
    fetch_row(i, gates, start, hidden, at)
    fetch_row(f, gates, every + start, hidden, at)
    fetch_row(g, gates, np.uint32(2) * every + start, hidden, at)
    fetch_row(o, gates, np.uint32(3) * every + start, hidden, at)


@device_function
def put_gates(gates, start, hidden, at, i, f, g, o):
    """Write what `fetch_gates` would read."""
    every = np.uint32(gates.shape[1])
    put_row(gates, start, hidden, at, i)
    put_row(gates, every + start, hidden, at, f)
    put_row(gates, np.uint32(2) * every + start, hidden, at, g)
    put_row(gates, np.uint32(3) * every + start, hidden, at, o)


@cuda_kernel(grid=over_rows)
def lstm_step(
    h: Out, c: Out, y: Out, gates: Saved, before: Saved, cells: Saved, squashed: Saved, row: int, following: int, across: int,
    offset: int, length: int,
):  # fmt: skip
    """`lstm_units` of one step; the next step's rows start with ``following``."""
    i, f = cuda.local.array(WINDOW, gates.dtype), cuda.local.array(WINDOW, gates.dtype)
    g, o = cuda.local.array(WINDOW, gates.dtype), cuda.local.array(WINDOW, gates.dtype)
    old_c, new_c = cuda.local.array(WINDOW, c.dtype), cuda.local.array(WINDOW, c.dtype)
    t, new_h = cuda.local.array(WINDOW, c.dtype), cuda.local.array(WINDOW, h.dtype)
    at, n, hidden = place_of_window(), first_plane(), np.uint32(h.shape[1])
    while at < hidden and n < np.uint32(h.shape[0]):
        line = row_of_step(row, n, across)
        fetch_gates(i, f, g, o, gates, line * hidden, hidden, at)
        fetch(old_c, c[n], at)
        for lane in range(WINDOW):
            i[lane], f[lane], g[lane], o[lane], new_c[lane], t[lane] = lstm_unit(
                i[lane], f[lane], g[lane], o[lane], old_c[lane]
            )
            new_h[lane] = o[lane] * t[lane]
        if cells.size > 0:
            put_gates(gates, line * hidden, hidden, at, i, f, g, o)
            put_row(cells, line * hidden, hidden, at, old_c)
            put_row(squashed, line * hidden, hidden, at, t)
        put(c[n], at, new_c, hidden)
        put_row(y, line * np.uint32(length) + np.uint32(offset), hidden, at, new_h)
        if following >= 0:
            put_row(before, row_of_step(following, n, across) * hidden, hidden, at, new_h)
        else:
            put(h[n], at, new_h, hidden)
        n = next_plane(n)


@lstm_backward.on_cuda(steps=True)
def lstm_backward(
    dh: Out, dc: Out, gates: Saved, cells: Saved, squashed: Saved, packed_weight: Scratch,
    dy: In, weight: In, dh_last: In, dc_last: In, walk: tuple[int, int, int, int], place: tuple[int, int],
):  # fmt: skip
    """Products take dh back through the weights of the step behind, one for each gate; a kernel goes through the step."""
    steps, first, step, across = walk
    batch, hidden = dh.shape
    take_states(dh, dc, dh_last, dc_last)
    for s in range(steps - 1, -1, -1):
        lstm_step_backward(dh, dc, gates, cells, squashed, dy, first + s * step, across, *place)
        for q in range(GATES):
            multiply_matrices(
                dh, gates[q, (first + s * step) * hidden :], weight[q], one_matrix(1), one_matrix(1), (batch, hidden, hidden),
                (across * hidden, 1), (hidden, 1), ADD if q else OVERWRITE, partial=packed_weight,
            )  # fmt: skip


@cuda_kernel(grid=over_rows)
def lstm_step_backward(
    dh: Out, dc: Out, gates: Saved, cells: Saved, squashed: Saved, dy: In, row: int, across: int, offset: int, length: int
):
    """`lstm_units_backward` of one step."""
    i, f = cuda.local.array(WINDOW, gates.dtype), cuda.local.array(WINDOW, gates.dtype)
    g, o = cuda.local.array(WINDOW, gates.dtype), cuda.local.array(WINDOW, gates.dtype)
    t, old_c = cuda.local.array(WINDOW, squashed.dtype), cuda.local.array(WINDOW, cells.dtype)
    from_next, from_y = cuda.local.array(WINDOW, dh.dtype), cuda.local.array(WINDOW, dy.dtype)
    from_c = cuda.local.array(WINDOW, dc.dtype)
    at, n, hidden = place_of_window(), first_plane(), np.uint32(dh.shape[1])
    while at < hidden and n < np.uint32(dh.shape[0]):
        line = row_of_step(row, n, across)
        fetch_gates(i, f, g, o, gates, line * hidden, hidden, at)
        fetch_row(t, squashed, line * hidden, hidden, at)
        fetch_row(old_c, cells, line * hidden, hidden, at)
        fetch(from_next, dh[n], at)
        fetch_row(from_y, dy, line * np.uint32(length) + np.uint32(offset), hidden, at)
        fetch(from_c, dc[n], at)
        for lane in range(WINDOW):
            i[lane], f[lane], g[lane], o[lane], from_c[lane] = lstm_unit_backward(
                i[lane], f[lane], g[lane], o[lane], t[lane], old_c[lane], from_next[lane] + from_y[lane], from_c[lane]
            )
        put_gates(gates, line * hidden, hidden, at, i, f, g, o)
        put(dc[n], at, from_c, hidden)
        n = next_plane(n)

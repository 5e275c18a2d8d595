"""What recurrent layers of every kind share: the products of whole sequences, in which no step waits for another, and a step's.

    gates[q] = x weight_ih[q]^T + bias_ih[q] + bias_hh[q]          before the first step, or with each
    dx = sum_q dgates[q] weight_ih[q]                              after the last
    dweight_ih[q] += dgates[q]^T x        dweight_hh[q] += dgates[q]^T before        dbias[q] += sum over rows of dgates[q]

Q gates, each a matrix of its own: gates (Q, B H), weights (Q, H I) and (Q, H H), biases (Q H,). L steps of a batch of N make B
rows, in the order of x; I inputs, H hidden units; ``before`` holds the hidden state that each row's step began with.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.cuda.gemm import multiply_matrices, own_matrices
from numba_nn.core.cuda.planes import PlaneGrid, fetch_row, first_plane, next_plane, place_of_window, plane_grid, put_row, split
from numba_nn.core.cuda.product import ADD, OVERWRITE
from numba_nn.core.cuda.ptx import WINDOW, cuda
from numba_nn.core.cuda.slices import partial_size
from numba_nn.core.device import CUDA
from numba_nn.core.kernel import In, Out, Scratch, inner, kernel
from numba_nn.core.product.block import multiply_block, multiply_columns
from numba_nn.core.product.dot import dot_block
from numba_nn.core.product.gemm import DOT_DEPTH, gemm, packed_sizes
from numba_nn.core.product.packing import panel_sizes
from numba_nn.core.product.stack import multiply_packed
from numba_nn.core.simd import tile_columns, tile_rows
from numba_nn.layers.linear import BIAS_ROWS, linear_backward_bias

DOT_ROWS = 64  # see `recurrent_by_dots`
SHARED = np.zeros(4, np.int64)
"""Every gate takes the one matrix there is."""
EACH = np.arange(4)
"""Every gate takes a matrix of its own."""


@kernel
def gates_forward(
    gates: Out, packed_x: Scratch, packed_weight: Scratch, x: In, weight: In, bias_ih: In, bias_hh: In, shared: In, each: In
):
    """gates[q] = x weight[q]^T + bias_ih[q] + bias_hh[q]; x: (1, B I)."""
    hidden = bias_ih.size // gates.shape[0]
    rows, inputs = gates.shape[1] // hidden, weight.shape[1] // hidden
    gemm(gates, packed_x, packed_weight, x, weight, shared, each, (rows, hidden, inputs), (inputs, 1), (1, inputs), 0)
    gates_add_biases(gates, bias_ih, bias_hh)


@kernel
def gates_forward_packed(gates: Out, packed_x: Scratch, x: In, panels: In, bias_ih: In, bias_hh: In, shared: In, each: In):
    """`gates_forward` where the weights are packed before, by `pack_columns`; panels: (Q, ...)."""
    hidden = bias_ih.size // gates.shape[0]
    rows = gates.shape[1] // hidden
    inputs = x.size // rows
    multiply_packed(gates, packed_x, x, panels, shared, each, (rows, hidden, inputs), (inputs, 1))
    gates_add_biases(gates, bias_ih, bias_hh)


@kernel
def gates_add_biases(gates: Out, bias_ih: In, bias_hh: In):
    """gates[q] += bias_ih[q] + bias_hh[q]."""
    count = gates.shape[0]
    hidden = bias_ih.size // count
    rows = gates.shape[1] // hidden
    for t in prange(count * rows):
        q, at = np.uintp(t // rows), np.uintp(t % rows * hidden)
        first = q * np.uintp(hidden)
        for j in range(np.uintp(hidden)):  # unsigned, or else LLVM does not vectorise: 600 us in place of 100 for 512 x 1024
            gates[q, at + j] += bias_ih[first + j] + bias_hh[first + j]


@kernel
def gates_backward_input(
    dx: Out, packed_dgates: Scratch, packed_weight: Scratch, dgates: In, weight: In, single: In, hidden: int, accumulate: int
):
    """dx = sum_q dgates[q] weight[q], added to what dx holds if ``accumulate``; dx: (1, B I)."""
    rows, inputs = dgates.shape[1] // hidden, weight.shape[1] // hidden
    for q in range(dgates.shape[0]):
        gemm(
            dx, packed_dgates, packed_weight, dgates[q : q + 1], weight[q : q + 1], single, single,
            (rows, inputs, hidden), (hidden, 1), (inputs, 1), max(accumulate, q),
        )  # fmt: skip


@kernel
def gates_backward_weight(
    dweight: Out, packed_dgates: Scratch, packed_x: Scratch, x: In, dgates: In, each: In, shared: In, hidden: int
):
    """dweight[q] += dgates[q]^T x; x: (1, B I), or the hidden states (1, B H) for dweight_hh."""
    rows, inputs = dgates.shape[1] // hidden, dweight.shape[1] // hidden
    gemm(dweight, packed_dgates, packed_x, dgates, x, each, shared, (hidden, inputs, rows), (1, hidden), (inputs, 1), 1)


@kernel
def gates_backward_bias(dbias: Out, partial: Scratch, dgates: In):
    """dbias[q] += sum over rows of dgates[q]."""
    count = dgates.shape[0]
    hidden = dbias.size // count
    for q in range(count):
        linear_backward_bias(dbias[q * hidden : (q + 1) * hidden], partial, dgates[q : q + 1])


# ---- on a GPU: nothing is packed, and partial sums go where weights would be -----------------------------------------------


@functools.cache
def one_matrix(count: int) -> Any:
    """Zeros, on the device: every product takes the one matrix there is."""
    return CUDA.from_host(np.zeros(count, np.int64))


@gates_forward.on_cuda(steps=True)
def gates_forward(
    gates: Out, packed_x: Scratch, packed_weight: Scratch, x: In, weight: In, bias_ih: In, bias_hh: In, shared: In, each: In
):
    """A product for each gate, and the biases."""
    count = gates.shape[0]
    hidden = bias_ih.size // count
    size = gates.shape[1] // hidden, hidden, weight.shape[1] // hidden
    multiply_matrices(
        gates, x, weight, one_matrix(count), own_matrices(count), size, (size[2], 1), (1, size[2]), partial=packed_weight
    )
    gates_add_biases.cuda(gates, bias_ih, bias_hh)


def over_units(gates: Any, bias_ih: Any, bias_hh: Any) -> PlaneGrid:
    """`over_rows` of the rows of all gates."""
    hidden = bias_ih.size // gates.shape[0]
    return plane_grid(gates.size // hidden, -(-hidden // WINDOW))


@gates_add_biases.on_cuda(grid=over_units)
def gates_add_biases(gates: Out, bias_ih: In, bias_hh: In):
    """A thread has four units."""
    at, r, hidden = place_of_window(), first_plane(), np.uint32(np.uint32(bias_ih.size) // np.uint32(gates.shape[0]))
    window, first = cuda.local.array(WINDOW, gates.dtype), cuda.local.array(WINDOW, bias_ih.dtype)
    second = cuda.local.array(WINDOW, bias_hh.dtype)
    while at < hidden and r * hidden < np.uint32(gates.size):
        q, _ = split(r * hidden, gates.shape[1])
        fetch_row(window, gates, r * hidden, hidden, at)
        fetch_row(first, bias_ih, q * hidden, hidden, at)
        fetch_row(second, bias_hh, q * hidden, hidden, at)
        for lane in range(WINDOW):
            window[lane] += first[lane] + second[lane]
        put_row(gates, r * hidden, hidden, at, window)
        r = next_plane(r)


@gates_backward_input.on_cuda(steps=True)
def gates_backward_input(
    dx: Out, packed_dgates: Scratch, packed_weight: Scratch, dgates: In, weight: In, single: In, hidden: int, accumulate: int
):
    """A product for each gate, one after the other."""
    one = own_matrices(1)
    size = dgates.shape[1] // hidden, weight.shape[1] // hidden, hidden
    for q in range(dgates.shape[0]):
        finish = ADD if accumulate or q else OVERWRITE
        multiply_matrices(dx, dgates[q], weight[q], one, one, size, (hidden, 1), (size[1], 1), finish, partial=packed_weight)


@gates_backward_weight.on_cuda(steps=True)
def gates_backward_weight(
    dweight: Out, packed_dgates: Scratch, packed_x: Scratch, x: In, dgates: In, each: In, shared: In, hidden: int
):
    """A product for each gate, added."""
    count = dgates.shape[0]
    size = hidden, dweight.shape[1] // hidden, dgates.shape[1] // hidden
    multiply_matrices(
        dweight, dgates, x, own_matrices(count), one_matrix(count), size, (1, hidden), (size[1], 1), ADD, partial=packed_x
    )


@gates_backward_bias.on_cuda(steps=True)
def gates_backward_bias(dbias: Out, partial: Scratch, dgates: In):
    """Gate by gate."""
    hidden = dbias.size // dgates.shape[0]
    for q in range(dgates.shape[0]):
        linear_backward_bias.cuda(dbias[q * hidden : (q + 1) * hidden], partial, dgates[q].reshape(-1, hidden))


def sums_room(rows: int, batch: int, inputs: int, hidden: int, gates: int) -> tuple[int, int]:
    """Elements of the sums of blocks of rows, and of a product's partial sums, on a GPU; see `packed_room`."""
    products = [(rows, hidden, inputs, gates), (rows, inputs, hidden, 1), (hidden, inputs, rows, gates)]
    products += [(hidden, hidden, rows, gates), (batch, hidden, hidden, 1)]
    return -(-rows // BIAS_ROWS) * hidden, max(partial_size(*sizes) for sizes in products)


# ---- the steps' products, on the CPU ---------------------------------------------------------------------------------------


@inner
def recurrent_by_dots(steps, batch, hidden):
    """Whether weight_hh is better read as it is, by dot products, than packed before the first step, for so few rows."""
    return batch == 1 or (steps * batch <= DOT_ROWS and batch * DOT_DEPTH <= hidden)


@inner
def add_recurrent(gates, row, rows, across, unit, units, before, weight, hidden, by_dots):
    """gates[q] += before weight_hh[q]^T for some units, in ``rows`` rows from ``row`` on, ``across`` apart.

    weight: (Q, ...), as it is if ``by_dots``, else packed.
    """
    if not by_dots:
        multiply_gates(gates, row, rows, across, unit, units, before, hidden, hidden, weight)
        return
    at, stride = row * hidden, across * hidden
    for q in range(gates.shape[0]):
        dot_block(
            gates[q], at + unit, stride, 1, rows, units, True,
            before, at, stride, weight[q], unit * hidden, hidden, hidden,
        )  # fmt: skip


@inner
def multiply_gates(gates, row, rows, across, unit, units, source, depth, hidden, weight):
    """gates[q] += source weight[q]^T, as `add_recurrent` with packed weights; source: flat, ``depth`` numbers in a row."""
    height, width = tile_rows(gates), tile_columns(gates)
    stride = across * depth
    for q in range(gates.shape[0]):
        multiply_block(
            gates[q], row * hidden + unit, across * hidden, rows, units, True, source, row * depth,
            (height * stride, stride, 1), weight[q], unit * depth, (width * depth, width), depth,
        )  # fmt: skip


@inner
def begin_gates(gates, row, rows, across, unit, units, bias_ih, bias_hh, hidden):
    """gates[q] = bias_ih[q] + bias_hh[q] for some units, in rows as of `add_recurrent`."""
    for q in range(gates.shape[0]):
        bias = np.uintp(q * hidden + unit)
        for n in range(rows):
            at = np.uintp((row + n * across) * hidden + unit)
            for j in range(np.uintp(units)):
                gates[q, at + j] = bias_ih[bias + j] + bias_hh[bias + j]


@inner
def multiply_recurrent(dh, first, rows, unit, units, dgates, row, across, weight, in_place, packed_weight):
    """dh = sum_q dgates[q] weight_hh[q] for some units, in ``rows`` rows: from ``first`` on in dh, ``row`` on in dgates."""
    hidden = dh.shape[1]
    flat, stride, height = dh.reshape(dh.size), across * hidden, tile_rows(dh)
    rest = -(-(hidden - in_place) // tile_columns(dh)) * tile_columns(dh) * hidden
    for q in range(dgates.shape[0]):
        multiply_columns(
            flat, first * hidden, hidden, rows, unit, units, q > 0, dgates[q], row * hidden, (height * stride, stride, 1),
            weight[q], hidden, in_place, packed_weight, q * rest, hidden,
        )  # fmt: skip


def packed_room(rows: int, inputs: int, hidden: int, gates: int, dtype: Any) -> tuple[int, int]:
    """Elements of room for operands that are packed, left and right, and for partial sums of dbias."""
    rooms = (
        packed_sizes(rows, hidden, inputs, dtype, 1, gates),  # gates of the inputs
        (0, gates * (panel_sizes(1, hidden, inputs, dtype)[1] + panel_sizes(1, hidden, hidden, dtype)[1])),  # weights
        packed_sizes(rows, inputs, hidden, dtype),  # dx, a gate at a time
        packed_sizes(hidden, inputs, rows, dtype, gates, 1),  # dweight_ih
        packed_sizes(hidden, hidden, rows, dtype, gates, 1),  # dweight_hh
        (-(-rows // BIAS_ROWS) * hidden, 0),  # dbias
    )
    lefts, rights = zip(*rooms, strict=True)
    return max(lefts), max(rights)

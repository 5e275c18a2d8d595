"""`Direction`: the weights with which one layer of a recurrent network goes through a sequence one way, and what uses them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from numba_nn.core.call import Array, Arrays
from numba_nn.core.cuda.cast import weight_as, weight_room
from numba_nn.core.device import CPU
from numba_nn.core.epilogue import neutral_terms
from numba_nn.core.kernel import PARALLEL_GRAIN, REGION_GRAIN
from numba_nn.core.parameter import Parameter
from numba_nn.core.product.block import CACHED
from numba_nn.core.product.gemm import SINGLE, packing_pays, product_work
from numba_nn.core.product.packing import pack_columns, panel_sizes
from numba_nn.core.workspace import Shape, Spec
from numba_nn.layers.recurrent.gates import (
    EACH,
    SHARED,
    gates_backward_bias,
    gates_backward_input,
    gates_backward_weight,
    gates_forward,
    gates_forward_packed,
    recurrent_by_dots,
)
from numba_nn.layers.recurrent.lstm_steps import GATES, lstm_backward, lstm_forward, may_go_apart

WEIGHTS = "weight_ih", "weight_hh"


@functools.cache
def no_weights(dtype: Any) -> Array:
    """What steps get as weights of the inputs where all inputs were multiplied before, as they always are on a GPU."""
    return np.empty((GATES, 0), dtype)


@dataclass(frozen=True)
class Walk:
    """How rows are walked, step s of sequence n being row first + s step + n across, and the shape of states on the way."""

    steps: int
    batch: int
    step: int
    across: int
    state_shape: Shape

    @property
    def rows(self) -> int:
        """Rows in all."""
        return self.steps * self.batch

    def numbers(self, reverse: bool) -> tuple[int, int, int, int]:
        """Steps, first, step and across, as kernels take them; from the last step on if ``reverse``."""
        if reverse:
            return self.steps, (self.steps - 1) * self.step, -self.step, self.across
        return self.steps, 0, self.step, self.across


class Plan(NamedTuple):
    """What a `Direction` derives from how rows are walked, once; works are for `Kernel.for_work`."""

    walk: Walk
    numbers: tuple[int, int, int, int]
    """Of the walk, the direction's way."""
    takes_inputs: bool
    """Whether each step multiplies its own inputs."""
    packs: tuple[bool, bool]
    """Whether weights of inputs, and of states, are read from panels."""
    forward_work: float
    backward_work: float
    input_work: float


class Direction:
    """One direction of one LSTM layer.

    Parameters
    ----------
    suffix : str
        End of its parameters' names: "_l0", "_l0_reverse".
    weight_ih, weight_hh : Parameter
        (4 H, I) and (4 H, H).
    bias_ih, bias_hh : Parameter or None
        (4 H,).
    reverse : bool
        Whether it begins at the last step.
    """

    def __init__(
        self, suffix: str, weight_ih: Parameter, weight_hh: Parameter, bias_ih: Parameter | None, bias_hh: Parameter | None,
        reverse: bool,
    ) -> None:  # fmt: skip
        self.suffix = suffix
        self.weights = weight_ih, weight_hh
        self.biases = bias_ih, bias_hh
        self.reverse = reverse
        self.hidden, self.inputs = weight_hh.value.shape[1], weight_ih.value.shape[1]

    def saved_spec(self, rows: int, dtype: Any, kept: bool) -> dict[str, Spec]:
        """Gates, of every step the state that it began with and tanh(c), and weights rounded to the dtype.

        What only a backward reads has no elements unless it is ``kept`` for one.
        """
        size = rows * self.hidden
        for_backward = (size if kept else 0,)
        arrays = {"gates": (GATES, size), "before": (size,), "cells": for_backward, "squashed": for_backward}
        specs = {name: (shape, dtype) for name, shape in arrays.items()}
        specs |= {name: weight_room(w.value.shape, dtype) for name, w in zip(WEIGHTS, self.weights, strict=True)}
        return {name + self.suffix: spec for name, spec in specs.items()}

    def _saved(self, saved: Arrays) -> list[Array]:
        return [saved[name + self.suffix] for name in ("gates", "before", "cells", "squashed")]

    # ---- plans -------------------------------------------------------------------------------------------------------

    def plan(self, walk: Walk) -> Plan:
        """The plan for a walk, on the device where the weights live."""
        on_cpu, dtype = self.weights[0].device is CPU, self.weights[0].memory.dtype
        packs = (
            on_cpu and packing_pays(walk.rows, self.hidden, self.inputs, dtype),
            on_cpu and not recurrent_by_dots.py_func(walk.steps, walk.batch, self.hidden),
        )
        takes = walk.steps > 1 and all(packs) and self._step_takes_inputs(walk)
        return Plan(
            walk, walk.numbers(self.reverse), takes, packs, self._walk_work(walk, self.inputs if takes else 0),
            self._walk_work(walk), product_work(walk.rows, GATES * self.hidden, self.inputs),
        )  # fmt: skip

    def _step_takes_inputs(self, walk: Walk) -> bool:
        """Whether steps do well to multiply their own inputs: weights stay in an L2 cache, and a step is work for threads.

        Gates then need not come back from memory: 50 steps of 32 rows, 64 inputs to 128 units, take 0.91 to 0.96 of the time on
        an Intel Xeon.
        """
        nbytes = self.weights[0].value.nbytes + self.weights[1].value.nbytes
        return nbytes <= CACHED and self._step_work(walk, self.inputs) >= PARALLEL_GRAIN

    def _step_work(self, walk: Walk, inputs: int) -> float:
        return product_work(walk.batch, GATES * self.hidden, inputs + self.hidden, packed=False)

    def _walk_work(self, walk: Walk, inputs: int = 0) -> float:
        """That of a step, but of all steps where threads need not wait for each other in each.

        Yet one thread gains nothing by its being parallel.
        """
        step, dtype = self._step_work(walk, inputs), self.weights[1].memory.dtype
        nbytes = GATES * panel_sizes(1, self.hidden, inputs + self.hidden, dtype)[1] * dtype.itemsize
        return max(step, min(walk.steps * step, REGION_GRAIN - 1)) if may_go_apart(walk.batch, nbytes) else step

    # ---- passes ------------------------------------------------------------------------------------------------------

    def forward(
        self, y: Array, h: Array, c: Array, saved: Arrays, packed: Any, x: Array, h0: Array, c0: Array, plan: Plan, place: Any
    ) -> None:
        """Write the outputs into their place in y, and the final state (h, c), each (N, H)."""
        gates, *others = self._saved(saved)
        device, dtype, right = self.weights[0].device, x.dtype, packed[1]
        biases = [bias.memory if bias else neutral_terms(GATES * self.hidden, dtype, device)[1] for bias in self.biases]
        if plan.takes_inputs:
            weight_ih = self._panels(0, right)
            right = right[weight_ih.size :]
        else:
            weight_ih = no_weights(dtype)
            self._multiply_inputs(gates, saved, packed, x, biases, plan)
        weight = self._panels(1, right) if plan.packs[1] else self._stack(1, saved)
        run = lstm_forward.for_work(plan.forward_work, device)
        run(y.reshape(-1), h, c, gates, *others, x.reshape(-1), weight_ih, *biases, weight, h0, c0, plan.numbers, place)

    def _multiply_inputs(self, gates: Array, saved: Arrays, packed: Any, x: Array, biases: list[Array], plan: Plan) -> None:
        """What the gates have of the inputs, of all steps at once."""
        left, right = packed
        if plan.packs[0] and self.weights[0].locked:
            run = gates_forward_packed.for_work(plan.input_work)
            run(gates, left, x.reshape(1, -1), self._panels(0, right), *biases, SHARED, EACH)
        else:
            run = gates_forward.for_work(plan.input_work, self.weights[0].device)
            run(gates, left, right, x.reshape(1, -1), self._stack(0, saved), *biases, SHARED, EACH)

    def pack(self, plan: Plan, packed: Any) -> None:
        """Have what forwards of so many rows, and fewer, read of locked weights; packed: room as in `forward`."""
        for which, packs in enumerate(plan.packs):
            if packs and self.weights[which].locked:
                self._panels(which, packed[1])

    def _stack(self, which: int, saved: Arrays) -> Array:
        """Weights of the inputs, or of the states, as a matrix for each gate."""
        return weight_as(self.weights[which], saved[WEIGHTS[which] + self.suffix]).reshape(GATES, -1)

    def _panels(self, which: int, room: Array) -> Array:
        """`_stack`, packed."""
        weight = self.weights[which]
        made = weight.kept("gates") if weight.locked else None
        if made is not None:
            return made
        depth = weight.memory.shape[1]
        size = GATES * panel_sizes(1, self.hidden, depth, weight.memory.dtype)[1]
        return weight.packed("gates", room[:size].reshape(GATES, -1), self._pack)

    def _pack(self, panels: Array, weight: Array) -> None:
        pack_columns(panels.reshape(-1), weight.reshape(GATES, -1), self.hidden, weight.shape[1])

    def backward(
        self, dh: Array, dc: Array, saved: Arrays, packed: Any, dy: Array, x: Array, dh_last: Array, dc_last: Array,
        plan: Plan, place: Any,
    ) -> None:  # fmt: skip
        """Write (dh, dc), the gradient of the initial state, and add to those of the parameters; gates: their gradients."""
        gates, before, *others = self._saved(saved)
        weight = self._stack(1, saved)
        device = self.weights[0].device
        run = lstm_backward.for_work(plan.backward_work, device)
        run(dh, dc, gates, *others, packed[1], dy.reshape(-1), weight, dh_last, dc_last, plan.numbers, place)
        for parameter, left in zip(self.weights, (x, before), strict=True):
            if parameter.requires_grad:
                run = gates_backward_weight.for_work(product_work(plan.walk.rows, *parameter.value.shape), device)
                grad = parameter.grad.reshape(GATES, -1)
                run(grad, *packed, left.reshape(1, -1), gates, EACH, SHARED, self.hidden)
        for bias in self.biases:
            if bias and bias.requires_grad:
                gates_backward_bias.for_work(gates.size, device)(bias.grad, packed[0], gates)

    def backward_input(self, dx: Array, saved: Arrays, packed: Any, plan: Plan, accumulate: bool) -> None:
        """Write the gradient of x, added to what dx holds if ``accumulate``; after `backward`."""
        gates = self._saved(saved)[0]
        run = gates_backward_input.for_work(plan.input_work, self.weights[0].device)
        weight = self._stack(0, saved)
        run(dx.reshape(1, -1), *packed, gates, weight, SINGLE, self.hidden, int(accumulate))

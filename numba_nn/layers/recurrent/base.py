"""What `LSTM` and `LSTMCell` share: layers of directions, and state beside input and output."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.checks import check_array, check_count, check_dtype, check_fits, check_flag, check_shape
from numba_nn.core.cuda.cast import copy_forward
from numba_nn.core.cuda.narrow import is_narrow, wide
from numba_nn.core.device import CPU
from numba_nn.core.epilogue import NOTHING, Epilogue
from numba_nn.core.errors import ArgumentError
from numba_nn.core.layer import Layer
from numba_nn.core.parameter import Parameter
from numba_nn.core.random import MaskStream, uniform
from numba_nn.core.workspace import Shape, Spec
from numba_nn.layers.dropout import WORK, drop_elements, mask_terms
from numba_nn.layers.recurrent.direction import Direction, Plan, Walk
from numba_nn.layers.recurrent.gates import packed_room, sums_room
from numba_nn.layers.recurrent.lstm_steps import GATES


class Geometry(NamedTuple):
    """What follows from an input's shape."""

    state_shape: Shape
    """Of h, and of c, as callers give them."""
    plans: list[list[Plan]]
    """For each direction of each layer."""


Pair = tuple[Array, Array]
SomePair = tuple[Array | None, Array | None]


class LSTMBase(Layer):
    """Base: makes the parameters, checks states, and runs the layers, each of one direction or two, over a sequence.

    A subclass says how its input is walked and which shape its states have, in `_walk`.
    """

    keeps_input = True

    def __init__(self, input_size: int, hidden_size: int, bias: bool, dtype: Any) -> None:
        super().__init__()
        name = type(self).__name__
        self.input_size = check_count(name, "input_size", input_size)
        self.hidden_size = check_count(name, "hidden_size", hidden_size)
        self.bias = check_flag(name, "bias", bias)
        self.dtype = check_dtype(name, dtype)
        self._stack: list[list[Direction]] = []
        self.dropout = 0.0
        self._derive()

    def _derive(self) -> None:
        self._masks = MaskStream(self.device)

    def _direction(self, suffix: str, inputs: int, reverse: bool = False) -> Direction:
        """The parameters of a direction, as attributes of this layer under PyTorch's names."""
        rows, bound = GATES * self.hidden_size, 1 / math.sqrt(self.hidden_size)
        shapes = {"weight_ih": (rows, inputs), "weight_hh": (rows, self.hidden_size), "bias_ih": (rows,), "bias_hh": (rows,)}
        made: dict[str, Any] = {}
        for name, shape in shapes.items():
            wanted = self.bias or name.startswith("weight")
            made[name] = Parameter(uniform(shape, -bound, bound, self.dtype), name + suffix) if wanted else None
            setattr(self, name + suffix, made[name])
        return Direction(suffix, **made, reverse=reverse)

    def _walk(self, x_shape: Shape) -> Walk:
        raise NotImplementedError

    @property
    def _directions(self) -> int:
        return len(self._stack[0])

    def _geometry(self, x_shape: Shape, dtype: Any) -> Geometry:
        walk = self._walk(x_shape)
        return Geometry(walk.state_shape, [[direction.plan(walk) for direction in layer] for layer in self._stack])

    def saved_spec(self, x_shape: Shape, dtype: Any) -> dict[str, Spec]:
        """What each direction keeps, the input of every layer but the first, and its dropout mask as `Dropout` keeps it."""
        return self._spec(x_shape, dtype, kept=True)

    def inference_spec(self, x_shape: Shape, dtype: Any) -> dict[str, Spec]:
        """`saved_spec` without what only a backward reads."""
        return self._spec(x_shape, dtype, kept=False)

    def _spec(self, x_shape: Shape, dtype: Any, kept: bool) -> dict[str, Spec]:
        rows = self._walk(x_shape).rows
        specs: dict[str, Spec] = {}
        for index, layer in enumerate(self._stack):
            if index:
                specs[f"x{index}"] = ((rows, layer[0].inputs), dtype)
            for direction in layer:
                specs |= direction.saved_spec(rows, dtype, kept)
        if self.dropout:
            specs["draws"] = ((len(self._stack), 2), np.dtype(np.int64))
        return specs

    def scratch_spec(self, x_shape: Shape, dtype: Any) -> dict[str, Spec]:
        """Packed operands, a state of zeros, states and gradients nobody asked for, and what goes from layer to layer.

        A cell state, and its gradient, is a sum over steps: where it is handed out in 16 bits, ``cell`` holds it on the way.
        """
        walk, hidden = self._walk(x_shape), self.hidden_size
        sizes = [(layer[0].inputs, hidden, GATES) for layer in self._stack]
        if self.device is CPU:
            packed = [packed_room(walk.rows, *size, dtype) for size in sizes]
        else:
            packed = [sums_room(walk.rows, walk.batch, *size) for size in sizes]
        left, right = map(max, zip(*packed, strict=True))
        state = walk.state_shape
        shapes = {"zeros": (walk.batch, hidden), "h": state, "c": state, "dh": state, "dc": state,
                  "between": (walk.rows, self._directions * hidden)}  # fmt: skip
        cell = (walk.batch, hidden) if is_narrow(np.dtype(dtype)) else (0,)
        rooms = {"left": ((left,), wide(dtype)), "right": ((right,), wide(dtype)), "cell": (cell, wide(dtype))}
        return {**rooms, **{name: (shape, dtype) for name, shape in shapes.items()}}

    def forward_flops(self, x_shape: Shape) -> int:
        """Two for each weight and row."""
        weights = sum(w.value.size for layer in self._stack for direction in layer for w in direction.weights)
        return 2 * self._walk(x_shape).rows * weights

    # ---- calls -------------------------------------------------------------------------------------------------------

    def _check_pair(self, name: str, pair: Any, call: Call) -> SomePair:
        """Two arrays of the states' shape; None stands for zeros, in place of either or of both."""
        if pair is None:
            return None, None
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ArgumentError(f"{self!r}: {name} must be a pair of arrays (h, c), got {type(pair).__name__}")
        (h, c), shape, dtype, device = pair, call.geometry.state_shape, call.dtype, self.device
        if type(h) is type(c) is ndarray and h.shape == c.shape == shape and h.dtype is c.dtype is dtype and device is CPU:
            return h, c
        h, c = device.accept(h), device.accept(c)
        for letter, array in (("h", h), ("c", c)):
            if array is not None:
                check_fits(self, f"{letter} of {name}", array, shape, dtype, device)
        return h, c

    def _pair_destination(self, name: str, out: Any, call: Call, *others: Array | None) -> Pair:
        """Two arrays to write states to, apart from each other and from the other arrays."""
        apart = [array for array in others if array is not None]
        h, c = self._check_pair(name, out, call)
        h = self._destination(h, f"h of {name}", call.geometry.state_shape, call.dtype, *apart)
        return h, self._destination(c, f"c of {name}", call.geometry.state_shape, call.dtype, *apart, h)

    def _apply(self, call: Call, y: Array, x: Array, keep: bool, epilogue: Epilogue = NOTHING) -> None:
        self._compute(call, (y, call.scratch["h"], call.scratch["c"]), (x, None, None), keep)

    def _advance(self, call: Call, x: Array, state: Any, out: Any, state_out: Any, keep: bool) -> tuple[Array, Pair]:
        """Forward; without a destination, fresh arrays are written."""
        h0, c0 = self._check_pair("state", state, call)
        inputs = [array for array in (x, h0, c0) if array is not None]
        y = self._destination(out, "out", call.y_shape, call.dtype, *inputs)
        h, c = self._pair_destination("state_out", state_out, call, y, *inputs)
        self._compute(call, (y, h, c), (x, h0, c0), keep)
        return y, (h, c)

    def _apply_backward(self, dx: Array | None, dy: Array) -> None:
        slot, call = self._newest()
        self._finish(slot, (dx, call.scratch["dh"], call.scratch["dc"]), (dy, None, None))

    def _propagate(self, dy: Array, out: Array | None, input_gradient: bool) -> Array | None:
        with self._workspace.in_use(self):
            scratch = self._newest()[1].scratch
            return self._retreat(dy, None, out, (scratch["dh"], scratch["dc"]), input_gradient)[0]

    def _retreat(
        self, dy: Array | None, dstate: Any, out: Array | None, dstate_out: Any, input_gradient: bool
    ) -> tuple[Array | None, Pair]:
        """Backward; without a destination, fresh arrays are written."""
        input_gradient = check_flag(self, "input_gradient", input_gradient)
        slot, call = self._newest()
        if dy is not None:
            dy = self.device.accept(dy)
            check_array(self, "dy", dy, call.dtype, self.device)
            check_shape(self, "dy", dy.shape, call.y_shape)
        dh, dc = self._check_pair("dstate", dstate, call)
        if dy is None and dh is None and dc is None:
            raise ArgumentError(f"{self!r}: backward needs dy or dstate, got neither")
        if out is not None and not input_gradient:
            raise ArgumentError(f"{self!r}: backward has no input gradient to write to out: input_gradient=False")
        inputs = [array for array in (dy, dh, dc, slot.x[0]) if array is not None]
        dx = self._destination(out, "out", call.x_shape, call.dtype, *inputs) if input_gradient else None
        dh0, dc0 = self._pair_destination("dstate_out", dstate_out, call, dx, *inputs)
        self._finish(slot, (dx, dh0, dc0), (dy, dh, dc))
        return dx, (dh0, dc0)

    # ---- the network -------------------------------------------------------------------------------------------------

    def _states(self, call: Call, *arrays: Array | None) -> list[list[Array]]:
        """Arrays of states as one (N, H) for each direction of each layer; zeros for None."""
        zeros, count = call.scratch["zeros"], len(self._stack) * self._directions
        if any(a is None for a in arrays):
            self.device.clear(zeros)
        stacks = [None if a is None else a.reshape(count, *zeros.shape) for a in arrays]
        return [[zeros] * count if stack is None else [stack[i] for i in range(count)] for stack in stacks]

    def _cell(self, call: Call, c: Array) -> Array:
        """What a cell state, or its gradient, is added up in: see `scratch_spec`."""
        return call.scratch["cell"] if is_narrow(c.dtype) else c

    def _hand_out(self, c: Array, cell: Array) -> None:
        """c = cell, where these are two."""
        if cell is not c:
            copy_forward(c.reshape(-1), cell.reshape(-1))

    def _place(self, number: int) -> tuple[int, int]:
        """Where in a row of a layer's output the hidden state of a direction lies, and the row's length."""
        return number * self.hidden_size, self._directions * self.hidden_size

    def _drop(self, y: Array, x: Array, saved: Arrays, index: int) -> None:
        """The dropout between layers, forward and backward."""
        p = self.dropout if saved["drops"] else 0.0
        run = drop_elements.for_work(WORK * x.size, self.device)
        run(y.reshape(-1), saved["draws"][index], x.reshape(-1), *mask_terms(p))

    def _forward(self, call: Call, y: Any, x: Any, saved: Arrays) -> None:
        packed, between = (call.scratch["left"], call.scratch["right"]), call.scratch["between"]
        saved["drops"] = self.training
        states = zip(*self._states(call, *y[1:], *x[1:]), strict=True)
        source = x[0]
        for index, (layer, plans) in enumerate(zip(self._stack, call.geometry.plans, strict=True), start=1):
            target = y[0] if index == len(self._stack) else between if self.dropout else saved[f"x{index}"]
            for number, (direction, plan) in enumerate(zip(layer, plans, strict=True)):
                h, c, h0, c0 = next(states)
                cell = self._cell(call, c)
                direction.forward(target, h, cell, saved, packed, source, h0, c0, plan, self._place(number))
                self._hand_out(c, cell)
            source = target
            if target is between:
                source = saved[f"x{index}"]
                if self.training:
                    self._masks.draw(saved["draws"][index])
                self._drop(source, between, saved, index)

    def _pack_for(self, call: Call) -> None:
        for layer, plans in zip(self._stack, call.geometry.plans, strict=True):
            for direction, plan in zip(layer, plans, strict=True):
                direction.pack(plan, (call.scratch["left"], call.scratch["right"]))

    def _backward(self, call: Call, dx: Any, dy: Any, x: Any, saved: Arrays) -> None:
        packed, between = (call.scratch["left"], call.scratch["right"]), call.scratch["between"]
        given = dy[0]
        if given is None:
            self.device.clear(between)
            given = between
        states = list(zip(*self._states(call, *dx[1:], *dy[1:]), strict=True))
        for index in range(len(self._stack) - 1, -1, -1):
            layer = list(zip(self._stack[index], call.geometry.plans[index], strict=True))
            source = saved[f"x{index}"] if index else x[0]
            for number, (direction, plan) in enumerate(layer):
                dh, dc, dh_last, dc_last = states[index * len(layer) + number]
                place, cell = self._place(number), self._cell(call, dc)
                direction.backward(dh, cell, saved, packed, given, source, dh_last, dc_last, plan, place)
                self._hand_out(dc, cell)
            target = between if index else dx[0]
            for number, (direction, plan) in enumerate(layer if target is not None else []):
                direction.backward_input(target, saved, packed, plan, accumulate=number > 0)
            given = target
            if index and self.dropout:
                self._drop(source, between, saved, index)  # the layer's input has been read for the last time
                given = source

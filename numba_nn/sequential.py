"""`Sequential`: layers one after the other, with the buffers between them.

Activations that a later backward reads are *saved*, one set for every forward that is kept. All other activations, the
gradients on their way back and the layers' own scratch are *scratch*; arrays whose lifetimes do not meet share memory
(`numba_nn.core.plan`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, overload

import numpy as np

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.container import Container
from numba_nn.core.device import CPU
from numba_nn.core.epilogue import Epilogue
from numba_nn.core.errors import ArgumentError, DeviceError, ShapeError
from numba_nn.core.fusion import Run, fuse, in_order, join
from numba_nn.core.layer import Layer
from numba_nn.core.plan import Lifetime, Plan
from numba_nn.core.workspace import Shape, Spec, spec_nbytes

Step = tuple[Layer, Call, Array | None, Epilogue]
"""A layer, its call, room for its output, None for the model's own, and what it does of the next ones."""


class Order(NamedTuple):
    """Which layers run as one: ``alone``, and where the forward is ``kept`` for a backward, which goes through ``stages``.

    Stages are layers, in the order of the forward, each with the number of the output that it takes.
    """

    alone: list[Run]
    kept: list[Run]
    stages: list[tuple[int, Layer]]


class Sequential(Container):
    """Layers one after the other.

    Parameters
    ----------
    *layers : Layer
        In order; a layer may appear more than once, and then shares its parameters. Or one dict of layers, by the names that
        they have in the state dict, in place of "0", "1", ...

    Raises
    ------
    ArgumentError
        If there is no layer, or something else is among them, or a layer of several inputs; or for a name that is none.
    DeviceError
        If layers with parameters live on different devices.
    """

    def __init__(self, *layers: Layer | Mapping[str, Layer]) -> None:
        super().__init__()
        named = layers[0] if len(layers) == 1 and isinstance(layers[0], Mapping) else None
        self._take(layers if named is None else tuple(named.values()), named)
        self._adopt(self._workspace, 0)
        placed = [layer for layer in self if layer.dtype is not None]  # others go where their input is
        devices = {layer.device for layer in placed}
        if len(devices) > 1:
            raise DeviceError(f"Sequential: layers live on different devices: {sorted(map(str, devices))}; see layer.to")
        if devices - {self.device}:
            self.to(devices.pop(), placed[0].stream)

    def _take(self, layers: tuple[Any, ...], names: Iterable[str] | None = None) -> None:
        if not layers or not all(isinstance(layer, Layer) for layer in layers):
            got = ", ".join(type(layer).__name__ for layer in layers) or "nothing"
            raise ArgumentError(f"Sequential takes one or more layers, made and each an argument of its own, got {got}")
        if several := [layer for layer in layers if layer.takes_several]:
            raise ArgumentError(f"Sequential: every layer must take one input, got {several[0]}, which takes several")
        self._layers = layers
        self._named = names is not None
        self._names = tuple(map(str, range(len(layers)))) if names is None else tuple(names)
        if wrong := [name for name in self._names if not isinstance(name, str) or not name or "." in name]:
            raise ArgumentError(f"Sequential: names of layers must be strings without dots, got {wrong[0]!r}")
        self._order = in_order(layers)
        self._steps = [layers[i] for i in self._order]
        self._joined = join(self._steps)
        dtypes = {layer.dtype for layer in layers if layer.dtype is not None}
        if len(dtypes) > 1:
            raise ArgumentError(f"Sequential: layers have different dtypes: {sorted(map(str, dtypes))}")
        self.dtype = dtypes.pop() if dtypes else None
        self.takes_indices = layers[0].takes_indices
        self._plans: dict[tuple[Shape, np.dtype[Any]], Plan] = {}
        self._ready: dict[Call, tuple[list[Run], list[Step]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_plans": {}, "_ready": {}}

    def children(self) -> dict[str, Layer]:
        """The layers, named "0", "1", ... unless they were given with names."""
        return dict(zip(self._names, self._layers, strict=True))

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers)

    @overload
    def __getitem__(self, index: int) -> Layer: ...

    @overload
    def __getitem__(self, index: slice) -> Sequential: ...

    def __getitem__(self, index: int | slice) -> Layer:
        """A layer, or for a slice a Sequential of the same layers, which stay part of this model and share its scratch."""
        if not isinstance(index, slice):
            return self._layers[index]
        part = Sequential.__new__(Sequential)
        part.device, part.stream = self.device, self.stream
        Container.__init__(part)
        part._take(self._layers[index], self._names[index] if self._named else None)
        part._workspace, part._level = self._workspace, self._level
        part.training = self.training
        for layer in part._stand_ins():
            layer._adopt(part._workspace, part._level + 1)
        return part

    def shapes(self, x_shape: Shape) -> list[Shape]:
        """Shape of the input, and of every layer's output."""
        return output_shapes(enumerate(self._layers), x_shape)

    def _shapes(self, x_shape: Shape) -> list[Shape]:
        """`shapes` in the order in which the layers run."""
        return output_shapes(zip(self._order, self._steps, strict=True), x_shape)

    def runs(self, x_shape: Shape, keep: bool) -> list[list[int]]:
        """Positions in execution order, grouped: the first layer of a group computes all of it.

        Parameters
        ----------
        x_shape : tuple of int
            Shape of the input.
        keep : bool
            Whether a backward is to come.

        Returns
        -------
        list of list of int
            Every layer once.
        """
        runs = fuse(self._steps, self._joined, self._shapes(x_shape), keep)
        # Of two layers that run as one it is the second that counts: it has the parameters.
        firsts = [self._order[run.start : run.rest][::-1] for run in runs]
        return [first + self._order[run.rest : run.stop] for first, run in zip(firsts, runs, strict=True)]

    def joined(self, x_shape: Shape) -> dict[str, tuple[Layer, Shape]]:
        """The layers that stand for two, each under the name of the second, which has the parameters.

        Parameters
        ----------
        x_shape : tuple of int
            Shape of the input.

        Returns
        -------
        dict of str to (Layer, tuple of int)
            The layer, which is not among the children, and the shape of its input.
        """
        shapes = self._shapes(x_shape)
        runs = [run for run in fuse(self._steps, self._joined, shapes, keep=True) if run.layer is not self._steps[run.start]]
        return {self._names[self._order[run.rest - 1]]: (run.layer, shapes[run.start]) for run in runs}

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the last layer's output.

        Raises
        ------
        ShapeError
            Of the first layer that cannot take its input, with its position.
        """
        return self._shapes(x_shape)[-1]

    def forward_flops(self, x_shape: Shape) -> int:
        """Sum over the layers."""
        return sum(layer.forward_flops(s) for layer, s in zip(self._steps, self._shapes(x_shape), strict=False))

    def saved_spec(self, x_shape: Shape, dtype: np.dtype[Any]) -> dict[str, Spec]:
        """The outputs that a backward reads: that of the next layer, or of an activation done by the layer before."""
        shapes = self._shapes(x_shape)
        runs = fuse(self._steps, self._joined, shapes, keep=True)
        read = [run.stop for run, after in itertools.pairwise(runs) if run.epilogue.activation or after.layer.keeps_input]
        return {f"y{i}": (shapes[i], dtype) for i in read}

    def _transient(self, call: Call) -> tuple[dict[str, Spec], dict[str, Lifetime]]:
        """Specs and lifetimes of what is dead at return: outputs by forward step, gradients by backward step.

        An array that step i writes is read by step i + 1; layers that run as one write at the first one's step. Outputs that
        training saves are needed here for inference only.
        """
        shapes, last = self._shapes(call.x_shape), len(self) - 1
        writers: dict[int, int] = {}  # number of an output: the step that writes it
        for run in [*call.geometry.alone, *call.geometry.kept]:
            writers.setdefault(run.stop, run.start)
            if run.epilogue.norm:  # its layers run one by one while the normalisation is trained
                writers |= {run.rest: run.start} | {i: i - 1 for i in range(run.rest + 1, run.stop)}
        specs: dict[str, Spec] = {}
        lives: dict[str, Lifetime] = {}
        for i in range(1, len(self)):
            spec = shapes[i], call.dtype
            if i in writers:
                specs[f"y{i}"], lives[f"y{i}"] = spec, Lifetime(spec_nbytes(spec), writers[i], i)
        for (before, _), (i, _) in itertools.pairwise(call.geometry.stages):
            spec = shapes[i], call.dtype
            specs[f"dy{i}"] = spec
            lives[f"dy{i}"] = Lifetime(spec_nbytes(spec), len(self) + last - i, len(self) + last - before)
        return specs, lives

    def _geometry(self, x_shape: Shape, dtype: np.dtype[Any]) -> Order:
        shapes = self._shapes(x_shape)
        alone, kept = (fuse(self._steps, self._joined, shapes, keep) for keep in (False, True))
        stages = []
        for run in kept:
            stages += [(run.start, run.layer), *((i, self._steps[i]) for i in range(run.rest, run.stop))]
        return Order(alone, kept, stages)

    def _allocate(self, call: Call) -> None:
        self._ready.pop(call, None)
        specs, lives = self._transient(call)
        # The plan of the largest batch serves the smaller ones: one of their own might need more than was reserved.
        plan = self._plans.get((call.x_shape[1:], call.dtype))
        if plan is None or not plan.holds(list(lives.values())):
            plan = Plan(list(lives.values()))
        call.scratch = self._workspace.place(self._scratch_name, specs, plan.offsets, plan.total)
        call.inference = call.scratch
        self._plans[call.x_shape[1:], call.dtype] = plan
        self._keep(len(self._free) + len(self._kept))
        shapes = self._shapes(call.x_shape)
        for i, layer in call.geometry.stages:
            layer._call(shapes[i], call.dtype)  # a strict workspace refuses before anything is written

    def _reserve_more(self, call: Call, training: bool, calls: int) -> None:
        super()._reserve_more(call, training, calls)
        done_before = {run.stop - 1 for run in call.geometry.kept if run.epilogue.activation}
        shapes = self._shapes(call.x_shape)
        for i, layer in call.geometry.stages:
            layer.reserve(shapes[i], dtype=call.dtype, training=training and i not in done_before)

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        if not call.keep and call in self._ready:
            norms, steps = self._ready[call]
            if not norms or all(run.folds() for run in norms):
                for layer, its, room, epilogue in steps:
                    out = y if room is None else room
                    layer._apply(its, out, x, False, epilogue)
                    x = out
                return
        self._run_all(call, y, x, saved)
        if not (call.keep or self.takes_indices) and self.device is CPU:
            self._ready[call] = self._steps_of(call)

    def _steps_of(self, call: Call) -> tuple[list[Run], list[Step]]:
        """What a forward without a backward runs, looked up, which takes 0.5 us a layer; before it runs that may not fold."""
        shapes, runs = self._shapes(call.x_shape), call.geometry.alone
        steps = [
            (run.layer, run.layer._call(shapes[run.start], run.layer.dtype or call.dtype), call.scratch.get(f"y{run.stop}"),
             run.epilogue)
            for run in runs
        ]  # fmt: skip
        return [run for run in runs if run.epilogue.norm], steps

    def _run_all(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        for run in call.geometry.kept if call.keep else call.geometry.alone:
            if run.folds():
                x = self._run(call, run.layer, x, self._output(call, y, saved, run.stop), run.epilogue)
            else:
                x = self._run(call, run.layer, x, self._output(call, y, saved, run.rest))
                for i in range(run.rest, run.stop):
                    x = self._run(call, self._steps[i], x, self._output(call, y, saved, i + 1))

    def _forget_calls(self) -> None:
        super()._forget_calls()
        self._ready.clear()

    def _output(self, call: Call, y: Array, saved: Arrays, index: int) -> Array:
        """Where the output of this many layers goes."""
        name = f"y{index}"
        return y if index == len(self) else saved[name] if name in saved else call.scratch[name]

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        stages = call.geometry.stages
        first = 0 if dx is not None else first_trainable(layer for _, layer in stages)
        for i, layer in reversed(stages[first + 1 :]):
            layer._apply_backward(call.scratch[f"dy{i}"], dy)
            dy = call.scratch[f"dy{i}"]
        for _, layer in stages[first : first + 1]:
            layer._apply_backward(dx, dy)
        for _, layer in reversed(stages[:first]):
            layer._forget()

    def _inner(self) -> list[Layer]:
        return [*super()._inner(), *self._stand_ins()]

    def _stand_ins(self) -> Iterable[Layer]:
        return self._joined.values()


def first_trainable(layers: Iterable[Layer]) -> int:
    """The position of the first layer that has something to learn: gradients need not go further back."""
    position = 0
    for layer in layers:
        if any(p.requires_grad for p in layer.parameters()):
            break
        position += 1
    return position


def output_shapes(layers: Iterable[tuple[int, Layer]], x_shape: Shape) -> list[Shape]:
    """Shape of an input, and of the output of each layer after the other; layers come with the positions that errors name."""
    shapes = [x_shape]
    for position, layer in layers:
        try:
            shapes.append(layer.output_shape(shapes[-1]))
        except ShapeError as error:
            error.path = (position, *error.path)
            raise
    return shapes

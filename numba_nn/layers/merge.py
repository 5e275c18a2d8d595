"""Layers of several inputs.

    Concatenate   y = the inputs one after the other along a dimension     dx_i = the part of dy that came from x_i
    Add           y = sum_i x_i                                           dx_i = dy
    Multiply      y = prod_i x_i                                          dx_i = dy prod_{j != i} x_j

``forward(a, b, ...)`` takes the inputs, ``backward(dy)`` gives a tuple of their gradients.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange
from numpy import ndarray

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.checks import as_shape, check_array, check_shape
from numba_nn.core.cuda.cast import copy_forward
from numba_nn.core.cuda.planes import first_plane, next_plane, over_rows, place_of_window
from numba_nn.core.cuda.portable import fetch, put
from numba_nn.core.cuda.ptx import WINDOW, cuda
from numba_nn.core.each import each_far, is_far
from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.core.kernel import In, Out, inlined, kernel, portable
from numba_nn.core.layer import Layer
from numba_nn.core.reduce import block_bounds, block_count
from numba_nn.core.workspace import Shape
from numba_nn.layers.shape import check_dim


@kernel
def put_columns(y: Out, x: In, first: int):
    """y[:, first:] = x, as far as x reaches; y: (R, Y), x: (R, X)."""
    for r in prange(x.shape[0]):
        target = y[r, first:]
        for i in range(x.shape[1]):
            target[i] = x[r, i]


@put_columns.on_cuda(grid=lambda y, x, *_: over_rows(x))
def put_columns(y: Out, x: In, first: int):
    """A thread has a window of columns."""
    at, window, r = place_of_window(), cuda.local.array(WINDOW, x.dtype), first_plane()
    while at < np.uint32(x.shape[1]) and r < np.uint32(x.shape[0]):
        fetch(window, x[r], at)
        put(y[r, np.uint32(first) :], at, window, x.shape[1])
        r = next_plane(r)


@kernel
def take_columns(y: Out, x: In, first: int):
    """y = x[:, first:], as far as y reaches; y: (R, Y), x: (R, X)."""
    for r in prange(y.shape[0]):
        source = x[r, first:]
        for i in range(y.shape[1]):
            y[r, i] = source[i]


@take_columns.on_cuda(grid=over_rows)
def take_columns(y: Out, x: In, first: int):
    """A thread has a window of columns."""
    at, window, r = place_of_window(), cuda.local.array(WINDOW, x.dtype), first_plane()
    while at < np.uint32(y.shape[1]) and r < np.uint32(y.shape[0]):
        fetch(window, x[r, np.uint32(first) :], at)
        put(y[r], at, window, y.shape[1])
        r = next_plane(r)


@inlined
def total(a, b):
    """a + b."""
    return a + b


@inlined
def product(a, b):
    """a b."""
    return a * b


@portable
def add_forward(y: Out, a: In, b: In):
    """y = a + b, element by element; y may be a."""
    far = is_far(y)
    for block in prange(block_count(y.size)):
        start, stop = block_bounds(block, y.size)
        each_far(total, y[start:stop], (a[start:stop], b[start:stop]), far)


@portable
def multiply_forward(y: Out, a: In, b: In):
    """y = a b, element by element; y may be a."""
    far = is_far(y)
    for block in prange(block_count(y.size)):
        start, stop = block_bounds(block, y.size)
        each_far(product, y[start:stop], (a[start:stop], b[start:stop]), far)


class Merge(Layer):
    """Base of the layers of several inputs."""

    takes_several = True

    def output_shape(self, *x_shapes: Shape) -> Shape:
        """Shape of the output: that of every input.

        Raises
        ------
        ShapeError
            If there are fewer than two inputs, or their shapes differ.
        """
        self._check_count(x_shapes)
        if len(set(x_shapes)) > 1:
            raise ShapeError(f"{self!r}: inputs must have one shape, got {', '.join(map(str, x_shapes))}")
        return x_shapes[0]

    def _check_count(self, x_shapes: tuple[Shape, ...]) -> None:
        if len(x_shapes) < 2:
            raise ShapeError(f"{self!r} takes two or more inputs, got {len(x_shapes)}")

    def _y_shape(self, x_shape: Any) -> Shape:
        return self.output_shape(*x_shape)

    def _reserved_shape(self, input_shapes: tuple[Any, ...]) -> Any:
        return tuple(as_shape(self, shape) for shape in input_shapes)

    def __call__(self, *inputs: Array) -> Array:
        """``forward(*inputs)``: the output in a fresh array."""
        return self.forward(*inputs)

    def forward(self, *inputs: Array, out: Array | None = None) -> Array:  # type: ignore[override]
        """Compute the layer's output.

        Parameters
        ----------
        *inputs : ndarray
            Two or more, of one dtype; in training mode `Multiply` borrows them until its backward.
        out : ndarray, optional
            Where to write the output: C-contiguous, apart from the inputs.

        Returns
        -------
        ndarray
            ``out`` itself, or a fresh array.

        Raises
        ------
        ShapeError, DTypeError, DestinationError
            If an array does not fit; nothing was written.
        """
        with self._workspace.in_use(self):
            inputs = tuple([x if type(x) is ndarray else self._accept(x) for x in inputs])
            for i, x in enumerate(inputs):
                check_array(self, f"inputs[{i}]", x, inputs[0].dtype if i else None, self.device)
            dtype = inputs[0].dtype if inputs else None
            call = self._call(tuple(x.shape for x in inputs), dtype)  # type: ignore[arg-type]  # no input: refused there
            y = self._destination(out, "out", call.y_shape, call.dtype, *inputs)
            self._compute(call, y, inputs, self.training)
        return y

    def backward(self, dy: Array, out: tuple[Array, ...] | None = None) -> tuple[Array, ...]:  # type: ignore[override]
        """Propagate a gradient through the newest forward that has not been propagated yet.

        Parameters
        ----------
        dy : ndarray
            Gradient of the loss with respect to the output.
        out : tuple of ndarray, optional
            Where to write the gradients with respect to the inputs: an array for each.

        Returns
        -------
        tuple of ndarray
            ``out``, or fresh arrays.

        Raises
        ------
        BackwardError
            If no forward in training mode is left to belong to.
        ArgumentError, ShapeError, DTypeError, DestinationError
            If an array does not fit; nothing was written.
        """
        with self._workspace.in_use(self):
            slot, call = self._newest()
            dy = self.device.accept(dy)
            check_array(self, "dy", dy, call.dtype, self.device)
            check_shape(self, "dy", dy.shape, call.y_shape)
            count = len(call.x_shape)
            if out is not None and (not isinstance(out, (tuple, list)) or len(out) != count):
                raise ArgumentError(f"{self!r}: out must be {count} arrays, one for each input, got {type(out).__name__}")
            given: Any = (None,) * count if out is None else out
            dx: tuple[Array, ...] = ()
            for i, (array, shape) in enumerate(zip(given, call.x_shape, strict=True)):
                dx += (self._destination(array, f"out[{i}]", shape, call.dtype, dy, *(slot.x or ()), *dx),)
            self._finish(slot, dx, dy)
            return dx


class Concatenate(Merge):
    """Join arrays along a dimension.

    Parameters
    ----------
    dim : int, optional
        The dimension, 1 (channels, features) by default; a negative one counts from the end.

    Raises
    ------
    ArgumentError
        If ``dim`` is no int.
    """

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = check_dim("Concatenate", "dim", dim)

    def output_shape(self, *x_shapes: Shape) -> Shape:
        """Shape of the output: lengths along the dimension add up.

        Raises
        ------
        ShapeError
            If there are fewer than two inputs, or shapes differ in another dimension.
        """
        self._check_count(x_shapes)
        rank = len(x_shapes[0])
        if not -rank <= self.dim < rank:
            raise ShapeError(f"{self!r}: inputs of shape {x_shapes[0]} have no dimension {self.dim}")
        dim = self.dim % rank
        if len({(*s[:dim], 0, *s[dim + 1 :]) for s in x_shapes}) > 1 or any(len(s) != rank for s in x_shapes):
            raise ShapeError(f"{self!r}: shapes may differ in dimension {self.dim} only, got {', '.join(map(str, x_shapes))}")
        return (*x_shapes[0][:dim], sum(s[dim] for s in x_shapes), *x_shapes[0][dim + 1 :])

    def _geometry(self, x_shape: Any, dtype: Any) -> tuple[int, list[int]]:
        """Rows in front of the dimension, and the column of each input's first element."""
        dim = self.dim % len(x_shape[0])
        columns = [math.prod(s[dim:]) for s in x_shape]
        return math.prod(x_shape[0][:dim]), [sum(columns[:i]) for i in range(len(columns))]

    def _forward(self, call: Call, y: Array, x: Any, saved: Arrays) -> None:
        rows, firsts = call.geometry
        if y.size == 0:
            return
        for array, first in zip(x, firsts, strict=True):
            put_columns.for_work(array.size, self.device)(y.reshape(rows, -1), array.reshape(rows, array.size // rows), first)

    def _backward(self, call: Call, dx: Any, dy: Array, x: Any, saved: Arrays) -> None:
        rows, firsts = call.geometry
        if dy.size == 0:
            return
        for array, first in zip(dx, firsts, strict=True):
            take_columns.for_work(array.size, self.device)(array.reshape(rows, array.size // rows), dy.reshape(rows, -1), first)

    def _arguments(self) -> str:
        return f"dim={self.dim}"


class Add(Merge):
    """Sum of arrays of one shape."""

    def _forward(self, call: Call, y: Array, x: Any, saved: Arrays) -> None:
        _chain(add_forward, y, *x)

    def _backward(self, call: Call, dx: Any, dy: Array, x: Any, saved: Arrays) -> None:
        for array in dx:
            copy_forward(array.reshape(-1), dy.reshape(-1))


class Multiply(Merge):
    """Product, element by element, of arrays of one shape."""

    keeps_input = True

    def _forward(self, call: Call, y: Array, x: Any, saved: Arrays) -> None:
        _chain(multiply_forward, y, *x)

    def _backward(self, call: Call, dx: Any, dy: Array, x: Any, saved: Arrays) -> None:
        for i, array in enumerate(dx):
            _chain(multiply_forward, array, dy, *x[:i], *x[i + 1 :])


def _chain(run: Any, y: Array, first: Array, second: Array, *others: Array) -> None:
    """y = first, second and the others, combined from the left."""
    flat = y.reshape(-1)
    run(flat, first.reshape(-1), second.reshape(-1))
    for other in others:
        run(flat, flat, other.reshape(-1))

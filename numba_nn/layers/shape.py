"""Layers that only change the shape: y.flat[i] = x.flat[i]. Kernels take flat arrays."""

from __future__ import annotations

import math
from typing import Any

from numba_nn.core.call import Array, Arrays, Call
from numba_nn.core.checks import is_whole
from numba_nn.core.cuda.cast import copy_forward
from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.core.layer import Layer
from numba_nn.core.workspace import Shape


def check_dim(where: object, name: str, value: Any) -> int:
    """An int; raises `ArgumentError` for anything else."""
    if not is_whole(value):
        raise ArgumentError(f"{where}: {name} must be an int, got {value!r}")
    return int(value)


def check_sizes(where: object, name: str, values: Any) -> Shape:
    """Sizes of at least 1, of which one may be -1, as a tuple; raises `ArgumentError` for anything else."""
    given = isinstance(values, (tuple, list)) and all(is_whole(v) and (v >= 1 or v == -1) for v in values)
    if not given or list(values).count(-1) > 1:
        raise ArgumentError(f"{where}: {name} must be sizes of at least 1, of which one may be -1, got {values!r}")
    return tuple(map(int, values))


def unpacked(values: tuple[Any, ...]) -> Any:
    """What was given as ``*values``: the numbers themselves, or one tuple of them."""
    return values[0] if len(values) == 1 and isinstance(values[0], (tuple, list)) else values


def dimension(layer: Layer, dim: int, x_shape: Shape) -> int:
    """A dimension counted from the front; raises `ShapeError` if x has none such."""
    if not -len(x_shape) <= dim < len(x_shape):
        raise ShapeError(f"{layer!r}: x has no dimension {dim}, its shape is {x_shape}")
    return dim % len(x_shape)


def filled_in(layer: Layer, sizes: Shape, total: int, x_shape: Shape) -> Shape:
    """Sizes with -1 replaced by what makes their product ``total``; raises `ShapeError` if nothing does."""
    known = math.prod(n for n in sizes if n != -1)
    shape = tuple(total // known if n == -1 else n for n in sizes)
    if math.prod(shape) != total:
        raise ShapeError(f"{layer!r}: {total} elements do not fit into {sizes}, x has shape {x_shape}")
    return shape


class Reshaping(Layer):
    """Base of the layers whose output is the input under another shape, in memory of its own."""

    def _forward(self, call: Call, y: Array, x: Array, saved: Arrays) -> None:
        copy_forward(y.reshape(-1), x.reshape(-1))

    def _backward(self, call: Call, dx: Array | None, dy: Array, x: Any, saved: Arrays) -> None:
        if dx is not None:
            copy_forward(dx.reshape(-1), dy.reshape(-1))


class Identity(Reshaping):
    """y = x, in memory of its own: what stands where a layer was taken out.

    Parameters
    ----------
    *arguments, **keywords : object
        Taken, as PyTorch does, and without effect.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__()

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output: the input's, whatever it is."""
        return x_shape


class Flatten(Reshaping):
    """Join neighbouring dimensions into one.

    Parameters
    ----------
    start_dim, end_dim : int, optional
        First and last dimension to join; negative ones count from the end. By default all but the batch.

    Raises
    ------
    ArgumentError
        If an argument is no int.
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = check_dim("Flatten", "start_dim", start_dim)
        self.end_dim = check_dim("Flatten", "end_dim", end_dim)

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output.

        Raises
        ------
        ShapeError
            If the input has not the dimensions that are to be joined.
        """
        rank = len(x_shape)
        start, end = (d + rank if d < 0 else d for d in (self.start_dim, self.end_dim))
        if not 0 <= start <= end < rank:
            raise ShapeError(f"{self!r}: cannot join dimensions {self.start_dim} to {self.end_dim} of shape {x_shape}")
        return (*x_shape[:start], math.prod(x_shape[start : end + 1]), *x_shape[end + 1 :])

    def _arguments(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Reshaping):
    """Split a dimension into several.

    Parameters
    ----------
    dim : int
        Which; a negative one counts from the end.
    unflattened_size : tuple of int
        What it becomes. One entry may be -1: whatever is left.

    Raises
    ------
    ArgumentError
        If an argument is not of that form.
    """

    def __init__(self, dim: int, unflattened_size: Shape) -> None:
        super().__init__()
        self.dim = check_dim("Unflatten", "dim", dim)
        self.unflattened_size = check_sizes("Unflatten", "unflattened_size", unflattened_size)

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output.

        Raises
        ------
        ShapeError
            If the input has no such dimension, or it has another size.
        """
        dim = dimension(self, self.dim, x_shape)
        return (*x_shape[:dim], *filled_in(self, self.unflattened_size, x_shape[dim], x_shape), *x_shape[dim + 1 :])

    def _arguments(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class Reshape(Reshaping):
    """Another shape for every element of the batch, which itself stays.

    Parameters
    ----------
    *shape : int, or one tuple of int
        Sizes of all dimensions of the output but the first. One may be -1: whatever is left.

    Raises
    ------
    ArgumentError
        If ``shape`` is not of that form.
    """

    def __init__(self, *shape: Any) -> None:
        super().__init__()
        self.shape = check_sizes("Reshape", "shape", unpacked(shape))

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output.

        Raises
        ------
        ShapeError
            If the input has no batch dimension, or its elements have another size.
        """
        dimension(self, 0, x_shape)
        return (x_shape[0], *filled_in(self, self.shape, math.prod(x_shape[1:]), x_shape))

    def _arguments(self) -> str:
        return ", ".join(map(str, self.shape))


class Squeeze(Reshaping):
    """Leave out dimensions of size 1.

    Parameters
    ----------
    dim : int or tuple of int, optional
        Which, where their size is 1; negative ones count from the end. By default all of size 1 but the first: a batch of
        one stays a batch.

    Raises
    ------
    ArgumentError
        If ``dim`` is not of that form.
    """

    def __init__(self, dim: int | tuple[int, ...] | None = None) -> None:
        super().__init__()
        given = dim if isinstance(dim, (tuple, list)) else () if dim is None else (dim,)
        self.dim = None if dim is None else tuple(check_dim("Squeeze", "dim", d) for d in given)

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output.

        Raises
        ------
        ShapeError
            If the input has no such dimension.
        """
        dims = range(1, len(x_shape)) if self.dim is None else [dimension(self, d, x_shape) for d in self.dim]
        return tuple(n for d, n in enumerate(x_shape) if n != 1 or d not in dims)

    def _arguments(self) -> str:
        return f"dim={self.dim}"


class Unsqueeze(Reshaping):
    """Put in a dimension of size 1.

    Parameters
    ----------
    dim : int
        Its place in the output; a negative one counts from the end.

    Raises
    ------
    ArgumentError
        If ``dim`` is no int.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = check_dim("Unsqueeze", "dim", dim)

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output.

        Raises
        ------
        ShapeError
            If the output would have no such dimension.
        """
        rank = len(x_shape) + 1
        if not -rank <= self.dim < rank:
            raise ShapeError(f"{self!r}: the output has no dimension {self.dim}, x has shape {x_shape}")
        dim = self.dim % rank
        return (*x_shape[:dim], 1, *x_shape[dim:])

    def _arguments(self) -> str:
        return f"dim={self.dim}"

"""Convolution on a GPU as an implicit matrix product: `numba_nn.core.cuda.product`, with loaders that gather from images.

    y[o, pixel]          = sum_(c i j)  weight[o, (c i j)]  x[(c i j), pixel]          pixel = (n, h, w) of y
    dx[c, pixel]         = sum_(o i j)  weight[c, (o i j)]  dy[(o i j), pixel]         pixel = (n, h, w) of x
    dweight[o, (c i j)] += sum_pixel    dy[o, pixel]        x[(c i j), pixel]          pixel = (n, h, w) of y

where x[(c i j), pixel] is the element of channel c that tap (i, j) meets at this pixel, and dy[(o i j), pixel] the one whose
tap (i, j) meets the pixel; zero where there is none. Each group is a product of its own. Sums over pixels are cut into slices,
as there are few rows and columns: partial sums go to scratch, and a second kernel adds them in order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from numba_nn.core.call import Array, Arrays
from numba_nn.core.cuda.cast import round_into, weight_as, weight_room
from numba_nn.core.cuda.gemm import kind_of, loader_of, own_matrices
from numba_nn.core.cuda.loaders import elements
from numba_nn.core.cuda.narrow import as_bits, wide
from numba_nn.core.cuda.product import ADD, OVERWRITE, in_rows
from numba_nn.core.cuda.ptx import device_function
from numba_nn.core.cuda.slices import multiply, partial_size
from numba_nn.core.cuda.tiles import u32
from numba_nn.core.parameter import Parameter
from numba_nn.core.parts import Helper
from numba_nn.core.workspace import Spec
from numba_nn.layers.conv.algorithm import Algorithm, Problem
from numba_nn.layers.image import images

# Places of numbers in a view, which is a tuple to a kernel. A divisor has three: itself, and those that `quotient` takes.
ROWS, CHANNELS, GROUP, HEIGHT, WIDTH, UP_H, BASE_H, STEP_H, UP_W, BASE_W, STEP_W = range(11)
AREA, ACROSS, TAPS, TAP_WIDTH, DOWN_H, DOWN_W = range(11, 29, 3)


def divisor(d: int) -> tuple[int, int, int]:
    """A number, and a multiplier and shift in place of the division by it: n multiplier >> shift = n // d for 0 <= n < 2^31."""
    shift = 31 + (d - 1).bit_length()
    return d, -(-(1 << shift) // d), shift


@device_function
def quotient(n, view, at):
    """``n // view[at]``, for a divisor in a view: a division takes 20 instructions, this takes two."""
    return u32((np.uint64(n) * np.uint64(view[at + 1])) >> np.uint64(view[at + 2]))


def image_view(problem: Problem, rows: int, of_input: bool) -> tuple[int, ...]:
    """The view of an operand that gathers from images: from x at pixels of y, or from dy at pixels of x.

    Row h of y with tap i meets row ``h stride - padding + i dilation`` of x.
    """
    source, pixels = (problem.x_shape, problem.y_shape) if of_input else (problem.y_shape, problem.x_shape)
    steps = zip(problem.stride, problem.padding, problem.dilation, strict=True)
    affine = [(s, -p, d) if of_input else (1, p, -d) for s, p, d in steps]
    down = (1, 1) if of_input else problem.stride
    divisors = math.prod(pixels[2:]), pixels[3], math.prod(problem.taps), problem.taps[1], *down
    numbers = (rows, source[1], source[1] // problem.groups, *source[2:], *affine[0], *affine[1])
    return (*numbers, *(n for d in divisors for n in divisor(d)))


# ---- where elements lie ---------------------------------------------------------------------------------------------------


def at_taps(pixels_are_rows: bool, spread: bool) -> Helper:
    """Elements of images that taps meet at pixels. ``spread``: pixels are more than elements, by the stride."""

    @device_function
    def where(view, product, row, depth):
        pixel, tap = (row, depth) if pixels_are_rows else (depth, row)
        n, c = quotient(pixel, view, AREA), quotient(tap, view, TAPS)
        pixel, tap = u32(pixel - n * u32(view[AREA])), u32(tap - c * u32(view[TAPS]))
        u, i = quotient(pixel, view, ACROSS), quotient(tap, view, TAP_WIDTH)
        v, j = u32(pixel - u * u32(view[ACROSS])), u32(tap - i * u32(view[TAP_WIDTH]))
        h = u32(u * u32(view[UP_H]) + u32(view[BASE_H]) + i * u32(view[STEP_H]))  # below 0: large
        w = u32(v * u32(view[UP_W]) + u32(view[BASE_W]) + j * u32(view[STEP_W]))
        meets = True
        if spread:
            near, left = quotient(h, view, DOWN_H), quotient(w, view, DOWN_W)
            meets, h, w = near * u32(view[DOWN_H]) == h and left * u32(view[DOWN_W]) == w, near, left
        there = meets and h < u32(view[HEIGHT]) and w < u32(view[WIDTH])
        plane = n * u32(view[CHANNELS]) + product * u32(view[GROUP]) + c
        return (plane * u32(view[HEIGHT]) + h) * u32(view[WIDTH]) + w, there

    return where


@device_function
def pixel_of_channel(view, product, row, depth):
    """Elements of images, whose rows are channels; the depth is the pixel."""
    n = quotient(depth, view, AREA)
    plane = n * u32(view[CHANNELS]) + product * u32(view[GROUP]) + row
    return plane * u32(view[AREA]) + depth - n * u32(view[AREA]), True


@device_function
def weight_of_input(view, product, row, depth):
    """Weights, whose rows are input channels; the depth is (output channel, tap)."""
    o = quotient(depth, view, TAPS)
    matrix = (product * u32(view[GROUP]) + o) * u32(view[ROWS]) + row
    return matrix * u32(view[TAPS]) + depth - o * u32(view[TAPS]), True


channels_of_pixels = functools.partial(elements, where=pixel_of_channel, along_depth=True)
weights_of_inputs = functools.partial(elements, where=weight_of_input, along_depth=True)
inputs_at_outputs = functools.partial(elements, where=at_taps(pixels_are_rows=True, spread=False), along_depth=False)
outputs_at_inputs = functools.partial(elements, where=at_taps(pixels_are_rows=True, spread=True), along_depth=False)
inputs_by_taps = functools.partial(elements, where=at_taps(pixels_are_rows=False, spread=False), along_depth=True)


# ---- passes ---------------------------------------------------------------------------------------------------------------


@device_function
def in_planes(row, column, product, view):
    """Where a pixel lies, and its feature, the channel; view: channels of all and of a group, and the `divisor` of pixels."""
    n, channel = quotient(column, view, 2), product * u32(view[1]) + row
    return (n * u32(view[0]) + channel) * u32(view[2]) + column - n * u32(view[2]), channel


def product_of(one_pass: str, problem: Problem) -> tuple[int, int, int]:
    """Rows, columns and depth of a group's product, for a pass."""
    taps, (outputs, inputs) = math.prod(problem.taps), problem.group_channels
    pixels, input_pixels = (shape[0] * math.prod(shape[2:]) for shape in (problem.y_shape, problem.x_shape))
    if one_pass == "weight":
        return outputs, inputs * taps, pixels
    return (inputs, input_pixels, outputs * taps) if one_pass == "input" else (outputs, pixels, inputs * taps)


def planes_view(shape: Sequence[int], groups: int) -> tuple[int, ...]:
    """The view of C for `in_planes`."""
    return (shape[1], shape[1] // groups, *divisor(math.prod(shape[2:])))


def convolve(
    y: Any,
    partial: Any,
    x: Any,
    weight: Any,
    scale: Any,
    shift: Any,
    order: Any,
    problem: Problem,
    activation: int,
    slope: float,
) -> None:
    """y = activation(scale times convolution of x + shift).

    ``order``: (groups,) int64, 0, 1, 2, ...; partial: flat, room for partial sums, of the kind of sums, or None.
    """
    (rows, columns, depth), kind = product_of("forward", problem), kind_of(x.dtype)
    loaders = loader_of(kind, weight, rows * depth, (depth, 1)), inputs_at_outputs
    y, weight, x = (as_bits(array.ravel()) for array in (y, weight, x))
    views = (rows, depth, depth, 1), image_view(problem, columns, True), planes_view(problem.y_shape, problem.groups)
    operands, size = (weight, x, order, order), (rows, columns, depth)
    multiply(kind, loaders, in_planes, activation, y, partial, operands, scale, shift, size, views, slope)


def convolve_backward_input(dx: Any, partial: Any, dy: Any, weight: Any, order: Any, problem: Problem) -> None:
    """dx = gradient of the input."""
    size, kind, loaders = product_of("input", problem), kind_of(dy.dtype), (weights_of_inputs, outputs_at_inputs)
    dx, weight, dy = (as_bits(array.ravel()) for array in (dx, weight, dy))
    of_weight, of_dy = (image_view(problem, count, False) for count in size[:2])
    views, operands = (of_weight, of_dy, planes_view(problem.x_shape, problem.groups)), (weight, dy, order, order)
    multiply(kind, loaders, in_planes, OVERWRITE, dx, partial, operands, None, None, size, views)


def convolve_backward_weight(dweight: Any, partial: Any, x: Any, dy: Any, order: Any, problem: Problem) -> None:
    """dweight += gradient of the weights."""
    size, kind, loaders = product_of("weight", problem), kind_of(x.dtype), (channels_of_pixels, inputs_by_taps)
    dweight, dy, x = (as_bits(array.ravel()) for array in (dweight, dy, x))
    views = gradient_view(problem, size[0]), image_view(problem, size[1], True), size[:2]
    operands = dy, x, order, order
    multiply(kind, loaders, in_rows, ADD, dweight, partial, operands, None, None, size, views)


class OnCuda(Algorithm):
    """All passes on a GPU, as the products above."""

    name = "cuda"

    def __init__(self, problem: Problem) -> None:
        self.problem, self._groups = problem, own_matrices(problem.groups)

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        """Partial sums of a product of few tiles, and weights rounded to 16 bits for images of such."""
        rows, columns, depth = product_of(one_pass, self.problem)  # fewer images: fewer columns, or a smaller depth
        outputs, inputs = self.problem.y_shape[1], self.problem.group_channels[1]
        return {
            "partial": ((partial_size(columns, rows, depth, self.problem.groups),), wide(self.problem.dtype)),
            "weight": weight_room((outputs, inputs, *self.problem.taps), self.problem.dtype),
        }

    def weight(self, scratch: Arrays, parameter: Parameter) -> Array:
        """(O, C / groups, kh, kw), of the images' dtype."""
        return images(weight_as(parameter, scratch["weight"]))

    def forward(
        self, scratch: Arrays, y: Array, x: Array, weight: Array, scale: Array, shift: Array, activation: int, slope: float
    ) -> None:  # fmt: skip
        """y = activation(scale times convolution of x + shift)."""
        convolve(y, scratch["partial"], x, weight, scale, shift, self._groups, self.problem, activation, slope)

    def backward_input(self, scratch: Arrays, dx: Array, dy: Array, weight: Array) -> None:
        """dx = gradient of the input."""
        if weight.dtype != dy.dtype:
            round_into(scratch["weight"], weight)
            weight = scratch["weight"]
        convolve_backward_input(dx, scratch["partial"], dy, weight, self._groups, self.problem)

    def backward_weight(self, scratch: Arrays, dweight: Array, x: Array, dy: Array) -> None:
        """dweight += gradient of the weights."""
        convolve_backward_weight(dweight, scratch["partial"], x, dy, self._groups, self.problem)


def gradient_view(problem: Problem, rows: int) -> tuple[int, ...]:
    """The view of dy at its own pixels."""
    return (rows, problem.y_shape[1], rows, *image_view(problem, rows, True)[3:])

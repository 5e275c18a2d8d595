"""Convolution with stride 1 by Winograd's algorithm, with 3 x 3 taps F(4x4, 3x3): 36 multiplications where 144 would do.

    Y = A' [ sum_c (G g_c G') * (B' d_c B) ] A

for a tile Y of 4 x 4 outputs, the 6 x 6 inputs d_c that it depends on, and the weights g_c of input channel c
(`numba_nn.layers.conv.winograd_matrices` has the matrices and the sources). The sum over channels is a matrix product for
each of the 36 numbers of a tile, which is where the time goes. With 5 x 5 taps tiles have 2 x 2 outputs, and 36 numbers do
where 100 would; those of signals, with 3 or 5 taps, are of one row: 6 numbers for 12, or for 10. The input gradient is the same
convolution of dy, with weights of input and output channels exchanged, taps reversed, and padding (k - 1) d - p for k taps of
dilation d.

Images are worked off in chunks of tiles whose transformed inputs stay in the cache. For each chunk, first all channels are
transformed, lanes of a vector holding tiles, right into the panels of the product; then some output channels at a time are
multiplied with a panel of tiles, and transformed back. Threads have chunks of their own, or, where tiles are few, share one.

N images; C input and O output channels; P panels of a chunk; a tile has ``numbers``. A NaN or infinity in x makes NaN of the
tiles that read it, not of the outputs only that see it. In the same manner its rounding is relative to the largest number that
a tile reads: see `Conv2d`.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import prange

from numba_nn.core.call import Array, Arrays
from numba_nn.core.epilogue import IDENTITY, finish_channel
from numba_nn.core.kernel import In, Out, Scratch, inner, kernel
from numba_nn.core.parameter import Parameter
from numba_nn.core.simd import VECTORS, tile_rows, tile_shape, vector_lanes
from numba_nn.core.threads import team_size
from numba_nn.core.workspace import Spec
from numba_nn.layers.conv.algorithm import PASSES, Algorithm, Problem
from numba_nn.layers.conv.winograd_gradient import winograd_backward_weight
from numba_nn.layers.conv.winograd_matrices import SIDE, outputs_of, rounding_error, to_outputs
from numba_nn.layers.conv.winograd_tiles import (
    GRADIENT_TILES,
    WIDE,
    Tiling,
    chunk_span,
    clear,
    correlation_arrays,
    correlation_scratch,
    gradient_scratch,
    inputs_to_lanes,
    most_tiles,
    multiply_tiles,
    pad_rows,
    padded_rows,
    padded_width,
    panels_together,
    place_tiles,
    shared_chunk,
    tile_count,
    tile_place,
    write_tiles,
)
from numba_nn.layers.conv.winograd_transforms import FORMS, strip_transform
from numba_nn.layers.conv.winograd_weights import (
    transform_panels,
    transform_panels_transposed,
    winograd_transform_weight,
    winograd_transform_weight_transposed,
)
from numba_nn.layers.image import images

# What the transform of a tile of 36 numbers costs for an input channel and for an output channel, in multiply-adds, and for a
# pair of them that of the weights, which is bound by memory, or, with every chunk of a weight gradient, that of the taps (Zen
# 4; weights: Zen 3). Of 6 numbers it costs more than a sixth, and as many times that as a signal has phases: each comes through
# all cache lines. Dilated images are copied number by number (Intel Xeon).
INPUT_COST, OUTPUT_COST, WEIGHT_COST, TAPS_COST = 450, 300, 600, 300
ROW_SHARE, DILATED = 0.4, 1.6
TILES_TO_OUTPUTS = 4  # see `each_takes_tiles`
WEIGHT_WORK = 8  # of transforming a weight, in units of `Kernel.for_work`

lanes_to_outputs = strip_transform(lambda taps: to_outputs(outputs_of(taps)))


@kernel
def winograd_correlate(
    y: Out, inputs: Scratch, padded: Scratch, products: Scratch, strips: Scratch, corners: Scratch,
    x: In, transformed: In, scale: In, shift: In, tiling: tuple[int, ...], padding: tuple[int, int], activation: int,
    slope: float,
):  # fmt: skip
    """y = activation(scale times correlation of x with transformed weights + shift); scale, shift: (O,).

    inputs: (areas, P, numbers, C tiles), corners: (areas, P tiles), and for each worker padded, products: (numbers, rows
    tiles), strips.
    """
    tiles, lanes, workers = tile_count(y.shape[0], Tiling(*tiling)), vector_lanes(y), padded.shape[0]
    vectors, team = -(-tiles // lanes), min(team_size(), workers)
    if each_takes_tiles(tiles, y.shape[1], lanes, team):
        for worker in prange(team):
            start, stop, chunk = vectors * worker // team * lanes, vectors * (worker + 1) // team * lanes, corners.shape[1]
            for first in range(start, min(stop, tiles), chunk):
                count = min(chunk, min(stop, tiles) - first)
                place_tiles(corners[worker], first, count, Tiling(*tiling))
                transform_chunk(
                    inputs[worker], padded[worker], corners[worker], x, 0, 1, first, count, Tiling(*tiling), padding
                )  # fmt: skip
                multiply_chunk(
                    y, products[worker], strips[worker], inputs[worker], transformed, scale, shift, 0, 1, first, count,
                    Tiling(*tiling), activation, slope,
                )  # fmt: skip
        return
    shared, places = inputs.reshape((-1, inputs.shape[2], inputs.shape[3])), corners.reshape(-1)
    chunk = shared_chunk(places.size)
    for first in range(0, tiles, chunk):
        count = min(chunk, tiles - first)
        place_tiles(places, first, count, Tiling(*tiling))
        for worker in prange(workers):
            transform_chunk(shared, padded[worker], places, x, worker, workers, first, count, Tiling(*tiling), padding)
        for worker in prange(workers):
            multiply_chunk(
                y, products[worker], strips[worker], shared, transformed, scale, shift, worker, workers, first, count,
                Tiling(*tiling), activation, slope,
            )  # fmt: skip


@kernel
def winograd_correlate_few(
    y: Out, inputs: Scratch, padded: Scratch, products: Scratch, strips: Scratch, corners: Scratch, transformed: Scratch,
    taps: Scratch, x: In, weight: In, scale: In, shift: In, tiling: tuple[int, ...], padding: tuple[int, int], exchanged: int,
    activation: int, slope: float,
):  # fmt: skip
    """`winograd_correlate` of no more tiles than a chunk holds, which transforms the weights that it multiplies next.

    All of them would go to memory and back: the input gradient of [256,14,14] to 256 takes 0.7 of the time so (Intel Xeon).
    weight: as it is; exchanged: 1 for an input gradient; transformed: (workers, 1, numbers, C rows), a panel each.
    """
    tiles, workers, height = tile_count(y.shape[0], Tiling(*tiling)), padded.shape[0], tile_rows(y)
    shared, places = inputs.reshape((-1, inputs.shape[2], inputs.shape[3])), corners.reshape(-1)
    if tiles == 0:
        return
    place_tiles(places, 0, tiles, Tiling(*tiling))
    for worker in prange(workers):
        transform_chunk(shared, padded[worker], places, x, worker, workers, 0, tiles, Tiling(*tiling), padding)
    panels, workers = -(-y.shape[1] // height), transformed.shape[0]
    for worker in prange(workers):
        for panel in range(panels * worker // workers, panels * (worker + 1) // workers):
            if exchanged:
                transform_panels_transposed(transformed[worker], taps[worker], weight, panel)
            else:
                transform_panels(transformed[worker], taps[worker], weight, panel)
            multiply_panel(
                y, products[worker], strips[worker], shared, transformed[worker], scale, shift, panel, tiles, Tiling(*tiling),
                activation, slope,
            )  # fmt: skip


@inner
def each_takes_tiles(tiles, outputs, lanes, team):
    """Whether threads take tiles each, or work on the same ones, each on some channels.

    What a thread transforms lies in the cache of its core: with two threads of an Intel Xeon 64 channels at 56 x 56 take 0.52
    of the time so, 128 at 28 x 28 0.7. But each reads all weights: 32 tiles of 512 channels take 1.3 times as long.
    """
    return team == 1 or (tiles >= lanes * team and tiles * TILES_TO_OUTPUTS >= outputs)


@inner
def transform_chunk(inputs, padded, corners, x, part, parts, first, count, tiling, padding):
    """Transform a chunk's tiles of one of ``parts`` of the channels into panels of tiles; inputs: (P, numbers, C tiles)."""
    lanes, channels, numbers, step = vector_lanes(x), x.shape[1], inputs.shape[1], inputs.shape[2]
    flat, width, tiles = inputs.reshape(inputs.size), padded_width(tiling), (step - lanes) // channels
    span = chunk_span(first, count, tiling)
    clear(padded, padded_rows(count, x.shape[0], tiling) * width + WIDE)
    for c in range(channels * part // parts, channels * (part + 1) // parts):
        pad_rows(padded, x, c, span, tiling, padding)
        for t in range(0, count, lanes):
            at = t // tiles * numbers * step + c * tiles + t % tiles
            inputs_to_lanes(tiling[:2], flat, at, step, padded, 0, corners, t, width)


@inner
def multiply_chunk(
    y, products, strips, inputs, transformed, scale, shift, part, parts, first, count, tiling, activation, slope
):  # fmt: skip
    """Multiply and transform back one of ``parts`` of a chunk: some output channels and a panel of tiles at a time."""
    height, lanes, row_panels = tile_rows(y), vector_lanes(y), transformed.shape[0]
    channels = (transformed.shape[2] - lanes) // height
    width = (inputs.shape[2] - lanes) // channels
    panels, row_blocks = -(-count // width), -(-row_panels // panels_together(inputs.shape[1], channels, width, y.itemsize))
    tasks = row_blocks * panels
    for t in range(tasks * part // parts, tasks * (part + 1) // parts):
        i, p = t // panels, t % panels
        panel, panel_end = i * row_panels // row_blocks, (i + 1) * row_panels // row_blocks
        wanted = -(-min(width, count - p * width) // lanes) * lanes
        multiply_tiles(products, inputs[p], transformed, channels, y.shape[1], panel, panel_end, width, wanted)
        row, row_end = panel * height, min(y.shape[1], panel_end * height)
        start, stop = first + p * width, first + min(count, (p + 1) * width)
        finish_tiles(y, strips, products, width, scale, shift, row, row_end, start, stop, tiling, activation, slope)


@inner
def multiply_panel(y, products, strips, inputs, transformed, scale, shift, panel, tiles, tiling, activation, slope):
    """Multiply and transform back one panel of output channels, for all tiles."""
    height, lanes = tile_rows(y), vector_lanes(y)
    row, channels = panel * height, (transformed.shape[2] - lanes) // height
    width = (inputs.shape[2] - lanes) // channels
    for start in range(0, tiles, width):
        stop = min(tiles, start + width)
        wanted = -(-(stop - start) // lanes) * lanes
        multiply_tiles(products, inputs[start // width], transformed, channels, y.shape[1] - row, 0, 1, width, wanted)
        finish_tiles(
            y, strips, products, width, scale, shift, row, min(y.shape[1], row + height), start, stop, tiling, activation, slope
        )  # fmt: skip


@inner
def finish_tiles(y, strips, products, width, scale, shift, row, row_end, first, last, tiling, activation, slope):
    """Output channels ``row`` to ``row_end`` of tiles ``first`` to ``last``, from their products."""
    lanes, stride = vector_lanes(y), width * tiling.width
    flat, step, place = products.reshape(products.size), products.shape[1], tile_place(first, tiling)
    for o in range(row, row_end):
        for t in range(0, last - first, lanes):
            lanes_to_outputs(tiling[:2], strips, t * tiling.width, stride, flat, (o - row) * width + t, step)
        finish_channel(strips, 0, strips.size, scale[o], shift[o], activation, slope)
        write_tiles(y, o, strips, stride, last - first, place, tiling)


class Winograd(Algorithm):
    """For stride 1, and taps that `FORMS` names."""

    name = "winograd"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        pairs = zip(problem.taps, problem.dilation, problem.padding, strict=True)
        self._back = tuple((k - 1) * d - before for k, d, before in pairs)
        self._tilings = {one_pass: tuple(tiling_of(one_pass, problem)) for one_pass in PASSES}
        self._few = [one_pass for one_pass in ("forward", "input") if tiles_are_few(one_pass, problem)]

    @classmethod
    def refusal(cls, problem: Problem, one_pass: str = "forward") -> str:
        forms, taps = [f"{down} x {across}" for down, across in FORMS], "{} x {}".format(*problem.taps)
        wrong = [] if taps in forms else [f"kernel_size {' or '.join(forms)}, got {taps}"]
        wrong += [f"stride 1, got {problem.stride}"] * (problem.stride != (1, 1))
        return "; ".join(wrong + [f"groups 1, got {problem.groups}"] * (problem.groups > 1))

    @classmethod
    def gain(cls, one_pass: str, problem: Problem) -> float:
        """How many times as fast as a direct convolution it is, by an estimate in multiply-adds; it grows with the batch."""
        (batch, channels), outputs, sizes = problem.x_shape[:2], problem.y_shape[1], problem.y_shape[2:]
        if one_pass == "input":
            channels, outputs, sizes = outputs, channels, problem.x_shape[2:]
        cut, lanes = tiling_of(one_pass, problem), tile_shape(problem.dtype)[1] // VECTORS
        numbers, tiles = cut.numbers, max(1, tile_count.py_func(batch, cut))
        share = numbers / SIDE**2
        if one_pass == "weight":
            per_tile = numbers + share * TAPS_COST / min(tiles, GRADIENT_TILES)
        else:
            # Half a vector is missing in the last one, until there is a batch that fills it.
            missing = 0 if tiles >= math.lcm(tile_count.py_func(1, cut), lanes) else lanes // 2
            per_tile = numbers * (tiles + missing) / tiles + (share * WEIGHT_COST / tiles if one_pass != "inference" else 0)
        direct = math.prod(problem.taps) * batch * math.prod(sizes) / tiles
        copies = 1.0 if problem.dilation == (1, 1) else DILATED
        if share < 1:
            copies = ROW_SHARE * problem.dilation[1]
        return direct / (per_tile + copies * (INPUT_COST / outputs + OUTPUT_COST / channels))

    @classmethod
    def error(cls, one_pass: str, problem: Problem) -> float:
        """Estimate of the largest error relative to the largest result: see `rounding_error`."""
        epsilon = float(np.finfo(problem.dtype).eps)
        if one_pass == "weight":
            return epsilon * rounding_error(problem.taps, GRADIENT_TILES, gradient=True)
        return epsilon * rounding_error(problem.taps, problem.y_shape[1] if one_pass == "input" else problem.x_shape[1])

    def scratch_spec(self, one_pass: str, workers: int) -> dict[str, Spec]:
        problem, spec = self.problem, gradient_scratch if one_pass == "weight" else correlation_scratch
        shapes = (problem.y_shape, problem.x_shape) if one_pass == "input" else (problem.x_shape, problem.y_shape)
        specs = spec(tiling_of(one_pass, problem), *shapes, problem.dtype, workers)
        if one_pass in self._few:
            (panels, *panel), dtype = specs["weight"]
            specs["weight"] = (min(workers, panels), 1, *panel), dtype
        return specs

    def weight(self, scratch: Arrays, parameter: Parameter) -> Array:
        """Transformed weights, or as they are where a forward of few tiles transforms them."""
        if "forward" in self._few and not parameter.locked:
            return super().weight(scratch, parameter)
        return parameter.packed("winograd", scratch["weight"], functools.partial(self._transform, scratch["taps"]))

    def _transform(self, taps: Array, transformed: Array, weight: Array) -> None:
        run = winograd_transform_weight.for_work(WEIGHT_WORK * weight.size)
        run(transformed, taps, images(weight))  # a signal's have 3 axes

    def forward(
        self, scratch: Arrays, y: Array, x: Array, weight: Array, scale: Array, shift: Array, activation: int, slope: float
    ) -> None:
        self._correlate(0, scratch, y, x, weight, scale, shift, activation, slope)

    def backward_input(self, scratch: Arrays, dx: Array, dy: Array, weight: Array) -> None:
        if "input" not in self._few:
            run = winograd_transform_weight_transposed.for_work(WEIGHT_WORK * weight.size)
            run(scratch["weight"], scratch["taps"], weight)
            weight = scratch["weight"]
        self._correlate(1, scratch, dx, dy, weight, self.ones, self.zeros, IDENTITY, 0.0)

    def _correlate(
        self, exchanged: int, scratch: Arrays, y: Array, x: Array, weight: Array, scale: Array, shift: Array, *terms: Any
    ) -> None:
        """The forward, or, with weights of input and output channels exchanged, the input gradient."""
        tiling, padding = self._tilings[PASSES[exchanged]], self._back if exchanged else self.problem.padding
        arrays, work = correlation_arrays(scratch), self.problem.work
        if weight.ndim == 4:  # as they are
            winograd_correlate_few.for_work(work)(
                y, *arrays, scratch["weight"], scratch["taps"], x, weight, scale, shift, tiling, padding, exchanged, *terms
            )  # fmt: skip
        else:
            winograd_correlate.for_work(work)(y, *arrays, x, weight, scale, shift, tiling, padding, *terms)

    def backward_weight(self, scratch: Arrays, dweight: Array, x: Array, dy: Array) -> None:
        run = winograd_backward_weight.for_work(self.problem.work)
        run(dweight.reshape(-1), *scratch.values(), x, dy, self._tilings["weight"], self.problem.padding)


def tiling_of(one_pass: str, problem: Problem) -> Tiling:
    """The tiles of what a pass has for outputs; a weight gradient has those of the forward."""
    return Tiling.of((problem.x_shape if one_pass == "input" else problem.y_shape)[2:], problem.taps, problem.dilation)


def tiles_are_few(one_pass: str, problem: Problem) -> bool:
    """Whether a pass has no more tiles than a chunk: then each weight is multiplied once."""
    tiling, channels = tiling_of(one_pass, problem), (problem.y_shape if one_pass == "input" else problem.x_shape)[1]
    return tile_count.py_func(problem.x_shape[0], tiling) <= most_tiles(tiling, channels, problem.dtype)

"""How a correlation is laid out: padded planes of the image, blocks of the output, and tables of where taps are.

The image rows that a block of output pixels needs are copied into *planes*, one per channel, with zeros around them. Stride s
splits a plane into s x s *phases*, one for each remainder of row and column, so that neighbouring output pixels always read
neighbours. Output pixel (m, q) of a block is then position p = m pitch + q for every tap, and a tap is one constant offset: the
patch matrix is never built, only a table of offsets. (The positions between q = columns and the pitch are computed in vain.)

The input gradient is a correlation over dy whose *output* has phases: rows h of dx with h + p = m s + f see only the taps i
with i d = f modulo s, those at row m - i d // s of dy.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from numba_nn.core.kernel import inlined, inner
from numba_nn.core.product.block import DEPTH
from numba_nn.core.product.gemm import TASKS
from numba_nn.core.product.tap_tile import FEW_ROWS, WIDE
from numba_nn.core.rows import fill
from numba_nn.core.simd import copy_run, tile_shape, vector_lanes
from numba_nn.core.vector import elements, evens, lanes_between, load, odds, store, zeros
from numba_nn.core.workspace import Shape
from numba_nn.layers.conv.algorithm import Problem

CHUNK = 48  # rows of a block that are finished together: 48 x 256 x 4 B = 48 KB of sums
PLANES = 2**17  # elements of all planes of a block: 512 KB of float32, half a 1 MB L2
MIN_PIXELS, PIXELS, FLAT_PIXELS = 64, 512, 1024  # of a block; FLAT_PIXELS if its patches have few elements
FLAT_DEPTH = 64
ROW_CYCLES = 30  # what a row costs to copy, however short
ONE_ROW = 1.8  # the effort of a tile of one row, which waits for its loads
PLACE_APART = 80  # multiply-adds of a vector: placing one whose elements lie apart
COPY_SHARE = 0.1  # of the time that blocks of the same pixels, for other rows of weights, may copy planes once more


@dataclass(frozen=True)
class Correlation:
    """A correlation from ``source`` (C, H, W) to ``target`` (O, H', W').

    Row r of the planes of a block that starts with grid row m is row m step - lead + r of the source; grid row m of phase f is
    row m spread + f - shift of the target.
    """

    source: Shape
    target: Shape
    grid: Shape
    step: Shape
    lead: Shape
    spread: Shape
    shift: Shape
    places: tuple[list[tuple[int, int]], ...]
    """For rows and for columns: phase of the target and offset in the planes, in steps of the source, of every tap."""


def forward_correlation(problem: Problem) -> Correlation:
    """The forward: phases in the source."""
    places = tuple([(0, i * d) for i in range(k)] for k, d in zip(problem.taps, problem.dilation, strict=True))
    _, channels, *source = problem.x_shape
    _, rows, *grid = problem.y_shape
    return Correlation(
        source=(channels, *source), target=(rows, *grid), grid=tuple(grid), step=problem.stride, lead=problem.padding,
        spread=(1, 1), shift=(0, 0), places=places,
    )  # fmt: skip


def input_correlation(problem: Problem) -> Correlation:
    """The input gradient: phases in the target."""
    _, channels, *source = problem.y_shape
    _, rows, *target = problem.x_shape
    axes = list(zip(target, problem.taps, problem.stride, problem.padding, problem.dilation, strict=True))
    first = [p // s for _, _, s, p, _ in axes]
    reach = [(k - 1) * d // s for _, k, s, _, d in axes]
    return Correlation(
        source=(channels, *source), target=(rows, *target),
        grid=tuple((n - 1 + p) // s - m + 1 for (n, _, s, p, _), m in zip(axes, first, strict=True)),
        step=(1, 1), lead=tuple(r - m for r, m in zip(reach, first, strict=True)), spread=problem.stride,
        shift=tuple(p % s for _, _, s, p, _ in axes),
        places=tuple([(i * d % s, r - i * d // s) for i in range(k)] for (_, k, s, _, d), r in zip(axes, reach, strict=True)),
    )  # fmt: skip


class Numbers(NamedTuple):
    """What kernels know of a `Layout`.

    They take a plain tuple and name it themselves: an argument with names would cost 2 us more a call.
    """

    row_step: int
    column_step: int
    row_lead: int
    column_lead: int
    pitch: int
    """From row to row of a phase of a plane."""
    area: int
    """From phase to phase of a plane."""
    plane: int
    """From plane to plane."""
    row_reach: int
    """The last offset of a tap."""
    column_reach: int
    grid_rows: int
    grid_columns: int
    block_rows: int
    block_columns: int
    row_spread: int
    column_spread: int
    row_shift: int
    column_shift: int
    channels: int
    """Of a slice of the depth."""
    width: int
    """From row to row of the sums."""
    height: int
    """Rows of a panel of weights."""
    panels: int
    parts: int
    """That the rows of the weights are cut into, for each block."""
    row_phases: int
    """Of a plane, that taps see."""
    column_phases: int
    by_rows: int
    """Whether rows of the target are finished as they are summed: see `Layout`."""


class Layout:
    """Blocks, planes and tables of a correlation, for any number of images.

    Parameters
    ----------
    problem : Problem
        The convolution.
    correlation : Correlation
        One of its passes, as a correlation.

    Attributes
    ----------
    offsets : ndarray of int64
        For each phase, where in the planes of a slice of channels each (channel, tap) is.
    phases : ndarray of int64
        (phases of the target, 5): its row and column, taps, where its offsets and where its taps start.
    taps : ndarray of int64
        The taps, phase by phase.
    by_rows : bool
        Whether rows of the target are finished as they are summed.
    """

    def __init__(self, problem: Problem, correlation: Correlation) -> None:
        self._correlation, groups = correlation, problem.groups
        self._channels, self._rows = correlation.source[0] // groups, correlation.target[0] // groups
        self._reach = tuple(max(offset for _, offset in places) for places in correlation.places)
        self._width = WIDE * tile_shape(problem.dtype)[1] // 2
        self._kept = tuple(
            1 + max(offset % step for _, offset in places)
            for places, step in zip(correlation.places, correlation.step, strict=True)
        )
        self._taps = math.prod(len(places) for places in correlation.places)
        wide = self._channels * self._taps <= FLAT_DEPTH
        pixels = max(MIN_PIXELS, min(FLAT_PIXELS if wide else PIXELS, PLANES // self._channels))
        self._columns = -(-correlation.grid[1] // -(-correlation.grid[1] // pixels))
        self._pitch = self._plane_pitch()
        self.panel_rows = 1 if self._rows == 1 else FEW_ROWS if self._rows <= FEW_ROWS else tile_shape(problem.dtype)[0]
        self.by_rows = self._goes_by_rows()  # which asks for what is set above, and on which what follows depends
        rows = min(correlation.grid[0], max(1, pixels // self._pitch))
        self._height = min(range(1, rows + 1), key=self._cost)
        self._lines = -(-((self._height - 1) * correlation.step[0] + self._reach[0] + 1) // correlation.step[0])
        # A plane is an odd number of 64-byte lines (of float32), so that planes do not fall on the same lines of the cache.
        self._area = self._lines * self._pitch + self._reach[1]
        self.plane = (-(-self._area * math.prod(correlation.step) // 16) // 2 * 2 + 1) * 16
        self.sums = -(-((self._height - 1) * self._pitch + self._columns) // self._width) * self._width
        self._slice = max(1, min(self._channels, DEPTH // self._taps))
        self._make_tables()
        self._groups = groups
        self.panels = -(-self._rows // self.panel_rows)
        self.packed = groups * self.panels * self.panel_rows * self._channels * self._taps

    def _plane_pitch(self) -> int:
        """From one row of a plane to the next. Blocks of whole rows share the zeros at the end of one and start of the next."""
        correlation, columns, reach = self._correlation, self._columns, self._reach[1]
        lead, step = correlation.lead[1], correlation.step[1]
        if step > 1 or columns < correlation.grid[1] or lead < 0:
            return -(-((columns - 1) * step + reach + 1) // step)
        return min(columns + reach, max(columns, lead + correlation.source[2], columns + reach - lead))

    def _goes_by_rows(self) -> bool:
        """Whether rows of the target are finished as they are summed, which spares them a way through the caches.

        It needs a depth of a single slice, and rows of more than a vector: few sums at once would wait for one another. What
        tiles compute beyond the end of a row must take less time than to place it. 3 channels of 224 x 224, 3 x 3 taps with
        stride 2, take 0.74 of the time so (Intel Xeon), 16 channels 0.94.
        """
        lanes, depth = self._width // WIDE, self._channels * self._taps  # two vectors are multiplied in a cycle
        beyond = -(-self._columns // lanes) - self._pitch / lanes
        dense = math.prod(self._correlation.spread) == 1 and self.panel_rows > 1 and self._columns > lanes
        return dense and depth <= DEPTH and beyond * depth / 2 < ROW_CYCLES

    def _cost(self, height: int, effort: float = 1.0) -> float:
        """Cycles per channel, if blocks have so many rows; effort: what multiplies those of the product."""
        grid_rows, total = self._correlation.grid[0], 0.0
        for rows, count in ((height, grid_rows // height), (grid_rows % height, 1)):
            if rows:
                total += count * (effort * self._product_cost(rows) + self._copy_cost(rows))
        return total

    def _product_cost(self, height: int) -> float:
        """Cycles per channel of multiply-adds of vectors, of loading weights, and of placing the rows of the result."""
        lanes, pixels = self._width // WIDE, height * self._columns
        if self.by_rows:
            pixels = height * -(-self._columns // lanes) * lanes
        elif self._columns % lanes:
            pixels = -(-((height - 1) * self._pitch + self._columns) // lanes) * lanes
        return self._rows * (pixels * self._taps / lanes + self._taps / 8 + ROW_CYCLES / self._channels)

    def _copy_cost(self, height: int) -> float:
        """Cycles per channel of `pad_planes`."""
        rows = (height - 1) * self._correlation.step[0] + self._reach[0] + 1
        return rows * (ROW_CYCLES + self._pitch * self._correlation.step[1] / 8)

    def _make_tables(self) -> None:
        correlation, step, spread = self._correlation, self._correlation.step, self._correlation.spread
        places, columns = correlation.places, len(correlation.places[1])
        offsets: list[int] = []
        order: list[int] = []
        phases = []
        for f in range(math.prod(spread)):
            chosen = [
                (i * columns + j, self._offset(row, column, step))
                for i, (row_phase, row) in enumerate(places[0])
                for j, (column_phase, column) in enumerate(places[1])
                if (row_phase, column_phase) == divmod(f, spread[1])
            ]
            phases.append((*divmod(f, spread[1]), len(chosen), len(offsets), len(order)))
            offsets += [c * self.plane + offset for c in range(self._slice) for _, offset in chosen]
            order += [tap for tap, _ in chosen]
        self.offsets, self.phases, self.taps = (np.array(table, np.int64) for table in (offsets, phases, order))

    def _offset(self, row: int, column: int, step: Shape) -> int:
        phase = row % step[0] * step[1] + column % step[1]
        return phase * self._area + row // step[0] * self._pitch + column // step[1]

    def numbers(self, images: int) -> Numbers:
        """What kernels know, for so many images."""
        correlation, height = self._correlation, self._height
        (row_step, column_step), (row_lead, column_lead) = correlation.step, correlation.lead
        (row_spread, column_spread), (row_shift, column_shift) = correlation.spread, correlation.shift
        blocks = -(-correlation.grid[0] // height) * -(-correlation.grid[1] // self._columns)
        wanted = -(-TASKS // max(1, images * self._groups * blocks))
        share = COPY_SHARE * self._product_cost(height) / self._copy_cost(height)
        return Numbers(
            row_step=row_step, column_step=column_step, row_lead=row_lead, column_lead=column_lead,
            pitch=self._pitch, area=self._area, plane=self.plane, row_reach=self._reach[0], column_reach=self._reach[1],
            grid_rows=correlation.grid[0], grid_columns=correlation.grid[1], block_rows=height, block_columns=self._columns,
            row_spread=row_spread, column_spread=column_spread, row_shift=row_shift, column_shift=column_shift,
            channels=self._slice, width=self.sums, height=self.panel_rows, panels=self.panels,
            parts=max(1, min(wanted, self.panels // 2, 1 + int(share))), row_phases=self._kept[0], column_phases=self._kept[1],
            by_rows=self.by_rows,
        )  # fmt: skip

    @property
    def cost(self) -> float:
        """Of an image and group, in multiply-adds of a vector, as `Algorithm.cost`."""
        across, rows, lanes = -(-self._correlation.grid[1] // self._columns), self._rows, self._width // WIDE
        effort = ONE_ROW if rows == 1 else 1.0
        if 1 < rows < 3 * FEW_ROWS:  # tiles of so many, the last one in part
            effort = -(-rows // FEW_ROWS) * FEW_ROWS / rows
        apart = 0 if math.prod(self._correlation.spread) == 1 else PLACE_APART
        placing = apart * rows * math.prod(self._correlation.target[1:]) / lanes
        return across * self._channels * self._cost(self._height, effort) + placing

    @property
    def planes(self) -> int:
        """Elements of the planes of a block; a tile that starts at the end of the last one reads beyond it."""
        return self._channels * self.plane + self.sums + self._width


@functools.lru_cache(maxsize=256)
def layouts(problem: Problem) -> tuple[Layout, Layout]:
    """Of the forward and of the input gradient, for a problem of one image: all batches share their tables."""
    return Layout(problem, forward_correlation(problem)), Layout(problem, input_correlation(problem))


@inner
def pad_planes(planes, x, n, first, channels, top, left, size, numbers):
    """Copy ``channels`` channels of image n, from ``first``, into planes whose corner is (top, left) of the image.

    size: rows and columns of the image that a block needs.
    """
    step, kept = (numbers.row_step, numbers.column_step), (numbers.row_phases, numbers.column_phases)
    pitch, area, plane = numbers.pitch, numbers.area, numbers.plane
    zero, lanes = planes.dtype.type(0), vector_lanes(planes)
    flat, height, width = x.reshape(x.size), x.shape[2], x.shape[3]
    target, origin = elements(planes), elements(flat)
    columns = min(size[1], pitch) if step[1] == 1 else size[1]
    start = min(columns, max(0, -left))  # first column that may hold a pixel
    stop = max(start, min(columns, width - left))
    whole = -(-(stop - start) // lanes) * lanes  # vectors that are copied read and write beyond the run
    for c in range(channels):
        for phase in range(kept[0]):
            at = c * plane + phase * step[1] * area
            end = at + area
            for row in range(top + phase, top + size[0], step[0]):
                source = ((n * x.shape[1] + first + c) * height + row) * width + left
                inside = row >= 0 and row < height
                if step[1] == 2:
                    split_pairs(target, at, area, end, origin, source, start, stop if inside else start, pitch, lanes)
                elif step[1] > 2:
                    split_row(planes, at, area, flat, source, start, stop if inside else start, pitch, step[1], kept[1])
                else:
                    fill(planes, at, at + (start if inside else pitch), zero)
                    if inside and source + start + whole <= x.size:
                        copy_run(planes, at + start, flat, source + start, stop - start)
                    elif inside:
                        for q in range(start, stop):
                            planes[np.uintp(at + q)] = flat[np.uintp(source + q)]
                    fill(planes, at + (stop if inside else pitch), at + max(pitch, size[1]), zero)
                at += pitch


@inlined
def split_pairs(target, at, area, end, x, source, start, stop, pitch, lanes):
    """`split_row` for two phases, the first up to ``end``; arrays as `elements`."""
    zero = zeros(x)
    for q in range(0, pitch, lanes):
        first, last = start - 2 * q, stop - 2 * q
        near = load(x, source + 2 * q, lanes_between(max(0, first), min(lanes, last)), zero)
        far = load(x, source + 2 * q + lanes, lanes_between(max(0, first - lanes), min(lanes, last - lanes)), zero)
        room = lanes_between(0, min(lanes, pitch - q))
        store(target, at + q, evens(near, far), room, end)
        store(target, at + area + q, odds(near, far), room, end + area)


@inner
def split_row(planes, at, area, x, source, start, stop, pitch, step, kept):
    """One row of `pad_planes`, split into the phases of its columns: x from ``start`` to ``stop``, zeros around."""
    for f in range(kept):
        first, last = -(-(start - f) // step), -(-(stop - f) // step)
        to, origin = at + f * area, source + f
        fill(planes, to, to + first, planes.dtype.type(0))
        for q in range(first, last):
            planes[np.uintp(to + q)] = x[np.uintp(origin + q * step)]
        fill(planes, to + max(first, last), to + pitch, planes.dtype.type(0))

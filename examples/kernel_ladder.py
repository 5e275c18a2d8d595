"""One matrix product and one convolution, from plain loops to the library's kernels, rung by rung; see docs/kernel_ladder.md.

    python examples/kernel_ladder.py             # prints the tables of docs/kernel_ladder.md
    python examples/kernel_ladder.py --plot kernel_ladder.png --size 512

Every rung is checked against float64 NumPy before it is timed. Rates count the multiply-adds of the definition, so a kernel
that makes do with fewer (the last rung) can pass the peak.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import jit

import numba_nn as nn
from numba_nn.core.kernel import FLAGS
from numba_nn.core.peak import measure_peak
from numba_nn.core.product.block import DEPTH, multiply_block, multiply_slice
from numba_nn.core.product.packing import pack_panels
from numba_nn.core.product.tap_tile import fma_taps
from numba_nn.core.simd import tile_columns, tile_rows, tile_shape

ladder = jit(**FLAGS)
"""Numba's compiler as the library's kernels use it, without threads."""


# ---- matrix product: c = a b ---------------------------------------------------------------------------------------------


@ladder
def three_loops(c, a, b):
    """As the definition says: an element of c after the other."""
    for i in range(c.shape[0]):
        for j in range(c.shape[1]):
            total = np.float32(0)
            for k in range(a.shape[1]):
                total += a[i, k] * b[k, j]
            c[i, j] = total


@ladder
def rows_in_order(c, a, b):
    """The same loops in another order: the innermost runs along rows of b and c, in whole vectors."""
    c[:] = 0
    for i in range(c.shape[0]):
        for k in range(a.shape[1]):
            for j in range(c.shape[1]):
                c[i, j] += a[i, k] * b[k, j]


@ladder
def four_rows(c, a, b):
    """Four rows of c at a time: each vector of b is loaded once for four multiply-adds. The size is a multiple of 4."""
    c[:] = 0
    for i in range(0, c.shape[0], 4):
        c0, c1, c2, c3 = c[i], c[i + 1], c[i + 2], c[i + 3]
        for k in range(a.shape[1]):
            a0, a1, a2, a3, row = a[i, k], a[i + 1, k], a[i + 2, k], a[i + 3, k], b[k]
            for j in range(row.size):
                c0[j] += a0 * row[j]
                c1[j] += a1 * row[j]
                c2[j] += a2 * row[j]
                c3[j] += a3 * row[j]


@ladder
def register_tile(c, a, b):
    """A tile of c stays in the vector registers for the whole depth: c is neither loaded nor stored in between.

    The last tile of columns reads beyond b: see `with_slack`.
    """
    m, n, depth = c.shape[0], c.shape[1], a.shape[1]
    flat_a, flat_b, height, width = a.reshape(a.size), b.reshape(b.size), tile_rows(c), tile_columns(c)
    multiply_slice(
        c.reshape(c.size), 0, n, m, n, m, False, flat_a, 0, (height * depth, depth, 1), flat_b, 0, (width, n), depth, 0
    )  # fmt: skip


@ladder
def packed(c, a, b, panels_a, panels_b):
    """Operands are copied to where the tile reads them, in its order; a slice of their depth at a time stays in the caches."""
    m, n, depth, height, width = c.shape[0], c.shape[1], a.shape[1], tile_rows(c), tile_columns(c)
    pack_panels(panels_a, 0, a.reshape(a.size), 0, depth, 1, m, height, depth, 0, depth)
    pack_panels(panels_b, 0, b.reshape(b.size), 0, 1, n, n, width, depth, 0, depth)
    multiply_block(
        c.reshape(c.size), 0, n, m, n, False,
        panels_a, 0, (height * depth, 1, height), panels_b, 0, (width * depth, width), depth,
    )  # fmt: skip


# ---- convolution: y[n, o, h, w] = sum_{c, i, j} weight[o, c, i, j] x[n, c, h + i, w + j]; x has its border of zeros ------


@ladder
def seven_loops(y, x, weight):
    """As the definition says: a pixel of y after the other."""
    images, outputs, rows, columns = y.shape
    for n in range(images):
        for o in range(outputs):
            for h in range(rows):
                for w in range(columns):
                    total = np.float32(0)
                    for c in range(x.shape[1]):
                        for i in range(weight.shape[2]):
                            for j in range(weight.shape[3]):
                                total += weight[o, c, i, j] * x[n, c, h + i, w + j]
                    y[n, o, h, w] = total


@ladder
def rows_of_pixels(y, x, weight):
    """The innermost loop runs along a row of the image."""
    y[:] = 0
    for n in range(y.shape[0]):
        for o in range(y.shape[1]):
            for c in range(x.shape[1]):
                for i in range(weight.shape[2]):
                    for j in range(weight.shape[3]):
                        tap = weight[o, c, i, j]
                        for h in range(y.shape[2]):
                            target, source = y[n, o, h], x[n, c, h + i, j:]
                            for w in range(target.size):
                                target[w] += tap * source[w]


@ladder
def four_outputs(y, x, weight):
    """Four channels of y at a time: each vector of x is loaded once for four multiply-adds. Channels are a multiple of 4."""
    y[:] = 0
    for n in range(y.shape[0]):
        for o in range(0, y.shape[1], 4):
            for h in range(y.shape[2]):
                y0, y1, y2, y3 = y[n, o, h], y[n, o + 1, h], y[n, o + 2, h], y[n, o + 3, h]
                for c in range(x.shape[1]):
                    for i in range(weight.shape[2]):
                        for j in range(weight.shape[3]):
                            taps, source = weight[o : o + 4, c, i, j], x[n, c, h + i, j:]
                            t0, t1, t2, t3 = taps[0], taps[1], taps[2], taps[3]
                            for w in range(y0.size):
                                y0[w] += t0 * source[w]
                                y1[w] += t1 * source[w]
                                y2[w] += t2 * source[w]
                                y3[w] += t3 * source[w]


@ladder
def patch_matrix(y, x, weight, patches, panels_a, panels_b):
    """All patches are written down as columns of a matrix; then it is a matrix product, and the packed one serves."""
    outputs, taps = weight.shape[0], weight.shape[2] * weight.shape[3]
    matrix = weight.reshape(outputs, x.shape[1] * taps)
    for n in range(y.shape[0]):
        for c in range(x.shape[1]):
            for t in range(taps):
                i, j = t // weight.shape[3], t % weight.shape[3]
                for h in range(y.shape[2]):
                    target, source = patches[c * taps + t, h * y.shape[3] :], x[n, c, h + i, j:]
                    for w in range(y.shape[3]):
                        target[w] = source[w]
        packed(y[n].reshape(outputs, patches.shape[1]), matrix, patches, panels_a, panels_b)


@ladder
def taps_in_place(y, x, weight, panels, sums, offsets):
    """The register tile reads the image where it lies: for pixel p, tap k is at p + offsets[k], border pixels computed in vain.

    sums: (channels of y, pixels), both in whole tiles, which read beyond x: see `with_slack`.
    """
    outputs, depth, height, width = weight.shape[0], offsets.size, tile_rows(y), tile_columns(y)
    flat, pixels, pitch, stride = x.reshape(x.size), (y.shape[2] - 1) * x.shape[3] + y.shape[3], x.shape[3], sums.shape[1]
    pack_panels(panels, 0, weight.reshape(weight.size), 0, depth, 1, outputs, height, depth, 0, depth)
    for n in range(y.shape[0]):
        image = n * x.shape[1] * x.shape[2] * pitch
        for p in range(0, pixels, width):
            for k in range(0, depth, DEPTH):
                for o in range(0, outputs, height):
                    fma_taps(
                        sums.reshape(sums.size), o * stride + p, stride, height, width, k > 0, panels, o * depth + k * height,
                        height, flat, image + p, offsets, k, min(DEPTH, depth - k),
                    )  # fmt: skip
        for o in range(outputs):
            for h in range(y.shape[2]):
                target, source = y[n, o, h], sums[o, h * pitch :]
                for w in range(target.size):
                    target[w] = source[w]


# ---- the ladder ----------------------------------------------------------------------------------------------------------


@dataclass
class Rung:
    """A step of the ladder: what is new in it, and a call that computes the whole problem."""

    name: str
    call: Callable[[], np.ndarray]


def with_slack(array: np.ndarray) -> np.ndarray:
    """A copy that has a tile of zeros behind it in memory, which the last tile of columns may read."""
    storage = np.zeros(array.size + tile_shape(array.dtype)[1], array.dtype)
    storage[: array.size] = array.ravel()
    return storage[: array.size].reshape(array.shape)


def whole(size: int, step: int) -> int:
    """The size, rounded up to whole steps."""
    return -(-size // step) * step


def product_rungs(size: int) -> tuple[list[Rung], np.ndarray, float]:
    """Rungs of the matrix product, what they must give, and how many floating-point operations that takes."""
    a, b = np.random.default_rng(0).standard_normal((2, size, size)).astype(np.float32)
    b, c = with_slack(b), np.empty((size, size), np.float32)
    panels = [np.empty(whole(size, side) * size, np.float32) for side in tile_shape(np.float32)]

    def run(kernel, *scratch):
        def call():
            kernel(c, a, b, *scratch)
            return c

        return call

    rungs = [
        Rung("three loops", run(three_loops)),
        Rung("rows in order", run(rows_in_order)),
        Rung("four rows at a time", run(four_rows)),
        Rung("a tile in registers", run(register_tile)),
        Rung("packed operands", run(packed, *panels)),
        Rung("the library: blocks on all threads", lambda: nn.matmul(a, b, out=c)),
    ]
    return rungs, a.astype(np.float64) @ b, 2 * size**3


def convolution_rungs(images: int, channels: int, outputs: int, side: int) -> tuple[list[Rung], np.ndarray, float]:
    """Rungs of a 3 x 3 convolution with a border of zeros, what they must give, and its floating-point operations."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((images, channels, side, side)).astype(np.float32)
    weight = generator.standard_normal((outputs, channels, 3, 3)).astype(np.float32)
    bordered, y = with_slack(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))), np.empty((images, outputs, side, side), np.float32)
    depth, (height, width) = channels * 9, tile_shape(np.float32)
    patches = np.empty((depth, side * side), np.float32)
    panels = [np.empty(whole(n, s) * depth, np.float32) for n, s in ((outputs, height), (side * side, width))]
    sums = np.empty((whole(outputs, height), whole(side * (side + 2), width)), np.float32)
    taps = np.arange(3)[:, None] * (side + 2) + np.arange(3)
    offsets = (np.arange(channels)[:, None] * (side + 2) ** 2 + taps.ravel()).ravel()

    def run(kernel, *scratch):
        def call():
            kernel(y, bordered, weight, *scratch)
            return y

        return call

    rungs = [
        Rung("seven loops", run(seven_loops)),
        Rung("rows of pixels", run(rows_of_pixels)),
        Rung("four channels at a time", run(four_outputs)),
        Rung("a matrix of all patches", run(patch_matrix, patches, *panels)),
        Rung("a tile in registers, taps in place", run(taps_in_place, panels[0], sums, offsets)),
        Rung("the library: blocks of planes, on all threads", library(x, weight, y, "direct")),
        Rung("the library: fewer multiplications (Winograd)", library(x, weight, y, "winograd")),
    ]
    windows = np.lib.stride_tricks.sliding_window_view(bordered.astype(np.float64), (3, 3), axis=(2, 3))
    expected = np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True)
    return rungs, expected, 2 * y.size * depth


def library(x: np.ndarray, weight: np.ndarray, y: np.ndarray, algorithm: str) -> Callable[[], np.ndarray]:
    """A call of the library's convolution, with room reserved."""
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False, algorithm=algorithm)
    layer.weight.value[...] = weight
    layer.eval().reserve(x.shape, training=False)
    return lambda: layer.forward(x, out=y)


def climb(rungs: list[Rung], expected: np.ndarray, flops: float) -> list[float]:
    """GFLOP/s of every rung, once its result is right."""
    rates = []
    for rung in rungs:
        error = np.abs(rung.call() - expected).max() / np.abs(expected).max()
        assert error < 2e-5, f"{rung.name}: largest error {error:.1e} of the largest result"
        durations: list[float] = []
        while len(durations) < 3 or (sum(durations) < 0.5 and len(durations) < 200):
            start = time.perf_counter()
            rung.call()
            durations.append(time.perf_counter() - start)
        rates.append(flops / statistics.median(durations) / 1e9)
    return rates


def plot(ladders: dict[str, dict[str, float]], peak: float, path: str) -> None:
    """Bars of GFLOP/s on a logarithmic scale, with the peak as a line."""
    import matplotlib.pyplot as plt

    heights = [len(rates) for rates in ladders.values()]
    figure, axes = plt.subplots(len(ladders), 1, figsize=(9, 5.5), sharex=True, height_ratios=heights, layout="constrained")
    for axis, (title, rates) in zip(axes, ladders.items(), strict=True):
        bars = axis.barh(list(rates), list(rates.values()), color="tab:blue")
        axis.bar_label(bars, [f"{rate:.3g}" for rate in rates.values()], padding=3)
        axis.axvline(peak, color="tab:red", label=f"peak, {peak:.0f}")
        axis.set(title=title, xscale="log", xlim=(None, 6 * peak))
        axis.invert_yaxis()
        axis.legend(loc="upper right")
    axes[-1].set_xlabel("GFLOP/s (multiply-adds of the definition count as two)")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Climb both ladders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="rows and columns of the matrices, a multiple of 4")
    parser.add_argument(
        "--shape", type=int, nargs=4, default=(8, 64, 128, 32), help="images, channels, outputs (a multiple of 4), side"
    )
    parser.add_argument("--plot", help="write a bar chart to this file")
    arguments = parser.parse_args()
    images, channels, outputs, side = arguments.shape
    if arguments.size % 4 or outputs % 4:
        parser.error("--size and the output channels of --shape must be multiples of 4")
    peak = measure_peak(np.float32)
    print(f"Peak: {peak:.0f} GFLOP/s, threads: {nn.get_num_threads()}. All rungs use one thread, but the library's use all.")
    problems = {
        f"matrix product, {arguments.size}^3": product_rungs(arguments.size),
        f"3 x 3 convolution, {images} x {channels} x {side} x {side} to {outputs} channels": convolution_rungs(
            *arguments.shape
        ),
    }
    ladders = {}
    for title, (rungs, expected, flops) in problems.items():
        rates = climb(rungs, expected, flops)
        ladders[title] = {rung.name: rate for rung, rate in zip(rungs, rates, strict=True)}
        print(f"\n| {title} | GFLOP/s | of the peak | over the rung before |\n| --- | ---: | ---: | ---: |")
        for rung, rate, before in zip(rungs, rates, [None, *rates], strict=False):
            print(f"| {rung.name} | {rate:.3g} | {rate / peak:.1%} | {'' if before is None else f'{rate / before:.1f}x'} |")
    if arguments.plot:
        plot(ladders, peak, arguments.plot)


if __name__ == "__main__":
    main()

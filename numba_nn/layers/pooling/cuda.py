"""Pooling on a GPU: a thread for every window of a plane, or in backward for every element, which gathers from its windows.

Tables are int32 and have rows (first, count): `rows` and `columns` the elements of every window along an axis, `above` and
`beside` the windows that hold an element, those between the first and the last of them included.
"""

from __future__ import annotations

import numpy as np

from numba_nn.core.cuda_planes import first_plane, next_plane, over_planes, place_in_plane, split
from numba_nn.core.cuda_reduce import ALL_LANES, WARP
from numba_nn.core.kernel import In, Out, Saved
from numba_nn.core.ptx import cuda
from numba_nn.core.twin import cuda_helper, cuda_kernel
from numba_nn.layers.pooling.order import comes_first, exceeds


@cuda_kernel(grid=over_planes)
def pool_maxima(y: Out, indices: Saved, x: In, rows: In, columns: In, width: int, row_step: int, column_step: int):
    """Largest value of every window, and its place; -inf at -1 where a window misses the image.

    y, indices: (P, H', W'), x: (P, H W); elements of a window lie a step apart.
    """
    h, w = split(place_in_plane(), y.shape[2])
    if h < np.uint32(y.shape[1]):
        first = rows[h, 0] * np.int32(width) + columns[w, 0]
        down, right = np.int32(row_step * width), np.int32(column_step)
        p = first_plane()
        while p < np.uint32(y.shape[0]):
            best, at = x.dtype.type(-np.inf), np.int32(-1)
            for a in range(rows[h, 1]):
                for b in range(columns[w, 1]):
                    place = np.int32(first + a * down + b * right)
                    value = x[p, np.uint32(place)]
                    taken = exceeds(value, best) | (at < 0)
                    best, at = value if taken else best, place if taken else at
            y[p, h, w], indices[p, h, w] = best, at
            p = next_plane(p)


@cuda_kernel(grid=over_planes)
def gather_maxima(dx: Out, indices: Saved, dy: In, above: In, beside: In):
    """dx = sum of dy over the windows whose maximum an element is; dx: (P, H, W), dy and indices: (P, H', W')."""
    i, j = split(place_in_plane(), dx.shape[2])
    if i < np.uint32(dx.shape[1]):
        own = np.int32(i * np.uint32(dx.shape[2]) + j)
        p = first_plane()
        while p < np.uint32(dx.shape[0]):
            total = dx.dtype.type(0)
            for a in range(above[i, 1]):
                h = np.uint32(above[i, 0] + a)
                for b in range(beside[j, 1]):
                    w = np.uint32(beside[j, 0] + b)
                    if indices[p, h, w] == own:
                        total += dy[p, h, w]
            dx[p, i, j] = total
            p = next_plane(p)


@cuda_helper
def better(best, at, lane):
    """The larger of a thread's value and that of another lane, and its place."""
    value, place = cuda.shfl_xor_sync(ALL_LANES, best, lane), cuda.shfl_xor_sync(ALL_LANES, at, lane)
    taken = comes_first(value, place, best, at)
    return value if taken else best, place if taken else at


@cuda_kernel(grid=lambda y, *_: (y.size, WARP))
def plane_maxima(y: Out, indices: Saved, x: In):
    """Largest value of every plane, and its place; x: (P, H W), y and indices: (P,). A warp has a plane."""
    p, i = np.uint32(cuda.blockIdx.x), np.uint32(cuda.threadIdx.x)
    best, at = x.dtype.type(-np.inf), np.int32(-1)
    while i < np.uint32(x.shape[1]):
        value, place = x[p, i], np.int32(i)
        taken = comes_first(value, place, best, at)
        best, at = value if taken else best, place if taken else at
        i = np.uint32(i + np.uint32(WARP))
    best, at = better(best, at, 16)
    best, at = better(best, at, 8)
    best, at = better(best, at, 4)
    best, at = better(best, at, 2)
    best, at = better(best, at, 1)
    if cuda.threadIdx.x == 0:
        y[p], indices[p] = best, at


@cuda_kernel(grid=over_planes)
def pool_means(y: Out, x: In, rows: In, columns: In, row_shares: In, shares: In):
    """y = sum of x over the window, times the row's share and the column's; x: (P, H, W), y: (P, H', W')."""
    h, w = split(place_in_plane(), y.shape[2])
    if h < np.uint32(y.shape[1]):
        share = row_shares[h] * shares[w]
        p = first_plane()
        while p < np.uint32(y.shape[0]):
            total = x.dtype.type(0)
            for a in range(rows[h, 1]):
                line = x.dtype.type(0)  # summed by itself: sums of sums round less
                for b in range(columns[w, 1]):
                    line += x[p, np.uint32(rows[h, 0] + a), np.uint32(columns[w, 0] + b)]
                total += line
            y[p, h, w] = total * share
            p = next_plane(p)


@cuda_kernel(grid=over_planes)
def gather_means(dx: Out, dy: In, above: In, beside: In, row_shares: In, shares: In):
    """dx = sum of dy, times the shares, over the windows that hold an element; dx: (P, H, W), dy: (P, H', W')."""
    i, j = split(place_in_plane(), dx.shape[2])
    if i < np.uint32(dx.shape[1]):
        p = first_plane()
        while p < np.uint32(dx.shape[0]):
            total = dx.dtype.type(0)
            for a in range(above[i, 1]):
                h, line = np.uint32(above[i, 0] + a), dx.dtype.type(0)
                for b in range(beside[j, 1]):
                    w = np.uint32(beside[j, 0] + b)
                    line += dy[p, h, w] * shares[w]
                total += line * row_shares[h]
            dx[p, i, j] = total
            p = next_plane(p)

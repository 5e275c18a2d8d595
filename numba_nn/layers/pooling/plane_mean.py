"""The mean of whole planes, or global average: 5 times as fast on planes of 7 x 7 as windows in general."""

from __future__ import annotations

import numpy as np
from numba import prange

from numba_nn.core.cuda.planes import first_plane, gather, next_plane, over_planes, place_of_window, planes_together, split
from numba_nn.core.cuda.portable import fetch, put
from numba_nn.core.cuda.ptx import WINDOW, cuda, flat_part
from numba_nn.core.cuda.reduce import WARPS, block_per_row, block_sum
from numba_nn.core.each import each_sum, same
from numba_nn.core.kernel import In, Out, inlined, inner, kernel

QUARTERED = 2**12  # elements: 64 MB in planes of 64 KB take 4.9 ms so in place of 7.4, in huge pages 4.3 in place of 4.8 (Xeon)

SHORT = 64  # elements: 4,096 planes of 7 x 7 take 22 us in place of 30 by a loop in which fewer vectors are under way (Xeon)


@inlined
def sum_of_four(a, b, c, d):
    """a + b + c + d."""
    return (a + b) + (c + d)


@inner
def plane_sum(x):
    """Sum of a plane, in float64 unless it is short; quarters of a large one at once: CPUs fetch more ahead then."""
    if x.size < SHORT:
        total = x.dtype.type(0)
        for i in range(x.size):
            total += x[i]
        return np.float64(total)
    if x.size < QUARTERED:
        return each_sum(same, (x,), 0)
    q = x.size // 4
    total = each_sum(sum_of_four, (x[:q], x[q : 2 * q], x[2 * q : 3 * q], x[3 * q : 4 * q]), 0)
    return total + each_sum(same, (x[4 * q :],), 0)


@kernel
def plane_mean_forward(y: Out, x: In):
    """y = mean of a plane; x: (P, H W), y: (P,)."""
    for p in prange(y.size):
        y[p] = plane_sum(x[p]) / x.shape[1]


@plane_mean_forward.on_cuda(grid=lambda y, x: block_per_row(x))
def plane_mean_forward(y: Out, x: In):
    """A block has a plane."""
    room, window = cuda.shared.array(WARPS, x.dtype), cuda.local.array(WINDOW, x.dtype)
    p, i, total = np.uint32(cuda.blockIdx.x), np.uint64(cuda.threadIdx.x) * np.uint64(WINDOW), x.dtype.type(0)
    plane = x[p]
    while i < np.uint64(plane.size):
        fetch(window, plane, i)
        total += window[0] + window[1] + window[2] + window[3]
        i += np.uint64(cuda.blockDim.x) * np.uint64(WINDOW)
    total = block_sum(total, room)
    if cuda.threadIdx.x == 0:
        y[p] = total / x.dtype.type(x.shape[1])


@kernel
def plane_mean_backward(dx: Out, dy: In):
    """dx = dy / size of the plane."""
    for p in prange(dy.size):
        share = dx.dtype.type(dy[p] / dx.shape[1])
        for i in range(dx.shape[1]):
            dx[p, i] = share


@plane_mean_backward.on_cuda(grid=over_planes)
def plane_mean_backward(dx: Out, dy: In):
    """A thread has a window, perhaps of several planes."""
    at, places, g = place_of_window(), np.uint32(dx.shape[1]), first_plane()
    window, owners = cuda.local.array(WINDOW, dx.dtype), cuda.local.array(WINDOW, np.uint32)
    for lane in range(WINDOW):
        owners[lane], _ = split(at + np.uint32(lane), places)
    together, share = planes_together(places), dx.dtype.type(1) / dx.dtype.type(dx.shape[1])
    while at < together * places and g * together < np.uint32(dx.shape[0]):
        gather(window, dy, g * together, owners, dx.dtype.type(0))
        for lane in range(WINDOW):
            window[lane] *= share
        put(flat_part(dx, 0, dx.size), g * together * places + at, window, dx.size)
        g = next_plane(g)

"""The gradient of a convolution's bias, which is the same for every algorithm."""

import numpy as np
from numba import prange

from numba_nn.core.cuda.portable import fetch
from numba_nn.core.cuda.ptx import WINDOW, cuda
from numba_nn.core.cuda.reduce import WARPS, block_sum
from numba_nn.core.cuda.twin import THREADS
from numba_nn.core.kernel import In, Out, kernel


@kernel
def conv2d_backward_bias(dbias: Out, dy: In):
    """dbias += sum over images and pixels; dy: (N, O, H' W'). Every channel is summed by one task, plane by plane."""
    for o in prange(dy.shape[1]):
        total = 0.0
        for n in range(dy.shape[0]):
            plane = dy.dtype.type(0)
            for p in range(dy.shape[2]):
                plane += dy[n, o, p]
            total += plane
        dbias[o] += total


@conv2d_backward_bias.on_cuda(grid=lambda dbias, _: (dbias.size, THREADS))
def conv2d_backward_bias(dbias: Out, dy: In):
    """A block of threads has a channel."""
    room, window = cuda.shared.array(WARPS, dy.dtype), cuda.local.array(WINDOW, dy.dtype)
    o, n, total = np.uint32(cuda.blockIdx.x), np.uint32(0), dy.dtype.type(0)
    while n < np.uint32(dy.shape[0]):
        plane, p = dy[n, o], np.uint64(cuda.threadIdx.x) * np.uint64(WINDOW)
        while p < np.uint64(plane.size):
            fetch(window, plane, p)
            total += window[0] + window[1] + window[2] + window[3]
            p += np.uint64(THREADS * WINDOW)
        n = np.uint32(n + np.uint32(1))
    total = block_sum(total, room)
    if cuda.threadIdx.x == 0:
        dbias[o] += total

"""The gradient of a convolution's bias, which is the same for every algorithm."""

import numpy as np
from numba import prange

from numba_nn.core.cuda_reduce import WARPS, block_sum
from numba_nn.core.kernel import In, Out, kernel
from numba_nn.core.ptx import cuda
from numba_nn.core.twin import THREADS


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
    room = cuda.shared.array(WARPS, dy.dtype)
    o, n, total = np.uint32(cuda.blockIdx.x), np.uint32(0), dy.dtype.type(0)
    while n < np.uint32(dy.shape[0]):
        p = np.uint32(cuda.threadIdx.x)
        while p < np.uint32(dy.shape[2]):
            total += dy[n, o, p]
            p = np.uint32(p + np.uint32(THREADS))
        n = np.uint32(n + np.uint32(1))
    total = block_sum(total, room)
    if cuda.threadIdx.x == 0:
        dbias[o] += total

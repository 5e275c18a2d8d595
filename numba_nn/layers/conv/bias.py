"""The gradient of a convolution's bias, which is the same for every algorithm."""

from numba import prange

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

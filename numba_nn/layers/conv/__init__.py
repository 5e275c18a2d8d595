"""Convolutions: see `numba_nn.layers.conv.implicit_gemm` for the maths and the kernels."""

from numba_nn.layers.conv.conv2d import Conv2d

__all__ = ["Conv2d"]

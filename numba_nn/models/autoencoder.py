"""A convolutional autoencoder for 32 x 32 colour images.

Five 3 x 3 convolutions; channels 3 - 256 - 128 - 128 - 256 - 3; two poolings down to a latent of 128 x 8 x 8 and two
nearest-neighbour upsamplings back; ReLU after all convolutions but the last, which is linear. 751,875 parameters and
174,587,904 multiply-adds an image. Architecture: github.com/niesuv/parallel-programming.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numba_nn.core.call import Array
from numba_nn.core.random import normal
from numba_nn.layers.activation import ReLU
from numba_nn.layers.conv import Conv2d
from numba_nn.layers.pooling import MaxPool2d
from numba_nn.layers.resize import Upsample
from numba_nn.sequential import Sequential


class Autoencoder(Sequential):
    """Convolutional autoencoder: (N, 3, H, W) to (N, 3, H, W), H and W multiples of 4.

    Weights are drawn from a normal distribution of variance 2 / fan-in (He et al. 2015), biases are zero.

    Parameters
    ----------
    dtype : dtype, optional
        float32 or float64.
    """

    ENCODER_LAYERS = 6

    def __init__(self, dtype: Any = np.float32) -> None:
        def conv(in_channels: int, out_channels: int) -> Conv2d:
            layer = Conv2d(in_channels, out_channels, 3, padding=1, dtype=dtype)
            shape = layer.weight.value.shape
            layer.weight.value[...] = normal(shape, math.sqrt(2 / math.prod(shape[1:])), dtype)
            assert layer.bias is not None
            layer.bias.value.fill(0)
            return layer

        super().__init__(
            conv(3, 256), ReLU(), MaxPool2d(2),
            conv(256, 128), ReLU(), MaxPool2d(2),
            conv(128, 128), ReLU(), Upsample(scale_factor=2),
            conv(128, 256), ReLU(), Upsample(scale_factor=2),
            conv(256, 3),
        )  # fmt: skip

    def encode(self, x: Array) -> Array:
        """Latent features of images.

        Parameters
        ----------
        x : ndarray
            (N, 3, H, W).

        Returns
        -------
        ndarray
            (N, 128, H / 4, W / 4).
        """
        encoder = self[: self.ENCODER_LAYERS]
        modes = [(module, module.training) for module in encoder.modules()]
        for module, _ in modes:
            module.training = False  # parameters stay as they are, packed or not
        try:
            return encoder.forward(x)
        finally:
            for module, training in modes:
                module.training = training

    def _arguments(self) -> str:
        return ""

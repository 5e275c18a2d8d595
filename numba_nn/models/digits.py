"""A small convolutional classifier for 8 x 8 grey images, such as the handwritten digits of `numba_nn.data.load_digits`.

Two 3 x 3 convolutions, each with batch normalisation, ReLU and a pooling that halves the image; channels 1 - 32 - 64; then one
Linear on the 64 x 2 x 2 features. The convolutions have no bias, since the normalisation subtracts it. 21,482 parameters and
315,904 multiply-adds an image.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_nn.layers.activation import ReLU
from numba_nn.layers.conv import Conv2d
from numba_nn.layers.dropout import Dropout
from numba_nn.layers.linear import Linear
from numba_nn.layers.norm import BatchNorm2d
from numba_nn.layers.pooling import MaxPool2d
from numba_nn.layers.shape import Flatten
from numba_nn.sequential import Sequential


class DigitsNet(Sequential):
    """Convolutional classifier: images (N, 1, 8, 8) in [0, 1] to scores (N, 10), one for each class.

    Parameters
    ----------
    dtype : dtype, optional
        float32 or float64.
    """

    def __init__(self, dtype: Any = np.float32) -> None:
        super().__init__(
            Conv2d(1, 32, 3, padding=1, bias=False, dtype=dtype), BatchNorm2d(32, dtype=dtype), ReLU(), MaxPool2d(2),
            Conv2d(32, 64, 3, padding=1, bias=False, dtype=dtype), BatchNorm2d(64, dtype=dtype), ReLU(), MaxPool2d(2),
            Flatten(), Dropout(0.3), Linear(256, 10, dtype=dtype),
        )  # fmt: skip

    def _arguments(self) -> str:
        return ""

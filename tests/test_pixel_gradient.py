"""The weight gradient of few channels: where it is chosen, and how it adds up many pixels."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn
from numba_nn.layers.conv.pixel_gradient import PixelGradient


def algorithm(layer, x_shape):
    return layer._call(x_shape, layer.dtype).geometry[nn.get_precision()]["weight"]


@pytest.mark.parametrize(
    ("layer", "x_shape", "expected"),
    [
        (nn.Conv2d(3, 16, 3, padding=1), (1, 3, 28, 28), True),
        (nn.Conv1d(1, 32, 3), (1, 1, 1024), True),
        (nn.Conv2d(64, 64, 3, padding=1, groups=16), (8, 64, 28, 28), True),
        (nn.Conv2d(3, 16, 3, padding=1, stride=2), (1, 3, 28, 28), False),
        (nn.Conv2d(3, 64, 7, padding=3), (1, 3, 64, 64), False),
    ],
)
def test_few_channels_choose_it(layer, x_shape, expected):
    assert isinstance(algorithm(layer, x_shape), PixelGradient) is expected


def test_sums_over_many_pixels_keep_their_precision():
    rng = np.random.default_rng(0)
    layer = nn.Conv2d(1, 4, 3, padding=1)
    x, dy = rng.random((32, 1, 224, 224), np.float32), rng.random((32, 4, 224, 224), np.float32)
    assert isinstance(algorithm(layer, x.shape), PixelGradient)
    layer.forward(x)
    layer.backward(dy, input_gradient=False)
    padded, wide = np.pad(x[:, 0].astype(np.float64), ((0, 0), (1, 1), (1, 1))), dy.astype(np.float64)
    expected = [[np.einsum("nohw,nhw->o", wide, padded[:, i : i + 224, j : j + 224]) for j in range(3)] for i in range(3)]
    np.testing.assert_allclose(layer.weight.grad[:, 0], np.moveaxis(expected, -1, 0), rtol=1e-6)

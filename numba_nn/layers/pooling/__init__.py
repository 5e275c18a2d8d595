"""Pooling: the largest value (`maximum`) or the mean (`average`) of windows, which slide or are stretched (`windows`)."""

from numba_nn.layers.pooling.average import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AvgPool1d,
    AvgPool2d,
    GlobalAvgPool1d,
    GlobalAvgPool2d,
)
from numba_nn.layers.pooling.maximum import (
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    GlobalMaxPool1d,
    GlobalMaxPool2d,
    MaxPool1d,
    MaxPool2d,
)

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "GlobalAvgPool1d",
    "GlobalAvgPool2d",
    "GlobalMaxPool1d",
    "GlobalMaxPool2d",
    "MaxPool1d",
    "MaxPool2d",
]

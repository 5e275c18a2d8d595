"""Convolutions: one file for each algorithm, `choice.py` for the rule."""

from numba_nn.layers.conv.conv1d import Conv1d
from numba_nn.layers.conv.conv2d import Conv2d

__all__ = ["Conv1d", "Conv2d"]

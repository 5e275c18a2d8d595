"""Normalisation layers."""

from numba_nn.layers.norm.batch_norm import BatchNorm1d, BatchNorm2d

__all__ = ["BatchNorm1d", "BatchNorm2d"]

"""Data sets and mini-batches; nothing here downloads anything."""

from numba_nn.data.batches import Batches
from numba_nn.data.cifar10 import load_cifar10
from numba_nn.data.photographs import photograph_patches

__all__ = ["Batches", "load_cifar10", "photograph_patches"]

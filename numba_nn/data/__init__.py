"""Data sets and mini-batches; nothing here downloads anything."""

from numba_nn.data.batches import Batches
from numba_nn.data.cifar10 import load_cifar10
from numba_nn.data.digits import load_digits
from numba_nn.data.idx import load_idx, load_mnist
from numba_nn.data.photographs import photograph_patches
from numba_nn.data.split import train_test_split
from numba_nn.data.stream import Stream

__all__ = [
    "Batches",
    "Stream",
    "load_cifar10",
    "load_digits",
    "load_idx",
    "load_mnist",
    "photograph_patches",
    "train_test_split",
]

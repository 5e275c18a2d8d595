"""Neural-network layers compiled by Numba, over buffers allocated once."""

from numba_nn import data, io, models, ops, optim, schedules
from numba_nn.config import show_config
from numba_nn.core.errors import (
    ArgumentError,
    BackwardError,
    CheckpointError,
    ConcurrencyError,
    DataError,
    DestinationError,
    DTypeError,
    MissingTwinError,
    NonFiniteError,
    NumbaNNError,
    RangeError,
    ReportError,
    ReserveError,
    ShapeError,
    StateDictError,
    TwinMismatchError,
)
from numba_nn.core.layer import Layer
from numba_nn.core.parameter import Parameter
from numba_nn.core.random import manual_seed
from numba_nn.core.threads import get_num_threads, set_num_threads, threading_layer
from numba_nn.layers.activation import ReLU, Sigmoid
from numba_nn.layers.conv import Conv2d
from numba_nn.layers.embedding import Embedding
from numba_nn.layers.linear import Linear
from numba_nn.layers.merge import Add, Concatenate, Multiply
from numba_nn.layers.pooling import MaxPool2d
from numba_nn.layers.resize import Upsample
from numba_nn.layers.shape import Flatten
from numba_nn.linalg import matmul
from numba_nn.losses import Loss, MSELoss
from numba_nn.sequential import Sequential
from numba_nn.train import TrainStep
from numba_nn.warmup import warmup

__version__ = "0.1.0"

__all__ = [
    "Add",
    "ArgumentError",
    "BackwardError",
    "CheckpointError",
    "Concatenate",
    "ConcurrencyError",
    "Conv2d",
    "DTypeError",
    "DataError",
    "DestinationError",
    "Embedding",
    "Flatten",
    "Layer",
    "Linear",
    "Loss",
    "MSELoss",
    "MaxPool2d",
    "MissingTwinError",
    "Multiply",
    "NonFiniteError",
    "NumbaNNError",
    "Parameter",
    "RangeError",
    "ReLU",
    "ReportError",
    "ReserveError",
    "Sequential",
    "ShapeError",
    "Sigmoid",
    "StateDictError",
    "TrainStep",
    "TwinMismatchError",
    "Upsample",
    "data",
    "get_num_threads",
    "io",
    "manual_seed",
    "matmul",
    "models",
    "ops",
    "optim",
    "schedules",
    "set_num_threads",
    "show_config",
    "threading_layer",
    "warmup",
]

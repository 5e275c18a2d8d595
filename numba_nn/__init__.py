"""Neural-network layers compiled by Numba, over buffers allocated once."""

from numba_nn import data, io, models, optim
from numba_nn.core.errors import (
    ArgumentError,
    BackwardError,
    CheckpointError,
    ConcurrencyError,
    DataError,
    DestinationError,
    DTypeError,
    MissingTwinError,
    NumbaNNError,
    ReserveError,
    ShapeError,
    StateDictError,
    TwinMismatchError,
)
from numba_nn.core.layer import Layer
from numba_nn.core.parameter import Parameter
from numba_nn.core.random import manual_seed
from numba_nn.layers.activation import ReLU, Sigmoid
from numba_nn.layers.conv import Conv2d
from numba_nn.layers.linear import Linear
from numba_nn.layers.pooling import MaxPool2d
from numba_nn.layers.resize import Upsample
from numba_nn.layers.shape import Flatten
from numba_nn.layers.softmax import LogSoftmax, Softmax
from numba_nn.linalg import matmul
from numba_nn.losses import BCELoss, BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, Loss, MSELoss, NLLLoss
from numba_nn.sequential import Sequential
from numba_nn.train import TrainStep

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "BCELoss",
    "BCEWithLogitsLoss",
    "BackwardError",
    "CheckpointError",
    "ConcurrencyError",
    "Conv2d",
    "CrossEntropyLoss",
    "DTypeError",
    "DataError",
    "DestinationError",
    "Flatten",
    "L1Loss",
    "Layer",
    "Linear",
    "LogSoftmax",
    "Loss",
    "MSELoss",
    "MaxPool2d",
    "MissingTwinError",
    "NLLLoss",
    "NumbaNNError",
    "Parameter",
    "ReLU",
    "ReserveError",
    "Sequential",
    "ShapeError",
    "Sigmoid",
    "Softmax",
    "StateDictError",
    "TrainStep",
    "TwinMismatchError",
    "Upsample",
    "data",
    "io",
    "manual_seed",
    "matmul",
    "models",
    "optim",
]

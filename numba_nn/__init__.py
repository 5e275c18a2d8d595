"""Neural-network layers compiled by Numba, over buffers allocated once."""

from numba_nn.core.errors import (
    ArgumentError,
    BackwardError,
    CheckpointError,
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

__version__ = "0.1.0"

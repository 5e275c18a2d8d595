"""Neural-network layers compiled by Numba, over buffers allocated once."""

from numba_nn import data, io, metrics, models, ops, optim, schedules
from numba_nn.config import show_config
from numba_nn.core.container import Container
from numba_nn.core.errors import (
    ArgumentError,
    BackwardError,
    CheckpointError,
    ConcurrencyError,
    DataError,
    DestinationError,
    DeviceError,
    DTypeError,
    MissingTwinError,
    NonFiniteError,
    NumbaNNError,
    OutOfMemoryError,
    RangeError,
    ReportError,
    ReserveError,
    ShapeError,
    StateDictError,
    TrainingError,
    TwinMismatchError,
)
from numba_nn.core.layer import Layer
from numba_nn.core.parameter import Parameter
from numba_nn.core.precision import get_precision, set_precision
from numba_nn.core.random import manual_seed
from numba_nn.core.threads import get_num_threads, set_num_threads, threading_layer
from numba_nn.layers.activation import GELU, LeakyReLU, ReLU, ReLU6, Sigmoid, SiLU, Tanh
from numba_nn.layers.conv import Conv1d, Conv2d
from numba_nn.layers.dropout import Dropout, Dropout1d, Dropout2d
from numba_nn.layers.embedding import Embedding
from numba_nn.layers.linear import Linear
from numba_nn.layers.merge import Add, Concatenate, Multiply
from numba_nn.layers.norm import BatchNorm1d, BatchNorm2d
from numba_nn.layers.pad import ConstantPad1d, ConstantPad2d, ReflectionPad1d, ReflectionPad2d, ZeroPad1d, ZeroPad2d
from numba_nn.layers.permute import Permute, Transpose
from numba_nn.layers.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    GlobalAvgPool1d,
    GlobalAvgPool2d,
    GlobalMaxPool1d,
    GlobalMaxPool2d,
    MaxPool1d,
    MaxPool2d,
)
from numba_nn.layers.recurrent import LSTM, LSTMCell
from numba_nn.layers.resize import Upsample
from numba_nn.layers.shape import Flatten, Identity, Reshape, Squeeze, Unflatten, Unsqueeze
from numba_nn.layers.softmax import LogSoftmax, Softmax
from numba_nn.linalg import matmul
from numba_nn.losses import BCELoss, BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, Loss, MSELoss, NLLLoss
from numba_nn.mixed_precision import MixedPrecision
from numba_nn.sequential import Sequential
from numba_nn.summary import summary
from numba_nn.train import EarlyStopping, TrainStep, evaluate, fit, predict
from numba_nn.warmup import warmup

__version__ = "0.3.0"

__all__ = [
    "GELU",
    "LSTM",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "Add",
    "ArgumentError",
    "AvgPool1d",
    "AvgPool2d",
    "BCELoss",
    "BCEWithLogitsLoss",
    "BackwardError",
    "BatchNorm1d",
    "BatchNorm2d",
    "CheckpointError",
    "Concatenate",
    "ConcurrencyError",
    "ConstantPad1d",
    "ConstantPad2d",
    "Container",
    "Conv1d",
    "Conv2d",
    "CrossEntropyLoss",
    "DTypeError",
    "DataError",
    "DestinationError",
    "DeviceError",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "EarlyStopping",
    "Embedding",
    "Flatten",
    "GlobalAvgPool1d",
    "GlobalAvgPool2d",
    "GlobalMaxPool1d",
    "GlobalMaxPool2d",
    "Identity",
    "L1Loss",
    "LSTMCell",
    "Layer",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "Loss",
    "MSELoss",
    "MaxPool1d",
    "MaxPool2d",
    "MissingTwinError",
    "MixedPrecision",
    "Multiply",
    "NLLLoss",
    "NonFiniteError",
    "NumbaNNError",
    "OutOfMemoryError",
    "Parameter",
    "Permute",
    "RangeError",
    "ReLU",
    "ReLU6",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReportError",
    "ReserveError",
    "Reshape",
    "Sequential",
    "ShapeError",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Squeeze",
    "StateDictError",
    "Tanh",
    "TrainStep",
    "TrainingError",
    "Transpose",
    "TwinMismatchError",
    "Unflatten",
    "Unsqueeze",
    "Upsample",
    "ZeroPad1d",
    "ZeroPad2d",
    "data",
    "evaluate",
    "fit",
    "get_num_threads",
    "get_precision",
    "io",
    "manual_seed",
    "matmul",
    "metrics",
    "models",
    "ops",
    "optim",
    "predict",
    "schedules",
    "set_num_threads",
    "set_precision",
    "show_config",
    "summary",
    "threading_layer",
    "warmup",
]

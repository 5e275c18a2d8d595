"""The configurations that every test of the layers' contract runs over: a line each. A new layer adds its lines here.

Families with many lines have a file of their own: ``conv_cases.py``, ``algorithm_cases.py``, ``pooling_cases.py``,
``shape_cases.py``.
"""

import functools

import numba_nn as nn
from tests import reference
from tests.algorithm_cases import ALGORITHM_CASES
from tests.case import Case, FirstOutput, LSTMCellOutput, LSTMOutput, assert_close, assert_same, case, gradients
from tests.conv_cases import CONVOLUTIONS
from tests.pooling_cases import POOLING_AND_RESIZING, REFUSED_BY_POOLING_AND_RESIZING
from tests.shape_cases import REFUSED_BY_SHAPES_AND_PADDING, SHAPES_AND_PADDING

__all__ = ["CASES", "ONE_OF_EACH", "REFUSED", "Case", "assert_close", "assert_same", "gradients"]

linear = functools.partial(case, nn.Linear, reference.linear)
conv = functools.partial(case, nn.Conv2d, reference.conv2d)
conv1d = functools.partial(case, nn.Conv1d, reference.conv1d)
relu = functools.partial(case, nn.ReLU, reference.relu)
sigmoid = functools.partial(case, nn.Sigmoid, reference.sigmoid)
leaky_relu = functools.partial(case, nn.LeakyReLU, reference.leaky_relu)
relu6 = functools.partial(case, nn.ReLU6, reference.relu6)
tanh = functools.partial(case, nn.Tanh, reference.tanh)
silu = functools.partial(case, nn.SiLU, reference.silu)
gelu = functools.partial(case, nn.GELU, reference.gelu)
batch_norm1d = functools.partial(case, nn.BatchNorm1d, reference.batch_norm)
batch_norm2d = functools.partial(case, nn.BatchNorm2d, reference.batch_norm)
dropout = functools.partial(case, nn.Dropout, reference.dropout)
dropout1d = functools.partial(case, nn.Dropout1d, reference.dropout)
dropout2d = functools.partial(case, nn.Dropout2d, reference.dropout)
softmax = functools.partial(case, nn.Softmax, reference.softmax)
log_softmax = functools.partial(case, nn.LogSoftmax, reference.log_softmax)
lstm = functools.partial(case, LSTMOutput, FirstOutput.of(reference.lstm))
lstm_cell = functools.partial(case, LSTMCellOutput, FirstOutput.of(reference.lstm_cell))

CASES = [
    # rows, features: around the tile (12 x 32) and its halves, the block (240 rows), the depth (256), and one
    linear((3, 5), 5, 4),
    linear((1, 1), 1, 1),
    linear((1, 7), 7, 13, bias=False),
    linear((13, 1), 1, 31),
    linear((12, 32), 32, 33),
    linear((11, 257), 257, 12),
    linear((241, 17), 17, 65),
    linear((5, 300), 300, 241),
    linear((100, 520), 520, 61),
    linear((4, 7), 7, 259),
    linear((2, 3, 5), 5, 7),
    linear((2, 0, 5), 5, 7),
    linear((5,), 5, 7),
    # convolutions: output widths around a vector and beyond
    conv((2, 3, 5, 7), 3, 4, 3, padding=1),
    conv((1, 1, 1, 1), 1, 1, 1),
    conv((1, 1, 3, 3), 1, 1, 3),
    conv((1, 2, 2, 7), 2, 3, 2, bias=False),
    conv((2, 1, 8, 8), 1, 13, 3, padding=1),
    conv((3, 5, 3, 14), 5, 7, (1, 3), padding=(0, 1)),
    conv((1, 3, 16, 16), 3, 12, 3, padding="same"),
    conv((1, 3, 17, 17), 3, 11, (3, 1), padding="valid"),
    conv((2, 3, 1, 300), 3, 5, (1, 5)),
    conv((1, 2, 4, 700), 2, 3, 3, padding=1),
    conv((1, 2, 5, 603), 2, 3, 3, padding=1, stride=(1, 2), dilation=(1, 3)),
    conv((1, 2, 300, 1), 2, 3, (4, 1)),
    # several blocks of 256 pixels, slices of channels (256 / taps) in either direction, blocks of 240 rows
    conv((2, 3, 17, 33), 3, 4, 3, padding=1),
    conv((2, 4, 40, 33), 4, 33, 3, padding=1),
    conv((1, 57, 6, 7), 57, 31, 3, padding=1),
    conv((1, 31, 5, 6), 31, 59, 3),
    conv((2, 260, 3, 5), 260, 4, 1),
    conv((2, 3, 4, 5), 3, 257, 1),
    conv((2, 250, 4, 4), 250, 5, 3, padding=1),
    conv((17, 4, 9, 9), 4, 6, 3, padding=1),
    # groups
    conv((2, 6, 5, 5), 6, 4, 3, padding=1, groups=2),
    conv((2, 5, 6, 5), 5, 5, 3, padding=1, groups=5),
    conv((2, 3, 5, 6), 3, 6, 3, groups=3, bias=False),
    conv((1, 39, 4, 9), 39, 42, 3, padding=1, groups=3),
    conv((1, 4, 20, 19), 4, 8, 3, padding=1, stride=2, groups=4),
    # strides, also beyond the kernel, with rows left over
    conv((2, 3, 9, 8), 3, 4, 3, stride=2, padding=1),
    conv((1, 2, 11, 10), 2, 3, 2, stride=(3, 4)),
    conv((2, 3, 33, 35), 3, 5, 5, stride=(2, 1), padding=2),
    conv((1, 3, 7, 7), 3, 4, 1, stride=3),
    # padding beyond the kernel's reach: the input gradient's origin is positive
    conv((2, 2, 4, 5), 2, 3, 1, padding=2),
    conv((1, 2, 3, 4), 2, 3, 3, padding=4),
    conv((1, 2, 3, 4), 2, 3, 2, padding=(3, 4), stride=2),
    # "same" with even kernels, dilation
    conv((2, 2, 5, 6), 2, 3, 2, padding="same"),
    conv((1, 2, 6, 5), 2, 3, (4, 2), padding="same", dilation=(1, 3)),
    conv((2, 3, 9, 10), 3, 4, 3, dilation=2, padding=2),
    conv((1, 2, 10, 11), 2, 3, (2, 3), dilation=(3, 2), stride=(2, 3), padding=1),
    *CONVOLUTIONS,
    *ALGORITHM_CASES,
    *POOLING_AND_RESIZING,
    # element by element
    relu((3, 5)),
    relu((1,)),
    relu(()),
    relu((2, 3, 4, 5, 2)),
    relu((7, 31, 257)),
    sigmoid((3, 5)),
    sigmoid((0, 3)),
    sigmoid((2, 3, 17)),
    sigmoid((7, 31, 257)),
    leaky_relu((3, 5)),
    leaky_relu((7, 31, 257), 0.2),
    leaky_relu((2, 3, 17), negative_slope=-1.5),
    relu6((3, 5)),
    relu6((7, 31, 257)),
    tanh((3, 5)),
    tanh((7, 31, 257)),
    silu((3, 5)),
    silu((7, 31, 257)),
    gelu((3, 5)),
    gelu((7, 31, 257)),
    gelu((3, 5), approximate="tanh"),
    gelu((7, 31, 257), "tanh"),
    # batch normalisation, in training mode; tiles are 64 rows, or 4,096 values of a run
    batch_norm1d((7, 5), 5),
    batch_norm1d((5, 1), 1, eps=0.1),
    batch_norm1d((65, 130), 130, momentum=None),
    batch_norm1d((200, 3, 1), 3, affine=False),
    batch_norm1d((4, 3, 6), 3, track_running_stats=False),
    batch_norm1d((1, 2, 9000), 2),
    batch_norm2d((2, 3, 4, 5), 3),
    batch_norm2d((5, 4, 1, 1), 4),
    batch_norm2d((3, 2, 65, 64), 2, eps=1e-3, momentum=0.5),
    # dropout where nothing is random; its masks are in test_dropout.py
    dropout((3, 5), 0),
    dropout((), p=0.0),
    dropout((0, 3), p=0),
    dropout((3, 4099), p=0),
    dropout1d((2, 3, 5), p=0),
    dropout1d((2, 3, 0), p=0),
    dropout2d((2, 3, 4, 5), p=0),
    dropout2d((7, 3, 65, 64), p=0),
    dropout2d((1, 1, 1, 1), p=0),
    # along rows: the last dimension, and others, where a task is 256 rows; sums go by blocks of 4096
    *(
        each(shape, dim)
        for each in (softmax, log_softmax)
        for shape, dim in [
            ((3, 5), 1),
            ((), 0),
            ((1,), -1),
            ((2, 3, 4), 0),
            ((2, 3, 5), -2),
            ((3, 1), 1),
            ((2, 4099), 1),
            ((4, 3, 1, 1), 1),
            ((2, 7, 17, 31), 1),
            ((1, 3, 257), 1),
            ((5, 256), 0),
        ]
    ),
    softmax((400, 129), 1),
    # steps, batch, inputs, hidden units: around the tile and beyond a block; states in tests/test_recurrent.py
    lstm((5, 3, 4), 4, 20),
    lstm((3, 2, 5), 5, 4),
    lstm((1, 1, 1), 1, 1),
    lstm((2, 13, 3), 3, 33, num_layers=2),
    lstm((3, 4, 2), 2, 3, 3, False, True),
    lstm((4, 3), 3, 5, bidirectional=True),
    lstm((2, 3, 4), 4, 5, num_layers=2, batch_first=True, bidirectional=True),
    lstm((2, 250, 3), 3, 67),
    lstm((4, 16, 1), 1, 20, bidirectional=True),
    lstm((130, 2, 3), 3, 67, batch_first=True, bidirectional=True),
    lstm_cell((3, 5), 5, 4),
    lstm_cell((1, 5), 5, 1, bias=False),
    lstm_cell((13, 40), 40, 65),
    *SHAPES_AND_PADDING,
]

# What a layer must refuse: a configuration, with the shape of an input that does not fit.
REFUSED = [
    linear((3, 4), 5, 4),
    linear((), 5, 4),
    conv((3, 5, 7), 3, 4, 3),
    conv((2, 4, 5, 7), 3, 4, 3),
    conv((2, 3, 2, 7), 3, 4, 3),
    conv((2, 3, 5, 7), 3, 4, 3, dilation=3),
    conv((1, 1, 3, 0), 1, 1, 1, padding=1),
    conv((1, 1, 0, 3), 1, 1, 1, padding=1),
    softmax((3, 5), 2),
    softmax((), 1),
    log_softmax((3,), -2),
    conv1d((5, 7), 3, 4, 3),
    conv1d((2, 3, 5, 7), 3, 4, 3),
    conv1d((2, 4, 7), 3, 4, 3),
    conv1d((2, 3, 2), 3, 4, 3),
    conv1d((1, 1, 0), 1, 1, 1, padding=1),
    batch_norm1d((5,), 5),
    batch_norm1d((7, 4), 5),
    batch_norm1d((2, 5, 3, 4), 5),
    batch_norm2d((2, 3, 4), 3),
    batch_norm2d((2, 4, 4, 5), 3),
    dropout1d((3, 4), p=0),
    dropout1d((2, 3, 4, 5), p=0),
    dropout2d((3, 4, 5), p=0),
    *REFUSED_BY_POOLING_AND_RESIZING,
    *REFUSED_BY_SHAPES_AND_PADDING,
]

ONE_OF_EACH = list({c.layer: c for c in reversed(CASES)}.values())[::-1]
"""The first configuration of every class."""

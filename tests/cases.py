"""The configurations that every test of the layers' contract runs over: a line each. A new layer adds its lines here."""

import functools

import numba_nn as nn
from tests import reference
from tests.algorithm_cases import ALGORITHM_CASES
from tests.case import Case, FirstOutput, LSTMCellOutput, LSTMOutput, assert_close, assert_same, case, gradients
from tests.conv_cases import CONVOLUTIONS

__all__ = ["CASES", "ONE_OF_EACH", "REFUSED", "Case", "assert_close", "assert_same", "gradients"]

linear = functools.partial(case, nn.Linear, reference.linear)
conv = functools.partial(case, nn.Conv2d, reference.conv2d)
conv1d = functools.partial(case, nn.Conv1d, reference.conv1d)
pool = functools.partial(case, nn.MaxPool2d, reference.max_pool2d)
pool1d = functools.partial(case, nn.MaxPool1d, reference.max_pool1d)
average = functools.partial(case, nn.AvgPool2d, reference.avg_pool2d)
average1d = functools.partial(case, nn.AvgPool1d, reference.avg_pool1d)
adaptive_average = functools.partial(case, nn.AdaptiveAvgPool2d, reference.adaptive_avg_pool2d)
adaptive_average1d = functools.partial(case, nn.AdaptiveAvgPool1d, reference.adaptive_avg_pool1d)
adaptive_max = functools.partial(case, nn.AdaptiveMaxPool2d, reference.adaptive_max_pool2d)
adaptive_max1d = functools.partial(case, nn.AdaptiveMaxPool1d, reference.adaptive_max_pool1d)
upsample = functools.partial(case, nn.Upsample, reference.upsample)
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
identity = functools.partial(case, nn.Identity, reference.identity)
flatten = functools.partial(case, nn.Flatten, reference.flatten)
unflatten = functools.partial(case, nn.Unflatten, reference.unflatten)
reshape = functools.partial(case, nn.Reshape, reference.reshape)
squeeze = functools.partial(case, nn.Squeeze, reference.squeeze)
unsqueeze = functools.partial(case, nn.Unsqueeze, reference.unsqueeze)
permute = functools.partial(case, nn.Permute, reference.permute)
transpose = functools.partial(case, nn.Transpose, reference.transpose)
constant_pad1d = functools.partial(case, nn.ConstantPad1d, reference.constant_pad)
constant_pad2d = functools.partial(case, nn.ConstantPad2d, reference.constant_pad)
zero_pad1d = functools.partial(case, nn.ZeroPad1d, reference.zero_pad)
zero_pad2d = functools.partial(case, nn.ZeroPad2d, reference.zero_pad)
reflection_pad1d = functools.partial(case, nn.ReflectionPad1d, reference.reflection_pad)
reflection_pad2d = functools.partial(case, nn.ReflectionPad2d, reference.reflection_pad)

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
    # convolutions of signals: images of height 1
    *ALGORITHM_CASES,
    # pooling
    pool((2, 3, 6, 8), 2),
    pool((1, 1, 1, 1), 1),
    pool((2, 3, 7, 9), 2),
    pool((2, 3, 7, 9), 2, ceil_mode=True),
    pool((1, 2, 8, 7), 3, stride=2, padding=1),
    pool((2, 3, 9, 71), 3, stride=2, padding=1),
    pool((2, 3, 8, 44), 3, stride=2),
    pool((1, 2, 5, 6), 2, stride=3),
    pool((1, 2, 5, 6), 2, stride=3, ceil_mode=True),
    pool((2, 2, 9, 10), (3, 2), stride=(1, 2), padding=(1, 0), dilation=(2, 3)),
    pool((1, 2, 5, 5), 3, stride=2, padding=1, ceil_mode=True),
    pool((1, 1, 3, 300), (1, 4), stride=1),
    pool((3, 13, 33, 34), 2),
    pool((1, 2, 3, 9), 2, padding=1, dilation=(2, 4)),
    pool1d((2, 3, 8), 2),
    pool1d((1, 1, 1), 1),
    pool1d((2, 3, 9), 3, stride=2, padding=1),
    pool1d((1, 2, 10), 3, 3, 1, 2, False, True),
    pool1d((3, 17, 301), 4, stride=3),
    average((2, 3, 6, 8), 2),
    average((1, 1, 1, 1), 1),
    average((1, 2, 5, 6), (2, 3), stride=(3, 1)),
    average((2, 3, 7, 9), 3, stride=2, padding=1),
    average((2, 3, 7, 9), 3, 2, 1, False, False),
    average((1, 2, 6, 8), 3, stride=2, padding=1, ceil_mode=True),
    average((1, 2, 6, 8), 3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
    average((1, 2, 5, 6), 2, stride=3, ceil_mode=True),
    average((1, 2, 5, 5), (4, 2), stride=(3, 4), padding=(2, 1), ceil_mode=True),
    average((1, 2, 6, 8), 3, stride=2, padding=1, ceil_mode=True, divisor_override=5),
    average((1, 2, 5, 4), 2, divisor_override=-3),
    average((1, 3, 300, 1), (4, 1)),
    average((3, 13, 33, 34), 2),
    average1d((2, 3, 8), 2),
    average1d((1, 1, 1), 1),
    average1d((2, 3, 10), 3, stride=2, padding=1, ceil_mode=True),
    average1d((2, 3, 10), 3, 2, 1, True, False),
    average1d((3, 17, 301), 4, stride=3),
    adaptive_average((2, 3, 6, 8), (3, 4)),
    adaptive_average((2, 3, 7, 10), (3, 4)),
    adaptive_average((1, 2, 3, 2), 5),
    adaptive_average((1, 2, 5, 6), (None, 4)),
    adaptive_average((1, 2, 5, 6), (2, None)),
    adaptive_average((1, 2, 5, 1), 3),
    adaptive_average((2, 3, 5, 7), 1),
    adaptive_average((2, 13, 61, 70), 1),
    adaptive_average((2, 13, 37, 38), 7),
    adaptive_average1d((2, 3, 10), 4),
    adaptive_average1d((2, 3, 10), 1),
    adaptive_average1d((1, 2, 3), 7),
    adaptive_average1d((3, 17, 301), 20),
    adaptive_max((2, 3, 6, 8), (3, 4)),
    adaptive_max((2, 3, 7, 10), (3, 4)),
    adaptive_max((1, 2, 3, 2), 5),
    adaptive_max((1, 2, 5, 6), (None, 4)),
    adaptive_max((1, 2, 5, 1), (3, 1)),
    adaptive_max((2, 13, 37, 38), 7),
    adaptive_max1d((2, 3, 10), 4),
    adaptive_max1d((2, 3, 10), 1),
    adaptive_max1d((1, 2, 3), 7),
    adaptive_max1d((3, 17, 301), 20),
    case(nn.GlobalAvgPool1d, reference.global_avg_pool, (2, 3, 5)),
    case(nn.GlobalAvgPool2d, reference.global_avg_pool, (2, 3, 5, 7)),
    case(nn.GlobalMaxPool1d, reference.global_max_pool, (2, 3, 5)),
    case(nn.GlobalMaxPool2d, reference.global_max_pool, (2, 3, 5, 7)),
    # resizing
    upsample((2, 3, 4, 5), scale_factor=2),
    upsample((1, 1, 1, 1), scale_factor=3),
    upsample((2, 3, 4, 5), scale_factor=(1, 3)),
    upsample((1, 2, 3, 4), scale_factor=2.5),
    upsample((1, 2, 8, 7), scale_factor=0.5),
    upsample((1, 2, 7, 5), scale_factor=(1.1, 2.1)),
    upsample((1, 2, 4, 5), size=(7, 11)),
    upsample((1, 2, 9, 8), size=4),
    upsample((2, 17, 16, 17), scale_factor=2),
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
    lstm((3, 2, 5), 5, 4),
    lstm((1, 1, 1), 1, 1),
    lstm((2, 13, 3), 3, 33, num_layers=2),
    lstm((3, 4, 2), 2, 3, 3, False, True),
    lstm((4, 3), 3, 5, bidirectional=True),
    lstm((2, 3, 4), 4, 5, num_layers=2, batch_first=True, bidirectional=True),
    lstm((2, 250, 3), 3, 67),
    lstm((4, 16, 1), 1, 20, bidirectional=True),
    lstm_cell((3, 5), 5, 4),
    lstm_cell((1, 5), 5, 1, bias=False),
    lstm_cell((13, 40), 40, 65),
    # shape
    identity((2, 3, 4), 54, unused=0.1),
    identity((6,)),
    flatten((2, 3, 4, 5)),
    flatten((2, 3, 4), start_dim=0),
    flatten((2, 3, 4, 5), 1, 2),
    flatten((6, 7, 31, 33)),
    unflatten((2, 12, 5), 1, (3, 4)),
    unflatten((2, 12), -1, (2, -1, 3)),
    unflatten((6, 5), 0, (-1, 3)),
    reshape((2, 3, 4), 6, 2),
    reshape((2, 3, 4), (4, -1)),
    reshape((3, 5), -1),
    reshape((2, 3, 1), (3,)),
    squeeze((1, 3, 1, 4, 1)),
    squeeze((2, 1, 1), -1),
    squeeze((1, 3, 1, 1), (0, 1, -2)),
    unsqueeze((2, 3), 1),
    unsqueeze((2, 3), -1),
    unsqueeze((3,), 0),
    # dimensions in another order: squares of 16 x 16 (8 x 8), tiles of 64 x 64, runs of 4096, neighbours that become one
    permute((2, 3, 5), 0, 2, 1),
    permute((2, 3, 4, 5), (0, 2, 3, 1)),
    permute((2, 5, 6, 3), 0, 3, 1, 2),
    permute((2, 3, 4, 5, 6), 4, 2, -5, 3, 1),
    permute((2, 7, 3, 33), 0, 2, 1, -1),
    permute((1, 3, 1), 2, 0, 1),
    permute((5, 1, 1, 4), 0, 2, 3, 1),
    permute((2, 3, 1, 2, 2, 3), 5, 0, 4, 2, 1, 3),
    transpose((2, 3, 4), 0, 1),
    transpose((2, 3, 4), 1, 2),
    transpose((3, 5), 0, 1),
    transpose((3, 1, 1), 0, -1),
    transpose((16, 16), 0, 1),
    transpose((2, 17, 79), -1, -2),
    transpose((65, 2, 130), 0, 2),
    transpose((70, 33, 3), 0, 1),
    transpose((3, 2, 4100), 0, 1),
    transpose((2, 4100), 1, 1),
    # padding
    constant_pad1d((2, 3, 5), (1, 2), 1.5),
    constant_pad1d((2, 3, 5), 2, -1.0),
    constant_pad1d((2, 3, 5), (-2, 3), 0.5),
    constant_pad1d((1, 2, 2), (-2, 4), 0.5),
    constant_pad1d((1, 2, 2), (4, -2), 0.5),
    constant_pad2d((2, 3, 4, 5), (1, 2, 3, 4), 1.5),
    constant_pad2d((2, 3, 4, 5), (-1, 2, 0, -3), 1.5),
    constant_pad2d((3, 17, 40, 41), 1, 0.25),
    zero_pad1d((2, 3, 5), 1),
    zero_pad1d((1, 1, 300), (0, 30)),
    zero_pad2d((2, 3, 4, 5), (1, 2, 3, 4)),
    zero_pad2d((1, 2, 4, 5), -1),
    reflection_pad1d((2, 3, 5), (1, 2)),
    reflection_pad1d((2, 3, 5), 4),
    reflection_pad1d((1, 2, 1), 0),
    reflection_pad1d((1, 2, 2), (0, 1)),
    reflection_pad2d((2, 3, 4, 5), (4, 1, 2, 3)),
    reflection_pad2d((2, 3, 4, 5), 3),
    reflection_pad2d((1, 2, 6, 5), (-1, 3, 4, -2)),
    reflection_pad2d((3, 17, 40, 41), 2),
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
    pool((6, 8), 2),
    pool((2, 3, 1, 8), 2),
    pool((1, 1, 3, 0), 2, padding=1),
    pool1d((3, 8), 2),
    pool1d((1, 3, 4, 8), 2),
    pool1d((2, 3, 1), 2),
    pool1d((2, 3, 0), 2, padding=1),
    average((3, 6, 8), 2),
    average((2, 3, 1, 8), 2),
    average((1, 1, 3, 0), 2, padding=1),
    average1d((3, 8), 2),
    average1d((2, 3, 1), 2),
    adaptive_average((3, 5, 7), 1),
    adaptive_average((1, 3, 0, 7), 2),
    adaptive_average1d((3, 5), 1),
    adaptive_max((3, 5, 7), 1),
    adaptive_max((1, 3, 0, 7), 2),
    adaptive_max1d((3, 5), 1),
    case(nn.GlobalAvgPool2d, reference.global_avg_pool, (3, 5, 7)),
    case(nn.GlobalMaxPool1d, reference.global_max_pool, (1, 3, 0)),
    upsample((3, 4, 5), scale_factor=2),
    upsample((2, 3, 1, 5), scale_factor=0.5),
    upsample((2, 3, 0, 5), size=4),
    softmax((3, 5), 2),
    softmax((), 1),
    log_softmax((3,), -2),
    flatten((3,)),
    conv1d((5, 7), 3, 4, 3),
    conv1d((2, 3, 5, 7), 3, 4, 3),
    conv1d((2, 4, 7), 3, 4, 3),
    conv1d((2, 3, 2), 3, 4, 3),
    conv1d((1, 1, 0), 1, 1, 1, padding=1),
    unflatten((2, 12), 2, (3, 4)),
    unflatten((2, 12), 1, (5, -1)),
    unflatten((2, 12), 1, (3, 3)),
    reshape((2, 3, 4), 5, -1),
    reshape((2, 3, 4), 2, 3),
    reshape((), 1),
    squeeze((2, 1), 2),
    unsqueeze((2, 3), 3),
    unsqueeze((2, 3), -4),
    permute((2, 3), 0, 2, 1),
    transpose((2, 3), 1, 2),
    constant_pad1d((3, 5), 1, 0.0),
    constant_pad1d((2, 3, 5), (-2, -3), 0.0),
    constant_pad2d((3, 5, 5), 1, 0.0),
    constant_pad2d((1, 3, 5, 5), (1, 1, -5, 0), 0.0),
    zero_pad1d((2, 3, 0), 1),
    zero_pad2d((5, 5), 1),
    reflection_pad1d((2, 3, 4), (0, 4)),
    reflection_pad2d((2, 3, 4, 5), (4, 4, 0, 4)),
    reflection_pad2d((2, 3, 4, 5), (5, 0, 0, 0)),
    batch_norm1d((5,), 5),
    batch_norm1d((7, 4), 5),
    batch_norm1d((2, 5, 3, 4), 5),
    batch_norm2d((2, 3, 4), 3),
    batch_norm2d((2, 4, 4, 5), 3),
    dropout1d((3, 4), p=0),
    dropout1d((2, 3, 4, 5), p=0),
    dropout2d((3, 4, 5), p=0),
]

ONE_OF_EACH = list({c.layer: c for c in reversed(CASES)}.values())[::-1]
"""The first configuration of every class."""

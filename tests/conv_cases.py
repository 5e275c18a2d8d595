"""Configurations of convolutions for `tests.cases`: of algorithms that serve some shapes only, and around their blocks."""

import functools

import numba_nn as nn
from tests import reference
from tests.case import case

conv = functools.partial(case, nn.Conv2d, reference.conv2d)
conv1d = functools.partial(case, nn.Conv1d, reference.conv1d)

CONVOLUTIONS = [
    # depthwise: rows of half a vector and around it, odd numbers of channels, and more images than a task takes
    conv((2, 3, 7, 7), 3, 3, 3, padding=1, groups=3),
    conv((9, 4, 5, 8), 4, 4, 3, padding=1, groups=4),
    conv((1, 3, 6, 19), 3, 3, 3, groups=3, bias=False),
    conv((2, 2, 3, 40), 2, 2, 3, padding=(0, 3), groups=2),
    conv((2, 3, 14, 15), 3, 3, 3, padding=1, stride=2, groups=3),
    conv((9, 5, 7, 8), 5, 5, 3, padding=1, stride=2, groups=5),
    conv((1, 2, 9, 70), 2, 2, 3, stride=2, groups=2),
    conv((1, 3, 4, 5), 3, 3, 3, padding=(3, 4), stride=2, groups=3),
    conv((1, 3, 1, 36), 3, 3, 3, padding=1, groups=3),
    # images that are not small: blocks of rows
    conv((1, 3, 46, 47), 3, 3, 3, padding=1, groups=3),
    conv((2, 2, 63, 66), 2, 2, 3, padding=1, stride=2, groups=2),
    # one tap: few pixels and many, several blocks of pixels and of 240 rows, depths beyond 256, groups
    conv((2, 7, 4, 5), 7, 9, 1),
    conv((1, 64, 30, 37), 64, 250, 1),
    conv((2, 270, 5, 6), 270, 8, 1, bias=False),
    conv((3, 12, 9, 13), 12, 14, 1, groups=2),
    conv1d((2, 20, 300), 20, 13, 1),
    conv((2, 13, 13, 15), 13, 14, 1, stride=2),
    conv((2, 26, 12, 22), 26, 24, 1, stride=(1, 3), groups=2, bias=False),
    # half as many output channels: patches of dy
    conv((2, 12, 5, 6), 12, 4, 3, padding=1, groups=2),
    conv((2, 8, 9, 10), 8, 3, (2, 3), dilation=2, padding=(1, 5)),
    conv((2, 40, 9, 10), 40, 4, 3, padding=1, groups=2),
    # channels that fill a tile: rows of an image, several images and parts of a row in a block, panels of channels, groups
    conv((2, 16, 21, 20), 16, 12, 3, padding=1, dilation=2),
    conv((3, 40, 9, 7), 40, 11, 3, stride=2, padding=1),
    conv((70, 33, 3, 3), 33, 13, 2, stride=(1, 2), padding=(0, 1), bias=False),
    conv((2, 36, 8, 9), 36, 24, (2, 3), stride=(3, 2), padding=(3, 1), groups=2),
    conv((2, 16, 7, 8), 16, 14, 1, stride=2),
    # the same for tiles over several images, and more than 1024 rows of weights
    conv((19, 16, 4, 5), 16, 13, 3, padding=1),
    conv((2, 14, 5, 7), 14, 1030, 1, stride=2),
    conv((1, 16, 5, 6), 16, 14, 1, padding=(2, 1), stride=(2, 3)),
    conv1d((2, 16, 700), 16, 12, 4, padding=2),
    # few input channels: taps by threes and what is left, strips at both edges, bands of rows, output channels by fours, groups
    conv((2, 3, 9, 37), 3, 5, 3, padding=1),
    conv((1, 1, 40, 70), 1, 6, (2, 4), padding=(0, 3), bias=False),
    conv((2, 2, 33, 40), 2, 9, (3, 5), padding=2, dilation=(2, 3), stride=(2, 1)),
    conv((1, 6, 8, 50), 6, 9, 3, padding=1, groups=3),
    conv((2, 4, 5, 32), 4, 8, 1, padding=(1, 0)),
    conv1d((1, 1, 2200), 1, 4, 3, padding=4),
    # rows of the output from registers: of vectors and what is left, with stride; channels by twelves, sixes and fours, groups
    conv((2, 3, 6, 20), 3, 8, 3, padding=1),
    conv((1, 2, 5, 67), 2, 29, 3, bias=False),
    conv((2, 4, 9, 45), 4, 11, (2, 3), stride=2, padding=(1, 2)),
    conv((2, 6, 4, 40), 6, 14, 3, padding=2, dilation=2, groups=2),
    # sums folded onto the image: strips and what is left, rows by fours, either stride, several blocks of rows and channels
    conv((2, 1, 9, 37), 1, 14, 3, padding=1),
    conv((1, 2, 11, 20), 2, 13, (4, 2), stride=(3, 2), padding=(2, 1), dilation=(1, 3)),
    conv((1, 2, 70, 900), 2, 13, 3, stride=(1, 2), padding=1, bias=False),
    conv((1, 130, 6, 7), 130, 150, 3, stride=2, padding=1),
    conv((2, 4, 17, 18), 4, 28, 3, stride=2, groups=2),
    conv1d((2, 1, 300), 1, 20, 7, padding=2),
    # taps as large as the image
    conv((3, 5, 1, 1), 5, 7, 1),
    conv((4, 3, 5, 4), 3, 6, (5, 4), stride=2),
    conv1d((13, 3, 6), 3, 18, 6),
    # signals: images of height 1
    conv1d((2, 3, 7), 3, 4, 3, padding=1),
    conv1d((1, 1, 1), 1, 1, 1),
    conv1d((2, 5, 33), 5, 7, 4, padding="same", dilation=2),
    conv1d((1, 2, 9), 2, 3, 2, padding="valid", bias=False),
    conv1d((2, 4, 300), 4, 6, 5, stride=3, padding=2, groups=2),
    conv1d((1, 1, 1024), 1, 32, 7),
    conv1d((9, 6, 40), 6, 6, (3,), stride=(2,), padding=(4,), dilation=(3,), groups=6),
    conv1d((2, 90, 20), 90, 13, 3, padding=1),
]

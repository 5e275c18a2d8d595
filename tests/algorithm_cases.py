"""Configurations of convolutions that ask for an algorithm."""

import functools

import numba_nn as nn
from tests import reference
from tests.case import case

winograd = functools.partial(case, nn.Conv2d, reference.conv2d, algorithm="winograd")
winograd_of_signals = functools.partial(case, nn.Conv1d, reference.conv1d, algorithm="winograd")

ALGORITHM_CASES = [
    # tiles of 4 x 4 that fit, that reach beyond the image, and that are larger than it
    winograd((2, 3, 8, 8), 3, 4, 3, padding=1),
    winograd((1, 1, 1, 1), 1, 1, 3, padding=1),
    winograd((1, 2, 3, 3), 2, 3, 3, bias=False),
    winograd((3, 5, 7, 13), 5, 7, 3, padding=2),
    winograd((1, 2, 5, 9), 2, 3, 3, padding=(0, 3)),
    winograd((2, 4, 6, 5), 4, 3, 3, padding="same"),
    # panels of 32 tiles, several chunks of 128, several rows of tiles and images in each
    winograd((9, 2, 9, 17), 2, 3, 3, padding=1),
    winograd((1, 3, 6, 300), 3, 2, 3, padding=1),
    winograd((2, 3, 62, 61), 3, 2, 3, padding=1),
    # panels of 12 output channels and blocks of 4 panels, in either direction; more than a depth of 256
    winograd((1, 13, 6, 7), 13, 50, 3, padding=1),
    winograd((2, 61, 4, 5), 61, 12, 3),
    winograd((1, 260, 4, 4), 260, 5, 3, padding=1),
    # tiles of 2 x 2, and of one row
    winograd((2, 3, 8, 9), 3, 4, 5, padding=2),
    winograd((2, 14, 6, 21), 14, 13, 5, padding=(3, 0)),
    winograd((2, 5, 3, 14), 5, 4, (1, 3), padding=(0, 1)),
    winograd((1, 3, 4, 9), 3, 5, (1, 5), padding=(1, 2), bias=False),
    winograd_of_signals((3, 5, 37), 5, 13, 3, padding=1),
    winograd_of_signals((2, 13, 299), 13, 5, 5, padding="same"),
    # phases of a dilated image, of unlike size, more of them than the image has rows, and beyond its border
    winograd((2, 3, 9, 14), 3, 4, 3, padding=2, dilation=2),
    winograd((1, 4, 21, 7), 4, 3, 3, padding=(1, 4), dilation=(3, 2)),
    winograd((1, 3, 4, 17), 3, 2, 3, padding=(6, 1), dilation=(6, 1)),
    winograd((1, 2, 19, 33), 2, 3, 5, padding=4, dilation=2),
    winograd_of_signals((2, 3, 40), 3, 4, 3, padding=8, dilation=8),
    winograd_of_signals((1, 3, 300), 3, 4, 5, padding=1, dilation=2),
]

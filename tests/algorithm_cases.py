"""Configurations of convolutions that ask for an algorithm."""

import functools

import numba_nn as nn
from tests import reference
from tests.case import case

winograd = functools.partial(case, nn.Conv2d, reference.conv2d, algorithm="winograd")

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
]

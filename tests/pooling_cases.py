"""Configurations of poolings and of `Upsample` for `tests.cases`."""

import functools

import numba_nn as nn
from tests import reference
from tests.case import case

pool = functools.partial(case, nn.MaxPool2d, reference.max_pool2d)
pool1d = functools.partial(case, nn.MaxPool1d, reference.max_pool1d)
average = functools.partial(case, nn.AvgPool2d, reference.avg_pool2d)
average1d = functools.partial(case, nn.AvgPool1d, reference.avg_pool1d)
adaptive_average = functools.partial(case, nn.AdaptiveAvgPool2d, reference.adaptive_avg_pool2d)
adaptive_average1d = functools.partial(case, nn.AdaptiveAvgPool1d, reference.adaptive_avg_pool1d)
adaptive_max = functools.partial(case, nn.AdaptiveMaxPool2d, reference.adaptive_max_pool2d)
adaptive_max1d = functools.partial(case, nn.AdaptiveMaxPool1d, reference.adaptive_max_pool1d)
upsample = functools.partial(case, nn.Upsample, reference.upsample)

POOLING_AND_RESIZING = [
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
]

# What they must refuse.
REFUSED_BY_POOLING_AND_RESIZING = [
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
]

"""Configurations for `tests.cases` of layers that only move elements: shapes, orders of dimensions, padding."""

import functools

import numba_nn as nn
from tests import reference
from tests.case import case

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

SHAPES_AND_PADDING = [
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

# What they must refuse.
REFUSED_BY_SHAPES_AND_PADDING = [
    flatten((3,)),
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
]

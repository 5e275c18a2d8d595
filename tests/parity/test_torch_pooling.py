"""Pooling over every combination of small arguments, and the positions of maxima, as PyTorch has them."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest

import numba_nn as nn
from tests.cases import CASES, Case, assert_close, gradients
from tests.parity.cases import peer, peer_gradients, tensor, torch

RETURNS_INDICES = [c for c in CASES if "return_indices" in inspect.signature(c.layer).parameters]
SIZES = [(7, 10), (6, 1), (1, 8), (3, 2)]


def check(layer, x_shape, **arguments):
    """Output and gradient are PyTorch's, or both refuse."""
    case = Case(layer, None, x_shape, (), arguments)
    ours, theirs, x = case.build(), peer(case, np.float32), case.x()
    try:
        dy = case.dy(ours)
    except nn.ShapeError:
        with pytest.raises(RuntimeError):
            theirs(tensor(x))
        return
    got, expected = gradients(ours, x, dy), peer_gradients(theirs, x, dy)
    for name in expected:
        assert_close(got[name], expected[name])


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, (2, 4), (5, 2)], ids=str)
def test_sliding_windows(kernel_size, ceil_mode):
    for size, stride, padding in itertools.product(SIZES, [None, 1, 2, (3, 5)], [0, 1, (1, 2)]):
        lengths = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
        smallest = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
        if any(2 * p > k for p, k in zip(padding if isinstance(padding, tuple) else (padding, padding), smallest, strict=True)):
            with pytest.raises(nn.ArgumentError):
                nn.AvgPool2d(**lengths)
            continue
        check(nn.MaxPool2d, (1, 2, *size), **lengths)
        for count_include_pad, divisor in itertools.product([False, True], [None, 3]):
            check(nn.AvgPool2d, (1, 2, *size), **lengths, count_include_pad=count_include_pad, divisor_override=divisor)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 5])
def test_sliding_windows_of_signals(kernel_size, ceil_mode):
    for length, stride, padding in itertools.product([1, 6, 11], [None, 1, 2, 4], range(kernel_size // 2 + 1)):
        lengths = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
        check(nn.MaxPool1d, (2, 3, length), **lengths)
        for count_include_pad in (False, True):
            check(nn.AvgPool1d, (2, 3, length), **lengths, count_include_pad=count_include_pad)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layer", [nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d])
def test_adaptive_windows(layer, size):
    for output_size in itertools.product([None, 1, 2, 3, 5, 11], repeat=2):
        check(layer, (1, 2, *size), output_size=output_size)


@pytest.mark.parametrize("layer", [nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d])
def test_adaptive_windows_of_signals(layer):
    for length, output_size in itertools.product([1, 4, 10, 13], [1, 2, 3, 5, 11]):
        check(layer, (1, 2, length), output_size=output_size)


@pytest.mark.parametrize("dilation", [2, (3, 1), (1, 5)], ids=str)
def test_dilated_windows(dilation):
    for kernel_size, stride, padding, ceil_mode in itertools.product([2, 3], [None, 1, 4], [0, (1, 0), 1], [False, True]):
        arguments = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
        check(nn.MaxPool2d, (1, 2, 13, 15), **arguments, dilation=dilation)


@pytest.mark.parametrize("case", RETURNS_INDICES, ids=str)
@pytest.mark.parametrize("special", [None, 0.0, np.nan, -np.inf])
def test_indices_of_maxima(case, special):
    x = np.round(case.x())  # many equal ones: the first counts
    if special is not None:
        x.reshape(-1)[:: 5 if special == 0 else 37] = special
    arguments = inspect.signature(case.layer).bind(*case.args, **case.kwargs).arguments | {"return_indices": True}
    y, indices = case.layer(**arguments)(x)
    expected, positions = getattr(torch.nn, case.layer.__name__)(**arguments)(tensor(x))
    np.testing.assert_array_equal(y, expected.numpy())
    np.testing.assert_array_equal(indices, positions.numpy())
    assert indices.dtype == np.int64

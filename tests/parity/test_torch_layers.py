"""Every configuration of `tests.cases` computes what PyTorch computes."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn
from tests.cases import CASES, assert_close, assert_same, gradients
from tests.parity.cases import from_torch, peer, peer_gradients, tensor, to_torch, torch

every_case = pytest.mark.parametrize("case", CASES, ids=str)


@every_case
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_forward_and_every_gradient(case, dtype):
    ours, theirs = case.build(dtype), peer(case, dtype)
    theirs.load_state_dict(to_torch(ours.state_dict()))
    x, dy = case.x(dtype), case.dy(ours, dtype)
    got, expected = gradients(ours, x, dy), peer_gradients(theirs, x, dy)
    assert got.keys() == expected.keys()
    for name in expected:
        assert_close(got[name], expected[name])


@every_case
def test_weights_go_both_ways(case):
    ours, theirs = case.build(), peer(case, np.float32)
    ours.load_state_dict(from_torch(theirs.state_dict()))
    assert_same(ours.state_dict(), from_torch(theirs.state_dict()))
    theirs.load_state_dict(to_torch(case.build().state_dict()))
    assert_same(from_torch(theirs.state_dict()), case.build().state_dict())


@pytest.mark.parametrize("case", [c for c in CASES if c.layer.buffer_names], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_running_statistics_and_eval_mode(case, dtype):
    ours, theirs = case.build(dtype), peer(case, dtype)
    theirs.load_state_dict(to_torch(ours.state_dict()))
    dy = case.dy(ours, dtype)
    for name in "abc":
        assert_close(ours(case.x(dtype, name)), theirs(tensor(case.x(dtype, name))).detach().numpy())
    got, expected = ours.state_dict(), from_torch(theirs.state_dict())
    assert list(got) == list(expected)
    for name in expected:
        assert got[name].dtype == expected[name].dtype
        assert_close(got[name], expected[name])
    frozen = nn.Sequential(ours, nn.Flatten(0))  # keeps the forward of the layer in eval mode
    ours.eval()
    expected = peer_gradients(theirs.eval(), case.x(dtype), dy)
    got = gradients(frozen, case.x(dtype), dy.reshape(-1))
    assert_close(got["y"].reshape(dy.shape), expected["y"])
    for name in expected.keys() - {"y"}:
        assert_close(got["x" if name == "x" else f"0.{name}"], expected[name])


@pytest.mark.parametrize("scale", [0.3, 1.7, 2.3, 2.7, 1 / 3, 3.0000001, (1.1, 5.7), (2.05, 1.02)], ids=str)
@pytest.mark.parametrize(  # of small images of float64 PyTorch computes the indices in float32
    ("dtype", "shape"), [(np.float32, (1, 2, 7, 10)), (np.float32, (1, 1, 23, 49)), (np.float64, (1, 1, 23, 49))]
)
def test_resizing_by_odd_factors(dtype, shape, scale):
    x = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    np.testing.assert_array_equal(nn.Upsample(scale_factor=scale)(x), torch.nn.Upsample(scale_factor=scale)(tensor(x)).numpy())
    size = (31, 57)
    np.testing.assert_array_equal(nn.Upsample(size=size)(x), torch.nn.Upsample(size=size)(tensor(x)).numpy())


@pytest.mark.parametrize("case", [c for c in CASES if 0 not in c.x_shape], ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity(case, value):
    ours, theirs = case.build(), peer(case, np.float32)
    theirs.load_state_dict(to_torch(ours.state_dict()))
    x, dy = case.x(), case.dy(ours)
    x.reshape(-1)[0] = value
    got, expected = gradients(ours, x, dy), peer_gradients(theirs, x, dy)
    # None is lost. Winograd gives it to a whole tile; a weight gradient by patches of dy to taps that meet zeros around it.
    transposed = isinstance(ours, (nn.Conv1d, nn.Conv2d)) and 2 * ours.out_channels <= ours.in_channels
    spread = set(expected) if case.kwargs.get("algorithm") == "winograd" else {"weight"} if transposed else set()
    for name in expected:
        finite, should = np.isfinite(got[name]), np.isfinite(expected[name])
        assert not (finite & ~should).any(), name
        if name not in spread:
            np.testing.assert_array_equal(finite, should, name)
    dy.reshape(-1)[-1] = value
    # Not the weights: whether NaN meets the zeros of a padding depends on the algorithm, in PyTorch too.
    got, expected = gradients(ours, case.x(), dy), peer_gradients(theirs, case.x(), dy)
    finite, should = np.isfinite(got["x"]), np.isfinite(expected["x"])
    assert not (finite & ~should).any()
    if "x" not in spread:
        np.testing.assert_array_equal(finite, should)

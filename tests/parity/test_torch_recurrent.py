"""LSTM and LSTMCell compute what PyTorch's do, with states that go in and out."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn
from tests.cases import assert_close, assert_same
from tests.parity.cases import from_torch, tensor, to_torch, torch
from tests.test_recurrent import build, every_case, inputs, run


@every_case
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_and_every_gradient(kind, x_shape, arguments, dtype):
    if 0 in x_shape:
        pytest.skip("PyTorch refuses sequences of no steps")
    layer = build(kind, arguments, dtype)
    theirs = getattr(torch.nn, kind.__name__)(**arguments).to(tensor(np.empty(0, dtype)).dtype)
    theirs.load_state_dict(to_torch(layer.state_dict()))
    given = inputs(layer, x_shape, dtype)
    x, h, c = (tensor(given[name], gradient=True) for name in ("x", "h", "c"))
    results = theirs(x, (h, c))
    y, (h_last, c_last) = results if kind is nn.LSTM else (None, results)
    pairs = [(y, "dy"), (h_last, "dh"), (c_last, "dc")][y is None :]
    torch.autograd.backward([result for result, _ in pairs], [tensor(given[name]) for _, name in pairs])
    wanted = {"y": y, "h": h_last, "c": c_last, "x": x.grad, "dh": h.grad, "dc": c.grad}
    wanted |= {name: p.grad for name, p in theirs.named_parameters()}
    got = run(layer, **given)
    assert got.keys() == {name for name, value in wanted.items() if value is not None}
    for name, array in got.items():
        assert_close(array, wanted[name].detach().numpy())


@every_case
def test_weights_go_both_ways(kind, x_shape, arguments):
    ours, theirs = build(kind, arguments), getattr(torch.nn, kind.__name__)(**arguments)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(from_torch(theirs.state_dict()))
    assert_same(ours.state_dict(), from_torch(theirs.state_dict()))

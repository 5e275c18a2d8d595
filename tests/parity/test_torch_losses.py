"""Every configuration of `tests.loss_cases` computes what PyTorch computes."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn
from tests.cases import assert_close
from tests.loss_cases import LOSS_CASES
from tests.parity.cases import tensor, torch

EMPTY = [c for c in LOSS_CASES if len(c.shape) > 1 and not c.kwargs.get("label_smoothing") and c.loss is not nn.BCELoss]


def peer(case, reduction, dtype):
    """PyTorch's loss for a case."""
    kwargs = {n: tensor(v.astype(dtype)) if isinstance(v, np.ndarray) else v for n, v in case.kwargs.items()}
    return getattr(torch.nn, case.loss.__name__)(**kwargs, reduction=reduction)


def compare(case, reduction, x, target):
    """Loss and gradient, ours and theirs."""
    loss, prediction = case.build(reduction), tensor(x, gradient=True)
    goal = tensor(target).long() if target.dtype == np.int32 else tensor(target)  # PyTorch takes no 32-bit classes
    expected = peer(case, reduction, x.dtype)(prediction, goal)
    expected.sum().backward()
    assert_close(np.asarray(loss(x, target), x.dtype), expected.detach().numpy())
    assert_close(loss.backward() * x.dtype.type(x.size), prediction.grad.numpy() * x.size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", LOSS_CASES, ids=str)
def test_loss_and_gradient(case, reduction, dtype):
    compare(case, reduction, *case.arrays(dtype))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", EMPTY, ids=str)
def test_an_empty_batch(case, reduction):
    x, target = case.arrays()
    compare(case, reduction, x[:0], target[:0])


@pytest.mark.parametrize("logits", [[np.nan, 1, 2], [np.inf, 1, 2], [-np.inf, 1, 2], [-np.inf, -np.inf, -np.inf]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_special_logits(logits, smoothing):
    x, target = np.array([logits, [1, 2, 3]], np.float32), np.array([1, 0])
    ours = nn.CrossEntropyLoss(reduction="none", label_smoothing=smoothing)
    theirs = torch.nn.CrossEntropyLoss(reduction="none", label_smoothing=smoothing)
    np.testing.assert_allclose(ours(x, target), theirs(tensor(x), tensor(target)).numpy(), rtol=1e-6)

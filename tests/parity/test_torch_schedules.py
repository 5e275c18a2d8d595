"""Schedules against PyTorch's, over groups with rates of their own."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import numba_nn as nn
from tests.parity.cases import torch

SCHEDULES = [
    ("StepLR", {"step_size": 7}),
    ("StepLR", {"step_size": 1, "gamma": 0.9}),
    ("CosineAnnealingLR", {"T_max": 60}),
    ("CosineAnnealingLR", {"T_max": 13, "eta_min": 0.01}),
    ("LinearLR", {}),
    ("LinearLR", {"start_factor": 1.0, "end_factor": 0.1, "total_iters": 23}),
    ("ReduceLROnPlateau", {"patience": 2}),
    ("ReduceLROnPlateau", {"mode": "max", "patience": 1, "cooldown": 3, "factor": 0.5, "min_lr": [0.01, 0.05]}),
    ("ReduceLROnPlateau", {"patience": 0, "threshold": 0.3, "threshold_mode": "abs", "eps": 1e-3}),
]


def both(make):
    """Our schedule and PyTorch's; ``make`` takes the module with the schedules and an optimiser."""
    mine = [{"params": nn.Parameter(np.zeros(2, np.float32)), "lr": rate} for rate in (0.1, 0.7)]
    theirs = [{"params": torch.nn.Parameter(torch.zeros(2)), "lr": rate} for rate in (0.1, 0.7)]
    return make(nn.schedules, nn.optim.SGD(mine)), make(torch.optim.lr_scheduler, torch.optim.SGD(theirs))


def check_rates(mine, theirs, metrics=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch misses the optimiser's steps
        for step in range(50):
            expected = [group["lr"] for group in theirs.optimizer.param_groups]
            np.testing.assert_allclose(mine.get_last_lr(), expected, rtol=1e-11, atol=1e-17)
            for schedule in (mine, theirs):
                schedule.step(*([] if metrics is None else [metrics[step]]))


@pytest.mark.parametrize(("name", "settings"), SCHEDULES, ids=str)
def test_rates_over_fifty_steps(name, settings):
    metrics = np.random.default_rng(0).standard_normal(50).tolist() if name == "ReduceLROnPlateau" else None
    check_rates(*both(lambda module, optimizer: getattr(module, name)(optimizer, **settings)), metrics)


def test_one_schedule_after_another():
    def make(module, optimizer):
        warm_up, cosine = module.LinearLR(optimizer, total_iters=4), module.CosineAnnealingLR(optimizer, 10, eta_min=0.01)
        return module.SequentialLR(optimizer, [warm_up, cosine, module.StepLR(optimizer, 5)], [4, 24])

    check_rates(*both(make))

"""Schedules of learning rates."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import numba_nn as nn
from tests import reference_training

RATES = [0.1, 0.7]
BY_EPOCH = [
    (nn.schedules.StepLR, reference_training.step_lr, {"step_size": 1}),
    (nn.schedules.StepLR, reference_training.step_lr, {"step_size": 7, "gamma": 0.5}),
    (nn.schedules.CosineAnnealingLR, reference_training.cosine_annealing_lr, {"T_max": 30}),
    (nn.schedules.CosineAnnealingLR, reference_training.cosine_annealing_lr, {"T_max": 13, "eta_min": 0.05}),
    (nn.schedules.LinearLR, reference_training.linear_lr, {}),
    (nn.schedules.LinearLR, reference_training.linear_lr, {"start_factor": 1.0, "end_factor": 0.2, "total_iters": 20}),
]


def optimizer():
    groups = [{"params": nn.Parameter(np.zeros(3, np.float32)), "lr": rate} for rate in RATES]
    return nn.optim.SGD(groups)


def chain(sgd):
    warm_up, cosine = nn.schedules.LinearLR(sgd, total_iters=4), nn.schedules.CosineAnnealingLR(sgd, 10, eta_min=0.01)
    return nn.schedules.SequentialLR(sgd, [warm_up, cosine, nn.schedules.StepLR(sgd, 5)], [4, 14])


MAKERS = {
    "SequentialLR": chain,
    "ReduceLROnPlateau": lambda sgd: nn.schedules.ReduceLROnPlateau(sgd, patience=1, cooldown=2),
    **{made.__name__: lambda sgd, made=made, given=given: made(sgd, **given) for made, _, given in BY_EPOCH},
}


def advance(schedule, epochs):
    """Rates before every epoch; the metric, if one is asked for, falls and then stays."""
    rates = []
    for epoch in epochs:
        rates.append(schedule.get_last_lr())
        schedule.step(*([max(1.0, 5.0 - epoch)] if isinstance(schedule, nn.schedules.ReduceLROnPlateau) else []))
    return rates


@pytest.mark.parametrize(("made", "formula", "arguments"), BY_EPOCH, ids=lambda part: getattr(part, "__name__", str(part)))
def test_rates_equal_the_formula(made, formula, arguments):
    sgd = optimizer()
    schedule = made(sgd, *arguments.values()) if len(arguments) == 2 else made(sgd, **arguments)
    expected = [[formula(base, epoch, **arguments) for base in RATES] for epoch in range(50)]
    np.testing.assert_allclose(advance(schedule, range(50)), expected, rtol=1e-13, atol=1e-17)
    assert schedule.last_epoch == 50
    assert schedule.get_last_lr() == [group["lr"] for group in sgd.param_groups]


def test_one_schedule_after_another():
    rates = advance(chain(optimizer()), range(40))
    for epoch, got in enumerate(rates):
        for rate, base in zip(got, RATES, strict=True):
            if epoch < 4:
                expected = reference_training.linear_lr(base, epoch, total_iters=4)
            elif epoch < 14:
                expected = reference_training.cosine_annealing_lr(base, epoch - 4, 10, 0.01)
            else:
                expected = reference_training.step_lr(base, epoch - 14, 5)
            assert rate == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("outer", [1, 2])
def test_chains_may_be_nested(outer):
    sgd, plain = optimizer(), optimizer()
    whole = nn.schedules.SequentialLR(sgd, [nn.schedules.StepLR(sgd, 3), chain(sgd)], [outer])
    parts = advance(nn.schedules.StepLR(plain, 3), range(outer)) + advance(chain(optimizer()), range(20))
    assert advance(whole, range(outer + 20)) == parts


@pytest.mark.parametrize(
    ("settings", "metrics", "reductions"),
    [
        ({"patience": 1}, [3, 2, 1, 1, 1, 1, 1], [4, 6]),
        ({"patience": 0, "cooldown": 2}, [1, 1, 1, 1, 1, 1], [1, 4]),
        ({"patience": 0, "mode": "max"}, [1, 2, 3, 3, 4], [3]),
        ({"patience": 0, "threshold": 0.5}, [1, 0.6, 0.4], [1]),
        ({"patience": 0, "threshold": 0.5, "threshold_mode": "abs"}, [4, 3, 2.6], [2]),
        ({"patience": 0}, [1, math.nan, 0.5, math.nan], [1, 3]),
    ],
)
def test_a_plateau_lowers_the_rates(settings, metrics, reductions):
    sgd = optimizer()
    schedule = nn.schedules.ReduceLROnPlateau(sgd, factor=0.5, **settings)
    before, found = schedule.get_last_lr(), []
    for epoch, metric in enumerate(metrics):
        schedule.step(metric)
        if schedule.get_last_lr() != before:
            assert schedule.get_last_lr() == [0.5 * rate for rate in before]
            found.append(epoch)
        before = schedule.get_last_lr()
    assert found == reductions


def test_a_plateau_stops_at_the_lowest_rate():
    schedule = nn.schedules.ReduceLROnPlateau(optimizer(), patience=0, min_lr=[0.05, 0], eps=1e-3)
    for _ in range(30):
        schedule.step(1.0)
    assert schedule.get_last_lr() == pytest.approx([0.05, 7e-4])  # the next change would be less than eps


def test_a_schedule_does_not_touch_what_else_a_group_sets():
    sgd = optimizer()
    before = [{name: value for name, value in group.items() if name != "lr"} for group in sgd.param_groups]
    chain(sgd).step()
    for group, kept, rate in zip(sgd.param_groups, before, RATES, strict=True):
        assert {name: value for name, value in group.items() if name not in ("lr", "initial_lr")} == kept
        assert group["initial_lr"] == rate


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_schedule_resumes_where_it_stopped(make):
    whole, resumed = make(optimizer()), make(optimizer())
    advance(whole, range(9))
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    assert resumed.get_last_lr() == whole.get_last_lr()
    assert advance(resumed, range(9, 30)) == advance(whole, range(9, 30))
    assert resumed.state_dict() == whole.state_dict()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_state_that_does_not_fit_changes_nothing(make):
    schedule = make(optimizer())
    advance(schedule, range(3))
    state = schedule.state_dict()
    for wrong in (5, {}, {**state, "more": 1}, {**state, "lr": [0.1]}, {**state, "lr": 0.1}):
        with pytest.raises(nn.StateDictError, match=f"^{type(schedule).__name__}: "):
            schedule.load_state_dict(wrong)
        assert schedule.state_dict() == state


S = nn.schedules


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda o: S.StepLR(nn.Linear(2, 2), 3), "StepLR: optimizer must be an Optimizer object, got Linear"),
        (lambda o: S.StepLR(o, 0), "StepLR: step_size .* at least 1, got 0"),
        (lambda o: S.StepLR(o, 3, -1), "StepLR: gamma"),
        (lambda o: S.CosineAnnealingLR(o, 2.5), "CosineAnnealingLR: T_max"),
        (lambda o: S.CosineAnnealingLR(o, 2, math.nan), "CosineAnnealingLR: eta_min"),
        (lambda o: S.LinearLR(o, 0), "LinearLR: start_factor must be above 0"),
        (lambda o: S.LinearLR(o, 1.5), "LinearLR: start_factor must be a number from 0 to 1, got 1.5"),
        (lambda o: S.LinearLR(o, end_factor=2), "LinearLR: end_factor"),
        (lambda o: S.LinearLR(o, total_iters=0), "LinearLR: total_iters"),
        (lambda o: S.SequentialLR(o, [], []), "SequentialLR: milestones"),
        (lambda o: S.SequentialLR(o, [S.StepLR(o, 1)] * 2, []), "SequentialLR: milestones must be one less than the 2"),
        (lambda o: S.SequentialLR(o, [S.StepLR(o, 1)] * 3, [5, 5]), r"SequentialLR: milestones .*rising, got \[5, 5\]"),
        (lambda o: S.SequentialLR(o, [S.StepLR(o, 1)] * 2, [0]), "SequentialLR: milestones"),
        (lambda o: S.SequentialLR(o, [S.ReduceLROnPlateau(o)], []), "SequentialLR: schedulers"),
        (lambda o: S.SequentialLR(o, [S.StepLR(optimizer(), 1)], []), "SequentialLR: schedulers"),
        (lambda o: S.ReduceLROnPlateau(o, "least"), "ReduceLROnPlateau: mode must be 'min' or 'max', got 'least'"),
        (lambda o: S.ReduceLROnPlateau(o, factor=1), "ReduceLROnPlateau: factor must be below 1"),
        (lambda o: S.ReduceLROnPlateau(o, patience=-1), "ReduceLROnPlateau: patience"),
        (lambda o: S.ReduceLROnPlateau(o, threshold_mode="share"), "ReduceLROnPlateau: threshold_mode"),
        (lambda o: S.ReduceLROnPlateau(o, min_lr=[0.1]), "ReduceLROnPlateau: min_lr .* each of the 2 groups"),
    ],
)
def test_wrong_arguments_are_refused(make, words):
    with pytest.raises(nn.ArgumentError, match=words):
        make(optimizer())


def test_the_repr_shows_the_settings():
    optimizer = nn.optim.SGD(nn.Linear(2, 2).parameters())
    warm_up, step = nn.schedules.LinearLR(optimizer, 0.5), nn.schedules.StepLR(optimizer, 3)
    assert repr(warm_up) == "LinearLR(start_factor=0.5, end_factor=1.0, total_iters=5, last_epoch=0)"
    both = nn.schedules.SequentialLR(optimizer, [warm_up, step], [5])
    both.step()
    assert repr(both) == f"SequentialLR(schedulers=[{warm_up!r}, {step!r}], milestones=[5], last_epoch=1)"
    assert repr(nn.schedules.ReduceLROnPlateau(optimizer, factor=0.5)).startswith("ReduceLROnPlateau(mode='min', factor=0.5, ")


@pytest.mark.parametrize("metric", ["1.0", None, np.array([1.0]), [1.0], True])
def test_a_metric_is_a_number(metric):
    schedule = nn.schedules.ReduceLROnPlateau(optimizer())
    with pytest.raises(nn.ArgumentError, match=r"^ReduceLROnPlateau: metric must be a number, got "):
        schedule.step(metric)
    assert schedule.last_epoch == 0
    for number in (1, np.float32(2), np.array(3.0), math.nan):
        schedule.step(number)
    assert schedule.best == 1

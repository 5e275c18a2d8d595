"""`TrainStep`: the loop by hand, without its allocations; what it was not made for."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn
from tests.allocations import no_array_data, one_box_per_array_argument
from tests.cases import assert_same
from tests.test_training import numbers, perceptron


def test_a_train_step_is_the_loop_by_hand(monkeypatch):
    models = [perceptron(64, sizes=(30, 20)) for _ in range(2)]
    optimizers = [nn.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in models]
    step, loss = nn.TrainStep(models[0], nn.MSELoss(), optimizers[0], (50, 30)), nn.MSELoss()
    for rows in (50, 7, 50, 1):
        x, target = numbers(rows, 30, seed=rows), numbers(rows, 20, seed=(rows, 1))
        optimizers[1].zero_grad()
        expected = loss(models[1](x), target)
        models[1].backward(loss.backward())
        optimizers[1].step()
        assert step.forward(x, target) == expected
        assert step(x, target) == expected
        assert_same(models[0].state_dict(), models[1].state_dict())
        with no_array_data():
            step.forward(x, target)
    with no_array_data():
        step(x, target)
    with one_box_per_array_argument(monkeypatch):
        step(x, target)


def refused_steps(step, rows, columns):
    yield numbers(rows + 1, columns), nn.ReserveError, rf"x has a batch of {rows + 1}, {rows} are reserved"
    yield numbers(rows, columns + 1), nn.ShapeError, rf"x must have shape.*got \({rows}, {columns + 1}\)"
    yield numbers(columns), nn.ShapeError, "x must have shape"
    yield numbers(rows, columns).tolist(), nn.DTypeError, "x must be a NumPy array"
    yield numbers(rows, columns, dtype=np.float64), nn.DTypeError, "x must be float32"


def test_a_train_step_refuses_what_it_was_not_made_for():
    model = perceptron(sizes=(30, 20))
    step = nn.TrainStep(model, nn.MSELoss(), nn.optim.SGD(model.parameters(), lr=0.1), (50, 30))
    x, target = numbers(50, 30), numbers(51, 20)
    step(x, target[:50])
    state = {name: p.grad.copy() for name, p in model.named_parameters()} | {
        f"value {n}": a for n, a in model.state_dict().items()
    }
    for wrong, error, words in refused_steps(step, 50, 30):
        with pytest.raises(error, match=words):
            step(wrong, target[: len(wrong)])
    model.zero_grad()
    model.eval()
    with pytest.raises(nn.BackwardError, match=r"eval mode.*model.train\(\)"):
        step(x, target[:50])
    assert_same(model.state_dict(), {n.removeprefix("value "): a for n, a in state.items() if n.startswith("value ")})
    model.train()
    step(x, target[:50])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_first_step_allocates_nothing(reduction):
    def make():
        model = perceptron(64, sizes=(300, 200))
        optimizer = nn.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return nn.TrainStep(model, nn.MSELoss(reduction), optimizer, (50, 300))

    x, target = numbers(50, 300), numbers(50, 200)
    make()(x, target)  # compiles
    step = make()
    with no_array_data():
        step(x, target)


def test_swapped_or_unmade_arguments_are_named():
    model = nn.Linear(3, 2)
    optimizer = nn.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(nn.ArgumentError, match="loss must be a Loss object"):
        nn.TrainStep(model, nn.MSELoss, optimizer, (4, 3))
    with pytest.raises(nn.ArgumentError, match="model must be a Layer object"):
        nn.TrainStep(nn.MSELoss(), model, optimizer, (4, 3))

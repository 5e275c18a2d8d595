"""`TrainStep`: the loop by hand, without its allocations; what it was not made for."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn
from tests.allocations import no_array_data, no_runtime_memory
from tests.cases import assert_same
from tests.test_training import numbers, perceptron


def test_a_train_step_is_the_loop_by_hand():
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
    with no_runtime_memory():
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


def test_the_optimizer_must_be_over_the_models_parameters():
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    for parameters in (other.parameters(), model.parameters() + other.parameters()):
        with pytest.raises(nn.ArgumentError, match=r"are not the model's, Parameter\(weight.*model.parameters\(\)"):
            nn.TrainStep(model, nn.MSELoss(), nn.optim.SGD(parameters, lr=0.1), (4, 3))
    nn.TrainStep(model, nn.MSELoss(), nn.optim.SGD([model.weight], lr=0.1), (4, 3))
    optimizer = nn.optim.SGD([model.weight], lr=0.1)
    model.weight.requires_grad = False
    with pytest.raises(nn.ArgumentError, match="nothing to train"):
        nn.TrainStep(model, nn.MSELoss(), optimizer, (4, 3))
    for wrong in (None, nn.optim.SGD, object()):
        with pytest.raises(nn.ArgumentError, match="optimizer must be an object with"):
            nn.TrainStep(other, nn.MSELoss(), wrong, (4, 3))
    optimizer = nn.optim.SGD(other.parameters(), lr=0.1)
    with pytest.raises(nn.ArgumentError, match="reduction must be 'mean' or 'sum'"):
        nn.TrainStep(other, nn.MSELoss("none"), optimizer, (4, 3))
    with pytest.raises(nn.ArgumentError, match="clip must be callable"):
        nn.TrainStep(other, nn.MSELoss(), optimizer, (4, 3), clip=1.0)


def test_gradients_are_clipped_between_backward_and_update():
    model = nn.Linear(3, 2)
    before = model.state_dict()
    seen = []

    def clip():
        seen.append(model.weight.grad.copy())
        model.zero_grad()

    step = nn.TrainStep(model, nn.MSELoss(), nn.optim.SGD(model.parameters(), lr=0.1), (4, 3), clip)
    step(numbers(4, 3), numbers(4, 2, seed=1))
    assert np.any(seen[0])
    assert_same(model.state_dict(), before)


def test_output_is_the_prediction_of_the_last_batch():
    model = perceptron(sizes=(30, 20))
    step = nn.TrainStep(model, nn.MSELoss(), nn.optim.SGD(model.parameters(), lr=0.1), (50, 30))
    assert step.output.shape == (0, 20)
    for rows in (50, 7):
        expected = model(numbers(rows, 30))
        step(numbers(rows, 30), numbers(rows, 20, seed=1))
        np.testing.assert_array_equal(step.output, expected)


def test_an_embedding_is_trained_on_whole_numbers():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3))
    step = nn.TrainStep(model, nn.MSELoss(), nn.optim.SGD(model.parameters(), lr=0.5), (6, 5))
    x, target = np.arange(30).reshape(6, 5) % 10, numbers(6, 5, 3)
    first = step(x, target)
    with no_array_data():
        step(x, target)
    assert step(x[:2], target[:2]) < first
    with pytest.raises(nn.DTypeError, match="x must"):
        step(x.astype(np.float32), target)
    assert nn.predict(model, x).shape == (6, 5, 3)


def test_targets_may_be_classes():
    model = perceptron(sizes=(30, 20))
    step = nn.TrainStep(model, nn.CrossEntropyLoss(), nn.optim.Adam(model.parameters()), (50, 30))
    x, target = numbers(50, 30), np.arange(50) % 20
    first = step(x, target)
    with no_array_data():
        step(x, target)
    assert step(x[:7], target[:7]) < first
    state = model.state_dict()
    with pytest.raises(nn.RangeError):
        step(x, target + 1)
    assert_same(model.state_dict(), state)

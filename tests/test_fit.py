"""`fit`, `evaluate` and `predict`: against the loop by hand, and how they end."""

from __future__ import annotations

import csv
import os
import signal
import threading

import numpy as np
import pytest

import numba_nn as nn
from numba_nn.train import progress
from tests.cases import assert_same
from tests.loss_cases import LOSS_CASES
from tests.test_training import numbers, perceptron

X, TARGET = numbers(23, 4), numbers(23, 2, seed=1)


def model_and_optimizer(lr=0.05):
    nn.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    return model, nn.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def fit(epochs=3, data=(X, TARGET), validation=None, lr=0.05, **options):
    model, optimizer = model_and_optimizer(lr)
    options = {"progress": False, "batch_size": 5, "epochs": epochs, **options}
    return model, nn.fit(model, nn.MSELoss(), optimizer, data, validation, **options)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_fit_is_the_loop_by_hand(reduction):
    by_hand, optimizer = model_and_optimizer(lr=0.01)
    loss, batches = nn.MSELoss(reduction), nn.data.Batches(X, TARGET, batch_size=5, seed=7)
    losses, val_losses = [], []
    for epoch in range(3):
        total = 0.0
        for x, target in batches.epoch(epoch):
            optimizer.zero_grad()
            total += loss(by_hand(x), target) * (len(x) if reduction == "mean" else 1)
            by_hand.backward(loss.backward())
            optimizer.step()
        losses.append(total / 23 if reduction == "mean" else total)
        val_losses.append(loss(by_hand.eval()(X[:12]), TARGET[:12]))
        by_hand.train()
    model, optimizer = model_and_optimizer(lr=0.01)
    history = nn.fit(
        model, nn.MSELoss(reduction), optimizer, (X, TARGET), (X[:12], TARGET[:12]), epochs=3, batch_size=5, seed=7,
        progress=False, metrics=[nn.metrics.MeanSquaredError()],
    )  # fmt: skip
    assert_same(model.state_dict(), by_hand.state_dict())
    assert history["epoch"] == [1, 2, 3]
    assert history["lr"] == [0.01] * 3
    assert history["loss"] == pytest.approx(losses)
    assert history["val_loss"] == pytest.approx(val_losses)
    scale = 1 if reduction == "mean" else 1 / 24
    assert history["val_mean_squared_error"] == pytest.approx([v * scale for v in val_losses])
    assert len(history["seconds"]) == 3
    assert list(history) == ["epoch", "loss", "mean_squared_error", "val_loss", "val_mean_squared_error", "lr", "seconds"]


def test_evaluate_and_predict_do_not_depend_on_the_batches_and_keep_the_modes():
    model, _ = model_and_optimizer()
    model[0].eval()
    values = [nn.evaluate(model, nn.MSELoss(), (X, TARGET), {"r": nn.metrics.R2()}, batch_size=n) for n in (1, 5, 23, 256)]
    for value in values[1:]:
        assert value == pytest.approx(values[0], rel=1e-5)
    for n in (1, 5, 256):
        np.testing.assert_allclose(nn.predict(model, X, batch_size=n), model(X), rtol=1e-6, atol=1e-6)
    assert nn.predict(model, X[:0]).shape == (0, 2)
    assert [m.training for m in model.modules()] == [True, False, True, True]
    fresh, _ = model_and_optimizer()
    nn.evaluate(fresh, nn.MSELoss(), (X, TARGET))
    with pytest.raises(nn.BackwardError, match="no forward is left"):
        fresh.backward(TARGET)  # nothing of the evaluation was kept


@pytest.mark.parametrize("case", LOSS_CASES, ids=str)
def test_a_mean_is_the_sum_divided_by_the_divisor(case):
    prediction, target = case.arrays(np.float64)
    mean, total = case.build(), case.build("sum")
    with pytest.raises(nn.BackwardError, match="divisor before forward"):
        mean.divisor()
    value = mean(prediction, target)
    np.testing.assert_allclose(value * mean.divisor(), total(prediction, target), rtol=1e-9)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss, nn.NLLLoss])
def test_the_mean_is_that_of_all_targets_that_count_by_their_weights(loss):
    x, target = numbers(12, 3), np.arange(12) % 3
    target[5:8] = target[11] = -100  # at 2 items a batch: one batch has no target that counts
    weight, model = np.array([0.2, 1, 5], np.float32), nn.Sequential(nn.Tanh())
    for given in (None, weight):
        expected = loss(given)(model(x), target)
        for size in (1, 2, 5, 12):
            assert nn.evaluate(model, loss(given), (x, target), batch_size=size)["loss"] == pytest.approx(expected, rel=1e-5)
    ignored = nn.evaluate(model, loss(), (x, np.full(12, -100)), batch_size=5)["loss"]
    assert np.isnan(ignored)


def test_the_loss_of_training_is_the_mean_by_weights_too():
    x, target = numbers(7, 3), np.arange(7) % 3
    model, loss = nn.Sequential(nn.Linear(3, 3)), nn.CrossEntropyLoss(np.array([0.2, 1, 5], np.float32))
    expected = loss(model(x), target)
    history = nn.fit(
        model, loss, nn.optim.SGD(model.parameters(), lr=0.0), (x, target), epochs=1, batch_size=3, progress=False
    )  # fmt: skip
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_models_without_parameters_follow_their_input(dtype):
    x, target = X[:, :2].astype(dtype), TARGET.astype(dtype)
    expected = nn.MSELoss()(nn.ReLU()(x), target)
    assert nn.evaluate(nn.ReLU(), nn.MSELoss(), (x, target), batch_size=6)["loss"] == pytest.approx(expected, rel=1e-6)
    assert nn.predict(nn.ReLU(), x).dtype == dtype


def test_frozen_layers_stay_in_their_mode():
    model, optimizer = model_and_optimizer()
    model[0].eval()
    nn.fit(model, nn.MSELoss(), optimizer, (X, TARGET), (X, TARGET), epochs=1, progress=False)
    assert not model[0].training
    nn.fit(model.eval(), nn.MSELoss(), optimizer, (X, TARGET), epochs=1, progress=False)
    assert model[0].training


def test_streams_train_as_arrays_do():
    def samples():
        yield from zip(X, TARGET, strict=True)

    def growing():
        yield from ((X[a:b], TARGET[a:b]) for a, b in ((0, 3), (3, 10), (10, 23)))

    in_order = nn.data.Batches(X, TARGET, batch_size=5, shuffle=False)
    model, history = fit(data=in_order, validation=nn.data.Batches(X, TARGET, batch_size=5, shuffle=False))
    stream = nn.data.Stream(samples, batch_size=5)
    streamed, same = fit(data=stream, validation=stream)
    assert_same(model.state_dict(), streamed.state_dict())
    assert {**history, "seconds": 0} == {**same, "seconds": 0}
    assert fit(data=nn.data.Stream(growing, batch_size=None))[1]["loss"][-1] < history["loss"][0]


def test_early_stopping_goes_back_to_the_best_weights():
    states = []
    stopping = nn.EarlyStopping(patience=2)
    model, optimizer = model_and_optimizer(lr=0.3)
    history = nn.fit(
        model, nn.MSELoss(), optimizer, (X, TARGET), (-X, TARGET), epochs=60, progress=False, early_stopping=stopping,
        callbacks=[lambda epoch, history: states.append(model.state_dict())],
    )  # fmt: skip
    best = int(np.argmin(history["val_loss"]))
    assert len(history["epoch"]) == best + 1 + 2 < 60
    assert (stopping.best, stopping.best_epoch) == (history["val_loss"][best], best + 1)
    assert_same(model.state_dict(), states[best])
    assert len(fit(epochs=5, lr=0.0, validation=(X, TARGET), early_stopping=2)[1]["epoch"]) == 3
    assert len(fit(epochs=5, early_stopping=2)[1]["epoch"]) == 5  # the training loss, as there is no validation
    kept = nn.EarlyStopping(1, "loss", min_delta=1e-3, restore_best=False)
    assert len(fit(epochs=4, lr=0.0, early_stopping=kept)[1]["epoch"]) == 2


def test_early_stopping_knows_what_is_better():
    stopping = nn.EarlyStopping(patience=2, monitor="r2", mode="max", min_delta=0.1)
    stopping.start(nn.Linear(1, 1))
    values = [np.nan, 0.1, 0.15, 0.25, 0.1, 0.3]
    stops = [stopping.on_epoch_end(i + 1, {"r2": values[: i + 1]}) for i in range(6)]
    assert stops == [False, False, False, False, False, True]
    assert (stopping.best, stopping.best_epoch) == (0.25, 4)


def test_callbacks_stop_and_see_every_epoch():
    class Stopper:
        def on_epoch_end(self, epoch, history):
            return epoch == 2

    seen = []
    history = fit(callbacks=[Stopper(), lambda epoch, history: seen.append((epoch, len(history["loss"])))])[1]
    assert seen == [(1, 1), (2, 2)]
    assert history["epoch"] == [1, 2]


def test_ctrl_c_leaves_a_history_and_a_model():
    def samples():
        for i, sample in enumerate(zip(X, TARGET, strict=True)):
            if i == 12 and len(seen) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield sample

    seen = []
    before = signal.getsignal(signal.SIGINT)
    data = nn.data.Stream(samples, batch_size=5)
    model, history = fit(9, data, callbacks=[lambda epoch, history: seen.append(epoch)], early_stopping=8)
    assert history["epoch"] == seen == [1, 2]
    assert all(np.isfinite(array).all() for array in model.state_dict().values())
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_may_train():
    histories = []
    thread = threading.Thread(target=lambda: histories.append(fit()[1]["loss"]))
    thread.start()
    thread.join()
    assert histories == [fit()[1]["loss"]]


@pytest.mark.parametrize("early_stopping", [None, 5])
def test_a_loss_that_is_not_finite_stops_before_the_update(early_stopping):
    states = []

    def samples():
        for i in range(23):
            yield X[i], TARGET[i] if len(states) < 2 or i != 7 else TARGET[i] * np.float32(np.nan)

    model, optimizer = model_and_optimizer()
    with pytest.raises(nn.TrainingError, match="the loss in epoch 3 is nan; lower the learning rate") as caught:
        nn.fit(
            model, nn.MSELoss(), optimizer, nn.data.Stream(samples, batch_size=5), epochs=4, progress=False,
            callbacks=[lambda epoch, history: states.append(model.state_dict())], early_stopping=early_stopping,
        )  # fmt: skip
    assert caught.value.history["epoch"] == [1, 2]
    assert all(np.isfinite(array).all() for array in model.state_dict().values())
    if early_stopping:
        assert_same(model.state_dict(), states[1])
    with pytest.raises(nn.TrainingError, match="validation loss of epoch 1 is nan"):
        fit(validation=(X, TARGET * np.float32(np.nan)))


def test_every_epoch_is_a_row_of_the_csv(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("of another run")
    with pytest.raises(nn.ArgumentError):
        fit(csv=path, metrics=["accuracy"])
    assert path.read_text() == "of another run"
    lengths = []
    history = fit(
        csv=path, metrics={"r2": nn.metrics.R2()}, callbacks=[lambda *_: lengths.append(len(path.read_text().splitlines()))]
    )[1]
    assert lengths == [2, 3, 4]
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(history)
    assert [float(row["r2"]) for row in rows] == history["r2"]


def test_progress_is_lines_without_a_terminal_and_nothing_if_unwanted(capsys, monkeypatch):
    fit(epochs=2, validation=(X, TARGET), progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("epoch 2/2  loss ")
    assert "val_loss" in lines[1]
    fit(epochs=1)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setitem(__import__("sys").modules, "rich.progress", None)
    assert type(progress.open_progress(True)) is progress.Lines


def test_the_bar_shows_what_the_lines_show(capsys, monkeypatch):
    pytest.importorskip("rich", reason="rich is not installed")
    monkeypatch.setattr(progress, "open_progress", lambda wanted: progress.Bar())
    monkeypatch.setattr("numba_nn.train.fitting.open_progress", progress.open_progress)
    fit(epochs=2)
    assert "epoch 2/2" in capsys.readouterr().out


def test_schedules_set_the_rate_of_the_next_epoch():
    def rates(make, **options):
        model, optimizer = model_and_optimizer(lr=0.08)
        data, schedule = (X, TARGET), make(optimizer)
        return nn.fit(model, nn.MSELoss(), optimizer, data, epochs=4, progress=False, schedule=schedule, **options)["lr"]

    assert rates(lambda o: nn.schedules.StepLR(o, 2, gamma=0.5)) == [0.08, 0.08, 0.04, 0.04]
    stuck = (X, X[:, :2] * 0 + np.float32(1e6))  # far from all that four epochs reach: no improvement
    plateau = rates(lambda o: nn.schedules.ReduceLROnPlateau(o, factor=0.5, patience=0, threshold=0.5), validation=stuck)
    assert plateau == [0.08, 0.08, 0.04, 0.02]
    _, other = model_and_optimizer()
    with pytest.raises(nn.ArgumentError, match="schedule must be made for this optimizer"):
        rates(lambda o: nn.schedules.StepLR(other, 2))
    with pytest.raises(nn.ArgumentError, match="mode must be 'min'"):
        rates(lambda o: nn.schedules.ReduceLROnPlateau(o, mode="max"))


def test_gradients_are_clipped():
    by_hand, optimizer = model_and_optimizer()
    clip = nn.optim.ClipNorm(by_hand.parameters(), 0.01)
    step = nn.TrainStep(by_hand, nn.MSELoss(), optimizer, (5, 4), clip)
    for batch in nn.data.Batches(X, TARGET, batch_size=5).epoch(0):
        step(*batch)
    model, _ = fit(epochs=1, clip_norm=0.01)
    assert_same(model.state_dict(), by_hand.state_dict())
    assert np.any(model.state_dict()["0.weight"] != fit(epochs=1)[0].state_dict()["0.weight"])


def test_gradients_that_are_not_finite_stop_before_the_update():
    model = nn.Linear(4, 2)
    model.weight.value[...] = 0  # the loss is finite, the gradient of the weight is not
    before = model.state_dict()
    optimizer = nn.optim.SGD(model.parameters(), lr=0.1)
    data = (np.full((5, 4), 3e38, np.float32), np.ones((5, 2), np.float32))
    with pytest.raises(nn.TrainingError, match=r"in epoch 1, ClipNorm: .*norm of order 2 is inf.*; lower the learning rate"):
        nn.fit(model, nn.MSELoss("sum"), optimizer, data, epochs=1, progress=False, clip_norm=1.0)
    assert_same(model.state_dict(), before)


@pytest.mark.parametrize(("options", "error", "words"), [
    ({"epochs": 0}, nn.ArgumentError, "epochs must be a whole number"),
    ({"data": X}, nn.ArgumentError, r"pair of NumPy arrays \(x, target\).*got ndarray"),
    ({"data": (X, TARGET[:5])}, nn.ShapeError, r"equal lengths, got \[23, 5\]"),
    ({"data": (X, TARGET.tolist())}, nn.ArgumentError, r"got \(ndarray, list\)"),
    ({"data": nn.data.Batches(X, batch_size=5)}, nn.DataError, r"a batch must be a pair .*got \(ndarray\)"),
    ({"metrics": ["accuracy"]}, nn.ArgumentError, r"nn.metrics.Accuracy\(\)"),
    ({"metrics": [nn.metrics.R2(), nn.metrics.R2()]}, nn.ArgumentError, "names of their own"),
    ({"metrics": nn.metrics.R2()}, nn.ArgumentError, r"metrics must be a list or dict, got R2\(\)"),
    ({"callbacks": print}, nn.ArgumentError, "callbacks must be a list, got <built-in"),
    ({"callbacks": [nn.EarlyStopping(2, "loss")]}, nn.ArgumentError, "pass it as early_stopping"),
    ({"schedule": "cosine"}, nn.ArgumentError, "schedule must be an object of nn.schedules.*got 'cosine'"),
    ({"schedule": nn.schedules.StepLR}, nn.ArgumentError, "schedule must be an object of nn.schedules"),
    ({"batch_size": True}, nn.ArgumentError, "batch_size must be a whole number"),
    ({"callbacks": [3]}, nn.ArgumentError, r"callbacks must be callable\(epoch, history\).*got 3"),
    ({"early_stopping": 0}, nn.ArgumentError, "patience"),
    ({"early_stopping": nn.EarlyStopping(2)}, nn.ArgumentError, "monitor must be one of .*'val_loss'"),
    ({"batch_size": 0}, nn.ArgumentError, "batch_size"),
])  # fmt: skip
def test_wrong_arguments_are_named(options, error, words):
    with pytest.raises(error, match=words):
        fit(**options)


@pytest.mark.parametrize(("make", "words"), [
    (lambda: nn.EarlyStopping(2, "val_accuracy"), "mode must be 'min' or 'max' for monitor 'val_accuracy'"),
    (lambda: nn.EarlyStopping(2, mode="most"), "got 'most'"),
    (lambda: nn.EarlyStopping(2, min_delta=-1), "min_delta"),
    (lambda: nn.EarlyStopping(2, min_delta="a"), "min_delta must be a number"),
    (lambda: nn.EarlyStopping(2, monitor=3), "monitor must be the name of a column"),
    (lambda: nn.predict(None, X), "predict: model must be a Layer object, got None"),
    (lambda: nn.fit(perceptron(), nn.MSELoss, None, (X, TARGET), epochs=1), "fit: loss must be a Loss object"),
    (lambda: nn.predict(perceptron(), X, batch_size=0), "batch_size"),
    (lambda: nn.evaluate(perceptron(), nn.MSELoss("none"), (X, TARGET)), "reduction must be 'mean' or 'sum'"),
    (lambda: nn.evaluate(nn.MSELoss(), perceptron(), (X, TARGET)), "model must be a Layer object"),
])  # fmt: skip
def test_wrong_arguments_of_its_parts_are_named(make, words):
    with pytest.raises(nn.ArgumentError, match=words):
        make()

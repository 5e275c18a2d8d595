"""What every loss promises, over every configuration of `tests.loss_cases`; then what is peculiar to one."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest

import numba_nn as nn
from tests.allocations import no_array_data, no_runtime_memory
from tests.cases import assert_close
from tests.loss_cases import LOSS_CASES, ONE_OF_EACH_LOSS, REFUSED_LOSSES
from tests.test_contract import strided, wrong_destinations

STEP = 1e-6
REDUCTIONS = ["mean", "sum", "none"]
every_loss = pytest.mark.parametrize("case", LOSS_CASES, ids=str)
one_of_each = pytest.mark.parametrize("case", ONE_OF_EACH_LOSS, ids=str)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def fortran(array):
    """The same numbers, the first dimension fastest."""
    return np.array(array, order="F")


def value_and_gradient(loss, prediction, target):
    return loss.forward(prediction, target), loss.backward()


# Numbers


@every_loss
@every_reduction
@every_dtype
def test_forward_equals_the_formula(case, reduction, dtype):
    prediction, target = case.arrays(dtype)
    value = case.build(reduction)(prediction, target)
    expected = case.expected(prediction, target, reduction)
    assert type(value) is (np.ndarray if reduction == "none" else float)
    assert_close(np.asarray(value, dtype), expected)


@every_loss
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_backward_is_the_derivative_of_the_formula(case, reduction):
    prediction, target = case.arrays(np.float64)
    loss = case.build(reduction)
    gradient = value_and_gradient(loss, prediction, target)[1]
    assert gradient.shape == prediction.shape
    size = prediction.size
    rows = np.eye(size).reshape(size, *case.shape) if size <= 30 else np.random.default_rng(0).standard_normal((3, *case.shape))
    for direction in rows:
        ends = [case.expected(prediction + step * direction, target, reduction) for step in (STEP, -STEP)]
        along = gradient * direction
        tolerance = 1e-6 * max(1, np.linalg.norm(along.ravel()))
        assert abs(np.sum(along) - (ends[0] - ends[1]) / (2 * STEP)) <= tolerance


@every_loss
def test_gradients_of_all_reductions_and_dtypes_belong_together(case):
    prediction, target = case.arrays(np.float64)
    weight = np.sum(case.formula(prediction, target, **case.kwargs)[1])  # what the mean divides by
    expected = value_and_gradient(case.build("sum"), prediction, target)[1]
    assert_close(value_and_gradient(case.build("none"), prediction, target)[1], expected)
    assert_close(value_and_gradient(case.build("mean"), prediction, target)[1] * weight, expected)
    for reduction, factor in (("sum", 1), ("mean", weight), ("none", 1)):
        got = value_and_gradient(case.build(reduction), *case.arrays(np.float32))[1]
        assert got.dtype == np.float32
        assert_close(got * np.float32(factor), expected)


@one_of_each
@every_reduction
def test_an_empty_batch(case, reduction):
    shape = (0, *case.shape[1:])
    prediction = np.empty(shape, np.float32)
    target = np.empty(shape if case.target_kind in ("numbers", "shares") else (0,), case.arrays()[1].dtype)
    loss = case.build(reduction)
    value, gradient = value_and_gradient(loss, prediction, target)
    np.testing.assert_equal(value, {"mean": np.nan, "sum": 0.0, "none": np.empty(loss.loss_shape(shape))}[reduction])
    assert gradient.shape == shape


@every_loss
@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_nan_and_infinity_pass(case, special):
    prediction, target = case.arrays()
    if case.loss is nn.BCELoss and special == np.inf:
        return  # refused: no probability
    prediction.reshape(-1)[0] = special
    with np.errstate(invalid="ignore"):
        expected = case.expected(prediction, target, "none")
    single = case.build("none")
    value, gradient = value_and_gradient(single, prediction, target)
    np.testing.assert_array_equal(np.isfinite(value), np.isfinite(expected))
    reached = np.isnan(expected)
    assert np.isnan(value[reached]).all()
    if special is np.nan:
        assert np.isnan(gradient.reshape(-1)[0]) or case.loss is nn.NLLLoss  # whose gradient knows nothing of x
        assert np.isnan(case.build("sum")(prediction, target)) == reached.any()


# Who writes what


@every_loss
@every_reduction
def test_strided_and_read_only_arrays_give_the_same_and_out_is_returned(case, reduction):
    prediction, target = case.arrays()
    loss = case.build(reduction)
    value, gradient = value_and_gradient(loss, prediction, target)
    for array in (prediction, target):
        array.flags.writeable = False
    out = np.full(np.shape(value) if reduction == "none" else 1, 7, np.float32)
    dx = np.full(prediction.shape, 7, np.float32)
    for p, t in ((prediction, target), (strided(prediction), strided(target)), (fortran(prediction), fortran(target))):
        assert loss.forward(p, t, out=out) is out
        np.testing.assert_array_equal(out.reshape(np.shape(value)), np.float32(value))
        assert loss.backward(out=dx) is dx
        np.testing.assert_array_equal(dx, gradient)
        np.testing.assert_array_equal(loss.backward(), gradient)
    np.testing.assert_array_equal(prediction, case.arrays()[0])
    np.testing.assert_array_equal(target, case.arrays()[1])


@every_loss
@every_reduction
def test_nothing_is_allocated_from_the_first_call_on(case, reduction):
    prediction, target = case.arrays()
    loss = case.build(reduction)
    value, dx = np.asarray(loss(prediction, target)), loss.backward()  # compiles
    out = np.empty(value.shape if reduction == "none" else 1, np.float32)
    loss = case.build(reduction).reserve(prediction.shape, np.float32)
    for watch in (no_array_data, no_array_data, no_runtime_memory):
        with watch():
            loss.forward(prediction, target, out=out)
            loss.backward(out=dx)


@one_of_each
def test_batches_of_any_size_follow_one_another(case):
    one, prediction, target = case.build(), *case.arrays()
    for rows in (4, 1, 3, 4, 2):
        got = value_and_gradient(one, prediction[:rows], target[:rows])
        expected = value_and_gradient(case.build(), prediction[:rows], target[:rows])
        assert got[0] == expected[0]
        np.testing.assert_array_equal(got[1], expected[1])


# Refusals: the error says who, what, what was expected and what came, and nothing was written


def wrong_arguments(case):
    """Predictions and targets that do not fit together, the error, and words of its message."""
    p, t = case.arrays()
    yield (p.tolist(), t), nn.DTypeError, "prediction must be a NumPy array, got list"
    yield (p.astype(np.int64), t), nn.DTypeError, "prediction must be float32 or float64, got int64"
    yield (p, t.tolist()), nn.DTypeError, "target must be .*got list"
    yield (p, t.astype(np.float16)), nn.DTypeError, "target must be .*got float16"
    yield (p, t.astype(bool)), nn.DTypeError, "target must be .*got bool"
    yield (p, t[:2]), nn.ShapeError, r"target must have shape .*got \(2"
    yield (p, t[..., None]), nn.ShapeError, r"target must have shape .*1\)"
    if t.dtype.kind == "f":
        yield (p, t.astype(np.float64)), nn.DTypeError, "target must be .*got float64"
    else:
        yield (p, t.astype(np.uint8)), nn.DTypeError, "target must be .*int64 or int32.*got uint8"
        for at, value in ((1, p.shape[1]), (0, -1), (3, 2**40)):
            wrong = t.copy()
            wrong[at] = value
            yield (p, wrong), nn.RangeError, rf"target must lie in 0 .. {p.shape[1] - 1}, got {value} at \[{at}\]"


@one_of_each
def test_what_does_not_fit_is_refused_and_nothing_is_written(case):
    loss, arrays = case.build(), case.arrays()
    out = np.full(1, 7, np.float32)
    value, gradient = value_and_gradient(loss, *arrays)
    for arguments, error, words in wrong_arguments(case):
        with pytest.raises(error, match=f"{case.loss.__name__}.*{words}"):
            loss.forward(*arguments, out=out)
    for wrong, error in ((out, nn.ShapeError), (arrays[0], nn.DestinationError), (gradient.tolist(), nn.DTypeError)):
        with pytest.raises(error, match=f"{case.loss.__name__}.*out"):
            loss.backward(out=wrong)
    assert out == 7
    np.testing.assert_array_equal(loss.backward(), gradient)  # of the last forward that was not refused
    assert loss(*arrays) == value


@one_of_each
def test_an_output_that_cannot_be_written_is_refused(case):
    loss, (prediction, target) = case.build("none"), case.arrays()
    single = loss(prediction, target)
    for wrong, error, words in wrong_destinations(single, prediction):
        out, given = wrong if isinstance(wrong, tuple) else (wrong, prediction)
        before = np.array(out)
        with pytest.raises(error, match=case.loss.__name__) as caught:
            loss.forward(given, target, out=out)
        assert all(word in str(caught.value) for word in ("out", *words))
        np.testing.assert_array_equal(out, before)


@pytest.mark.parametrize("case", REFUSED_LOSSES, ids=str)
def test_predictions_of_the_wrong_shape_are_refused(case):
    loss, prediction = case.build(), np.zeros(case.shape, np.float32)
    for call in (lambda: loss.reserve(case.shape), lambda: loss(prediction, prediction)):
        with pytest.raises(nn.ShapeError, match=f"{case.loss.__name__}.*prediction") as caught:
            call()
        assert str(case.shape) in str(caught.value)


@one_of_each
def test_reserve_refuses_what_is_no_shape_or_dtype(case):
    loss = case.build()
    assert loss.reserve(case.shape, np.float64) is loss
    for wrong in (7, (3, -1), (2.5, 3), "ab", None):
        with pytest.raises(nn.ShapeError, match=f"{case.loss.__name__}.*shape"):
            loss.reserve(wrong)
    with pytest.raises(nn.DTypeError, match="float32 or float64"):
        loss.reserve(case.shape, np.int32)


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: nn.MSELoss("average"), nn.ArgumentError, "MSELoss.*reduction.*average"),
        (lambda: nn.CrossEntropyLoss(reduction=None), nn.ArgumentError, "CrossEntropyLoss.*reduction.*None"),
        (lambda: nn.CrossEntropyLoss(label_smoothing=1.5), nn.ArgumentError, "CrossEntropyLoss.*label_smoothing.*1.5"),
        (lambda: nn.CrossEntropyLoss(label_smoothing=np.nan), nn.ArgumentError, "CrossEntropyLoss.*label_smoothing.*nan"),
        (lambda: nn.NLLLoss(ignore_index=1.5), nn.ArgumentError, "NLLLoss.*ignore_index.*1.5"),
        (lambda: nn.NLLLoss([1.0, 2.0]), nn.DTypeError, "NLLLoss.*weight must be a NumPy array, got list"),
        (lambda: nn.NLLLoss(np.ones((2, 1))), nn.ShapeError, r"NLLLoss.*weight must have shape.*\(2, 1\)"),
        (lambda: nn.CrossEntropyLoss(np.ones(3, int)), nn.DTypeError, "CrossEntropyLoss.*weight.*int64"),
        (lambda: nn.BCELoss(np.ones(3, int)), nn.DTypeError, "BCELoss.*weight.*int64"),
        (lambda: nn.BCEWithLogitsLoss(pos_weight=2.0), nn.DTypeError, "BCEWithLogitsLoss.*pos_weight.*float"),
    ],
)
def test_wrong_arguments_are_refused(build, error, words):
    with pytest.raises(error, match=words):
        build()


@one_of_each
def test_a_loss_is_of_one_thread_and_its_copy_has_seen_nothing(case, monkeypatch):
    inside, leave = threading.Event(), threading.Event()
    loss, arrays = case.build(), case.arrays()
    with pytest.raises(nn.BackwardError, match=f"{case.loss.__name__}.*before forward"):
        loss.backward()
    value = loss(*arrays)
    twin = copy.deepcopy(loss)
    with pytest.raises(nn.BackwardError):
        twin.backward()
    assert pickle.loads(pickle.dumps(loss))(*arrays) == twin(*arrays) == value
    monkeypatch.setattr(case.loss, "_forward", lambda *_: (inside.set(), leave.wait(10)))
    thread = threading.Thread(target=loss.forward, args=arrays)
    thread.start()
    assert inside.wait(10)
    for call in (lambda: loss(*arrays), loss.backward, lambda: loss.reserve(case.shape)):
        with pytest.raises(nn.ConcurrencyError, match=f"{case.loss.__name__}.*in use by another thread"):
            call()
    leave.set()
    thread.join()


# Binary cross-entropy


@pytest.mark.parametrize("name", ["prediction", "target"])
@pytest.mark.parametrize("wrong", [-0.01, 1.01, np.inf])
def test_what_is_no_probability_is_refused(name, wrong):
    loss = nn.BCELoss()
    arrays = {"prediction": np.full((2, 3), 0.5, np.float32), "target": np.zeros((2, 3), np.float32)}
    arrays[name][1, 2] = wrong
    with pytest.raises(nn.RangeError, match=rf"BCELoss.*{name} must lie in 0 .. 1, got .* at \[1, 2\]"):
        loss(**arrays)


def test_certain_probabilities_have_finite_losses():
    loss, prediction = nn.BCELoss(reduction="none"), np.array([0, 1, 0, 1], np.float32)
    value, gradient = value_and_gradient(loss, prediction, np.array([0, 1, 1, 0], np.float32))
    np.testing.assert_array_equal(value, [0, 0, 100, 100])
    np.testing.assert_array_equal(np.sign(gradient), [0, 0, -1, 1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_small_probabilities_keep_the_digits_of_small_losses(dtype):
    limits = np.finfo(dtype)
    least, half = np.log10(limits.tiny), dtype(0.5)
    near = [np.nextafter(half, dtype(0)), half, np.nextafter(half, dtype(1)), 1 - limits.epsneg]
    p = np.concatenate([np.logspace(least, np.log10(0.5), 10_000), near]).astype(dtype)
    value = nn.BCELoss(reduction="none")(p, np.zeros_like(p))
    np.testing.assert_allclose(value, -np.log1p(-p.astype(np.longdouble)), rtol=4 * limits.eps)


def test_certain_logits_keep_the_digits_of_small_losses():
    logits = np.array([30, -30, 200, -200, 90, -90], np.float32)
    value, gradient = value_and_gradient(nn.BCEWithLogitsLoss(reduction="none"), logits, (logits > 0).astype(np.float32))
    np.testing.assert_allclose(value, np.exp(-abs(logits.astype(np.float64))), rtol=1e-6, atol=1e-38)
    assert (np.sign(gradient)[[1, 3, 5]] >= 0).all()
    worst = nn.BCEWithLogitsLoss(reduction="none")(logits, (logits < 0).astype(np.float32))
    np.testing.assert_allclose(worst, abs(logits), rtol=1e-6)


def test_weights_are_the_losses_own():
    weight = np.ones(3, np.float32)
    loss = nn.BCEWithLogitsLoss(weight)
    weight[...] = 7
    x = np.zeros((2, 3), np.float32)
    assert loss(x, x) == pytest.approx(np.log(2))
    assert not loss.weight.flags.writeable


# Classes


@every_reduction
def test_targets_that_are_all_ignored(reduction):
    x, target = np.ones((3, 4), np.float32), np.full(3, -100)
    for loss in (nn.CrossEntropyLoss(reduction=reduction, label_smoothing=0.1), nn.NLLLoss(reduction=reduction)):
        value, gradient = value_and_gradient(loss, x, target)
        np.testing.assert_array_equal(value, {"mean": np.nan, "sum": 0.0, "none": np.zeros(3)}[reduction])
        if reduction != "mean":
            assert not gradient.any()


def test_ignored_rows_stay_out_even_if_they_are_not_numbers():
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    target = np.array([1, -100, 3])
    for loss in (nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss(), nn.NLLLoss()):
        value, gradient = value_and_gradient(loss, x, target)
        broken = x.copy()
        broken[1] = np.nan
        again, same = value_and_gradient(loss, broken, target)
        assert again == value
        np.testing.assert_array_equal(same, gradient)
        assert not same[1].any()


def test_logits_of_any_size_have_a_cross_entropy():
    x, target = np.array([[0, 1, 2], [2, 0, 1]], np.float32), np.array([2, 0])
    value, gradient = value_and_gradient(nn.CrossEntropyLoss(), x, target)
    for offset in (1e4, -1e4, 2.0**23):
        moved, same = value_and_gradient(nn.CrossEntropyLoss(), x + np.float32(offset), target)
        assert moved == value
        np.testing.assert_array_equal(same, gradient)
    far, _ = value_and_gradient(nn.CrossEntropyLoss(), x * np.float32(1e38), target)
    assert far == 0
    masked = np.array([[-np.inf, 0, 0]], np.float32)
    value, gradient = value_and_gradient(nn.CrossEntropyLoss(), masked, np.array([1]))
    assert value == pytest.approx(np.log(2))
    np.testing.assert_allclose(gradient, [[0, -0.5, 0.5]])


def test_probabilities_are_not_ignored():
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(nn.ArgumentError, match=r"CrossEntropyLoss.*ignore_index must be negative"):
        nn.CrossEntropyLoss(ignore_index=0)(x, x)


def test_one_hot_probabilities_are_classes():
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((7, 5)), rng.integers(0, 5, 7)
    for smoothing in (0.0, 0.2):
        loss = nn.CrossEntropyLoss(label_smoothing=smoothing)
        hard, soft = value_and_gradient(loss, x, target), value_and_gradient(loss, x, np.eye(5)[target])
        assert hard[0] == pytest.approx(soft[0], rel=1e-12)
        assert_close(hard[1], soft[1])


def test_cross_entropy_is_the_likelihood_of_the_log_softmax():
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((3, 5, 4, 2)), rng.integers(0, 5, (3, 4, 2))
    layer, likelihood = nn.LogSoftmax(1), nn.NLLLoss()
    value, gradient = value_and_gradient(nn.CrossEntropyLoss(), x, target)
    assert likelihood(layer(x), target) == pytest.approx(value, rel=1e-12)
    assert_close(layer.backward(likelihood.backward()), gradient)


def test_a_train_step_learns_classes():
    nn.manual_seed(0)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((3, 4)).astype(np.float32) * 3
    target = rng.integers(0, 3, 60)
    x = centres[target] + rng.standard_normal((60, 4)).astype(np.float32) / 4
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    step = nn.TrainStep(model, nn.CrossEntropyLoss(), nn.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), x.shape)
    losses = [step(x, target) for _ in range(100)]
    assert losses[-1] < 0.05 < losses[0]
    np.testing.assert_array_equal(np.argmax(model.eval()(x), 1), target)
    model.train()
    with no_array_data():
        step(x, target)

"""Metrics against scikit-learn, and batch by batch against all at once."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

import numba_nn as nn
from numba_nn import metrics

sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")


def regression(rows, columns, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    target = (rng.standard_normal((rows, columns)) + 1000).astype(dtype)
    return target + rng.standard_normal((rows, columns)).astype(dtype) / 3, target


def in_batches(metric, prediction, target, size):
    for start in range(0, len(target), size):
        metric.update(prediction[start : start + size], target[start : start + size])
    return metric.value


@pytest.mark.parametrize("size", [1, 7, 50, 101])
def test_classes_equal_scikit_learn(size):
    rng = np.random.default_rng(1)
    scores, target = rng.standard_normal((101, 4)).astype(np.float32), rng.integers(0, 4, 101)
    predicted = scores.argmax(1)
    for given in (scores, predicted):
        assert in_batches(metrics.Accuracy(), given, target, size) == sklearn.accuracy_score(target, predicted)
        counts = in_batches(metrics.ConfusionMatrix(4), given, target, size)
        np.testing.assert_array_equal(counts, sklearn.confusion_matrix(target, predicted))
        assert counts.dtype == np.int64
        assert metrics.accuracy(given, target) == sklearn.accuracy_score(target, predicted)
        np.testing.assert_array_equal(metrics.confusion_matrix(given, target), counts)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("size", [1, 7, 101])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_regression_equals_scikit_learn(size, columns, dtype):
    prediction, target = regression(101, columns, dtype=dtype)
    wide, true = prediction.astype(np.float64), target.astype(np.float64)
    for metric, function, reference in (
        (metrics.R2(), metrics.r2_score, sklearn.r2_score),
        (metrics.MeanAbsoluteError(), metrics.mean_absolute_error, sklearn.mean_absolute_error),
        (metrics.MeanSquaredError(), metrics.mean_squared_error, sklearn.mean_squared_error),
    ):
        expected = reference(true, wide)
        assert in_batches(metric, prediction, target, size) == pytest.approx(expected, rel=1e-10)
        assert function(prediction, target) == pytest.approx(expected, rel=1e-12)


def test_images_and_single_scores():
    rng = np.random.default_rng(2)
    scores, target = rng.standard_normal((5, 3, 4, 2)), rng.integers(0, 3, (5, 4, 2))
    assert metrics.accuracy(scores, target) == (scores.argmax(1) == target).mean()
    assert metrics.confusion_matrix(scores, target).sum() == target.size
    logits, labels = rng.standard_normal((20, 1)), rng.integers(0, 2, (20, 1)).astype(np.float32)
    expected = sklearn.accuracy_score(labels, logits > 0)
    assert metrics.accuracy(logits, labels, threshold=0) == expected
    assert metrics.accuracy(1 / (1 + np.exp(-logits)), labels, threshold=0.5) == expected
    np.testing.assert_array_equal(
        metrics.confusion_matrix(logits, labels, threshold=0), sklearn.confusion_matrix(labels, logits > 0)
    )


@pytest.mark.parametrize(("target", "prediction"), [([2, 2, 2], [2, 2, 2]), ([2, 2, 2], [2, 2, 3]), ([1], [2])])
def test_r2_of_constant_targets_is_scikit_learns(target, prediction):
    target, prediction = np.array(target, np.float64), np.array(prediction, np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sklearn.r2_score(target, prediction)
    np.testing.assert_equal(metrics.r2_score(prediction, target), expected)


@pytest.mark.parametrize("metric", [metrics.Accuracy(), metrics.R2(), metrics.MeanAbsoluteError(), metrics.MeanSquaredError()])
def test_reset_forgets_and_nothing_is_nan(metric):
    rng = np.random.default_rng(3)
    prediction, target = rng.integers(0, 3, 30), rng.integers(0, 3, 30)
    assert math.isnan(metric.value)
    metric.update(prediction, target)
    first = metric.value
    metric.update(target[:7], target[:7])
    assert metric.value != first
    metric.reset()
    assert math.isnan(metric.value)
    metric.update(prediction, target)
    assert metric.value == first
    metric.update(prediction[:0], target[:0])
    assert metric.value == first


def test_nan_is_passed_on():
    prediction, target = regression(10, 2)
    prediction[3, 1] = np.nan
    assert math.isnan(metrics.r2_score(prediction, target))
    assert math.isnan(metrics.mean_absolute_error(prediction, target))
    assert math.isnan(metrics.r2_score(prediction, np.ones_like(target)))


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: metrics.accuracy(np.ones((3, 2)), np.ones(4, int)), nn.ShapeError, r"got \(3, 2\) and \(4,\)"),
    (lambda: metrics.accuracy(np.ones((3, 1)), np.ones(3, int)), nn.ShapeError, "must have the target's shape"),
    (lambda: metrics.accuracy(np.ones(3), np.ones(3, int)), nn.ArgumentError, "needs a threshold"),
    (lambda: metrics.accuracy([1], np.ones(1, int)), nn.DTypeError, "prediction must be a NumPy array, got list"),
    (lambda: metrics.r2_score(np.ones((3, 1)), np.ones(3)), nn.ShapeError, "one shape"),
    (lambda: metrics.mean_absolute_error(np.ones(3), 2), nn.DTypeError, "target must be"),
    (lambda: metrics.confusion_matrix(np.array([0, 5]), np.array([0, 1]), 3), nn.RangeError, "prediction must hold .*got 5"),
    (lambda: metrics.confusion_matrix(np.array([0, 1]), np.array([0, -1])), nn.RangeError, "target must hold .*got -1"),
    (lambda: metrics.confusion_matrix(np.array([0, 1]), np.array([0.5, 1])), nn.RangeError, "target must hold .*got 0.5"),
    (lambda: metrics.confusion_matrix(np.array([0, 1]), np.array([np.nan, 1])), nn.RangeError, "target must hold .*got nan"),
    (lambda: metrics.ConfusionMatrix(0), nn.ArgumentError, "classes must be a whole number"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()

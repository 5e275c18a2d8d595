"""Metrics: how good predictions are, gathered batch by batch.

A metric is updated with any number of batches; its ``value`` is that of all of them together, equal to scikit-learn's up to
rounding. The functions of the same names take one pair of arrays. Everywhere the prediction comes first, as in a loss.

    accuracy                share of predicted classes that are right
    confusion matrix        C[i, j]: how many items of class i were predicted as j
    mean absolute error     1/n sum_i |p_i - t_i|
    mean squared error      1/n sum_i (p_i - t_i)^2
    R2                      1 - sum_i (p_i - t_i)^2 / sum_i (t_i - mean(t))^2, for every column; their mean
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from numba_nn.core.call import Array
from numba_nn.core.checks import check_count
from numba_nn.core.errors import ArgumentError, DTypeError, RangeError, ShapeError, undefined


class Metric:
    """Base of the metrics.

    Attributes
    ----------
    name : str
        What the metric is called in a history.
    value : object
        The metric of all batches since the last `reset`; NaN of none.
    """

    name = ""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        raise undefined(self, "reset()")

    def update(self, prediction: Array, target: Array) -> None:
        """Count a batch.

        Parameters
        ----------
        prediction : ndarray
            What the model says.
        target : ndarray
            What is true.

        Raises
        ------
        ShapeError, DTypeError, ArgumentError
            If an array does not fit; nothing was counted.
        """
        raise undefined(self, "update(prediction, target)")

    @property
    def value(self) -> Any:
        """The metric of all batches since the last `reset`."""
        raise undefined(self, "value")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Accuracy(Metric):
    """Share of right classes.

    The prediction is scores (N, C) or (N, C, d1, ...), of which the largest counts, for classes (N) or (N, d1, ...); or it has
    the target's shape: classes as whole numbers, or scores of class 1, with a threshold.

    Parameters
    ----------
    threshold : float, optional
        For two classes with one score: class 1 is predicted above it. 0 for logits, 0.5 for probabilities.
    """

    name = "accuracy"

    def __init__(self, threshold: float | None = None) -> None:
        self.threshold = threshold
        super().__init__()

    def reset(self) -> None:
        """Forget all batches."""
        self._right = self._items = 0

    def update(self, prediction: Array, target: Array) -> None:
        """Count a batch of scores or classes."""
        classes = _classes(self, prediction, target, self.threshold)
        self._right += int(np.count_nonzero(classes == target))
        self._items += target.size

    @property
    def value(self) -> float:
        """Right ones by all."""
        return self._right / self._items if self._items else float("nan")


class ConfusionMatrix(Metric):
    """How many items of each class were predicted as which.

    Parameters
    ----------
    classes : int
        Number of classes; labels are 0 to classes - 1.
    threshold : float, optional
        As `Accuracy` takes it.
    """

    name = "confusion_matrix"

    def __init__(self, classes: int, threshold: float | None = None) -> None:
        self.classes = check_count("ConfusionMatrix", "classes", classes)
        self.threshold = threshold
        super().__init__()

    def reset(self) -> None:
        """Forget all batches."""
        self._counts = np.zeros((self.classes, self.classes), np.int64)

    def update(self, prediction: Array, target: Array) -> None:
        """Count a batch of scores or classes."""
        predicted = _classes(self, prediction, target, self.threshold)
        for name, labels in (("target", target), ("prediction", predicted)):
            wrong = labels[~((labels >= 0) & (labels < self.classes) & (labels % 1 == 0))]  # NaN is wrong too
            if wrong.size:
                raise RangeError(f"{self!r}: {name} must hold classes 0 to {self.classes - 1}, got {wrong.flat[0]}")
        pairs = target.ravel().astype(np.int64) * self.classes + predicted.ravel().astype(np.int64)
        self._counts += np.bincount(pairs, minlength=self.classes**2).reshape(self.classes, self.classes)

    @property
    def value(self) -> NDArray[np.int64]:
        """Counts (classes, classes): rows are true classes, columns predicted ones."""
        return self._counts.copy()

    def __repr__(self) -> str:
        return f"ConfusionMatrix(classes={self.classes})"


class MeanAbsoluteError(Metric):
    """Mean of |prediction - target| over all elements."""

    name = "mean_absolute_error"

    def reset(self) -> None:
        """Forget all batches."""
        self._sum, self._items = 0.0, 0

    def update(self, prediction: Array, target: Array) -> None:
        """Count a batch of arrays of one shape."""
        self._sum += float(self._term(_difference(self, prediction, target)).sum())
        self._items += target.size

    @property
    def value(self) -> float:
        """Mean over all elements."""
        return self._sum / self._items if self._items else float("nan")

    @staticmethod
    def _term(difference: Array) -> Array:
        return np.abs(difference)


class MeanSquaredError(MeanAbsoluteError):
    """Mean of (prediction - target)^2 over all elements."""

    name = "mean_squared_error"

    @staticmethod
    def _term(difference: Array) -> Array:
        return np.square(difference)


class R2(Metric):
    """Coefficient of determination, for every column of (N, ...), averaged over the columns.

    A column whose target is constant counts 1 where all predictions are exact, else 0. Of fewer than two items it is NaN.
    """

    name = "r2"

    def reset(self) -> None:
        """Forget all batches."""
        self._items = 0
        self._mean: Any = 0.0  # of the target, by column
        self._spread: Any = 0.0  # sum of its squared distances from the mean
        self._residual: Any = 0.0  # sum of (prediction - target)^2

    def update(self, prediction: Array, target: Array) -> None:
        """Count a batch of arrays of one shape."""
        difference = _difference(self, prediction, target)
        count = len(target)
        if self._items and self._mean.shape != target.shape[1:]:
            raise ShapeError(f"{self!r}: target must have shape (N, ...) as before, {self._mean.shape}, got {target.shape}")
        if count == 0:
            return
        # Two sets' sums of squares about their means add up with what lies between the means (Chan, Golub and LeVeque, 1983).
        wide = target.astype(np.float64)
        mean = wide.mean(axis=0)
        total, shift = self._items + count, mean - self._mean
        self._spread = self._spread + np.square(wide - mean).sum(axis=0) + shift**2 * (self._items * count / total)
        self._mean = self._mean + shift * (count / total)
        self._residual = self._residual + np.square(difference).sum(axis=0)
        self._items = total

    @property
    def value(self) -> float:
        """Mean over the columns."""
        if self._items < 2:
            return float("nan")
        spread, residual = np.atleast_1d(self._spread), np.atleast_1d(self._residual)
        constant = np.where(residual == 0, 1.0, 0.0)
        constant[np.isnan(residual)] = np.nan
        return float(np.where(spread == 0, constant, 1 - residual / np.where(spread == 0, 1, spread)).mean())


def accuracy(prediction: Array, target: Array, threshold: float | None = None) -> float:
    """Share of right classes; see `Accuracy`.

    Parameters
    ----------
    prediction, target : ndarray
        Scores or classes, and classes.
    threshold : float, optional
        For one score of two classes.

    Returns
    -------
    float
        Between 0 and 1.
    """
    return _value(Accuracy(threshold), prediction, target)


def confusion_matrix(
    prediction: Array, target: Array, classes: int | None = None, threshold: float | None = None
) -> NDArray[np.int64]:
    """Counts of true and predicted classes; see `ConfusionMatrix`.

    Parameters
    ----------
    prediction, target : ndarray
        Scores or classes, and classes.
    classes : int, optional
        Number of classes; by default as many scores as there are, or the largest label and one.
    threshold : float, optional
        For one score of two classes.

    Returns
    -------
    ndarray of int64, shape (classes, classes)
        Rows are true classes, columns predicted ones.
    """
    if classes is None:
        predicted = _classes("confusion_matrix", prediction, target, threshold)
        scores = prediction.shape[1] if prediction.ndim == target.ndim + 1 else 2 if threshold is not None else 1
        classes = max(scores, *(int(np.fmax.reduce(labels, axis=None, initial=0)) + 1 for labels in (predicted, target)))
    return _value(ConfusionMatrix(classes, threshold), prediction, target)


def mean_absolute_error(prediction: Array, target: Array) -> float:
    """Mean of |prediction - target|.

    Parameters
    ----------
    prediction, target : ndarray
        Arrays of one shape.

    Returns
    -------
    float
        Mean over all elements.
    """
    return _value(MeanAbsoluteError(), prediction, target)


def mean_squared_error(prediction: Array, target: Array) -> float:
    """Mean of (prediction - target)^2.

    Parameters
    ----------
    prediction, target : ndarray
        Arrays of one shape.

    Returns
    -------
    float
        Mean over all elements.
    """
    return _value(MeanSquaredError(), prediction, target)


def r2_score(prediction: Array, target: Array) -> float:
    """Coefficient of determination; see `R2`.

    Parameters
    ----------
    prediction, target : ndarray
        Arrays (N, ...) of one shape.

    Returns
    -------
    float
        At most 1.
    """
    return _value(R2(), prediction, target)


def _value(metric: Metric, prediction: Array, target: Array) -> Any:
    metric.update(prediction, target)
    return metric.value


def _check_arrays(where: object, prediction: Any, target: Any) -> None:
    for name, array in (("prediction", prediction), ("target", target)):
        if not isinstance(array, np.ndarray):
            raise DTypeError(f"{where}: {name} must be a NumPy array, got {type(array).__name__}")


def _classes(where: object, prediction: Any, target: Any, threshold: float | None) -> Array:
    """Predicted classes, of the target's shape."""
    _check_arrays(where, prediction, target)
    if prediction.shape == target.shape:
        if prediction.dtype.kind in "iub":
            return prediction
        if threshold is None:
            raise ArgumentError(f"{where}: one score for each target needs a threshold: 0 for logits, 0.5 for probabilities")
        return prediction > threshold
    if prediction.ndim != target.ndim + 1 or prediction.shape[:1] + prediction.shape[2:] != target.shape:
        raise ShapeError(
            f"{where}: prediction must have shape (N, C, ...) for a target (N, ...), or the target's shape, "
            f"got {prediction.shape} and {target.shape}"
        )
    if prediction.shape[1] == 1:
        raise ShapeError(f"{where}: one score {prediction.shape} for each target must have the target's shape {target.shape}")
    return prediction.argmax(axis=1)


def _difference(where: object, prediction: Any, target: Any) -> Array:
    """Prediction less target in float64."""
    _check_arrays(where, prediction, target)
    if prediction.shape != target.shape or target.ndim == 0:
        raise ShapeError(f"{where}: prediction and target must have one shape (N, ...), got {prediction.shape}, {target.shape}")
    return np.subtract(prediction, target, dtype=np.float64)

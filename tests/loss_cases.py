"""The configurations that every test of the losses' contract runs over: a line each. A new loss adds its lines here."""

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import numba_nn as nn
from tests import reference_training


@dataclass(frozen=True)
class LossCase:
    """A loss's class and arguments, its formula, the shape of a prediction, and what predictions and targets are."""

    loss: type[nn.Loss]
    formula: Callable[..., np.ndarray]
    shape: tuple[int, ...]
    prediction_kind: str
    target_kind: str
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __str__(self):
        arguments = [f"{name}={np.shape(v) if name.endswith('weight') else v}" for name, v in self.kwargs.items()]
        shape = "x".join(map(str, self.shape))
        return f"{self.loss.__name__}({','.join(arguments)})-{shape}-{self.target_kind}".replace(" ", "")

    def build(self, reduction: str = "mean") -> nn.Loss:
        """The loss."""
        return self.loss(**self.kwargs, reduction=reduction)

    def expected(self, prediction: np.ndarray, target: np.ndarray, reduction: str = "mean") -> np.ndarray:
        """The loss according to the formula, in float64."""
        target = target if target.dtype.kind == "i" else target.astype(np.float64)
        single, weights = self.formula(prediction.astype(np.float64), target, **self.kwargs)
        with np.errstate(invalid="ignore"):
            means = {"mean": lambda: np.sum(single) / np.sum(weights), "sum": lambda: np.sum(single), "none": lambda: single}
            return np.asarray(means[reduction]())

    def arrays(self, dtype: Any = np.float32, name: str = "x") -> tuple[np.ndarray, np.ndarray]:
        """A prediction and a target that depend on the case's class and shape, and the name, alone."""
        rng = np.random.default_rng(zlib.crc32(f"{self.loss.__name__} {name}".encode()))
        return self._draw(rng, self.prediction_kind, dtype), self._draw(rng, self.target_kind, dtype)

    def _draw(self, rng, kind, dtype):
        if kind.startswith("int"):
            classes, shape = (self.shape[1], (self.shape[0], *self.shape[2:])) if len(self.shape) > 1 else (*self.shape, ())
            target = np.array(rng.integers(0, classes, shape), kind)
            target.reshape(-1)[2::5] = self.kwargs.get("ignore_index", -100)
            return target
        numbers = rng.standard_normal(self.shape) * 2 if kind == "numbers" else rng.uniform(0.01, 0.99, self.shape)
        return np.asarray(numbers).astype(np.float32).astype(dtype)


def weights(*shape, dtype=np.float32):
    """Positive weights."""
    return np.random.default_rng(1).uniform(0.5, 2, shape).astype(dtype)


def case(loss, formula, prediction_kind, target_kind, shape, **kwargs):
    return LossCase(loss, formula, shape, prediction_kind, target_kind, kwargs)


squared = functools.partial(case, nn.MSELoss, reference_training.mse_loss, "numbers", "numbers")
absolute = functools.partial(case, nn.L1Loss, reference_training.l1_loss, "numbers", "numbers")
binary = functools.partial(case, nn.BCELoss, reference_training.bce_loss, "shares", "shares")
logistic = functools.partial(case, nn.BCEWithLogitsLoss, reference_training.bce_with_logits_loss, "numbers", "shares")
likelihood = functools.partial(case, nn.NLLLoss, reference_training.nll_loss, "numbers", "int64")
entropy = functools.partial(case, nn.CrossEntropyLoss, reference_training.cross_entropy_loss, "numbers", "int64")
entropy32 = functools.partial(case, nn.CrossEntropyLoss, reference_training.cross_entropy_loss, "numbers", "int32")
soft = functools.partial(case, nn.CrossEntropyLoss, reference_training.cross_entropy_loss, "numbers", "shares")

LOSS_CASES = [
    # element by element: around a block (4096), and one
    squared((3, 5)),
    squared(()),
    squared((4096,)),
    squared((4097,)),
    squared((2, 3, 4, 5)),
    squared((7, 12_345)),
    absolute((3, 5)),
    absolute((2, 1)),
    absolute((3, 4, 1111)),
    binary((3, 5)),
    binary((5, 1031), weight=weights(5, 1)),
    logistic((3, 5)),
    logistic((3, 5), pos_weight=weights(5)),
    logistic((2, 3, 1031), weight=weights(3, 1), pos_weight=weights(1, dtype=np.float64)),
    # classes: rows, and beside one another, where a task is 256 of them
    likelihood((4, 5)),
    likelihood((5,)),
    likelihood((2, 3, 17, 31), weight=weights(3), ignore_index=1),
    entropy((4, 5)),
    entropy((5,)),
    entropy((1, 1)),
    entropy((32, 10), weight=weights(10)),
    entropy((2, 4099), label_smoothing=0.1),
    entropy((7, 3), ignore_index=2, weight=weights(3, dtype=np.float64), label_smoothing=0.3),
    entropy((2, 3, 5)),
    entropy((2, 3, 17, 31), weight=weights(3), label_smoothing=0.1),
    entropy((3, 4, 1), label_smoothing=1),
    entropy((5000, 2)),
    entropy32((3, 4, 2), ignore_index=0),
    soft((4, 5)),
    soft((5,), label_smoothing=0.2),
    soft((3, 4099), weight=weights(4099)),
    soft((2, 3, 17, 31), weight=weights(3), label_smoothing=0.1),
]

# Configurations, with predictions of a shape that does not fit.
REFUSED_LOSSES = [
    logistic((3, 4), pos_weight=weights(5)),
    logistic((3,), weight=weights(2, 3)),
    binary((3, 4), weight=weights(2, 1)),
    likelihood(()),
    entropy((3, 0)),
    entropy((3, 4, 5), weight=weights(5)),
]

ONE_OF_EACH_LOSS = list({(c.loss, c.target_kind == "shares"): c for c in reversed(LOSS_CASES)}.values())[::-1]
"""The first configuration of every class, and of every kind of target."""

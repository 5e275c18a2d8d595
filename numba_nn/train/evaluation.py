"""Running a model over data without training it: `evaluate`, `predict`, and what `fit` shares with them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from numba_nn.core.call import Array
from numba_nn.core.checks import check_count
from numba_nn.core.cuda.feed import Feed
from numba_nn.core.device import CPU, device_of
from numba_nn.core.errors import ArgumentError, DataError, DTypeError, ShapeError
from numba_nn.core.layer import Layer
from numba_nn.losses import Loss
from numba_nn.metrics import Metric
from numba_nn.train.loading import Loader, as_loader, pairs


def evaluate(
    model: Layer, loss: Loss, data: Any, metrics: Iterable[Metric] | Mapping[str, Metric] = (), batch_size: int = 256
) -> dict[str, Any]:
    """Loss and metrics of a model on data, in eval mode; a model on a GPU gets its batches there.

    Parameters
    ----------
    model : Layer
        The model; it and all inside it are put back into the modes they were in.
    loss : Loss
        With reduction "mean", the loss is the mean over all of the data, whatever the batches: those of batches are averaged,
        weighted with what each divided by (`Loss.divisor`); with "sum" they are added.
    data : (x, target) or loader
        Two arrays of equal length, or what gives batches: `data.Batches`, `data.Stream`.
    metrics : iterable or dict of Metric, optional
        Metrics (`nn.metrics`); a dict names them.
    batch_size : int, optional
        Items in a batch, where ``data`` is arrays.

    Returns
    -------
    dict
        "loss", and every metric's value under its name.

    Raises
    ------
    ArgumentError, DataError
        If ``data`` is of another kind or gives no batch, or metrics have one name.

    Examples
    --------
    >>> nn.evaluate(model, nn.MSELoss(), (x, target), [nn.metrics.R2()])  # doctest: +SKIP
    {'loss': 0.0213, 'r2': 0.978}
    """
    loader = as_loader("evaluate", data, batch_size, shuffle=False)
    return Evaluator(model, loss, named_metrics(metrics)).run(loader)


def predict(model: Layer, x: Array, batch_size: int = 256) -> Array:
    """A model's output for an array of any length, batch by batch, in eval mode.

    Parameters
    ----------
    model : Layer
        The model; it and all inside it are put back into the modes they were in.
    x : ndarray
        Input.
    batch_size : int, optional
        Items in a batch: bounds the memory for what lies between layers.

    Returns
    -------
    ndarray
        Output, of ``model.output_shape(x.shape)``.

    Raises
    ------
    ArgumentError
        If ``model`` is no layer, or ``batch_size`` below 1.
    ShapeError, DTypeError
        If the model cannot take ``x``.
    """
    check_kind("predict", "model", model, Layer)
    check_count("predict", "batch_size", batch_size)
    if not isinstance(x, np.ndarray):
        raise DTypeError(f"predict: x must be a NumPy array, got {type(x).__name__}")
    if x.ndim == 0:
        raise ShapeError("predict: x must have shape (N, ...), got ()")
    y = np.empty(model.output_shape(x.shape), model.dtype or x.dtype)
    runner = Runner(model)
    with evaluating(model):
        for start in range(0, len(x), batch_size):
            batch = slice(start, start + batch_size)
            if model.device is CPU:
                model.forward(x[batch], out=y[batch])
            else:
                y[batch] = model.device.to_host(runner.forward(x[batch]))
    return y


def check_kind(where: str, name: str, value: Any, kind: type) -> None:
    """Raise `ArgumentError` unless a value is an object of this class, not the class itself for instance."""
    if not isinstance(value, kind):
        raise ArgumentError(f"{where}: {name} must be a {kind.__name__} object, got {value!r}")


def check_trainable(where: str, model: Any, loss: Any) -> None:
    """Raise `ArgumentError` unless there are a model, and a loss that gives one number."""
    check_kind(where, "model", model, Layer)
    check_kind(where, "loss", loss, Loss)
    if loss.reduction == "none":
        raise ArgumentError(f"{where}: {type(loss).__name__}: reduction must be 'mean' or 'sum', got 'none'")


@contextmanager
def evaluating(model: Layer) -> Iterator[None]:
    """Eval mode for a while, on the model's stream; then every layer's own mode again, so that what was frozen stays so."""
    modes = [(module, module.training) for module in model.modules()]
    writable = [parameter for parameter in model.parameters() if not parameter.locked]
    model.eval()
    try:
        with model.device.on(model.stream):
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in writable:
            parameter.unlock()


class Runner:
    """A model's forward on batches of the host, over buffers that later batches use again.

    Parameters
    ----------
    model : Layer
        The model; batches go where it lives.
    """

    def __init__(self, model: Layer) -> None:
        self.model, self.device = model, model.device
        self._output = model.device.empty((0,), np.dtype(np.float32))
        self._feeds: dict[str, Feed] = {}

    def forward(self, x: Array) -> Array:
        """The output, an array of the model's device; the next one overwrites it."""
        shape, dtype = self.model.output_shape(x.shape), self.model.dtype or x.dtype
        if self._output.shape[1:] != shape[1:] or len(self._output) < len(x) or self._output.dtype != dtype:
            self._output = self.device.empty(shape, dtype)
        out = self._output[: len(x)]
        self.model.forward(self.bring("x", x), out=out)  # a layer of several outputs gives all: the first counts
        return out

    def bring(self, name: str, array: Array) -> Array:
        """An array on the model's device; on a GPU it is on its way there, in the place of what had this name before."""
        if self.device is CPU:
            return array
        feed = self._feeds.get(name)
        if feed is None or not feed.takes(array):
            feed = self._feeds[name] = Feed(array.shape, array.dtype)
        return feed.send(array)


class Evaluator:
    """A model's loss and metrics on data, over buffers that later runs use again.

    Parameters
    ----------
    model : Layer
        The model.
    loss : Loss
        Compares the model's output with the target.
    metrics : dict of str to Metric
        Metrics by name.
    """

    def __init__(self, model: Layer, loss: Loss, metrics: dict[str, Metric]) -> None:
        check_trainable("evaluate", model, loss)
        self.model, self.loss, self.metrics = model, loss, metrics
        self._runner = Runner(model)

    def run(self, loader: Loader) -> dict[str, Any]:
        """Values over all batches of a loader; metrics are computed by the host."""
        if self._runner.device is not self.model.device:
            self._runner = Runner(self.model)
        tally, runner = Tally(self.loss, self.metrics), self._runner
        with evaluating(self.model):
            for x, target in pairs("evaluate", loader, 0):
                y = runner.forward(x)
                value = self.loss.forward(y, runner.bring("target", target))
                tally.add(float(value), y, target)
        return tally.values()


class Tally:
    """Loss and metrics over the batches of one pass.

    Parameters
    ----------
    loss : Loss
        Whose values are added up.
    metrics : dict of str to Metric
        Metrics by name; they start anew.
    """

    def __init__(self, loss: Loss, metrics: dict[str, Metric]) -> None:
        self._loss = loss
        self._metrics = metrics
        self._sum, self._divisor, self._items = 0.0, 0.0, 0
        for metric in metrics.values():
            metric.reset()

    def add(self, loss: float, prediction: Array, target: Array) -> None:
        """Count a batch, whose loss is the last forward's; one of which no target counts has no mean, and adds nothing."""
        divisor = self._loss.divisor() if self._loss.reduction == "mean" else 1.0
        if divisor != 0:
            self._sum += loss * divisor
        self._divisor += divisor
        self._items += len(prediction)
        if self._metrics and device_of(prediction) is not CPU:
            prediction = device_of(prediction).to_host(prediction)
        for metric in self._metrics.values():
            metric.update(prediction, target)

    @property
    def loss(self) -> float:
        """Loss of the batches so far; NaN for a mean where no target counted."""
        if self._items == 0:
            raise DataError("the data gave no batch with items")
        if self._loss.reduction != "mean":
            return self._sum
        return self._sum / self._divisor if self._divisor else math.nan

    def values(self) -> dict[str, Any]:
        """Loss and metrics of the batches so far."""
        return {"loss": self.loss, **{name: metric.value for name, metric in self._metrics.items()}}


def named_metrics(metrics: Iterable[Metric] | Mapping[str, Metric]) -> dict[str, Metric]:
    """Metrics by name."""
    if not isinstance(metrics, Iterable):
        raise ArgumentError(f"metrics must be a list or dict, got {metrics!r}; put a single one into a list")
    named = list(metrics.items()) if isinstance(metrics, Mapping) else [(getattr(m, "name", ""), m) for m in metrics]
    for _, metric in named:
        if not isinstance(metric, Metric):
            raise ArgumentError(f"metrics must be objects of nn.metrics (nn.metrics.Accuracy()), got {metric!r}")
    names = [name for name, _ in named]
    if len(set(names)) < len(names) or "loss" in names:
        raise ArgumentError(f"metrics need names of their own, none 'loss', got {names}; name them in a dict")
    return dict(named)

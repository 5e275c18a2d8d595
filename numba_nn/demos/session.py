"""A training run that can stop after any step and go on to the same bits."""

from __future__ import annotations

import itertools
import math
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from numba_nn.compiling_together import compiled_together
from numba_nn.core.call import Array
from numba_nn.core.errors import ArgumentError, CheckpointError, DataError
from numba_nn.core.random import manual_seed
from numba_nn.core.workspace import Shape
from numba_nn.data import Batches
from numba_nn.io import load_checkpoint, save_checkpoint
from numba_nn.losses import MSELoss
from numba_nn.models import Autoencoder
from numba_nn.optim import SGD
from numba_nn.train import TrainStep

DEMO = "autoencoder"
WARM_UP = 200  # steps of rising rate: with a rate of 0.08 from step 40 on, 41 % of the latent ReLUs were dead in the end


@dataclass(frozen=True)
class Settings:
    """What determines a run: with the images, to the last bit.

    Attributes
    ----------
    data : str or None
        Folder of CIFAR-10's binary files; None for the photographs.
    images, epochs, batch_size : int
        How much is trained on.
    lr, momentum : float
        Of stochastic gradient descent; the rate rises, then falls along a cosine. The momentum is Nesterov's.
    seed : int
        Of weights, order, and choice of patches.
    """

    data: str | None = None
    images: int = 4096
    epochs: int = 4
    batch_size: int = 32
    lr: float = 0.2
    momentum: float = 0.9
    seed: int = 0


class Session:
    """Model, optimiser, order of batches and history of one run.

    Parameters
    ----------
    settings : Settings
        The run's.
    train, validation : ndarray
        Images (N, 3, H, W) in [0, 1].

    Attributes
    ----------
    epoch, batch : int
        Where the run stands: whole epochs, and batches of the present one.
    losses, validation_losses : list of float
        Mean squared error of every step, and on the validation images after every epoch.
    """

    def __init__(self, settings: Settings, train: Array, validation: Array) -> None:
        self.settings = settings
        self.mean = train.mean(axis=(0, 2, 3), keepdims=True)
        self.train_images, self.validation_images = train, validation
        # Photographs less their mean: the gradient's largest direction, overall brightness, no longer limits the rate.
        self._centred = validation - self.mean
        self.batches = Batches(train - self.mean, batch_size=settings.batch_size, seed=settings.seed)
        self._images_crc = zlib.crc32(np.ascontiguousarray(train).data)
        manual_seed(settings.seed)
        self.model = Autoencoder()
        self.optimizer = _sgd(self.model, settings.lr, settings.momentum)
        self.epoch = self.batch = 0
        self.losses: list[float] = []
        self.validation_losses: list[float] = []
        self.seconds = 0.0
        self._x_shape = (settings.batch_size, *train.shape[1:])
        self._step = TrainStep(self.model, MSELoss(), self.optimizer, self._x_shape)
        self._loss = MSELoss()
        self._output = np.empty(self._x_shape, np.float32)
        self._value = np.empty(1, np.float32)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.settings.epochs * len(self.batches)

    @property
    def images_seen(self) -> int:
        """Images that were trained on so far, repetitions included."""
        return self.epoch * len(self.train_images) + self.batch * self.settings.batch_size

    def compile_kernels(self) -> None:
        """Run every kernel once, without a trace in the run's state."""
        compiled_together(_run_once, self.model, self._x_shape, self.settings.momentum)

    def rate(self, step: int) -> float:
        """Learning rate of a step: up along a parabola, down along half a cosine to 0."""
        rise = min(1.0, (step + 1) / WARM_UP) ** 2
        return self.settings.lr * rise * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def run(
        self, checkpoint: Path, stop: Callable[[], bool], on_step: Callable[[float, int], None], on_epoch: Callable[[], None]
    ) -> bool:
        """Train to the end of the last epoch.

        Parameters
        ----------
        checkpoint : Path
            Where the state is saved, after every epoch and when stopped.
        stop : callable
            Asked before every step; True ends the run.
        on_step : callable
            Told every step's loss and number of images.
        on_epoch : callable
            Called after every epoch's validation.

        Returns
        -------
        bool
            False if stopped before the end.

        Raises
        ------
        ArgumentError
            If the loss is no longer finite: the learning rate is too high. The last checkpoint stays.
        """
        while self.epoch < self.settings.epochs:
            for (x,) in itertools.islice(self.batches.epoch(self.epoch), self.batch, None):
                if stop():
                    self.save(checkpoint)
                    return False
                on_step(self._train_on(x), len(x))
            self.validation_losses.append(self.validate())
            self.epoch, self.batch = self.epoch + 1, 0
            self.save(checkpoint)
            on_epoch()
        return True

    def _train_on(self, x: Array) -> float:
        start = time.perf_counter()
        step = len(self.losses)
        self.optimizer.param_groups[0]["lr"] = self.rate(step)
        self.model.train()
        loss = self._step(x, x)
        if not math.isfinite(loss):
            raise ArgumentError(f"the loss of step {step + 1} is {loss}: choose --lr below {self.settings.lr:g}")
        self.losses.append(loss)
        self.batch += 1
        self.seconds += time.perf_counter() - start
        return loss

    def validate(self) -> float:
        """Mean squared error on the validation images, in eval mode; allocates no array."""
        self.model.eval()
        total = 0.0
        for start in range(0, len(self._centred), len(self._output)):
            x = self._centred[start : start + len(self._output)]
            y = self.model.forward(x, out=self._output[: len(x)])
            total += float(self._loss.forward(y, x, out=self._value)[0]) * len(x)
        return total / len(self._centred)

    def reconstruct(self, images: Array) -> Array:
        """What the model makes of images in [0, 1], clipped to [0, 1]."""
        self.model.eval()
        return np.clip(self.model(images - self.mean) + self.mean, 0, 1)

    # State

    def save(self, path: Path) -> None:
        """Write all that `restore` needs, atomically."""
        arrays = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        arrays |= {f"optimizer.{name}": value for name, value in self.optimizer.state_dict().items()}
        arrays |= {"history.train": np.array(self.losses), "history.validation": np.array(self.validation_losses)}
        arrays["mean"] = self.mean
        position = {"epoch": self.epoch, "batch": self.batch, "seconds": self.seconds, "images_crc": self._images_crc}
        save_checkpoint(path, arrays, {"demo": DEMO, "settings": asdict(self.settings), **position})

    def restore(self, arrays: dict[str, Array], metadata: dict[str, Any]) -> None:
        """Take up a saved run.

        Parameters
        ----------
        arrays, metadata : dict
            As `numba_nn.io.load_checkpoint` gives them.

        Raises
        ------
        DataError
            If the images are not those of the saved run.
        StateDictError
            If the weights are of another model.
        """
        if metadata["images_crc"] != self._images_crc:
            raise DataError("--resume: these are not the images that the saved run was trained on; give its --data")
        self.model.load_state_dict(_part(arrays, "model."))
        self.optimizer.load_state_dict(_part(arrays, "optimizer."))
        self.losses = arrays["history.train"].tolist()
        self.validation_losses = arrays["history.validation"].tolist()
        self.epoch, self.batch, self.seconds = metadata["epoch"], metadata["batch"], metadata["seconds"]


def _part(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def saved_model(path: Path) -> tuple[Autoencoder, Array]:
    """The model of a run, for use without its session.

    Parameters
    ----------
    path : Path
        The run's checkpoint.

    Returns
    -------
    model : Autoencoder
        With the saved weights.
    mean : ndarray, shape (1, 3, 1, 1)
        What is subtracted from images in [0, 1] before the model sees them.

    Raises
    ------
    CheckpointError
        If another program saved it, or it is damaged.
    OSError
        If it cannot be opened.
    """
    arrays, metadata = load_checkpoint(path)
    if metadata.get("demo") != DEMO or "mean" not in arrays:
        raise _anothers(path)
    return Autoencoder().load_state_dict(_part(arrays, "model.")), arrays["mean"]


def _sgd(model: Autoencoder, lr: float, momentum: float) -> SGD:
    return SGD(model.parameters(), lr=lr, momentum=momentum, nesterov=momentum > 0)


def _run_once(model: Autoencoder, x_shape: Shape, momentum: float) -> None:
    x = np.zeros(x_shape, np.float32)
    TrainStep(model, MSELoss(), _sgd(model, 0.0, momentum), x_shape)(x, x)
    model.eval().forward(x, out=np.empty_like(x))


def _anothers(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: expected a checkpoint of the autoencoder demo, found another's")


def saved_settings(path: Path, metadata: dict[str, Any], given: dict[str, Any]) -> Settings:
    """Settings to go on with: the saved run's, with a new number of epochs if one is given.

    Parameters
    ----------
    path : Path
        The checkpoint, for messages.
    metadata : dict
        Its metadata.
    given : dict
        Settings that the user named.

    Returns
    -------
    Settings
        The run's.

    Raises
    ------
    CheckpointError
        If another program saved it.
    ArgumentError
        If a setting was given that differs from the saved run's, or fewer epochs than are done.
    """
    try:
        if metadata["demo"] != DEMO:
            raise KeyError(metadata["demo"])
        saved = Settings(**metadata["settings"])
        done = metadata["epoch"] + (metadata["batch"] > 0)
    except (KeyError, TypeError) as error:
        raise _anothers(path) from error
    for name in set(given) - {"epochs", "data"}:  # a folder may have moved: its images are compared instead
        if given[name] != getattr(saved, name):
            raise ArgumentError(
                f"--resume: the run in {path} has --{name.replace('_', '-')} {getattr(saved, name)}, not {given[name]}; "
                "leave the option out, or choose another --output"
            )
    if given.get("epochs", saved.epochs) < done:
        raise ArgumentError(f"--resume: the run in {path} is in epoch {done} already, --epochs {given['epochs']} is less")
    return replace(saved, **{name: given[name] for name in ("epochs", "data") if name in given})

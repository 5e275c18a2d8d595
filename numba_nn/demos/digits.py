"""``numba-nn demo digits``: train a small convolutional net on real handwritten digits, and show what it gets wrong."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from numba_nn import metrics
from numba_nn.compiling_together import compiled_together
from numba_nn.config import machine
from numba_nn.core.call import Array
from numba_nn.core.random import manual_seed, masks_aside
from numba_nn.data import load_digits, train_test_split
from numba_nn.demos.console import INTERRUPTED, PlainConsole, open_console, pictures
from numba_nn.demos.digits_figure import save_digits
from numba_nn.layers.softmax import Softmax
from numba_nn.losses import CrossEntropyLoss
from numba_nn.models import DigitsNet
from numba_nn.optim import Adam
from numba_nn.schedules import CosineAnnealingLR
from numba_nn.train import TrainStep, evaluate, fit, predict
from numba_nn.train.fitting import History

CLASSES = 10
HELD_OUT = 0.2  # of the images; a run chooses nothing by them: its result is that of the last epoch


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes
    ----------
    epochs, batch_size : int
        How much is trained.
    lr : float
        First learning rate of Adam; it falls along a cosine.
    seed : int
        Of weights, order, masks, and choice of the images that are held out.
    output : Path
        Folder of everything that is written.
    """

    epochs: int = 10
    batch_size: int = 32
    lr: float = 0.003
    seed: int = 0
    output: Path = Path("runs/digits")


@dataclass
class Run:
    """Images, model and history of one run: determined by the options, to the last bit.

    Attributes
    ----------
    options : Options
        What is asked for.
    train, test : (ndarray, ndarray)
        Images (N, 1, 8, 8) and their classes (N,), each class in its share.
    model : DigitsNet
        The model.
    history : dict of str to list
        As `fit` gives it.
    """

    options: Options
    history: History = field(default_factory=dict)

    def __post_init__(self) -> None:
        images, labels = load_digits()
        seed = self.options.seed
        x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=HELD_OUT, seed=seed, stratify=labels)
        self.train, self.test = (x_train, y_train), (x_test, y_test)
        manual_seed(seed)
        self.model = DigitsNet()

    def compile_kernels(self) -> None:
        """Run every kernel once, on a copy of the model, without a trace in the run's state."""
        compiled_together(self._run_once)

    def _run_once(self) -> None:
        twin, batch = copy.deepcopy(self.model), self.options.batch_size
        x, y = self.train
        step = TrainStep(twin, CrossEntropyLoss(), Adam(twin.parameters()), x[:batch].shape)
        for count in {min(batch, len(x)), len(x) % batch} - {0}:  # the last batch may be small enough for serial kernels
            with masks_aside():
                step(x[:count], y[:count])
        evaluate(twin, CrossEntropyLoss(), self.test, batch_size=batch)

    def fit(self, progress: bool = True) -> None:
        """Train; the history goes to the output folder as it grows."""
        options = self.options
        optimizer = Adam(self.model.parameters(), lr=options.lr)
        self.history = fit(
            self.model, CrossEntropyLoss(), optimizer, self.train, self.test, epochs=options.epochs,
            batch_size=options.batch_size, seed=options.seed, metrics=[metrics.Accuracy()],
            schedule=CosineAnnealingLR(optimizer, options.epochs), progress=progress, csv=options.output / "history.csv",
        )  # fmt: skip

    def probabilities(self) -> Array:
        """What the model makes of the held-out images: (N, 10), rows of sum 1."""
        return Softmax(1)(predict(self.model, self.test[0], self.options.batch_size))


def run(options: Options) -> int:
    """Run the demonstration.

    Parameters
    ----------
    options : Options
        What is asked for.

    Returns
    -------
    int
        The program's exit code: 0, or 130 after Ctrl-C.

    Raises
    ------
    NumbaNNError, OSError, ImportError
        For the user: something given is wrong, or missing.
    """
    console = open_console()
    console.line("A small convolutional net learns to read handwritten digits")
    this = Run(options)
    options.output.mkdir(parents=True, exist_ok=True)
    _introduce(console, this)
    with console.waiting("compiling kernels (first run only, up to a minute)"):
        this.compile_kernels()
    this.fit()
    epochs = len(this.history.get("epoch", []))
    if epochs:
        _conclude(console, this, epochs)
    return 0 if epochs == options.epochs else INTERRUPTED


def _introduce(console: PlainConsole, this: Run) -> None:
    """Say what is about to be done."""
    options, here = this.options, machine()
    steps = -(-len(this.train[0]) // options.batch_size)
    parameters = sum(p.value.size for p in this.model.parameters())
    console.facts({
        "data": f"{len(this.train[0]):,} images of 8 x 8 pixels, from scikit-learn; {len(this.test[0])} others are held out",
        "model": f"2 convolutions, {parameters:,} parameters",
        "training": f"{options.epochs} epochs of {steps} steps, batch {options.batch_size}, "
        f"Adam with lr {options.lr:g}, seed {options.seed}",
        "machine": f"{here['cpu']}, {here['threads']} threads ({here['threading layer']})",
        "output": str(options.output),
    })  # fmt: skip


def _conclude(console: PlainConsole, this: Run, epochs: int) -> None:
    """Tell how good and how fast it was, and write the files."""
    folder, (images, labels) = this.options.output, this.test
    probabilities = this.probabilities()
    right = int(np.count_nonzero(probabilities.argmax(axis=1) == labels))
    seconds = sum(this.history["seconds"])
    speed = epochs * len(this.train[0]) / seconds
    console.line(f"accuracy on the {len(labels)} held-out images: {right / len(labels):.2%}, {len(labels) - right} mistakes")
    console.line(f"{epochs} epochs in {seconds:.1f} s, validation included: {speed:,.0f} images/s")
    this.model.save(folder / "model.npz")
    console.line(f"weights: {folder / 'model.npz'}, history: {folder / 'history.csv'}")
    with pictures(console, folder / "digits.png"):
        save_digits(folder / "digits.png", this.history, images, labels, probabilities)

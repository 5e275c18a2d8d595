"""``numba-nn features``: how well the features of a trained autoencoder tell classes apart.

The encoder turns an image into 128 x 8 x 8 features; standardised, they go to a support vector machine with an RBF kernel,

    k(a, b) = exp(-gamma |a - b|^2)        gamma = 1 / 8192, C = 10

which is the second stage of github.com/niesuv/parallel-programming.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from numba_nn.core.call import Array
from numba_nn.core.errors import ArgumentError, DataError
from numba_nn.data import load_cifar10, photograph_patches
from numba_nn.data.files import missing_package
from numba_nn.data.photographs import PHOTOGRAPHS
from numba_nn.demos.console import open_console
from numba_nn.demos.session import saved_model
from numba_nn.io import save_checkpoint
from numba_nn.linalg import matmul
from numba_nn.models import Autoencoder
from numba_nn.sequential import Sequential
from numba_nn.train import predict
from numba_nn.warmup import warmup

C = 10
# All of the kernel's matrix at once, by a matrix product: 2,000 images are fitted in 0.9 s on one thread, against 11 s row by
# row as libsvm has it. For more images than this the matrix would need over 3 GB.
WHOLE_MATRIX = 20_000
REFERENCE = "48 to 52 %, after 20 epochs on all 50,000 images"

Set = tuple[Array, Array]
"""Images (N, 3, H, W) or features (N, D), and classes (N,)."""


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes
    ----------
    checkpoint : Path
        Of a run of the autoencoder demonstration.
    data : str or None
        Folder of CIFAR-10's binary files; None for the photographs.
    train, test : int
        Images of either set.
    batch_size : int
        Images encoded at once.
    save : Path or None
        File to which features and classes are written.
    """

    checkpoint: Path = Path("runs/autoencoder/checkpoint.npz")
    data: str | None = None
    train: int = 2000
    test: int = 1000
    batch_size: int = 32
    save: Path | None = None


def run(options: Options) -> int:
    """Encode, fit, and test.

    Parameters
    ----------
    options : Options
        What is asked for.

    Returns
    -------
    int
        The program's exit code: 0.

    Raises
    ------
    NumbaNNError, OSError, ImportError
        For the user: something given is wrong, or missing.
    """
    console = open_console()
    model, mean = _trained(options.checkpoint)
    train, test = _images(options)
    encoder, batch_shape = model[: model.ENCODER_LAYERS], (options.batch_size, *train[0].shape[1:])
    machine = _support_vector_machine(len(train[0]), math.prod(encoder.output_shape(batch_shape)[1:]))
    if options.save is not None and not options.save.parent.is_dir():
        raise ArgumentError(f"--save: there is no folder {options.save.parent}")
    console.line("A support vector machine tells images apart by the features of a trained autoencoder")
    source = "CIFAR-10" if options.data else f"patches of {PHOTOGRAPHS} photographs, the class is which one"
    console.facts({
        "encoder": f"{options.checkpoint}, layers 0 to {model.ENCODER_LAYERS - 1}",
        "data": f"{source}: {len(train[0]):,} images to learn from, {len(test[0]):,} to test on",
        "classes": f"{len(np.unique(train[1]))}; always to say the commonest is right for {_commonest(*test):.1%}",
    })  # fmt: skip
    with console.waiting("compiling kernels (first run only)"):
        warmup(encoder, batch_shape, training=False)
    encoder.reserve(batch_shape, training=False)
    start = time.perf_counter()
    train, test = (encoded(encoder, mean, images, options.batch_size) for images in (train, test))
    seconds = time.perf_counter() - start
    speed = (len(train[0]) + len(test[0])) / seconds
    console.line(f"{train[0].shape[1]:,} features of every image in {seconds:.1f} s: {speed:,.0f} images/s")
    if options.save is not None:
        _save(options.save, source, train, test)
        console.line(f"features and classes: {options.save}")
    with console.waiting("fitting the support vector machine"):
        machine.fit(*train)
    with console.waiting("classifying"):
        rows = [[name, f"{len(x):,}", f"{machine.score(x, y):.2%}"] for name, (x, y) in (("training", train), ("test", test))]
    console.table("Accuracy", ["set", "images", "right"], rows)
    if options.data:
        console.line(f"reference, test: {REFERENCE}")
    return 0


def _trained(checkpoint: Path) -> tuple[Autoencoder, Array]:
    if not checkpoint.exists():
        raise ArgumentError(
            f"--checkpoint: there is no {checkpoint}; to make one: numba-nn demo autoencoder (in a clone: make demo)"
        )
    return saved_model(checkpoint)


def _images(options: Options) -> tuple[Set, Set]:
    """Images to learn from and to test on, which share no pixel."""
    if options.data is not None:
        train, test = (load_cifar10(options.data, split, getattr(options, split)) for split in ("train", "test"))
    else:
        patches = photograph_patches(options.train, options.test)
        train, test = ((images, np.arange(len(images)) % PHOTOGRAPHS) for images in patches)
    if len(np.unique(train[1])) < 2:
        raise DataError(f"--train {options.train}: images of a single class; a support vector machine needs two or more")
    return train, test


def _commonest(images: Array, labels: Array) -> float:
    return float(np.bincount(labels).max() / len(labels))


def _support_vector_machine(images: int, features: int) -> Any:
    """The classifier of so many images: features are standardised as those that it learns from."""
    try:
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC
    except ImportError as error:
        raise missing_package("numba-nn features", "sklearn") from error
    gamma = 1 / features
    kernel = partial(rbf_kernel, gamma=gamma) if images <= WHOLE_MATRIX else "rbf"
    return make_pipeline(StandardScaler(), SVC(C=C, kernel=kernel, gamma=gamma))


def rbf_kernel(a: Array, b: Array, gamma: float) -> Array:
    """k of all rows of a (N, D) and b (M, D): an array (N, M), by |a - b|^2 = |a|^2 + |b|^2 - 2 a b."""
    squares_a, squares_b = (np.einsum("nd,nd->n", rows, rows) for rows in (a, b))
    distances = squares_a[:, None] + squares_b - 2 * matmul(a, b, transpose_b=True)
    return np.exp(-gamma * np.maximum(distances, 0))


def encoded(encoder: Sequential, mean: Array, data: Set, batch_size: int) -> Set:
    """Features (N, D) of images in [0, 1], with their classes.

    Parameters
    ----------
    encoder : Sequential
        The encoder; it runs in eval mode.
    mean : ndarray, shape (1, 3, 1, 1)
        Subtracted from the images.
    data : (ndarray, ndarray)
        Images (N, 3, H, W) and classes (N,).
    batch_size : int
        Images encoded at once.

    Returns
    -------
    (ndarray, ndarray)
        Features and classes.
    """
    images, labels = data
    return predict(encoder, images - mean, batch_size).reshape(len(images), -1), labels


def _save(path: Path, source: str, train: Set, test: Set) -> None:
    names = ("train_features", "train_classes", "test_features", "test_classes")
    save_checkpoint(path, dict(zip(names, (*train, *test), strict=True)), {"data": source})

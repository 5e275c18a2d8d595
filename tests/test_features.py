"""`numba-nn features`: the encoder's features, and how a support vector machine does on them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import numba_nn as nn
from numba_nn.cli import main
from numba_nn.data import photograph_patches
from numba_nn.data.photographs import PHOTOGRAPHS
from numba_nn.demos import features
from numba_nn.io import save_checkpoint
from numba_nn.models import Autoencoder

MEAN = np.array([0.5, 0.4, 0.3], np.float32).reshape(1, 3, 1, 1)
FEW = ["--train", "45", "--test", "18", "--batch-size", "8"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As if a run had ended before its first step."""
    path = tmp_path_factory.mktemp("run") / "checkpoint.npz"
    nn.manual_seed(3)
    weights = {f"model.{name}": value for name, value in Autoencoder().state_dict().items()}
    save_checkpoint(path, {**weights, "mean": MEAN}, {"demo": "autoencoder"})
    return path


def test_photographs(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    saved = tmp_path / "features.npz"
    assert main(["features", "--checkpoint", str(checkpoint), "--save", str(saved), *FEW]) == 0
    text = capsys.readouterr().out
    for part in ("patches of 9 photographs", "45 images to learn from, 18 to test on", "11.1%", "8,192 features", "images/s"):
        assert part in text
    with np.load(saved) as arrays:
        x, y = arrays["test_features"], arrays["test_classes"]
    images = photograph_patches(45, 18)[1]
    model, mean = features.saved_model(checkpoint)
    np.testing.assert_array_equal(x, model.encode(images - mean).reshape(18, 8192))
    np.testing.assert_array_equal(y, np.arange(18) % 9)


def test_cifar(checkpoint: Path, cifar: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    assert main(["features", "--checkpoint", str(checkpoint), "--data", str(cifar), *FEW]) == 0
    text = capsys.readouterr().out
    for part in ("CIFAR-10: 45 images to learn from, 16 to test on", "training      45", "48 to 52 %"):
        assert part in text


def test_classes_that_features_tell_apart_are_told_apart() -> None:
    pytest.importorskip("sklearn")
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    x = (5 * generator.standard_normal((3, 20))[labels] + generator.standard_normal((60, 20))).astype(np.float32)
    x[:, 7] = 4  # a feature that is always the same
    for images in (40, features.WHOLE_MATRIX + 1):
        machine = features._support_vector_machine(images, 20).fit(x[:40], labels[:40])
        assert machine.score(x[40:], labels[40:]) == 1
        np.testing.assert_array_equal(machine.predict(x[:40]), labels[:40])


def test_patches_take_the_photographs_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [(np.full((200, 200, 3), 20 * i, np.uint8), "left") for i in range(PHOTOGRAPHS)]
    monkeypatch.setattr("numba_nn.data.photographs._photographs", lambda: plain)
    for patches in photograph_patches(2 * PHOTOGRAPHS + 4, PHOTOGRAPHS + 1):
        shown = np.rint(patches.mean(axis=(1, 2, 3)) * 255 / 20)
        np.testing.assert_array_equal(shown, np.arange(len(patches)) % PHOTOGRAPHS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train", "1"], "a single class"),
        (["--data", "nowhere"], "nowhere does not exist"),
        (["--save", "nowhere/features.npz"], "--save: there is no folder nowhere"),
    ],
)
def test_users_errors(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    options: list[str], message: str,
) -> None:  # fmt: skip
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    assert main(["features", "--checkpoint", str(checkpoint), *FEW, *options]) == 2
    assert message in capsys.readouterr().err


def test_another_programs_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path / "a.npz", {"x": np.zeros(1)}, {"program": "another"})
    assert main(["features", "--checkpoint", str(tmp_path / "a.npz")]) == 2
    assert "expected a checkpoint of the autoencoder demo, found another's" in capsys.readouterr().err


def test_without_scikit_learn(
    checkpoint: Path, cifar: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    assert main(["features", "--checkpoint", str(checkpoint), "--data", str(cifar), *FEW]) == 2
    assert "numba-nn features needs sklearn, not installed here; in a clone: make demo" in capsys.readouterr().err


def test_kernel_is_the_formula() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((5, 12)), generator.standard_normal((7, 12))
    expected = np.exp(-0.1 * np.square(a[:, None] - b).sum(axis=2))
    np.testing.assert_allclose(features.rbf_kernel(a, b, 0.1), expected, rtol=1e-12)
    assert features.rbf_kernel(a, a, 0.1).max() <= 1

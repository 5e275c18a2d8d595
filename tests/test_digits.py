"""The digits demonstration: it learns to read, the same on any machine, and leaves what it says it leaves."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import numba_nn as nn
from numba_nn.cli import main
from numba_nn.demos import digits
from numba_nn.demos.digits import Options, Run
from numba_nn.demos.digits_figure import save_digits
from numba_nn.models import DigitsNet

RUN = """
import json, zlib
from pathlib import Path
from numba_nn.demos.digits import Options, Run
run = Run(Options(epochs=1, output=Path({folder!r})))
run.fit(progress=False)
print(json.dumps({{name: zlib.crc32(value.tobytes()) for name, value in run.model.state_dict().items()}}))
"""


def bits(run: Run) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in run.model.state_dict().items()}


def test_the_net_is_as_described() -> None:
    model = DigitsNet()
    assert model.output_shape((5, 1, 8, 8)) == (5, 10)
    assert sum(p.value.size for p in model.parameters()) == 21_482
    multiply_adds = sum(model[i].forward_flops(model.shapes((1, 1, 8, 8))[i]) for i in (0, 4, 10)) / 2
    assert 315_904 <= multiply_adds < 315_904 * 1.01  # biases
    assert repr(model) == "DigitsNet()"


def test_reads_98_percent_of_the_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "digits", "--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for part in ("1,437 images", "360 others are held out", "21,482 parameters", "epoch 10/10", "images/s", "digits.png"):
        assert part in text
    with open(tmp_path / "history.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert float(rows[-1]["val_accuracy"]) >= 0.98
    images, labels = Run(Options()).test
    model = DigitsNet().load(tmp_path / "model.npz")
    accuracy = nn.metrics.accuracy(nn.predict(model, images), labels)
    assert accuracy == float(rows[-1]["val_accuracy"])
    assert f"{accuracy:.2%}" in text
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")


def trained(folder: Path, compile_first: bool) -> dict[str, bytes]:
    run = Run(Options(epochs=1, batch_size=128, output=folder))
    if compile_first:
        run.compile_kernels()
    run.fit(progress=False)
    return bits(run)


def test_compiling_leaves_no_trace(tmp_path: Path) -> None:
    assert trained(tmp_path, compile_first=True) == trained(tmp_path, compile_first=False)


def test_same_bits_on_one_thread_and_two(tmp_path: Path, start_python: Any) -> None:
    script = RUN.format(folder=str(tmp_path))
    first, second = (start_python(script, NUMBA_NUM_THREADS=str(threads)) for threads in (1, 2))
    assert first() == second()


def test_the_held_out_images_hold_every_class_and_follow_the_seed() -> None:
    first, second = (Run(Options(seed=seed)) for seed in (0, 1))
    assert np.bincount(first.test[1]).min() >= 34
    assert not np.array_equal(first.test[0], second.test[0])
    assert bits(first) != bits(second)


@pytest.mark.parametrize("done", [0, 1])
def test_ctrl_c_keeps_whole_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], done: int
) -> None:
    def interrupted(*arguments: Any, epochs: int, schedule: Any, **options: Any) -> Any:
        return nn.fit(*arguments, epochs=done, **options) if done else {}

    monkeypatch.setattr(digits, "fit", interrupted)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert main(["demo", "digits", "--output", str(tmp_path)]) == 130
    text = capsys.readouterr().out
    assert (tmp_path / "model.npz").exists() == (done > 0)
    assert ("accuracy on the 360" in text) == (done > 0)
    assert ("no pictures: matplotlib is not installed (in a clone: make demo" in text) == (done > 0)


def test_without_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("numba_nn.data.files.find_spec", lambda name: None)
    assert main(["demo", "digits", "--output", str(tmp_path / "digits")]) == 2
    assert "make demo" in capsys.readouterr().err
    assert not (tmp_path / "digits").exists()


@pytest.mark.parametrize(("mistakes", "count"), [(0, 40), (1, 40), (30, 40), (3, 8)])
def test_picture_of_any_number_of_mistakes(tmp_path: Path, mistakes: int, count: int) -> None:
    pytest.importorskip("matplotlib")
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 10
    probabilities = np.full((count, 10), 0.02)
    probabilities[np.arange(count), (labels + (np.arange(count) < mistakes)) % 10] = 0.82
    history = {name: [0.5, 0.9] for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
    save_digits(tmp_path / "a.png", {"epoch": [1, 2], **history}, generator.random((count, 1, 8, 8)), labels, probabilities)
    assert 10_000 < (tmp_path / "a.png").stat().st_size < 300_000

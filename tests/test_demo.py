"""The autoencoder demonstration: stops and goes on to the same bits, says what it does, leaves pictures and a report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import numba_nn as nn
from numba_nn.cli import main
from numba_nn.demos import autoencoder, figures
from numba_nn.demos.console import PlainConsole, Speed
from numba_nn.demos.measurements import HEADERS, REFERENCE, measure, write_report
from numba_nn.demos.session import Session, Settings
from numba_nn.io import load_checkpoint

ROOT = Path(nn.__file__).parents[1]
SETTINGS = Settings(images=20, batch_size=8, epochs=3, lr=0.05)  # three steps an epoch, the last one smaller
PROGRAM = "import sys; from numba_nn.cli import main; sys.exit(main())"


def images(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).random((count, 3, 8, 8), np.float32)


def session(settings: Settings = SETTINGS) -> Session:
    return Session(settings, images(settings.images), images(10, seed=1))


def train(run: Session, checkpoint: Path, steps: int = 1000) -> bool:
    """Train until so many steps are done in all."""
    return run.run(checkpoint, lambda: len(run.losses) >= steps, lambda loss, count: None, lambda: None)


def bits(path: Path) -> dict[str, bytes]:
    """Everything in a checkpoint but the time it took."""
    arrays, metadata = load_checkpoint(path)
    del metadata["seconds"]
    return {"metadata": json.dumps(metadata).encode(), **{name: array.tobytes() for name, array in arrays.items()}}


# Going on


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("unbroken") / "checkpoint.npz"
    assert train(session(), path)
    return bits(path)


@pytest.mark.parametrize("stops", [[2], [3], [1, 5, 7]])
def test_interrupted_run_goes_on_to_the_same_bits(tmp_path: Path, unbroken: dict[str, bytes], stops: list[int]) -> None:
    path = tmp_path / "checkpoint.npz"
    run = session()
    for stop in stops:
        assert not train(run, path, stop)
        run = session()
        run.model.parameters()[0].value.fill(7)  # all comes from the file
        run.restore(*load_checkpoint(path))
        assert len(run.losses) == stop
    assert train(run, path)
    assert bits(path) == unbroken


def test_another_seed_gives_other_bits(tmp_path: Path, unbroken: dict[str, bytes]) -> None:
    run = session(Settings(**{**vars(SETTINGS), "seed": 1}))
    train(run, tmp_path / "checkpoint.npz")
    assert bits(tmp_path / "checkpoint.npz")["model.0.weight"] != unbroken["model.0.weight"]


def test_compiling_leaves_no_trace(tmp_path: Path, unbroken: dict[str, bytes]) -> None:
    run = session()
    run.compile_kernels()
    train(run, tmp_path / "checkpoint.npz")
    assert bits(tmp_path / "checkpoint.npz") == unbroken


def test_other_images_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    train(session(), path, 1)
    other = Session(SETTINGS, images(20, seed=5), images(10))
    with pytest.raises(nn.DataError, match="not the images"):
        other.restore(*load_checkpoint(path))


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    run = session(Settings(images=20, batch_size=8, epochs=10, lr=0.3))
    train(run, tmp_path / "checkpoint.npz")
    assert np.mean(run.losses[-5:]) < 0.8 * np.mean(run.losses[:5])
    assert len(run.validation_losses) == 10
    assert run.images_seen == 200


def test_divergence_is_an_error_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    run = session(Settings(images=20, batch_size=8, epochs=30, lr=1e6))
    with pytest.raises(nn.ArgumentError, match="choose --lr below"):
        train(run, tmp_path / "checkpoint.npz")


def test_rate_rises_then_falls_to_nothing() -> None:
    run = session(Settings(images=80, batch_size=8, epochs=10))
    rates = [run.rate(step) for step in range(run.steps)]
    assert rates[0] < rates[20] < max(rates) < run.settings.lr
    assert rates[-1] < max(rates) / 100


def test_validation_is_the_mean_over_images() -> None:
    run = session()
    centred = run.validation_images - run.mean
    y = run.model.eval()(centred)
    np.testing.assert_allclose(run.validate(), np.mean((y.astype(np.float64) - centred) ** 2), rtol=1e-5)


# The program


def start(output: Path, data: Path, *options: str) -> subprocess.Popen[str]:
    arguments = ["demo", "autoencoder", "--data", str(data), "--output", str(output), "--no-report"]
    numbers = ["--images", "16", "--batch-size", "4", "--epochs", "20"] if "--resume" not in options else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-c", PROGRAM, *arguments, *numbers, *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_saves_and_resume_goes_on(tmp_path: Path, cifar: Path) -> None:
    unbroken = start(tmp_path / "unbroken", cifar)
    process = start(tmp_path / "broken", cifar)
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        if line.startswith("epoch 1/20"):
            process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    text = "".join(printed)
    assert process.returncode == 130, errors
    assert "interrupted; saved" in text
    assert "--resume" in text
    assert "epoch 20/20" not in text
    process = start(tmp_path / "broken", cifar, "--resume")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "going on after epoch" in output
    assert "epoch 20/20" in output
    output, errors = unbroken.communicate(timeout=300)
    assert unbroken.returncode == 0, errors
    assert bits(tmp_path / "broken" / "checkpoint.npz").items() >= bits(tmp_path / "unbroken" / "checkpoint.npz").items()
    assert not any(ord(c) < 32 and c != "\n" for c in text + output)


def test_output_says_what_is_done(tmp_path: Path, cifar: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", str(cifar), "--images", "20", "--batch-size", "8", "--epochs", "1", "--no-report"]
    assert main(["demo", "autoencoder", *options, "--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for part in ("20 images", "10 others for validation", "751,875 parameters", "compiling kernels", "epoch 1/1", "CIFAR-10"):
        assert part in text
    assert main(["demo", "autoencoder", "--resume", "--epochs", "2", "--no-report", "--output", str(tmp_path)]) == 0
    assert "epoch 2/2" in capsys.readouterr().out


def test_data_that_cannot_be_read_leave_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "runs" / "autoencoder"
    assert main(["demo", "autoencoder", "--data", str(tmp_path), "--output", str(output)]) == 2
    assert "lacks data_batch_1.bin" in capsys.readouterr().err
    assert not output.parent.exists()


def test_without_matplotlib_training_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    autoencoder._draw(PlainConsole(), session(), Path("nowhere"))
    text = capsys.readouterr().out
    assert "matplotlib is not installed" in text
    assert "make demo" in text


# Pictures and report


def test_figures_are_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    originals, results, losses = images(10), images(10, seed=1), [1.0, 0.5, 0.3, 0.2]
    figures.save_reconstructions(tmp_path / "a.png", originals, results)
    figures.save_loss(tmp_path / "b.png", losses, [0.4, 0.2])
    figures.save_overview(tmp_path / "c.png", originals, results, losses, [])
    for name in "abc":
        content = (tmp_path / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert 5_000 < len(content) < 300_000


def test_psnr_of_a_known_error() -> None:
    x = images(1)
    assert round(figures.psnr(x, x + np.float32(0.1)), 3) == 20
    assert figures.psnr(x, x) == float("inf")


def test_report_holds_the_reference_beside_every_figure(tmp_path: Path) -> None:
    run = session()
    train(run, tmp_path / "checkpoint.npz")
    before = run.model.state_dict()
    report = measure(run.model, 8, 8, rounds=1)
    assert all(value.tobytes() == before[name].tobytes() for name, value in run.model.state_dict().items())
    assert [(m.what, m.batch) for m in report.measurements] == [(what, batch) for what in REFERENCE for batch in (1, 32)]
    assert all(m.ms > 0 and np.isclose(m.images_per_second * m.ms, m.batch * 1000) for m in report.measurements)
    assert all(len(row) == len(HEADERS) for row in report.rows())
    write_report(tmp_path, report, run)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for part in ("6.45 ms", "2.5 images/s", "guesses", "12 Conv2d 256->3", "batch 32", report.machine["cpu"]):
        assert part in text
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert len(content["profiles"]) == 2
    assert content["training"]["validation"] == run.validation_losses


def test_speed_is_images_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 2.0])
    monkeypatch.setattr("numba_nn.demos.console.time.perf_counter", lambda: next(clock))
    speed = Speed()
    assert speed.add(10) == 10
    assert speed.add(30) == 20

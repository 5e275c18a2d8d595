"""The command line: what a user sees when something is wrong, and that nothing of it is a traceback."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import numba_nn
from numba_nn.cli import main
from numba_nn.io import save_checkpoint


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, output, errors."""
    try:
        code = main(arguments)
    except SystemExit as error:  # argparse's
        code = int(error.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_info_tells_what_matters(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info")
    assert code == 0
    for word in ("numba-nn", numba_nn.__version__, "cpu", "threads", "threading layer", "float32 tile", "cache"):
        assert word in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version")[:2] == (0, f"numba-nn {numba_nn.__version__}\n")


@pytest.mark.parametrize(("arguments", "word"), [([], "demo"), (["demo"], "autoencoder")])
def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str], arguments: list[str], word: str) -> None:
    code, out, _ = run(capsys, *arguments)
    assert code == 2
    assert word in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dmeo"], "dmeo"),
        (["demo", "autoencoder", "--epoch-count", "3"], "--epoch-count"),
        (["demo", "autoencoder", "--epochs", "0"], "at least 1"),
        (["demo", "autoencoder", "--images", "many"], "whole number"),
        (["demo", "autoencoder", "--seed", "-1"], "at least 0"),
        (["demo", "autoencoder", "--lr", "nan"], "at least 0"),
        (["demo", "autoencoder", "--momentum", "1"], "below 1"),
        (["demo", "autoencoder", "--data", "nowhere"], "nowhere does not exist"),
        (["demo", "autoencoder", "--resume"], "there is no"),
        (["demo", "digits", "--batch-size", "0"], "at least 1"),
        (["features", "--train", "0"], "at least 1"),
        (["features"], "there is no runs/autoencoder/checkpoint.npz; to make one: numba-nn demo autoencoder"),
    ],
)
def test_users_errors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert "error: " in err
    assert message in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("command", [["demo", "autoencoder"], ["demo", "digits"], ["features"], ["report"], ["info"], []])
def test_an_unknown_option_shows_the_commands_own_usage(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    code, _, err = run(capsys, *command, "--no-such-option")
    assert code == 2
    assert err.startswith(" ".join(["usage: numba-nn", *command, "[-h]"]))


def test_output_that_is_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x", encoding="utf-8")
    code, _, err = run(capsys, "demo", "autoencoder", "--output", str(tmp_path / "taken"))
    assert code == 2
    assert "taken" in err


@pytest.mark.parametrize(
    ("metadata", "options", "message"),
    [
        ({"program": "another"}, [], "another's"),
        ({"demo": "another", "settings": {}, "epoch": 0, "batch": 0}, [], "another's"),
        ({"demo": "autoencoder", "settings": {"width": 3}, "epoch": 0, "batch": 0}, [], "another's"),
        ({"demo": "autoencoder", "settings": {"lr": 0.5}, "epoch": 0, "batch": 0}, ["--lr", "0.1"], "--lr 0.5, not 0.1"),
        ({"demo": "autoencoder", "settings": {}, "epoch": 2, "batch": 1}, ["--epochs", "2"], "epoch 3 already"),
    ],
)
def test_resuming_what_does_not_fit(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, metadata: dict[str, Any], options: list[str], message: str
) -> None:
    save_checkpoint(tmp_path / "checkpoint.npz", {"x": np.zeros(1)}, metadata)
    code, _, err = run(capsys, "demo", "autoencoder", "--resume", "--output", str(tmp_path), *options)
    assert code == 2
    assert message in err


def test_resuming_a_damaged_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "checkpoint.npz").write_bytes(b"PK nothing")
    code, _, err = run(capsys, "demo", "autoencoder", "--resume", "--output", str(tmp_path))
    assert code == 2
    assert "damaged" in err


def test_missing_package_names_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import numba_nn.data.files as files

    monkeypatch.setattr(files, "find_spec", lambda name: None)
    code, _, err = run(capsys, "demo", "autoencoder", "--output", str(tmp_path))
    assert code == 2
    assert "make demo" in err


def test_ctrl_c_before_training(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import numba_nn.demos.autoencoder as demo

    def interrupted(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "photograph_patches", interrupted)
    code, _, err = run(capsys, "demo", "autoencoder", "--output", str(tmp_path))
    assert (code, err) == (130, "interrupted\n")


def test_help_imports_no_extras(run_python: Any) -> None:
    script = (
        "import sys, json, contextlib, io\nfrom numba_nn.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n    main([])\n"
        "print(json.dumps([m for m in ('rich', 'matplotlib', 'sklearn', 'skimage', 'PIL') if m in sys.modules]))"
    )
    assert run_python(script) == []


def test_warmup_compiles_a_model_of_the_users(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "users_model.py").write_text("import numba_nn as nn\ndef build():\n    return nn.Sequential(nn.Linear(3, 2))\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    code, out, _ = run(capsys, "warmup", "users_model:build", "5x3")
    assert code == 0
    assert "kernels compiled" in out
    assert run(capsys, "warmup", "users_model:build", "5x3", "--inference")[0] == 0
    for arguments, words in (
        (("users_model:missing", "5x3"), "users_model:missing"),
        (("no_such_module:build", "5x3"), "no_such_module"),
        (("users_model", "5x3"), "module:name"),
        (("users_model:nn.__version__", "5x3"), "model must be a Layer"),
        (("users_model:build", "5x4"), "Linear"),
    ):
        code, _, err = run(capsys, "warmup", *arguments)
        assert (code, words in err) == (2, True), err
    with pytest.raises(SystemExit):
        main(["warmup", "users_model:build", "5by3"])
    assert "must be a shape such as" in capsys.readouterr().err

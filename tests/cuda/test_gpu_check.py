"""The command for hardware runs to its end, and tells what failed: here on the simulated GPU."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from simulated_cuda import simulated

import numba_nn as nn
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.errors import DeviceError
from numba_nn.gpu_check import correctness
from numba_nn.gpu_check.__main__ import Checks, main


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setitem(vars(cuda), "_module", SimpleNamespace(is_available=lambda: False))


def test_it_passes_on_the_simulated_gpu(tmp_path, capsys):
    wanted = "environment|preflight|correct: (ReLU |MSELoss|Adam in bfloat16|ops, (take|sigmoid))"
    wanted += r"|speed: (copy|ReLU|ops|product 16|small ReLU)|contract: Softmax\(1\)-3x5"
    with simulated():
        given = ["--quick", "--only", wanted, "--cases", "tests.cases", "--output", str(tmp_path / "a/b.json")]
        assert main(given) == 0
    found = json.loads((tmp_path / "a/b.json").read_text())
    assert found["preflight"]["card"] == "simulated"
    assert found["correct: ReLU 1001"]["differences"] == {"y": "0.0e+00", "dx": "0.0e+00"}
    assert "23 of 23 sections passed" in capsys.readouterr().out


def test_without_a_gpu_it_fails_and_says_why(capsys, no_gpu):
    assert main(["--only", "environment|preflight"]) == 1
    assert "no GPU" in capsys.readouterr().out


def test_a_failure_does_not_hide_the_next_section():
    checks = Checks()
    checks.run("broken", lambda: {"one": 1 / 0})
    checks.run("wrong", lambda: {"failed": "too far"})
    checks.run("fine", dict)
    assert checks.failures == ["broken", "wrong"]
    assert "ZeroDivisionError" in checks.results["broken"]["failed"]


@pytest.mark.parametrize(("got", "fails"), [(1.0, False), (1.1, True), (float("nan"), True)])
def test_a_difference_is_judged(got, fails):
    found = correctness.judged({"y": correctness.difference(np.ones(3), np.full(3, got))}, 1e-3)
    assert ("failed" in found) == fails


def test_a_layer_does_not_move_to_a_gpu_that_is_not_there(no_gpu):
    layer = nn.Linear(3, 2)
    with pytest.raises(DeviceError, match="no GPU"):
        layer.to("cuda")
    assert layer.device.name == layer.weight.device.name == "cpu"

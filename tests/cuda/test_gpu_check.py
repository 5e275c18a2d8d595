"""The command for hardware runs to its end whatever happens, and tells what failed: here on the simulated GPU, or on none."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from simulated_cuda import simulated

import numba_nn as nn
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.errors import DeviceError
from numba_nn.gpu_check import checks, correctness, environment, report
from numba_nn.gpu_check.__main__ import main
from numba_nn.gpu_check.checks import Checks, Worker
from numba_nn.gpu_check.sections import contract_cases, sections

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setitem(vars(cuda), "_module", SimpleNamespace(is_available=lambda: False))


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    """Where results go; workers find the modules of the tests from everywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{HERE}")


def run_broken(monkeypatch, **options):
    monkeypatch.setattr(checks, "GRACE_SECONDS", 1.0)
    found = Checks()
    with Worker("broken_plan", options) as worker:
        found.run(worker)
    return found


def test_it_passes_on_the_simulated_gpu(tmp_path, capsys):
    wanted = "correct: (ReLU |MSELoss|Adam in bfloat16|ops, (take|sigmoid))"
    wanted += r"|speed: (copy|ReLU|ops|product 16|small ReLU)|contract in float(32|64): Softmax\(1\)-3x5|sanitizer"
    given = ["--quick", "--only", wanted, "--cases", "tests.cases", "--output", str(tmp_path / "a/b.json")]
    assert main(given, "simulated_plan") == 0
    found = json.loads((tmp_path / "a/b.json").read_text())
    assert found["preflight"]["card"] == "simulated"
    assert found["environment"]["contract cases"].endswith("of tests.cases")
    assert found["correct: ReLU 1001"]["differences"] == {"y": "0.0e+00", "dx": "0.0e+00"}
    said = capsys.readouterr().out
    assert "27 of 27 sections did not fail" in said
    assert "PyTorch missing, or without this GPU" in said
    assert "| ReLU, with backward " in said
    assert str(tmp_path / "a/b.json") in said


def test_whatever_becomes_of_a_section_the_next_one_runs(monkeypatch):
    found = run_broken(monkeypatch)
    results = found.results
    assert found.failures == ["raises", "is wrong", "loses the GPU", "crashes", "hangs", "leaves"]
    assert "ZeroDivisionError" in results["raises"]["failed"]
    assert "ILLEGAL_ADDRESS" in results["loses the GPU"]["failed"]
    assert results["crashes"]["failed"] == "the process died by SIGSEGV"
    assert "Segmentation fault" in results["crashes"]["traceback"]
    assert results["hangs"]["failed"] == "the process was killed after 2 s"
    assert "broken_plan.py" in results["hangs"]["traceback"]
    assert results["leaves"]["failed"] == "the process ended with exit status 3"
    processes = {name: result["process"] for name, result in results.items() if "process" in result}
    first = processes["environment"]
    assert [name for name, process in processes.items() if process == first] == ["environment", "after raises", "is wrong"]
    assert len(set(processes.values())) == 5
    (written,) = Path().glob("gpu_check_20*_NVIDIA-H200.json")
    assert json.loads(written.read_text()) == results


def test_where_the_preflight_fails_nothing_else_runs(monkeypatch):
    assert list(run_broken(monkeypatch, preflight=False).results) == ["environment", "preflight"]


def test_a_plan_that_does_not_start_is_told():
    with Worker("no_such_plan", {}) as worker, pytest.raises(RuntimeError, match="No module named 'no_such_plan'"):
        worker.sections()


def test_what_matters_most_comes_first():
    kinds = list(dict.fromkeys(name.partition(":")[0] for name in sections(quick=True, cases="tests.cases")))
    assert kinds == ["environment", "preflight", "correct", "contract in float32", "sanitizer", "speed", "contract in float64"]


def test_the_configurations_of_the_tests_are_found_where_they_are(monkeypatch):
    assert len(contract_cases(None)[1]) > 200
    monkeypatch.setattr("numba_nn.gpu_check.sections.CONTRACT", "tests.no_such_cases")
    said, none = contract_cases(None)
    assert said.startswith("none: there is no tests.no_such_cases here")
    assert none == []
    with pytest.raises(ImportError):
        contract_cases("tests.no_such_cases")


def test_the_sanitizer_is_told_what_to_run_and_believed(tmp_path, monkeypatch):
    assert set(environment.SANITIZED) <= set(sections(quick=True))
    tool = tmp_path / "compute-sanitizer"
    tool.write_text("#!/bin/sh\necho '========= ERROR SUMMARY:' $2 $(wc -l)\nexit ${STATUS:-0}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    asked = len(environment.SANITIZED)
    assert environment.sanitizer("synccheck", "plan") == {"told": f"========= ERROR SUMMARY: synccheck {asked}"}
    monkeypatch.setenv("STATUS", "9")
    assert environment.sanitizer("memcheck", "plan")["failed"] == "memcheck ended with 9, 0 sections failed"


def test_the_table_shows_what_failed_and_what_was_timed():
    results = {
        "correct: one": {"differences": {"y": "1.0e-07"}, "seconds": 1.0},
        "correct: two": {"differences": {"y": "2.0e-01"}, "failed": "y: more than 2e-04", "seconds": 1.5},
        "speed: ReLU": {"us": 12.5, "PyTorch us": 25, "us, with backward": 30.0, "seconds": 0.5},
    }
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in report.summary(results).splitlines()]
    assert ["correct", "1", "1", "0", "2.0e-01", "2"] in lines
    assert ["ReLU", "12.5", "25", "", "", "", "", ""] in lines
    assert ["ReLU, with backward", "30.0", "", "", "", "", "", ""] in lines
    assert ["FAILED correct: two: y: more than 2e-04"] in lines
    assert "PyTorch missing" not in report.summary(results)


def test_make_takes_pytorch_where_it_is():
    shown = subprocess.run(["make", "--dry-run", "gpu-check"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ".peers/bin/python -m numba_nn.gpu_check" in shown


def test_without_a_gpu_it_fails_and_says_why(no_gpu, capsys):
    with pytest.raises(DeviceError, match="no GPU"):
        environment.preflight()
    assert main(["--only", "speed: copy"]) == 1
    assert "FAILED preflight: DeviceError: device 'cuda'" in capsys.readouterr().out


def test_gradients_are_compared_where_the_rounding_of_tensor_cores_turns_no_choice():
    choices = (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.MaxPool2d)
    cases = [c for c in correctness.CASES if isinstance(c, correctness.LayerCase) and c.tolerance >= correctness.TENSOR_CORES]
    jump = [c.name for c in cases if any(isinstance(module, choices) for module in c.make().modules())]
    assert jump == ["Autoencoder"] == [c.name for c in cases if not c.gradients]
    with simulated():
        found = correctness.LayerCase("tanh", lambda: nn.Linear(3, 2), (4, 3), gradients=False).compare()
    assert list(found["differences"]) == ["y"]


@pytest.mark.parametrize(("got", "fails"), [(1.0, False), (1.1, True), (float("nan"), True)])
def test_a_difference_is_judged(got, fails):
    found = correctness.judged({"y": correctness.difference(np.ones(3), np.full(3, got))}, 1e-3)
    assert ("failed" in found) == fails


def test_a_layer_does_not_move_to_a_gpu_that_is_not_there(no_gpu):
    layer = nn.Linear(3, 2)
    with pytest.raises(DeviceError, match="no GPU"):
        layer.to("cuda")
    assert layer.device.name == layer.weight.device.name == "cpu"

"""The table of the comparison: both sides of every small case agree, and a run from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch lives in an environment of its own: make parity")
pytest.importorskip("onnxruntime", reason="onnxruntime lives with PyTorch: make parity")

from asv_benchmarks.compare.cases import CASES
from asv_benchmarks.compare.clock import Pace
from asv_benchmarks.compare.work import Side, Work, check
from asv_benchmarks.compare.worker import chosen, measure

ROOT = Path(__file__).resolve().parents[2]
ONE_OF_EACH_KIND = (
    "^relu x \\[32,512|^dropout x \\[32|^matmul 256|^linear x \\[32,256|^lstm x \\[1,16|^lstmcell|^mseloss|^mlp 784.*batch 1,|"
    "^batchnorm1d|^conv2d x \\[1,1,32,32\\] -> 32, k3|batch 100, adam|^tanh.*every"
)
SMALL = chosen(ONE_OF_EACH_KIND, quick=False)


def test_no_row_is_named_twice() -> None:
    names = [(case.name, name) for case in CASES for name in case.passes]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_a_quick_run_leaves_out_the_largest() -> None:
    assert 0 < len(chosen("", quick=True)) < len(chosen("", quick=False))
    assert [case.name for case, _, _ in chosen("4096,4096", quick=True)] == []


@pytest.mark.parametrize(("case", "name", "prepare"), SMALL, ids=[f"{case.name}, {name}" for case, name, _ in SMALL])
def test_both_sides_do_the_same(case, name, prepare) -> None:
    work = prepare()
    assert check(work) <= work.tolerance
    work.ours.call()  # again: what is timed is the second call and those after it


def test_what_fails_is_told() -> None:
    def differ() -> Work:
        return Work(Side("ours", lambda: None, lambda _: [1.0]), [Side("peer", lambda: None, lambda _: [2.0])])

    (row,) = measure(differ, Pace())
    assert row["failed"].startswith("MismatchError: result 0")


def test_a_run(tmp_path: Path) -> None:
    settings = ["--quick", "--threads", "1", "--allocators", "kept", "--only", "^relu x .32", "--output", str(tmp_path)]
    run = subprocess.run([sys.executable, "-m", "asv_benchmarks.compare", *settings], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    content = json.loads((tmp_path / "compare_results.json").read_text())
    assert [(row["case"], row["pass_name"], row["allocations"]) for row in content["rows"]] == [
        ("ReLU x [32,512]", "forward", 0),
        ("ReLU x [32,512]", "forward + backward", 0),
    ]
    unknown = [sys.executable, "-m", "asv_benchmarks.compare", "--quick", "--threads", "1", "--only", "no such case"]
    assert subprocess.run([*unknown, "--output", str(tmp_path)], cwd=ROOT, capture_output=True).returncode == 1

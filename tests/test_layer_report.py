"""The layer report: rows and what follows from them, the record, and other revisions. No test looks at how long a call took."""

from __future__ import annotations

import json
import subprocess
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import numba_nn
from numba_nn import ReportError
from numba_nn.cli import main
from numba_nn.report import layers
from numba_nn.report.comparison import Comparison, Row, change, compare
from numba_nn.report.history import Figures, Run, load_runs, save_runs
from numba_nn.report.layers_markdown import render, summary
from numba_nn.report.measuring.cases import CASES, Case, Pass, Reference
from numba_nn.report.measuring.clock import time_pass
from numba_nn.report.measuring.worker import measure_case
from numba_nn.report.revisions import Worker, checked_out, current_revision


def figures(ns: float, allocations: int = 0) -> Figures:
    return Figures(ns, 2 * ns, 0.01, allocations, 64 * allocations)


def nothing(nn: ModuleType) -> dict[str, Pass]:
    return {}


CONV = Case("convolution", "Conv2d", nothing, {"forward": Reference(1000.0, 15), "backward": Reference(None, 87)})
GELU = Case("activation", "GELU", nothing)


def measured(revision: str, quick: bool = False, cpu: str = "this", **ns: float) -> Run:
    """A run; ``conv_forward=3`` is the time of that row."""
    keys = {f"{case.name[:4].lower()}_{name}": (case.name, name) for case in (CONV, GELU) for name in case.passes}
    machine = {"cpu": cpu, "threads": 2, "date": "2030-01-01"}
    return Run(revision, machine, quick, {keys[name]: figures(time) for name, time in ns.items()}, {})


def row_of(comparison: Comparison, case: Case, name: str) -> Row:
    (row,) = [row for row in comparison.rows if (row.case, row.name) == (case.name, name)]
    return row


# The cases


def test_cases_have_names_of_their_own_and_families_stay_together() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    families = [case.family for case in CASES]
    assert len([f for i, f in enumerate(families) if f not in families[i - 1 : i]]) == len(set(families))


def test_the_references_figures_are_there() -> None:
    found = {(case.name.split()[0], name): r for case in CASES for name, r in (case.reference or {}).items() if r.ns}
    assert found["Conv1d", "backward"] == (536.8e6, 59)
    assert found["Dropout", "forward"] == (3.67e6, 32_798)
    assert len(found) == 16
    assert all(set(case.reference) <= set(case.passes) for case in CASES if case.reference)


@pytest.mark.parametrize("case", [case for case in CASES if case.name.startswith(("ReLU", "MSELoss", "Embedding", "SGD"))])
def test_a_case_runs_and_allocates_nothing(case: Case) -> None:
    answer = json.loads(json.dumps(measure_case(numba_nn, case.prepare, batches=2)))
    assert tuple(answer) == case.passes
    for name in case.passes:
        one = Figures(**answer[name])
        assert one.ns > 0
        assert one.ns_one_thread > 0
        assert (one.allocations, one.nbytes) == (0, 0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_revision_without_the_layer_is_not_applicable(case: Case) -> None:
    nn = ModuleType("numba_nn")
    nn.optim = ModuleType("numba_nn.optim")  # type: ignore[attr-defined]
    assert "has no" in measure_case(nn, case.prepare, batches=2)["missing"]


def test_a_layer_that_fails_says_why() -> None:
    def broken(nn: ModuleType) -> dict[str, Pass]:
        raise ValueError("no such padding")

    assert measure_case(numba_nn, broken, 2) == {"missing": "ValueError: no such padding"}


def test_allocations_are_told() -> None:
    answer = measure_case(numba_nn, lambda nn: {"forward": Pass(lambda: np.empty(1000))}, batches=2)
    assert (answer["forward"]["allocations"], answer["forward"]["nbytes"]) == (1, 8000)


def test_what_comes_before_a_call_runs_before_each_and_is_not_timed() -> None:
    calls: list[str] = []
    ns, spread = time_pass(Pass(lambda: calls.append("call"), before=lambda: (calls.append("before"), sum(range(1000)))), 3)
    assert ns > 0
    assert spread >= 0
    assert calls == ["before", "call"] * (len(calls) // 2)


# Rows


@pytest.mark.parametrize(
    ("current", "earlier", "expected"),
    [(50.0, 100.0, -0.5), (150.0, 100.0, 0.5), (0, 0, None), (None, 1.0, None), (1.0, None, None)],
)
def test_change(current: float | None, earlier: float | None, expected: float | None) -> None:
    assert change(current, earlier) == expected


def test_before_is_the_first_run_and_after_the_last_one() -> None:
    record = [measured("a", conv_forward=400), measured("b", conv_forward=100), measured("c", conv_forward=250)]
    row = row_of(compare(measured("d", conv_forward=200), record, [CONV]), CONV, "forward")
    assert (row.before, row.after, row.current) == (figures(400), figures(250), figures(200))
    assert row.changes() == pytest.approx((-0.5, -0.2))
    assert row.speedup == 5


def test_each_row_has_its_own_first_and_last_run() -> None:
    record = [measured("a", conv_forward=400), measured("b", gelu_forward=10)]
    comparison = compare(measured("c", conv_forward=1, gelu_forward=1), record, [CONV, GELU])
    assert row_of(comparison, CONV, "forward").after == figures(400)
    assert row_of(comparison, GELU, "forward").before == figures(10)
    assert [run.revision for run in comparison.before] == [run.revision for run in comparison.after] == ["a", "b"]


def test_another_revision_stands_as_before() -> None:
    record, against = [measured("a", conv_forward=400)], measured("old", conv_forward=800)
    comparison = compare(measured("b", conv_forward=200, gelu_forward=1), record, [CONV, GELU], against)
    assert row_of(comparison, CONV, "forward").changes() == pytest.approx((-0.75, -0.5))
    assert row_of(comparison, GELU, "forward").before is None
    assert [run.revision for run in comparison.before] == ["old"]


def test_only_like_is_compared_with_like() -> None:
    record = [measured("a", cpu="another", conv_forward=1), measured("b", quick=True, conv_forward=1)]
    comparison = compare(measured("c", conv_forward=2), record, [CONV])
    assert comparison.before == comparison.after == []
    assert row_of(comparison, CONV, "forward").changes() == (None, None)


def test_markdown_tells_what_is_not_there() -> None:
    current = measured("c", conv_forward=2_000_000, gelu_forward=3)
    assert "no earlier run" in render(compare(current, [], [CONV, GELU]))
    text = render(compare(current, [measured("b", gelu_forward=3)], [CONV, GELU]))
    (conv,) = [line for line in text.splitlines() if line.startswith("| Conv2d") and "forward" in line and "1,000" in line]
    assert [cell.strip() for cell in conv.strip("|").split("|")] == [
        "Conv2d", "forward", "2,000,000", "4,000,000", "0", "0", "1,000", "15", "**0.0x**",
    ]  # fmt: skip
    assert "no figure" in text  # the backward of Conv2d
    assert "ours only" in text
    assert text.count("n/a / n/a / 0") == 2  # allocations and bytes of the forward that the earlier run lacks
    assert text.count("n/a / n/a / n/a") == 4  # allocations and bytes of the two backwards


def test_the_summary_names_the_worst() -> None:
    record = [measured("a", conv_forward=100, conv_backward=100, gelu_forward=100)]
    lines = "\n".join(summary(compare(measured("b", conv_forward=110, gelu_forward=90), record, [CONV, GELU])))
    assert "**4 rows**, 2 of them n/a" in lines
    assert "9.1x, Conv2d, forward" in lines
    assert "at worst +10.0%, Conv2d, forward" in lines
    assert "none of which" in summary(compare(measured("b"), [], [CONV]))[0]


def test_one_thread_has_one_table() -> None:
    alone = measured("a", conv_forward=1)
    alone.machine["threads"] = 1
    assert render(compare(alone, [alone], [CONV])).count("## Before, after, current") == 1


# The record


def test_the_record_comes_back(tmp_path: Path) -> None:
    runs = [measured("a", conv_forward=1.5), Run("b", {"cpu": "x", "threads": 1}, True, {}, {"GELU": "no"})]
    comparison = compare(runs[0], [], [CONV])
    save_runs(tmp_path / "r.json", runs, comparison.to_json())
    assert load_runs(tmp_path / "r.json") == runs
    content = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert content["report"]["rows"][0]["speedup"] == comparison.rows[0].speedup
    assert load_runs(tmp_path / "none.json") == []
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": "another", "version": 1, "runs": []}',
             '{"format": "numba_nn layer report", "version": 1, "runs": [{"revision": "a"}]}', "\udcff"],
)  # fmt: skip
def test_a_damaged_record_is_refused_and_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    path = tmp_path / "layer_report.json"
    content = text.encode("utf-8", errors="surrogateescape")
    path.write_bytes(content)
    assert main(["report", "--quick", "--output", str(tmp_path)]) == 2  # at once: nothing is measured
    assert "damaged" in capsys.readouterr().err
    assert path.read_bytes() == content


def test_a_run_is_added_to_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((400.0, 200.0, 100.0))
    monkeypatch.setattr(layers, "CASES", [CONV, GELU])
    monkeypatch.setattr(layers, "measure", lambda *_: (measured("now", conv_forward=next(times)), None))
    for _ in range(2):
        layers.run(layers.Options(output=tmp_path))
    row = row_of(layers.run(layers.Options(only="conv", output=tmp_path)), CONV, "forward")
    assert row.changes() == pytest.approx((-0.75, -0.5))
    assert len(load_runs(tmp_path / "layer_report.json")) == 3
    assert "-75.0%" in (tmp_path / "layer_report.md").read_text(encoding="utf-8")


# The command, and other revisions

needs_git = pytest.mark.skipif(current_revision().startswith("version"), reason="not a git clone")


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=n", "-c", "user.email=e")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A package that was committed once and has changed since."""
    package = tmp_path / "numba_nn"
    package.mkdir()
    (package / "__init__.py").write_text("x = 1\n", encoding="utf-8")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "x")
    (package / "__init__.py").write_text("x = 2\n", encoding="utf-8")
    return tmp_path


def test_a_revision_is_checked_out_for_a_while(repository: Path) -> None:
    with checked_out("HEAD", repository) as (name, folder):
        assert (folder / "numba_nn" / "__init__.py").read_text(encoding="utf-8") == "x = 1\n"
        assert current_revision(repository) == f"{name} + changes"
    assert not folder.exists()
    git(repository, "checkout", ".")
    assert current_revision(repository) == name


@pytest.mark.parametrize("revision", ["nothing", "--help", "HEAD~1", ""])
def test_a_revision_that_is_not_there(repository: Path, revision: str) -> None:
    with pytest.raises(ReportError, match="rev-parse"), checked_out(revision, repository):
        pass


def test_outside_of_a_clone(tmp_path: Path) -> None:
    assert current_revision(tmp_path) == f"version {numba_nn.__version__}"
    with pytest.raises(ReportError, match="not a git repository"), checked_out("HEAD", tmp_path):
        pass


def test_each_process_measures_its_own_folder(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where both revisions are the same, and have one name."""
    git(repository, "checkout", ".")
    seen: list[Path] = []

    def worker_or_stop(folder: Path) -> Any:
        seen.append(folder)
        if len(seen) == 2:
            raise ReportError("enough")
        return nullcontext()

    monkeypatch.setattr(layers, "Worker", worker_or_stop)
    monkeypatch.setattr(layers, "ROOT", repository)
    monkeypatch.setattr(layers, "current_revision", lambda: current_revision(repository))
    monkeypatch.setattr(layers, "checked_out", lambda revision: checked_out(revision, repository))
    with pytest.raises(ReportError, match="enough"):
        layers.measure([CONV], "HEAD")
    assert seen[0] == repository != seen[1]


def test_a_process_that_ends_too_soon(tmp_path: Path) -> None:
    (tmp_path / "numba_nn").mkdir()
    (tmp_path / "numba_nn" / "__init__.py").write_text("raise SystemExit(3)", encoding="utf-8")
    with pytest.raises(ReportError, match="has ended"):
        Worker(tmp_path)


@needs_git
def test_the_command_measures_two_revisions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["report", "--quick", "--only", "^relu", "--against", "HEAD", "--output", str(tmp_path)]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "**2 rows**" in out
    assert "ReLU x [32,512]" in err
    (only,) = load_runs(tmp_path / "layer_report.json")
    assert list(only.figures) == [("ReLU x [32,512]", "forward"), ("ReLU x [32,512]", "backward")]
    report = json.loads((tmp_path / "layer_report.json").read_text(encoding="utf-8"))["report"]
    assert report["before"][0] == report["current"][0].removesuffix(" + changes")
    assert all(row["before"]["ns"] > 0 and row["after"] is None and row["current"]["ns"] > 0 for row in report["rows"])
    text = (tmp_path / "layer_report.md").read_text(encoding="utf-8")
    assert "in turns with the current one" in text


def test_the_command_prints_where_no_folder_is_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "measure", lambda *_: (measured("now", conv_forward=1), None))
    assert main(["report", "--only", "conv2d"]) == 0
    assert capsys.readouterr().out.startswith("# Layer report")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "("], "regular expression"),
        (["--only", "Conv9d"], "no case matches 'Conv9d'; there are: Conv2d x"),
        (["--against", "no-such-revision"], "error: git"),
    ],
)
def test_users_errors(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    try:
        code: Any = main(["report", *options])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err

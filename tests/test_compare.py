"""The comparison with peers, without the peers: rounds, checks, record, tables and picture. No test looks at a time."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asv_benchmarks.compare import children
from asv_benchmarks.compare.__main__ import NAME, write
from asv_benchmarks.compare.clock import Pace, time_work, wait_until_idle
from asv_benchmarks.compare.record import Failure, Limits, Record, Row, load, save
from asv_benchmarks.compare.report import render, summary, time_text
from asv_benchmarks.compare.work import MismatchError, Side, Work, check


def row(case: str = "ReLU", ours: float = 100.0, theirs: float = 200.0, **other: Any) -> Row:
    def times(ns: float) -> dict[str, float]:
        return {"median": ns, "low": 0.9 * ns, "high": 1.1 * ns, "fastest": 0.5 * ns}

    common = {"threads": 1, "allocator": "installed", "group": "element-wise", "pass_name": "forward", "peer": "PyTorch"}
    figures = {"flops": 0.0, "nbytes": 0.0, "allocations": 0, "error": 0.0}
    return Row(case=case, ours=times(ours), theirs=times(theirs), **{**common, **figures, **other})


def record(*rows: Row) -> Record:
    processes = dict.fromkeys((one.threads, one.allocator) for one in rows)
    return Record(machine={"cpu": "this"}, limits=[Limits(*process, 100.0, 20.0) for process in processes], rows=list(rows))


def cells(text: str, start: str) -> list[str]:
    """The cells of the one row that starts so."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def side(name: str, *results: Any, call: Any = lambda: None) -> Side:
    return Side(name, call, lambda _: list(results))


# Checks and rounds


def test_sides_that_agree_are_told_by_how_much_they_differ() -> None:
    ones = np.ones(4, np.float32)
    assert check(Work(side("ours", ones), [side("peer", ones), side("other", ones * 1.00005)])) == pytest.approx(5e-5, rel=0.01)
    assert check(Work(side("ours"), [side("peer")])) == 0


@pytest.mark.parametrize(
    "wrong", [np.full(4, 1.001), np.array([1, 1, 1, np.nan]), np.ones(3), np.ones((2, 2)), np.array([1, 1, 1, np.inf])]
)
@pytest.mark.parametrize("turned", [False, True])
def test_sides_that_differ_are_not_timed(wrong: Any, turned: bool) -> None:
    sides = [side("ours", np.ones(4)), side("peer", wrong)]
    ours, peer = sides[::-1] if turned else sides
    with np.errstate(invalid="ignore"), pytest.raises(MismatchError, match="result 0"):
        check(Work(ours, [peer]))


def test_a_side_with_fewer_results_differs() -> None:
    with pytest.raises(MismatchError, match="result 1"):
        check(Work(side("ours", np.ones(4)), [side("peer", np.ones(4), np.ones(4))]))


def test_sides_take_turns() -> None:
    turns: list[str] = []
    ours, peer = (side(name, call=lambda name=name: (turns.append(name), time.sleep(1e-4))) for name in ("ours", "peer"))
    timings = time_work(Work(ours, [peer]), Pace(rounds=4, least_rounds=4, burst=1e-3))
    assert len(timings) == 2
    assert all(0 < t.fastest <= t.low <= t.median <= t.high for t in timings)
    changes = [name for i, name in enumerate(turns) if turns[i - 1 : i] != [name]]
    assert changes == ["ours", "peer"] * 5  # the first time to find the number of calls


def test_rounds_end_early_but_never_below_the_least() -> None:
    calls: list[int] = []
    time_work(Work(side("ours", call=lambda: calls.append(1)), [], pause=1e-4), Pace(rounds=50, least_rounds=3, enough=0.0))
    assert len(calls) == 3


# What is made of it


def test_ratio_and_share() -> None:
    limits = Limits(1, "installed", 100.0, 20.0)
    assert row(ours=100, theirs=250).ratio() == 2.5
    assert row(ours=100, flops=5000).share(limits) == 0.5
    assert row(ours=1e7, nbytes=1e8).share(limits) == 0.5
    assert row(ours=100, nbytes=1000).share(limits) is None
    assert row(ours=100, flops=2500).share(limits, fastest=True) == 0.5


def test_limits_are_the_best_of_a_process() -> None:
    one = Record()
    for threads, peak, copy in ((1, 50.0, 30.0), (1, 100.0, 20.0), (2, 10.0, 10.0)):
        one.add_limits(Limits(threads, "installed", peak, copy))
    assert one.limits_of(1, "installed") == Limits(1, "installed", 100.0, 30.0)
    assert len(one.limits) == 2


def test_a_line_shows_both_settings_of_the_allocator() -> None:
    text = render(record(row(), row(allocator="kept", ours=100, theirs=150, allocations=3)))
    assert cells(text, "ReLU") == [
        "ReLU",
        "forward",
        "PyTorch",
        "100 ns",
        "200 ns",
        "2.00",
        "100 ns",
        "150 ns",
        "1.50",
        "",
        "0",
    ]
    assert cells(text, "element-wise") == ["element-wise", "PyTorch", "1", "2.00", "2.00", "1.50", "1.50"]
    assert "kept" not in "".join(cells(render(record(row())), "case"))


def test_means_are_geometric_by_group_and_peer() -> None:
    text = render(record(row(theirs=100), row("Tanh", theirs=400), row(peer="NumPy", theirs=300)))
    assert cells(text, "element-wise | PyTorch")[-2:] == ["2.00", "1.00"]
    assert cells(text, "element-wise | NumPy")[-2:] == ["3.00", "3.00"]


def test_every_number_of_threads_has_its_table_and_failures_are_told() -> None:
    one = record(row(), row(threads=2, theirs=50))
    one.failures.append(Failure(2, "kept", "softmax", "Softmax", "forward", "MismatchError: no"))
    text = render(one)
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## 1 thread", "## 2 threads", "## Failed"]
    assert "Softmax, forward, 2 threads, allocator kept: MismatchError: no" in text
    assert summary(one).splitlines()[1] == "0.50x  ReLU, forward, PyTorch, 2 threads"


@pytest.mark.parametrize(("ns", "text"), [(4.4, "4 ns"), (1234, "1.23 us"), (56_789_000, "56.8 ms"), (2.5e9, "2.50 s")])
def test_times_have_a_unit(ns: float, text: str) -> None:
    assert time_text(ns) == text


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    one = record(row(), row("Tanh", allocations=None))
    one.failures.append(Failure(1, "kept", "softmax", "Softmax", "forward", "no"))
    save(one, tmp_path / "record.json")
    assert load(tmp_path / "record.json") == one
    assert load(tmp_path / "record.json").limits_of(1, "installed").peak_gflops == 100


@pytest.mark.parametrize("rows", [[row()], [row(), row(allocator="kept", theirs=50.0), row("Tanh", allocator="kept")]])
def test_all_files_are_written(rows: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(record(*rows), tmp_path)
    assert "lowest ratios" in capsys.readouterr().out
    assert (tmp_path / f"{NAME}.png").read_bytes().startswith(b"\x89PNG")
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".json", ".png"}


# Processes


def test_a_process_for_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[Any, ...]] = []

    def answers(*settings: Any) -> Any:
        started.append(settings)
        content = json.loads(json.dumps(vars(row())))
        same = {name: content[name] for name in content if name not in ("threads", "allocator")}
        where = {name: same[name] for name in ("group", "case", "pass_name")}
        yield {"cpu": "this"}
        yield {"peak_gflops": 100.0, "copy_gbytes": 20.0}
        yield same
        yield {**where, "failed": "ValueError: no"}

    monkeypatch.setattr(children, "_answers", answers)
    one = children.measure([1, 2], ["installed", "kept"], "relu", quick=True)
    assert [settings[:2] for settings in started] == [(1, "installed"), (1, "kept"), (2, "installed"), (2, "kept")]
    assert len(one.rows) == len(one.failures) == len(one.limits) == 4
    assert one.rows[3] == row(threads=2, allocator="kept")


def test_waiting_until_no_thread_computes():
    stop = threading.Event()

    def spin():
        while not stop.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    threading.Timer(0.1, stop.set).start()
    wait_until_idle(60)
    assert stop.is_set()
    thread.join()

"""The asv suite, without asv: every file imports without work, every benchmark runs, and the counter of allocations counts."""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import numpy as np
import pytest

from asv_benchmarks.benchmarks.allocations import allocations
from asv_benchmarks.benchmarks.common import Benchmark, feature

ROOT = Path(__file__).resolve().parents[1]
SUITE = ROOT / "asv_benchmarks" / "benchmarks"
FILES = sorted(path.stem for path in SUITE.glob("*.py") if path.stem != "__init__")
MODULES = [importlib.import_module(f"asv_benchmarks.benchmarks.{name}") for name in FILES]
METHOD = re.compile(r"(time|timeraw|track)_\w+")


def benchmark_classes(module: ModuleType) -> list[type[Any]]:
    """Those that asv finds: classes among a module's names, imported or not, with such a method; none that is abstract."""
    classes = (c for name, c in vars(module).items() if inspect.isclass(c) and not name.startswith("_"))
    return [c for c in classes if not inspect.isabstract(c) and any(METHOD.fullmatch(name) for name in dir(c))]


CLASSES = [c for module in MODULES for c in benchmark_classes(module)]
CALLS = [c for c in CLASSES if issubclass(c, Benchmark)]


def test_every_benchmark_is_found_once() -> None:
    assert CALLS
    assert [c.__name__ for module in MODULES for c in benchmark_classes(module) if c.__module__ != module.__name__] == []
    assert len({c.__name__ for c in CLASSES}) == len(CLASSES)


def test_names_are_kept_apart_from_measuring() -> None:
    """A pinned version: results of older commits stay comparable while the text of a benchmark changes."""
    assert [c.__name__ for c in CLASSES if not isinstance(getattr(c, "version", None), str)] == []


def test_importing_the_suite_does_no_work(run_python: Any) -> None:
    names = ", ".join(f"benchmarks.{name}" for name in FILES)
    script = f"""
import json, sys
from numba.core import event
with event.install_recorder("numba:compile") as compilations:
    import {names}
print(json.dumps([len(compilations.buffer), "numba_nn" in sys.modules, "asv" in sys.modules]))
"""
    assert run_python(script, path=ROOT / "asv_benchmarks") == [0, False, False]


@pytest.mark.parametrize("benchmark_class", [c for c in CALLS if "cpu" in c.devices], ids=lambda c: c.__name__)
def test_methods_run_and_nothing_is_allocated(benchmark_class: type[Benchmark]) -> None:
    benchmark = benchmark_class()
    arguments = next(iter(benchmark.configurations)), 1, "cpu"
    benchmark.setup(*arguments)
    try:
        results = {name: getattr(benchmark, name)(*arguments) for name in dir(benchmark) if METHOD.fullmatch(name)}
    finally:
        benchmark.teardown(*arguments)
    assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS
    assert results["track_allocations"] == results["track_bytes"] == 0
    assert results.get("track_ps_per_flop", 1) > 0
    assert [name for name, value in results.items() if name.startswith("time_") and value is not None] == []


@pytest.mark.parametrize("benchmark_class", [c for c in CLASSES if c not in CALLS], ids=lambda c: c.__name__)
def test_statements_for_new_interpreters_compile(benchmark_class: type[Any]) -> None:
    benchmark = benchmark_class()
    for name in filter(re.compile("timeraw_").match, dir(benchmark)):
        for arguments in itertools.product(*getattr(benchmark, "params", ())):
            code = getattr(benchmark, name)(*arguments)
            for text in [code] if isinstance(code, str) else code:
                compile(text, name, "exec")


def test_what_a_commit_or_a_machine_lacks_is_not_applicable() -> None:
    with pytest.raises(NotImplementedError):
        feature(ModuleType("numba_nn"), "Conv9d")
    benchmark = CALLS[0]()
    with pytest.raises(NotImplementedError):
        benchmark.setup(next(iter(benchmark.configurations)), numba.config.NUMBA_NUM_THREADS + 1, "cpu")
    with pytest.raises(NotImplementedError, match="not on 'cuda'"):
        benchmark.setup(next(iter(benchmark.configurations)), 1, "cuda")


@numba.njit
def squares(y: Any, x: Any) -> None:
    scratch = np.empty(x.size)
    for i in range(x.size):
        scratch[i] = x[i] * x[i]
    y[:] = scratch


def test_allocations_are_counted() -> None:
    x = np.ones(1000)
    squares(x, x)
    kept: list[Any] = []
    for call, expected in [
        (lambda: None, (0, 0)),
        (lambda: x.reshape(10, 100), (0, 0)),
        (lambda: (x.copy(), None)[1], (1, 8000)),  # freed before the call is over
        (lambda: kept.append(np.zeros(1000)), (1, 8000)),
        (lambda: squares(x, x), (3, 0)),  # with Numba's runtime, each array argument has a box
    ]:
        count = allocations(call)
        assert (count.blocks, count.nbytes) == expected
    assert allocations(lambda: None).blocks == 0


def test_packages_are_pinned_as_locked() -> None:
    text = re.sub(r"//[^\n]*", "", (ROOT / "asv_benchmarks" / "asv.conf.json").read_text(encoding="utf-8"))
    matrix = json.loads(text)["matrix"]["req"]
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    locked = {(package["name"].replace("-", "_"), package.get("version")) for package in lock}
    pinned = {(name.removeprefix("pip+"), version) for name, versions in matrix.items() for version in versions}
    assert pinned - locked == {("hatchling", "1.27.0")}  # builds the wheel only; uv does not lock it

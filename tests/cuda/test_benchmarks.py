"""The asv suite's benchmarks launch their kernels on a GPU, and are "n/a" where there is none."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
from simulated_cuda import simulated

from asv_benchmarks.benchmarks import startup
from asv_benchmarks.benchmarks.common import DEVICES, Benchmark
from numba_nn.core.cuda.ptx import cuda

SUITE = Path(__file__).resolve().parents[2] / "asv_benchmarks" / "benchmarks"
MODULES = [importlib.import_module(f"asv_benchmarks.benchmarks.{path.stem}") for path in sorted(SUITE.glob("[a-z]*.py"))]
FOUND = {c for module in MODULES for c in vars(module).values() if inspect.isclass(c) and issubclass(c, Benchmark)}
CLASSES = sorted((c for c in FOUND if isinstance(c.configurations, dict)), key=lambda c: c.__name__)
every_benchmark = pytest.mark.parametrize("benchmark", [c() for c in CLASSES], ids=lambda b: type(b).__name__)


@every_benchmark
def test_it_launches_kernels(benchmark):
    launched = []
    with simulated(lambda *launch: launched.append(launch)):
        benchmark.setup(next(iter(benchmark.configurations)), 1, "cuda")
        try:
            for name in dir(benchmark):
                if name.startswith("time_"):
                    launched.clear()
                    getattr(benchmark, name)()
                    assert launched, name
        finally:
            benchmark.teardown()


@every_benchmark
def test_it_has_no_figures_without_a_gpu(benchmark, monkeypatch):
    monkeypatch.setitem(vars(cuda), "_module", SimpleNamespace(is_available=lambda: False))
    assert benchmark.params[2] == DEVICES
    with pytest.raises(NotImplementedError, match="not on 'cuda'"):
        benchmark.setup(next(iter(benchmark.configurations)), 1, "cuda")


def test_a_first_call_is_one_on_the_gpu_too(monkeypatch):
    first, launched = startup.FirstCall(), []
    call, imports = first.timeraw_warm_cache("cuda")
    with simulated(lambda *launch: launched.append(launch)):
        exec(f"{imports}; {call}", {})
    assert launched
    monkeypatch.setitem(vars(cuda), "_module", SimpleNamespace(is_available=lambda: False))
    assert first.params == (DEVICES,)
    with pytest.raises(NotImplementedError, match="not on 'cuda'"):
        first.setup("cuda")

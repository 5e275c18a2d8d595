"""What is shown while kernels are compiled. The cache's listeners are called by hand, but for one."""

from __future__ import annotations

import sys

import pytest

from numba_nn import compiling
from numba_nn.core import cache


def tell(*names: str) -> None:
    for name in names:
        for listener in cache.listeners:
            listener(name)


def test_kernels_are_counted_and_named() -> None:
    told: list[str] = []
    with compiling.told_of_compiling(told.append):
        tell("relu_forward", "gemm")
    assert [line.rpartition(",")[0] for line in told] == ["compiling kernel 1, relu_forward", "compiling kernel 2, gemm"]
    assert cache.listeners == []


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_one_line_that_is_cleared(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("COLUMNS", "30")
    with compiling.compiling_line():
        pass
    assert capsys.readouterr().out == ""
    with compiling.compiling_line("waiting ... "):
        tell("relu_forward", "gemm")
    out = capsys.readouterr().out
    told = ["", *["waiting ... compiling kernel "] * 2, "waiting ... "]
    assert "\n" not in out
    assert out.split(compiling.REWRITE) == (told if terminal else [""])


def test_the_cache_tells_of_a_kernel_that_it_has_not(run_python, tmp_path) -> None:
    script = """
import json, numpy as np
from numba_nn.core.cache import listeners
names = []
listeners.append(names.append)
from numba_nn.layers.activation import relu_forward
relu_forward(np.zeros(3, np.float32), np.ones(3, np.float32))
print(json.dumps(names))
"""
    assert run_python(script, NUMBA_NN_CACHE_DIR=str(tmp_path)) == ["relu_forward"]
    assert run_python(script, NUMBA_NN_CACHE_DIR=str(tmp_path)) == []

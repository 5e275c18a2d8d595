"""Fixtures shared by the whole suite.

Compiled kernels go to the user's own cache (or ``NUMBA_NN_CACHE_DIR``), so that a second run of the suite compiles nothing.
Tests of the cache itself start processes with a cache folder of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import numba_nn

ROOT = Path(numba_nn.__file__).parents[1]


def _finish(process: subprocess.Popen[str]) -> Any:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1]) if output.strip() else None


@pytest.fixture(scope="session")
def start_python() -> Callable[..., Callable[[], Any]]:
    """``wait = start_python(script, path=..., **environment)`` runs a script in a fresh interpreter.

    The interpreter finds numba_nn and, before it, what lies in the folder ``path``, where it runs. A variable set to None is
    removed from the environment. ``wait()`` gives the last line of its output, read as JSON, or None if it printed nothing.
    """

    def start(script: str, *, path: Path = ROOT, **environment: str | None) -> Callable[[], Any]:
        merged = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(map(str, (path, ROOT)))}
        clean = {name: value for name, value in merged.items() if value is not None}
        pipe = subprocess.PIPE
        process = subprocess.Popen([sys.executable, "-c", script], env=clean, cwd=path, stdout=pipe, stderr=pipe, text=True)
        return lambda: _finish(process)

    return start


@pytest.fixture(scope="session")
def run_python(start_python: Callable[..., Callable[[], Any]]) -> Callable[..., Any]:
    """As `start_python`, but waits."""
    return lambda script, **options: start_python(script, **options)()


@pytest.fixture(scope="session")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like CIFAR-10's, with few images."""
    folder, generator = tmp_path_factory.mktemp("cifar"), np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        records = generator.integers(0, 256, (16, 3073), np.uint8)
        records[:, 0] %= 10
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return folder

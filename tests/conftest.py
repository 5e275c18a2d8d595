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

import pytest

import numba_nn

ROOT = Path(numba_nn.__file__).parents[1]


def start_python(script: str, *, path: Path | None = None, **environment: str | None) -> subprocess.Popen[str]:
    """Start a script in a fresh interpreter that finds numba_nn and, if given, the packages below ``path``.

    A variable set to None is removed from the environment.
    """
    merged = {**os.environ, **environment}
    merged["PYTHONPATH"] = os.pathsep.join(str(p) for p in (path, ROOT) if p)
    clean = {name: value for name, value in merged.items() if value is not None}
    return subprocess.Popen(
        [sys.executable, "-c", script], env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=path or ROOT
    )


def finish(process: subprocess.Popen[str]) -> Any:
    """Wait for a script; return what its last line of output says, read as JSON (None if it printed nothing)."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1]) if output.strip() else None


@pytest.fixture(scope="session")
def run_python() -> Callable[..., Any]:
    """``run_python(script, path=..., **environment)``: `start_python`, then `finish`."""
    return lambda script, **options: finish(start_python(script, **options))

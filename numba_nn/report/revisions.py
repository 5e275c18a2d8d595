"""Revisions of the package, and processes that measure them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numba_nn
from numba_nn.core.errors import ReportError
from numba_nn.report import measuring

ROOT = Path(numba_nn.__file__).resolve().parents[1]
PACKAGE = "numba_nn"

# The measuring package under a name of its own: under its full name, the other revision's would be found in its place.
WORKER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("measuring", sys.argv[1])
sys.modules["measuring"] = importlib.util.module_from_spec(spec)
import measuring.worker
measuring.worker.serve()
"""


def current_revision(root: Path = ROOT) -> str:
    """Short name of the commit that is checked out, with "+ changes" if the package differs; outside of git the version."""
    try:
        commit = _git(root, "rev-parse", "--short", "HEAD").decode().strip()
        changed = _git(root, "status", "--porcelain", "--", PACKAGE)
    except ReportError:
        return f"version {numba_nn.__version__}"
    return f"{commit} + changes" if changed else commit


@contextmanager
def checked_out(revision: str, root: Path = ROOT) -> Iterator[tuple[str, Path]]:
    """A revision's short name, and a folder that holds its package while this lasts.

    Parameters
    ----------
    revision : str
        What git takes for a commit.
    root : Path, optional
        Folder of the package, in a git clone.

    Yields
    ------
    name : str
        Of the commit.
    folder : Path
        Where ``numba_nn`` lies.

    Raises
    ------
    ReportError
        If the package does not lie in a git clone, or there is no such revision of it.
    """
    commit = _git(root, "rev-parse", "--short", "--verify", "--end-of-options", f"{revision}^{{commit}}").decode().strip()
    archive = _git(root, "archive", "--format=tar", commit, PACKAGE)
    with tempfile.TemporaryDirectory(prefix="numba_nn-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        yield commit, Path(folder)


def _git(root: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=True)
    except FileNotFoundError:
        raise ReportError("git is not installed, so no other revision can be measured") from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip()
        raise ReportError(f"git {' '.join(arguments[:1])} in {root}: {reason}") from None
    return done.stdout


class Worker:
    """A process that measures the package in a folder; used in a ``with`` block, at whose end it ends.

    Parameters
    ----------
    folder : Path
        Where ``numba_nn`` lies.

    Raises
    ------
    ReportError
        If the process does not start, or finds another ``numba_nn``.
    """

    def __init__(self, folder: Path) -> None:
        path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
        command = [sys.executable, "-P", "-c", WORKER, str(measuring.__file__)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdin=pipe, stdout=pipe, text=True)
        found = Path(self._read()["file"]).resolve().parents[1]
        if found != folder.resolve():
            self.close()
            raise ReportError(f"the process that was to measure {folder} found the {PACKAGE} of {found}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.terminate()
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def measure(self, case: int, batches: int) -> dict[str, Any]:
        """Figures of the case with this number, by pass; or ``{"missing": why}``."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"case": case, "batches": batches}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise ReportError("the process that measures has ended before its time; what it said stands above")
        return dict(json.loads(line))

"""The parent of the process in which sections run: it replaces one that died, hung or lost its GPU, and goes on."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from numba_nn.gpu_check.worker import TRACE

START_SECONDS = 120.0  # for the imports of a worker
GRACE_SECONDS = 5.0  # that a worker has beyond a section's, to tell where it hangs
FIRST = "environment", "preflight"  # whatever is asked for; nothing else runs where the latter fails


@contextlib.contextmanager
def killed_after(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    """Within, a process is killed once these seconds are over."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Worker:
    """Runs sections in a process that starts when it is needed, and again after one that is gone.

    Parameters
    ----------
    plan : str
        Module of the sections.
    options : dict
        What its ``sections`` takes.
    """

    def __init__(self, plan: str, options: dict[str, Any]) -> None:
        where = "numba_nn.gpu_check.worker"
        self._command = [sys.executable, "-X", "faulthandler", "-m", where, plan, json.dumps(options)]
        self._process: subprocess.Popen[str] | None = None
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115, `__exit__` closes it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._errors.close()

    def sections(self) -> dict[str, float]:
        """Name of every section, in order, to the seconds that it may take.

        Raises
        ------
        RuntimeError
            If the process does not start.
        """
        found = self._start()
        if "failed" in found:
            raise RuntimeError(f"no section can run, {found['failed']}:\n{found['traceback']}")
        return found

    def ask(self, name: str, seconds: float) -> dict[str, Any]:
        """What a section found; "failed" if the process died over it, or took longer and was killed."""
        if self._process is None:
            started = self._start()
            if "failed" in started:
                return started
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it died after the section before
            self._process.stdin.write(f"{name}\n")
            self._process.stdin.flush()
        found = self._read(seconds + GRACE_SECONDS)
        if found.get("lost"):
            self._stop()
        return found

    def _start(self) -> dict[str, Any]:
        self._errors.truncate(self._errors.seek(0))
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=self._errors, encoding="utf-8")
        return self._read(START_SECONDS)

    def _read(self, seconds: float) -> dict[str, Any]:
        """The next line; where none comes, the process is gone."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        start = time.perf_counter()
        with killed_after(process, seconds):
            line = process.stdout.readline()
        if line.endswith("\n"):
            found: dict[str, Any] = json.loads(line)
            return found
        late, code = time.perf_counter() - start >= seconds, self._stop()
        ended = f"died by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
        self._errors.seek(0)
        told = f"the process {f'was killed after {seconds:.0f} s' if late else ended}"
        return {"failed": told, "traceback": self._errors.read()[-TRACE:]}

    def _stop(self) -> int:
        """End the process, and give its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        with killed_after(process, GRACE_SECONDS), contextlib.suppress(OSError), process:
            pass  # its input is closed: nobody asks any more
        return process.returncode


class Checks:
    """Runs sections one after the other, and keeps what they found.

    Parameters
    ----------
    only : str, optional
        Regular expression: names of the sections to run.
    output : path, optional
        A file for the results, which is written after every section; by default one in the current folder, with date and card
        in its name.

    Attributes
    ----------
    results : dict
        What each section found, or its error.
    """

    def __init__(self, only: str = "", output: Path | None = None) -> None:
        self._only, self._output = re.compile(only), output
        self._date = datetime.now().strftime("%Y-%m-%d_%H%M")
        self.results: dict[str, dict[str, Any]] = {}

    @property
    def failures(self) -> list[str]:
        """Names of the sections that failed."""
        return [name for name, found in self.results.items() if found.get("failed")]

    @property
    def output(self) -> Path:
        """The file for the results."""
        card = self.results.get("preflight", {}).get("card", "no card")
        return self._output or Path(f"gpu_check_{self._date}_{re.sub(r'[^A-Za-z0-9]+', '-', card)}.json")

    def run(self, worker: Worker) -> None:
        """Run what is asked for; where the preflight fails, nothing more."""
        for name, seconds in worker.sections().items():
            if name in FIRST or self._only.search(name):
                self._note(name, worker.ask(name, seconds))
            if "preflight" in self.failures:
                break

    def _note(self, name: str, found: dict[str, Any]) -> None:
        self.results[name] = found
        outcome = "FAILED" if found.get("failed") else "skipped" if "skipped" in found else "ok"
        print(f"{name}: {outcome} in {found.get('seconds', '?')} s", flush=True)
        for key, value in found.items():
            if key != "seconds":
                print(f"    {key}: {value}", flush=True)
        if name != FIRST[0]:  # before the other the card has no name
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self.output.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")

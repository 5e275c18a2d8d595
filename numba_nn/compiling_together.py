"""`compiled_together`: one process makes a call, whose kernels other processes compile meanwhile.

Compiling takes seconds a kernel, and a process compiles one at a time. So, from the first kernel that the call has to wait
for, helpers *rehearse* it: they make the same call, in which kernels are noted and do nothing. Then they compile what they
noted, the last of it first, and leave it in the cache on disk, where the call finds it when it gets there. A helper that
fails is no loss.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from numba_nn.core import threads
from numba_nn.core.cache import listeners
from numba_nn.core.kernel import rehearsal
from numba_nn.core.precision import get_precision, set_precision

MOST = 4  # processes: each takes 0.35 GB
MOST_BYTES = 2**27  # of a call that helpers get a copy of
MARK = "NUMBA_NN_HELPER"  # environment variable of a helper, which has none itself
SCRIPT = "import sys; sys.path[:] = {path!r}; from numba_nn.compiling_together import help_compiling; help_compiling{which!r}"
PATIENCE = 5.0  # seconds that a helper has to end in


def compiled_together(function: Callable[..., Any], *arguments: Any, processes: int | None = None) -> Any:
    """Call a function; if kernels have to be compiled for it, do so in several processes.

    Parameters
    ----------
    function : callable
        What runs the kernels. It is called in every process, so it must be a function of a module, without effects on anything
        but memory. This process compiles alone if the call cannot be pickled, takes more than 128 MB so, or holds anything of
        the ``__main__`` module, and where Python is part of another program.
    *arguments : object
        What it takes.
    processes : int, optional
        How many, this one among them; by default one for each processor, up to 4.

    Returns
    -------
    object
        What the function returns here.
    """
    helpers = (min(_processors(), MOST) if processes is None else processes) - 1
    if helpers < 1 or not _can_have_helpers():
        return function(*arguments)
    with _from_the_first_kernel_on(helpers, (function, arguments)):
        return function(*arguments)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _can_have_helpers() -> bool:
    """Whether what runs here is Python itself, else a program would start itself again; and no helper."""
    name = Path(sys.executable or "").name.lower()
    return MARK not in os.environ and not getattr(sys, "frozen", False) and name.startswith(("python", "pypy"))


@contextlib.contextmanager
def _from_the_first_kernel_on(count: int, call: Any) -> Iterator[None]:
    """Start helpers when a kernel has to be compiled; end them with the block."""
    helpers: list[subprocess.Popen[bytes]] = []
    wanted = True

    def start(_: str) -> None:
        nonlocal wanted
        if wanted:
            wanted = False
            with contextlib.suppress(Exception):  # what cannot be pickled, no room on the disk: then alone
                helpers.extend(_started(count, call))

    listeners.append(start)
    try:
        yield
    finally:
        wanted = False
        listeners.remove(start)
        for helper in helpers:
            helper.terminate()
        for helper in helpers:
            _wait_for(helper)


def _started(count: int, call: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Helpers; each reads the call, and what of this process decides which kernels it takes, from a file without a name."""
    settings = 1 if threads.forked else threads.get_num_threads(), get_precision()
    none, path = subprocess.DEVNULL, [str(folder) for folder in sys.path]
    with tempfile.TemporaryFile() as file:
        _Pickler(_Limited(file)).dump((settings, call))
        file.flush()
        for number in range(count):
            command = [sys.executable, "-c", SCRIPT.format(path=path, which=(number, count, os.getpid()))]
            yield subprocess.Popen(command, stdin=file, stdout=none, stderr=none, env={**os.environ, MARK: "1"})


def _wait_for(helper: subprocess.Popen[bytes]) -> None:
    try:
        helper.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        helper.kill()
        helper.wait()


class _Pickler(pickle.Pickler):
    """Refuses what another process cannot load."""

    def reducer_override(self, obj: Any) -> Any:
        if getattr(obj, "__module__", None) == "__main__":
            raise pickle.PicklingError("of __main__, which is another module in a helper")
        return NotImplemented


class _Limited:
    """A file that takes so much, and no more."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._left = file, MOST_BYTES

    def write(self, data: Any) -> int:
        self._left -= memoryview(data).nbytes
        if self._left < 0:
            raise OverflowError(f"more than {MOST_BYTES} bytes")
        return self._file.write(data)


def help_compiling(number: int, count: int, parent: int) -> None:
    """What helper ``number`` of ``count`` does: rehearse a call, and compile its kernels, its own share first."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # leaves no half-written file
    with rehearsal() as noted, contextlib.suppress(Exception):  # what kernels leave undone may end the call early
        (team, precision), (function, arguments) = pickle.loads(mmap.mmap(0, 0, access=mmap.ACCESS_READ))
        threads.set_num_threads(team)
        set_precision(precision)
        function(*arguments)
    backwards = list(noted)[::-1]
    for share in (number, *(other for other in range(count) if other != number)):
        for variant, signature in backwards[share::count]:
            if os.getppid() != parent:
                return
            variant.compile(signature)

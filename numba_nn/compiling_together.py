"""`compiled_together`: one process makes a call, whose kernels other processes compile meanwhile.

Compiling takes seconds a kernel, and a process compiles one at a time. So, from the first kernel that the call has to wait
for, helpers *rehearse* it: they make the same call, in which kernels are noted and do nothing. Then they compile what they
noted, the last of it first, and leave it in the cache on disk, where the call finds it when it gets there. A helper that
fails is no loss.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from numba_nn.core.cache import listeners
from numba_nn.core.kernel import rehearsal

CALL = "call.pickle"
MOST = 4  # processes: each takes 0.35 GB
HELPER = (
    "import sys; sys.path[:] = {path!r}; from numba_nn.compiling_together import help_compiling; help_compiling({folder!r})"
)


def compiled_together(function: Callable[..., Any], *arguments: Any, processes: int | None = None) -> Any:
    """Call a function; if kernels have to be compiled for it, do so in several processes.

    Parameters
    ----------
    function : callable
        What runs the kernels. It is called in every process, so it must be a function of a module, without effects on anything
        but memory. If it cannot be pickled with its arguments, this process compiles alone.
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
    if helpers < 1 or not sys.executable:
        return function(*arguments)
    with tempfile.TemporaryDirectory() as folder, _from_the_first_kernel_on(folder, helpers, (function, arguments)):
        return function(*arguments)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _from_the_first_kernel_on(folder: str, count: int, call: Any) -> Iterator[None]:
    """Start helpers when a kernel has to be compiled; end them with the block."""
    helpers: list[subprocess.Popen[bytes]] = []

    def start(_: str) -> None:
        listeners.remove(start)
        try:
            Path(folder, CALL).write_bytes(pickle.dumps(call))
        except Exception:
            return  # a model with a lambda, say
        command = [sys.executable, "-c", HELPER.format(path=sys.path, folder=folder)]
        none = subprocess.DEVNULL
        with contextlib.suppress(OSError):
            helpers.extend(subprocess.Popen(command, stdin=none, stdout=none, stderr=none) for _ in range(count))

    listeners.append(start)
    try:
        yield
    finally:
        if start in listeners:
            listeners.remove(start)
        for helper in helpers:
            helper.terminate()
        for helper in helpers:
            helper.wait()


def help_compiling(folder: str) -> None:
    """What a helper does: rehearse the call that lies in a folder, and compile what no other helper has begun with."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # leaves no half-written file
    function, arguments = pickle.loads(Path(folder, CALL).read_bytes())
    with rehearsal() as noted, contextlib.suppress(Exception):  # what kernels leave undone may end the call early
        function(*arguments)
    for number, (variant, signature) in reversed(list(enumerate(noted))):
        with contextlib.suppress(FileExistsError):
            Path(folder, str(number)).mkdir()
            variant.compile(signature)

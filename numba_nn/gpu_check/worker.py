"""The process in which sections run: their names come as lines, what each found goes out as a line of JSON.

    python -m numba_nn.gpu_check.worker PLAN OPTIONS

PLAN is a module whose ``sections(**OPTIONS)`` gives name to `Section`, OPTIONS an object in JSON. The first line that goes out
tells the names, and the seconds that each may take. What sections print goes to the errors.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from numba_nn.core.cuda.ptx import cuda

SECONDS = 120.0  # for a section; most of it goes into compiling
TRACE = 1500  # characters of a traceback that are kept: its end names the fault


class Section(NamedTuple):
    """What runs, and the seconds that it may take; it fails if it raises, or returns a true "failed"."""

    run: Callable[[], dict[str, Any]]
    seconds: float = SECONDS


def performed(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a section found, or how it failed; "lost" says that nothing more will run in this process."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # a training step that could not be recorded as a graph
            return run()
    except Exception as error:
        told = {"failed": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()[-TRACE:]}
        return told if answers() else {**told, "lost": True}


def answers() -> bool:
    """Whether the GPU takes work: after an illegal address, say, a process gets nothing but that error from it."""
    try:
        cuda.synchronize()
    except Exception:
        return False
    return True


def main(plan: str, options: str) -> None:
    """Run what is asked for, until nobody asks any more.

    Parameters
    ----------
    plan : str
        Name of a module.
    options : str
        Arguments of its ``sections``, in JSON.
    """
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(what: dict[str, Any]) -> None:
        print(json.dumps(what, default=str), file=out, flush=True)

    sections: dict[str, Section] = importlib.import_module(plan).sections(**json.loads(options))
    tell({name: section.seconds for name, section in sections.items()})
    for name in map(str.strip, sys.stdin):
        run, seconds = sections[name]
        faulthandler.dump_traceback_later(seconds)  # of what hangs: the parent waits a little longer
        start = time.perf_counter()
        found = performed(run)
        faulthandler.cancel_dump_traceback_later()
        tell({**found, "seconds": round(time.perf_counter() - start, 1)})
        if found.get("lost"):
            break


if __name__ == "__main__":
    main(*sys.argv[1:])

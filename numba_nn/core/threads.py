"""Threads: how many take part in a parallel region, and what the threading layer forbids.

Numba runs parallel regions on one of three layers: OpenMP, TBB, or its own "workqueue".

* Numba's number of threads belongs to a Python thread; ours (`set_num_threads`) to all of them.
* workqueue ends the process when two regions run at once: they take turns here.
* GNU OpenMP ends a forked child that enters a region: children compute serially.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numba.np.ufunc import parallel

from numba_nn.core import placement
from numba_nn.core.checks import is_whole
from numba_nn.core.errors import ArgumentError, ConcurrencyError

forked = False
"""Whether this process was forked from one that had imported the library."""
takes_turns = False
"""Whether parallel regions must take turns; known once `prepare` was called."""

_wanted: int | None = None


class _Applied(threading.local):
    """What this Python thread has told Numba."""

    count = 0


_applied = _Applied()
_has_started = False  # the layer
_places = False
_turn = threading.Lock()
_holder: int | None = None

TEAM = "numba_nn_team"  # the name by which machine code finds _team, from the cache on disk, too
_team = ctypes.c_int64(1)
llvmlite.binding.add_symbol(TEAM, ctypes.addressof(_team))


def _mark_forked() -> None:
    global forked, _turn, _holder
    forked, _turn, _holder, _team.value = True, threading.Lock(), None, 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked)


def set_num_threads(count: int) -> None:
    """Set the number of threads that kernels run on, in every Python thread; results do not depend on it.

    A Python thread that has run one of our kernels keeps this number for other Numba functions too, until it calls
    ``numba.set_num_threads``.

    Parameters
    ----------
    count : int
        From 1 to what the environment variable ``NUMBA_NUM_THREADS`` says, which is the number of cores by default.

    Raises
    ------
    ArgumentError
        For another number.
    """
    global _wanted
    most = numba.config.NUMBA_NUM_THREADS
    if not is_whole(count) or not 1 <= count <= most:
        raise ArgumentError(f"set_num_threads: count must be a whole number from 1 to {most}, got {count!r}")
    _wanted = int(count)


def get_num_threads() -> int:
    """Number of threads that kernels run on, in this Python thread."""
    return numba.get_num_threads() if _wanted is None else _wanted


def threading_layer() -> str:
    """Name of the layer: "omp", "tbb" or "workqueue"; starts it."""
    parallel._launch_threads()
    return numba.threading_layer()


def prepare() -> int:
    """Make ready for a parallel region in this Python thread; tells how many threads take part: 1 in a forked child."""
    global takes_turns, _has_started, _places
    if forked or _wanted == _applied.count == 1:
        return 1
    if not _has_started:
        layer = threading_layer()
        takes_turns, _places = layer == "workqueue", placement.can_place(layer)
        _has_started = True
    if _wanted is not None and _applied.count != _wanted:
        numba.set_num_threads(_wanted)
        _applied.count = _wanted
    # Numba's own function sees to it first that threads run: 0.6 us in place of 0.1
    _team.value = count = parallel._get_num_threads() if _wanted is None else _wanted
    if _places and count > 1:
        placement.keep_apart(count)
    return count


@intrinsic
def team_size(typingctx: Any) -> Any:
    """``team_size()`` inside a kernel: threads of the newest parallel region, in any Python thread: to cut work by.

    No result may depend on it. One thread has its work in one piece, which is faster, and many are not left idle.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        module = builder.module
        return builder.load(module.globals.get(TEAM) or ir.GlobalVariable(module, ir.IntType(64), TEAM))

    return types.intp(), codegen


def take_turns(run: Callable[..., Any], *arguments: Any) -> Any:
    """Run a parallel region while no other of ours runs.

    Parameters
    ----------
    run : callable
        The region.
    *arguments : object
        What it takes.

    Returns
    -------
    object
        What it returns.

    Raises
    ------
    ConcurrencyError
        If this Python thread is inside a region already.
    """
    global _holder
    if _holder == threading.get_ident():
        raise ConcurrencyError(
            "a parallel kernel was called inside of another, which Numba's threading layer 'workqueue' cannot do; install "
            "another layer (pip install tbb, or an OpenMP runtime) or call the kernel's serial variant"
        )
    with _turn:
        _holder = threading.get_ident()
        try:
            return run(*arguments)
        finally:
            _holder = None

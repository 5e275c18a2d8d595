"""Where threads run: the workers of OpenMP keep off the processor of the thread that they work for.

Linux may wake a worker on the very processor whose thread waits for it, spinning: a call after a pause then takes 5 to 15 ms in
place of 0.5 (two cores of an Intel Xeon, Linux 6.18). Here the workers are told which processors remain, anew when the calling
thread has moved.

Nothing is done where OpenMP's own variables bind threads, where there are more threads than processors, or on another system.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading

BINDING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
"""Environment variables by which the user places threads."""

_POINTER = ctypes.c_void_p
_Task = ctypes.CFUNCTYPE(None, _POINTER, _POINTER, _POINTER, _POINTER)
_ParallelFor = ctypes.CFUNCTYPE(
    None, _Task, _POINTER, _POINTER, _POINTER, _POINTER, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int
)

if sys.platform == "linux":
    _getcpu = ctypes.PyDLL(None).sched_getcpu


class _Team(threading.local):
    """The workers of a Python thread, which has a team of its own."""

    size = 1
    processor = -1  # that they keep off
    workers: tuple[int, ...] = ()  # numbers that the system gave the threads
    everywhere: frozenset[int] = frozenset()  # processors that they began with


_mine = _Team()


def can_place(layer: str) -> bool:
    """Whether workers of this threading layer can be placed, and nobody else does so."""
    return layer == "omp" and sys.platform == "linux" and not any(name in os.environ for name in BINDING)


def keep_apart(size: int) -> None:
    """Keep the workers of a team of ``size`` off the processor that the calling thread runs on.

    It takes 0.2 us if that one has not moved, else 3 us for each worker.
    """
    processor = _getcpu()
    if size == _mine.size and processor == _mine.processor:
        return
    allowed = frozenset(os.sched_getaffinity(0))
    if size != _mine.size:
        _mine.size, _mine.workers, _mine.everywhere = size, _workers(size), _mine.everywhere or allowed
    _mine.processor = processor
    _place(_mine.workers, allowed - {processor} if size <= len(allowed) else _mine.everywhere)


def _place(workers: tuple[int, ...], processors: frozenset[int]) -> None:
    for worker in workers:
        if os.path.exists(f"/proc/self/task/{worker}"):  # another library may have ended it: the number can be anyone's
            with contextlib.suppress(OSError):  # it ends now
                os.sched_setaffinity(worker, processors)


def _workers(size: int) -> tuple[int, ...]:
    """Numbers of the threads that take part in a region of this one, but for this one."""
    from numba.np.ufunc import omppool  # exists where the layer does

    found: set[int] = set()
    count, steps, arrays = ctypes.c_size_t(size), ctypes.c_size_t(), _POINTER()
    task = _Task(lambda *_: found.add(threading.get_native_id()))
    run = _ParallelFor(omppool.parallel_for)
    run(task, ctypes.addressof(arrays), ctypes.addressof(count), ctypes.addressof(steps), None, 0, 0, size)
    return tuple(found - {threading.get_native_id()})

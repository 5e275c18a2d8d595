"""CUDA graphs: what a function launches is recorded once, and then repeated by one launch.

A launch costs the host some microseconds, as much as a small kernel takes; a training step has dozens. Numbers that the host
gives to a kernel are recorded with it, so what changes from one repetition to the next has to lie in device arrays.

Recorded on a simulated GPU only: this has not run on hardware.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.device import CUDA


def graph_builder(stream: Any) -> Any:
    """What records the work of a stream of ``numba.cuda`` as a graph, of ``cuda.core``, on which ``numba-cuda`` stands.

    It knows the stream's handle and does not keep the stream alive.
    """
    from cuda.core import Stream  # type: ignore[import-not-found]

    return Stream.from_handle(int(stream)).create_graph_builder()


class Capture:
    """The work that a function gives to the GPU, recorded.

    It must have run before, so that its kernels are compiled and loaded and its memory is allocated: the driver refuses
    allocations, and copies from or to the host, while it records. All arrays that were used live as long as the recording.

    Parameters
    ----------
    stream : object
        A stream of ``numba.cuda``, which the function's kernels go to.
    work : callable
        Called once, without arguments; nothing that it launches runs.
    """

    def __init__(self, stream: Any, work: Callable[[], None]) -> None:
        self._stream = stream  # numba destroys it with its last owner
        self._builder = builder = graph_builder(stream)
        self._used: list[Any] = []
        CUDA.used = self._used
        try:
            with cuda.defer_cleanup(), CUDA.on(stream):  # to free memory is refused too
                builder.begin_building("thread_local")
                try:
                    work()
                except BaseException:
                    with contextlib.suppress(Exception):  # the driver's, of a recording that broke: the cause counts
                        builder.end_building()
                    raise
                builder.end_building()
            self._graph = builder.complete()
        finally:
            CUDA.used = None

    def launch(self) -> None:
        """Have the GPU do it all, in the order of the stream's work; waits for nothing."""
        self._graph.launch(self._builder.stream)

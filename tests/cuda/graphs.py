"""Streams, events and CUDA graphs of the simulated GPU: what is launched while a graph is built runs when it is launched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

building: list[GraphBuilder] = []
"""The builder that records, if any."""
queued: list[Any] = []
"""The stream of all that was done on the device, or recorded, one by one; a test clears it."""
awaited: list[tuple[int, int]] = []
"""Handles of the streams that wait for another one, and of these, one by one; a test clears it."""


class Stream:
    """Work runs at once, unless a builder records it; ``int(stream)`` is its handle."""

    def __init__(self, handle: int | None = None) -> None:
        self.handle = id(self) if handle is None else handle
        self.waits = 0

    def __int__(self) -> int:
        return self.handle

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise AssertionError("a stream was copied or pickled as an object")

    def synchronize(self) -> None:
        """Have the host wait."""
        refuse_in_capture("waiting for a stream")
        self.waits += 1


DEFAULT = Stream(0)


class Event:
    """A moment in a stream, and on the device's clock; all work is done by then, and time stands still."""

    stream: Any = None

    def record(self, stream: Any = 0) -> None:
        """Note where the stream is."""
        refuse_in_capture("an event")
        self.stream = stream

    def wait(self, stream: Any = 0) -> None:
        """Have a stream wait; before the first `record` there is nothing to wait for."""
        if self.stream is not None:
            awaited.append((int(stream), int(self.stream)))

    def synchronize(self) -> None:
        """Wait."""


class GraphBuilder:
    """Stands for that of ``cuda.core``, and for the graph it makes."""

    def __init__(self, stream: Stream) -> None:
        assert isinstance(stream, Stream), "CUDA's default stream cannot be recorded"
        self.stream, self.work = stream, []
        self.launches = 0

    def begin_building(self, mode: str) -> None:
        """Record what is given to the stream."""
        assert mode == "thread_local", "the driver would let allocations pass"
        assert not building
        building.append(self)

    def end_building(self) -> None:
        """Record no more."""
        assert building.pop() is self

    def complete(self) -> GraphBuilder:
        """What was recorded, to be launched."""
        return self

    def launch(self, stream: Stream) -> None:
        """Do it all."""
        assert stream is self.stream
        queued.append(stream)
        self.launches += 1
        for work in self.work:
            work()


def on_device(stream: Any, work: Callable[[], None]) -> None:
    """Do some work on the device, or record it."""
    queued.append(stream)
    if not building:
        work()
        return
    if stream is not building[-1].stream:
        raise RuntimeError("work on another stream than the one that is recorded: cudaErrorStreamCaptureImplicit")
    building[-1].work.append(work)


def refuse_in_capture(what: str) -> None:
    """Raise while a graph is built, as the driver does."""
    if building:
        raise RuntimeError(f"{what} while a stream is recorded: cudaErrorStreamCaptureUnsupported")

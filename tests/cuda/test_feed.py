"""`Feed` on a GPU whose streams do what they are given as late, or as early, as events allow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import simulated_cuda
from graphs import Stream, awaited, queued
from simulated_cuda import simulated

import numba_nn as nn
from numba_nn.core.cuda.feed import Feed
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.device import CUDA


class Streams:
    """Work that was given to each stream, and how much of it is done. ``eager``: handles of those that wait for nobody else."""

    def __init__(self, eager: set[int]) -> None:
        self.work: dict[int, list[Callable[[], None]]] = defaultdict(list)
        self.done: dict[int, int] = defaultdict(int)
        self.eager = eager

    def give(self, stream: Any, work: Callable[[], None]) -> None:
        self.work[int(stream)].append(work)
        if int(stream) in self.eager:
            self.run(int(stream))

    def run(self, stream: int, until: int | None = None) -> None:
        while self.done[stream] < (len(self.work[stream]) if until is None else until):
            self.done[stream] += 1
            self.work[stream][self.done[stream] - 1]()


class Event:
    """A moment in one of the streams."""

    def __init__(self, streams: Streams) -> None:
        self.streams, self.at = streams, (0, 0)

    def record(self, stream: Any) -> None:
        self.at = int(stream), len(self.streams.work[int(stream)])

    def wait(self, stream: Any) -> None:
        at = self.at
        self.streams.give(stream, lambda: self.streams.run(*at))

    def synchronize(self) -> None:
        self.streams.run(*self.at)


@pytest.mark.parametrize("eager", ["none", "the copies", "the kernels"])
def test_kernels_read_what_was_sent_to_them(eager, monkeypatch):
    with simulated():
        compute, crossing = cuda.stream(), cuda.stream()
        streams = Streams({"none": set(), "the copies": {int(crossing)}, "the kernels": {int(compute)}}[eager])
        monkeypatch.setattr(simulated_cuda, "on_device", streams.give)
        monkeypatch.setattr(cuda._module, "event", lambda timing: Event(streams))
        monkeypatch.setattr(cuda._module, "stream", lambda: crossing)
        feed, seen = Feed((4, 3), np.float32), []
        with CUDA.on(compute):
            for number in range(7):
                part = feed.send(np.full((4 - number % 2, 3), number, np.float32))
                streams.give(compute, lambda part=part: seen.append(part._host.copy()))
        streams.run(int(compute))
    assert [array.shape for array in seen] == [(4 - number % 2, 3) for number in range(7)]
    assert [np.unique(array).tolist() for array in seen] == [[number] for number in range(7)]


def test_batches_cross_in_a_stream_of_their_own():
    with simulated():
        compute = cuda.stream()
        feed = Feed((4, 3), np.float32)
        queued.clear(), awaited.clear()
        with CUDA.on(compute):
            for _ in range(3):
                feed.send(np.ones((4, 3), np.float32))
        crossing = queued[0]
        assert queued == [crossing, compute] * 3
        assert isinstance(crossing, Stream)
        assert crossing is not compute
        over, back = (int(compute), int(crossing)), (int(crossing), int(compute))
        assert awaited == [over, over, back, over]


def test_device_arrays_take_no_pinned_memory(monkeypatch):
    with simulated():
        model = nn.Sequential(nn.BatchNorm1d(3)).to("cuda")
        step = nn.TrainStep(model, nn.MSELoss(), nn.optim.SGD(model.parameters()), (4, 3))
        monkeypatch.setattr(cuda._module, "pinned_array", lambda *_: pytest.fail("pinned memory was taken"))
        for _ in range(3):
            step(CUDA.zeros((4, 3), np.float32), CUDA.zeros((4, 3), np.float32))

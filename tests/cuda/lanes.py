"""Threads of a CUDA block as greenlets: each runs until it must wait for others, and warps take turns in a chosen order.

Between two points where it waits, a thread runs alone. So where a barrier is missing, what another thread should have written
has not been written yet, in one order or another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, NamedTuple

from greenlet import getcurrent, greenlet

WARP = 32
ORDERS = ("depth-first", "reversed", "interleaved")
"""Warp after warp as far as each gets; the same from the last to the first thread; all warps by turns, one step each."""

Answers = Callable[[dict[int, Any]], dict[int, Any]]


class Request(NamedTuple):
    """What a lane waits for: all lanes of a mask in its warp, or of the block where there is no mask.

    ``answers`` maps what each lane brings, by its number, to what each gets.
    """

    answers: Answers
    mask: int | None
    brought: Any

    def meets(self, other: Request | None) -> bool:
        """Whether two lanes wait for each other."""
        return other is not None and self.answers is other.answers and self.mask == other.mask


class Lane(greenlet):
    """One thread. ``groups`` are its asynchronous copies: committed groups, and last the one that is open."""

    def __init__(self, run: Callable[[], None], number: int, thread: Any) -> None:
        super().__init__(lambda _: run())
        self.number, self.thread = number, thread
        self.request: Request | None = None
        self.gr_context = copy_context()  # what NumPy is told about division by 0
        self.answer: Any = None
        self.groups: list[list[Callable[[], None]]] = [[]]


def this_lane() -> Lane:
    """The thread that runs now."""
    lane = getcurrent()
    assert isinstance(lane, Lane), "a thread that speaks to others must run as a greenlet: see simulator.SPEAKING"
    return lane


def meet(answers: Answers, brought: Any = None, mask: int | None = None) -> Any:
    """Wait for the lanes of a mask (of the whole block if None) that have not ended; all must wait for the same."""
    return this_lane().parent.switch(Request(answers, None if mask is None else int(mask) & 0xFFFFFFFF, brought))


class Block:
    """The threads of a block, run to their end."""

    def __init__(self, run: Callable[[], None], threads: list[Any], order: str, enter: Callable[[Any], None]) -> None:
        assert order in ORDERS, f"order must be one of {ORDERS}, got {order!r}"
        self.lanes = [Lane(run, number, thread) for number, thread in enumerate(threads)]
        self.warps = [self.lanes[first : first + WARP] for first in range(0, len(threads), WARP)]
        if order == "reversed":
            self.warps = [warp[::-1] for warp in reversed(self.warps)]
        self.interleaved = order == "interleaved"
        self.enter = enter

    def run(self) -> None:
        """Run until every thread has ended; `RuntimeError` if they wait for each other for ever."""
        self._run_warps()
        while living := [lane for lane in self.lanes if not lane.dead]:
            first = living[0].request
            assert first is not None
            if first.mask is not None or not all(first.meets(lane.request) for lane in living):
                stuck = {(r.answers.__name__, r.mask and hex(r.mask)) for lane in living if (r := lane.request)}
                raise RuntimeError(f"deadlock: {len(living)} threads wait for different things: {sorted(stuck, key=str)}")
            self._answer(living)
            self._run_warps()

    def _run_warps(self) -> None:
        """Run each warp to where all its lanes wait for other warps."""
        if self.interleaved:
            while sum(self._step(warp) for warp in self.warps):  # all of them: `any` stops at the first
                pass
        else:
            for warp in self.warps:
                while self._step(warp):
                    pass

    def _step(self, warp: list[Lane]) -> bool:
        """Run the lanes of a warp that can run to where they wait, and answer those that have met; whether any ran."""
        able = [lane for lane in warp if lane.request is None and not lane.dead]
        for lane in able:
            self.enter(lane.thread)
            try:
                lane.request = lane.switch(lane.answer)
            except Exception as error:
                error.add_note(f"in thread {lane.thread}")
                raise
        for lane in warp if able else ():
            if (request := lane.request) is not None and request.mask is not None:
                met = [other for other in warp if request.mask >> other.number % WARP & 1 and not other.dead]
                if all(request.meets(other.request) for other in met):
                    self._answer(met)
        return bool(able)

    def _answer(self, lanes: list[Lane]) -> None:
        requests = {lane.number: lane.request for lane in lanes}
        brought = {number % WARP if r.mask is not None else number: r.brought for number, r in requests.items() if r}
        answers = next(r for r in requests.values() if r).answers(brought)
        for lane in lanes:
            assert lane.request is not None
            lane.answer = answers[lane.number if lane.request.mask is None else lane.number % WARP]
            lane.request = None


def alike(function: Callable[[list[Any]], Any]) -> Answers:
    """Answers that are the same for every lane: a function of all that was brought."""

    @functools.wraps(function)
    def answers(brought: dict[int, Any]) -> dict[int, Any]:
        return dict.fromkeys(brought, function(list(brought.values())))

    return answers

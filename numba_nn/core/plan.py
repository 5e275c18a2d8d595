"""Which buffer lives when: arrays whose lifetimes do not meet may share memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Lifetime:
    """An array of so many bytes that is written at time ``first`` and read last at time ``last``."""

    nbytes: int
    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        """Whether both are alive at some time."""
        return self.first <= other.last and other.first <= self.last


def assign_offsets(lifetimes: list[Lifetime]) -> tuple[list[int], int]:
    """Place arrays in one buffer so that none overlaps another that is alive at the same time.

    The largest are placed first, each at the lowest offset that is free over its lifetime ("greedy by size", Pisarchyk and
    Lee, "Efficient memory management for deep neural net inference", 2020).

    Parameters
    ----------
    lifetimes : list of Lifetime
        The arrays.

    Returns
    -------
    offsets : list of int
        Byte offset of each array.
    total : int
        Bytes that the buffer needs.
    """
    placed: list[tuple[int, Lifetime]] = []
    offsets = [0] * len(lifetimes)
    for index in sorted(range(len(lifetimes)), key=lambda i: -lifetimes[i].nbytes):
        wanted = lifetimes[index]
        offset = 0
        for taken, other in sorted((p for p in placed if p[1].meets(wanted)), key=lambda p: p[0]):
            if offset + wanted.nbytes <= taken:
                break
            offset = max(offset, taken + other.nbytes)
        offsets[index] = offset
        placed.append((offset, wanted))
    return offsets, max((offset + life.nbytes for offset, life in placed), default=0)


class Plan:
    """The offsets of arrays in one buffer.

    Parameters
    ----------
    lifetimes : list of Lifetime
        The arrays.

    Attributes
    ----------
    offsets : list of int
        Byte offset of each array.
    total : int
        Bytes that the buffer needs.
    """

    def __init__(self, lifetimes: list[Lifetime]) -> None:
        self.offsets, self.total = assign_offsets(lifetimes)
        self._lifetimes = lifetimes

    def holds(self, lifetimes: list[Lifetime]) -> bool:
        """Whether it serves these arrays too: as many, of the same times, and none larger."""
        return all(new.nbytes <= own.nbytes for new, own in zip(lifetimes, self._lifetimes, strict=True))

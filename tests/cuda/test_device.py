"""What the device itself does with arrays: whether they overlap, and copies of strided and repeated ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from foreign import ByInterface
from simulated_cuda import simulated

import numba_nn as nn
from numba_nn import ops
from numba_nn.core.device import CUDA


@pytest.fixture(autouse=True)
def gpu():
    with simulated():
        yield


# Overlaps


def views(memory: np.ndarray) -> list[np.ndarray]:
    """Parts of 6 x 8 elements: rows, columns, every other one, backwards, repeated, and none."""
    return [
        memory, memory[:2], memory[2:4], memory[:, :3], memory[:, 4:], memory[::2, ::3], memory[1:2, ::-1], memory[:1:-2, 3],
        memory[::-1], memory.T[2:4, ::-2], memory[3, 5], memory[4:4], np.broadcast_to(memory[2, 3:5], (9, 2)),
    ]  # fmt: skip


def test_extents_are_exact():
    memory = np.zeros((6, 8), np.float32)
    for first, second in itertools.product(map(np.asarray, views(memory)), repeat=2):
        assert CUDA.overlap(*map(CUDA.accept, map(ByInterface, (first, second)))) == np.may_share_memory(first, second)


def test_a_destination_within_the_reach_of_a_strided_input_is_refused():
    memory = CUDA.zeros((4, 6), np.float32)
    with pytest.raises(nn.DestinationError, match="square: out overlaps an input"):
        ops.square(memory[::3, :4], out=memory[1:3].reshape(3, 4)[1:])
    assert ops.square(memory[::2, :4], out=memory[2:].reshape(3, 4)[1:]).shape == (2, 4)

"""What the device itself does with arrays: whether they overlap, and copies of strided and repeated ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from foreign import ByInterface
from graphs import queued
from simulated_cuda import simulated

import numba_nn as nn
from numba_nn import ops
from numba_nn.core.cuda.ptx import cuda
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


# Copies

HOST = np.random.default_rng(0).standard_normal((2, 6, 8, 5)).astype(np.float32)
STRIDED = {
    "every other row": HOST[:, ::2],
    "part of a row": HOST[:, :, 1:, 4:],
    "every other element": HOST[..., ::2],
    "backwards": HOST[::-1, ::-1, ::-1, ::-1],
    "rows backwards": HOST[:, ::-2],
    "transposed": HOST.T,
    "transposed, backwards": HOST.T[::-1, ::-2, 1:],
    "between rows that lie apart": HOST.transpose(2, 0, 3, 1)[:, :, 1::2],
    "a number": HOST[1, 2, 3, 4],
    "none": HOST[:, :0, ::2],
}
REPEATED = {
    "a row": (HOST[0, 0], (6, 8, 5)),
    "a column": (HOST[:1, :, :1, :1], (1, 6, 8, 5)),
    "rows between dimensions": (HOST[:, :, :1], (2, 6, 4, 5)),
    "a number": (HOST[0, 0, 0, 0], (3, 4)),
    "backwards": (HOST[0, 0, ::-1, :1], (7, 8, 5)),
}
CASES = {name: (x, x.shape) for name, x in STRIDED.items()} | {f"{name}, repeated": case for name, case in REPEATED.items()}


def copied(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A copy by the device, of an array that lies in memory as this one."""
    y = CUDA.empty(shape, x.dtype)
    CUDA.copy(y, CUDA.accept(ByInterface(np.asarray(x))))
    return CUDA.to_host(y)


@pytest.mark.parametrize("name", CASES)
def test_strided_and_repeated_arrays_are_copied(name):
    x, shape = CASES[name]
    np.testing.assert_array_equal(copied(np.asarray(x), shape), np.broadcast_to(x, shape))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float16, np.int32, np.int64, np.float64, np.complex128])
def test_copies_are_bit_by_bit_in_any_dtype(dtype):
    x = np.random.default_rng(1).integers(0, 99, (5, 3, 7)).astype(dtype)
    for given in (x[::2, :, 1:-2], x.transpose(1, 2, 0), x[::-1]):
        np.testing.assert_array_equal(copied(given, given.shape), given)


@pytest.mark.parametrize("offset", [1, 2, 4])
def test_what_is_not_aligned_is_copied(offset):
    memory = np.arange(100, dtype=np.uint8)
    x = memory[offset : offset + 96].view(np.float64)
    for given in (x, x[::3], x[::-1], x.reshape(3, 4).T):
        np.testing.assert_array_equal(copied(given, given.shape), given)


def test_copies_go_to_the_stream():
    x, stream = CUDA.from_host(HOST), cuda.stream()
    y = CUDA.empty((2, 3, 8, 5), np.float32)
    queued.clear()
    with CUDA.on(stream):
        CUDA.copy(y, x[:, ::2])
    assert queued == [stream]


def test_more_dimensions_than_kernels_are_compiled_for_are_refused():
    x, y = np.zeros((4,) * 10, np.float32)[(slice(None, None, 2),) * 10], CUDA.empty((2,) * 10, np.float32)
    with pytest.raises(nn.ShapeError, match=r"a copy goes through 10 dimensions at most, got sizes and strides \[\(2, "):
        CUDA.copy(y, CUDA.accept(ByInterface(x)))

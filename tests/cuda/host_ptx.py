"""The instructions of `numba_nn.core.cuda.ptx` in NumPy; fragments as in the PTX ISA, under ``mma`` and ``ldmatrix``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from fake_cuda import FULL, poisoned
from lanes import meet, this_lane

from numba_nn.core.cuda import ptx

VECTOR_BYTES = 16
LANE = np.arange(32)
INFINITY = 0x7F800000  # bits that are set in an infinity or NaN
GROUP, MEMBER = LANE >> 2, LANE & 3  # of a lane in a fragment: its row (or column), and which of the elements in it


def speaks(function: Callable[..., Any]) -> Callable[..., Any]:
    """Marks what only a greenlet can run."""
    function.speaks = True
    return function


def _elements(array: np.ndarray, at: Any, count: int) -> np.ndarray:
    """Elements that one access moves; `IndexError` where they are not all there, or not aligned."""
    flat, at = np.ndarray.view(array, np.ndarray).reshape(-1), int(at)
    if not 0 <= at <= flat.size - count or at % count:
        raise IndexError(f"{count} elements at {at} of {flat.size}: out of bounds, or not aligned")
    return flat[at : at + count]


def load16(array: np.ndarray, at: Any) -> tuple[Any, ...]:
    """See `ptx.load16`."""
    return tuple(map(array.dtype.type, _elements(array, at, VECTOR_BYTES // array.itemsize)))


def store16(array: np.ndarray, at: Any, values: tuple[Any, ...]) -> None:
    """See `ptx.store16`."""
    _elements(array, at, VECTOR_BYTES // array.itemsize)[:] = values


def load_window(array: np.ndarray, at: Any) -> tuple[Any, ...]:
    """See `ptx.load_window`."""
    assert starts_aligned(array)
    return tuple(map(array.dtype.type, _elements(array, at, ptx.WINDOW)))


def store_window(array: np.ndarray, at: Any, values: tuple[Any, ...]) -> None:
    """See `ptx.store_window`."""
    assert starts_aligned(array)
    _elements(array, at, ptx.WINDOW)[:] = values


def starts_aligned(array: np.ndarray) -> bool:
    """See `ptx.starts_aligned`."""
    return array.ctypes.data % min(VECTOR_BYTES, ptx.WINDOW * array.itemsize) == 0


def flat_part(array: np.ndarray, start: Any, stop: Any) -> np.ndarray:
    """See `ptx.flat_part`."""
    start, stop = int(start), int(stop)
    assert 0 <= start <= stop <= array.size
    return np.ndarray.view(array, np.ndarray).reshape(-1)[start:stop].view(type(array))


def _copy(to: np.ndarray, to_at: Any, source: np.ndarray, at: Any, count: Any, width: int) -> None:
    """The destination is poisoned until somebody waits."""
    flat, at, count = np.ndarray.view(source, np.ndarray).reshape(-1), int(at), int(count)
    assert to.dtype == source.dtype
    assert 0 <= count <= width
    if count and (at % width or not 0 <= at <= flat.size - count):
        raise IndexError(f"a copy of {count} elements at {at} of {flat.size}: out of bounds, or not aligned")
    there, data = _elements(to, to_at, width), np.zeros(width, source.dtype)
    there[:] = poisoned((), to.dtype)
    data[:count] = flat[at : at + count]

    def land() -> None:
        there[:] = data

    this_lane().groups[-1].append(land)


@speaks
def copy16(to: np.ndarray, to_at: Any, source: np.ndarray, at: Any, count: Any) -> None:
    """See `ptx.copy16`."""
    _copy(to, to_at, source, at, count, VECTOR_BYTES // source.itemsize)


@speaks
def copy_element(to: np.ndarray, to_at: Any, source: np.ndarray, at: Any, count: Any) -> None:
    """See `ptx.copy_element`."""
    assert source.itemsize in (4, 8)
    _copy(to, to_at, source, at, count, 1)


@speaks
def commit_copies() -> None:
    """See `ptx.commit_copies`."""
    this_lane().groups.append([])


@speaks
def wait_copies(pending: int) -> None:
    """See `ptx.wait_copies`."""
    groups = this_lane().groups
    while len(groups) - 1 > pending:
        for land in groups.pop(0):
            land()


def _matrices(transposed: bool) -> Callable[[dict[int, Any]], dict[int, Any]]:
    def load_matrices(brought: dict[int, Any]) -> dict[int, Any]:
        rows = [_elements(array, at, VECTOR_BYTES // array.itemsize).view(np.uint16) for array, at in _in_order(brought)]
        matrices = np.array(rows).reshape(4, 8, 8)
        if transposed:
            matrices = matrices.transpose(0, 2, 1)
        pairs = np.ascontiguousarray(matrices).view(np.uint32)[:, GROUP, MEMBER]
        return {lane: tuple(pairs[:, lane]) for lane in brought}

    return load_matrices


def _in_order(brought: dict[int, Any]) -> list[Any]:
    assert len(brought) == 32, "the instruction is one of the whole warp"
    return [brought[lane] for lane in range(32)]


def _singles(words: np.ndarray) -> np.ndarray:
    """Registers of tf32 as one element each: the 13 low bits are not read."""
    return (words & np.uint32(0xFFFFE000)).view(np.float32)[..., None]


def _pairs(dtype: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda words: words[..., None].view(np.uint16).view(dtype).astype(np.float32)


def _product(elements: Callable[[np.ndarray], np.ndarray], width: int) -> Callable[[dict[int, Any]], dict[int, Any]]:
    """``mma`` over a depth of 8 registers, each of ``width`` elements."""

    def multiply(brought: dict[int, Any]) -> dict[int, Any]:
        given = _in_order(brought)
        assert all(isinstance(word, (int, np.integer)) for a, b, _ in given for word in (*a, *b)), "registers hold bits"
        words_a, words_b = (elements(np.array([lane[i] for lane in given], np.uint32)) for i in (0, 1))
        a, b, c = np.zeros((16, 8, width), np.float32), np.zeros((8, 8, width), np.float32), np.zeros((16, 8), np.float32)
        for i in range(4):
            a[GROUP + 8 * (i & 1), MEMBER + 4 * (i >> 1)] = words_a[:, i]
            c[GROUP + 8 * (i >> 1), 2 * MEMBER + (i & 1)] = [lane[2][i] for lane in given]
        for i in range(2):
            b[GROUP, MEMBER + 4 * i] = words_b[:, i]
        c += a.reshape(16, -1) @ b.reshape(8, -1).T
        return {n: tuple(c[GROUP[n] + 8 * (i >> 1), 2 * MEMBER[n] + (i & 1)] for i in range(4)) for n in brought}

    return multiply


def _of_warp(answers: Callable[[dict[int, Any]], dict[int, Any]]) -> Callable[..., Any]:
    return speaks(lambda *brought: meet(answers, brought, FULL))


def round_tf32(x: np.float32) -> int:
    """See `ptx.round_tf32`."""
    bits = int(x.view(np.uint32))
    return (bits + 0x1000) & 0xFFFFE000 if bits & INFINITY != INFINITY else bits


def _bits(dtype: Any) -> tuple[Callable[[Any], np.uint16], Callable[[Any], np.float32]]:
    return lambda x: np.float32(x).astype(dtype).view(np.uint16), lambda bits: np.uint16(bits).view(dtype).astype(np.float32)


to_bf16, from_bf16 = _bits(ml_dtypes.bfloat16)
to_f16, from_f16 = _bits(np.float16)

PTX_TWINS: dict[Any, Any] = {
    **{getattr(ptx, f.__name__): f for f in (load16, store16, load_window, store_window, starts_aligned, flat_part)},
    **{getattr(ptx, f.__name__): f for f in (copy16, copy_element, commit_copies, wait_copies, round_tf32)},
    ptx.load_matrices: _of_warp(_matrices(transposed=False)),
    ptx.load_matrices_transposed: _of_warp(_matrices(transposed=True)),
    ptx.multiply_tf32: _of_warp(_product(_singles, 1)),
    ptx.multiply_bf16: _of_warp(_product(_pairs(ml_dtypes.bfloat16), 2)),
    ptx.multiply_f16: _of_warp(_product(_pairs(np.float16), 2)),
    ptx.to_bf16: to_bf16,
    ptx.from_bf16: from_bf16,
    ptx.to_f16: to_f16,
    ptx.from_f16: from_f16,
}
"""Instruction to what stands for it."""

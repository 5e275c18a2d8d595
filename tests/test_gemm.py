"""The matrix product, alone and as `matmul`."""

from __future__ import annotations

import itertools
import textwrap

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

import numba_nn as nn
from numba_nn.core.product.gemm import SINGLE, gemm, packed_sizes
from numba_nn.core.product.stack import multiply_stack, shared_rooms
from numba_nn.core.simd import tile_rows, tile_shape
from numba_nn.layers.linear import linear_backward_bias, operand_room
from numba_nn.layers.recurrent.gates import packed_room
from tests import reference
from tests.allocations import no_array_data, no_runtime_memory
from tests.cases import assert_close
from tests.gemm_cases import BATCHES, EDGES, TRANSPOSITIONS, operands
from tests.guarded import Guarded


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("transposed", TRANSPOSITIONS, ids=str)
@pytest.mark.parametrize("size", EDGES, ids=str)
def test_products_of_all_sizes(size, transposed, dtype):
    a, b = operands(*size, *transposed, dtype)
    given = a.copy(), b.copy()
    expected = reference.matmul(a.astype(np.float64), b.astype(np.float64), *transposed)
    names = dict(zip(("transpose_a", "transpose_b"), transposed, strict=True))
    c = nn.matmul(a, b, **names)
    assert c.dtype == dtype
    assert_close(c, expected)
    out = np.full(expected.shape, np.nan, dtype)
    assert nn.matmul(a, b, out, **names) is out
    np.testing.assert_array_equal(out, c)
    assert nn.matmul(a, b, out, accumulate=True, **names) is out
    assert_close(out, 2 * expected)
    np.testing.assert_array_equal(a, given[0])
    np.testing.assert_array_equal(b, given[1])


@pytest.mark.parametrize("transposed", TRANSPOSITIONS, ids=str)
@pytest.mark.parametrize(("left", "right"), BATCHES)
@pytest.mark.parametrize("size", [(13, 33, 7), (3, 5, 0), (2, 3, 300)])
def test_leading_dimensions_broadcast(size, left, right, transposed):
    a, b = operands(*size, *transposed, left=left, right=right)
    expected = reference.matmul(a, b, *transposed)
    names = dict(zip(("transpose_a", "transpose_b"), transposed, strict=True))
    c = nn.matmul(a, b, **names)
    assert_close(c, expected)
    nn.matmul(a, b, c, accumulate=True, **names)
    assert_close(c, 2 * expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("transposed", TRANSPOSITIONS, ids=str)
@pytest.mark.parametrize("size", [*(size for size in EDGES if 0 not in size), (100, 1, 2), (65, 1, 5), (5, 1, 64)], ids=str)
def test_nothing_is_written_beyond_the_packed_operands(size, transposed, dtype):
    m, n, k = size
    a, b = operands(*size, *transposed, dtype, left=(3,))
    packed = [Guarded((room,), dtype) for room in packed_sizes(m, n, k, dtype, 3, 1)]
    c = Guarded((3, m * n), dtype)
    strides = (1, m) if transposed[0] else (k, 1), (1, k) if transposed[1] else (n, 1)
    flat = a.reshape(3, -1), b.reshape(1, -1)
    gemm.serial(c.array, *(p.array for p in packed), *flat, np.arange(3), np.zeros(3, np.int64), size, *strides, 0)
    for array, name in ((c, "c"), (packed[0], "the left room"), (packed[1], "the right room")):
        array.check(name)
    assert_close(c.array.reshape(3, m, n), reference.matmul(a.astype(np.float64), b.astype(np.float64), *transposed))


@pytest.mark.parametrize("transposed", TRANSPOSITIONS, ids=str)
def test_room_changes_no_sum(transposed):
    """From what one panel of each operand takes to more than enough: blocks are as large as there is room."""
    m, n, k = 200, 150, 700
    a, b = operands(m, n, k, *transposed, np.float32, left=(2,))
    strides = (1, m) if transposed[0] else (k, 1), (1, k) if transposed[1] else (n, 1)
    sums = []
    for panels in (1, 3, 100):
        rooms = [Guarded((panels * size * 320,), np.float32) for size in tile_shape(np.float32)]
        c = Guarded((2, m * n), np.float32)
        arrays = c.array, *(room.array for room in rooms), a.reshape(2, -1), b.reshape(1, -1)
        multiply_stack.serial(*arrays, np.arange(2), np.zeros(2, np.int64), (m, n, k), *strides, 0)
        for array, name in zip((c, *rooms), ("c", "the left room", "the right room"), strict=True):
            array.check(f"{name}, {panels} panels")
        sums.append(c.array.copy())
    np.testing.assert_array_equal(sums[0], sums[1])
    np.testing.assert_array_equal(sums[0], sums[2])
    assert_close(sums[0].reshape(2, m, n), reference.matmul(a.astype(np.float64), b.astype(np.float64), *transposed))


def test_each_thread_has_room_for_a_panel(monkeypatch):
    """Also where fewer threads than take part, or more, were reckoned with: of a stack, or for panels of a broken line."""
    for threads, dtype in itertools.product((1, 2, 4, 16, 64), (np.float32, np.float64)):
        monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", threads)
        (height, width), line = tile_shape(dtype), 64 // np.dtype(dtype).itemsize
        sizes = [
            (100, 2000, 1), (6, 1000, 3), (2, 4096, 6), (53, 8, 17), (13, 7000, 3), (256, 256, 256), (1, 1, 1), (200, 90, 700),
        ]  # fmt: skip
        for (m, n, k), stack, team in itertools.product(sizes, (1, 2, 100), range(1, threads + 1, 3)):
            rooms = packed_sizes(m, n, k, dtype, stack, 1)
            panels = height * min(k, 320), width * min(k, 320)
            workers, *shares = shared_rooms.py_func(*rooms, panels, line, min(team, stack * 64))
            for room, share, panel in zip(rooms, shares, panels, strict=True):
                assert workers * share <= room
                assert share >= panel
                assert share % line == 0


def test_threads_do_not_share_a_panel(run_python):
    """One panel of A takes 12 elements, of 16 in a line: four threads' lie apart."""
    script = """
        import numpy as np, numba_nn as nn
        rng = np.random.default_rng(0)
        a, b = rng.random((100, 1, 8), np.float32), rng.random((1, 2000), np.float32)
        expected = a.swapaxes(1, 2) @ b
        for _ in range(200):
            np.testing.assert_allclose(nn.matmul(a, b, transpose_a=True), expected, rtol=1e-6)
    """
    run_python(textwrap.dedent(script), NUMBA_NUM_THREADS="4")


def test_room_for_many_threads_stays_small(monkeypatch):
    few = packed_sizes(256, 256, 256, np.float32)
    monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", 64)
    left, right = packed_sizes(256, 256, 256, np.float32)
    assert few[0] <= left <= 64 * 72 * 320
    assert few[1] <= right <= 8 * 256 * 256
    assert packed_sizes(4096, 4096, 4096, np.float32)[1] * 4 <= 64 * 2**20
    stacked = packed_sizes(128, 128, 64, np.float32, 1000, 1000)
    assert max(stacked) <= 1000 * 128 * 64  # of all A's one panel of columns each, and of all C's
    assert packed_sizes(20, 20, 100_000, np.float32)[0] <= 32 * 100_000


@pytest.mark.parametrize("threads", [1, 2, 12, 16, 64])
def test_fewer_rows_need_no_more_room(threads, monkeypatch):
    monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", threads)
    for inputs, outputs in ((256, 1000), (784, 256), (33, 7), (2000, 64)):
        rooms = [operand_room(rows, inputs, outputs, np.float32) for rows in range(1, 400)]
        recurrent = [packed_room(rows, inputs, outputs, 4, np.float32) for rows in range(1, 400)]
        for sizes in ([room[side][0][0] for room in rooms] for side in ("left", "right")):
            assert sizes == sorted(sizes)
        for sizes in zip(*recurrent, strict=True):
            assert list(sizes) == sorted(sizes)


def test_the_gradient_of_a_bias_has_room():
    rows, features = 70_000, 9
    room = Guarded((operand_room(rows, 1, features, np.float32)["left"][0]), np.float32)
    dy, dbias = np.ones((rows, features), np.float32), np.zeros(features, np.float32)
    linear_backward_bias.serial(dbias, room.array, dy)
    room.check("the room")
    np.testing.assert_array_equal(dbias, rows)


@pytest.mark.parametrize("m", [7, 13, 17, 33, 40, 100])
def test_a_product_by_way_of_its_transpose_keeps_to_the_packed_operands(m):
    """What is transposed lies where B would be packed: at depths about those from which it pays."""
    for n, k in itertools.product((m, 65, 160), (*range(13, 70, 3), 128, 300)):
        a, b = operands(m, n, k, transpose_b=True, dtype=np.float32)
        packed = [Guarded((room,), np.float32) for room in packed_sizes(m, n, k, np.float32)]
        c = Guarded((1, m * n), np.float32)
        arrays = c.array, *(p.array for p in packed), a.reshape(1, -1), b.reshape(1, -1)
        gemm.serial(*arrays, SINGLE, SINGLE, (m, n, k), (k, 1), (1, k), 0)
        for array, name in ((c, "c"), (packed[0], "the left room"), (packed[1], "the right room")):
            array.check(f"{name}, {m} x {n} x {k}")
        assert_close(c.array.reshape(m, n), a @ b.T)


def test_strided_operands():
    a, b = operands(26, 66, 14, left=(2,))
    expected = reference.matmul(a[:, ::2, 1::2], b[1::2, ::-2])
    assert_close(nn.matmul(a[:, ::2, 1::2], b[1::2, ::-2]), expected)
    assert_close(nn.matmul(a.swapaxes(0, 1), b), reference.matmul(a.swapaxes(0, 1), b))
    broadcast = np.broadcast_to(b, (2, *b.shape))
    assert_close(nn.matmul(a, broadcast), reference.matmul(a, broadcast))
    for array in (a, b):
        array.flags.writeable = False
    assert_close(nn.matmul(a, b), reference.matmul(a, b))
    assert_close(nn.matmul(a[0], a[0], transpose_b=True), a[0] @ a[0].T)


@pytest.mark.parametrize("stack", [(), (2,)], ids=str)
@pytest.mark.parametrize("transposed", TRANSPOSITIONS, ids=str)
def test_views_of_transposes_are_read_where_they_lie(transposed, stack):
    a, b = operands(30, 40, 50, *transposed, left=stack, right=stack)
    views = [m.swapaxes(-1, -2) if flip else m for m, flip in zip((a, b), transposed, strict=True)]
    expected = nn.matmul(a, b, transpose_a=transposed[0], transpose_b=transposed[1])
    np.testing.assert_array_equal(nn.matmul(*views), expected)


VECTORS = [((5,), (5,)), ((3, 5), (5,)), ((5,), (5, 4)), ((2, 3, 5), (5,)), ((5,), (2, 5, 4)), ((0,), (0,)), ((0, 3), (3,))]


@pytest.mark.parametrize(("left", "right"), VECTORS, ids=str)
def test_vectors(left, right):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(left), rng.standard_normal(right)
    for x in (a, a.repeat(2, axis=-1)[..., ::2]):  # as it is, and strided
        for transposed in (False, True):
            y = nn.matmul(x, b, transpose_a=transposed and a.ndim == 1, transpose_b=transposed and b.ndim == 1)
            assert y.shape == np.shape(a @ b)
            assert_close(y, np.asarray(a @ b))
    out = np.full(np.shape(a @ b), 7.0)
    assert_close(nn.matmul(a, b, out, accumulate=True), np.asarray(a @ b + 7))


def test_not_a_number_where_it_belongs():
    a, b = np.ones((13, 33)), np.ones((33, 40))
    a[5, 7], b[8, 9], b[9, 33] = np.nan, np.inf, -np.inf
    a[2, 8] = 0
    expected = np.full((13, 40), 33.0)
    expected[2] = 32
    expected[:, 9], expected[:, 33] = np.inf, -np.inf
    expected[2, 9] = expected[5] = np.nan
    np.testing.assert_array_equal(nn.matmul(a, b), expected)


def refusals():
    a, b = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)
    out, both = np.full((3, 5), 7, np.float32), np.full(32, 7, np.float32)
    read_only = out.copy()
    read_only.flags.writeable = False
    return [
        ((a.tolist(), b), {}, nn.DTypeError, ["a must be", "list"]),
        ((a, b.astype(np.float64)), {}, nn.DTypeError, ["b must be float32", "float64"]),
        ((a.astype(int), b.astype(int)), {}, nn.DTypeError, ["a must be float32 or float64", "int64"]),
        ((a, a), {}, nn.ShapeError, ["inner dimensions", "(3, 4)"]),
        ((a, b), {"transpose_a": True}, nn.ShapeError, ["4 x 3"]),
        ((a[0, 0, ...], b), {}, nn.ShapeError, ["one dimension", "()"]),
        ((a[0], a), {}, nn.ShapeError, ["a is 1 x 4, b is 3 x 4"]),
        ((np.ones((2, 3, 4), np.float32), np.ones((3, 4, 5), np.float32)), {}, nn.ShapeError, ["(2,)", "(3,)"]),
        ((a, b), {"accumulate": True}, nn.DestinationError, ["accumulate", "out"]),
        ((a, b, out.T), {}, nn.ShapeError, ["(3, 5)", "(5, 3)"]),
        ((a, b, np.full((5, 3), 7, np.float32).T), {}, nn.DestinationError, ["C-contiguous"]),
        ((a, b, read_only), {}, nn.DestinationError, ["read-only"]),
        ((a, b, out.astype(np.float64)), {}, nn.DTypeError, ["out must be float32"]),
        ((both[:12].reshape(3, 4), b, both[11:26].reshape(3, 5)), {}, nn.DestinationError, ["overlaps"]),
        ((a, both[:20].reshape(4, 5), both[17:].reshape(3, 5)), {}, nn.DestinationError, ["overlaps"]),
    ]


@pytest.mark.parametrize(("arguments", "names", "error", "words"), refusals())
def test_what_does_not_fit_is_refused(arguments, names, error, words):
    before = [np.array(a) for a in arguments]
    with pytest.raises(error) as caught:
        nn.matmul(*arguments, **names)
    assert [w for w in ("matmul", *words) if w not in str(caught.value)] == []
    for array, kept in zip(arguments, before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_nothing_is_allocated_on_the_second_call():
    a, b = operands(61, 130, 70, left=(2,), dtype=np.float32)
    out = np.empty((2, 61, 130), np.float32)
    strided = np.asfortranarray(a)
    for left in (a, strided):
        nn.matmul(left, b, out)
        with no_array_data():
            nn.matmul(left, b, out)
        with no_runtime_memory():
            nn.matmul(left, b, out)


@pytest.mark.parametrize("dtype", [np.int64, np.complex64, np.float16])
def test_only_floats_have_a_tile(dtype):
    with pytest.raises(TypingError, match="float32 or float64"):
        njit(lambda array: tile_rows(array))(np.zeros(3, dtype))


def test_flags_are_checked_at_every_call():
    a = np.ones((3, 3), np.float32)
    nn.matmul(a, a, transpose_a=True)
    with pytest.raises(nn.ArgumentError, match="transpose_a"):
        nn.matmul(a, a, transpose_a=1)

"""Buffers: what is reserved, what is kept from forward to backward, and that nothing is allocated afterwards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numba import njit

import numba_nn as nn
from numba_nn.core.plan import Lifetime, assign_offsets
from numba_nn.core.workspace import ALIGNMENT, Workspace
from tests.allocations import no_array_data, no_runtime_memory
from tests.cases import CASES, ONE_OF_EACH, assert_close, assert_same, gradients
from tests.test_contract import strided

every_case = pytest.mark.parametrize("case", CASES, ids=str)
BATCHED = [c for c in CASES if len(c.x_shape) > 1 and c.x_shape[0] > 1]
one_of_each_batched = pytest.mark.parametrize("case", [c for c in ONE_OF_EACH if c.x_shape[0] > 1], ids=str)


def test_the_watch_on_allocations_sees_them():
    with pytest.raises(AssertionError), no_array_data():
        kept = np.empty(8)
    with pytest.raises(AssertionError), no_array_data():
        np.empty(100_000)
    with no_array_data():
        kept[:4].reshape(2, 2)
    layer, x = nn.Linear(3, 4), np.zeros((2, 3), np.float32)
    layer(x)
    with no_runtime_memory():
        layer(x)
    with pytest.raises(AssertionError), no_runtime_memory():
        boxed_elsewhere(x)


@njit
def boxed_elsewhere(x):
    return x


def passes(layer, case, rows=None):
    """A forward and a backward into given arrays, for the first ``rows`` of the batch."""
    x = case.x() if rows is None else case.x()[:rows]
    y = np.empty(layer.output_shape(x.shape), np.float32)
    dy, dx = np.ones_like(y), np.empty_like(x)

    def run():
        layer.forward(x, out=y)
        layer.backward(dy, out=dx)

    return run


def buffers_grow(case):
    """Whether a larger batch needs more memory."""
    layer = case.build().reserve((1, *case.x_shape[1:]))
    before = layer.scratch_nbytes + layer.saved_nbytes
    layer.reserve((50, *case.x_shape[1:]))
    return layer.scratch_nbytes + layer.saved_nbytes > before


@every_case
def test_nothing_is_allocated_after_reserve(case):
    layer = case.build().reserve(case.x_shape, strict=True)
    run = passes(layer, case)
    run()
    with no_array_data():
        run()
    with no_runtime_memory():
        run()


@pytest.mark.parametrize("case", BATCHED, ids=str)
def test_nothing_is_allocated_for_a_smaller_batch(case):
    layer = case.build().reserve(case.x_shape, strict=True)
    passes(layer, case)()
    half = case.x_shape[0] // 2
    passes(case.build(), case, half)()  # a smaller batch may take other kernels: compiles them
    smaller = passes(layer, case, half)
    with no_array_data():
        smaller()
    larger = gradients(layer, case.x(), case.dy(layer))
    assert_same(larger, gradients(case.build(), case.x(), case.dy(layer)))


@every_case
def test_reserve_for_inference_saves_nothing(case):
    layer = case.build()
    layer.eval().reserve(case.x_shape, training=False, strict=True)
    x, y = case.x(), np.empty(layer.output_shape(case.x_shape), np.float32)
    layer.forward(x, out=y)
    with no_array_data():
        layer.forward(x, out=y)
    assert layer.saved_nbytes == 0
    np.testing.assert_array_equal(y, case.build().eval()(case.x()))


@every_case
def test_memory_is_known_after_reserve(case):
    layer = case.build()
    assert layer.reserve(case.x_shape) is layer
    reserved = layer.scratch_nbytes, layer.saved_nbytes
    gradients(layer, case.x(), case.dy(layer))
    assert (layer.scratch_nbytes, layer.saved_nbytes) == reserved
    specs = layer.saved_spec(case.x_shape, np.dtype(np.float32)).values()
    assert sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in specs) <= layer.saved_nbytes


@pytest.mark.parametrize("layer", [nn.Tanh(), nn.Sigmoid(), nn.Conv2d(8, 8, 3, padding=1, groups=8)], ids=str)
def test_nothing_is_reserved_that_no_forward_uses(layer):
    layer.eval().reserve((64, 8, 32, 32), training=False)
    assert layer.scratch_nbytes + layer.saved_nbytes == 0


@one_of_each_batched
def test_a_larger_batch_regrows(case):
    smaller = replace(case, x_shape=(1, *case.x_shape[1:]))
    layer = case.build().reserve(smaller.x_shape)
    got = gradients(layer, case.x(), case.dy(layer))
    assert_same(got, gradients(case.build(), case.x(), case.dy(layer)))


@pytest.mark.parametrize("case", [c for c in ONE_OF_EACH if buffers_grow(c)], ids=str)
def test_a_strict_reserve_refuses_more_and_stays_usable(case):
    small = replace(case, x_shape=(1, *case.x_shape[1:]))
    large = replace(case, x_shape=(50, *case.x_shape[1:]))
    layer = case.build().reserve(small.x_shape, strict=True)
    x, dy = case.x()[:1], case.dy(layer)[:1]
    layer.forward(x)
    out = np.full(layer.output_shape(large.x_shape), 7, np.float32)
    with pytest.raises(nn.ReserveError, match="reserve"):
        layer.forward(large.x(), out=out)
    assert (out == 7).all()
    dx = layer.backward(dy)  # of the forward before the one that was refused
    np.testing.assert_array_equal(dx, gradients(case.build(), x, dy)["x"])
    layer.reserve(large.x_shape, strict=True)
    layer.forward(large.x(), out=out)


@every_case
def test_a_strided_array_costs_one_copy_buffer_even_when_strict(case):
    layer = case.build().reserve(case.x_shape, strict=True)
    x, dy = case.x(), case.dy(layer)
    expected = gradients(case.build(), x, dy)
    x, dy = strided(x), strided(dy)
    assert_same(gradients(layer, x, dy), expected)
    layer.eval()(x)
    layer.train()
    y, dx = np.empty(dy.shape, np.float32), np.empty(x.shape, np.float32)
    with no_array_data():
        layer.forward(x, out=y)
        layer.backward(dy, out=dx)


@pytest.mark.parametrize(
    ("build", "arguments", "error", "words"),
    [
        (
            lambda: nn.Linear(3, 4),
            {"dtype": np.float64},
            nn.DTypeError,
            "Linear.*dtype must be the layer's, float32, got float64",
        ),
        (lambda: nn.Sequential(nn.Linear(3, 4)), {"dtype": np.float64}, nn.DTypeError, "float32, got float64"),
        (nn.ReLU, {"dtype": np.int32}, nn.DTypeError, "float32 or float64, got int32"),
        (lambda: nn.Linear(3, 4), {"shape": (-2, 3)}, nn.ShapeError, r"Linear.*none negative, got \(-2, 3\)"),
        (nn.ReLU, {"shape": (2.5, 3)}, nn.ShapeError, r"tuple of ints.*\(2.5, 3\)"),
        (nn.ReLU, {"shape": ("2", 3)}, nn.ShapeError, "tuple of ints"),
        (nn.ReLU, {"shape": 3}, nn.ShapeError, "tuple of ints.*got 3"),
    ],
)
def test_what_no_call_can_have_is_not_reserved(build, arguments, error, words):
    arguments = {"shape": (2, 3), **arguments}
    with pytest.raises(error, match=words):
        build().reserve(arguments.pop("shape"), **arguments)


def test_a_refused_reserve_leaves_strictness():
    layer = nn.Linear(3, 4).reserve((2, 3), strict=True)
    for shapes, error in (([(2, 4)], nn.ShapeError), ([(2, 3), (2, 3)], nn.ArgumentError)):
        with pytest.raises(error):
            layer.reserve(*shapes)
        with pytest.raises(nn.ReserveError):
            layer(np.zeros((1000, 3), np.float32))
    with pytest.raises(nn.ArgumentError, match="calls"):
        layer.reserve((2, 3), calls=0)


# Forwards that are kept until their backward


@every_case
def test_backward_needs_a_forward(case):
    layer = case.build()
    dy = case.dy(layer)
    with pytest.raises(nn.BackwardError, match=case.layer.__name__):
        layer.backward(dy)
    layer.forward(case.x())
    layer.backward(dy)
    before = [p.grad.copy() for p in layer.parameters()]
    with pytest.raises(nn.BackwardError):
        layer.backward(dy)
    for parameter, grad in zip(layer.parameters(), before, strict=True):
        np.testing.assert_array_equal(parameter.grad, grad)


@every_case
def test_inference_keeps_nothing_and_disturbs_nothing(case):
    layer, x = case.build(), case.x()
    dy = case.dy(layer)
    expected = gradients(layer, x, dy)
    layer.eval()
    if not layer.buffer_names:  # running statistics give another output
        assert_close(layer(x), expected["y"])  # packed weights may be summed in another order
    with pytest.raises(nn.BackwardError):
        layer.backward(dy)
    layer.train().zero_grad()
    layer.forward(x)
    layer.eval()(case.x(name="validation"))
    layer.train()
    np.testing.assert_array_equal(layer.backward(dy), expected["x"])
    for name, parameter in layer.named_parameters():
        np.testing.assert_array_equal(parameter.grad, expected[name])


@every_case
def test_two_forwards_before_two_backwards(case):
    layer = case.build().reserve(case.x_shape, calls=2, strict=True)
    inputs = [case.x(name=name) for name in ("left", "right")]
    expected = [gradients(case.build(), x, case.dy(layer)) for x in inputs]
    for x in inputs:
        layer.forward(x)
    for one in reversed(expected):
        layer.zero_grad()
        np.testing.assert_array_equal(layer.backward(case.dy(layer)), one["x"])
        for name, parameter in layer.named_parameters():
            np.testing.assert_array_equal(parameter.grad, one[name])
    with pytest.raises(nn.BackwardError):
        layer.backward(case.dy(layer))


@one_of_each_batched
def test_the_oldest_forward_beyond_the_reserved_ones_is_dropped(case):
    layer = case.build().reserve(case.x_shape, calls=2)
    inputs = [case.x(name=name) for name in "abc"]
    for x in inputs:
        layer.forward(x)
    for x in inputs[:0:-1]:
        expected = gradients(case.build(), x, case.dy(layer))
        np.testing.assert_array_equal(layer.backward(case.dy(layer)), expected["x"])
    with pytest.raises(nn.BackwardError, match="last 2 forwards"):
        layer.backward(case.dy(layer))


@one_of_each_batched
def test_kept_forwards_may_differ_in_shape(case):
    small = replace(case, x_shape=(case.x_shape[0] // 2, *case.x_shape[1:]))
    layer = case.build().reserve(case.x_shape, calls=2, strict=True)
    for first, second in ((case, small), (small, case)):
        layer.forward(first.x())
        layer.forward(second.x())
        for one in (second, first):
            expected = gradients(one.build(), one.x(), one.dy(layer))
            np.testing.assert_array_equal(layer.backward(one.dy(layer)), expected["x"])


@one_of_each_batched
@pytest.mark.parametrize("order", ["C", "F"])
def test_reserving_more_does_not_lose_what_is_kept(case, order):
    layer, x = case.build(), np.array(case.x(), order=order)
    expected = gradients(case.build(), case.x(), case.dy(layer))
    layer.forward(x)
    layer.reserve((100, *case.x_shape[1:]), calls=2)
    y = layer.forward(np.full_like(case.x(), -1))
    layer.backward(np.ones_like(y))
    np.testing.assert_array_equal(layer.backward(case.dy(layer)), expected["x"])


# The pieces


def test_a_workspace_gives_the_same_memory_again():
    workspace = Workspace()
    large = workspace.array("a", (10, 3), np.float32)
    assert large.shape == (10, 3)
    assert large.ctypes.data % ALIGNMENT == 0
    assert np.shares_memory(workspace.array("a", (5,), np.float64), large)
    assert not np.shares_memory(workspace.array("b", (5,), np.float64), large)
    assert workspace.generation == 2
    assert workspace.nbytes == 128 + 64
    workspace.strict = True
    with pytest.raises(nn.ReserveError, match="'a'"):
        workspace.array("a", (100,), np.float32)
    assert workspace.array("a", (10, 3), np.float32).ctypes.data == large.ctypes.data
    assert workspace.contiguous("a", large) is large
    turned = np.ones((200, 100))[::-1]
    copied = workspace.contiguous("copy", turned)  # allowed to the strict, too
    np.testing.assert_array_equal(copied, turned)
    assert np.shares_memory(workspace.contiguous("copy", turned[:9, ::2]), copied)
    parts = Workspace().carve("c", {n: ((5,), np.dtype(np.float32)) for n in "xyz"})
    assert not any(np.shares_memory(parts[a], parts[b]) for a, b in ("xy", "yz", "xz"))


@pytest.mark.parametrize("seed", range(20))
def test_arrays_that_live_together_never_overlap(seed):
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, 30, rng.integers(1, 40))
    sizes = rng.integers(0, 9, (len(starts), 2))
    lives = [Lifetime(int(n), int(s), int(s + d)) for s, (n, d) in zip(starts, sizes, strict=True)]
    offsets, total = assign_offsets(lives)
    for i, (a, at) in enumerate(zip(lives, offsets, strict=True)):
        assert 0 <= at <= at + a.nbytes <= total
        for b, other in zip(lives[:i], offsets, strict=False):
            apart = at + a.nbytes <= other or other + b.nbytes <= at
            assert apart or not a.meets(b) or not a.nbytes or not b.nbytes


def test_arrays_of_different_times_share_memory():
    assert assign_offsets([]) == ([], 0)
    assert assign_offsets([Lifetime(64, 0, 1), Lifetime(64, 2, 3), Lifetime(128, 4, 5)]) == ([0, 0, 0], 128)
    chain = [Lifetime(64, i, i + 1) for i in range(10)]
    assert assign_offsets(chain)[1] == 128
    assert assign_offsets([Lifetime(64, 0, 9), *chain])[1] == 192


def test_a_strict_reserve_that_is_exceeded_is_told_with_layer_and_shape():
    layer, model = nn.Linear(2, 3), nn.Sequential(nn.Linear(2, 3), nn.Softmax(1), nn.Linear(3, 2))
    for one, name in ((layer, r"Linear\(.*\)"), (model, "Sequential of 3 layers")):
        one.reserve((4, 2), strict=True)
        with pytest.raises(nn.ReserveError, match=rf"^{name}: x of shape \(500, 2\) needs more than was reserved; reserve"):
            one(np.ones((500, 2), np.float32))
        one.eval().reserve((500, 2), training=False, strict=True).train()
        if one is model:  # which keeps outputs for a backward
            with pytest.raises(nn.ReserveError, match=rf"^{name}: x of shape \(500, 2\) needs more than was reserved"):
                one(np.ones((500, 2), np.float32))


@pytest.mark.parametrize("device", ["cpu", nn.Linear(1, 1).device])
def test_a_loss_is_reserved_on_a_device_by_name(device):
    loss = nn.MSELoss().reserve((2, 3), device=device)
    assert loss(np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)) == 1
    with pytest.raises(nn.ArgumentError, match="device must be 'cpu' or 'cuda', got 'gpu'"):
        loss.reserve((2, 3), device="gpu")

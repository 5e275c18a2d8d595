"""`Sequential`: the chain rule, layers in several places, the buffers between layers; and the model that is made of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import numba_nn as nn
from numba_nn.models import Autoencoder
from numba_nn.report.profile import profile
from tests.allocations import no_array_data, no_runtime_memory
from tests.cases import assert_same, gradients

SHAPE = (3, 2, 8, 10)


def layers(dtype=np.float32):
    nn.manual_seed(3)
    return [
        nn.Conv2d(2, 5, 3, padding=1, dtype=dtype), nn.ReLU(), nn.MaxPool2d(2), nn.Sigmoid(), nn.Upsample(scale_factor=2),
        nn.Conv2d(5, 4, 3, stride=2, dtype=dtype), nn.Flatten(), nn.Linear(48, 7, dtype=dtype), nn.ReLU(),
        nn.Linear(7, 3, dtype=dtype), nn.Sigmoid(),
    ]  # fmt: skip


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def by_hand(chain, x, dy):
    """What `gradients` gives for a Sequential, layer by layer, with parameters named as there."""
    for layer in chain:
        layer.zero_grad()
        x = layer.forward(x)
    y = x
    for layer in reversed(chain):
        dy = layer.backward(dy)
    grads = {f"{i}.{name}": p.grad.copy() for i, layer in enumerate(chain) for name, p in layer.named_parameters()}
    return {"y": y, "x": dy, **grads}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_computes_what_its_layers_compute_one_by_one(dtype):
    x, dy = numbers(*SHAPE).astype(dtype), numbers(3, 3).astype(dtype)
    model = nn.Sequential(*layers(dtype))
    expected = by_hand(layers(dtype), x, dy)
    assert_same(gradients(model, x, dy), expected)
    np.testing.assert_array_equal(model.eval()(x), expected["y"])


def test_nesting_changes_nothing_but_names():
    a = layers()
    model = nn.Sequential(nn.Sequential(*a[:3], nn.Sequential(*a[3:6])), nn.Sequential(*a[6:10]), a[10])
    x, dy = numbers(*SHAPE), numbers(3, 3)
    got, expected = gradients(model, x, dy), gradients(nn.Sequential(*layers()), x, dy)
    assert list(model.state_dict()) == [
        "0.0.weight", "0.0.bias", "0.3.2.weight", "0.3.2.bias", "1.1.weight", "1.1.bias", "1.3.weight", "1.3.bias"
    ]  # fmt: skip
    for mine, flat in zip(got.values(), expected.values(), strict=True):
        np.testing.assert_array_equal(mine, flat)
    np.testing.assert_array_equal(model.eval()(x), expected["y"])


def test_it_is_a_sequence_of_its_layers():
    chain = layers()
    model = nn.Sequential(*chain)
    assert len(model) == len(chain)
    assert list(model) == chain
    assert model[2] is chain[2]
    assert model[-1] is chain[-1]
    assert model.output_shape(SHAPE) == (3, 3)
    assert model.shapes(SHAPE)[3] == (3, 5, 4, 5)
    flops = [layer.forward_flops(shape) for layer, shape in zip(chain, model.shapes(SHAPE), strict=False)]
    assert model.forward_flops(SHAPE) == sum(flops) > 0
    assert "Conv2d" in repr(model)


@pytest.mark.parametrize("given", [(), (3,), (nn.ReLU(), "ReLU"), (nn.Linear(2, 2), nn.Linear(2, 2, dtype=np.float64))])
def test_what_is_no_chain_is_refused(given):
    with pytest.raises(nn.ArgumentError, match="Sequential"):
        nn.Sequential(*given)


def test_a_slice_is_a_sequential_of_the_same_layers():
    model = nn.Sequential(*layers()).reserve(SHAPE, strict=True)
    encoder, x, y = model[:7], numbers(*SHAPE), np.empty((3, 3), np.float32)
    assert isinstance(encoder, nn.Sequential)
    assert list(encoder) == list(model)[:7]
    assert list(model[-2:]) == list(model)[-2:]
    with pytest.raises(nn.ArgumentError, match="one or more layers"):
        model[3:3]
    expected = by_hand(layers()[:7], x, numbers(3, 48))
    dy, dx = numbers(3, 3), np.empty_like(x)
    want = by_hand(layers(), x, dy)
    model.forward(x, out=y)
    model.backward(dy, out=dx)
    for _ in range(2):
        model.zero_grad()
        assert_same(gradients(encoder.reserve(SHAPE), x, numbers(3, 48)), expected)
        model.zero_grad()
        with no_array_data():  # the model's reserve still holds
            model.forward(x, out=y)
            model.backward(dy, out=dx)
        np.testing.assert_array_equal(dx, want["x"])
    assert_same({name: p.grad for name, p in model.named_parameters()}, {n: g for n, g in want.items() if n not in "xy"})


def test_layers_may_have_names():
    nn.manual_seed(0)
    model = nn.Sequential({"enlarge": nn.Upsample(scale_factor=2), "conv": nn.Conv2d(2, 3, 3, padding=1), "norm": nn.ReLU()})
    same = nn.Sequential(*model)
    assert list(model.state_dict()) == ["conv.weight", "conv.bias"]
    assert list(model[1:].state_dict()) == ["conv.weight", "conv.bias"]
    assert list(same[1:].state_dict()) == ["0.weight", "0.bias"]
    assert "(conv): Conv2d(" in repr(model)
    x, dy = numbers(2, 2, 6, 6), numbers(2, 3, 12, 12)
    expected = {name.replace("1.", "conv."): array for name, array in gradients(same, x, dy).items()}
    assert_same(gradients(model, x, dy), expected)
    rows, positions = (nn.summary(m, x.shape).replace("in conv", "in 1") for m in (model, same))
    assert [row.split() for row in rows.splitlines()[3:]] == [
        row.replace("| 1 Conv", "| conv Conv").replace("| 2 ReLU", "| norm ReLU").split() for row in positions.splitlines()[3:]
    ]
    assert {row.name.split()[0] for row in profile(model, x.shape, rounds=1).layers} <= {"enlarge", "conv", "norm"}


@pytest.mark.parametrize("name", ["a.b", "", 1])
def test_a_name_is_a_string_without_dots(name):
    with pytest.raises(nn.ArgumentError, match=rf"^Sequential: names of layers must be strings without dots, got {name!r}$"):
        nn.Sequential({name: nn.ReLU()})


def test_errors_name_the_layer_that_refuses():
    model = nn.Sequential(*layers())
    out = np.full((3, 3), 7, np.float32)
    with pytest.raises(nn.ShapeError, match=r"Linear\(in_features=48"):
        model.forward(numbers(3, 2, 8, 12), out=out)
    with pytest.raises(nn.DTypeError, match="x must be float32, got float64"):
        model.forward(np.zeros(SHAPE), out=out)
    assert (out == 7).all()


def test_a_shape_error_tells_the_position():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Sequential(nn.Flatten(), nn.Linear(36, 2)))
    for run in (model, model.output_shape, model.shapes, model.reserve):
        given = numbers(2, 3, 10, 8) if run is model else (2, 3, 10, 8)
        with pytest.raises(nn.ShapeError, match=r"^layer 3\.1: Linear\(.*\): x must have shape \(\.\.\., 36\), got \(2, 48\)$"):
            run(given)
    with pytest.raises(nn.ShapeError, match=r"^layer 2: MaxPool2d"):  # the ReLU before it runs behind it
        model(numbers(2, 3, 3, 3))
    with pytest.raises(nn.ShapeError, match=r"^Linear"):
        model[3][1](numbers(2, 3))


def test_names_in_messages_are_short_and_the_repr_has_a_line_for_each_layer():
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Sigmoid()), nn.Flatten())
    assert str(model) == "Sequential of 3 layers"
    assert str(model[1][:1]) == "Sequential of 1 layer"
    assert repr(model).splitlines() == [
        "Sequential(", f"  (0): {model[0]!r}", "  (1): Sequential(", "    (0): ReLU()", "    (1): Sigmoid()", "  )",
        f"  (2): {model[2]!r}", ")",
    ]  # fmt: skip
    calls = (
        lambda: model(np.ones((2, 2))), lambda: model.backward(numbers(2, 3)), lambda: model.reserve((2, 2), (2, 2)),
        lambda: model.load_state_dict({}), lambda: model.reserve((2, 2), dtype=np.float64),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(nn.NumbaNNError, match=r"^Sequential of 3 layers: ") as caught:
            call()
        assert "\n" not in str(caught.value)


# Buffers


def test_a_reserve_holds_for_every_smaller_batch():
    """Sizes are rounded up to the alignment: placed by their own sizes, arrays of a smaller batch may need more."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        widths = rng.integers(1, 40, 9)
        chain = [nn.Linear(int(a), int(b)) for a, b in itertools.pairwise(widths)]
        model = nn.Sequential(*chain).reserve((24, int(widths[0])), strict=True)
        for rows in range(24, 0, -1):
            model._call((rows, int(widths[0])), np.dtype(np.float32))


def test_nothing_is_allocated_after_reserve():
    model = nn.Sequential(*layers()).reserve((32, *SHAPE[1:]), strict=True)
    for rows in (32, 7, 32):
        x, y, dy, dx = (
            numbers(rows, *SHAPE[1:]),
            np.empty((rows, 3), np.float32),
            numbers(rows, 3),
            np.empty((rows, *SHAPE[1:])),
        )
        dx = dx.astype(np.float32)
        model.forward(x, out=y)
        model.backward(dy, out=dx)
        with no_array_data():
            model.forward(x, out=y)
            model.backward(dy, out=dx)
            model.eval().forward(x, out=y)
            model.train()
        with no_runtime_memory():
            model.forward(x, out=y)
            model.backward(dy, out=dx)
    np.testing.assert_array_equal(y, nn.Sequential(*layers())(x))


@pytest.mark.parametrize("order", ["C", "F"])
def test_inference_between_forward_and_backward(order):
    model, x, dy = nn.Sequential(*layers()), np.array(numbers(*SHAPE), order=order), numbers(3, 3)
    expected = gradients(nn.Sequential(*layers()), x, dy)
    for rows in (2, 50):  # the larger one replaces scratch
        model.zero_grad()
        model.forward(x)
        model.eval()(numbers(rows, *SHAPE[1:], seed=5))
        model.train()
        dx = model.backward(dy)
        np.testing.assert_array_equal(dx, expected["x"])
        for name, parameter in model.named_parameters():
            np.testing.assert_array_equal(parameter.grad, expected[name])


def test_results_are_the_callers_own():
    model = nn.Sequential(*layers())
    x, dy = numbers(*SHAPE), numbers(3, 3)
    results = gradients(model, x, dy)
    copies = {name: array.copy() for name, array in results.items()}
    gradients(model, -x, -dy)
    assert_same(results, copies)
    buffers = [
        b for w in (model._workspace, *(s.workspace for m in model.modules() for s in m._free)) for b in w._buffers.values()
    ]
    assert len(buffers) > 3
    assert not any(np.shares_memory(array, buffer) for array in results.values() for buffer in buffers)


def test_activations_that_no_backward_reads_share_scratch():
    chain = [nn.Upsample(scale_factor=1) for _ in range(10)]
    model = nn.Sequential(*chain).reserve((2, 1, 16, 16))
    activation = 2 * 16 * 16 * 4
    assert model.saved_nbytes == 0
    assert 2 * activation <= model.scratch_nbytes <= 3 * activation
    keeping = nn.Sequential(*(nn.ReLU() for _ in range(10))).reserve((2, 1, 16, 16))
    assert keeping.saved_nbytes == 9 * activation


def test_memory_of_a_reserved_model_stays():
    model = nn.Sequential(*layers()).reserve((16, *SHAPE[1:]))
    reserved = model.scratch_nbytes, model.saved_nbytes
    for rows in (16, 3, 16):
        gradients(model, numbers(rows, *SHAPE[1:]), numbers(rows, 3))
    assert (model.scratch_nbytes, model.saved_nbytes) == reserved
    gradients(model, numbers(17, *SHAPE[1:]), numbers(17, 3))
    assert model.saved_nbytes > reserved[1]


@pytest.mark.parametrize("chain", [layers, lambda: [nn.Linear(5, 4)], lambda: [nn.MaxPool2d(2), nn.Flatten()]])
def test_a_refused_forward_leaves_the_kept_ones(chain):
    model = nn.Sequential(*chain())
    shape = (5,) if isinstance(model[0], nn.Linear) else SHAPE[1:]
    model.reserve((2, *shape), calls=2, strict=True)
    x = numbers(2, *shape)
    y = model(x)
    for training in (True, False):
        with pytest.raises(nn.ReserveError):
            model.train(training).forward(numbers(300, *shape))
    model.train()
    expected = gradients(nn.Sequential(*chain()).load_state_dict(model.state_dict()), x, np.ones_like(y))
    np.testing.assert_array_equal(model.backward(np.ones_like(y)), expected["x"])
    with pytest.raises(nn.BackwardError):
        model.backward(np.ones_like(y))


def test_a_forward_that_fails_inside_keeps_nothing(monkeypatch):
    model = nn.Sequential(nn.Sequential(nn.Linear(5, 5), nn.ReLU()), nn.Linear(5, 5), nn.Sigmoid()).reserve((2, 5), calls=2)
    x, dy = numbers(2, 5), numbers(2, 5)
    expected = gradients(model, x, dy)
    model.forward(x)
    with monkeypatch.context() as patch:
        patch.setattr(nn.Sigmoid, "_forward", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.forward(-x)
    np.testing.assert_array_equal(model.backward(dy), expected["x"])
    with pytest.raises(nn.BackwardError):
        model.backward(dy)


# The autoencoder


def test_the_autoencoders_numbers():
    model = Autoencoder()
    assert sum(p.value.size for p in model.parameters()) == 751_875
    assert model.forward_flops((1, 3, 32, 32)) == 2 * 174_587_904
    assert model.output_shape((5, 3, 32, 32)) == (5, 3, 32, 32)
    assert list(model.state_dict()) == [f"{i}.{name}" for i in (0, 3, 6, 9, 12) for name in ("weight", "bias")]
    assert model.dtype == np.float32
    for layer in model:
        for name, parameter in layer.named_parameters():
            fan_in = parameter.value[0].size
            assert parameter.value.std() == pytest.approx(np.sqrt(2 / fan_in) if name == "weight" else 0, rel=0.05)


def test_the_autoencoders_latent_features():
    model = Autoencoder()
    x = numbers(2, 3, 8, 8)
    latent = model.encode(x)
    assert latent.shape == (2, 128, 2, 2)
    model[3].eval()
    model.encode(x)
    assert [layer.training for layer in model] == [i != 3 for i in range(len(model))]
    model.train()
    np.testing.assert_array_equal(latent, nn.Sequential(*model[:6]).eval()(x))
    with pytest.raises(nn.BackwardError):
        model.backward(x)
    model.reserve(x.shape, strict=True)
    np.testing.assert_array_equal(model.encode(x), latent)

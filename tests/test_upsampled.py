"""An `Upsample` and the convolution after it, as one layer: the same numbers as by themselves, and less memory."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import numba_nn as nn
from numba_nn.report import profile
from tests.allocations import no_array_data, no_runtime_memory
from tests.cases import assert_close, gradients
from tests.test_sequential import by_hand, numbers

# channels in and out, taps, padding, factor, groups, image, batch
GEOMETRIES = [
    (6, 3, 3, 1, 2, 1, (5, 7), 2),
    (4, 6, 3, 1, 2, 2, (4, 4), 1),
    (5, 2, (3, 5), (0, 2), (2, 3), 1, (3, 4), 2),
    (3, 2, 2, 1, 3, 1, (4, 5), 1),
    (3, 2, 3, 4, 2, 1, (3, 3), 2),  # padding beyond the kernel's reach
    (8, 3, 5, "same", 2, 1, (6, 5), 3),
    (3, 2, 4, "same", 2, 1, (6, 5), 1),
    (4, 2, (1, 3), (0, 1), (3, 2), 1, (4, 4), 2),
    (70, 3, 3, 1, 2, 1, (16, 16), 2),
]


def layers(channels=4, out=3, taps=3, padding=1, factor=2, groups=1, dtype=np.float32):
    nn.manual_seed(3)
    conv = nn.Conv2d(channels, out, taps, padding=padding, groups=groups, dtype=dtype)
    return [nn.LeakyReLU(0.1), nn.Upsample(scale_factor=factor), conv, nn.Sigmoid(), nn.Conv2d(out, 2, 1, dtype=dtype)]


def one_by_one(model, x):
    """What the layers make of x by themselves."""
    for layer in model:
        x = layer(x)
    return x


def joined(model, x_shape, keep=True):
    return [1] not in model.runs(x_shape, keep)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_one_layer_equals_two(geometry, dtype):
    *arguments, image, batch = geometry
    model, x = nn.Sequential(*layers(*arguments, dtype)), numbers(batch, arguments[0], *image).astype(dtype)
    assert joined(model, x.shape)
    dy = numbers(*model.output_shape(x.shape), seed=2).astype(dtype)
    expected, got = by_hand(layers(*arguments, dtype), x, dy), gradients(model, x, dy)
    assert got.keys() == expected.keys()
    for name, array in got.items():
        assert_close(array, expected[name])
    assert_close(model.eval()(x), got["y"])
    assert_close(copy.deepcopy(model)(x), got["y"])


@pytest.mark.parametrize("precision", ["default", "exact"])
def test_precision_may_change_between_forward_and_backward(precision):
    model, x = nn.Sequential(*layers()), numbers(2, 4, 5, 6)
    expected = model(x)
    nn.set_precision(precision)
    try:
        assert_close(model(x), expected)
    finally:
        nn.set_precision("default")
    assert model.backward(np.ones_like(expected)).shape == x.shape


@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch(training):
    model, x = nn.Sequential(*layers()).train(training), numbers(0, 4, 5, 6)
    y = model(x)
    assert y.shape == (0, 2, 10, 12)
    if training:
        assert model.backward(y).shape == x.shape
        assert not any(p.grad.any() for p in model.parameters())


def test_a_parameter_that_is_replaced_counts():
    model, x = nn.Sequential(*layers()), numbers(2, 4, 5, 6)
    before = model(x)
    model[2].weight, model[2].bias = nn.Conv2d(4, 3, 3).weight, None
    after = model(x)
    assert not np.allclose(before, after)
    assert_close(after, one_by_one(model, x))


def test_a_normalisation_that_measures_finds_its_memory_reserved():
    model = nn.Sequential(nn.Upsample(scale_factor=4), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Flatten())
    plain = nn.Sequential(nn.Upsample(scale_factor=4), nn.Conv2d(8, 8, 3, padding=1), nn.Flatten())
    shape, enlarged = (4, 8, 16, 16), 4 * 8 * 64 * 64 * 4
    for m in (model, plain):
        m.eval().reserve(shape, training=False, strict=True)
    assert model.scratch_nbytes - plain.scratch_nbytes <= enlarged  # the normalisation's input, as large as its output
    model[2].train()
    x = numbers(*shape)
    y = model(x)
    conv = nn.Conv2d(8, 8, 3, padding=1).load_state_dict(model[1].state_dict())
    assert_close(y, one_by_one((nn.Upsample(scale_factor=4), conv, nn.BatchNorm2d(8), nn.Flatten()), x))


def test_forwards_of_a_model_that_moves_are_forgotten():
    model, x = nn.Sequential(*layers()), numbers(2, 4, 5, 6)
    model(x)
    stand_in = model._joined[1]
    assert stand_in in list(model.modules())
    assert len(stand_in._kept) == 1
    stand_in._move(stand_in.device, None)
    assert stand_in._kept == []


def test_a_profile_measures_what_runs():
    model = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(8, 3, 3, padding=1), nn.ReLU(), nn.Flatten())
    result = profile(model, (2, 8, 6, 6), rounds=1, peak_gflops=1.0)
    forward, backward = (
        next(r for r in result.layers if r.direction == d and "Conv2d" in r.name) for d in ("forward", "backward")
    )
    assert "+ Upsample + ReLU" in forward.name
    assert forward.saved_bytes == 0  # the input is the caller's
    assert backward.flops == forward.flops  # no gradient of the input


def test_what_stays_by_itself():
    class Own(nn.Conv2d):
        pass

    x_shape, up = (2, 4, 5, 6), nn.Upsample(scale_factor=2)
    for before, conv in (
        (nn.Upsample(size=(7, 9)), nn.Conv2d(4, 3, 3)),  # pixels that do not all show as often
        (nn.Upsample(scale_factor=1), nn.Conv2d(4, 3, 3)),
        (up, nn.Conv2d(4, 3, 3, stride=2)),
        (up, nn.Conv2d(4, 3, 3, dilation=2)),
        (up, nn.Conv2d(4, 3, 1)),
        (up, nn.Conv2d(4, 4, 3, groups=4)),  # depthwise
        (up, nn.Conv2d(4, 3, 3, algorithm="winograd")),
        (up, Own(4, 3, 3)),
    ):
        assert [0] in nn.Sequential(before, conv).runs(x_shape, True), conv
    wide = nn.Sequential(up, nn.Conv2d(128, 128, 3, padding=1))
    assert wide.runs((1, 128, 4, 4), True) == wide.runs((64, 128, 4, 4), True) == [[0], [1]]  # Winograd's, for some batch


def test_a_reserved_model_allocates_nothing_for_smaller_batches():
    model, x = nn.Sequential(*layers()), numbers(5, 4, 6, 7)
    y, dx = np.empty(model.output_shape(x.shape), np.float32), np.empty_like(x)
    model.reserve(x.shape, strict=True)
    for n in (5, 1, 3):
        model.forward(x[:n], out=y[:n])
        model.backward(y[:n], out=dx[:n])  # compiles
        with no_array_data(), no_runtime_memory():
            model.forward(x[:n], out=y[:n])
            model.backward(y[:n], out=dx[:n])


def test_the_enlarged_image_is_nowhere():
    model = nn.Sequential(nn.ReLU(), nn.Upsample(scale_factor=4), nn.Conv2d(8, 1, 3, padding=1), nn.Flatten())
    model.reserve((4, 8, 16, 16))
    assert model.saved_nbytes + model.scratch_nbytes < 4 * 8 * 64 * 64 * 4


def test_frozen_parameters_and_no_input_gradient():
    model, x = nn.Sequential(*layers()[1:]), numbers(2, 4, 5, 6)
    y = model(x)
    assert model.backward(np.ones_like(y), input_gradient=False) is None
    expected = model[1].weight.grad.copy()
    model.zero_grad()
    model[1].weight.requires_grad = model[1].bias.requires_grad = False
    dx = model.backward(np.ones_like(model(x)))
    assert (model[1].weight.grad == 0).all()
    assert (dx != 0).any()
    assert (expected != 0).any()


def test_new_weights_count_in_eval_mode():
    model, x = nn.Sequential(*layers()).eval(), numbers(2, 4, 5, 6)
    before = model(x)
    packed = model[2].packed_nbytes
    assert packed > 0
    model.load_state_dict({"2.weight": 2 * model[2].weight.value}, strict=False)
    after = model(x)
    assert not np.allclose(before, after)
    assert_close(after, one_by_one(model, x))


def test_a_normalisation_folds_into_it():
    model, x = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.ReLU()), numbers(2, 4, 5, 6)
    model(x)
    assert model.runs(x.shape, False) == [[1, 0, 2, 3]]
    expected = one_by_one(model.eval(), x)
    assert_close(model(x), expected)
    model[2].train()  # measures: layer by layer
    assert not np.allclose(model(x), expected)


def test_slices_copies_and_handles():
    model, x = nn.Sequential(*layers()), numbers(2, 4, 5, 6)
    expected = model(x)
    part = model[1:4]
    assert joined(part, x.shape)
    assert part._joined[0]._workspace is model._workspace
    assert_close(model[4](part(model[0](x))), expected)
    for other in (model.share(), pickle.loads(pickle.dumps(model)), nn.Sequential(nn.Sequential(*model), nn.Flatten())[0]):
        assert_close(other(x), expected)
        other.backward(np.ones_like(expected))


def test_a_convolution_may_have_two_places():
    nn.manual_seed(2)
    up, conv = nn.Upsample(scale_factor=2), nn.Conv2d(3, 3, 3, padding=1)
    chain, x = [up, conv, nn.Tanh(), up, conv, nn.Sigmoid(), nn.Conv2d(3, 1, 1)], numbers(2, 3, 4, 3)
    model = nn.Sequential(*chain)
    assert model.runs(x.shape, True)[0] == [1, 0, 2]
    dy = numbers(*model.output_shape(x.shape), seed=2)
    got = gradients(model, x, dy)
    nn.manual_seed(2)
    first, second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
    second.load_state_dict(first.state_dict())
    last = nn.Conv2d(3, 1, 1)
    last.load_state_dict(chain[-1].state_dict())
    twins = [nn.Upsample(scale_factor=2), first, nn.Tanh(), nn.Upsample(scale_factor=2), second, nn.Sigmoid(), last]
    expected = by_hand(twins, x, dy)
    assert_close(got["x"], expected["x"])
    assert_close(conv.weight.grad, first.weight.grad + second.weight.grad)


def test_summary_says_so():
    lines = nn.summary(nn.Sequential(*layers()), (2, 4, 5, 6)).splitlines()
    assert [cell.strip() for cell in lines[3].strip("|").split("|")][-2:] == ["in 2", "in 2"]

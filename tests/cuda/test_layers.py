"""Layers on the GPU, simulated, compute what they compute on the CPU."""

from __future__ import annotations

import functools
from unittest import mock

import ml_dtypes
import numpy as np
import pytest
from simulated_cuda import simulated
from simulator import TWINS, launch
from trials import EXTRAS, PRODUCT_EXTRAS, PRODUCT_TRIALS, TRIALS, WINDOWS, Trial, normal

import numba_nn as nn
from examples.own_layer import Scale
from numba_nn.core.cuda.portable import covering_windows
from numba_nn.core.cuda.ptx import WINDOW, store_window
from numba_nn.core.device import CPU, CUDA
from numba_nn.core.epilogue import neutral_terms
from numba_nn.core.errors import RangeError

SPEAKING = ("BatchNorm", "Softmax", "LogSoftmax", "Transpose", "GlobalAvg")
ROWS = [trial for trial in TRIALS if trial.name.startswith(SPEAKING)][::3]
"""Some of those whose threads speak to each other."""


@pytest.fixture(autouse=True)
def gpu():
    with simulated():
        yield


def assert_alike(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_the_gpu_computes_what_the_cpu_does(trial):
    assert_alike(trial.run(CUDA), trial.run(CPU))


NARROW = [*TRIALS, *PRODUCT_TRIALS[::4], *PRODUCT_EXTRAS]


@pytest.mark.parametrize(
    ("trial", "dtype"),
    [(trial, ml_dtypes.bfloat16) for trial in NARROW] + [(trial, np.float16) for trial in NARROW[::4]],
    ids=lambda given: given.__name__ if isinstance(given, type) else str(given),
)
def test_arrays_of_16_bits(trial, dtype):
    found, expected = trial.run(CUDA, dtype), trial.run(CPU, np.float32, values=dtype)
    assert found["y"].dtype == dtype
    for name, array in expected.items():
        error = np.abs(found[name].astype(np.float32) - array).max(initial=0)
        assert error <= 8 * ml_dtypes.finfo(dtype).eps * max(1, np.abs(array).max(initial=0)), name


@pytest.fixture
def exact():
    nn.set_precision("exact")
    yield
    nn.set_precision("default")


@pytest.mark.parametrize("trial", PRODUCT_TRIALS, ids=str)
def test_products_are_exact_where_that_is_asked_for(trial, exact):
    assert_alike(trial.run(CUDA), trial.run(CPU))


@pytest.mark.parametrize("trial", PRODUCT_TRIALS[::4] + PRODUCT_EXTRAS[-1:], ids=str)
def test_tensor_cores_round_factors_to_eleven_bits(trial):
    found, expected = trial.run(CUDA), trial.run(CPU)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=2e-3 * max(1, np.abs(array).max()), err_msg=name)
    assert any(not np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("order", ["reversed", "interleaved"])
@pytest.mark.parametrize("trial", [*EXTRAS, *ROWS, *PRODUCT_TRIALS[::4], *PRODUCT_EXTRAS[2:3]], ids=str)
def test_in_float64_and_in_whatever_order_threads_run(trial, order):
    with simulated(functools.partial(launch, order=order)):
        found, expected = trial.run(CUDA, np.float64), trial.run(CPU, np.float64)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (ml_dtypes.bfloat16, 0.01)])
def test_the_example_of_a_layer_runs_on_a_gpu(dtype, tolerance):
    trial = Trial("a layer of one's own", lambda t: Scale(5, t), normal((41, 5)))
    found, expected = trial.run(CUDA, dtype), trial.run(CPU, np.float32, values=dtype)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name].astype(np.float32), array, tolerance, tolerance)


def launch_few_threads(dispatcher, blocks, threads, arguments):
    """With one row of blocks over all planes, or four threads over all windows: each goes on where it would be done."""
    if isinstance(blocks, tuple):
        blocks = blocks[0], 1
    elif dispatcher.kernel.grid is covering_windows:
        blocks, threads = 1, 4
    launch(dispatcher, blocks, threads, arguments)


@pytest.mark.parametrize("trial", WINDOWS, ids=str)
def test_what_is_aligned_is_stored_by_windows(trial):
    stores = mock.Mock(side_effect=TWINS[store_window], speaks=False)
    with mock.patch.dict(TWINS, {store_window: stores}):
        found = trial.run(CUDA)
    assert stores.call_count >= sum(array.size // WINDOW for name, array in found.items() if name.startswith(("y", "dx")))


@pytest.mark.parametrize("trial", EXTRAS, ids=str)
def test_few_threads_do_the_work_of_many(trial):
    with simulated(launch_few_threads):
        found = trial.run(CUDA)
    assert_alike(found, trial.run(CPU))


def test_the_same_masks_in_every_draw():
    (x,) = normal((40, 5))(np.float32)
    nn.manual_seed(11)
    host = nn.Dropout(0.4), nn.Dropout2d(0.5)
    expected = [layer(shape).copy() for _ in range(2) for layer, shape in zip(host, (x, x.reshape(2, 20, 5, 1)), strict=True)]
    nn.manual_seed(11)
    device = [layer.to("cuda") for layer in (nn.Dropout(0.4), nn.Dropout2d(0.5))]
    for i, y in enumerate(expected):
        np.testing.assert_array_equal(device[i % 2](CUDA.from_host(x.reshape(y.shape))).copy_to_host(), y)


def test_running_statistics_move_on():
    found = {}
    for device in (CPU, CUDA):
        for momentum in (0.1, None):
            layer = nn.BatchNorm1d(3, momentum=momentum).to(device.name)
            for x in normal((5, 3), (4, 3), (7, 3))(np.float32):
                layer(device.from_host(x))
            found.setdefault(momentum, []).append({name: device.to_host(a) for name, a in layer.named_arrays()})
    for host, cuda in found.values():
        assert_alike(cuda, host)


def test_the_places_of_maxima_are_given():
    (x,) = normal((2, 3, 6, 8))(np.float32)
    layer = nn.MaxPool2d(2, return_indices=True)
    y, places = layer(x)
    found, found_places = nn.MaxPool2d(2, return_indices=True)(CUDA.from_host(x))
    np.testing.assert_array_equal(found.copy_to_host(), y)
    np.testing.assert_array_equal(found_places.copy_to_host(), places)
    assert found_places.dtype == np.int64


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2, 1), nn.AdaptiveMaxPool2d(1), nn.AdaptiveMaxPool2d(2)], ids=repr)
def test_a_pooling_takes_the_maximum_that_the_cpu_takes(layer):
    x = np.random.default_rng(0).choice([0, 1, np.nan, np.inf, -np.inf], (3, 2, 6, 7)).astype(np.float32)
    dy = np.ones(layer.output_shape(x.shape), np.float32)
    expected = layer(x), layer.backward(dy)
    found = layer.to("cuda")(CUDA.from_host(x)), layer.backward(CUDA.from_host(dy))
    layer.to("cpu")
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got.copy_to_host(), wanted)


def test_an_index_outside_of_the_table_is_refused():
    layer = nn.Embedding(10, 4).to("cuda")
    x = np.zeros((3, 300), np.int64)
    x[1, 5], x[2, 7] = 10, -1
    with pytest.raises(RangeError, match=r"0 \.\. 9, got 10 at \[1, 5\]"):
        layer(CUDA.from_host(x))


def test_what_an_epilogue_needs_lives_on_the_device():
    host = nn.BatchNorm2d(3)
    host(normal((5, 3, 4, 4))(np.float32)[0])
    expected = host.fold(np.full(3, 0.5, np.float32))
    found = host.to("cuda").fold(CUDA.from_host(np.full(3, 0.5, np.float32)))
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got.copy_to_host(), wanted, rtol=1e-6)
    scale, shift, *_ = neutral_terms(3, np.dtype(np.float32), CUDA)
    np.testing.assert_array_equal([scale.copy_to_host(), shift.copy_to_host()], [[1] * 3, [0] * 3])


def test_nothing_is_allocated_after_reserve():
    model = nn.Sequential(
        nn.ZeroPad2d(1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2), nn.Upsample(scale_factor=2),
        nn.Permute(0, 2, 1, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Sigmoid(), nn.LogSoftmax(1),
    ).to("cuda")  # fmt: skip
    model.reserve((2, 3, 4, 6))
    x, y = CUDA.zeros((2, 3, 4, 6), np.float32), CUDA.empty(model.output_shape((2, 3, 4, 6)), np.float32)
    dx = CUDA.empty(x.shape, np.float32)
    with simulated(allocates=False):
        for _ in range(2):
            assert model.forward(x, out=y) is y
            assert model.backward(y, out=dx) is dx

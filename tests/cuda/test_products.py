"""Matrix products on the GPU, simulated, against NumPy: every transposition, kind of numbers, loader and epilogue."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from lanes import ORDERS
from simulated_cuda import simulated
from simulator import launch

import numba_nn as nn
from numba_nn.core.cuda import gemm as cuda_gemm
from numba_nn.core.cuda import slices as cuda_slices
from numba_nn.core.cuda.gemm import multiply_matrices
from numba_nn.core.cuda.loaders import vectors_along_depth, vectors_along_rows
from numba_nn.core.cuda.product import ADD, OVERWRITE, Shape, in_rows, tiled_product
from numba_nn.core.cuda.slices import most_slices, partial_size, slices_of
from numba_nn.core.cuda.tiles import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, TF32
from numba_nn.core.device import CUDA
from numba_nn.core.epilogue import IDENTITY, LEAKY_RELU, RELU, RELU6, SIGMOID, TANH
from numba_nn.core.product.gemm import gemm
from tests.gemm_cases import BATCHES, EDGES, TRANSPOSITIONS

KINDS = {"tf32": np.float32, "exact": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
ROUNDING = {"tf32": 2**-11, "exact": 2**-24, "float64": 2**-53, "float16": 2**-11, "bfloat16": 2**-8}


@pytest.fixture(autouse=True)
def gpu():
    with simulated():
        yield
    nn.set_precision("default")


def normal(shape, kind, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(KINDS[kind])


def on_device(array):
    """Matrices in rows."""
    return CUDA.from_host(np.ascontiguousarray(array).reshape(len(array), math.prod(array.shape[1:])))


def product(kind, m, n, k, transposed=(False, False), finish=OVERWRITE, of=((0,), (0,)), **terms):
    """What comes out, what should, and the largest rounding to expect of sums of k products."""
    nn.set_precision("exact" if kind == "exact" else "default")
    a_of, b_of = (np.array(which, np.int64) for which in of)
    a, b = normal((1 + a_of.max(initial=0), m, k), kind, 0), normal((1 + b_of.max(initial=0), k, n), kind, 1)
    c = normal((len(a_of), m, n), kind, 2)
    given = [x.swapaxes(1, 2) if swapped else x for x, swapped in zip((a, b), transposed, strict=True)]
    found = on_device(c)
    multiply_matrices(
        found, *map(on_device, given), CUDA.from_host(a_of), CUDA.from_host(b_of), (m, n, k),
        (1, m) if transposed[0] else (k, 1), (1, k) if transposed[1] else (n, 1), finish, **terms,
    )  # fmt: skip
    expected = a[a_of].astype(float) @ b[b_of].astype(float) + (c.astype(float) if finish == ADD else 0)
    tolerance = ROUNDING[kind] * 32 * max(1, k) ** 0.5
    return found.copy_to_host().view(c.dtype).reshape(c.shape).astype(float), expected, tolerance


@pytest.mark.parametrize("transposed", TRANSPOSITIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_all_transpositions(kind, transposed):
    shape = (40, 72, 40) if kind in ("tf32", "bfloat16") else (36, 20, 12)
    found, expected, tolerance = product(kind, *shape, transposed)
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("transposed", TRANSPOSITIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_aligned(kind, transposed):
    found, expected, tolerance = product(kind, 5, 7, 3, transposed)
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_added_to_what_is_there(kind):
    found, expected, tolerance = product(kind, 33, 6, 17, finish=ADD)
    np.testing.assert_allclose(found, expected, atol=tolerance)


def steps(size):
    """What the simulator has to do: of small tiles and of 16 of the depth."""
    m, n, k = size
    return -(-m // 64) * -(-n // 64) * -(-k // 16)


SMALL = [size for size in EDGES if steps(size) <= 10]


@pytest.mark.parametrize(("number", "size"), list(enumerate(SMALL)), ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_small_sizes_of_the_cpus_contract(kind, number, size):
    found, expected, tolerance = product(kind, *size, TRANSPOSITIONS[number % 4], (OVERWRITE, ADD)[number % 2])
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize(("number", "batch"), list(enumerate(BATCHES)), ids=str)
def test_leading_dimensions_broadcast(number, batch):
    numbers = (np.arange(math.prod(shape)).reshape(shape) for shape in batch)
    of = [which.ravel() for which in np.broadcast_arrays(*numbers)]
    found, expected, tolerance = product(list(KINDS)[number % 5], 3, 5, 4, TRANSPOSITIONS[number % 4], of=of)
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("kind", ["tf32", "exact", "float16"])
def test_large_tiles(kind, monkeypatch):
    monkeypatch.setattr(cuda_slices, "MULTIPROCESSORS", 1)
    found, expected, tolerance = product(kind, 70, 72, 24, (False, True))
    np.testing.assert_allclose(found, expected, atol=tolerance)


ACTIVATIONS = {
    IDENTITY: lambda x: x,
    RELU: lambda x: np.maximum(x, 0),
    LEAKY_RELU: lambda x: np.where(x > 0, x, 0.125 * x),
    RELU6: lambda x: np.clip(x, 0, 6),
    SIGMOID: lambda x: 1 / (1 + np.exp(-x)),
    TANH: np.tanh,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_epilogue(kind, activation):
    sums = "float64" if kind == "float64" else "exact"
    scale, shift = normal(7, sums, 5), normal(7, sums, 6)
    terms = {"scale": CUDA.from_host(scale), "shift": CUDA.from_host(shift), "slope": 0.125}
    found, expected, tolerance = product(kind, 5, 7, 9, finish=activation, **terms)
    np.testing.assert_allclose(found, ACTIVATIONS[activation](scale * expected + shift), atol=3 * tolerance)


def test_sums_of_half_precision_may_be_stored_whole():
    a, b = normal((1, 9, 16), "bfloat16", 0), normal((1, 16, 5), "bfloat16", 1)
    single, c = CUDA.from_host(np.zeros(1, np.int64)), CUDA.zeros((1, 45), np.float32)
    multiply_matrices(c, on_device(a), on_device(b), single, single, (9, 5, 16), (16, 1), (5, 1))
    np.testing.assert_allclose(c.copy_to_host().reshape(9, 5), a[0].astype(float) @ b[0].astype(float), rtol=1e-5, atol=1e-5)


def test_the_kernel_of_the_cpu_has_it_as_its_twin():
    a, b = normal((1, 4, 3), "tf32", 0), normal((1, 3, 5), "tf32", 1)
    none, single, c = CUDA.zeros((0,), np.float32), CUDA.from_host(np.zeros(1, np.int64)), CUDA.zeros((1, 20), np.float32)
    for _ in range(2):
        gemm(c, none, none, on_device(a), on_device(b), single, single, (4, 5, 3), (3, 1), (5, 1), 1)
    np.testing.assert_allclose(c.copy_to_host().reshape(4, 5), 2 * a[0] @ b[0], atol=1e-2)


# The depth in slices


@pytest.mark.parametrize("finish", [OVERWRITE, ADD, TANH])
@pytest.mark.parametrize(("kind", "transposed"), list(zip(KINDS, [*TRANSPOSITIONS, (False, False)], strict=True)))
def test_a_deep_product_of_few_tiles_is_cut(kind, transposed, finish, monkeypatch):
    monkeypatch.setattr(cuda_slices, "LEAST_SPAN", 32)
    sums = np.float64 if kind == "float64" else np.float32
    size = 3, 70, 100
    assert slices_of(*size, 2) == (2, 64)
    room = np.full(partial_size(*size, 2), np.nan, sums)
    scale, shift = np.linspace(0.5, 1, 70).astype(sums), np.linspace(-1, 1, 70).astype(sums)
    terms = {"scale": CUDA.from_host(scale), "shift": CUDA.from_host(shift), "partial": CUDA.from_host(room)}
    found, expected, tolerance = product(kind, *size, transposed, finish, of=((0, 1), (0, 0)), **terms)
    if finish == TANH:
        expected = np.tanh(scale * expected + shift)
    np.testing.assert_allclose(found, expected, atol=tolerance)
    assert np.isfinite(terms["partial"].copy_to_host()).any()


def test_no_batch_that_is_smaller_needs_more_room():
    for columns, depth in ((64, 1024), (1000, 700), (100, 2000), (10_000, 10_000)):
        for rows in (1, 63, 65, 700):
            slices = {fewer: slices_of(fewer, columns, depth, 1)[0] for fewer in range(1, rows + 1)}
            most = max(n * fewer * columns if n > 1 else 0 for fewer, n in slices.items())
            assert most <= partial_size(rows, columns, depth)
            assert most_slices(rows, columns, depth, 1) >= max(slices_of(rows, columns, k, 1)[0] for k in range(0, depth, 7))


@pytest.mark.parametrize("depth", [0, 1, 255, 256, 511, 512, 1000, 4097])
def test_slices_cover_the_depth(depth):
    slices, span = slices_of(64, 64, depth, 1)
    assert (slices - 1) * span <= max(0, depth - 1) < slices * span
    assert (slices > 1) == (depth >= 512)


def test_a_linear_layer_has_room_for_slices(monkeypatch):
    monkeypatch.setattr(cuda_slices, "LEAST_SPAN", 32)
    x = np.random.default_rng(0).standard_normal((70, 130)).astype(np.float32)
    nn.set_precision("exact")
    found = {}
    for device in ("cpu", "cuda"):
        layer = nn.Linear(130, 5).to(device)
        for parameter in layer.parameters():
            parameter.device.assign(parameter.value, np.linspace(-1, 1, parameter.value.size).reshape(parameter.value.shape))
        on = layer.device.from_host
        y, dx = layer(on(x)), layer.backward(on(x[:, :5] + 0))
        found[device] = [layer.device.to_host(a) for a in (y, dx, *(p.grad for p in layer.parameters()))]
    for got, expected in zip(found["cuda"], found["cpu"], strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)


# The kernel itself: orders of threads, slices of the depth


def arguments(m, n, k, slices=1, span=None):
    a, b = normal((m, k), "tf32", 0), normal((n, k), "tf32", 1)
    c, single = np.full(slices * m * n, np.nan, np.float32), np.zeros(1, np.int64)
    shape = tuple(Shape(m, n, k, 1, slices, span or k))
    return [c, a.ravel(), b.ravel(), single, single, c, c, shape, (m, k, k, 1), (n, k, k, 1), (m, n), np.float32(0)], a @ b.T


def test_every_order_of_threads_gives_the_same_bits():
    kernel = tiled_product(TF32, (64, 64), (vectors_along_depth, vectors_along_depth), in_rows, OVERWRITE, True)
    results = []
    for order in ORDERS:
        given, expected = arguments(64, 64, 48)
        launch(kernel, *kernel.grid(*given), given, order=order)
        np.testing.assert_allclose(given[0].reshape(64, 64), expected, atol=0.05)
        results.append(given[0])
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_slices_of_the_depth_are_partial_sums():
    kernel = tiled_product(TF32, (64, 64), (vectors_along_depth, vectors_along_depth), in_rows, OVERWRITE, True)
    given, expected = arguments(20, 12, 88, slices=3, span=32)
    launch(kernel, *kernel.grid(*given), given)
    np.testing.assert_allclose(given[0].reshape(3, 20, 12).sum(0), expected, atol=0.05)


def test_kernels_are_made_once():
    one, other = (tiled_product(FLOAT32, (64, 64), (vectors_along_rows,) * 2, in_rows, ADD, True) for _ in range(2))
    assert one is other


def test_kinds_by_type_and_precision():
    assert [cuda_gemm.kind_of(np.dtype(t)) for t in ("f4", "f8", "f2", ml_dtypes.bfloat16)] == [
        TF32,
        FLOAT64,
        FLOAT16,
        BFLOAT16,
    ]
    nn.set_precision("exact")
    assert cuda_gemm.kind_of(np.dtype("f4")) is FLOAT32

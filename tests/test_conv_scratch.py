"""The scratch of `Conv2d` is as large as its kernels need: over random geometries, nothing beyond it is written, nothing that
it held before is read, and nothing beyond inputs and weights."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn
from numba_nn.core import threads
from numba_nn.core.kernel import Kernel
from numba_nn.layers.conv.col2im import Col2im, splits
from numba_nn.layers.conv.im2col import Im2col
from numba_nn.layers.conv.im2row import Im2row
from numba_nn.layers.conv.implicit_gemm import ImplicitGemm
from tests import reference
from tests.cases import assert_close
from tests.guarded import Guarded, fenced

GEOMETRIES = 60


def draw(rng, least_channels=1):
    """A layer's arguments and the shape of an input, of which the dilated kernel fits."""

    def one(*choices):
        return choices[rng.integers(len(choices))]

    groups = one(1, 1, 1, 2, 3)
    channels, out_channels = (
        groups * (least_channels - 1 + int(one(47, 95) if rng.random() < 0.1 else rng.integers(1, one(4, 20))))
        for _ in range(2)
    )
    kernel = one(1, 2, 3, 4, 5), one(1, 2, 3, 5, 18)
    dilation = one(1, 1, 2, 7), one(1, 1, 3, 7)
    same = rng.random() < 0.2
    stride = (1, 1) if same else (one(1, 1, 2, 3, 40), one(1, 1, 2, 5, 40))
    padding = "same" if same else (one(0, 1, 3, 9), one(0, 1, 4, 30))
    border = (0, 0) if same else padding
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    least = [1 if same else max(1, r - 2 * p) for r, p in zip(reach, border, strict=True)]
    extra = one((0, 0), (1, 2), (7, 16), (2, 299), (16, 17), (0, 260))
    size = [n + int(rng.integers(e + 1)) if rng.random() < 0.5 else n + e for n, e in zip(least, extra, strict=True)]
    kwargs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": bool(one(True, False))}
    return (channels, out_channels, kernel), kwargs, (int(rng.integers(1, 4)), channels, *size)


def draw_im2col(rng):
    """The same, with channels to fill a tile."""
    return draw(rng, least_channels=12)


def draw_winograd(rng):
    """The same, of what Winograd's algorithm can serve: up to several chunks of tiles and blocks of channels."""
    channels, out_channels = (int(rng.integers(1, (4, 20, 70)[rng.integers(3)])) for _ in range(2))
    kernel = ((3, 3), (3, 3), (5, 5), (1, 3), (1, 5))[rng.integers(5)]
    padding, dilation = ([int(n) for n in rng.integers(*bounds, size=2)] for bounds in ((0, 5), (1, (2, 4)[rng.integers(2)])))
    least = [max(1, (k - 1) * d + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = [n + int(rng.integers((1, 9, 20, 70)[rng.integers(4)])) for n in least]
    kwargs = {"padding": tuple(padding), "dilation": tuple(dilation), "bias": bool(rng.integers(2)), "algorithm": "winograd"}
    return (channels, out_channels, kernel), kwargs, (int(rng.integers(1, (3, 20)[rng.integers(2)])), channels, *size)


def draw_pointwise(rng):
    """The same, of one tap: up to several blocks of pixels, rows and depths."""
    groups = int(rng.integers(1, 4))
    channels, out_channels = (groups * int(rng.integers(6, (9, 30, 300)[rng.integers(3)])) for _ in range(2))
    size = [int(rng.integers(4, (6, 20, 40)[rng.integers(3)])) for _ in range(2)]
    return (
        (channels, out_channels, 1),
        {"groups": groups, "bias": bool(rng.integers(2))},
        (int(rng.integers(1, 4)), channels, *size),
    )


def draw_whole_image(rng):
    """The same, of taps as large as the image."""
    size = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    channels, out_channels = (int(rng.integers(1, (4, 70)[rng.integers(2)])) for _ in range(2))
    return (channels, out_channels, size), {"stride": 2}, (int(rng.integers(1, 20)), channels, *size)


def along(x, weight, dy, args, kwargs):
    """Sum of dy times the convolution, without its bias."""
    return np.sum(dy * reference.conv2d(x, {"weight": weight}, *args, **{**kwargs, "bias": False}))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("make", "preferred"),
    [
        (draw, None), (draw_im2col, Im2col), (draw, Im2row), (draw, Col2im), (draw_winograd, None),
        (draw_pointwise, None), (draw_whole_image, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("seed", range(GEOMETRIES))
def test_scratch_is_neither_too_small_nor_read_before_it_is_written(seed, make, preferred, dtype, monkeypatch):
    monkeypatch.setattr(Kernel, "for_work", lambda self, work, *_: self.serial)
    monkeypatch.setattr(threads._team, "value", 1 + seed % 5)  # by which kernels cut their work
    if preferred:
        monkeypatch.setattr(preferred, "cost", classmethod(lambda kind, problem, one_pass: -1.0))
    rng = np.random.default_rng(seed)
    args, kwargs, x_shape = make(rng)
    layer = nn.Conv2d(*args, **kwargs, dtype=dtype)
    call = layer._call(x_shape, np.dtype(dtype))
    passes = call.geometry["default"]
    workers = 1 + seed % 4
    specs = {one_pass: algorithm.scratch_spec(one_pass, workers) for one_pass, algorithm in passes.items()}
    scratch = {p: {name: Guarded(*spec) for name, spec in arrays.items()} for p, arrays in specs.items()}
    guarded = {f"{p} {name}": array for p, arrays in scratch.items() for name, array in arrays.items()}
    guarded |= {"y": Guarded(call.y_shape, dtype), "dx": Guarded(x_shape, dtype)}
    plain = {p: {name: guarded.array for name, guarded in arrays.items()} for p, arrays in scratch.items()}
    call.scratch = {"default": {p: (algorithm, plain[p]) for p, algorithm in passes.items()}}
    x, dy = (fenced(rng.standard_normal(shape).astype(dtype)) for shape in (x_shape, call.y_shape))
    layer.weight.memory = fenced(layer.weight.value)
    parameters = {name: p.value.astype(np.float64) for name, p in layer.named_parameters()}

    y = layer.forward(x, out=guarded["y"].array)
    dx = layer.backward(dy, out=guarded["dx"].array)

    for name, array in guarded.items():
        array.check(name)
    assert_close(y, reference.conv2d(x.astype(np.float64), parameters, *args, **kwargs))
    for name, got, at in (("x", dx, x), ("weight", layer.weight.grad, layer.weight.value)):
        direction = {"x": x, "weight": layer.weight.value, name: rng.standard_normal(at.shape)}
        expected = along(direction["x"].astype(np.float64), direction["weight"].astype(np.float64), dy, args, kwargs)
        terms = got * direction[name]
        tolerance = (1e-5 if dtype == np.float32 else 1e-12) * max(1, np.linalg.norm(terms.ravel()), np.abs(terms).sum() / 30)
        assert abs(terms.sum() - expected) <= tolerance, name


@pytest.mark.parametrize("make", [draw, draw_im2col, draw_winograd, draw_pointwise])
@pytest.mark.parametrize("seed", range(GEOMETRIES))
def test_scratch_serves_smaller_batches_though_other_algorithms_compute_them(seed, make):
    args, kwargs, (_, *image) = make(np.random.default_rng(seed))
    layer = nn.Conv2d(*args, **kwargs)
    sizes = [layer.scratch_spec((n, *image), layer.dtype)["passes"][0] for n in range(14)]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("arguments", "image"), [((64, 64, 1), (7, 7)), ((16, 48, 3, 2, 1), (9, 8)), ((40, 48, 3, 1, 1), (4, 4))]
)
def test_what_is_packed_serves_smaller_batches(arguments, image, monkeypatch):
    monkeypatch.setattr(Im2row, "cost", classmethod(lambda kind, problem, one_pass: 1e30))
    monkeypatch.setattr(Im2col, "cost", classmethod(lambda kind, problem, one_pass: 1e30 if problem.x_shape[0] % 2 else -1.0))
    model = nn.Sequential(nn.Conv2d(*arguments), nn.ReLU()).eval()
    x = np.ones((6, arguments[0], *image), np.float32)
    model.reserve(x.shape, training=False, strict=True)
    packed, algorithms = model.packed_nbytes, set()
    for n in range(1, len(x) + 1):
        model.forward(x[:n])
        algorithms.add(model[0]._call((n, *x.shape[1:]), x.dtype).geometry["exact"]["inference"].name)
    assert model.packed_nbytes == packed
    assert len(algorithms) == 2


@pytest.mark.parametrize("costs_less", [True, False])
def test_what_im2row_packs_serves_all_batches(costs_less, monkeypatch):
    """It is taken for all, or for none, though its cost for other batches than one image may be another."""
    costs = {True: -1.0, False: 1e30}
    monkeypatch.setattr(
        Im2row, "cost", classmethod(lambda kind, problem, one_pass: costs[(problem.x_shape[0] == 1) == costs_less])
    )
    layer = nn.Conv2d(24, 40, 3).eval()
    x = np.ones((5, 24, 6, 6), np.float32)
    layer.reserve(x.shape, training=False, strict=True)
    for n in range(1, len(x) + 1):
        layer.forward(x[:n])
        passes = layer._call((n, *x.shape[1:]), x.dtype).geometry["exact"]
        assert {passes[one_pass].name == "im2row" for one_pass in ("forward", "input", "inference")} == {costs_less}


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh])
@pytest.mark.parametrize(
    ("arguments", "image"), [((20, 37, 1), (17, 19)), ((16, 30, 3, 2, 1), (19, 17)), ((96, 290, 3), (5, 5))]
)
def test_no_bit_of_an_activation_depends_on_how_the_work_is_cut(activation, arguments, image, monkeypatch):
    monkeypatch.setattr(Kernel, "for_work", lambda self, work, *_: self.serial)
    model = nn.Sequential(nn.Conv2d(*arguments), activation()).eval()
    x = np.random.default_rng(0).standard_normal((7, arguments[0], *image)).astype(np.float32)
    results = []
    for team in (1, 3, 16):
        monkeypatch.setattr(threads._team, "value", team)
        results.append(model.forward(x).tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize(
    ("arguments", "image"), [((20, 37, 3), (17, 19)), ((5, 30, (4, 3), (3, 2), 2), (19, 17)), ((26, 40, 3, 1, 1, 1, 2), (6, 7))]
)
def test_an_input_gradient_is_the_same_whichever_blocks_fold_it(arguments, image):
    layer = nn.Conv2d(*arguments, dtype=np.float64)
    problem = layer._problem((2, arguments[0], *image), layer.dtype)
    rng = np.random.default_rng(0)
    dy = rng.standard_normal(problem.y_shape)
    expected = np.empty(problem.x_shape)
    direct = ImplicitGemm(problem)
    direct.backward_input(_scratch(direct, "input", 1), expected, dy, layer.weight.memory)
    blocks = {block for tasks in (1, 2, 5) for block in splits(problem, tasks)}
    assert {block.pixels_first for block in blocks} == {0, 1}
    for block in blocks:
        algorithm = Col2im(problem)
        algorithm._block = block
        dx = np.full(problem.x_shape, np.nan)
        algorithm.backward_input(_scratch(algorithm, "input", 3), dx, dy, layer.weight.memory)
        np.testing.assert_allclose(dx, expected, rtol=1e-10, atol=1e-12)


def _scratch(algorithm, one_pass, workers):
    return {name: np.full(shape, np.nan, dtype) for name, (shape, dtype) in algorithm.scratch_spec(one_pass, workers).items()}


@pytest.mark.parametrize(
    ("arguments", "x_shape", "name"),
    [((3, 24, 3, 2, 1), (3, 3, 40, 41), "col2im"), ((130, 150, 3, 2, 1), (1, 130, 9, 8), "col2im"),
     ((40, 50, 3, 1, 1), (1, 40, 14, 13), "winograd"), ((24, 30, 3, 1, 1), (4, 24, 30, 29), "winograd")],
)  # fmt: skip
def test_no_bit_of_a_gradient_depends_on_how_the_work_is_cut(arguments, x_shape, name, monkeypatch):
    monkeypatch.setattr(Kernel, "for_work", lambda self, work, *_: self.serial)
    layer = nn.Conv2d(*arguments, algorithm="winograd" if name == "winograd" else "direct")
    assert layer._geometry(x_shape, layer.dtype)["default"]["input"].name == name
    rng, results = np.random.default_rng(0), []
    x, dy = (rng.standard_normal(shape).astype(np.float32) for shape in (x_shape, layer.output_shape(x_shape)))
    for team in (1, 3, 16):
        monkeypatch.setattr(threads._team, "value", team)
        layer.zero_grad()
        results.append((layer.forward(x).tobytes(), layer.backward(dy).tobytes(), layer.weight.grad.tobytes()))
    assert len(set(results)) == 1
    monkeypatch.setattr(threads._team, "value", 1)
    assert layer.eval().forward(x).tobytes() == results[0][0]

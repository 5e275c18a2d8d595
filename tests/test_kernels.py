"""Kernels by themselves: both variants agree, threads do not matter, and narrow vectors compute the same."""

from __future__ import annotations

import importlib
import pkgutil
import platform
import textwrap

import numpy as np
import pytest

import numba_nn as nn
from numba_nn.core.kernel import Kernel
from numba_nn.ops.binary import fill_forward
from tests.algorithm_cases import ALGORITHM_CASES
from tests.cases import CASES, assert_close, gradients
from tests.conv_cases import CONVOLUTIONS
from tests.loss_cases import LOSS_CASES, ONE_OF_EACH_LOSS

MEASURES = {"fma_repeat"}  # kernels that only pass the time


def package_kernels():
    """Every kernel of the package that computes, by name."""
    found = {}
    for module in pkgutil.walk_packages(nn.__path__, "numba_nn."):
        if module.name.split(".")[1] in ("core", "layers", "linalg", "losses", "ops", "optim"):
            values = vars(importlib.import_module(module.name)).values()
            for k in values:
                if isinstance(k, Kernel) and k.__name__ not in MEASURES:
                    assert found.setdefault(k.__name__, k) is k, f"two kernels have the name {k.__name__}"
    return found


@pytest.fixture
def force(monkeypatch):
    """``force("serial")`` makes every layer use that variant."""

    def choose(name):
        monkeypatch.setattr(Kernel, "for_work", lambda self, work, *_: getattr(self, name))

    return choose


def check_both(force, compute):
    force("serial")
    serial = compute()
    force("parallel")
    parallel = compute()
    assert serial.keys() == parallel.keys()
    for name in serial:
        assert_close(parallel[name], serial[name])


def both_modes(case):
    """Output and gradients in training mode, and then the output in eval mode."""
    layer = case.build()
    return {**gradients(layer, case.x(), case.dy(layer)), "inference": layer.eval()(case.x())}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_variants_of_a_layers_kernels_agree(case, force):
    check_both(force, lambda: both_modes(case))


def every_reduction(case):
    """Losses and gradients of a case; sums are scaled as means are, so that they compare."""
    results, arrays = {}, case.arrays()
    for reduction in ("mean", "sum", "none"):
        loss = case.build(reduction)
        results[reduction] = np.float32(loss(*arrays)) / arrays[0].size
        results[f"{reduction} gradient"] = loss.backward()
    return results


def every_other_kernel():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 100, 70)).astype(np.float32), rng.standard_normal((70, 33)).astype(np.float32)
    nn.manual_seed(0)
    drawn = {"normal": nn.core.random.normal((1001,), 1.0), "uniform": nn.core.random.uniform((1001,), 0.0, 1.0)}
    return {"product": nn.matmul(a, b), **drawn, **every_operation(a), **every_merge(a), **every_fusion(a)}


def every_operation(a):
    x, rows = abs(a) + 1, np.array([2, 0, 2])
    unary = {
        name: getattr(nn.ops, name)(x) for name in ("absolute", "exp", "log", "negative", "sigmoid", "sqrt", "square", "tanh")
    }
    binary = {
        f"{name} {b.shape}": getattr(nn.ops, name)(x, b)
        for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum")
        for b in (a, a[:1], a[:, :1], a[..., :1])
    }
    reductions = ("sum", "max", "min", "argmax", "argmin")
    reduced = {f"{name} {i}": np.float32(getattr(nn.ops, name)(x, i)) for name in reductions for i in (1, 2)}
    columns = nn.ops.im2col(x[None], 3)
    moved = {"im2col": columns, "col2im": nn.ops.col2im(columns, x.shape[1:], 3)}
    return {
        **unary,
        **binary,
        **reduced,
        **moved,
        "number": filled((7,), 2.0),
        "take": nn.ops.take(x, rows),
        "scatter": nn.ops.scatter_add(x.copy(), rows, a),
    }


def filled(shape, value):
    y = np.empty(shape, np.float32)
    fill_forward.for_work(y.size)(y, value)
    return y


def every_merge(a):
    results = {}
    for layer in (nn.Concatenate(), nn.Add(), nn.Multiply()):
        y = layer(a, 2 * a)
        results |= {f"{layer}": y, **{f"{layer} {i}": dx for i, dx in enumerate(layer.backward(y))}}
    return results


def every_fusion(a):
    folded = nn.Sequential(nn.Conv1d(100, 7, 3), nn.BatchNorm1d(7), nn.Sigmoid()).eval()
    moved = nn.Sequential(nn.Conv1d(100, 70, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten()).eval()
    joined = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 7, 3), nn.Sigmoid(), nn.Flatten())
    y = joined(a[None])
    dx = joined.backward(y)
    return {"folded": folded(a), "moved": moved(a), "joined": y, "gradient": dx, "weights": joined[1].weight.grad}


def every_update():
    numbers = np.random.default_rng(0).standard_normal((2, 70, 333)).astype(np.float32)
    results = {}
    for make in (nn.optim.SGD, nn.optim.AdamW):
        parameter = nn.Parameter(numbers[0])
        parameter.grad[...] = numbers[1]
        optimizer = make([parameter], lr=0.1)
        nn.optim.clip_grad_value_(parameter, 1.0)
        results[f"{make.__name__} norm"] = np.float32(nn.optim.clip_grad_norm_(parameter, 1.0))
        for _ in range(3):
            optimizer.step()
        results |= {make.__name__: parameter.value, f"{make.__name__} gradient": parameter.grad.copy()}
        optimizer.zero_grad()
        results[f"{make.__name__} cleared"] = parameter.grad
    return results


@pytest.mark.parametrize("case", LOSS_CASES, ids=str)
def test_variants_of_a_losss_kernels_agree(case, force):
    check_both(force, lambda: every_reduction(case))


def test_variants_of_the_other_kernels_agree(force):
    check_both(force, every_other_kernel)


def test_variants_of_the_optimisers_agree(force):
    check_both(force, every_update)


def test_every_kernel_of_the_package_is_compared(monkeypatch, force):
    """A kernel counts if the tests above reach it, or a kernel that they reach calls it."""
    ran = set()
    with monkeypatch.context() as patch:
        patch.setattr(Kernel, "for_work", lambda self, work, *_: ran.add(self.__name__) or self.serial)
        one_of_each = {(c.layer, *c.kwargs): c for c in reversed(CASES)}  # an option may have kernels of its own
        for case in [*one_of_each.values(), *CONVOLUTIONS, *ALGORITHM_CASES]:  # and so may the shape of a convolution
            both_modes(case)
        for case in ONE_OF_EACH_LOSS:
            every_reduction(case)
        every_other_kernel()
        every_update()
    kernels = package_kernels()
    assert {"linear_forward", "pack_matrices", "sgd_update", "uniform_fill", "squared_error_backward"} <= kernels.keys()
    for _ in kernels:  # as deep as they may call one another
        ran |= {name for k in ran for name in kernels[k].py_func.__code__.co_names if name in kernels}
    assert kernels.keys() - ran == set()


def test_a_kernel_that_is_forced_is_noticed(force):
    layer, x = nn.ReLU(), np.zeros(3, np.float32)
    force("cuda")  # has no serial or parallel variant: the layer cannot have escaped
    with pytest.raises((TypeError, nn.MissingTwinError)):
        layer(x)


# Threads: a fresh process for each number, over sizes that choose the parallel variants

DIGEST = """
    import hashlib, json
    import numba, numpy as np
    import numba_nn as nn
    from tests.cases import CASES, gradients
    from tests.loss_cases import LOSS_CASES

    digest = hashlib.sha256()
    def add(array):
        digest.update(np.ascontiguousarray(array).tobytes())

    for case in CASES:
        layer = case.build()
        for array in gradients(layer, case.x(), case.dy(layer)).values():
            add(array)
    rng = np.random.default_rng(0)
    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)
    nn.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 40, 3, padding=1), nn.BatchNorm2d(40), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.2),
        nn.Conv2d(40, 30, 3, padding=1, stride=2), nn.Sigmoid(), nn.Upsample(scale_factor=2), nn.Flatten(), nn.Dropout(0.3),
        nn.BatchNorm1d(30 * 16 * 16), nn.Linear(30 * 16 * 16, 70),
    )
    optimizer = nn.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    step = nn.TrainStep(model, nn.MSELoss(), optimizer, (5, 3, 32, 32))
    for _ in range(3):
        add(np.float64(step(draw(5, 3, 32, 32), draw(5, 70))))
    for array in model.state_dict().values():
        add(array)
    for parameter in model.parameters():
        parameter.grad[...] = draw(*parameter.grad.shape)
    for order in (2.0, 1.0, 2.5, np.inf):
        add(np.float64(nn.optim.ClipNorm(model.parameters(), 1.0, order)()))
    nn.optim.clip_grad_value_(model.parameters(), 0.001)
    nn.optim.AdamW(model.parameters()).step()
    for parameter in model.parameters():
        add(parameter.value)
        add(parameter.grad)
    for case in LOSS_CASES:
        for reduction in ("mean", "sum", "none"):
            loss = case.build(reduction)
            add(np.float64(loss(*case.arrays())))
            add(loss.backward())
    # Threads take some of 50 sequences each through all steps; or two of them do, 9 each, as a step is not work for three.
    wide = nn.LSTM(20, 128, num_layers=2, bidirectional=True)
    for lstm, shape in ((wide, (4, 50, 20)), (nn.LSTM(20, 40), (80, 18, 20))):
        y, state = lstm(draw(*shape))
        dx, dstate = lstm.backward(draw(*y.shape))
        for array in (y, *state, dx, *dstate, *(p.grad for p in lstm.parameters())):
            add(array)
    for channels, size in ((40, 31), (300, 7)):  # Winograd where threads take tiles each, and where they share them
        conv = nn.Conv2d(40, channels, 3, padding=1, algorithm="winograd")
        for array in gradients(conv, draw(2, 40, size, size), draw(2, channels, size, size)).values():
            add(array)
    few = nn.Conv2d(2, 6, 3, padding=1)  # its weight gradient is cut into parts of the batch
    for array in gradients(few, draw(8, 2, 64, 64), draw(8, 6, 64, 64)).values():
        add(array)
    add(nn.matmul(draw(3, 250, 130), draw(130, 270)))
    for layer, shape in ((nn.Linear(40, 33, dtype=float), (5000, 40)), (nn.Conv2d(3, 20, 3, dtype=float), (9, 3, 40, 40))):
        x = draw(*shape).astype(float)
        for array in gradients(layer, x, layer(x)).values():
            add(array)
    add(nn.core.random.normal((100_001,), 1.0))
    print(json.dumps([numba.get_num_threads(), digest.hexdigest()]))
"""


def test_any_number_of_threads_gives_the_same_bits(start_python):
    script = textwrap.dedent(DIGEST)
    waits = [start_python(script, NUMBA_NUM_THREADS=str(n)) for n in (1, 2, 3)]
    results = [wait() for wait in waits]
    assert [threads for threads, _ in results] == [1, 2, 3]
    assert len({digest for _, digest in results}) == 1


# Narrow vectors: the tile, and with it all packing, follows the instructions that Numba compiles for

NARROW = """
    import json
    import numpy as np
    import numba_nn as nn
    from numba_nn.core.kernel import Kernel
    from numba_nn.core.simd import tile_shape
    from tests.cases import CASES, assert_close, gradients

    Kernel.for_work = lambda self, work, *_: self.serial  # saves compiling the other one
    for index in {indices}:
        case = CASES[index]
        layer = case.build()
        got = gradients(layer, case.x(), case.dy(layer))
        parameters = {{name: p.value.astype(np.float64) for name, p in layer.named_parameters()}}
        assert_close(got["y"], case.expected(case.x(np.float64), parameters))
        np.savez("{folder}/" + str(index), **got)
    rng = np.random.default_rng(0)
    for m, n, k in ((13, 33, 7), (6, 16, 300), (100, 61, 5)):
        a, b = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)
        assert_close(nn.matmul(a, b), a.astype(np.float64) @ b)
    print(json.dumps(tile_shape(np.float32)))
"""
X86 = platform.machine() in ("x86_64", "AMD64")
HASWELL = "+avx2,+fma,+avx,+sse4.2,+sse4.1,+ssse3,+sse3,+sse2,+sse,+bmi,+bmi2,+f16c,+popcnt,+cx16,+lzcnt,+movbe,+fxsr,+mmx"


def narrow_cases():
    """A few small configurations of the layers that stand on the tile."""
    chosen = [i for i, c in enumerate(CASES) if c.layer in (nn.Linear, nn.Conv2d) and np.prod(c.x_shape) < 600]
    return chosen[:20:2] + [i for i in chosen if CASES[i].kwargs.get("groups") or CASES[i].kwargs.get("stride")][:4]


@pytest.mark.skipif(not X86, reason=f"{platform.machine()}: its vectors have one width only")
def test_narrow_vectors_compute_the_same(start_python, tmp_path):
    script = textwrap.dedent(NARROW)
    waits = {}
    for name, cpu, features in (("SSE", "generic", ""), ("AVX2", "haswell", HASWELL)):
        (tmp_path / name).mkdir()
        text = script.format(indices=narrow_cases(), folder=tmp_path / name)
        waits[name] = start_python(text, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=features)
    assert {name: wait() for name, wait in waits.items()} == {"SSE": [6, 8], "AVX2": [6, 16]}
    for index in narrow_cases():
        case = CASES[index]
        layer = case.build()
        expected = gradients(layer, case.x(), case.dy(layer))
        for name in waits:
            with np.load(tmp_path / name / f"{index}.npz") as got:
                for array in expected:
                    assert_close(got[array], expected[array])

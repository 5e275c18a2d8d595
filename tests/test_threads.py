"""Threads and processes: one number for all Python threads, every threading layer that is present, forked children."""

from __future__ import annotations

import os
import sys
import threading

import numba
import numpy as np
import pytest

import numba_nn as nn
from numba_nn.core import threads


def _present(layer):
    """Whether Numba can use a threading layer here: seen by its module, which loads the library."""
    module = {"omp": "omppool", "tbb": "tbbpool", "workqueue": "workqueue"}[layer]
    try:
        __import__(f"numba.np.ufunc.{module}")
    except ImportError:
        return False
    return True


LAYERS = [layer for layer in ("omp", "tbb", "workqueue") if _present(layer)]
every_layer = pytest.mark.parametrize("layer", LAYERS)

MODEL = """
import hashlib, json, os, threading
import numpy as np
import numba_nn as nn

def build():
    nn.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2048, 64))

x = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)

def digest(model):
    y = model.forward(x)
    dx = model.backward(np.ones_like(y))
    arrays = [y, dx, *(p.grad for p in model.parameters())]
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()
"""

TWO_THREADS = """
results = [[], []]
models = [build(), build()]
alone = digest(build())

def work(i):
    for _ in range(20):
        models[i].zero_grad()
        results[i].append(digest(models[i]))

running = [threading.Thread(target=work, args=(i,)) for i in range(2)]
for thread in running:
    thread.start()
for thread in running:
    thread.join()
print(json.dumps([len(r) == 20 and set(r) == {alone} for r in results] + [nn.threading_layer()]))
"""

FORKED_CHILD = """
before = digest(build())
child = os.fork()
if child == 0:
    os._exit(0 if digest(build()) == before else 1)
ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps([ended, digest(build()) == before, nn.threading_layer()]))
"""

BESIDE_PYTORCH = """
theirs = torch.nn.functional.conv2d(torch.ones(4, 8, 64, 64), torch.ones(8, 8, 3, 3))
for _ in range(5):
    again = torch.nn.functional.conv2d(torch.ones(4, 8, 64, 64), torch.ones(8, 8, 3, 3))
    print(json.dumps([digest(build()), bool((again == theirs).all()), nn.threading_layer()]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' wheels of Numba bring another layer")
def test_the_default_layer_lets_regions_meet():
    """On workqueue they would take turns; a machine without an OpenMP runtime should be noticed."""
    assert nn.threading_layer() in ("omp", "tbb")


@every_layer
def test_two_models_in_two_threads(layer, run_python):
    environment = {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
    assert run_python(MODEL + TWO_THREADS, **environment) == [True, True, layer]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@every_layer
def test_a_forked_child_computes(layer, run_python):
    environment = {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
    assert run_python(MODEL + FORKED_CHILD, **environment) == [0, True, layer]


@pytest.mark.parametrize("first", ["import torch", "import numba_nn; numba_nn.threading_layer(); import torch"])
def test_pytorchs_openmp_beside_ours(first, run_python):
    pytest.importorskip("torch", reason="PyTorch lives in an environment of its own: make parity")
    environment = {"NUMBA_THREADING_LAYER": "omp"}
    alone = run_python(MODEL + "print(json.dumps(digest(build())))", **environment)
    assert run_python(f"{first}\n{MODEL}{BESIDE_PYTORCH}", **environment) == [alone, True, "omp"]


# workqueue's turns


def test_regions_take_turns_where_they_must_not_meet(monkeypatch):
    monkeypatch.setattr(threads, "takes_turns", True)
    monkeypatch.setattr(threads, "prepare", lambda: 2)  # on one processor, too
    layer, x = nn.ReLU(), np.ones((1000, 1000), np.float32)
    inside, seen = threading.Lock(), []
    take_turns = threads.take_turns

    def watched(run, *arguments):
        def alone(*given):
            seen.append(inside.acquire(blocking=False))
            run(*given)
            inside.release()

        take_turns(alone, *arguments)

    monkeypatch.setattr(threads, "take_turns", watched)
    handles = [layer, layer.share()]
    running = [threading.Thread(target=lambda h=h: [h(x) for _ in range(10)]) for h in handles]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert seen == [True] * 20


def test_a_region_inside_of_a_region_is_refused():
    def inner():
        threads.take_turns(lambda: None)

    with pytest.raises(nn.ConcurrencyError, match=r"workqueue.*install another layer"):
        threads.take_turns(inner)
    assert threads.take_turns(lambda a, b: a + b, 1, 2) == 3


# The number of threads


@pytest.fixture
def restored(monkeypatch):
    monkeypatch.setattr(threads, "_wanted", None)
    before = numba.get_num_threads()
    yield
    numba.set_num_threads(before)
    threads._applied.__dict__.clear()


def test_the_number_of_threads_holds_in_every_python_thread(restored):
    most = numba.config.NUMBA_NUM_THREADS
    assert nn.get_num_threads() == numba.get_num_threads()
    x, seen = np.ones((1000, 1000), np.float32), {}

    def look(name):
        nn.ReLU()(x)
        seen[name] = (numba.get_num_threads(), nn.get_num_threads())

    for count in {1, np.int64(most)}:
        nn.set_num_threads(count)
        look("main")
        thread = threading.Thread(target=look, args=("other",))
        thread.start()
        thread.join()
        assert seen == {"main": (count, count), "other": (count, count)}


@pytest.mark.parametrize("count", [0, -1, 10**6, 1.0, True, "2"])
def test_a_wrong_number_of_threads_is_refused(count, restored):
    with pytest.raises(nn.ArgumentError, match="set_num_threads: count must be a whole number from 1 to"):
        nn.set_num_threads(count)
    assert threads._wanted is None

"""Kernels that helpers compile: a rehearsal notes them and runs none, and what a helper leaves is what this process loads."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import numba_nn as nn
from numba_nn.compiling_together import compiled_together
from numba_nn.core import cache

NOTED = """
import json
import numpy as np
import numba_nn as nn
from numba_nn.core.cache import lookups
from numba_nn.core.kernel import rehearsal

model = nn.Sequential(nn.Linear(6, 5), nn.Tanh())
looked_up = dict(lookups)
y = np.full((4, 5), 7, np.float32)
with rehearsal() as noted:
    for _ in range(2):
        model.forward(np.zeros((4, 6), np.float32), out=y)
        model.backward(y)
untouched = bool((y == 7).all()) and dict(lookups) == looked_up
for variant, signature in list(noted):
    variant.compile(signature)
compiled = dict(lookups)
model.backward(model.forward(np.zeros((4, 6), np.float32), out=y))
print(json.dumps([len(noted), len(set(noted)), untouched, dict(lookups) == compiled, bool((y == 7).any())]))
"""


def test_a_rehearsal_notes_all_kernels_and_runs_none(run_python, tmp_path):
    count, distinct, untouched, complete, still = run_python(NOTED, NUMBA_NN_CACHE_DIR=str(tmp_path))
    assert count == distinct > 3
    assert (untouched, complete, still) == (True, True, False)


HELPED = """
import json, os, time
from pathlib import Path
import numba_nn as nn
from numba_nn.core.cache import listeners

def files():
    return len(list(Path(os.environ["NUMBA_NN_CACHE_DIR"]).rglob("*.nbc")))

names = []
def wait(name):
    names.append(name)
    if len(names) == 2:  # the helper started at the first one, whose file is here
        end, before = time.time() + 120, files()
        while time.time() < end and files() == before:
            time.sleep(0.05)

model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 40), nn.Softmax(1))
listeners.append(wait)
told = nn.warmup(model, (4, 6), processes=2)
print(json.dumps([told["compiled"], told["found"], len(names), len(listeners)]))
"""


def test_what_a_helper_compiled_is_found(run_python, tmp_path):
    compiled, found, told, listening = run_python(HELPED, NUMBA_NN_CACHE_DIR=str(tmp_path))
    assert compiled == told >= 2
    assert found >= 1
    assert listening == 1
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("processes", [1, 2])
def test_what_cannot_be_pickled_or_has_no_helpers_is_called_all_the_same(monkeypatch, processes):
    started = []
    monkeypatch.setattr("subprocess.Popen", lambda *command, **_: started.append(command))

    assert compiled_together(lambda: _announced(), processes=processes) == 3
    assert started == cache.listeners == []


def test_a_helper_that_cannot_be_started_is_no_loss(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert compiled_together(_announced, processes=2) == 3


def _announced():
    """As a call does whose kernels have to be compiled."""
    for listener in tuple(cache.listeners):
        listener("relu_forward")
    return 3


def test_an_error_of_the_call_is_the_callers():
    with pytest.raises(nn.ShapeError, match="Linear"):
        compiled_together(nn.Linear(3, 4), np.zeros((2, 5), np.float32), processes=2)
    assert cache.listeners == []

"""Kernels that helpers compile: a rehearsal notes them and runs none, and what a helper leaves is what this process loads."""

from __future__ import annotations

import sys
import tempfile

import numpy as np
import pytest

import numba_nn as nn
from numba_nn import compiling_together
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


def _announced():
    """As a call does whose kernels have to be compiled."""
    for listener in tuple(cache.listeners):
        listener("relu_forward")
    return 3


@pytest.fixture
def started(monkeypatch):
    """Commands of the helpers that would be started, each ``python -c ...``."""
    commands = []

    class Helper:
        def __init__(self, command, **_):
            commands.append(command)

        def terminate(self):
            commands.append("terminate")

        def wait(self, _):
            commands.append("wait")

    monkeypatch.setattr("subprocess.Popen", Helper)
    yield commands
    assert cache.listeners == []


def test_helpers_start_with_the_first_kernel_and_end_with_the_call(started):
    assert compiled_together(int, 3, processes=3) == 3
    assert started == []
    assert compiled_together(_announced, processes=3) == 3
    assert [command[:2] for command in started[:2]] == [[sys.executable, "-c"]] * 2
    assert started[2:] == ["terminate", "terminate", "wait", "wait"]


def _takes(*_):
    return _announced()


class OfMain:
    pass


OfMain.__module__ = "__main__"


@pytest.mark.parametrize(
    "argument",
    [lambda: None, OfMain(), OfMain, np.zeros(compiling_together.MOST_BYTES // 8 + 1)],
    ids=["cannot be pickled", "of __main__", "__main__'s class", "too large"],
)
def test_what_helpers_cannot_load_is_called_all_the_same(started, argument):
    assert compiled_together(_takes, argument, processes=2) == 3
    assert started == []


def test_a_helper_has_no_helpers_and_no_other_program_is_started(started, monkeypatch):
    with monkeypatch.context() as within:
        within.setenv(compiling_together.MARK, "1")
        assert compiled_together(_announced, processes=2) == 3
    for executable in ("/usr/sbin/uwsgi", "", None):
        monkeypatch.setattr(sys, "executable", executable)
        assert compiled_together(_announced, processes=2) == 3
    monkeypatch.undo()
    assert started == []


def test_where_nothing_can_be_written_or_started_one_process_compiles(monkeypatch):
    def refused(*_, **__):
        raise FileNotFoundError("no folder")

    with monkeypatch.context() as within:
        within.setattr(tempfile, "TemporaryFile", refused)
        assert compiled_together(_announced, processes=2) == 3
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert compiled_together(_announced, processes=2) == 3


def test_an_error_of_the_call_is_the_callers():
    with pytest.raises(nn.ShapeError, match="Linear"):
        compiled_together(nn.Linear(3, 4), np.zeros((2, 5), np.float32), processes=2)
    assert cache.listeners == []


AT_IMPORT = """
import os
import numba_nn as nn
with open(os.environ["LOG"], "a") as log:
    log.write("imported\\n")

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(600, 500), nn.Tanh())

nn.set_num_threads(1)
nn.warmup(Net(), (40, 600), processes=2)
"""


def test_a_warmup_at_import_starts_one_helper_and_no_more(run_python, tmp_path):
    (tmp_path / "users_app.py").write_text(AT_IMPORT)
    log = tmp_path / "log"
    run_python("import users_app", path=tmp_path, NUMBA_NN_CACHE_DIR=str(tmp_path / "cache"), LOG=str(log))
    assert len(log.read_text().split()) <= 2

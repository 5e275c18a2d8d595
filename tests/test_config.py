"""What is told of machine, threads and cache; compiling ahead of time."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn
from tests.cases import assert_same

LOOKUPS = """
import json
import numpy as np
import numba_nn as nn

model = nn.Sequential(nn.Embedding(10, 70), nn.Flatten(), nn.Linear(420, 3), nn.Sigmoid())
told = nn.warmup(model, (5, 6), processes=1)
before = nn.show_config("dicts")
model.backward(model(np.zeros((5, 6), np.int64)))
after = nn.show_config("dicts")
print(json.dumps([told, [before[k] == after[k] for k in ("found in cache", "compiled")], after["cached kernels"]]))
"""


def test_warmup_leaves_nothing_to_compile_and_a_second_process_finds_it(run_python, tmp_path):
    environment = {"NUMBA_NN_CACHE_DIR": str(tmp_path)}
    first, unchanged, kernels = run_python(LOOKUPS, **environment)
    assert unchanged == [True, True]
    assert first["found"] == 0
    assert first["compiled"] > 5
    assert kernels.split()[0] == str(first["compiled"] + 2)  # and the two that draw initial weights
    second, unchanged, _ = run_python(LOOKUPS, **environment)
    assert unchanged == [True, True]
    assert second["compiled"] == 0
    assert 5 < second["found"] <= first["compiled"]  # a kernel made of others brings their code along


@pytest.mark.parametrize("training", [True, False])
def test_warmup_leaves_the_model_as_it_is(training):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0].eval()
    before = model.state_dict()
    told = nn.warmup(model, (5, 3), training=training)
    assert set(told) == {"seconds", "compiled", "found"}
    assert_same(model.state_dict(), before)
    assert not any(p.grad.any() for p in model.parameters())
    assert [layer.training for layer in model] == [False, True, True]
    assert model.saved_nbytes == 0
    nn.warmup(nn.Add(), (2, 3), (2, 3))
    with pytest.raises(nn.ShapeError, match="Linear"):
        nn.warmup(model, (5, 4))
    with pytest.raises(nn.ArgumentError, match="model must be a Layer, got list"):
        nn.warmup([model], (5, 3))
    for processes in (0, 1.5, True):
        with pytest.raises(nn.ArgumentError, match=f"processes must be a whole number from 1 on, got {processes}"):
            nn.warmup(model, (5, 3), processes=processes)


def test_show_config_prints_or_returns(capsys):
    told = nn.show_config("dicts")
    assert capsys.readouterr().out == ""
    assert told["threads"] == nn.get_num_threads()
    assert told["threading layer"] == nn.threading_layer()
    assert told["numpy"] == np.__version__
    assert nn.show_config() is None
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == list(told)
    with pytest.raises(nn.ArgumentError, match="show_config: mode"):
        nn.show_config("json")

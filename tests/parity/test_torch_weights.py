"""Weight files go both ways between PyTorch and here."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")


def models(seed):
    nn.manual_seed(seed)
    torch.manual_seed(seed)
    ours = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5))
    theirs = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(12, 5))
    return ours, theirs


def assert_same_output(ours, theirs):
    x = np.random.default_rng(0).standard_normal((7, 2, 4, 4)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(nn.predict(ours, x), expected, rtol=1e-5, atol=1e-6)


def test_pytorch_reads_what_we_write(tmp_path):
    ours, theirs = models(0)
    ours.save(tmp_path / "w.safetensors")
    safetensors.load_model(theirs, tmp_path / "w.safetensors")
    assert_same_output(ours, theirs)
    ours, theirs = models(1)
    ours.save(tmp_path / "w.npz")
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in np.load(tmp_path / "w.npz").items()})
    assert_same_output(ours, theirs)


def test_we_read_what_pytorch_writes(tmp_path):
    ours, theirs = models(2)
    torch.nn.init.uniform_(theirs[3].weight)
    safetensors.save_model(theirs, tmp_path / "w.safetensors")
    ours.load(tmp_path / "w.safetensors")
    assert_same_output(ours, theirs)
    theirs[3].weight = torch.nn.Parameter(torch.rand(12, 5).T)  # strided
    safetensors.save_file({n: t.contiguous() for n, t in theirs.state_dict().items()}, tmp_path / "w.safetensors")
    assert_same_output(ours.load(tmp_path / "w.safetensors"), theirs)

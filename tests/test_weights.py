"""Weights in files: back bit for bit, or an error that says what is wrong; nothing in between."""

from __future__ import annotations

import json
import os
import struct
import sys

import numpy as np
import pytest

import numba_nn as nn
from tests.cases import assert_same


def model(seed=0, columns=3, dtype=np.float32):
    nn.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, columns, dtype=dtype), nn.ReLU(), nn.Linear(columns, 2, dtype=dtype))


@pytest.fixture(params=[".npz", ".safetensors"])
def path(request, tmp_path):
    if request.param == ".safetensors":
        pytest.importorskip("safetensors", reason="safetensors is not installed")
    return tmp_path / f"weights{request.param}"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_come_back_bit_for_bit(path, dtype):
    saved, loaded = model(0, dtype=dtype), model(1, dtype=dtype)
    saved.save(path)
    assert loaded.load(str(path)) is loaded
    assert_same(loaded.state_dict(), saved.state_dict())
    assert os.listdir(path.parent) == [path.name]
    x = np.ones((3, 4), dtype)
    np.testing.assert_array_equal(loaded(x), saved(x))


def test_what_does_not_fit_is_listed_and_nothing_is_loaded(path):
    model().save(path)
    other = model(1, columns=5)
    before = other.state_dict()
    with pytest.raises(nn.StateDictError, match=r"weights\.\w+: .*0\.weight: expected float32 \(5, 4\), got float32 \(3, 4\)"):
        other.load(path)
    assert_same(other.state_dict(), before)
    single = nn.Linear(4, 3)
    with pytest.raises(nn.StateDictError, match=r"missing: weight; missing: bias; unexpected: .*0\.weight"):
        single.load(path)
    deeper = nn.Sequential(*model(1), nn.Linear(2, 2))
    deeper.load(path, strict=False)
    assert_same({n: a for n, a in deeper.state_dict().items() if n[0] != "3"}, model().state_dict())


def test_every_truncation_is_refused(path):
    saved = model()
    saved.save(path)
    data = path.read_bytes()
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        with pytest.raises(nn.CheckpointError, match=r"weights\.\w+: expected a file of weights"):
            saved.load(path)


def test_a_save_that_fails_keeps_the_previous_file(path, monkeypatch):
    saved = model()
    saved.save(path)

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            model(1).save(path)
    assert os.listdir(path.parent) == [path.name]
    assert_same(model(1).load(path).state_dict(), saved.state_dict())


def test_no_flipped_bit_of_an_npz_changes_what_is_loaded(tmp_path):
    saved, path = nn.Linear(2, 1), tmp_path / "w.npz"
    saved.save(path)
    data = path.read_bytes()
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        loaded = nn.Linear(2, 1)
        before = loaded.state_dict()
        try:
            loaded.load(path)
        except (nn.CheckpointError, nn.StateDictError):
            assert_same(loaded.state_dict(), before)
        else:
            assert_same(loaded.state_dict(), saved.state_dict())


def test_numpy_reads_and_writes_the_npz(tmp_path):
    saved, path = model(), tmp_path / "w.npz"
    saved.save(path)
    with np.load(path, allow_pickle=False) as archive:
        assert_same(dict(archive), saved.state_dict())
    np.savez(path, **saved.state_dict())
    assert_same(model(1).load(path).state_dict(), saved.state_dict())
    np.savez(path, w=np.array([print], dtype=object))
    with pytest.raises(nn.CheckpointError, match=r"[Oo]bject arrays"):
        model().load(path)


def test_buffers_are_saved(tmp_path):
    """A layer with state of its own, 0-d too, as batch normalisation has it."""

    class Counting(nn.Linear):
        buffer_names = ("running", "count")

        def __init__(self):
            super().__init__(2, 2)
            self.running, self.count = np.arange(6.0).reshape(2, 3).T, np.array(7)

    for suffix in (".npz", ".safetensors"):
        if suffix == ".safetensors":
            pytest.importorskip("safetensors", reason="safetensors is not installed")
        saved, loaded = Counting(), Counting()
        saved.save(tmp_path / f"w{suffix}")
        loaded.running, loaded.count = np.zeros((3, 2)), np.array(0)
        loaded.load(tmp_path / f"w{suffix}")
        assert_same(loaded.state_dict(), saved.state_dict())
        assert loaded.count.shape == ()


def test_other_files_are_named(tmp_path):
    checkpoint = tmp_path / "run.npz"
    nn.io.save_checkpoint(checkpoint, model().state_dict(), {})
    with pytest.raises(nn.CheckpointError, match=r"run\.npz: .*training checkpoint: nn\.io\.load_checkpoint"):
        model().load(checkpoint)
    for call in (model().save, model().load):
        with pytest.raises(nn.ArgumentError, match=r"must end in \.npz or \.safetensors, got 'weights\.pt'"):
            call("weights.pt")
    with pytest.raises(FileNotFoundError):
        model().load(tmp_path / "none.npz")


def test_safetensors_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"pip install 'numba-nn\[safetensors\]'"):
        model().save(tmp_path / "w.safetensors")


def safetensors_file(path, tensors):
    header, data = {}, b""
    for name, dtype, shape, content in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_safetensors_of_other_dtypes(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    path, layer = tmp_path / "w.safetensors", nn.Linear(1, 2, bias=False)
    safetensors_file(path, [("weight", "F16", [2, 1], np.array([1.5, -2], np.float16).tobytes())])
    np.testing.assert_array_equal(layer.load(path).weight.value, [[1.5], [-2]])
    safetensors_file(path, [("weight", "BF16", [2, 1], bytes(4))])
    with pytest.raises(nn.CheckpointError, match="dtype 'BF16', which NumPy does not have; save it as float32"):
        layer.load(path)

"""Checkpoints come back bit for bit or not at all, and a failed save costs nothing."""

import json
import os
import zipfile

import numpy as np
import pytest

from numba_nn.core import archive
from numba_nn.core.errors import ArgumentError, CheckpointError, DTypeError
from numba_nn.io import load_checkpoint, save_checkpoint

METADATA = {"epoch": 7, "loss": 0.1, "best": [1, None, True, {"nested": "żółw"}], "big": 2**70}


def sample():
    rng = np.random.default_rng(0)
    nan = np.array([0x7FC00001, 0x7F800000, 0x80000000, 1], np.uint32).view(np.float32)  # payload, inf, -0, denormal
    return {
        "0.weight": rng.standard_normal((4, 3)).astype(np.float32),
        "encoder/conv.bias": rng.standard_normal(5),
        "scalar": np.array(3.25),
        "empty": np.zeros((0, 3), np.float32),
        "special": nan,
        "counts": np.arange(-3, 3, dtype=np.int64),
        "bytes": np.arange(256, dtype=np.uint8),
        "mask": np.array([True, False]),
        "complex": np.array([1 + 2j], np.complex64),
        "big-endian": np.arange(3, dtype=">i4"),
        "transposed": rng.standard_normal((3, 2)).T,
        "strided": np.arange(10)[::3],
    }


def same(a, b):
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and a[k].tobytes() == b[k].tobytes() for k in a
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.npz"


@pytest.fixture
def good(path):
    """A previous good checkpoint."""
    save_checkpoint(path, {"w": np.arange(3)}, {"epoch": 1})
    return path


def assert_good_and_alone(path):
    arrays, metadata = load_checkpoint(path)
    assert arrays["w"].tolist() == [0, 1, 2]
    assert metadata == {"epoch": 1}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_everything_comes_back_bit_for_bit(path):
    save_checkpoint(path, sample(), METADATA)
    arrays, metadata = load_checkpoint(path)
    assert same(arrays, sample())
    assert list(arrays) == list(sample())
    assert metadata == METADATA
    assert all(array.flags.writeable for array in arrays.values())
    assert arrays["scalar"].shape == ()


@pytest.mark.parametrize("name", ["file", "allow_pickle", "a.npy", "", "/rooted", "../up", "a/b/../c", "żółw", "with space"])
def test_odd_names(path, name):
    """Beside "a": numpy.savez and numpy.load confuse some of these."""
    arrays = {"a": np.array([1]), name: np.array([2])}
    save_checkpoint(path, arrays, {})
    assert same(load_checkpoint(path)[0], arrays)


def test_nothing_at_all_can_be_saved(path):
    save_checkpoint(str(path), {}, {})
    assert load_checkpoint(str(path)) == ({}, {})


def test_non_finite_metadata(path):
    save_checkpoint(path, {}, {"best": float("inf"), "loss": float("nan")})
    metadata = load_checkpoint(path)[1]
    assert metadata["best"] == float("inf")
    assert metadata["loss"] != metadata["loss"]


def test_numpy_reads_it_without_pickle(path):
    save_checkpoint(path, sample(), METADATA)
    with np.load(path, allow_pickle=False) as archive:
        assert archive["0.weight"].tobytes() == sample()["0.weight"].tobytes()


def test_equal_states_give_equal_files(tmp_path):
    for name in "ab":
        save_checkpoint(tmp_path / name, sample(), METADATA)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]  # no suffix added, no temporary left


def small(path):
    arrays = {"w": np.arange(3, dtype=np.float32), "b": np.array(2)}
    save_checkpoint(path, arrays, {"epoch": 1})
    return arrays, path.read_bytes()


def payload_offsets(path, data):
    """Offsets of the bytes of all arrays and of the header: what follows 30 bytes, the name and the extra field."""
    with zipfile.ZipFile(path) as archive:
        starts = [(i.header_offset, i.file_size) for i in archive.infolist()]
    lengths = [
        30 + int.from_bytes(data[s + 26 : s + 28], "little") + int.from_bytes(data[s + 28 : s + 30], "little")
        for s, _ in starts
    ]
    return {at for (s, size), n in zip(starts, lengths, strict=True) for at in range(s + n, s + n + size)}


def test_every_truncation_is_refused(path):
    _, data = small(path)
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match=r"run\.npz: expected"):
            load_checkpoint(path)


def test_no_flipped_bit_changes_what_is_loaded(path):
    """One bit of every byte; flips of what nobody reads (times, permissions) may pass, with the same arrays."""
    arrays, data = small(path)
    payload = payload_offsets(path, data)
    refused = set()
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        try:
            loaded, metadata = load_checkpoint(path)
        except CheckpointError:
            refused.add(at)
        else:
            assert same(loaded, arrays)
            assert metadata == {"epoch": 1}
    assert payload <= refused
    assert len(payload) > 400


@pytest.mark.parametrize("data", [b"", b"hello", b"\x93NUMPY" + bytes(100), bytes(5000)])
def test_other_files_are_refused(path, data):
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"run\.npz: expected a checkpoint"):
        load_checkpoint(path)


def test_an_npz_of_another_kind_is_refused(path):
    np.savez(path, w=np.arange(3))
    with pytest.raises(CheckpointError, match="without the entry '__numba_nn__'"):
        load_checkpoint(path)


def rewrite(path, change):
    """Write the checkpoint anew with its header changed."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    header = json.loads(arrays.pop("__numba_nn__").tobytes())
    change(header)
    arrays["__numba_nn__"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, **arrays)


@pytest.mark.parametrize(("change", "message"), [
    (lambda h: h.update(version=2), "expected format version 1, found 2; .*newer"),
    (lambda h: h.update(format="else"), "expected format 'numba_nn.checkpoint'"),
    (lambda h: h.update(names=["w", "v"]), r"not those that were saved: \['v.npy'\]"),
    (lambda h: h.update(names=[]), r"not those that were saved: \['w.npy'\]"),
    (lambda h: h.update(metadata=[]), "metadata to be a dict"),
    (lambda h: h.pop("version"), "damaged or of another kind"),
])  # fmt: skip
def test_headers_that_do_not_fit_are_refused(good, change, message):
    rewrite(good, lambda header: None)
    load_checkpoint(good)
    rewrite(good, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(good)


def test_pickled_arrays_are_never_loaded(good):
    with np.load(good) as archive:
        header = archive["__numba_nn__"]
    np.savez(good, __numba_nn__=header, w=np.array([print], dtype=object))
    with pytest.raises(CheckpointError, match=r"allow_pickle=False|[Oo]bject arrays"):
        load_checkpoint(good)


def test_missing_file_is_the_ordinary_error(path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [
    np.array([None]), np.array(["text"]), np.array(["2020-01-01"], "M8[D]"), np.zeros(2, [("a", "f4")]),
    np.ma.masked_array([1.0], [True]), [1.0], 1.0, np.float32(1), None,
])  # fmt: skip
def test_other_values_are_refused_before_anything_is_written(good, value):
    with pytest.raises(DTypeError, match="'bad' must be"):
        save_checkpoint(good, {"w": np.arange(3), "bad": value}, {})
    assert_good_and_alone(good)


@pytest.mark.parametrize("name", ["__numba_nn__", "cut\0here", "\ud800", "x" * 65536, 3])
def test_names_that_would_change_are_refused(good, name):
    with pytest.raises(ArgumentError, match="name"):
        save_checkpoint(good, {name: np.arange(3)}, {})
    assert_good_and_alone(good)


@pytest.mark.parametrize(("metadata", "where"), [
    ({"shape": (1, 2)}, r"metadata\['shape'\]"),
    ({"a": [0, {"b": np.int64(3)}]}, r"metadata\['a'\]\[1\]\['b'\]"),
    ({"lr": {1: 0.1}}, r"keys of metadata\['lr'\] must be str, got 1"),
    ([1], "metadata must be a dict"),
])  # fmt: skip
def test_metadata_that_would_change_is_refused(good, metadata, where):
    with pytest.raises(DTypeError, match=where):
        save_checkpoint(good, {}, metadata)
    assert_good_and_alone(good)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("where", ["second array", "fsync", "replace"])
def test_a_save_that_fails_midway_keeps_the_previous_file(good, monkeypatch, where, error):
    def fail(*args, **kwargs):
        raise error

    original = archive.npy.write_array
    left = iter([original, original])
    target = {"second array": (archive.npy, "write_array"), "fsync": (os, "fsync"), "replace": (os, "replace")}[where]
    replacement = (lambda *a, **k: next(left, fail)(*a, **k)) if where == "second array" else fail
    with monkeypatch.context() as patch:
        patch.setattr(*target, replacement)
        with pytest.raises(type(error)):
            save_checkpoint(good, {"w": np.ones(1000), "v": np.ones(1000)}, {"epoch": 2})
    assert_good_and_alone(good)
    save_checkpoint(good, {"w": np.ones(1)}, {"epoch": 2})
    assert load_checkpoint(good)[1] == {"epoch": 2}


def test_a_full_disk_keeps_the_previous_file(good):
    resource = pytest.importorskip("resource", reason="no limits on file sizes on this system")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            save_checkpoint(good, {"w": np.ones(100_000)}, {"epoch": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_good_and_alone(good)


def test_bytes_reach_the_disk_before_the_name(good, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *a: (events.append("replace"), replace(*a)))
    save_checkpoint(good, {}, {})
    assert events[:2] == ["fsync", "replace"]
    if os.name == "posix":
        assert events == ["fsync", "replace", "fsync"]


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links and a umask")
def test_links_are_followed_and_permissions_are_ordinary(tmp_path):
    real = tmp_path / "store"
    real.mkdir()
    link = tmp_path / "latest.npz"
    link.symlink_to(real / "run.npz")
    save_checkpoint(link, {"w": np.arange(3)}, {"epoch": 1})
    assert link.is_symlink()
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert (real / "run.npz").stat().st_mode == ordinary.stat().st_mode
    assert_good_and_alone(real / "run.npz")

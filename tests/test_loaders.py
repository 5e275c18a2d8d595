"""Streams, splits, and readers of files that were made here, whole and damaged."""

from __future__ import annotations

import gzip
import struct
import tarfile

import numpy as np
import pytest

import numba_nn as nn
from numba_nn.data import Stream, digits, files, load_cifar10, load_digits, load_idx, load_mnist, train_test_split
from tests.test_data import TRAIN, records
from tests.test_data import cifar as cifar

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx(array, code=None):
    head = bytes([0, 0, code or CODES[array.dtype.str[1:]], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


class TestIdx:
    @pytest.mark.parametrize("shape", [(), (3,), (0, 2), (2, 3, 4), (1, 1, 1, 2)], ids=str)
    @pytest.mark.parametrize("dtype", CODES)
    def test_every_dtype_comes_back(self, tmp_path, dtype, shape):
        array = (np.random.default_rng(0).standard_normal(shape) * 100).astype("f8").astype(dtype)
        for name, pack in (("a-idx", bytes), ("a-idx.gz", gzip.compress)):
            (tmp_path / name).write_bytes(pack(idx(np.asarray(array))))
            got = load_idx(tmp_path / name)
            assert (got.dtype, got.shape, got.dtype.isnative) == (np.dtype(dtype), shape, True)
            np.testing.assert_array_equal(got, array)
            assert got.flags.writeable

    def test_every_truncation_is_refused(self, tmp_path):
        whole = idx(np.arange(6, dtype="i2").reshape(2, 3))
        path = tmp_path / "a-idx"
        for size in range(len(whole)):
            path.write_bytes(whole[:size])
            with pytest.raises(nn.DataError, match=rf"a-idx: expected .*found ({size} bytes|nothing|00)"):
                load_idx(path)
        path.write_bytes(whole + b"\0")
        with pytest.raises(nn.DataError, match=r"expected 24 bytes for int16 \(2, 3\), found 25"):
            load_idx(path)

    def test_shapes_that_no_array_has_are_refused(self, tmp_path):
        path = tmp_path / "a-idx"
        for shape in ((1,) * 100, (0, 2**32 - 1, 2**32 - 1, 2**31)):  # more dimensions, or more bytes, than NumPy counts
            path.write_bytes(bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape) + bytes(min(shape)))
            with pytest.raises(nn.DataError, match="a-idx: expected an array, found the shape"):
                load_idx(path)

    @pytest.mark.parametrize(("data", "words"), [
        (b"BM\x08\x01", "begins with 00 00, a type .*found 42 4d 08 01"),
        (b"\0\0\x0a\x01\0\0\0\x01\0", "found 00 00 0a 01"),
        (b"\0\0\x08\x02" + b"\xff" * 8, "truncated or damaged"),
    ])  # fmt: skip
    def test_other_files_are_refused(self, tmp_path, data, words):
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(nn.DataError, match=words):
            load_idx(tmp_path / "a")

    def test_damaged_gzip_and_missing_files_are_named(self, tmp_path):
        path = tmp_path / "a-idx.gz"
        with pytest.raises(nn.DataError, match=r"a-idx\.gz: expected a file of IDX data, but there is none"):
            load_idx(path)
        for data in (gzip.compress(bytes(100))[:-5], b"no gzip", b""):
            path.write_bytes(data)
            with pytest.raises(nn.DataError, match=r"a-idx\.gz: expected"):
                load_idx(path)


@pytest.fixture
def mnist(tmp_path):
    """Three training images and two for testing, one pair of files gzipped, one under other names."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (5, 28, 28), np.uint8), np.array([5, 0, 9, 3, 7], np.uint8)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images[:3])))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels[:3]))
    (tmp_path / "t10k-images.idx3-ubyte").write_bytes(idx(images[3:]))
    (tmp_path / "t10k-labels.idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels[3:])))
    return tmp_path, images, labels


class TestMnist:
    def test_images_and_labels_come_back(self, mnist):
        folder, images, labels = mnist
        for split, part in (("train", slice(3)), ("test", slice(3, 5))):
            x, y = load_mnist(folder, split)
            np.testing.assert_array_equal(x, images[part, None] / np.float32(255))
            np.testing.assert_array_equal(y, labels[part])
            assert (x.dtype, y.dtype) == (np.float32, np.int64)
        x, y = load_mnist(folder, limit=2)
        assert (x.shape, y.tolist()) == ((2, 1, 28, 28), [5, 0])

    @pytest.mark.parametrize(("name", "array", "words"), [
        ("train-labels-idx1-ubyte", np.zeros(4, np.uint8), r"idx1-ubyte: expected uint8 labels \(3,\), found uint8 \(4,\)"),
        ("train-labels-idx1-ubyte", np.array([0, 10, 1], np.uint8), "label 1 is 10; expected 0 to 9"),
        ("train-images-idx3-ubyte", np.zeros((3, 28, 28), np.float32), "expected uint8 images.*found float32"),
        ("train-images-idx3-ubyte", np.zeros(3, np.uint8), r"expected uint8 images \(N, H, W\), found uint8 \(3,\)"),
    ])  # fmt: skip
    def test_files_that_do_not_belong_together_are_named(self, mnist, name, array, words):
        (mnist[0] / name).write_bytes(idx(array))
        with pytest.raises(nn.DataError, match=words):
            load_mnist(mnist[0])

    def test_missing_files_and_wrong_arguments_are_named(self, mnist):
        (mnist[0] / "train-labels-idx1-ubyte").unlink()
        with pytest.raises(nn.DataError, match="lacks train-labels-idx1-ubyte"):
            load_mnist(mnist[0])
        with pytest.raises(nn.ArgumentError, match="split must be"):
            load_mnist(mnist[0], "valid")
        with pytest.raises(nn.ArgumentError, match="limit must be"):
            load_mnist(mnist[0], limit=0)


class TestCifar10Archive:
    @pytest.fixture
    def archive(self, cifar, tmp_path):
        path = tmp_path / "cifar-10-binary.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            tar.add(cifar, "cifar-10-batches-bin")
        return path

    def test_it_is_read_as_the_folder_is(self, archive, cifar):
        for split, limit in (("train", None), ("train", 6), ("test", None)):
            for got, expected in zip(load_cifar10(archive, split, limit), load_cifar10(cifar, split, limit), strict=True):
                np.testing.assert_array_equal(got, expected)

    def test_damage_and_missing_files_are_named(self, archive, tmp_path):
        whole = archive.read_bytes()
        for data in (whole[: len(whole) // 2], b"no archive", b"", whole[:-8] + bytes(8)):
            archive.write_bytes(data)
            with pytest.raises(
                nn.DataError, match=r"binary\.tar\.gz: expected a (tar archive|gzipped file) of CIFAR-10.*damaged"
            ):
                load_cifar10(archive, "test")
        short = tmp_path / "short.tar"
        (tmp_path / TRAIN[0]).write_bytes(records(1, 0).tobytes()[:-1])
        with tarfile.open(short, "w") as tar:
            tar.add(tmp_path / TRAIN[0], TRAIN[0])
        with pytest.raises(nn.DataError, match=r"short\.tar lacks data_batch_2\.bin"):
            load_cifar10(short)


class TestDigits:
    def test_they_are_scikit_learns(self):
        datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
        expected = datasets.load_digits()
        x, y = load_digits()
        np.testing.assert_array_equal(x[:, 0], expected.images.astype(np.float32) / 16)
        np.testing.assert_array_equal(y, expected.target)
        assert (x.shape, x.dtype, y.dtype) == ((1797, 1, 8, 8), np.float32, np.int64)
        standard = load_digits(standardize=True)[0]
        assert abs(standard.mean()) < 1e-6
        assert standard.std() == pytest.approx(1, abs=1e-6)

    def test_missing_package_and_damaged_file_are_named(self, monkeypatch, tmp_path):
        (tmp_path / "digits.csv.gz").write_bytes(gzip.compress(b"1,2,3\n"))
        monkeypatch.setattr(digits, "installed_file", lambda *_: tmp_path / "digits.csv.gz")
        with pytest.raises(nn.DataError, match=r"digits\.csv\.gz: expected rows of 64"):
            load_digits()
        monkeypatch.undo()
        monkeypatch.setattr(files, "find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"load_digits needs sklearn.*make demo"):
            load_digits()


class TestSplit:
    def test_the_parts_are_the_whole(self):
        x, y = np.arange(20).reshape(10, 2), np.arange(10) * 10
        x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.25)
        assert (len(x_train), len(x_test)) == (7, 3)
        assert sorted([*y_train, *y_test]) == y.tolist()
        np.testing.assert_array_equal(x_train[:, 0] * 5, y_train)
        np.testing.assert_array_equal(x_test[:, 0] * 5, y_test)
        again, other = train_test_split(y, test_size=0.25), train_test_split(y, test_size=0.25, seed=1)
        np.testing.assert_array_equal(again[1], y_test)
        assert other[1].tolist() != y_test.tolist()

    @pytest.mark.parametrize("test_size", [0.2, 0.5, 1, 7, 33, 59])
    def test_classes_keep_their_shares(self, test_size):
        classes = np.repeat(np.array(["a", "b", "c"]), [6, 18, 36])
        train, test = train_test_split(classes, test_size=test_size, stratify=classes)
        count = test_size if isinstance(test_size, int) else round(60 * test_size)
        assert (len(train), len(test)) == (60 - count, count)
        for name, size in (("a", 6), ("b", 18), ("c", 36)):
            assert abs(np.count_nonzero(test == name) - size * count / 60) < 1

    @pytest.mark.parametrize(("size", "expected"), [(0.07, 7), (0.2, 20), (0.291, 30), (0.001, 1), (99, 99)])
    def test_shares_are_rounded_up(self, size, expected):
        assert len(train_test_split(np.arange(100), test_size=size)[1]) == expected

    @pytest.mark.parametrize(("call", "error", "words"), [
        (lambda a: train_test_split(), nn.ArgumentError, "at least one array"),
        (lambda a: train_test_split(a, a[:3]), nn.ShapeError, r"train_test_split: arrays .* equal lengths, got \[9, 3\]"),
        (lambda a: train_test_split(a.tolist()), nn.DTypeError, "must be an ndarray"),
        (lambda a: train_test_split(a, stratify=a[:3]), nn.ShapeError, r"stratify must be an array of shape.* got \(3,\)"),
        *((lambda a, s=s: train_test_split(a, test_size=s), nn.ArgumentError, "test_size")
          for s in (0, 9, 1.0, 0.95, 0.0, -1, True, "1", float("nan"))),
        (lambda a: train_test_split(a, seed=-1), nn.ArgumentError, "train_test_split: seed"),
    ])  # fmt: skip
    def test_wrong_arguments(self, call, error, words):
        with pytest.raises(error, match=words):
            call(np.arange(9))


def counted(n=10):
    return lambda: ((np.full(2, i, np.float32), i) for i in range(n))


def seen(stream, e=0):
    return [y.tolist() for _, y in stream.epoch(e)]


class TestStream:
    def test_samples_become_batches(self):
        stream = Stream(counted(), batch_size=4)
        assert seen(stream) == seen(stream, 1) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        x, _ = next(stream.epoch(0))
        assert (x.shape, x.dtype) == ((4, 2), np.float32)
        assert seen(Stream(counted(), batch_size=4, drop_last=True)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
        assert seen(Stream(list(counted(3)()), batch_size=4)) == [[0, 1, 2]]

    @pytest.mark.parametrize("size", [2, 5, 10, 99])
    def test_shuffling_is_seeded_and_loses_nothing(self, size):
        def orders(seed):
            stream = Stream(counted(), batch_size=3, shuffle_buffer=size, seed=seed)
            return [[y for batch in seen(stream, e) for y in batch] for e in (0, 1, 0)]

        first, second, again = orders(0)
        assert sorted(first) == list(range(10)) != first
        assert first == again != second
        assert orders(1)[0] != first
        assert all(y < position + size for position, y in enumerate(first))  # no sample comes before it was read

    def test_each_pass_is_the_epoch_after_the_newest(self):
        stream = Stream(counted(), batch_size=4, shuffle_buffer=10)

        def passed():
            return [y.tolist() for _, y in stream]

        first, second = passed(), passed()
        assert [first, second] == [seen(stream, 0), seen(stream, 1)]
        assert passed() == seen(stream, 2)

    def test_a_source_may_fill_one_array_again_and_again(self):
        def samples():
            array = np.zeros(1)
            for i in range(6):
                array[0] = i
                yield (array, array)

        for size in (0, 4):
            batches = [x.copy() for x, _ in Stream(samples, batch_size=2, shuffle_buffer=size).epoch(0)]
            assert sorted(np.concatenate(batches)[:, 0]) == list(range(6))

    def test_whole_batches_are_handed_on(self):
        batches = [(np.zeros((3, 2)), np.zeros(3)), (np.ones((1, 2)), np.ones(1))]
        got = list(Stream(batches, batch_size=None).epoch(0))
        assert all(a is b for one, other in zip(got, batches, strict=True) for a, b in zip(one, other, strict=True))

    @pytest.mark.parametrize(("source", "words"), [
        (list, "the source gave nothing"),
        (lambda: [np.ones(2)], "item 0 must be a tuple such as"),
        (lambda: [(np.ones(2), 1), (np.ones(3), 1)], r"sample 1 must have the shapes of the first one, \[\(2,\), \(\)\], got"),
        (lambda: [(np.ones(2), 1), (np.ones(2), 1.5)], "sample 1 must have the dtype of the first one, int64, got float64"),
        (lambda: [(1, 2), (1, 2, 3)], "sample 1 must have the shapes"),
    ])  # fmt: skip
    def test_samples_that_do_not_fit_are_named(self, source, words):
        with pytest.raises(nn.DataError, match=words):
            list(Stream(source, batch_size=4).epoch(0))

    def test_a_superseded_epoch_is_refused(self):
        stream = Stream(counted(), batch_size=4)
        old = stream.epoch(0)
        next(old)
        next(stream.epoch(1))
        with pytest.raises(nn.DataError, match="taken by a later epoch"):
            next(old)

    @pytest.mark.parametrize(("arguments", "words"), [
        ({"source": counted()(), "batch_size": 4}, "anew for every epoch, got generator; pass the function itself"),
        ({"source": 3, "batch_size": 4}, "got int"),
        ({"source": counted(), "batch_size": 0}, "batch_size"),
        ({"source": counted(), "batch_size": None, "shuffle_buffer": 3}, "with batch_size=None they must not be set"),
        ({"source": counted(), "batch_size": 1, "shuffle_buffer": -1}, "shuffle_buffer"),
        ({"source": counted(), "batch_size": 1, "seed": 2**64}, "seed"),
    ])  # fmt: skip
    def test_wrong_arguments(self, arguments, words):
        with pytest.raises(nn.ArgumentError, match=words):
            Stream(**arguments)

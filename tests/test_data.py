"""Loaders against files and photographs made here, and batches against their promises."""

import gzip
import importlib.util
import tracemalloc

import numpy as np
import pytest

from numba_nn.core.errors import ArgumentError, DataError, DTypeError, ShapeError
from numba_nn.data import Batches, files, load_cifar10, photograph_patches, photographs

TRAIN = [f"data_batch_{i}.bin" for i in range(1, 6)]


def records(count, seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (count, 3073), dtype=np.uint8)
    rows[:, 0] = rng.integers(0, 10, count)
    return rows


@pytest.fixture
def cifar(tmp_path):
    """A folder as unpacked, four records a file."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for i, name in enumerate([*TRAIN, "test_batch.bin"]):
        (folder / name).write_bytes(records(4, i).tobytes())
    return folder


class TestCifar10:
    def test_pixels_and_labels_lie_where_the_format_says(self, cifar):
        row = np.zeros(3073, np.uint8)
        row[0] = 7
        row[1] = 255  # red, first row, first column
        row[1 + 1024 + 33] = 51  # green, second row, second column
        row[1 + 2048 + 1023] = 102  # blue, last row, last column
        (cifar / "test_batch.bin").write_bytes(row.tobytes())
        images, labels = load_cifar10(cifar, "test")
        expected = np.zeros((1, 3, 32, 32), np.float32)
        expected[0, 0, 0, 0], expected[0, 1, 1, 1], expected[0, 2, 31, 31] = 1, np.float32(0.2), np.float32(0.4)
        np.testing.assert_array_equal(images, expected)
        assert (images.dtype, labels.dtype, labels.tolist()) == (np.float32, np.int64, [7])

    def test_train_is_the_five_files_in_order_from_either_folder(self, cifar):
        rows = np.concatenate([records(4, i) for i in range(5)])
        for directory in (cifar, cifar.parent, str(cifar.parent)):
            images, labels = load_cifar10(directory)
            np.testing.assert_array_equal(labels, rows[:, 0])
            np.testing.assert_array_equal(images.reshape(20, -1), rows[:, 1:] / np.float32(255))

    @pytest.mark.parametrize("limit", [1, 4, 6, 20, 99])
    def test_limit_gives_the_first(self, cifar, limit):
        images, labels = load_cifar10(cifar, limit=limit)
        everything = load_cifar10(cifar)
        np.testing.assert_array_equal(images, everything[0][:limit])
        np.testing.assert_array_equal(labels, everything[1][:limit])
        assert len(images) == len(labels) == min(limit, 20)

    def test_gzipped_files_are_read_and_plain_ones_preferred(self, cifar):
        before = load_cifar10(cifar)[0]
        for name in TRAIN[:3]:
            (cifar / f"{name}.gz").write_bytes(gzip.compress((cifar / name).read_bytes(), 1))
            (cifar / name).unlink()
        (cifar / f"{TRAIN[4]}.gz").write_bytes(gzip.compress(records(4, 99).tobytes(), 1))
        np.testing.assert_array_equal(load_cifar10(cifar)[0], before)

    @pytest.mark.parametrize("size", [0, 1, 3072, 3074, 4 * 3073 - 1])
    def test_part_of_a_record_is_refused(self, cifar, size):
        path = cifar / TRAIN[2]
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(DataError, match=rf"data_batch_3\.bin: expected .* 3073 bytes.* found {size} bytes"):
            load_cifar10(cifar)

    def test_label_above_nine_is_refused_even_at_the_end(self, cifar):
        rows = records(4, 0)
        rows[3, 0] = 10
        (cifar / TRAIN[4]).write_bytes(rows.tobytes())
        with pytest.raises(DataError, match=r"data_batch_5\.bin: record 3 has label 10; expected 0 to 9"):
            load_cifar10(cifar)

    @pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-5] + b"xxxxx", lambda b: b"BM" + b[2:]])
    def test_damaged_gzip_is_refused(self, cifar, damage):
        (cifar / "test_batch.bin").unlink()
        (cifar / "test_batch.bin.gz").write_bytes(damage(gzip.compress(records(4, 0).tobytes(), 1)))
        with pytest.raises(DataError, match=r"test_batch\.bin\.gz: expected a gzipped file"):
            load_cifar10(cifar, "test")

    def test_missing_files_are_listed(self, cifar):
        for name in (TRAIN[1], TRAIN[3]):
            (cifar / name).unlink()
        with pytest.raises(DataError, match=r"bin lacks data_batch_2\.bin, data_batch_4\.bin \(or"):
            load_cifar10(cifar.parent)
        with pytest.raises(DataError, match="lacks"):  # although the first image alone could be had
            load_cifar10(cifar, limit=1)

    def test_wrong_directories(self, cifar, tmp_path):
        with pytest.raises(DataError, match=r"expected a directory or an archive \(\.tar\.gz\), but .*nowhere does not exist"):
            load_cifar10(tmp_path / "nowhere")
        with pytest.raises(DataError, match=r"test_batch\.bin is a file"):
            load_cifar10(cifar / "test_batch.bin")
        empty = tmp_path / "empty"
        empty.mkdir()
        with pytest.raises(DataError, match=r"empty lacks test_batch\.bin"):
            load_cifar10(empty, "test")

    def test_wrong_arguments(self, cifar):
        with pytest.raises(ArgumentError, match="split must be 'train' or 'test', got 'valid'"):
            load_cifar10(cifar, "valid")
        for limit in (0, -1, 1.5):
            with pytest.raises(ArgumentError, match="limit must be"):
                load_cifar10(cifar, limit=limit)


def ramp(side, height=256, width=256):
    """Red grows towards the held-out `side`, at 256 pixels by one level each; noise elsewhere, so that no patch is plain."""
    photograph = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    towards = {"right": np.arange(width)[None, :], "left": np.arange(width)[None, ::-1], "bottom": np.arange(height)[:, None]}
    photograph[:, :, 0] = towards[side] * 255 // (max(height, width) - 1)
    return photograph, side


class TestPhotographPatches:
    @pytest.mark.parametrize("side", ["left", "right", "bottom"])
    def test_no_pixel_serves_both_sets(self, monkeypatch, side):
        monkeypatch.setattr(photographs, "_photographs", lambda: [ramp(side)])
        train, validation = photograph_patches(600, 600, 16)
        assert train[:, 0].max() < validation[:, 0].min()
        # Both sets reach (nearly) to their common edge and to the far ends: nothing was left out either.
        assert train[:, 0].min() < 0.02
        assert validation[:, 0].max() > 0.98
        assert validation[:, 0].min() - train[:, 0].max() < 0.05

    def test_reductions_and_mirrored_patches_occur(self, monkeypatch):
        monkeypatch.setattr(photographs, "_photographs", lambda: [ramp("right")])
        train, _ = photograph_patches(300, 0, 16)
        slopes = (train[:, 0, :, -1] - train[:, 0, :, 0]).mean(1) * 255 / 15  # 1, 2, 4 by reduction; negative if mirrored
        found = set(np.round(slopes).astype(int))
        assert found == {-4, -2, -1, 1, 2, 4}

    def test_pixels_are_means_of_the_photograph(self, monkeypatch):
        photograph = np.zeros((8, 8, 3), np.uint8)
        photograph[:4, :4] = np.arange(48).reshape(4, 4, 3)
        np.testing.assert_allclose(
            photographs._reduce(photograph, 4)[:, 0, 0], photograph[:4, :4].mean((0, 1)) / 255, rtol=1e-6
        )
        np.testing.assert_allclose(photographs._reduce(photograph, 1), photograph.transpose(2, 0, 1) / np.float32(255))

    def test_plain_areas_are_avoided_but_not_for_ever(self, monkeypatch):
        photograph, side = ramp("right")
        photograph[:200] = 128
        monkeypatch.setattr(photographs, "_photographs", lambda: [(photograph, side)])
        train, _ = photograph_patches(300, 0, 16)
        assert train.reshape(300, 3, -1).std(2).max(1).min() > 0.04
        plain = np.full_like(photograph, 128)
        monkeypatch.setattr(photographs, "_photographs", lambda: [(plain, side)])
        assert np.unique(photograph_patches(3, 2, 16)[0]).size == 1

    def test_large_patches_come_from_where_they_fit(self, monkeypatch):
        monkeypatch.setattr(photographs, "_photographs", lambda: [ramp("right", 400, 400), ramp("right", 100, 100)])
        train, validation = photograph_patches(4, 4, 100)  # 100 fits the first photograph's 120 columns, unreduced
        assert train.shape == validation.shape == (4, 3, 100, 100)
        with pytest.raises(ArgumentError, match="no photograph has room for patches of size 121"):
            photograph_patches(4, 4, 121)

    def test_sets_depend_on_the_seed_only(self, monkeypatch):
        monkeypatch.setattr(photographs, "_photographs", lambda: [ramp("right"), ramp("left")])
        train, validation = photograph_patches(20, 10, 16, seed=3)
        longer, shorter = photograph_patches(30, 5, 16, seed=3)
        np.testing.assert_array_equal(longer[:20], train)
        np.testing.assert_array_equal(shorter, validation[:5])
        assert not np.array_equal(photograph_patches(20, 10, 16, seed=4)[0], train)

    @pytest.mark.parametrize("name", ["n_train", "n_validation", "size", "seed"])
    def test_wrong_arguments(self, name):
        for value in (-1, 0.5, "3"):
            with pytest.raises(ArgumentError, match=f"{name} must be a whole number"):
                photograph_patches(**{name: value})

    def test_missing_package_says_what_to_install(self, monkeypatch):
        monkeypatch.setattr(files, "find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"sklearn.*make demo"):
            photograph_patches(1, 1)

    def test_missing_or_damaged_photograph_is_named(self, monkeypatch, tmp_path):
        package = tmp_path / "some_pictures"
        package.mkdir()
        (package / "__init__.py").touch()
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(photographs, "_PHOTOGRAPHS", [("some_pictures", "sea.jpg", "left")])
        with pytest.raises(DataError, match=r"some_pictures does not contain sea\.jpg"):
            photograph_patches(1, 1)
        pytest.importorskip("PIL", reason="Pillow is not installed")
        (package / "sea.jpg").write_bytes(b"no picture")
        with pytest.raises(DataError, match=r"sea\.jpg: expected a photograph"):
            photograph_patches(1, 1)

    @pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("sklearn", "skimage", "PIL")),
        reason="scikit-learn and scikit-image, which carry the photographs, are not installed",
    )
    def test_real_photographs(self):
        train, validation = photograph_patches(180, 90)
        assert train.shape == (180, 3, 32, 32)
        assert validation.shape == (90, 3, 32, 32)
        for patches in (train, validation):
            assert patches.dtype == np.float32
            assert patches.flags.c_contiguous
            assert 0 <= patches.min() < 0.05
            assert 0.95 < patches.max() <= 1
            assert len(np.unique(patches, axis=0)) == len(patches)
        # Colour, not grey thrice, and nine different photographs in turn: their mean colours differ.
        means = train.reshape(20, 9, 3, -1).mean((0, 3))
        distances = np.linalg.norm(means[:, None] - means[None], axis=2)[np.triu_indices(9, 1)]
        assert distances.min() > 0.02
        assert np.abs(means[:, 0] - means[:, 2]).max() > 0.2


class TestBatches:
    def test_each_item_once_and_aligned(self):
        x, y = np.arange(23 * 6, dtype=np.float32).reshape(23, 2, 3), np.arange(23)
        batches = Batches(x, y, batch_size=5)
        seen = []
        for bx, by in batches.epoch(0):
            np.testing.assert_array_equal(bx, x[by])
            assert (bx.dtype, by.dtype) == (x.dtype, y.dtype)
            seen.extend(by.tolist())
        assert sorted(seen) == list(range(23))
        assert seen != list(range(23))

    @pytest.mark.parametrize(("count", "size", "drop_last", "lengths"), [
        (6, 3, False, [3, 3]), (6, 3, True, [3, 3]), (7, 3, False, [3, 3, 1]), (7, 3, True, [3, 3]), (2, 3, False, [2]),
    ])  # fmt: skip
    def test_lengths(self, count, size, drop_last, lengths):
        batches = Batches(np.arange(count), batch_size=size, drop_last=drop_last)
        assert [len(b) for (b,) in batches.epoch(1)] == lengths
        assert len(batches) == len(lengths)

    def test_order_is_a_function_of_seed_and_epoch(self):
        def order(seed, e, *before):
            batches = Batches(np.arange(50), batch_size=8, seed=seed)
            for earlier in before:
                next(batches.epoch(earlier))
            return np.concatenate([b.copy() for (b,) in batches.epoch(e)])

        expected = np.arange(50)
        np.random.Generator(np.random.Philox(key=[7, 3])).shuffle(expected)
        np.testing.assert_array_equal(order(7, 3), expected)
        np.testing.assert_array_equal(order(7, 3, 0, 1, 2, 3), expected)
        assert not np.array_equal(order(7, 4), expected)
        assert not np.array_equal(order(3, 7), expected)

    def test_each_pass_is_the_epoch_after_the_newest(self):
        passed, named = (Batches(np.arange(10), batch_size=3, seed=4) for _ in range(2))

        def order(batches):
            return [x.tolist() for (x,) in batches]

        assert [order(passed) for _ in range(3)] == [order(named.epoch(e)) for e in range(3)]
        assert order(passed.epoch(7)) == order(named.epoch(7))
        assert order(passed) == order(named.epoch(8))

    def test_in_order_without_shuffle(self):
        batches = Batches(np.arange(7), batch_size=3, shuffle=False)
        for e in (0, 5):
            assert [b.tolist() for (b,) in batches.epoch(e)] == [[0, 1, 2], [3, 4, 5], [6]]

    def test_batches_reuse_the_same_memory_and_leave_the_source_alone(self):
        x = np.arange(20.0).reshape(10, 2)
        batches = Batches(x, batch_size=4, shuffle=False)
        first = {b.__array_interface__["data"][0] for (b,) in batches.epoch(0)}
        for (b,) in batches.epoch(1):
            first.add(b.__array_interface__["data"][0])
            assert b.flags.c_contiguous
            b[:] = -1
        assert len(first) == 1
        np.testing.assert_array_equal(x, np.arange(20.0).reshape(10, 2))

    @pytest.mark.parametrize("strided", [False, True])
    def test_no_array_data_is_allocated_in_the_loop(self, strided):
        x = np.zeros((2000, 2, 64), np.float32)[:, :: 2 if strided else 1]
        batches = Batches(x, np.arange(2000), batch_size=300)
        tracemalloc.start()
        try:
            for e in range(3):
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                for _ in batches.epoch(e):
                    pass
                # Temporaries count too. The generator and the iterator take some 2 kB; an order would be 16 kB, a batch more.
                assert tracemalloc.get_traced_memory()[1] - before < 6000
        finally:
            tracemalloc.stop()

    def test_a_later_epoch_takes_the_buffers_over(self):
        batches = Batches(np.arange(10), batch_size=2)
        older = batches.epoch(0)
        next(older)
        newer = batches.epoch(1)
        with pytest.raises(DataError, match="taken by a later epoch"):
            next(older)
        assert len(list(newer)) == 5

    def test_wrong_arguments(self):
        x = np.zeros((4, 2))
        for size in (0, -1, 2.0, None):
            with pytest.raises(ArgumentError, match="batch_size must be a whole number >= 1"):
                Batches(x, batch_size=size)
        for seed in (-1, 2**64, 0.5):
            with pytest.raises(ArgumentError, match="seed must be a whole number"):
                Batches(x, batch_size=1, seed=seed)
        for e in (-1, 2**64, 0.5):
            with pytest.raises(ArgumentError, match="epoch must be a whole number"):
                Batches(x, batch_size=1).epoch(e)
        with pytest.raises(ArgumentError, match="at least one array"):
            Batches(batch_size=1)
        with pytest.raises(ArgumentError, match="drop_last with batch_size 5 leaves none of the 4"):
            Batches(x, batch_size=5, drop_last=True)
        Batches(x, batch_size=1, seed=2**64 - 1).epoch(2**64 - 1)

    def test_wrong_arrays(self):
        x = np.zeros((4, 2))
        with pytest.raises(ShapeError, match=r"equal lengths, got \[4, 3\]"):
            Batches(x, x[:3], batch_size=1)
        for bad in (np.zeros(()), np.zeros((0, 2))):
            with pytest.raises(ShapeError, match="array 1 must have at least one item"):
                Batches(x, bad, batch_size=1)
        with pytest.raises(DTypeError, match="array 1 must be an ndarray, got list"):
            Batches(x, [1, 2, 3, 4], batch_size=1)
        with pytest.raises(DTypeError, match="array 0 must hold plain values, got dtype object"):
            Batches(np.array([None, 1]), batch_size=1)

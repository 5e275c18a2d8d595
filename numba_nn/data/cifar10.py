"""CIFAR-10 from the files of its binary version.

A record is 3,073 bytes: one label (0-9), then 1,024 bytes each of red, green and blue, row by row. Training images lie in
``data_batch_1.bin`` to ``data_batch_5.bin``, test images in ``test_batch.bin``.
"""

import os
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from numba_nn.core.checks import check_count
from numba_nn.core.errors import ArgumentError, DataError
from numba_nn.data.files import plain_or_gzipped, read_bytes

_FILES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
_FOLDER = "cifar-10-batches-bin"  # what the published archive unpacks to
_ARCHIVES = (".tar.gz", ".tgz", ".tar")
_IMAGE = (3, 32, 32)
_RECORD_BYTES = 1 + 3 * 32 * 32
_CLASSES = 10
_Source = tuple[str, Callable[[], bytes]]  # a file's name, for messages, and how to read it


def load_cifar10(
    directory: str | os.PathLike[str], split: str = "train", limit: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Read CIFAR-10's binary version from disk.

    Parameters
    ----------
    directory : path
        The folder ``cifar-10-batches-bin``, or the folder that contains it. Each file may be gzipped (``.bin.gz``); where both
        lie side by side the plain one is read.
        Also the published archive as it is, ``cifar-10-binary.tar.gz`` (or ``.tgz``, ``.tar``).
    split : {"train", "test"}
        The five training files in order, or the test file.
    limit : int, optional
        Give the first `limit` images only; files beyond them are not opened, though all must be there.

    Returns
    -------
    images : ndarray of float32, shape (N, 3, 32, 32)
        Red, green and blue planes in [0, 1]: bytes / 255.
    labels : ndarray of int64, shape (N,)
        Classes 0 to 9.

    Raises
    ------
    ArgumentError
        `split` is neither "train" nor "test", or `limit` is no whole number of at least 1.
    DataError
        The directory or a file is missing, a file is not a whole number of records, a label is above 9, or a gzipped file or an
        archive is damaged. The message names the file.

    Notes
    -----
    The published files hold 10,000 records each. Smaller or larger ones are read too, so that excerpts can be used.
    """
    if split not in _FILES:
        raise ArgumentError(f"load_cifar10: split must be 'train' or 'test', got {split!r}")
    if limit is not None:
        check_count("load_cifar10", "limit", limit)
    path = Path(directory).expanduser()
    sources = _in_archive if path.is_file() and path.name.endswith(_ARCHIVES) else _in_folder
    parts = list(_read_until(sources(path, _FILES[split]), limit))
    count = sum(len(part) for part in parts)
    images = np.empty((count, *_IMAGE), np.float32)
    labels = np.empty(count, np.int64)
    start = 0
    for part in parts:
        stop = start + len(part)
        labels[start:stop] = part[:, 0]
        # Divided file by file into place: a float copy of all images beside the result would be another 600 MB.
        np.divide(part[:, 1:].reshape(-1, *_IMAGE), np.float32(255), out=images[start:stop])
        start = stop
    return images, labels


def _locate(directory: Path, names: tuple[str, ...]) -> list[Path]:
    """Paths of all `names`, plain or gzipped; an error that lists what is missing."""
    if not directory.is_dir():
        what = "is a file" if directory.exists() else "does not exist"
        raise DataError(f"load_cifar10: expected a directory or an archive (.tar.gz), but {directory} {what}")
    inner = directory / _FOLDER
    # Files in the folder itself come first: a folder that was unpacked twice may contain itself.
    folders = [directory, inner] if inner.is_dir() else [directory]
    missing: list[str] = []
    for folder in folders:
        paths = [plain_or_gzipped(folder, [name]) for name in names]
        missing = [name for name, path in zip(names, paths, strict=True) if path is None]
        if len(missing) < len(names):
            directory = folder
            break
    if missing:
        raise _missing(directory, missing, names, "(or the same with .gz)")
    return [path for path in paths if path is not None]


def _missing(where: Path, missing: list[str], names: tuple[str, ...], note: str) -> DataError:
    return DataError(
        f"load_cifar10: {where} lacks {', '.join(missing)} {note}; "
        f"expected the files of CIFAR-10's binary version, {', '.join(names)}, there or in {_FOLDER}/"
    )


def _in_folder(directory: Path, names: tuple[str, ...]) -> Iterator[_Source]:
    for path in _locate(directory, names):
        yield str(path), partial(read_bytes, path, "CIFAR-10 records")


def _in_archive(archive: Path, names: tuple[str, ...]) -> Iterator[_Source]:
    """The files inside a tar archive, in the order of `names`."""
    # Unpacked as a whole: gzip compares its checksum at the end, and tarfile does not read that far.
    data = read_bytes(archive, "CIFAR-10's binary version")
    try:
        with tarfile.open(fileobj=BytesIO(data)) as tar:
            members = {PurePosixPath(member.name).name: member for member in tar if member.isfile()}
            missing = [name for name in names if name not in members]
            if missing:
                raise _missing(archive, missing, names, "inside")
            for name in names:
                yield f"{archive}: {name}", partial(_extract, tar, members[name])
    except tarfile.TarError as error:
        raise DataError(
            f"{archive}: expected a tar archive of CIFAR-10's binary version, but it is damaged: {error}"
        ) from error


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file is not None else b""


def _read_until(sources: Iterator[_Source], limit: int | None) -> Iterator[NDArray[np.uint8]]:
    """Records of each file, shape (n, 3073), until `limit` of them were given."""
    left = limit
    for name, read in sources:
        if left == 0:
            return
        records = _records(name, read())[:left]
        labels = records[:, 0]
        if labels.max() >= _CLASSES:
            at = int(np.argmax(labels >= _CLASSES))
            raise DataError(f"{name}: record {at} has label {labels[at]}; expected 0 to {_CLASSES - 1}")
        if left is not None:
            left -= len(records)
        yield records


def _records(name: str, data: bytes) -> NDArray[np.uint8]:
    if not data or len(data) % _RECORD_BYTES:
        unpacked = "unpacked " if name.endswith(".gz") else ""
        raise DataError(
            f"{name}: expected a whole number of records of {_RECORD_BYTES} bytes, at least one; "
            f"found {len(data)} {unpacked}bytes, {len(data) / _RECORD_BYTES:.3f} records"
        )
    return np.frombuffer(data, np.uint8).reshape(-1, _RECORD_BYTES)

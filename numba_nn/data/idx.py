"""Arrays in IDX files, and MNIST, which comes in four of them.

An IDX file is two zero bytes, a code for the type of the elements, the number of dimensions, the dimensions as big-endian
32-bit numbers, then the elements, big-endian, in C order (http://yann.lecun.com/exdb/mnist/).
"""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numba_nn.core.checks import check_count
from numba_nn.core.errors import ArgumentError, DataError
from numba_nn.data.files import plain_or_gzipped, read_bytes

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PREFIXES = {"train": "train", "test": "t10k"}
_CLASSES = 10


def load_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read an array from an IDX file.

    Parameters
    ----------
    path : path
        The file; gzipped if its name ends in ``.gz``.

    Returns
    -------
    ndarray
        uint8, int8, int16, int32, float32 or float64, of the file's shape, in this machine's byte order.

    Raises
    ------
    DataError
        The file is missing, no IDX file, truncated, too long, or a damaged gzip file. The message names the file, what was
        expected and what came.
    """
    path = Path(path).expanduser()
    data = read_bytes(path, "IDX data")
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _DTYPES:
        codes = ", ".join(f"{code:02x}" for code in _DTYPES)
        raise DataError(
            f"{path}: expected an IDX file, which begins with 00 00, a type ({codes}) and the number of dimensions; "
            f"found {data[:4].hex(' ') or 'nothing'}"
        )
    dtype, dimensions = np.dtype(_DTYPES[data[2]]), data[3]
    start = 4 + 4 * dimensions
    shape = tuple(int.from_bytes(data[at : at + 4], "big") for at in range(4, min(start, len(data) - 3), 4))
    expected = start + math.prod(shape) * dtype.itemsize
    if len(shape) < dimensions or len(data) != expected:
        wanted = f"{expected} bytes for {dtype.name} {shape}" if len(shape) == dimensions else f"{dimensions} dimensions"
        raise DataError(f"{path}: expected {wanted}, found {len(data)} bytes: the file is truncated or damaged")
    try:
        return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
    except ValueError as error:  # more dimensions than NumPy has, or sizes that overflow beside one of 0
        raise DataError(f"{path}: expected an array, found the shape {shape}: {error}") from error


def load_mnist(
    directory: str | os.PathLike[str], split: str = "train", limit: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Read MNIST, or a data set in its form (Fashion-MNIST, KMNIST), from disk.

    Parameters
    ----------
    directory : path
        The folder of ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same with ``t10k``; each may end in
        ``.gz``, and may be called ``train-images.idx3-ubyte``.
    split : {"train", "test"}
        60,000 images, or the other 10,000.
    limit : int, optional
        Give the first `limit` images only.

    Returns
    -------
    images : ndarray of float32, shape (N, 1, 28, 28)
        Grey values in [0, 1]: bytes / 255.
    labels : ndarray of int64, shape (N,)
        Classes 0 to 9.

    Raises
    ------
    ArgumentError
        `split` is neither "train" nor "test", or `limit` is no whole number of at least 1.
    DataError
        A file is missing or damaged, or images and labels do not belong together. The message names the file.
    """
    if split not in _PREFIXES:
        raise ArgumentError(f"load_mnist: split must be 'train' or 'test', got {split!r}")
    if limit is not None:
        check_count("load_mnist", "limit", limit)
    folder = Path(directory).expanduser()
    image_path, label_path = (_find(folder, f"{_PREFIXES[split]}-{what}") for what in ("images-idx3", "labels-idx1"))
    images, labels = load_idx(image_path), load_idx(label_path)
    if images.dtype != np.uint8 or images.ndim != 3 or len(images) == 0:
        raise DataError(f"{image_path}: expected uint8 images (N, H, W), found {images.dtype} {images.shape}")
    if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise DataError(f"{label_path}: expected uint8 labels ({len(images)},), found {labels.dtype} {labels.shape}")
    if labels.max() >= _CLASSES:
        at = int(np.argmax(labels >= _CLASSES))
        raise DataError(f"{label_path}: label {at} is {labels[at]}; expected 0 to {_CLASSES - 1}")
    return np.divide(images[:limit, None], np.float32(255), dtype=np.float32), labels[:limit].astype(np.int64)


def _find(folder: Path, name: str) -> Path:
    names = [f"{name}-ubyte", f"{name}-ubyte".replace("-idx", ".idx")]
    path = plain_or_gzipped(folder, names)
    if path is None:
        raise DataError(f"load_mnist: {folder} lacks {names[0]} (or {names[1]}, or the same with .gz)")
    return path

"""Checkpoints: arrays and metadata in one file that is either whole or refused.

The file is an uncompressed ``.npz`` without pickled objects, so that ``numpy.load`` reads it too. One reserved entry holds
JSON: the format and its version, the names of all arrays, and the metadata.
"""

import contextlib
import json
import os
import secrets
import struct
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from numba_nn.core.errors import ArgumentError, CheckpointError, DTypeError

_FORMAT = "numba_nn.checkpoint"
_VERSION = 1
_HEADER = "__numba_nn__"

# What zipfile, numpy and json raise on bytes that are not theirs.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)


def save_checkpoint(path: str | os.PathLike[str], arrays: dict[str, NDArray[Any]], metadata: dict[str, Any]) -> None:
    """Write arrays and metadata to one file, all or nothing.

    The bytes go to a temporary file in the same folder, reach the disk, and only then take the name `path`: at every moment
    `path` holds the previous checkpoint or the new one, whole, even when the power fails or the disk is full.

    Parameters
    ----------
    path : path
        The file, taken as it is: no suffix is added. A symbolic link is followed. Its folder must exist.
    arrays : dict of str to ndarray
        Boolean, integer, float and complex arrays of any shape, also 0-d and empty. Names may contain dots and slashes.
    metadata : dict
        What JSON gives back unchanged: dicts with str keys, lists, str, int, float (NaN and infinities too), bool, None.

    Raises
    ------
    ArgumentError
        A name is reserved or cannot be stored.
    DTypeError
        A value of `arrays` is no ndarray or has another dtype, or `metadata` holds something that would come back changed.
    OSError
        The file cannot be written. The previous file is untouched and the temporary one removed.

    Examples
    --------
    >>> save_checkpoint("run.npz", {"0.weight": np.ones((4, 3), np.float32)}, {"epoch": 7})  # doctest: +SKIP
    >>> arrays, metadata = load_checkpoint("run.npz")  # doctest: +SKIP
    """
    for name, array in arrays.items():
        _check_name(name)
        _check_array(name, array)
    if not isinstance(metadata, dict):
        raise DTypeError(f"save_checkpoint: metadata must be a dict, got {type(metadata).__name__}")
    _check_json(metadata, "metadata")
    header = {"format": _FORMAT, "version": _VERSION, "names": list(arrays), "metadata": metadata}
    # Through a symbolic link: os.replace would put a file in the link's place.
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        # "x" rather than tempfile, whose files only their owner may read.
        with open(temporary, "xb") as file:
            _write(file, {_HEADER: np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays})
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:  # an interrupt too must leave nothing behind
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_directory(target.parent)


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what `save_checkpoint` wrote, bit for bit.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    arrays : dict of str to ndarray
        In the order in which they were saved, writable, with the dtypes and shapes saved.
    metadata : dict
        As saved.

    Raises
    ------
    CheckpointError
        The file is truncated, damaged, no checkpoint, or of a newer version. Nothing is returned in part.
    OSError
        The file cannot be opened.
    """
    path = Path(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(file) as archive:
                header = _read_header(path, archive, size)
                return {name: _read_array(archive, name, size) for name in header["names"]}, header["metadata"]
        except CheckpointError:
            raise
        except _DAMAGE as error:
            raise CheckpointError(
                f"{path}: expected a checkpoint written by save_checkpoint, but the file of {size} bytes is truncated, damaged "
                f"or of another kind: {error}"
            ) from error


def _check_name(name: str) -> None:
    if not isinstance(name, str):
        raise ArgumentError(f"save_checkpoint: names must be str, got {name!r}")
    if name == _HEADER:
        raise ArgumentError(f"save_checkpoint: the name {name!r} is reserved")
    try:
        # zipfile cuts names at NUL and, on some systems, turns backslashes into slashes.
        storable = zipfile.ZipInfo(_entry(name)).filename == _entry(name) and len(_entry(name).encode()) < 2**16
    except UnicodeEncodeError:
        storable = False
    if not storable:
        raise ArgumentError(f"save_checkpoint: the name {name!r} cannot be stored in a zip file unchanged")


def _check_array(name: str, array: NDArray[Any]) -> None:
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise DTypeError(f"save_checkpoint: {name!r} must be an ndarray, got {type(array).__name__}")
    # isbuiltin 2: types of other packages (bfloat16) that the format would bring back as raw bytes.
    if array.dtype.kind not in "biufc" or array.dtype.isbuiltin == 2:
        raise DTypeError(f"save_checkpoint: {name!r} must be boolean, integer, float or complex, got dtype {array.dtype}")


def _check_json(value: Any, where: str) -> None:
    """Refuse what JSON would change in silence: tuples become lists, numbers as keys become strings."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise DTypeError(f"save_checkpoint: keys of {where} must be str, got {key!r}")
            _check_json(item, f"{where}[{key!r}]")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check_json(item, f"{where}[{i}]")
    elif not (value is None or isinstance(value, str | int | float)):
        raise DTypeError(
            f"save_checkpoint: {where} must be a dict, list, str, int, float, bool or None, got {type(value).__name__} "
            f"{value!r}; convert it (list(...), int(...), float(...)) or save it as an array"
        )


def _entry(name: str) -> str:
    return f"{name}.npy"


def _write(file: BinaryIO, arrays: dict[str, NDArray[Any]]) -> None:
    # numpy.savez refuses names such as "file", and numpy.load confuses "a" with "a.npy"; the bytes are the same format.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            # A ZipInfo made by hand carries no time: equal states give equal files.
            with archive.open(zipfile.ZipInfo(_entry(name)), "w", force_zip64=True) as entry:
                npy.write_array(entry, array, allow_pickle=False)


def _sync_directory(directory: Path) -> None:
    """Make the new name itself durable, where the system can; the file is complete in any case."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read_header(path: Path, archive: zipfile.ZipFile, size: int) -> dict[str, Any]:
    entries = archive.namelist()
    if _entry(_HEADER) not in entries:
        raise CheckpointError(
            f"{path}: expected a checkpoint written by save_checkpoint, found a zip file without the entry {_HEADER!r}"
        )
    header = json.loads(_read_array(archive, _HEADER, size).tobytes())
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: expected format {_FORMAT!r}, found another in the entry {_HEADER!r}")
    if header["version"] != _VERSION:
        raise CheckpointError(
            f"{path}: expected format version {_VERSION}, found {header['version']!r}; "
            "it was written by a newer numba_nn: upgrade to read it"
        )
    expected = [_entry(name) for name in (_HEADER, *header["names"])]
    if sorted(entries) != sorted(expected):
        odd = sorted(set(entries).symmetric_difference(expected)) or "an entry twice"
        raise CheckpointError(f"{path}: the file's entries are not those that were saved: {odd}")
    if not isinstance(header["metadata"], dict):
        raise CheckpointError(f"{path}: expected metadata to be a dict, found {type(header['metadata']).__name__}")
    return header


def _read_array(archive: zipfile.ZipFile, name: str, size: int) -> NDArray[Any]:
    info = archive.getinfo(_entry(name))
    # A damaged length could ask for memory without end.
    if info.compress_type != zipfile.ZIP_STORED or not info.file_size == info.compress_size <= size:
        raise ValueError(f"entry {name!r} has impossible sizes or is compressed")
    # The whole entry at once: zipfile compares its checksum before numpy believes any of it.
    stream = BytesIO(archive.read(info))
    array = npy.read_array(stream, allow_pickle=False)
    if stream.read(1):
        raise ValueError(f"entry {name!r} is longer than its array")
    return array

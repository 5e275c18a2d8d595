"""Checkpoints: arrays and metadata in one file that is either whole or refused.

The file is an uncompressed ``.npz`` without pickled objects, so that ``numpy.load`` reads it too. One reserved entry holds
JSON: the format and its version, the names of all arrays, and the metadata.
"""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numba_nn.core.archive import DAMAGE, HEADER, check_name, entry, read_array, write_arrays, write_whole
from numba_nn.core.errors import CheckpointError, DTypeError

_FORMAT = "numba_nn.checkpoint"
_VERSION = 1


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
        check_name("save_checkpoint", name)
        _check_array(name, array)
    if not isinstance(metadata, dict):
        raise DTypeError(f"save_checkpoint: metadata must be a dict, got {type(metadata).__name__}")
    _check_json(metadata, "metadata")
    header = {"format": _FORMAT, "version": _VERSION, "names": list(arrays), "metadata": metadata}
    whole = {HEADER: np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays}
    write_whole(path, lambda file: write_arrays(file, whole))


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
                return {name: read_array(archive, name, size) for name in header["names"]}, header["metadata"]
        except CheckpointError:
            raise
        except DAMAGE as error:
            raise CheckpointError(
                f"{path}: expected a checkpoint written by save_checkpoint, but the file of {size} bytes is truncated, damaged "
                f"or of another kind: {error}"
            ) from error


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


def _read_header(path: Path, archive: zipfile.ZipFile, size: int) -> dict[str, Any]:
    entries = archive.namelist()
    if entry(HEADER) not in entries:
        raise CheckpointError(
            f"{path}: expected a checkpoint written by save_checkpoint, found a zip file without the entry {HEADER!r}"
        )
    header = json.loads(read_array(archive, HEADER, size).tobytes())
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: expected format {_FORMAT!r}, found another in the entry {HEADER!r}")
    if header["version"] != _VERSION:
        raise CheckpointError(
            f"{path}: expected format version {_VERSION}, found {header['version']!r}; "
            "it was written by a newer numba_nn: upgrade to read it"
        )
    expected = [entry(name) for name in (HEADER, *header["names"])]
    if sorted(entries) != sorted(expected):
        odd = sorted(set(entries).symmetric_difference(expected)) or "an entry twice"
        raise CheckpointError(f"{path}: the file's entries are not those that were saved: {odd}")
    if not isinstance(header["metadata"], dict):
        raise CheckpointError(f"{path}: expected metadata to be a dict, found {type(header['metadata']).__name__}")
    return header

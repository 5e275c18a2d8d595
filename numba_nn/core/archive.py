"""Files of arrays: named arrays in a zip file (``.npz``), and files that are either whole or not there."""

import contextlib
import os
import secrets
import struct
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from numpy.lib import format as npy
from numpy.typing import NDArray

from numba_nn.core.errors import ArgumentError

HEADER = "__numba_nn__"
"""Name of the entry that makes a file a training checkpoint (`numba_nn.io`)."""

DAMAGE = (
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
"""What zipfile, numpy and json raise on bytes that are not theirs."""


def write_whole(path: str | os.PathLike[str], write: Callable[[BinaryIO], Any]) -> None:
    """Write a file, all or nothing.

    The bytes go to a temporary file in the same folder, reach the disk, and only then take the name: at every moment ``path``
    holds the previous file or the new one, whole, even when the power fails or the disk is full.

    Parameters
    ----------
    path : path
        The file, taken as it is. A symbolic link is followed. Its folder must exist.
    write : callable
        Writes to the open file that it is given.

    Raises
    ------
    OSError
        The file cannot be written. The previous file is untouched and the temporary one removed.
    """
    # Through a symbolic link: os.replace would put a file in the link's place.
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        # "x" rather than tempfile, whose files only their owner may read.
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:  # an interrupt too must leave nothing behind
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_directory(target.parent)


def _sync_directory(directory: Path) -> None:
    """Make the new name itself durable, where the system can; the file is complete in any case."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_name(where: str, name: str) -> None:
    """Raise `ArgumentError` unless an array's name comes back from a zip file unchanged.

    Parameters
    ----------
    where : str
        Who writes, for the message.
    name : str
        Name of an array.
    """
    if not isinstance(name, str):
        raise ArgumentError(f"{where}: names must be str, got {name!r}")
    if name == HEADER:
        raise ArgumentError(f"{where}: the name {name!r} is reserved")
    try:
        # zipfile cuts names at NUL and, on some systems, turns backslashes into slashes.
        storable = zipfile.ZipInfo(entry(name)).filename == entry(name) and len(entry(name).encode()) < 2**16
    except UnicodeEncodeError:
        storable = False
    if not storable:
        raise ArgumentError(f"{where}: the name {name!r} cannot be stored in a zip file unchanged")


def entry(name: str) -> str:
    """Name of an array's file inside the zip file."""
    return f"{name}.npy"


def write_arrays(file: BinaryIO, arrays: dict[str, NDArray[Any]]) -> None:
    """Write arrays as an uncompressed ``.npz`` without pickled objects.

    Parameters
    ----------
    file : file
        Open for writing bytes.
    arrays : dict of str to ndarray
        Whose names `check_name` lets pass.
    """
    # numpy.savez refuses names such as "file", and numpy.load confuses "a" with "a.npy"; the bytes are the same format.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            # A ZipInfo made by hand carries no time: equal states give equal files.
            with archive.open(zipfile.ZipInfo(entry(name)), "w", force_zip64=True) as stream:
                npy.write_array(stream, array, allow_pickle=False)


def read_array(archive: zipfile.ZipFile, name: str, size: int) -> NDArray[Any]:
    """Read one array; raises one of `DAMAGE` where its bytes are not those that were written.

    Parameters
    ----------
    archive : zipfile.ZipFile
        The open file.
    name : str
        Name of the array.
    size : int
        Bytes of the file.

    Returns
    -------
    ndarray
        The array, writable.
    """
    info = archive.getinfo(entry(name))
    # A damaged length could ask for memory without end.
    if info.compress_type != zipfile.ZIP_STORED or not info.file_size == info.compress_size <= size:
        raise ValueError(f"entry {name!r} has impossible sizes or is compressed")
    # The whole entry at once: zipfile compares its checksum before numpy believes any of it.
    stream = BytesIO(archive.read(info))
    array = npy.read_array(stream, allow_pickle=False)
    if stream.read(1):
        raise ValueError(f"entry {name!r} is longer than its array")
    return array

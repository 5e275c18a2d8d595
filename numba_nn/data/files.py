"""Files of data sets on the user's disk: plain, gzipped, or inside an installed package."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from numba_nn.core.errors import DataError


def read_bytes(path: Path, what: str) -> bytes:
    """All bytes of a file, unpacked if its name ends in ``.gz`` or ``.tgz``.

    Parameters
    ----------
    path : Path
        The file.
    what : str
        What it should hold, for messages.

    Returns
    -------
    bytes
        The contents.

    Raises
    ------
    DataError
        If there is no such file, or a gzipped one is damaged.
    """
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix in (".gz", ".tgz") else data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: expected a gzipped file of {what}, but it is damaged: {error}") from error
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError(f"{path}: expected a file of {what}, but there is none") from error


def plain_or_gzipped(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of these files that a folder holds, each as it is or with ``.gz``."""
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def installed_file(where: str, package: str, inside: str) -> Path:
    """A file of an installed package, which is located and not imported.

    Parameters
    ----------
    where : str
        Who needs it, for messages.
    package, inside : str
        Name of the package, and the file's path in it.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ImportError
        If the package is not installed.
    DataError
        If it lacks the file.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise missing_package(where, package)
    path = Path(spec.submodule_search_locations[0]) / inside
    if not path.is_file():
        raise DataError(f"{where}: the installed {package} does not contain {inside} (looked at {path})")
    return path


def missing_package(where: str, package: str) -> ImportError:
    """What to say where a package is missing."""
    return ImportError(
        f'{where} needs {package}, not installed here; in a clone: make demo, elsewhere: pip install ".[demo]"', name=package
    )

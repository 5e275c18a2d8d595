"""Weight files: state dicts as ``.npz`` (NumPy, without pickled objects) or as ``.safetensors``, by the file's suffix."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numba_nn.core.archive import DAMAGE, HEADER, check_name, read_array, write_arrays, write_whole
from numba_nn.core.errors import ArgumentError, CheckpointError

Weights = dict[str, NDArray[Any]]


def save_weights(path: str | os.PathLike[str], arrays: Weights) -> None:
    """Write a state dict, all or nothing; see `Module.save`.

    Parameters
    ----------
    path : path
        The file.
    arrays : dict of str to ndarray
        As `Module.state_dict` gives it.
    """
    if _is_safetensors("save", path):
        data = _safetensors().numpy.save({name: np.asarray(array, order="C") for name, array in arrays.items()})
        write_whole(path, lambda file: file.write(data))
        return
    for name in arrays:
        check_name("save", name)
    write_whole(path, lambda file: write_arrays(file, arrays))


def load_weights(path: str | os.PathLike[str]) -> Weights:
    """Read a state dict, all or nothing; see `Module.load`.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    dict of str to ndarray
        As `Module.load_state_dict` takes it.
    """
    read = _read_safetensors if _is_safetensors("load", path) else _read_npz
    try:
        return read(Path(path))
    except (CheckpointError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except DAMAGE as error:
        raise CheckpointError(
            f"{path}: expected a file of weights, but it is truncated, damaged or of another kind: {error}"
        ) from error


def _is_safetensors(what: str, path: str | os.PathLike[str]) -> bool:
    suffix = Path(path).suffix
    if suffix not in (".npz", ".safetensors"):
        raise ArgumentError(f"{what}: path must end in .npz or .safetensors, got {os.fspath(path)!r}")
    return suffix == ".safetensors"


def _read_npz(path: Path) -> Weights:
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if HEADER in names:
            raise CheckpointError(
                f"{path}: expected a file of weights, found a training checkpoint: nn.io.load_checkpoint reads it"
            )
        return {name: read_array(archive, name, path.stat().st_size) for name in names}


def _read_safetensors(path: Path) -> Weights:
    module, data = _safetensors(), path.read_bytes()
    try:
        return module.numpy.load(data)
    except KeyError as error:
        raise CheckpointError(
            f"{path}: holds arrays of dtype {error}, which NumPy does not have; save it as float32"
        ) from error
    except module.SafetensorError as error:
        raise ValueError(error) from error


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "files of weights ending in .safetensors need the package safetensors, not installed here; "
            "pip install 'numba-nn[safetensors]', or save as .npz"
        ) from error
    return safetensors

"""Handwritten digits that come inside the wheel of scikit-learn, which is located and not imported."""

import gzip
import zlib

import numpy as np
from numpy.typing import NDArray

from numba_nn.core.errors import DataError
from numba_nn.data.files import installed_file

_FILE = "datasets/data/digits.csv.gz"
_SIDE = 8
_LARGEST = 16  # grey values are 0 to 16


def load_digits(standardize: bool = False) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Read 1,797 small images of handwritten digits, without a download.

    Parameters
    ----------
    standardize : bool, optional
        Subtract the mean of all grey values and divide by their standard deviation.

    Returns
    -------
    images : ndarray of float32, shape (1797, 1, 8, 8)
        Grey values in [0, 1], or standardised.
    labels : ndarray of int64, shape (1797,)
        Classes 0 to 9.

    Raises
    ------
    ImportError
        scikit-learn is not installed.
    DataError
        The installed scikit-learn lacks the file, or it cannot be read.

    Notes
    -----
    E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998; the test set.
    """
    path = installed_file("load_digits", "sklearn", _FILE)
    try:
        with gzip.open(path, "rt") as file:
            rows = np.loadtxt(file, delimiter=",", ndmin=2)
        images = (rows[:, :-1] / _LARGEST).reshape(-1, 1, _SIDE, _SIDE)
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: expected rows of 64 grey values and a label, but it cannot be read: {error}") from error
    if standardize:
        images = (images - images.mean()) / images.std()
    return images.astype(np.float32), rows[:, -1].astype(np.int64)

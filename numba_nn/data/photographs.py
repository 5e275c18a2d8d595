"""Patches of real colour photographs that come inside the wheels of scikit-learn and scikit-image.

Only files inside the installed packages are opened: ``skimage.data`` would download what it does not find. The packages are
located and not imported, which saves seconds at the start of a demonstration.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from numba_nn.core.errors import ArgumentError, DataError
from numba_nn.data.files import installed_file, missing_package

_NAME = "photograph_patches"
# Package, file, and the side that is held out: the one that shows more than background.
_PHOTOGRAPHS = (
    ("sklearn", "datasets/images/china.jpg", "left"),  # 427 x 640 pixels, a pagoda by a lake
    ("sklearn", "datasets/images/flower.jpg", "bottom"),  # 427 x 640, a dahlia
    ("skimage", "data/astronaut.png", "right"),  # 512 x 512, a portrait
    ("skimage", "data/chelsea.png", "left"),  # 300 x 451, a cat
    ("skimage", "data/coffee.png", "left"),  # 400 x 600, a cup on a table
    ("skimage", "data/motorcycle_left.png", "right"),  # 500 x 741, a motorcycle in a workshop
    ("skimage", "data/rocket.jpg", "left"),  # 427 x 640, a launch pad at night
    ("skimage", "data/ihc.png", "right"),  # 512 x 512, stained tissue under a microscope
    ("skimage", "data/hubble_deep_field.jpg", "right"),  # 872 x 1000, galaxies
)
# At 1/4 a patch of 32 pixels shows an eye or a wheel, at full size little but texture: hence coarse scales come more often.
PHOTOGRAPHS = len(_PHOTOGRAPHS)
_REDUCTIONS = (1, 2, 4)
_SHARES = (0.2, 0.35, 0.45)
_HELD_OUT = 0.3  # of each photograph: the narrowest such strip, 128 pixels, still holds a patch of 32 at 1/4
_LEAST_CONTRAST = 0.04  # standard deviation of the most varied channel
_ATTEMPTS = 20

_Pyramid = dict[int, NDArray[np.float32]]  # by how many times it is reduced


def photograph_patches(
    n_train: int = 4096, n_validation: int = 512, size: int = 32, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cut random patches from nine real photographs, without a download.

    Patches are cut at full size and from photographs reduced to 1/2 and 1/4 (means of 2x2 and 4x4 pixels), half of them
    mirrored. A strip along one side of every photograph, 30 % of it, is for validation only: no pixel serves both sets at any
    scale. Within each set patches overlap. Both sets take the photographs in turn: up to a size of 32, patch i is cut from
    photograph i mod 9.

    Parameters
    ----------
    n_train : int
        Patches for training, at least 1.
    n_validation : int
        Patches for validation, at least 0.
    size : int
        Height and width in pixels, at least 1.
    seed : int
        The same seed gives the same patches; 0 <= seed < 2**64. Neither set depends on the other's number.

    Returns
    -------
    train : ndarray of float32, shape (n_train, 3, size, size)
        Red, green and blue in [0, 1].
    validation : ndarray of float32, shape (n_validation, 3, size, size)
        Likewise.

    Raises
    ------
    ArgumentError
        An argument is out of range, or `size` is larger than the held-out part of every photograph.
    ImportError
        scikit-learn, scikit-image or Pillow is not installed.
    DataError
        An installed package lacks a photograph, or it cannot be read.

    Notes
    -----
    Nearly constant patches (plain sky) are drawn again, at most 20 times; then the most varied of those is taken.
    """
    for name, value, low in (("n_train", n_train, 1), ("n_validation", n_validation, 0), ("size", size, 1), ("seed", seed, 0)):
        if not isinstance(value, int | np.integer) or value < low:
            raise ArgumentError(f"photograph_patches: {name} must be a whole number >= {low}, got {value!r}")
    if seed >= 2**64:
        raise ArgumentError(f"photograph_patches: seed must be below 2**64, got {seed}")
    pairs = [_pyramids(photograph, side, size) for photograph, side in _photographs()]
    pairs = [(train, validation) for train, validation in pairs if train]
    if not pairs:
        raise ArgumentError(f"photograph_patches: no photograph has room for patches of size {size}")
    # A generator for each set, so that asking for more training patches leaves the validation set as it was.
    train = _cut([pair[0] for pair in pairs], n_train, size, np.random.Generator(np.random.Philox(key=_key(seed, 0))))
    validation = _cut([pair[1] for pair in pairs], n_validation, size, np.random.Generator(np.random.Philox(key=_key(seed, 1))))
    return train, validation


def _key(seed: int, stream: int) -> NDArray[np.uint64]:
    return np.array([seed, stream], np.uint64)


def _photographs() -> list[tuple[NDArray[np.uint8], str]]:
    """All photographs, each of shape (height, width, 3), and the side of each that is held out."""
    return [(_read(installed_file(_NAME, package, inside)), side) for package, inside, side in _PHOTOGRAPHS]


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_package(_NAME, "PIL") from error
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:  # Pillow's two for damaged files
        raise DataError(f"{path}: expected a photograph, but it cannot be read: {error}") from error


def _split(photograph: NDArray[np.uint8], side: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Views of the part for training and of the strip along `side` for validation."""
    along = 0 if side == "bottom" else 1
    held_out = round(photograph.shape[along] * _HELD_OUT)
    if side == "left":
        return photograph[:, held_out:], photograph[:, :held_out]
    if side == "right":
        return photograph[:, :-held_out], photograph[:, -held_out:]
    return photograph[:-held_out], photograph[-held_out:]


def _pyramids(photograph: NDArray[np.uint8], side: str, size: int) -> tuple[_Pyramid, _Pyramid]:
    """Both parts, at every reduction at which both hold a patch."""
    # Split first, reduce after: no mean spans the edge.
    parts = _split(photograph, side)
    room = min(min(part.shape[:2]) for part in parts)
    usable = [k for k in _REDUCTIONS if room // k >= size]
    train, validation = ({k: _reduce(part, k) for k in usable} for part in parts)
    return train, validation


def _reduce(part: NDArray[np.uint8], k: int) -> NDArray[np.float32]:
    """Means of k x k pixels as (3, height // k, width // k) in [0, 1]."""
    height, width = part.shape[0] // k, part.shape[1] // k
    blocks = part[: height * k, : width * k].reshape(height, k, width, k, 3)
    means = blocks.mean(axis=(1, 3), dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(means.transpose(2, 0, 1))


def _cut(pyramids: list[_Pyramid], count: int, size: int, generator: np.random.Generator) -> NDArray[np.float32]:
    patches = np.empty((count, 3, size, size), np.float32)
    # In turn, so that every photograph has its share of any number; a training loop shuffles.
    for i in range(count):
        patches[i] = _varied_patch(pyramids[i % len(pyramids)], size, generator)
    return patches


def _varied_patch(pyramid: _Pyramid, size: int, generator: np.random.Generator) -> NDArray[np.float32]:
    best, best_contrast = None, -1.0
    for _ in range(_ATTEMPTS):
        patch = _random_patch(pyramid, size, generator)
        contrast = float(patch.reshape(3, -1).std(axis=1).max())
        if contrast > best_contrast:
            best, best_contrast = patch, contrast
        if contrast >= _LEAST_CONTRAST:
            break
    assert best is not None  # for the type checker: the first patch is taken
    return best


def _random_patch(pyramid: _Pyramid, size: int, generator: np.random.Generator) -> NDArray[np.float32]:
    limits = np.cumsum([share for k, share in zip(_REDUCTIONS, _SHARES, strict=True) if k in pyramid])
    level = int(np.searchsorted(limits, generator.random() * limits[-1], side="right"))
    image = list(pyramid.values())[level]
    top = int(generator.integers(image.shape[1] - size + 1))
    left = int(generator.integers(image.shape[2] - size + 1))
    patch = image[:, top : top + size, left : left + size]
    return patch[:, :, ::-1] if generator.random() < 0.5 else patch

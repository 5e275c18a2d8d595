"""Setting items aside for testing."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numba_nn.core.errors import ArgumentError, ShapeError
from numba_nn.data.batches import common_length, require_whole_number


def train_test_split(
    *arrays: NDArray[Any], test_size: float = 0.2, seed: int = 0, stratify: NDArray[Any] | None = None
) -> list[NDArray[Any]]:
    """Divide arrays at random into a part for training and a part for testing.

    Parameters
    ----------
    *arrays : ndarray, shape (N, ...)
        Arrays of equal length; item i of one belongs to item i of the others.
    test_size : float or int, optional
        Items for testing: a share between 0 and 1 (rounded up), or a whole number.
    seed : int, optional
        The same seed gives the same parts; 0 <= seed < 2**64.
    stratify : ndarray, shape (N,), optional
        Classes; both parts then hold each class in its share of the whole, up to one item.

    Returns
    -------
    list of ndarray
        Training and test part of the first array, then of the second, and so on: copies.

    Raises
    ------
    ArgumentError
        `test_size` leaves one of the parts empty or is no such number, or the seed is out of range.
    DTypeError, ShapeError
        Something is no array, has no items, or lengths differ.

    Examples
    --------
    >>> x_train, x_test, y_train, y_test = train_test_split(x, y, stratify=y)  # doctest: +SKIP
    """
    count = common_length("train_test_split", arrays)
    require_whole_number("train_test_split", "seed", seed, 0, 2**64)
    testing = _test_count(test_size, count)
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, 0], np.uint64)))
    order = generator.permutation(count)
    if stratify is not None:
        order = _stratified(order, stratify, testing)
    return [part for array in arrays for part in (array[order[testing:]], array[order[:testing]])]


def _test_count(test_size: float, count: int) -> int:
    whole = isinstance(test_size, int | np.integer) and not isinstance(test_size, bool)
    share = isinstance(test_size, float | np.floating) and 0 < test_size < 1
    # Less a rounding error: 0.07 * 100 is a little above 7.
    testing = int(test_size) if whole else math.ceil(test_size * count - 1e-9) if share else 0
    if not 0 < testing < count:
        raise ArgumentError(
            f"train_test_split: test_size must be a share between 0 and 1, or a number of items, that leaves both parts some "
            f"of {count} items; got {test_size!r}"
        )
    return testing


def _stratified(order: NDArray[np.intp], classes: NDArray[Any], testing: int) -> NDArray[np.intp]:
    """The same items, the first ``testing`` of which hold each class in its share."""
    if not isinstance(classes, np.ndarray) or classes.shape != order.shape:
        raise ShapeError(f"train_test_split: stratify must be an array of shape {order.shape}, got {np.shape(classes)}")
    _, labels, sizes = np.unique(classes[order], return_inverse=True, return_counts=True)
    exact = sizes * (testing / len(order))
    taken = np.floor(exact).astype(np.int64)
    # What rounding down left over goes to the classes that lost most by it.
    taken[np.argsort(taken - exact, kind="stable")[: testing - taken.sum()]] += 1
    rank = np.empty_like(labels)  # the how manieth of its class an item is
    for label in range(len(sizes)):
        rank[labels == label] = np.arange(sizes[label])
    chosen = rank < taken[labels]
    return np.concatenate([order[chosen], order[~chosen]])

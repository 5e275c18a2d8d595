"""Loading of state dicts: by name, all or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numba_nn.core.device import device_of
from numba_nn.core.errors import StateDictError


def check_arrays(where: object, own: Mapping[str, NDArray[Any]], given: Any, strict: bool = True) -> None:
    """Raise `StateDictError` unless arrays can be copied into arrays of the same names; arguments are `load_arrays`'s."""
    if not isinstance(given, Mapping):
        raise StateDictError(f"{where}: a state dict maps names to arrays, got {type(given).__name__}")
    problems = [f"missing: {name}" for name in own if name not in given and strict]
    problems += [f"unexpected: {name}" for name in given if name not in own and strict]
    for name in (n for n in own if n in given):
        wanted, got = own[name], np.asarray(given[name])
        if wanted.shape != got.shape or not np.can_cast(got.dtype, wanted.dtype, "same_kind"):
            problems.append(f"{name}: expected {wanted.dtype} {wanted.shape}, got {got.dtype} {got.shape}")
    if problems:
        raise StateDictError(f"{where}: the state dict does not fit: " + "; ".join(problems))


def load_arrays(where: object, own: Mapping[str, NDArray[Any]], given: Any, strict: bool = True) -> None:
    """Copy arrays into arrays of the same names.

    Parameters
    ----------
    where : object
        Whose arrays, for the message.
    own : mapping of str to ndarray
        What is to be overwritten.
    given : mapping of str to ndarray
        What is to be loaded.
    strict : bool, optional
        Refuse missing and unexpected names; otherwise they are passed over.

    Raises
    ------
    StateDictError
        Listing every name that is missing, unexpected, or of another shape or kind of number; nothing was loaded.
    """
    check_arrays(where, own, given, strict)
    for name in (n for n in own if n in given):
        device_of(own[name]).assign(own[name], given[name])

"""What rounding is allowed to buy speed: a switch of the whole library."""

from __future__ import annotations

from numba_nn.core.errors import ArgumentError

PRECISIONS = "default", "exact"

_precision = "default"


def set_precision(mode: str) -> None:
    """Set how much rounding the layers may add for the sake of speed, in every thread, from their next forward or backward on.

    What `Layer.reserve` allocated serves both modes.

    Parameters
    ----------
    mode : {"default", "exact"}
        "default" allows algorithms whose largest error, in float32, is estimated to stay under 2e-5 of the largest output:
        Winograd's convolutions (see `Conv2d`). "exact" sums the products of a layer's formula and nothing else; it
        overrides ``algorithm="winograd"``. On a GPU "default" multiplies float32 on tensor cores, with factors rounded to 11
        significant bits (tf32; an error of about 5e-4 of a product), as PyTorch's convolutions do; "exact" does not.

    Raises
    ------
    ArgumentError
        For another mode.
    """
    global _precision
    if mode not in PRECISIONS:
        raise ArgumentError(f"set_precision: mode must be one of {PRECISIONS}, got {mode!r}")
    _precision = mode


def get_precision() -> str:
    """The mode that `set_precision` set; "default" at first."""
    return _precision

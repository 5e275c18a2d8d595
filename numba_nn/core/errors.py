"""Every error that numba_nn raises on purpose. Each is also the built-in exception a caller would expect."""

from typing import Any


class NumbaNNError(Exception):
    """Root of the hierarchy."""


class ShapeError(NumbaNNError, ValueError):
    """An array has the wrong rank or shape.

    Attributes
    ----------
    path : tuple of int
        Position of the layer that cannot take it in a `Sequential`, and in those inside; empty for a layer by itself.
    """

    path: tuple[int, ...] = ()

    def __str__(self) -> str:
        place = ".".join(map(str, self.path))
        return f"layer {place}: {super().__str__()}" if place else super().__str__()


class DTypeError(NumbaNNError, TypeError):
    """An array has the wrong dtype, or is no array."""


class ArgumentError(NumbaNNError, ValueError):
    """A constructor's or function's argument is out of range."""


class RangeError(NumbaNNError, IndexError):
    """An index, or a class, lies outside of what there is."""


class DestinationError(NumbaNNError, ValueError):
    """An ``out`` cannot be written: read-only, not C-contiguous, or overlapping an input or what the layer holds."""


class ReserveError(NumbaNNError, RuntimeError):
    """A strictly reserved layer was called with more than was reserved."""


class BackwardError(NumbaNNError, RuntimeError):
    """``backward`` without a forward in training mode to belong to."""


class ConcurrencyError(NumbaNNError, RuntimeError):
    """Two threads called one model, or one loss, at the same time."""


class StateDictError(NumbaNNError, KeyError):
    """A state dict does not fit the model; nothing was loaded."""

    def __str__(self) -> str:  # KeyError would show the message's repr
        return str(self.args[0])


class NonFiniteError(NumbaNNError, RuntimeError):
    """A number that must be finite is NaN or infinite."""


class CheckpointError(NumbaNNError, ValueError):
    """A checkpoint is damaged, of another kind, or of a newer version."""


class DataError(NumbaNNError, ValueError):
    """A data set cannot be given as asked: a file is damaged, missing or of another kind, or an epoch was superseded."""


class ReportError(NumbaNNError, RuntimeError):
    """A report cannot be made: there is no such revision or row, or the record is damaged."""


class TrainingError(NonFiniteError):
    """Training came to a loss, or a gradient's norm, that is not finite.

    Parameters
    ----------
    message : str
        What came, and what may help.

    Attributes
    ----------
    history : dict of list
        Of the whole epochs before.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.history: dict[str, list[Any]] = {}


class DeviceError(NumbaNNError, RuntimeError):
    """A device that this machine lacks, or arrays on another device than the layer."""


class OutOfMemoryError(DeviceError, MemoryError):
    """A device has no room for an array; parameters are what they were."""


class MissingTwinError(NumbaNNError, NotImplementedError):
    """A device array reached a kernel that has no CUDA twin."""


class TwinMismatchError(NumbaNNError, TypeError):
    """A CUDA twin's arguments differ from its CPU kernel's."""


def undefined(owner: object, method: str) -> NotImplementedError:
    """What to raise in place of a method that is a subclass's to define."""
    return NotImplementedError(f"{type(owner).__name__} must define {method}")

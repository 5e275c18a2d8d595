"""Where arrays live: `CPU` (NumPy) or `CUDA` (device arrays of ``numba.cuda``), with one interface for both.

A layer, a loss and a workspace have a ``device``; what they do with arrays apart from running kernels, they ask of it. Nothing
here imports ``numba.cuda`` before a device array is made or met.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from numba_nn.core.cuda.device import CudaDevice
from numba_nn.core.cuda.dlpack import lives_on_gpu
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.errors import ArgumentError
from numba_nn.core.host import CPU as CPU
from numba_nn.core.host import Device as Device

CUDA = CudaDevice()


def as_device(where: object, given: Any) -> Device:
    """The device of a name; raises `ArgumentError` for an unknown one, and `DeviceError` if this machine has none."""
    for device in (CPU, CUDA):
        if given is device or (isinstance(given, str) and given == device.name):
            device.require()
            return device
    raise ArgumentError(f"{where}: device must be 'cpu' or 'cuda', got {given!r}")


def as_stream(where: object, device: Device, given: Any, present: Any = None) -> Any:
    """A stream of ``numba.cuda``, from one or from its handle; None for the default one. Raises `ArgumentError` for others.

    The handle of the present one gives that very object.
    """
    if given is None:
        return None
    if device is CPU:
        raise ArgumentError(f"{where}: stream must be None on device 'cpu', which has no streams, got {given!r}")
    if isinstance(given, (int, np.integer)) and not isinstance(given, bool) and given >= 0:
        given = present if present is not None and int(present) == given else cuda.external_stream(int(given))
    if not (hasattr(given, "synchronize") and hasattr(given, "__int__")):
        wanted = "a stream of numba.cuda, or the handle of another library's as an int"
        raise ArgumentError(f"{where}: stream must be {wanted}, got {given!r}")
    return given if int(given) else None


def device_of(array: Any) -> Device:
    """Where an array lives; the CPU for what is no array, which the checks then refuse."""
    if isinstance(array, ndarray):
        return CPU
    there = CUDA.owns(array) or lives_on_gpu(array) or hasattr(array, "__cuda_array_interface__")
    return CUDA if there else CPU

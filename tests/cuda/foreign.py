"""Arrays of other libraries on the simulated GPU: they lie in host memory, and say otherwise."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

CUDA_DEVICE = 2  # kDLCUDA


class Tensor(ctypes.Structure):
    """DLTensor of dlpack.h."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int), ("device_id", ctypes.c_int), ("ndim", ctypes.c_int),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16), ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


class Versioned(ctypes.Structure):
    """DLManagedTensorVersioned of dlpack.h."""

    _fields_ = (
        ("version", ctypes.c_uint32 * 2), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64), ("tensor", Tensor),
    )  # fmt: skip


pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


class ByDLPack:
    """Knows DLPack only; ``code`` and ``bits`` replace those of the dtype, ``streams`` notes what it was asked for."""

    def __init__(self, host: np.ndarray, code: int | None = None, bits: int | None = None) -> None:
        self.host, self.streams = host, []
        self._changes = {"device_type": CUDA_DEVICE, "code": code, "bits": bits}

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA_DEVICE, 0

    def __dlpack__(self, *, stream: int | None = None, max_version: tuple[int, int] | None = None) -> Any:
        assert max_version is not None, "without a version nothing says whether it is read-only"
        self.streams.append(stream)
        capsule = self.host.__dlpack__(max_version=max_version)
        tensor = Versioned.from_address(pointer_of(capsule, b"dltensor_versioned")).tensor
        for name, value in self._changes.items():
            if value is not None:
                setattr(tensor, name, value)
        return capsule


class ByOldDLPack(ByDLPack):
    """Knows no versions of the protocol, and gives no strides for what is contiguous."""

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        self.streams.append(stream)
        capsule = self.host.__dlpack__()
        tensor = Tensor.from_address(pointer_of(capsule, b"dltensor"))
        tensor.device_type, tensor.strides = CUDA_DEVICE, None
        return capsule


class ByInterface:
    """Knows ``__cuda_array_interface__`` only."""

    def __init__(self, host: np.ndarray) -> None:
        self.host = host

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.host.__array_interface__, "version": 3}


class OnHost(ByDLPack):
    """Knows DLPack, and lives on the CPU."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

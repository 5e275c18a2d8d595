"""DLPack, for arrays as they lie on the GPU, of other libraries (PyTorch, CuPy, JAX) and for them: nothing is copied.

The protocol is that of the Python array API standard 2024.12: ``array.__dlpack_device__()`` says where an array lives, and
``array.__dlpack__(stream=...)`` has its producer order its work before the consumer's. What others give, ``cuda.core`` reads,
on which ``numba-cuda`` stands; `lendable` has arrays of ``numba.cuda`` give themselves.

Read on the host only, by way of ``cuda.core``: this has not run on hardware.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.errors import DeviceError

GPU_DEVICES = 2, 13  # of dlpack.h: kDLCUDA, and kDLCUDAManaged
BFLOAT16 = 4  # of dlpack.h: kDLBfloat
DEFAULT_STREAM = 1  # CUDA's legacy default stream, as the protocol numbers it, and the driver too
ANY_ORDER = -1  # in place of a stream: the consumer does not want to wait


def lives_on_gpu(array: Any) -> bool:
    """Whether an array says by DLPack that it lives on a CUDA device."""
    ask = getattr(array, "__dlpack_device__", None)
    return ask is not None and ask()[0] in GPU_DEVICES


def lender_of(array: Any, stream: Any) -> Any:
    """What gives an array of another library's by ``__cuda_array_interface__``; None if nothing does.

    DLPack comes first: with that interface either the host waits for the producer, or nobody does.

    Parameters
    ----------
    array : object
        Anything.
    stream : object
        Stream of ``numba.cuda``, or 0 for the default one, whose next work may use the array.

    Returns
    -------
    object or None
        The array, or what was made of it; None for what is no array of a GPU's, or of a dtype that NumPy has no name for.
    """
    if not lives_on_gpu(array):
        return array if hasattr(array, "__cuda_array_interface__") else None
    try:
        return Lent(array, stream)
    except (TypeError, ValueError, NotImplementedError):  # a dtype without a name
        return None
    except (BufferError, RuntimeError) as error:  # the producer's, of a tensor that requires a gradient, say
        raise DeviceError(f"a {type(array).__name__} cannot be taken by DLPack: {error}") from error


class Lent:
    """An array taken by DLPack, as ``numba.cuda`` takes arrays: by ``__cuda_array_interface__``.

    It holds what the producer lent, and gives it back when it goes itself.

    Parameters
    ----------
    array : object
        With ``__dlpack__``, on a CUDA device.
    stream : object
        As `lender_of` takes it.
    """

    def __init__(self, array: Any, stream: Any) -> None:
        from cuda.core.utils import StridedMemoryView  # type: ignore[import-not-found]

        self._view = view = StridedMemoryView.from_dlpack(array, int(stream) or DEFAULT_STREAM)
        size = view.dtype.itemsize
        self.__cuda_array_interface__ = {
            "shape": view.shape,
            "strides": None if view.strides is None else tuple([n * size for n in view.strides]),
            "typestr": view.dtype,  # its string would not tell a bfloat16 from any two bytes
            "data": (view.ptr, view.readonly),
            "version": 3,
        }


def in_stream(name: str) -> Callable[..., Any]:
    """The method of numba's device arrays of that name, whose view is lendable and bound to the array's stream.

    Of numba's own ``reshape`` forgets the stream, and ``view`` and ``squeeze`` the class.
    """

    def method(array: Any, *given: Any, **named: Any) -> Any:
        view = getattr(super(Lender, array), name)(*given, **named)
        view.stream = array.stream
        return lendable(view)

    return method


class Lender:
    """What `lendable` adds to a device array: other libraries take it by DLPack, on a stream of theirs."""

    reshape, view, squeeze = map(in_stream, ("reshape", "view", "squeeze"))

    def __dlpack_device__(self) -> tuple[int, int]:
        """Kind and number of the device."""
        return GPU_DEVICES[0], int(cuda.get_current_device().id)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule with the array, which is kept alive until the consumer is done with it.

        Parameters
        ----------
        stream : int, optional
            The consumer's, whose next work comes after that of the array's own: 1 or None for the legacy default stream, 2 for
            the default one of a thread, -1 if nobody shall wait.
        max_version : tuple of int, optional
            Not looked at: the capsule has no version, and every consumer reads such.
        dl_device : tuple of int, optional
            Where the consumer wants it.
        copy : bool, optional
            Whether the consumer wants a copy.

        Raises
        ------
        BufferError
            If the consumer wants a copy, or the array on another device, or gives no stream of CUDA's.
        """
        here = self.__dlpack_device__()
        if copy or dl_device not in (None, here) or stream == 0:
            asked = f"copy={copy}, dl_device={dl_device}, stream={stream}"
            raise BufferError(f"a device array is lent as it lies on device {here}, to a stream other than 0; got {asked}")
        if stream != ANY_ORDER:
            order_before(DEFAULT_STREAM if stream is None else int(stream), self)
        return capsule_of(self, here)


@functools.cache
def lending(kind: Any) -> Any:
    """A class of device arrays, with DLPack."""
    return type(kind.__name__, (Lender, kind), {})


def lendable(array: Any) -> Any:
    """A device array of ``numba.cuda`` itself, which other libraries may take from then on, as well as its views.

    These are what indices, ``reshape``, ``ravel``, ``view`` and ``squeeze`` give; they are bound to the stream of the array.
    """
    if not isinstance(array, Lender):
        kind: Any = type(array)
        array.__class__ = lending(kind)
    return array


def order_before(consumer: int, array: Any) -> None:
    """Have the next work on a stream wait for what there is now on that of an array."""
    if consumer != (int(array.stream) or DEFAULT_STREAM):
        event = cuda.event(timing=False)
        event.record(array.stream)
        event.wait(cuda.external_stream(consumer))


class Tensor(ctypes.Structure):
    """The beginning of DLManagedTensor in dlpack.h."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
    )  # fmt: skip


pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))


def capsule_of(array: Any, device: tuple[int, int]) -> Any:
    """A device array for DLPack: NumPy makes the capsule, as if of host memory, and its device is corrected here.

    So the capsule is taken apart by NumPy's compiled code, in whatever thread, and while Python shuts down.
    """
    interface, bfloat16 = array.__cuda_array_interface__, array.dtype.name == "bfloat16"
    memory = {**interface, "typestr": "<u2" if bfloat16 else interface["typestr"]}
    capsule = np.asarray(SimpleNamespace(__array_interface__=memory, owner=array)).__dlpack__()
    tensor = Tensor.from_address(pointer_of(capsule, b"dltensor"))
    tensor.device_type, tensor.device_id = device
    tensor.data = interface["data"][0]  # NumPy has another address for what has no element
    if bfloat16:
        tensor.code = BFLOAT16
    return capsule

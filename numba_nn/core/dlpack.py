"""Arrays of other libraries (PyTorch, CuPy, JAX) that speak DLPack, as they lie on the GPU: nothing is copied.

The protocol is that of the Python array API standard 2024.12: ``array.__dlpack_device__()`` says where an array lives, and
``array.__dlpack__(stream=...)`` has its producer order its work before ours. ``cuda.core``, on which ``numba-cuda`` stands,
reads what it gives.

Read on the host only, by way of ``cuda.core``: this has not run on hardware.
"""

from __future__ import annotations

from typing import Any

from numba_nn.core.errors import DeviceError

GPU_DEVICES = 2, 13  # of dlpack.h: kDLCUDA, and kDLCUDAManaged
DEFAULT_STREAM = 1  # CUDA's legacy default stream, as the protocol numbers it


def lives_on_gpu(array: Any) -> bool:
    """Whether an array says by DLPack that it lives on a CUDA device."""
    ask = getattr(array, "__dlpack_device__", None)
    return ask is not None and ask()[0] in GPU_DEVICES


def lender_of(array: Any, stream: Any) -> Any:
    """What gives an array of another library's by ``__cuda_array_interface__``; None if nothing does.

    DLPack counts before that interface, by which the host waits for the producer, or nobody does.

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

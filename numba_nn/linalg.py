"""Linear algebra on arrays, with destinations."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

from numba_nn.core.call import Array
from numba_nn.core.checks import check_array, check_destination
from numba_nn.core.device import CPU, Device, device_of
from numba_nn.core.errors import DestinationError, ShapeError
from numba_nn.core.gemm import gemm, packed_sizes, product_work
from numba_nn.core.workspace import Shape, Workspace, thread_workspace


def matmul(
    a: Array, b: Array, out: Array | None = None, *, transpose_a: bool = False, transpose_b: bool = False,
    accumulate: bool = False,
) -> Array:  # fmt: skip
    """Matrix product over the last two dimensions; leading dimensions broadcast.

    Parameters
    ----------
    a : ndarray or device array
        (..., M, K), or (..., K, M) with ``transpose_a``; float32 or float64, on a GPU also of 16 bits. All arrays live on one
        device.
    b : ndarray or device array
        (..., K, N), or (..., N, K) with ``transpose_b``; of the same dtype.
    out : ndarray or device array, optional
        (..., M, N), C-contiguous, apart from ``a`` and ``b``.
    transpose_a, transpose_b : bool, optional
        Use the operand transposed, without a copy; so is a view such as ``a.T``, which needs no such word.
    accumulate : bool, optional
        Add the product to ``out``.

    Returns
    -------
    ndarray or device array
        ``out`` itself, or a fresh array.

    Raises
    ------
    ShapeError, DTypeError, DestinationError
        If an array does not fit, or ``accumulate`` comes without ``out``; nothing was written.
    DeviceError
        If arrays live on different devices.
    """
    device = device_of(a)
    a, b = device.accept(a), device.accept(b)
    check_array("matmul", "a", a, None, device)
    check_array("matmul", "b", b, a.dtype, device)
    if device is CPU:
        (a, transpose_a), (b, transpose_b) = _as_stored(a, transpose_a), _as_stored(b, transpose_b)
    plan = _plan(a.shape, b.shape, transpose_a, transpose_b, a.dtype, device)
    if out is None:
        if accumulate:
            raise DestinationError("matmul: accumulate=True needs out, the array to add to")
        out = device.empty(plan.shape, a.dtype)
    c = device.accept(out)
    check_destination("matmul", "out", c, plan.shape, a.dtype, a, b, device=device)
    if c.size == 0:
        return out
    workspace = thread_workspace(device)
    left, right = _matrices("a", a, plan.a_flat, workspace), _matrices("b", b, plan.b_flat, workspace)
    gemm.for_work(plan.work, device)(
        c.reshape(plan.flat), *plan.scratch(workspace), left, right, plan.a_of, plan.b_of,
        plan.mnk, plan.a_strides, plan.b_strides, accumulate,
    )  # fmt: skip
    return out


def _as_stored(array: Array, transposed: bool) -> tuple[Array, bool]:
    """A view such as ``a.T`` as the matrices that lie in memory, which are then told to be transposed; others as they are."""
    if array.ndim > 1 and not array.flags.c_contiguous and array.swapaxes(-1, -2).flags.c_contiguous:
        return array.swapaxes(-1, -2), not transposed
    return array, transposed


def _matrices(name: str, array: Array, shape: Shape, workspace: Workspace) -> Array:
    """(count, elements of a matrix); a strided array by way of a copy."""
    return workspace.contiguous(name, array).reshape(shape)


class _Plan:
    """What `matmul` derives from the shapes of its operands, and its scratch in a thread."""

    def __init__(self, a: Shape, b: Shape, transpose_a: bool, transpose_b: bool, dtype: Any, device: Device) -> None:
        if len(a) < 2 or len(b) < 2:
            raise ShapeError(f"matmul: a and b need at least two dimensions, got {a} and {b}")
        m, k = (a[-1], a[-2]) if transpose_a else (a[-2], a[-1])
        depth, n = (b[-1], b[-2]) if transpose_b else (b[-2], b[-1])
        if k != depth:
            shapes = f"shapes {(*a[:-2], m, k)} and {(*b[:-2], depth, n)}"  # as they are multiplied
            raise ShapeError(f"matmul: a is {m} x {k}, b is {depth} x {n}: inner dimensions differ ({shapes})")
        try:
            batch = np.broadcast_shapes(a[:-2], b[:-2])
        except ValueError:
            raise ShapeError(f"matmul: leading dimensions {a[:-2]} and {b[:-2]} do not broadcast") from None
        self.shape = (*batch, m, n)
        self.mnk = (m, n, k)
        self.a_strides = (1, m) if transpose_a else (k, 1)
        self.b_strides = (1, k) if transpose_b else (n, 1)
        a_of, b_of = _which(a[:-2], batch), _which(b[:-2], batch)
        self.a_of, self.b_of = device.from_host(a_of), device.from_host(b_of)
        self.flat, self.a_flat, self.b_flat = ((math.prod(s[:-2]), s[-2] * s[-1]) for s in (self.shape, a, b))
        self.work = product_work(m, n, k) * len(a_of)
        sizes = packed_sizes(m, n, k, dtype) if device is CPU else (0, 0)  # a GPU packs nothing
        counts = zip(("left", "right"), (self.a_flat[0], self.b_flat[0]), sizes, strict=True)
        self._packed = {name: ((count * size,), dtype) for name, count, size in counts}
        self._scratch: tuple[Array, ...] = ()
        self._generation = -1

    def scratch(self, workspace: Workspace) -> tuple[Array, ...]:
        """Room for the packed operands."""
        if self._generation != workspace.generation:
            before = workspace.generation
            self._scratch = tuple(workspace.carve("packed", self._packed).values())
            if workspace.generation != before:
                for plan in _of_thread.plans.values():
                    plan._generation = -1
                    if plan is not self:
                        plan._scratch = ()  # or it would hold on to the buffer that was replaced
            self._generation = workspace.generation
        return self._scratch


def _which(own: Shape, batch: Shape) -> Array:
    """Which of an operand's matrices each product takes."""
    return np.broadcast_to(np.arange(math.prod(own)).reshape(own), batch).ravel().astype(np.int64)


_of_thread = threading.local()
PLANS = 256  # that a thread keeps


def _plan(*key: Any) -> _Plan:
    """The plan for these shapes, transpositions and dtype, which a thread keeps: its scratch is the thread's."""
    plans: dict[Any, _Plan] = _of_thread.__dict__.setdefault("plans", {})
    if key not in plans:
        if len(plans) == PLANS:
            plans.clear()
        plans[key] = _Plan(*key)
    return plans[key]

"""Linear algebra on arrays, with destinations."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
from numpy import ndarray

from numba_nn.core.call import Array
from numba_nn.core.checks import check_array, check_destination, check_flag, is_destination
from numba_nn.core.device import CPU, CUDA, Device, device_of
from numba_nn.core.errors import DestinationError, ShapeError
from numba_nn.core.kernel import In, Out, Scratch, kernel
from numba_nn.core.product.gemm import gemm, packed_sizes, product_work
from numba_nn.core.workspace import Shape, thread_workspace


def matmul(
    a: Array, b: Array, out: Array | None = None, *, transpose_a: bool = False, transpose_b: bool = False,
    accumulate: bool = False,
) -> Array:  # fmt: skip
    """Matrix product over the last two dimensions; leading dimensions broadcast.

    Parameters
    ----------
    a : ndarray or device array
        (..., M, K), or (..., K, M) with ``transpose_a``, or a vector (K,), which is a row; float32 or float64, on a GPU also of
        16 bits. All arrays live on one device.
    b : ndarray or device array
        (..., K, N), or (..., N, K) with ``transpose_b``, or a vector (K,), which is a column; of the same dtype.
    out : ndarray or device array, optional
        (..., M, N), without M or N where an operand is a vector; C-contiguous, apart from ``a`` and ``b``.
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
    if accumulate is not False:
        check_flag("matmul", "accumulate", accumulate)
    plan = _of_thread.newest
    plain = plan is not None and plan.serves(a, b, transpose_a, transpose_b)
    if plan is None or not plain:
        a, b, plan = _planned(a, b, transpose_a, transpose_b)
    c: Any = out
    if out is None:
        if accumulate:
            raise DestinationError("matmul: accumulate=True needs out, the array to add to")
        c = out = plan.device.empty(plan.shape, plan.dtype)
    elif not (plain and is_destination(out, plan.shape, plan.dtype, a, b)):
        c = plan.device.accept(out)
        check_destination("matmul", "out", c, plan.shape, plan.dtype, a, b, device=plan.device)
    plan.multiply(c, a, b, accumulate, plain)
    return out


@kernel
def matrix_products(
    c: Out, packed_a: Scratch, packed_b: Scratch, a: In, b: In, a_of: In, b_of: In,
    depth: int, transposed_a: int, transposed_b: int, accumulate: int,
):  # fmt: skip
    """`gemm` of matrices that lie one below the other, each ``transposed`` one transposed: c (S M, N), a (A M, K), b (B K, N).

    Shapes say what tuples would, which a call takes 0.1 us each to hand over.
    """
    m, n = c.shape[0] // a_of.size, c.shape[1]
    gemm(
        c.reshape((a_of.size, m * n)), packed_a, packed_b,
        a.reshape((a.size // (m * depth), m * depth)), b.reshape((b.size // (depth * n), depth * n)), a_of, b_of,
        (m, n, depth), (1, m) if transposed_a else (depth, 1), (1, depth) if transposed_b else (n, 1), accumulate,
    )  # fmt: skip


@matrix_products.on_cuda(steps=True)
def matrix_products(
    c: Out, packed_a: Scratch, packed_b: Scratch, a: In, b: In, a_of: In, b_of: In,
    depth: int, transposed_a: int, transposed_b: int, accumulate: int,
):  # fmt: skip
    """On tensor cores, or by multiply-adds; nothing is packed."""
    m, n = c.shape[0] // a_of.size, c.shape[1]
    gemm.cuda(
        c, packed_a, packed_b, a, b, a_of, b_of,
        (m, n, depth), (1, m) if transposed_a else (depth, 1), (1, depth) if transposed_b else (n, 1), accumulate,
    )  # fmt: skip


def _planned(a: Any, b: Any, transpose_a: bool, transpose_b: bool) -> tuple[Array, Array, _Plan]:
    """The operands, checked, and the plan for them, which the thread keeps: its scratch is the thread's."""
    transpose_a = check_flag("matmul", "transpose_a", transpose_a)
    transpose_b = check_flag("matmul", "transpose_b", transpose_b)
    device = device_of(a)
    a, b = device.accept(a), device.accept(b)
    check_array("matmul", "a", a, None, device)
    check_array("matmul", "b", b, a.dtype, device)
    if device is CPU:
        (a, transpose_a), (b, transpose_b) = _as_stored(a, transpose_a), _as_stored(b, transpose_b)
    kind, plans = (a.shape, b.shape, transpose_a, transpose_b, a.dtype, device), _of_thread.plans
    key = kind if device is CPU else (*kind, int(CUDA.stream))
    if key not in plans:
        if len(plans) == PLANS:
            plans.clear()
        plans[key] = _Plan(*kind)
    if device is CPU:
        _of_thread.newest = plans[key]
    return a, b, plans[key]


def _as_stored(array: Array, transposed: bool) -> tuple[Array, bool]:
    """A view such as ``a.T`` as the matrices that lie in memory, which are then told to be transposed; others as they are."""
    if array.ndim > 1 and not array.flags.c_contiguous and array.swapaxes(-1, -2).flags.c_contiguous:
        return array.swapaxes(-1, -2), not transposed
    return array, transposed


class _Plan:
    """What `matmul` derives from the shapes of its operands, and its scratch in a thread."""

    def __init__(self, a: Shape, b: Shape, transpose_a: bool, transpose_b: bool, dtype: Any, device: Device) -> None:
        if not a or not b:
            raise ShapeError(f"matmul: a and b need at least one dimension, got {a} and {b}")
        self.a_shape, self.b_shape, self.given = a, b, (transpose_a, transpose_b)
        one, a, transposed_a = _as_rows(a, transpose_a, False)
        other, b, transposed_b = _as_rows(b, transpose_b, True)  # a column as a row that is transposed
        m, k = a[::-1] if transposed_a else a
        depth, n = b[::-1] if transposed_b else b
        if k != depth:
            shapes = f"shapes {(*one, m, k)} and {(*other, depth, n)}"  # as they are multiplied
            raise ShapeError(f"matmul: a is {m} x {k}, b is {depth} x {n}: inner dimensions differ ({shapes})")
        try:
            batch = np.broadcast_shapes(one, other)
        except ValueError:
            raise ShapeError(f"matmul: leading dimensions {one} and {other} do not broadcast") from None
        self.shape = (*batch, *((m,) if len(self.a_shape) > 1 else ()), *((n,) if len(self.b_shape) > 1 else ()))
        self.dtype, self.device, self.workspace = dtype, device, thread_workspace(device)
        self.columns, self.depth = n, k
        self.transposed = int(transposed_a), int(transposed_b)  # a call takes 30 ns more for a bool
        self.is_empty = 0 in (*self.shape, k)
        self.are_matrices = len(self.shape) == len(self.a_shape) == len(self.b_shape) == 2
        which = _which(one, batch), _which(other, batch)
        self.of = which if device is CPU else tuple(map(device.from_host, which))
        self.work = product_work(m, n, k) * math.prod(batch)
        counts = math.prod(one), math.prod(other)
        sizes = packed_sizes(m, n, k, dtype, *counts) if device is CPU else (0, 0)  # a GPU packs nothing
        self._packed = {name: ((size,), dtype) for name, size in zip(("left", "right"), sizes, strict=True)}
        self._scratch: tuple[Array, ...] = ()
        self._generation = -1

    def serves(self, a: Any, b: Any, transpose_a: bool, transpose_b: bool) -> bool:
        """Whether this is the plan for these operands, as far as can be seen in 0.3 us: arrays of NumPy's that are plain."""
        return (
            type(a) is ndarray and type(b) is ndarray
            and a.shape == self.a_shape and b.shape == self.b_shape and a.dtype is self.dtype and b.dtype is self.dtype
            and a.flags.carray and b.flags.carray and transpose_a is self.given[0] and transpose_b is self.given[1]
        )  # fmt: skip

    def multiply(self, c: Array, a: Array, b: Array, accumulate: bool, plain: bool) -> None:
        """C = A B, or added to what C holds; operands that are not known to be ``plain`` perhaps by way of a copy."""
        if self.is_empty:
            if not accumulate:
                self.device.clear(c)
            return
        if not plain:
            a, b = self.workspace.contiguous("a", a), self.workspace.contiguous("b", b)
        if not self.are_matrices:
            c, a, b = c.reshape(-1, self.columns), a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
        run = matrix_products.for_work(self.work, self.device)
        run(c, *self._room(), a, b, *self.of, self.depth, *self.transposed, int(accumulate))

    def _room(self) -> tuple[Array, ...]:
        """Room for the packed operands."""
        workspace = self.workspace
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


def _as_rows(shape: Shape, transposed: bool, vector_transposed: bool) -> tuple[Shape, Shape, bool]:
    """Leading dimensions and the last two of an operand, and whether it is transposed; a vector is a row of its own."""
    if len(shape) == 1:
        return (), (1, *shape), vector_transposed
    return shape[:-2], shape[-2:], transposed


def _which(own: Shape, batch: Shape) -> Array:
    """Which of an operand's matrices each product takes; where each has its own, plans share their numbers."""
    if own == batch:
        count = math.prod(own)
        if count > _of_thread.numbers.size:
            _of_thread.numbers = np.arange(2 * count)
        return _of_thread.numbers[:count]
    return np.broadcast_to(np.arange(math.prod(own)).reshape(own), batch).ravel().astype(np.int64)


PLANS = 256  # that a thread keeps


class _OfThread(threading.local):
    """The plans of a thread, and the newest of those for the CPU; 0, 1, 2, ... for plans to share."""

    def __init__(self) -> None:
        self.plans: dict[Any, _Plan] = {}
        self.numbers = np.arange(16)
        self.newest: _Plan | None = None


_of_thread = _OfThread()

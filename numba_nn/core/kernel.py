"""``@kernel``: one Python body, compiled for the CPU in two variants, with a CUDA twin beside it.

A kernel is a module-level function whose arguments carry their role as an annotation:

    @kernel
    def relu_forward(y: Out, x: In):
        for i in prange(x.size):
            ...

    @relu_forward.on_cuda
    def relu_forward(y: Out, x: In):
        ...

(`portable` in place of `kernel` makes one body serve both.)

* ``relu_forward(y, x)`` picks the target from the type of the first array, and on the CPU the variant from its size.
* ``relu_forward.serial`` and ``relu_forward.parallel`` are the two CPU variants, ordinary Numba dispatchers.
* Inside the user's own ``@njit``, ``relu_forward(y, x)`` is the serial variant. Inside another kernel it is the variant that
  this other kernel is being compiled for: kernels compose, outside of their ``prange`` loops.
* Arrays are typed by role: an ``In`` is a read-only C-contiguous array, whatever the caller holds, so a kernel has one
  signature per dtype. A strided array is refused, never recompiled for.
"""

from __future__ import annotations

import functools
import inspect
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba.core import types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.errors import NumbaPerformanceWarning, TypingError
from numba.core.registry import CPUDispatcher

from numba_nn.core import threads
from numba_nn.core.cache import KernelCache
from numba_nn.core.cuda.portable import portable_twin
from numba_nn.core.cuda.twin import CudaKernel, Grid, covering
from numba_nn.core.device import CPU, Device
from numba_nn.core.errors import MissingTwinError, TwinMismatchError
from numba_nn.core.parts import Helper, compiled_as_parts
from numba_nn.core.roles import In as In
from numba_nn.core.roles import Out as Out
from numba_nn.core.roles import Role as Role
from numba_nn.core.roles import Saved as Saved
from numba_nn.core.roles import Scratch as Scratch
from numba_nn.core.roles import argument_roles

# reassoc lets reductions vectorise; nnan and ninf are left out: NaN and infinity pass through every kernel.
FASTMATH = frozenset({"contract", "reassoc", "arcp"})
FLAGS: dict[str, Any] = {
    "nopython": True, "nogil": True, "error_model": "numpy", "fastmath": set(FASTMATH),
    # Without Numba's runtime: nothing can be allocated, and references are not counted. A call with 7 arrays takes 0.5 us in
    # place of 0.7, and the 4 x 4 product in it 0.3 in place of 0.4. Helpers cannot return arrays that they made.
    "_nrt": False,
}  # fmt: skip


def inner(py_func: Callable[..., Any]) -> Helper:
    """Decorator of the helpers that kernels are made of: compiled as kernels are, into each kernel that calls them."""
    return Helper(py_func, FLAGS)


def inlined(py_func: Callable[..., Any]) -> Helper:
    """`inner`, always inlined: LLVM leaves a call to a long helper, and a call stops vectorisation."""
    return Helper(py_func, {**FLAGS, "forceinline": True})


def exact(py_func: Callable[..., Any]) -> Helper:
    """`inlined` for arithmetic that is done as it is written: a division by what a loop does not change stays one."""
    return Helper(py_func, {**FLAGS, "forceinline": True, "fastmath": False})


# Below this much work, 12 us of element-wise operations or 40 us of a matrix product (one Zen 4 core), kernels run serially.
# A parallel region costs some microseconds in a hot loop, but 50-100 us where the threads have idled for 20 ms, as between the
# calls of a control loop: this break-even lies between what either asks for.
PARALLEL_GRAIN = 131_072

# Below this much work, some 0.4 ms, a single thread runs the serial variant: a parallel region of one takes 6 us. Above it the
# parallel variant is faster, perhaps as Numba makes functions of its loops: serial ones took 1.05 to 1.2 times as long for 64
# MB (activations, Adam, dropout; Intel Xeon).
REGION_GRAIN = 4_194_304

_compiling = threading.local()
_noted: dict[tuple[Variant, Any], None] | None = None


@contextmanager
def rehearsal() -> Iterator[dict[tuple[Variant, Any], None]]:
    """Note which variants are called, and for which signatures, in order; those that are not compiled yet do nothing.

    For a fresh process, in which none is: a kernel that runs on what another one has left out may crash.
    """
    global _noted
    _noted = {}
    try:
        yield _noted
    finally:
        _noted = None


def _do_nothing(*_: Any) -> None:
    pass


class Variant(CPUDispatcher):
    """A Numba dispatcher that compiles one signature per set of dtypes and caches it on disk."""

    def __init__(self, py_func: Callable[..., Any], roles: dict[str, Any], parallel: bool) -> None:
        flags = {**FLAGS, "parallel": parallel}
        super().__init__(py_func, targetoptions=flags)
        self._roles = roles
        self._parallel = parallel
        self._served: set[tuple[types.Type, ...]] = set()
        self._cache = KernelCache(py_func, "parallel" if parallel else "serial", flags)

    def canonical(self, argument_types: tuple[types.Type, ...]) -> tuple[types.Type, ...]:
        """The one signature that serves these argument types."""
        if len(argument_types) != len(self._roles):
            raise TypingError(
                f"kernel '{self.__name__}' takes {len(self._roles)} arguments "
                f"({', '.join(self._roles)}), got {len(argument_types)}"
            )
        return tuple(self._canonical_argument(n, r, t) for (n, r), t in zip(self._roles.items(), argument_types, strict=True))

    def _canonical_argument(self, name: str, role: Any, given: types.Type) -> types.Type:
        where = f"kernel '{self.__name__}', argument '{name}'"
        given = types.unliteral(given)
        if not isinstance(role, Role):
            canonical = _canonical_scalar(given)
            if role is float and canonical == types.int64:
                return types.float64
            if role in (int, float) and canonical != (types.int64 if role is int else types.float64):
                raise TypingError(f"{where}: expected {role.__name__}, got {given}")
            return canonical
        if not isinstance(given, types.Array):
            raise TypingError(f"{where}: expected an array, got {given}")
        if given.layout != "C" or not given.aligned:
            raise TypingError(f"{where}: expected a C-contiguous array, got a strided one (np.ascontiguousarray copies it)")
        if role.writes and not given.mutable:
            raise TypingError(f"{where}: expected a writable array, got a read-only one")
        return types.Array(given.dtype, given.ndim, "C", readonly=not role.writes)

    def compile(self, sig: Any) -> Any:
        """Compile, or load, the canonical form of a signature, and let the given one call it too."""
        given = tuple(getattr(sig, "args", sig))
        canonical = self.canonical(given)
        if _noted is not None:
            _noted[self, canonical] = None
            return _do_nothing
        with global_compiler_lock, warnings.catch_warnings():
            # The parallel variant of a kernel that only calls other kernels has no loop of its own: nothing is wrong.
            warnings.filterwarnings("ignore", r"\s*The keyword argument 'parallel=True'", NumbaPerformanceWarning)
            outer = getattr(_compiling, "variant", None)
            _compiling.variant = self
            try:
                with compiled_as_parts(self.targetctx):
                    entry_point = super().compile(canonical)
            finally:
                _compiling.variant = outer
            if given != canonical and given not in self._served:
                # A second entry for the same types would make every later call ambiguous, hence slow.
                self._served.add(given)
                self._insert([t._code for t in given], entry_point, False)
        return entry_point


def _canonical_scalar(given: types.Type) -> types.Type:
    if isinstance(given, (types.Integer, types.Boolean)):
        return types.int64
    if isinstance(given, types.Float):
        return types.float64
    if isinstance(given, types.BaseTuple):
        return types.Tuple([_canonical_scalar(types.unliteral(t)) for t in given])
    return given


def _caller_is_parallel() -> bool:
    """Whether the function that is being typed now is the body of a parallel variant.

    A plain ``@njit`` function that this body calls is compiled once for all its callers, so it is told False.
    """
    variant = getattr(_compiling, "variant", None)
    if variant is None or not variant._parallel:
        return False
    callers = variant.typingctx.callstack
    return len(callers) > 0 and callers[0].func_id.func is variant.py_func


class Kernel:
    """A function compiled for the CPU (serial and parallel) and, through its twin, for CUDA. Made by `kernel`."""

    __name__: str

    def __init__(self, py_func: Callable[..., Any], is_portable: bool = False) -> None:
        if py_func.__closure__ is not None or "<locals>" in py_func.__qualname__:
            raise TypeError(f"kernel '{py_func.__qualname__}' must be a module-level function: closures cannot be cached")
        functools.update_wrapper(self, py_func)
        self.py_func = py_func
        self._is_portable = is_portable

    @functools.cached_property
    def _twin(self) -> Callable[..., None] | None:
        """The CUDA twin; a portable body is made into one when it is first asked for: all of them took 0.1 s of the import."""
        return portable_twin(self.py_func) if self._is_portable else None

    @functools.cached_property
    def roles(self) -> dict[str, Any]:
        """Name to role of every argument, in order; see `argument_roles`."""
        return argument_roles(self.py_func)

    @functools.cached_property
    def serial(self) -> Variant:
        """The variant for small inputs, for calls from inside the user's own ``prange``, and for forked children."""
        return Variant(self.py_func, self.roles, parallel=False)

    @functools.cached_property
    def parallel(self) -> Variant:
        """The variant whose ``prange`` loops run on all threads."""
        return Variant(self.py_func, self.roles, parallel=True)

    def for_work(self, work: float, device: Device = CPU) -> Callable[..., Any]:
        """What runs the kernel for an amount of work: `serial`, `on_threads` or `in_region`; on a GPU the CUDA twin.

        The choice depends on the shape alone, never on the number of threads, so that results do not either. It stays right
        for the life of the kernel, so what is called for little work may keep it: asking takes 0.1 us.

        Parameters
        ----------
        work : float
            Number of simple element operations; a multiplication and addition in a matrix product counts about 1/16.
        device : Device, optional
            Where the arrays live.
        """
        if device is not CPU:
            return self.cuda
        if work < PARALLEL_GRAIN:
            return self.serial
        return self.on_threads if work < REGION_GRAIN else self.in_region

    def on_threads(self, *arguments: Any) -> None:
        """Run the parallel variant, on the threads there are now; for one thread the serial one."""
        if threads.prepare() == 1:
            self.serial(*arguments)
        else:
            self._enter_region(*arguments)

    def in_region(self, *arguments: Any) -> None:
        """Run the parallel variant, on one thread too; in a forked child the serial one."""
        if threads.prepare() == 1 and threads.forked:
            self.serial(*arguments)
        else:
            self._enter_region(*arguments)

    def _enter_region(self, *arguments: Any) -> None:
        if threads.takes_turns:
            threads.take_turns(self.parallel, *arguments)
        else:
            self.parallel(*arguments)

    def __call__(self, first: Any, *others: Any) -> Any:
        if isinstance(first, np.ndarray):
            return self.for_work(first.size)(first, *others)
        if hasattr(first, "__cuda_array_interface__"):
            return self.cuda(first, *others)
        raise TypeError(f"kernel '{self.__name__}': expected a NumPy or device array first, got {type(first).__name__}")

    @property
    def _numba_type_(self) -> types.Type:
        variant = self.parallel if _caller_is_parallel() else self.serial
        return types.Dispatcher(variant)

    def __reduce__(self) -> str:
        return self.__name__  # pickled and copied by reference, as the function would be

    @property
    def has_twin(self) -> bool:
        """Whether a CUDA twin is attached."""
        return self._twin is not None

    @property
    def cuda(self) -> Callable[..., None]:
        """The CUDA twin; raises `MissingTwinError` where none is attached."""
        if self._twin is None:
            raise MissingTwinError(f"kernel '{self.__name__}' has no CUDA twin; copy the arrays to the host for this layer")
        return self._twin

    def on_cuda(self, twin: Callable[..., Any] | None = None, *, grid: Grid = covering, steps: bool = False) -> Any:
        """Attach the CUDA twin, as a property's setter is attached: ``@k.on_cuda``, or with options ``@k.on_cuda(...)``.

        Parameters
        ----------
        twin : function
            The body for the GPU; its arguments are the kernel's.
        grid : callable, optional
            From the arguments to blocks and threads; by default a thread for each element of the first one.
        steps : bool, optional
            The body is no kernel but plain Python that launches some (`numba_nn.core.cuda.twin.cuda_kernel`).

        Raises
        ------
        TwinMismatchError
            If the twin's arguments differ in name, order or role.
        """
        if twin is None:
            return functools.partial(self.on_cuda, grid=grid, steps=steps)
        expected, got = _signature_text(self.py_func), _signature_text(twin)
        if expected != got:
            raise TwinMismatchError(f"CUDA twin of '{self.__name__}' takes ({got}), its CPU kernel takes ({expected})")
        self._twin = twin if steps else CudaKernel(twin, grid)
        return self


def _signature_text(function: Callable[..., Any]) -> str:
    roles = argument_roles(function)
    return ", ".join(f"{name}: {getattr(role, 'name', None) or inspect.formatannotation(role)}" for name, role in roles.items())


def kernel(py_func: Callable[..., Any]) -> Kernel:
    """Declare a kernel; see the module's docstring. Nothing is compiled before the first call."""
    return Kernel(py_func)


def portable(py_func: Callable[..., Any]) -> Kernel:
    """`kernel` whose body is its CUDA twin too: iterations of its only `prange` loop are independent, one for each thread."""
    return Kernel(py_func, is_portable=True)


def cache_hits(*kernels: Kernel) -> Counter[str]:
    """Overloads loaded from disk and compiled afresh so far, over the kernels' two variants: ``{"hits": n, "misses": m}``."""
    total: Counter[str] = Counter(hits=0, misses=0)
    for k in kernels:
        for variant in (k.serial, k.parallel):
            total["hits"] += sum(variant.stats.cache_hits.values())
            total["misses"] += sum(variant.stats.cache_misses.values())
    return total

"""The kernel mechanism: signatures, variants, composition, dispatch, and twins. (The cache on disk: `test_cache`.)"""

from __future__ import annotations

import copy
import os
import pickle

import numba
import numpy as np
import pytest
from numba import njit, prange
from numba.core.errors import TypingError

from numba_nn.core.errors import MissingTwinError, TwinMismatchError
from numba_nn.core.kernel import PARALLEL_GRAIN, REGION_GRAIN, In, Kernel, Out, Saved, Scratch, Variant, kernel


@kernel
def double(y: Out, x: In):
    """y = 2 x; x, y: flat."""
    for i in prange(x.size):
        y[i] = x[i] + x[i]


@kernel
def affine(y: Out, x: In, factor: float, offset: int, window: tuple):
    """y = factor x + offset inside of the window (start, stop)."""
    for i in prange(window[0], window[1]):
        y[i] = factor * x[i] + offset


@kernel
def norm(y: Out, kept: Saved, partial: Scratch, x: In):
    """Every role at once."""
    for i in prange(x.size):
        partial[i] = x[i] * x[i]
        kept[i] = x[i]
        y[i] = partial[i]


@kernel
def needs_annotation(y: Out, x):
    y[0] = x[0]


@kernel
def without_twin(y: Out, x: In):
    y[0] = x[0]


@njit
def users_double(y, x):
    double(y, x)


@njit
def users_double_of_every_other(y, x):
    double(y, x[::2])


@njit
def users_affine(y, x, factor, offset, window):
    affine(y, x, factor, offset, window)


class DeviceArray:
    """What a device array shows before anyone looks inside."""

    __cuda_array_interface__ = {"shape": (4,), "typestr": "<f4", "data": (0, False), "version": 3}  # noqa: RUF012
    size = 4


def read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


@pytest.fixture
def compile_calls(monkeypatch):
    """The names of the kernels whose `Variant.compile` was entered, in order."""
    entered = []
    original = Variant.compile

    def counting(self, sig):
        entered.append(self.__name__)
        return original(self, sig)

    monkeypatch.setattr(Variant, "compile", counting)
    return entered


# Signatures


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_machine_code_serves_writable_and_read_only_arrays(dtype):
    x, y = np.arange(5, dtype=dtype), np.empty(5, dtype)
    before = len(double.serial.overloads)
    for given in (x, read_only(x), x[1:], x + 0):
        double.serial(y[: given.size], given)
        np.testing.assert_array_equal(y[: given.size], 2 * given)
        users_double(y[: given.size], given)
    assert len(double.serial.overloads) <= before + 1
    ours = [s for s in double.serial.overloads if s[0].dtype == numba.from_dtype(np.dtype(dtype))]
    assert [(y.mutable, x.mutable) for y, x in ours] == [(True, False)]


def test_known_types_never_enter_the_compiler_again(compile_calls):
    x, y = np.arange(5, dtype=np.float32), np.empty(5, np.float32)

    def calls():
        double.serial(y, x)
        double.serial(y, read_only(x))
        double(y, x)
        users_double(y, x)
        users_double(y, read_only(x))
        affine.serial(y, x, 2, np.int32(1), (0, np.int64(3)))
        affine.serial(y, read_only(x), np.float32(2), True, (0, 3))
        users_affine(y, x, 2, 1, (0, 3))

    calls()
    calls()
    compile_calls.clear()
    calls()
    assert compile_calls == []


@pytest.mark.parametrize("call", [double, double.serial, double.parallel, users_double])
def test_a_strided_array_is_refused_by_name(call):
    grid = np.zeros((4, 4), np.float32)
    with pytest.raises(TypingError, match=r"'double', argument 'x': expected a C-contiguous array, got a strided one"):
        call(np.empty(4, np.float32), grid[:, 0])
    with pytest.raises(TypingError, match=r"'double', argument 'y': expected a C-contiguous array"):
        call(grid[:, 0], np.empty(4, np.float32))


def test_a_strided_array_is_refused_inside_the_users_function():
    x = np.zeros(8, np.float32)
    with pytest.raises(TypingError, match=r"'double', argument 'x': expected a C-contiguous array"):
        users_double_of_every_other(np.empty(4, np.float32), x)


@pytest.mark.parametrize("call", [double, double.serial, double.parallel, users_double])
def test_a_read_only_destination_is_refused_by_name(call):
    y = np.zeros(4, np.float32)
    with pytest.raises(TypingError, match=r"'double', argument 'y': expected a writable array, got a read-only one"):
        call(read_only(y), np.ones(4, np.float32))
    np.testing.assert_array_equal(y, 0)


def test_saved_and_scratch_are_writable():
    kept, partial, x, y = (np.ones(3, np.float32) for _ in range(4))
    norm(y, kept, partial, x)
    for position in (1, 2):
        arguments = [y, kept, partial, x]
        arguments[position] = read_only(arguments[position])
        with pytest.raises(TypingError, match="expected a writable array"):
            norm(*arguments)


@pytest.mark.parametrize("call", [affine.serial, users_affine])
def test_scalars_have_one_type(call):
    x = np.arange(4, dtype=np.float64)
    y = np.empty(4)
    scalars = [(2.0, 1, (0, 4)), (2, True, (0, np.int32(4))), (np.float32(2), np.uint8(1), (np.int16(0), np.int64(4)))]
    for factor, offset, window in scalars:
        y[:] = np.nan
        call(y, x, factor, offset, window)
        np.testing.assert_array_equal(y, 2 * x + 1)
    (signature,) = (s for s in affine.serial.overloads if s[0].dtype == numba.float64)
    assert signature[2:] == (numba.float64, numba.int64, numba.types.UniTuple(numba.int64, 2))


@pytest.mark.parametrize("call", [affine.serial, users_affine])
def test_wrong_scalars_are_refused_by_name(call):
    x = np.zeros(4)
    with pytest.raises(TypingError, match=r"'affine', argument 'offset': expected int, got float64"):
        call(x, x, 2.0, 0.5, (0, 4))
    with pytest.raises(TypingError, match=r"'affine', argument 'factor': expected float, got array"):
        call(x, x, x, 1, (0, 4))
    with pytest.raises(TypingError, match=r"'affine', argument 'x': expected an array, got float64"):
        call(x, 1.0, 2.0, 1, (0, 4))


def test_the_number_of_arguments_is_checked():
    with pytest.raises(TypeError):
        double()
    with pytest.raises(TypeError, match="argument"):
        double(np.zeros(3))


# Declaration


def test_a_closure_is_refused():
    factor = 2.0

    def scaled(y: Out, x: In):
        y[0] = factor * x[0]

    with pytest.raises(TypeError, match=r"kernel '.*scaled' must be a module-level function"):
        kernel(scaled)


def test_a_local_function_is_refused():
    def local(y: Out, x: In):
        y[0] = x[0]

    with pytest.raises(TypeError, match="must be a module-level function"):
        kernel(local)


def test_an_argument_without_role_is_refused():
    with pytest.raises(TypeError, match="'needs_annotation': argument 'x' has no role"):
        needs_annotation(np.zeros(1), np.zeros(1))


def test_a_kernel_is_copied_and_pickled_by_reference():
    assert copy.deepcopy([double])[0] is double
    assert pickle.loads(pickle.dumps(double)) is double
    assert double.__doc__ == "y = 2 x; x, y: flat."


# Variants


def test_variants_agree():
    x = np.random.default_rng(0).standard_normal(PARALLEL_GRAIN + 7)
    results = [np.empty_like(x) for _ in range(4)]
    double.serial(results[0], x)
    double.parallel(results[1], x)
    users_double(results[2], x)
    double(results[3], x)
    for result in results:
        np.testing.assert_array_equal(result, 2 * x)


def test_work_chooses_the_variant_and_threads_do_not():
    before = numba.get_num_threads()
    try:
        for threads in {1, before}:
            numba.set_num_threads(threads)
            assert double.for_work(PARALLEL_GRAIN - 1) is double.serial
            assert double.for_work(PARALLEL_GRAIN) == double.on_threads
            assert double.for_work(REGION_GRAIN) == double.in_region
    finally:
        numba.set_num_threads(before)


COMPOSITION = """
import json
import numpy as np
from numba import njit, get_thread_id, prange
from numba_nn.core.kernel import In, Out, kernel

@kernel
def who(ids: Out):
    for i in prange(ids.size):
        ids[i] = get_thread_id()

@kernel
def calls_who(ids: Out):
    who(ids)

@kernel
def calls_twice_removed(ids: Out):
    calls_who(ids)

@njit
def helper(ids):
    who(ids)

@kernel
def calls_helper(ids: Out):
    helper(ids)

@kernel
def nests_who(ids: Out):
    for i in prange(ids.shape[0]):
        who(ids[i])

@njit
def user(ids):
    calls_twice_removed(ids)

@njit(parallel=True)
def parallel_user(ids):
    for i in prange(ids.shape[0]):
        calls_who(ids[i])

def threads(function, shape=1024):
    ids = np.full(shape, -1)
    function(ids)
    assert ids.min() >= 0
    return [len(np.unique(row)) for row in np.atleast_2d(ids)]

kernels = [who, calls_who, calls_twice_removed, calls_helper]
seen = {f"{k.__name__}.{variant}": threads(getattr(k, variant))[0] for variant in ("parallel", "serial") for k in kernels}
seen["user"] = threads(user)[0]
seen["rows"] = max(threads(nests_who.parallel, (4, 256)))
seen["user's rows"] = max(threads(parallel_user, (4, 256)))
print(json.dumps(seen))
"""


def test_a_kernel_gets_the_variant_of_its_caller(run_python, tmp_path):
    """Seen in the number of threads that write: several in a parallel variant, one in a serial one."""
    (tmp_path / "composition.py").write_text(COMPOSITION)
    environment = {"NUMBA_NUM_THREADS": "4", "NUMBA_NN_CACHE_DIR": str(tmp_path / "cache")}
    environment["NUMBA_THREADING_LAYER_PRIORITY"] = "omp workqueue tbb"  # TBB may leave all work to one thread
    for _ in range(2):  # compiled, then from the cache
        seen = run_python("import composition", path=tmp_path, **environment)
        several = {name for name, threads in seen.items() if threads > 1}
        assert several == {"who.parallel", "calls_who.parallel", "calls_twice_removed.parallel"}, seen


FORK = """
import os, sys
import numpy as np
from test_kernel import PARALLEL_GRAIN, double

x = np.arange(4.0 * PARALLEL_GRAIN)
y = np.empty_like(x)
double(y, x)
assert double.parallel.overloads and not double.serial.overloads
child = os.fork()
if child == 0:
    y[:] = 0
    double(y, x)
    assert double.serial.overloads
    os._exit(0 if (y == 2 * x).all() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
double(y, x)
assert not double.serial.overloads and (y == 2 * x).all()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_computes_with_serial_variants(run_python, request):
    run_python(FORK, path=request.path.parent)


# CUDA


def test_importing_kernels_and_attaching_twins_does_not_import_numba_cuda(run_python, request):
    script = """
import sys
import numba_nn.core.kernel, numba_nn.core.cuda.ptx
import test_kernel
test_kernel.test_a_twin_is_attached_lazily()
assert "numba.cuda" not in sys.modules
"""
    run_python(script, path=request.path.parent)


def test_a_device_array_without_a_twin_raises():
    with pytest.raises(MissingTwinError, match="kernel 'without_twin' has no CUDA twin"):
        without_twin(DeviceArray(), DeviceArray())


def test_something_else_than_an_array_raises():
    with pytest.raises(TypeError, match="'without_twin': expected a NumPy or device array first, got list"):
        without_twin([1.0], [2.0])


def test_a_twin_is_attached_lazily():
    host = Kernel(double.py_func)

    def double_on_cuda(y: Out, x: In):
        raise AssertionError("never compiled here")

    assert host.on_cuda(double_on_cuda) is host
    assert host.cuda.py_func is double_on_cuda
    with pytest.raises(TypeError, match="expected device arrays only"):
        host(DeviceArray(), np.zeros(4, np.float32))


def test_a_twin_must_take_the_same_arguments():
    host = Kernel(affine.py_func)

    def renamed(y: Out, z: In, factor: float, offset: int, window: tuple): ...

    def reordered(x: In, y: Out, factor: float, offset: int, window: tuple): ...

    def another_role(y: Out, x: Saved, factor: float, offset: int, window: tuple): ...

    def another_scalar(y: Out, x: In, factor: int, offset: int, window: tuple): ...

    def shorter(y: Out, x: In, factor: float, offset: int): ...

    for twin in (renamed, reordered, another_role, another_scalar, shorter):
        with pytest.raises(TwinMismatchError, match="CUDA twin of 'affine' takes"):
            host.on_cuda(twin)
    with pytest.raises(MissingTwinError):
        _ = host.cuda

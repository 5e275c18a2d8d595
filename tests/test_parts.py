"""Only whole kernels become machine code; what they are made of still serves others."""

import copy
import pickle

import numpy as np
import pytest
from numba import njit, prange, vectorize
from numba.core.codegen import JITCodeLibrary
from numba.core.errors import TypingError

from numba_nn.core.kernel import In, Out, inner, kernel
from numba_nn.core.parts import Part


@inner
def twice(x):
    return x + x


@njit
def users_own(x):
    return x * np.float32(3)


@kernel
def six_times(y: Out, x: In):
    for i in prange(x.size):
        y[i] = twice(users_own(x[i]))


@kernel
def refused(y: Out, x: In):
    y[0] = x.no_such_attribute


@vectorize
def thrice(x):
    return x + x + x


@kernel
def nine_times(y: Out, x: In):
    for i in prange(x.size):
        y[i] = thrice(thrice(x[i]))


@inner
def told(x):
    print("number", x)
    return x


@kernel
def telling(y: Out, x: In):
    for i in prange(x.size):
        y[i] = told(x[i])


X = np.arange(5, dtype=np.float32)


def libraries(dispatcher):
    return [result.library for result in dispatcher.overloads.values()]


@pytest.mark.parametrize("variant", ["serial", "parallel"])
def test_helpers_wait_for_the_kernel_and_what_python_calls_does_not(variant):
    y = np.empty_like(X)
    getattr(six_times, variant)(y, X)
    np.testing.assert_array_equal(y, 6 * X)
    waiting = [library for library in libraries(twice) if isinstance(library, Part)]
    assert all(library._waits for library in waiting)
    for library in libraries(users_own) + libraries(getattr(six_times, variant)):
        assert not getattr(library, "_waits", False)
    assert users_own(np.float32(2)) == 6


@pytest.mark.parametrize("variant", ["serial", "parallel"])
def test_a_ufunc_that_a_kernel_compiled_has_an_address(variant):
    y = np.empty_like(X)
    getattr(nine_times, variant)(y, X)
    np.testing.assert_array_equal(y, 9 * X)
    np.testing.assert_array_equal(thrice(X), 3 * X)


@pytest.mark.parametrize("variant", ["serial", "parallel"])
def test_helpers_and_loops_may_print(variant, capfd):
    getattr(telling, variant)(np.empty(2, np.float32), X[:2])
    out = capfd.readouterr().out  # of two threads at once, perhaps on one line
    assert [out.count(word) for word in ("number", "0.0", "1.0")] == [2, 1, 1]


def test_helpers_are_pickled_by_reference():
    assert pickle.loads(pickle.dumps(twice)) is twice
    assert copy.deepcopy(twice) is twice


def test_a_helper_is_compiled_into_other_functions_later():
    y = np.empty_like(X)
    six_times.serial(y, X)

    @njit
    def eight_times(x):
        return twice(twice(twice(x)))

    assert eight_times(np.float32(1.5)) == 12


def test_python_cannot_call_a_helper():
    six_times.serial(np.empty_like(X), X)
    for argument in (np.float32(1), 1.0):  # of a type that it was compiled for, and of another
        with pytest.raises(TypeError, match=r"'twice' is a helper .* call twice\.py_func"):
            twice(argument)
    assert twice.py_func(2) == 4


def test_numba_compiles_as_ever_after_a_kernel_whether_it_failed_or_not():
    with pytest.raises(TypingError):
        refused.serial(np.empty_like(X), X)

    @njit
    def plain(x):
        return x + 1

    assert plain(1) == 2
    assert [type(library) for library in libraries(plain)] == [JITCodeLibrary]

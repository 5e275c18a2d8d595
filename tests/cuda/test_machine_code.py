"""Every twin's machine code, for an A100 and an H100 or H200, read on a machine without a GPU."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import offline
import pytest
from launches import Launch, launches
from numba.core import types
from offline import compile_twin, faults, signature
from training import CONVERTS, FLOAT64
from twins import elementwise_kernels, example

from numba_nn.core.kernel import In, Out
from numba_nn.core.ptx import cuda
from numba_nn.core.twin import CudaKernel

REQUIRED = "NUMBA_NN_CUDA_TOOLS" in os.environ  # `make cuda-check` sets it: there, a missing tool is a failure
pytestmark = pytest.mark.skipif(bool(offline.missing()) and not REQUIRED, reason=offline.missing())

REGISTERS = 255  # what a thread can have; 256 threads of 255 registers still make one resident block


def test_the_tools_are_there():
    assert offline.missing() == ""


def compiled(dtype: Any) -> list[Launch]:
    """What layers launch, and the element-wise twins that they do not."""
    found = launches(dtype)
    launched = {launch.kernel.py_func for launch in found}
    others = [k.cuda for k in elementwise_kernels() if k.cuda.py_func not in launched]
    names = {k.cuda: k for k in elementwise_kernels()}
    return found + [Launch(CudaKernel(k.py_func), signature(k, example(names[k], 64, dtype))) for k in others]


# Few in float64, and for one GPU: what it could show there alone are stack and registers.
TRIED = [(np.float32, "sm_80", 1), (np.float32, "sm_90a", 1), (np.float64, "sm_90a", 4)]


@pytest.mark.parametrize(
    ("launch", "dtype", "target"),
    [
        pytest.param(launch, dtype, target, id=f"{launch}-{np.dtype(dtype)}-{target}")
        for dtype, target, step in TRIED
        for launch in compiled(dtype)[::step]
    ],
)
def test_machine_code(launch, dtype, target):
    code = compile_twin(launch.kernel, launch.argument_types, target)
    name, wide = launch.kernel.__name__, dtype is np.float64
    assert faults(code, float64_allowed=wide or name in FLOAT64, conversions_allowed=name in CONVERTS) == []
    assert 0 < code.registers <= REGISTERS
    assert f".target {target}" in code.ptx


# Planted bugs


def float64_creep(y: Out, x: In):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = x[i] * 0.1


def float64_by_integer(y: Out, x: In):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = x[i] + i


def run_time_index(y: Out, x: In):
    i = cuda.grid(1)
    window = cuda.local.array(64, np.float32)
    for j in range(64):
        window[j] = x[i + j]
    y[i] = window[int(x[i]) & 63]


def too_much_shared(y: Out, x: In):
    i = cuda.grid(1)
    tile = cuda.shared.array((128, 128), np.float32)
    tile[cuda.threadIdx.x, 0] = x[i]
    cuda.syncthreads()
    y[i] = tile[0, cuda.threadIdx.x]


def stepped_range(y: Out, x: In):
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        y[i] = x[i]


def copy(y: Out, x: In):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = x[i]


FLAT = types.Array(types.float32, 1, "C")
ANY = types.Array(types.float32, 1, "A")


@pytest.mark.parametrize(
    ("function", "argument_types", "complaint"),
    [
        (float64_creep, (FLAT, FLAT), "float64 arithmetic: DMUL, F2F.F32.F64, F2F.F64.F32"),
        (float64_by_integer, (FLAT, FLAT), "float64 arithmetic: DADD"),
        (run_time_index, (FLAT, FLAT), "256 bytes of stack"),
        (run_time_index, (FLAT, FLAT), "local memory: LDL"),
        (too_much_shared, (FLAT, FLAT), "bytes of static shared memory"),
        (stepped_range, (FLAT, FLAT), "64-bit integer division"),
        (copy, (FLAT, ANY), "generic memory access: LD.E"),
        (copy, (ANY, FLAT), "generic memory access: ST.E"),
    ],
)
def test_planted_bugs_are_noticed(function, argument_types, complaint):
    found = faults(compile_twin(CudaKernel(function), argument_types))
    assert any(fault.startswith(complaint) or complaint in fault for fault in found), found


def test_a_plain_copy_has_no_faults():
    code = compile_twin(CudaKernel(copy), (FLAT, FLAT))
    assert faults(code) == []
    assert (code.operations["LDG.E"], code.operations["STG.E"]) == (1, 1)
    assert code.stack == code.shared == 0

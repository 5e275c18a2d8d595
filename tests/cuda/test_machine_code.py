"""Every twin's machine code, for an A100 and an H100 or H200, read on a machine without a GPU.

That of matrix products and convolutions is in `test_product_code.py`.
"""

from __future__ import annotations

import os
from typing import Any

import ml_dtypes
import numpy as np
import offline
import pytest
from launches import Launch, launches
from numba.core import types
from offline import TARGETS, compile_twin, faults, signature
from training import CONVERTS, IN_FLOAT64
from twins import elementwise_kernels, example, twins

from numba_nn.core.cuda.narrow import is_narrow
from numba_nn.core.cuda.portable import covering_windows
from numba_nn.core.cuda.ptx import WINDOW, cuda
from numba_nn.core.cuda.rows import HELD
from numba_nn.core.cuda.twin import CudaKernel, cuda_kernel
from numba_nn.core.kernel import In, Out
from numba_nn.optim import loss_scale

REQUIRED = "NUMBA_NN_CUDA_TOOLS" in os.environ  # `make cuda-check` sets it: there, a missing tool is a failure
pytestmark = pytest.mark.skipif(bool(offline.missing()) and not REQUIRED, reason=offline.missing())

REPEATED = {f"{name}_repeated" for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum")}
# Loops that take 16 bytes at a time, beside those that `portable` makes: what they load, and what they store.
LOAD_WINDOWS = {
    "adam_update", "sgd_update", "gradient_scale", "drop_elements", "plane_moments", "plane_gradient_sums", "plane_normalize",
    "plane_backward_input", "squared_error_sums", "absolute_error_sums", "likelihood_error_sums", "logistic_error_sums",
    "pair_sums", "softmax_forward", "softmax_backward", "log_softmax_forward", "log_softmax_backward", "conv2d_backward_bias",
    "cross_entropy_forward", "cross_entropy_backward", "soft_cross_entropy_forward", "soft_cross_entropy_backward",
    "plane_mean_forward", "scale_gradients", "unscale_gradients",
    "constant_pad2d_forward", "reflection_pad2d_forward", "reflection_pad2d_backward", "upsample_nearest2d_forward",
    "copy_rows", "transpose_matrices", "put_columns", "take_columns", "take_rows", "add_rows", "drop_rows", "plane_maxima",
    "row_moments", "row_normalize", "row_gradient_sums", "row_backward_input", "gates_add_biases", "gradient_power_sums",
    "take_states", "begin_step", "lstm_step", "lstm_step_backward",
    "sums_of_parts", "extremes_of_parts", "positions_of_extremes", "im2col_forward", *REPEATED,
}  # fmt: skip
LOAD_NOTHING = {"fill_forward"}
STORE_WINDOWS = {
    "adam_update", "sgd_update", "gradient_scale", "gradient_clear", "drop_elements", "plane_normalize", "plane_backward_input",
    "softmax_forward", "softmax_backward", "log_softmax_forward", "log_softmax_backward", "cross_entropy_forward",
    "cross_entropy_backward", "soft_cross_entropy_forward", "soft_cross_entropy_backward",
    "scale_gradients", "unscale_gradients", "constant_pad2d_forward", "reflection_pad2d_forward", "reflection_pad2d_backward",
    "upsample_nearest2d_forward", "copy_rows", "transpose_matrices", "put_columns", "take_columns", "take_rows", "add_rows",
    "drop_rows", "row_moments", "row_normalize", "row_gradient_sums", "row_backward_input", "gates_add_biases",
    "take_states", "begin_step", "lstm_step", "lstm_step_backward",
    "plane_mean_backward", "nll_backward", "im2col_forward", "col2im_forward", *REPEATED,
}  # fmt: skip
# Registers of a thread. A multiprocessor has 65,536, so the numbers of resident blocks of 256 threads are 5, 4, 3 and 2. The
# largest that were measured, for either GPU, in float32 and 16 bits: 40, 60, 72 and 127; in float64 66, 72, 122 and 208.
OF_ELEMENTS, OF_OTHERS, OF_MANY_ARRAYS, OF_LONG_ROWS = 48, 64, 80, 128
MANY_ARRAYS = {
    "adam_update", "lstm_step", "lstm_step_backward", "sums_of_parts", "extremes_of_parts", "positions_of_extremes",
}  # fmt: skip
LONG_ROWS = ("softmax", "cross_entropy")  # which have blocks of 512 threads, in float64 of 256
MOST_REGISTERS = 255  # that a thread can have
HOMES_OF_FLOAT32 = "numba_nn.losses", "numba_nn.optim", "numba_nn.train"  # they know no 16 bits, but for the scale of gradients
ELEMENTWISE = {k.__name__ for k in elementwise_kernels()}


def registers_of(name: str, of_64_bits: bool) -> int:
    """A kernel's budget; float64 takes two registers."""
    of_rows = any(part in name for part in LONG_ROWS)
    budget = OF_LONG_ROWS if of_rows else OF_MANY_ARRAYS if name in MANY_ARRAYS else OF_OTHERS
    budget = OF_ELEMENTS if name in ELEMENTWISE else budget
    return min(MOST_REGISTERS, 2 * budget) if of_64_bits else budget


def test_the_tools_are_there():
    assert offline.missing() == ""


def compiled(dtype: Any) -> list[Launch]:
    """What layers launch, but matrix products, which have tests of their own; and the element-wise twins that they do not.

    For 16 bits, what takes such arrays; for float32, also what never does without one.
    """
    found = [one for one in launches(dtype) if not one.kernel.__name__.startswith("product_")]
    if is_narrow(np.dtype(dtype)):
        return [one for one in found if takes_16_bits(one)]
    launched = {str(one) for one in found if not takes_16_bits(one)}
    found = [one for one in found if not takes_16_bits(one) or str(one) not in launched]
    launched = {launch.kernel.py_func for launch in found}
    others = [k.cuda for k in elementwise_kernels() if k.cuda.py_func not in launched]
    names = {k.cuda: k for k in elementwise_kernels()}
    return found + [Launch(k, signature(k, example(names[k], 64, dtype))) for k in others]


def takes_16_bits(launch: Launch) -> bool:
    """Whether an array of a launch is of 16 bits; what else mixed precision launches is compiled with all of float32."""
    return any(getattr(t, "dtype", None) == types.uint16 for t in launch.argument_types)


TRIED = {np.float32: TARGETS, np.float64: ["sm_90a"], np.float16: ["sm_90a"], ml_dtypes.bfloat16: TARGETS}
DTYPES = tuple(TRIED)  # `kernel_table.py` has them all for both targets
WIDE = {"batch_statistics", "gradient_coefficients", "update_running", "recall_running", "fold_running", "add_blocks"}
WIDE |= {"find_outside", "next_mask"}
"""Those of layers that never see an array of 16 bits, but statistics, sums, indices or states."""


def test_every_twin_of_the_package_is_compiled():
    modules_of = {twin.__name__: twin.py_func.__module__ for twin in twins()}
    assert len(modules_of) == len(list(twins()))
    missing = {dtype: modules_of.keys() - {str(launch) for launch in compiled(dtype)} for dtype in DTYPES}
    assert missing[np.float32] == set()
    assert {modules_of[name] for name in missing[np.float64]} == {loss_scale.__name__}
    wide = WIDE | {name for name, module in modules_of.items() if module.startswith(HOMES_OF_FLOAT32)}
    assert missing[np.float16] == missing[ml_dtypes.bfloat16] == wide - {"scale_into", "unscale_into"}


@pytest.mark.parametrize(
    ("launch", "dtype", "target"),
    [
        pytest.param(launch, dtype, target, id=f"{launch}-{np.dtype(dtype)}-{target}")
        for dtype, targets in TRIED.items()
        for launch in compiled(dtype)
        for target in targets
    ],
)
def test_machine_code(launch, dtype, target):
    code = compile_twin(launch.kernel, launch.argument_types, target)
    name, wide = launch.kernel.__name__, dtype is np.float64
    assert faults(code, float64_allowed=wide or name in IN_FLOAT64, conversions_allowed=name in CONVERTS) == []
    assert 0 < code.registers <= registers_of(name, wide)
    assert f".target {target}" in code.ptx
    by_windows = launch.kernel.grid is covering_windows
    reads_windows = name in LOAD_WINDOWS or (by_windows and name not in LOAD_NOTHING)
    widths = ("128", "64") if takes_16_bits(launch) else ("128",)  # bits of four elements
    assert any(code.operations[f"LDG.E.{w}"] for w in widths) or not reads_windows
    assert any(code.operations[f"STG.E.{w}"] for w in widths) or not (by_windows or name in STORE_WINDOWS)


@pytest.mark.parametrize(("dtype", "access"), [(np.float32, "LDG.E.128"), (ml_dtypes.bfloat16, "LDG.E.64")])
@pytest.mark.parametrize("name", ["softmax_forward", "softmax_backward", "log_softmax_forward", "log_softmax_backward"])
def test_windows_of_a_row_are_asked_for_together(name, dtype, access):
    launch = next(one for one in compiled(dtype) if str(one) == name)
    code = compile_twin(launch.kernel, launch.argument_types)
    between = code.sass.split(access)[1 : HELD // WINDOW]
    assert not any("BRA" in part for part in between)


def test_launch_bounds_reach_the_compiler():
    code = compile_twin(cuda_kernel(launch_bounds=(128, 3))(copy), (FLAT, FLAT))
    assert ".maxntid 128" in code.ptx
    assert ".minnctapersm 3" in code.ptx


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

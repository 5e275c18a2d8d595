"""Sections that go wrong in every way, for `numba_nn.gpu_check.worker`; the GPU of their process answers until it is lost."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from types import SimpleNamespace
from typing import Any, NoReturn

from numba_nn.core.cuda.ptx import cuda
from numba_nn.gpu_check.worker import Section


def lose() -> NoReturn:
    """Raise what stays: the driver gives the same error to every later call of the process."""
    vars(cuda)["_module"] = SimpleNamespace(synchronize=lambda: 1 / 0)
    raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")


def where(**more: Any) -> dict[str, Any]:
    """The process."""
    return {"process": os.getpid(), **more}


def sections(preflight: bool = True) -> dict[str, Section]:
    """Name to section; each failure, and what comes after it."""
    vars(cuda)["_module"] = SimpleNamespace(synchronize=lambda: None)
    return {
        "environment": Section(where),
        "preflight": Section(lambda: {"card": "NVIDIA H200"} if preflight else where(failed="no GPU")),
        "raises": Section(lambda: {"one": 1 / 0}),
        "after raises": Section(where),
        "is wrong": Section(lambda: where(failed="too far")),
        "loses the GPU": Section(lose),
        "after a lost GPU": Section(where),
        "crashes": Section(lambda: ctypes.string_at(0)),
        "after a crash": Section(where),
        "hangs": Section(lambda: time.sleep(60), 0.5),
        "after a hang": Section(where),
        "leaves": Section(lambda: os._exit(3)),
        "prints": Section(lambda: where(printed=print("{}") or sys.stdout.flush())),
    }

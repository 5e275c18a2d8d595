"""All sections of `numba_nn.gpu_check`, on the simulated GPU."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from simulated_cuda import simulated

from numba_nn.gpu_check import sections as real
from numba_nn.gpu_check.worker import Section

PROCESS = ExitStack()  # whose context nothing leaves


def sections(**options: Any) -> dict[str, Section]:
    """Name to section; the process's GPU is simulated from now on."""
    PROCESS.enter_context(simulated())
    return real.sections(**options)

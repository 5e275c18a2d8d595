"""What the machine is, whether a kernel runs on it at all, and what NVIDIA's own checker says."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
from datetime import datetime
from typing import Any

import numpy as np

from numba_nn import __version__
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.device import CUDA
from numba_nn.layers.activation import relu_forward

PACKAGES = ("numba", "numpy", "numba-cuda", "cuda-core", "cuda-bindings", "torch")
SANITIZER_SECONDS = 300
SANITIZED = "correct: (ReLU|Linear|Conv2d)"  # under the checker a kernel takes some hundred times as long


def versions() -> dict[str, Any]:
    """The date, and versions of what takes part."""
    found: dict[str, Any] = {"date": datetime.now().isoformat(timespec="minutes"), "numba_nn": __version__}
    found["python"] = platform.python_version()
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def preflight() -> dict[str, Any]:
    """The card, and one small kernel, compiled, launched and read back."""
    CUDA.require()
    device = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else str(device.name)
    x = np.linspace(-1, 1, 1000, dtype=np.float32)
    y = CUDA.empty(x.shape, x.dtype)
    relu_forward(y, CUDA.from_host(x))
    if not np.array_equal(CUDA.to_host(y), np.maximum(x, 0)):
        raise AssertionError("a kernel ran, and computed something else than max(x, 0)")
    return {"card": name, "compute capability": device.compute_capability, "multiprocessors": device.MULTIPROCESSOR_COUNT}


def sanitizer() -> dict[str, Any]:
    """Memory errors and races that ``compute-sanitizer`` finds, where it is installed."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"skipped": "compute-sanitizer is not on the path"}
    found: dict[str, Any] = {}
    for check in ("memcheck", "racecheck"):
        command = [tool, "--tool", check, "--error-exitcode", "9", sys.executable, "-m", "numba_nn.gpu_check"]
        try:
            done = subprocess.run(
                [*command, "--quick", "--only", SANITIZED], capture_output=True, text=True, timeout=SANITIZER_SECONDS
            )
        except subprocess.TimeoutExpired:
            found[check] = f"stopped after {SANITIZER_SECONDS} s"
            continue
        found[check] = (done.stdout.strip().splitlines() or ["no output"])[-1]
        if done.returncode:
            found["failed"] = f"{check} ended with {done.returncode}: {done.stdout[-500:]}"
    return found

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
SANITIZERS = ("memcheck", "racecheck", "synccheck")
SANITIZER_SECONDS = 120  # for each
SANITIZED = tuple(
    f"correct: {name}"
    for name in (
        "ReLU 1001", "Linear 33x65 -> 31", "Conv2d 3x3", "MaxPool2d", "BatchNorm2d", "Softmax", "CrossEntropyLoss", "SGD",
        "ops, sum of several blocks in float32",
    )
)  # fmt: skip
"""A section for every way in which threads of a block work together: under a checker kernels take much longer."""
FOUND = 9  # exit status


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


def sanitizer(check: str, plan: str) -> dict[str, Any]:
    """What a tool of ``compute-sanitizer``, where that is installed, finds in a worker that runs `SANITIZED` sections.

    Parameters
    ----------
    check : str
        One of `SANITIZERS`.
    plan : str
        Module of the sections.

    Returns
    -------
    dict
        Its last line, and what fails.
    """
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"skipped": "compute-sanitizer is not on the path"}
    worker = [sys.executable, "-m", "numba_nn.gpu_check.worker", plan, '{"quick": true}']
    command = [tool, "--tool", check, "--error-exitcode", str(FOUND), *worker]
    asked = "".join(f"{name}\n" for name in SANITIZED)
    try:
        done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=SANITIZER_SECONDS)
    except subprocess.TimeoutExpired:
        return {"skipped": f"stopped after {SANITIZER_SECONDS} s"}
    lines = done.stdout.splitlines()
    told = [line for line in lines if line.startswith("=====")] or ["no output"]
    failed = [line for line in lines if '"failed"' in line]
    if done.returncode or failed:
        how = f"{check} ended with {done.returncode}, {len(failed)} sections failed"
        return {"failed": how, "told": told[-20:], "sections": failed, "errors": done.stderr[-500:]}
    return {"told": told[-1]}

"""What results and figures depend on: CPU, threads, versions, and the cache of compiled kernels."""

from __future__ import annotations

import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np

from numba_nn.core.cache import cache_root, lookups
from numba_nn.core.errors import ArgumentError
from numba_nn.core.simd import register_file, tile_shape
from numba_nn.core.threads import get_num_threads, threading_layer


def show_config(mode: str = "text") -> dict[str, Any] | None:
    """Show the machine, the threads, the versions and the cache of compiled kernels.

    Parameters
    ----------
    mode : {"text", "dicts"}, optional
        Print, or return a dict, as ``numpy.show_config`` does.

    Returns
    -------
    dict or None
        With ``mode="dicts"``.

    Raises
    ------
    ArgumentError
        For another mode.
    """
    if mode not in ("text", "dicts"):
        raise ArgumentError(f"show_config: mode must be 'text' or 'dicts', got {mode!r}")
    config = {**machine(), **cache()}
    if mode == "dicts":
        return config
    for name, value in config.items():
        print(f"{name:<20}{value}")
    return None


def cache() -> dict[str, Any]:
    """Where compiled kernels are kept, how many there are, and what this process found there."""
    root = cache_root()
    sizes = [] if root is None else [file.stat().st_size for file in root.glob("*/*.nbc")]
    return {
        "cache": "nowhere can be written" if root is None else str(root),
        "cached kernels": f"{len(sizes)} ({sum(sizes) / 2**20:.1f} MB)",
        "found in cache": lookups["found"],
        "compiled": lookups["compiled"],
    }


def machine() -> dict[str, Any]:
    """What figures depend on: CPU, instructions and tile, threads, versions, date."""
    rows, columns = tile_shape(np.float32)
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "vector bytes": register_file()[0],
        "float32 tile": f"{rows} x {columns}",
        "threads": get_num_threads(),
        "threading layer": threading_layer(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "load average": ", ".join(f"{load:.1f}" for load in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown",
        "date": date.today().isoformat(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

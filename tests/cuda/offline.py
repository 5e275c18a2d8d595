"""Compiles a CUDA twin to machine code and reads it, with no GPU and no driver.

PTX comes from numba-cuda, the cubin from nvJitLink (through cuda.core), the listing from nvdisasm and cuobjdump.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from numba import typeof
from numba.core import types
from numba.np import numpy_support

from numba_nn.core.twin import CudaKernel

TARGETS = {"sm_80": (8, 0), "sm_90a": (9, 0, "a")}
SHARED_BYTES = 48 * 1024  # more compiles without a word and fails at the launch


@dataclass(frozen=True)
class MachineCode:
    """What the compiler made of a twin."""

    ptx: str
    sass: str
    operations: Counter[str]
    registers: int
    stack: int
    shared: int


@functools.cache
def tool(name: str) -> str | None:
    """Path of one of NVIDIA's binary tools: from its wheel, or from a toolkit on the path."""
    spec = importlib.util.find_spec("nvidia")
    roots = spec.submodule_search_locations or () if spec else ()
    return next((str(file) for root in roots for file in sorted(Path(root).glob(f"*/bin/{name}"))), shutil.which(name))


@functools.cache
def missing() -> str:
    """What this machine lacks to compile twins, in words; empty if it lacks nothing."""
    lacks = [package for package in ("numba_cuda", "cuda") if importlib.util.find_spec(package) is None]
    if not lacks and importlib.util.find_spec("cuda.core") is None:
        lacks = ["cuda.core"]
    lacks += [name for name in ("nvdisasm", "cuobjdump") if tool(name) is None]
    return f"not installed: {', '.join(lacks)} (make cuda-check brings them)" if lacks else ""


def types_of(arguments: Iterable[Any]) -> tuple[types.Type, ...]:
    """Numba's types of what a kernel is launched with; arrays stand for device arrays, which are writable to Numba."""
    return tuple(
        types.Array(numpy_support.from_dtype(a.dtype), a.ndim, "C" if a.flags.c_contiguous else "A")
        if isinstance(a, np.ndarray)
        else typeof(a)
        for a in arguments
    )


def signature(k: CudaKernel, arguments: Iterable[Any]) -> tuple[types.Type, ...]:
    """The types of a launch with these arguments."""
    return types_of(k.arguments(tuple(arguments)))


@contextmanager
def device_to_compile_for(cc: tuple[Any, ...]) -> Iterator[None]:
    """Helpers inside of a kernel are compiled for the current device: here there is one, but no driver."""
    import numba.cuda.codegen as codegen
    import numba.cuda.dispatcher as dispatcher

    device = SimpleNamespace(compute_capability=cc, id=0)
    with (
        mock.patch.object(dispatcher, "get_current_device", return_value=device),
        mock.patch.object(codegen.devices, "get_context", return_value=SimpleNamespace(device=device)),
    ):
        yield


def compile_twin(k: CudaKernel, argument_types: tuple[types.Type, ...], target: str = "sm_90a") -> MachineCode:
    """Compile with the options that a launch would use."""
    from cuda.core import Linker, LinkerOptions, ObjectCode
    from numba import cuda

    with device_to_compile_for(TARGETS[target]):
        ptx, _ = cuda.compile_ptx(k.py_func, argument_types, cc=TARGETS[target], **k.options)
    linker = Linker(ObjectCode.from_ptx(ptx.encode()), options=LinkerOptions(arch=target))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(linker.link("cubin").code)
        file.flush()
        sass = _run("nvdisasm", "-c", file.name)
        usage = _run("cuobjdump", "-res-usage", file.name)
    most = {what: max(map(int, re.findall(rf"\b{what}:(\d+)", usage))) for what in ("REG", "STACK", "SHARED")}
    return MachineCode(ptx, sass, operations(sass), most["REG"], most["STACK"], most["SHARED"])


def _run(name: str, *arguments: str) -> str:
    return subprocess.run([str(tool(name)), *arguments], check=True, capture_output=True, text=True).stdout


def operations(sass: str) -> Counter[str]:
    """How often each operation stands in the listing: ``{"LDG.E": 2, "FADD": 1, ...}``; padding left out."""
    line = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)
    return Counter(name for name in line.findall(sass) if name != "NOP")


# A fault and the operations that show it.
LOCAL_MEMORY = re.compile(r"(LDL|STL)\b")
GENERIC_ACCESS = re.compile(r"(LD|ST|ATOM)(\.|$)")
FLOAT64 = re.compile(r"D(ADD|MUL|FMA|SETP|MNMX|MMA)\b|.*(\bF64\b|64H)")


CONVERSION = re.compile(r"F2F\.F(32\.F64|64\.F32)$")


def faults(code: MachineCode, float64_allowed: bool = False, conversions_allowed: bool = False) -> list[str]:
    """What is wrong with a twin's machine code, in words; conversions from and to float64 may be allowed by themselves."""
    found = []
    if code.stack:
        found.append(f"{code.stack} bytes of stack: a local array is indexed at run time, or too large for registers")
    if code.shared > SHARED_BYTES:
        found.append(f"{code.shared} bytes of static shared memory: the launch would fail")
    if re.search(r"__cuda_sm\d+_(div|rem)_[us]64", code.sass):
        found.append("64-bit integer division (a range over 64-bit bounds with a step hides one)")
    wrong = {"local memory": LOCAL_MEMORY, "generic memory access": GENERIC_ACCESS, "float64 arithmetic": FLOAT64}
    if float64_allowed:
        del wrong["float64 arithmetic"]
    for what, pattern in wrong.items():
        names = sorted(name for name in code.operations if pattern.match(name))
        names = [name for name in names if not (conversions_allowed and CONVERSION.match(name))]
        if names:
            found.append(f"{what}: {', '.join(names)}")
    return found

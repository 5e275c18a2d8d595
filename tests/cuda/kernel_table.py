"""A page of what the compiler makes of every CUDA kernel: ``make cuda-table`` writes ``docs/gpu_kernels.md``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numba.core import types
from offline import compile_twin
from test_machine_code import CONVOLUTIONS, PRODUCTS, compiled, product_types

from numba_nn.core.cuda.product import in_rows, tiled_product

TARGET = "sm_90a"
KEY = re.compile(r"(LDG\.E\.(64|128)|STG\.E\.(64|128)|HMMA|LDGSTS|LDSM|FFMA$|DFMA$|MUFU|SHFL|BAR|VOTE)")
PASSES = {(4, 29, 5): "forward", (29, 29, 5): "input gradient", (29, 29, 2): "weight gradient"}  # by views
HEAD = f"""# GPU kernels

What the compiler makes of every kernel for {TARGET} (an H100 or H200), without a GPU: `make cuda-table`. None has local memory
or a stack; none for float32 computes in float64, but sums over blocks, bias corrections and norms (`tests/cuda/training.py`).
A kernel that is launched with arrays of several ranks or dtypes has the largest numbers of them. A multiprocessor has 65,536
registers and up to 227 KB of shared memory; blocks have 256 threads at most, those of long rows 512.
"""


class Row(NamedTuple):
    """A kernel with one set of argument types."""

    name: str
    registers: int
    shared: int
    operations: frozenset[str]


def shown(operation: str) -> str:
    """The part of an operation that tells what it is."""
    return re.sub(r"\.(BYPASS|ZFILL|SYNC|DEFER_BLOCKING|IDX|DOWN|BFLY|PT)\b", "", operation)


def row(name: str, kernel: Any, argument_types: tuple[types.Type, ...]) -> Row:
    """Compile one."""
    code = compile_twin(kernel, argument_types, TARGET)
    return Row(name, code.registers, code.shared, frozenset(shown(o) for o in code.operations if KEY.match(o)))


def of_layers(dtype: Any) -> Iterator[Row]:
    """What layers, losses and optimisers launch."""
    for launch in compiled(dtype):
        yield row(str(launch), launch.kernel, launch.argument_types)


def of_products() -> Iterator[Row]:
    """Matrix products and convolutions, as they are tested."""
    for kind, tile, loaders, finish, _ in PRODUCTS:
        name = f"product in {kind.name}, tile {tile[0]} x {tile[1]}"
        yield row(name, tiled_product(kind, tile, loaders, in_rows, finish, True), product_types(kind))
    for kind, tile, loaders, place, finish, views in CONVOLUTIONS:
        name = f"convolution in {kind.name}, {PASSES[views]}, tile {tile[0]} x {tile[1]}"
        yield row(name, tiled_product(kind, tile, loaders, place, finish, True), product_types(kind, views))


def table(rows: Iterable[Row]) -> str:
    """One line for each name."""
    found: dict[str, Row] = {}
    for one in rows:
        before = found.get(one.name, one)
        largest = max(before.registers, one.registers), max(before.shared, one.shared)
        found[one.name] = Row(one.name, *largest, before.operations | one.operations)
    lines = ["| kernel | registers | shared bytes | key instructions |", "|---|---:|---:|---|"]
    for name, one in sorted(found.items()):
        lines.append(f"| {name} | {one.registers} | {one.shared} | {', '.join(sorted(one.operations))} |")
    return "\n".join(lines) + "\n"


def layers_table(dtype: Any) -> str:
    """`table` of one dtype, for another process."""
    return table(of_layers(dtype))


def main(path: Path) -> None:
    """Write the page."""
    dtypes = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
    with ProcessPoolExecutor(2) as pool:
        tables = list(pool.map(layers_table, dtypes.values()))
    parts = [f"\n## {name}\n\n{text}" for name, text in zip(dtypes, tables, strict=True)]
    path.write_text(HEAD + f"\n## Products\n\n{table(of_products())}" + "".join(parts), encoding="utf-8")
    print(f"{path} is written")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A page of what the compiler makes of every CUDA kernel: ``make cuda-table`` writes ``docs/gpu_kernels.md``."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from offline import TARGETS, compile_twin
from test_machine_code import DTYPES, compiled
from test_product_code import FORWARD, PRODUCTS

KEY = re.compile(r"(LDG\.E\.(64|128)|STG\.E\.(64|128)|HMMA|LDGSTS|LDSM|FFMA$|DFMA$|MUFU|SHFL|BAR|VOTE)")
HEAD = """# GPU kernels

What the compiler makes of every kernel, without a GPU: `make cuda-table`. Registers of a thread are given for sm_80 /
sm_90a (an A100 / an H100 or H200), in a column for each type of arrays, and not where a kernel never sees the type. Shared
bytes are the most of them all, key instructions are those for sm_90a. None has local memory or a stack; none for float32
computes in float64, but sums over blocks, bias corrections and norms (`tests/cuda/training.py`). A kernel that is launched
with arrays of several ranks has the largest numbers of them. A multiprocessor has 65,536 registers and up to 164 / 227 KB
of shared memory; blocks have 256 threads at most, those of long rows 512. The budgets of registers that `make cuda-check`
asserts are in `tests/cuda/test_machine_code.py` and `test_product_code.py`.
"""


class Row(NamedTuple):
    """A kernel with one set of argument types, for one target; ``kind``: of its numbers."""

    name: str
    kind: str
    target: str
    registers: int
    shared: int
    operations: frozenset[str]


def shown(operation: str) -> str:
    """The part of an operation that tells what it is."""
    return re.sub(r"\.(BYPASS|ZFILL|SYNC|DEFER_BLOCKING|IDX|DOWN|BFLY|PT)\b", "", operation)


def rows(name: str, kind: str, kernel: Any, argument_types: Any) -> Iterator[Row]:
    """Compile one."""
    for target in TARGETS:
        code = compile_twin(kernel, argument_types, target)
        operations = frozenset(shown(o) for o in code.operations if KEY.match(o))
        yield Row(name, kind, target, code.registers, code.shared, operations)


def of_layers(dtype: Any) -> list[Row]:
    """What layers, losses and optimisers launch."""
    kind = np.dtype(dtype).name
    return [row for one in compiled(dtype) for row in rows(str(one), kind, one.kernel, one.argument_types)]


def of_products() -> list[Row]:
    """Matrix products and convolutions."""
    found = []
    for one in PRODUCTS:
        name = f"{one.what}, tile {one.tile[0]} x {one.tile[1]}"
        found += rows(name, one.kind.name, one.kernel, one.argument_types)
    return found


def table(found: Iterable[Row], kinds: Sequence[str], told: Sequence[str]) -> str:
    """One line for each name; the instructions of the kinds that are ``told``, or of the only one."""
    lines = [[*("kernel", *kinds, "shared bytes"), *(f"key instructions, {kind}" for kind in told)]]
    lines.append(["---", *["---:"] * (len(kinds) + 1), *["---"] * len(told)])
    of_name: dict[str, list[Row]] = defaultdict(list)
    for row in found:
        of_name[row.name].append(row)
    for name, group in sorted(of_name.items()):
        registers = [" / ".join(str(most(group, kind, target)) for target in TARGETS) for kind in kinds]
        operations = [sorted(instructions(group, kind)) for kind in told]
        cells = [cell.replace("0 / 0", "") for cell in registers]
        lines.append([name, *cells, str(max(row.shared for row in group)), *map(", ".join, operations)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def most(group: list[Row], kind: str, target: str) -> int:
    """Registers of a kernel with numbers of a kind; 0 if it never sees them."""
    return max((row.registers for row in group if (row.kind, row.target) == (kind, target)), default=0)


def instructions(group: list[Row], kind: str) -> frozenset[str]:
    """Those of a kernel with numbers of a kind."""
    return frozenset().union(*(row.operations for row in group if (row.kind, row.target) == (kind, "sm_90a")))


def main(path: Path) -> None:
    """Write the page."""
    with ProcessPoolExecutor(2) as pool:
        of_kernels = [row for found in pool.map(of_layers, DTYPES) for row in found]
    kinds = [np.dtype(dtype).name for dtype in DTYPES]
    products = table(of_products(), [kind.name for kind in FORWARD], ["tf32", "bfloat16"])
    others = table(of_kernels, kinds, ["float32", "bfloat16"])
    text = f"{HEAD}\n## Products\n\n{products}\n## Layers, losses and optimisers\n\n{others}"
    path.write_text(text, encoding="utf-8")
    print(f"{path} is written")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

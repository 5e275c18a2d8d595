"""A CPU kernel's body for the GPU: what `prange` deals out goes to the grid's threads.

A block of `numba_nn.core.reduce` is one element there. Where a loop touches arrays at its own index alone (a slice from a
block's start to its stop counts), a thread takes four neighbours at a time. It runs the CPU's body four times, on *windows*,
arrays of four that live in registers, and between these and memory go 16 bytes by one access:

    for i in prange(x.size):        at = 4 thread()
        y[i] = relu(x[i])           while at < x.size:
                                        fetch(y_window, y, at), fetch(x_window, x, at)
                                        i = 0, y_window[i] = relu(x_window[i]), i = 1, ..., i = 3, ...
                                        put(y, at, y_window, x.size)
                                        at += 4 threads()

Loads whose values nobody uses vanish. In other loops a thread takes one element at a time: ``i = thread()``, and so on.

In a loop over rows, ``for t in prange(tasks.shape[0])``, a block of threads has a row. In the same manner it shares the
elements of the arrays that `numba_nn.core.address.part_at` gives there; those that are written must not overlap others.
"""

from __future__ import annotations

import ast
import copy
import inspect
import itertools
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from numba_nn.core.cuda.ptx import WINDOW, cuda, device_function, load_window, starts_aligned, store_window
from numba_nn.core.cuda.twin import THREADS, CudaKernel, Grid, covering, cuda_helper
from numba_nn.core.roles import Role, argument_roles

u64 = np.uint64


@cuda_helper
def thread():
    """Index of this thread in the grid."""
    return u64(cuda.grid(1))


@cuda_helper
def threads_in_grid():
    """Number of threads in the grid."""
    return u64(cuda.gridsize(1))


@cuda_helper
def as_many(size):
    """Blocks of one element: `numba_nn.core.reduce.block_count` on the GPU."""
    return size


@cuda_helper
def one_element(block, size):
    """Bounds of a block of one element: `numba_nn.core.reduce.block_bounds` on the GPU."""
    return block, block + u64(1)


BLOCKS_OF_ONE = {"block_count": as_many, "block_bounds": one_element}
Stride = tuple[str, str]
"""A thread's number among those that share a loop, and how many these are."""
OF_GRID: Stride = "_thread()", "_threads_in_grid()"
OF_BLOCK: Stride = "_u64(_cuda.threadIdx.x)", "_u64(_cuda.blockDim.x)"


@device_function
def fetch(window, array, at):
    """Fill a window with a flat array's elements from ``at`` on, a multiple of four; with zeros beyond its end."""
    if starts_aligned(array) and at + u64(WINDOW) <= u64(array.size):
        window[0], window[1], window[2], window[3] = load_window(array, at)
    else:
        for lane in range(WINDOW):
            window[lane] = array[at + u64(lane)] if at + u64(lane) < u64(array.size) else array.dtype.type(0)


@device_function
def put(array, at, window, end):
    """Write a window where `fetch` took it from, up to an element ``end`` and to the array's last."""
    stop = min(u64(end), u64(array.size))
    if starts_aligned(array) and at + u64(WINDOW) <= stop:
        store_window(array, at, (window[0], window[1], window[2], window[3]))
    else:
        for lane in range(WINDOW):
            if at + u64(lane) < stop:
                array[at + u64(lane)] = window[lane]


def covering_windows(first: Any, *_: Any) -> tuple[int, int]:
    """`covering` by threads of four elements."""
    blocks, threads = covering(first)
    return min(blocks, -(-first.size // (WINDOW * THREADS))), threads


def portable_twin(py_func: Callable[..., Any]) -> CudaKernel:
    """The CUDA twin of a CPU kernel whose only `prange` loop has independent iterations."""
    lines, first = inspect.getsourcelines(py_func)
    tree = ast.increment_lineno(ast.parse(textwrap.dedent("".join(lines))), first - 1)
    loops = ThreadLoop(argument_roles(py_func))
    definition = loops.visit(tree).body[0]
    definition.decorator_list = []
    names = {**py_func.__globals__, **{f"_{f.__name__}": f for f in (thread, threads_in_grid, fetch, put)}}
    names |= {"_cuda": cuda, "_u64": u64}
    names |= {name: value for name, value in BLOCKS_OF_ONE.items() if name in names}
    exec(compile(ast.fix_missing_locations(tree), inspect.getfile(py_func), "exec"), names)
    return CudaKernel(names[py_func.__name__], loops.grid)


def statements(*lines: str) -> list[ast.stmt]:
    """Source as a tree."""
    return ast.parse("\n".join(lines)).body


class ThreadLoop(ast.NodeTransformer):
    """Replaces loops. Indices are unsigned: a signed one costs a test for negative values.

    Parameters
    ----------
    roles : mapping
        Name to role of every argument.

    Attributes
    ----------
    grid : callable
        What the loop over threads asks for.
    """

    def __init__(self, roles: Mapping[str, Any]) -> None:
        self.names = list(roles)
        self.arrays = {name: role.writes for name, role in roles.items() if isinstance(role, Role)}
        self.parts: dict[str, bool] = {}
        self.grid: Grid = covering

    def visit_For(self, node: ast.For) -> Any:
        """A loop over `prange` as a thread runs it; one over a block's elements, of which there is one or none."""
        i, iterated = ast.unparse(node.target), ast.unparse(node.iter)
        if of_rows := re.fullmatch(r"prange\((\w+)\.shape\[0\]\)", iterated):
            loop = self._of_rows(node, i, of_rows[1])
        elif of_grid := re.fullmatch(r"prange\((.+)\)", iterated):
            self.generic_visit(node)
            loop, by_windows = shared(node, i, of_grid[1], self.arrays, OF_GRID)
            self.grid = covering_windows if by_windows else covering
        elif (of_local := re.fullmatch(r"range\((\w+)\.size\)", iterated)) and of_local[1] in self.parts:
            loop, _ = shared(node, i, f"{of_local[1]}.size", self.parts, OF_BLOCK)
        elif of_local and of_local[1] not in self.arrays and not self.parts:
            loop = statements(f"{i} = _u64(0)", f"if {of_local[1]}.size > 0: pass")
            loop[1].body = node.body  # type: ignore[attr-defined]
        else:
            return self.generic_visit(node)
        return [ast.copy_location(statement, node) for statement in loop]

    def _of_rows(self, node: ast.For, row: str, array: str) -> list[ast.stmt]:
        """A block of threads has a row, and shares the elements of what `part_at` gives."""
        assigned = (n for n in ast.walk(node) if isinstance(n, ast.Assign) and ast.unparse(n.value).startswith("part_at("))
        self.parts = {ast.unparse(n.targets[0]): True for n in assigned}
        number = self.names.index(array)
        self.grid = lambda *arguments: (arguments[number].shape[0], THREADS)
        self.generic_visit(node)
        return [*statements(f"{row} = _u64(_cuda.blockIdx.x)"), *node.body]


def shared(node: ast.For, i: str, count: str, arrays: Mapping[str, bool], stride: Stride) -> tuple[list[ast.stmt], bool]:
    """A loop over a thread's share, and whether it takes windows."""
    windows = Windows(i, arrays)
    body = windows.body_of(node)
    if windows.suffice:
        return windows.loop(count, body, stride), True
    loop = statements(f"{i} = {stride[0]}", f"while {i} < _u64({count}): {i} += {stride[1]}")
    loop[1].body[:0] = node.body  # type: ignore[attr-defined]
    return loop, False


class Windows(ast.NodeTransformer):
    """The body of a loop on windows in place of arrays.

    Parameters
    ----------
    index : str
        The loop's index.
    arrays : mapping
        Name to whether it may be written, of every array.

    Attributes
    ----------
    suffice : bool
        Whether arrays are touched at the index alone, and it is used for nothing else.
    """

    def __init__(self, index: str, arrays: Mapping[str, bool]) -> None:
        self.index, self.arrays, self.suffice = index, arrays, True
        self.places, self.bounds = {index}, {index}
        self.touched: dict[str, bool] = {}  # array to whether it is written

    def body_of(self, loop: ast.For) -> list[ast.stmt]:
        """The body; what it says of the arrays is noted."""
        body = [self.visit(copy.deepcopy(statement)) for statement in loop.body]
        self.suffice &= any(self.touched.values())
        return body

    def visit_Assign(self, node: ast.Assign) -> Any:
        """The bounds of a block make another place."""
        if ast.unparse(node.value).startswith(f"block_bounds({self.index}, "):
            start, stop = map(ast.unparse, node.targets[0].elts)  # type: ignore[attr-defined]
            self.places.add(f"{start}:{stop}")
            self.bounds |= {start, stop}
            return node
        return self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> Any:
        """``x[i]`` as ``x_window[i]``."""
        name = ast.unparse(node.value)
        if name not in self.arrays or ast.unparse(node.slice) not in self.places:
            return self.generic_visit(node)
        written = self.arrays[name] and (isinstance(node.ctx, ast.Store) or isinstance(node.slice, ast.Slice))
        self.touched[name] = self.touched.get(name, False) or written
        node.value = ast.Name(f"{name}_window", ast.Load())
        return node

    def visit_Name(self, node: ast.Name) -> Any:
        """An array or an index by itself."""
        self.suffice &= node.id not in self.arrays and node.id not in self.bounds
        return node

    def loop(self, count: str, body: list[ast.stmt], stride: Stride) -> list[ast.stmt]:
        """The loop over a thread's windows."""
        begin, loop = statements(f"_at = {stride[0]} * _u64({WINDOW})", f"while _at < _u64({count}): pass")
        inside = [f"{name}_window = _cuda.local.array({WINDOW}, {name}.dtype)" for name in self.touched]
        fetched = statements(*inside, *(f"_fetch({name}_window, {name}, _at)" for name in self.touched))
        lanes = [[*statements(f"{self.index} = _u64({lane})"), *copy.deepcopy(body)] for lane in range(WINDOW)]
        written = [f"_put({name}, _at, {name}_window, {count})" for name, writes in self.touched.items() if writes]
        end = statements(*written, f"_at += {stride[1]} * _u64({WINDOW})")
        loop.body = [*fetched, *itertools.chain(*lanes), *end]  # type: ignore[attr-defined]
        return [begin, loop]

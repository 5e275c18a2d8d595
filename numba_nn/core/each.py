"""Loops over elements in which several vectors are under way at once.

A polynomial is a chain: each step waits four cycles for the one before. LLVM's vectoriser goes through the body of such a loop
with one vector at a time, and the CPU's window holds two or three of them. `each` asks for `INTERLEAVED` vectors, by a note on
the loop; what they compute is the same. Large sources are fetched ahead, and large results may be written past the caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.cpu import CPUContext
from numba.extending import intrinsic

from numba_nn.core.kernel import inlined
from numba_nn.core.simd import INT32, INTP, LINE, Emitter, prefetch

DOUBLE = ir.DoubleType()
INTERLEAVED = 4  # vectors
FAR = 2**25  # bytes: see `is_far`
PIECE = 512  # elements that lie in the L1 cache on their way, or are summed in their own precision
PIECES_AHEAD = 2 * PIECE  # elements


def _interleave(module: Any) -> Any:
    """LLVM's note on a loop: its own name, and what it asks for."""
    wish = module.add_metadata([ir.MetaDataString(module, "llvm.loop.interleave.count"), INT32(INTERLEAVED)])
    note = ir.MDValue(module, [wish], name=str(len(module.metadata)))
    note.operands = (note, wish)
    return note


@inlined
def is_far(target):
    """Whether an array is taken to be larger than caches are: what is written there had better not go through them.

    A store of a line that is in no cache fetches it first. Stores past the caches do not: a copy of 64 MB, counted as it is
    read and written, goes at 24.4 GB/s in place of 15.4 (Intel Xeon, one thread), one of 8 MB no faster.
    """
    return target.size * target.itemsize >= FAR


@inlined
def same(x):
    """x."""
    return x


@intrinsic
def each(typingctx, function, target, sources):
    """``each(function, target, sources)``: target[i] = function(sources[0][i], sources[1][i], ...), for flat arrays.

    A source may also be a number, which every i takes.
    """
    return _each(typingctx, function, target, sources)


@intrinsic
def each_ahead(typingctx, function, target, sources, far):
    """`each`, ``each_ahead(function, target, sources, far)``, whose sources are fetched ahead if ``far``: for costly functions.

    The target may also be a tuple of two arrays that get the same; the second may be empty, and goes past the caches. CPUs
    fetch ahead themselves, but not beyond a page: GELU of 64 MB in pages of 4 KB takes 12.8 ms in place of 14.2 (Intel Xeon).
    """
    return _each(typingctx, function, target, sources, far)


@intrinsic
def each_far(typingctx, function, target, sources, far):
    """`each_ahead` that writes everything past the caches if ``far``; for what computes little, or reads more than it writes.

    A ReLU of 64 MB takes 5.6 ms in place of 8, a sigmoid 9 as before (Intel Xeon).
    """
    return _each(typingctx, function, target, sources, far, past=True)


def _each(typingctx: Any, function: Any, target: Any, sources: Any, far: Any = None, past: bool = False) -> tuple[Any, Any]:
    """Signature and code of `each`, or with one argument more of `each_ahead` and, ``past`` the caches, of `each_far`."""
    call, several = _call_type(typingctx, function, sources), isinstance(target, types.BaseTuple)
    kinds = tuple(target) if several else (target,)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (_, to, given), flag = arguments[:3], arguments[3:]
        values = _Values(context, builder, context.get_function(function, call), sources, given)
        to = cgutils.unpack_tuple(builder, to, len(kinds)) if several else [to]
        to = [context.make_array(kind)(context, builder, array) for kind, array in zip(kinds, to, strict=True)]
        if not isinstance(context, CPUContext):  # a thread of the GPU has one element
            with builder.if_then(builder.icmp_signed(">", to[0].nitems, INTP(0))):
                value = values(INTP(0))
                for array in to:
                    with builder.if_then(builder.icmp_signed(">", array.nitems, INTP(0))):
                        builder.store(value, array.data)
        elif not flag:
            values.store(to[0].data, INTP(0), to[0].nitems)
        else:
            _each_piece(Emitter(builder, kinds[0]), to, values, flag[0], past)
        return context.get_dummy_value()

    return types.void(function, target, sources, *([] if far is None else [far])), codegen


@intrinsic
def each_sum(typingctx, function, sources, ahead):
    """``each_sum(function, sources, ahead)``: the sum of function(sources[0][i], ...), in float64.

    The first source is an array. `PIECE` elements at a time are summed in their own precision. Unless ``ahead`` is 0, what lies
    so many elements behind them is fetched meanwhile.
    """
    call = _call_type(typingctx, function, sources)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, given, ahead = arguments
        values = _Values(context, builder, context.get_function(function, call), sources, given)
        total = cgutils.alloca_once_value(builder, DOUBLE(0))
        with _pieces(builder, values.arrays[0].nitems, INTP(PIECE)) as (start, count):
            with builder.if_then(builder.icmp_signed("!=", ahead, INTP(0))):
                values.fetch(builder.add(start, ahead), count)
            part = values.sum(start, count)
            part = part if part.type == DOUBLE else builder.fpext(part, DOUBLE)
            builder.store(builder.fadd(builder.load(total), part), total)
        return builder.load(total)

    return types.float64(function, sources, types.intp), codegen


def _call_type(typingctx: Any, function: Any, sources: Any) -> Any:
    """Signature of a function of one element of each source."""
    return function.get_call_type(typingctx, tuple(s.dtype if isinstance(s, types.Array) else s for s in sources), {})


@contextmanager
def _pieces(builder: Any, length: Any, size: Any) -> Iterator[tuple[Any, Any]]:
    """Start and number of elements of every piece of ``size``, as instructions within a loop."""
    with cgutils.for_range_slice(builder, INTP(0), length, size) as (start, _):
        left = builder.sub(length, start)
        yield start, builder.select(builder.icmp_signed("<", left, size), left, size)


def _each_piece(emit: Emitter, to: list[Any], values: _Values, far: Any, past: bool) -> None:
    """The loop of `each_ahead` and `each_far`: if ``far`` in pieces of `PIECE` elements, which are in the L1 cache first."""
    builder, (first, *others) = emit.builder, to
    with builder.if_else(far) as (beyond, through):
        with through:
            values.store(first.data, INTP(0), first.nitems)
            for array in others:
                emit.copy_exactly(array.data, first.data, array.nitems)
        with beyond:
            room = emit.room(PIECE)
            with _pieces(builder, first.nitems, INTP(PIECE)) as (start, count):
                values.fetch(builder.add(start, INTP(PIECES_AHEAD)), count)
                piece = room if past else builder.gep(first.data, [start])
                values.store(piece, start, count)
                for array in to if past else others:
                    with builder.if_then(builder.icmp_signed("!=", array.nitems, INTP(0))):
                        emit.stream(builder.gep(array.data, [start]), piece, count)


class _Values:
    """A function of the i-th elements of its sources; ``builder`` stands where instructions go."""

    def __init__(self, context: Any, builder: Any, function: Any, sources: Any, given: Any) -> None:
        self.builder, self.function = builder, function
        self.given = list(cgutils.unpack_tuple(builder, given, len(sources)))
        self.indexed = [k for k, source in enumerate(sources) if isinstance(source, types.Array)]
        self.arrays = [context.make_array(sources[k])(context, builder, self.given[k]) for k in self.indexed]
        self.alignments = [sources[k].dtype.bitwidth // 8 for k in self.indexed]

    def __call__(self, i: Any) -> Any:
        """The function's value for the i-th elements."""
        values = list(self.given)
        for k, array in zip(self.indexed, self.arrays, strict=True):
            values[k] = self.builder.load(self.builder.gep(array.data, [i]))
        return self.function(self.builder, values)

    def fetch(self, start: Any, count: Any) -> None:
        """Fetch so many elements of every source, from there on, into the L1 cache: a hint, never a fault."""
        for array, alignment in zip(self.arrays, self.alignments, strict=True):
            stop, step = self.builder.add(start, count), INTP(LINE // alignment)
            with cgutils.for_range_slice(self.builder, start, stop, step) as (at, _):
                prefetch(self.builder, self.builder.gep(array.data, [at]), writes=0, level=3)

    def store(self, to: Any, start: Any, count: Any) -> None:
        """to[i] = value(start + i) for i < count."""
        with _loop(self.builder, count) as i:
            self.builder.store(self(self.builder.add(start, i)), self.builder.gep(to, [i]))

    def sum(self, start: Any, count: Any) -> Any:
        """The sum of value(start + i) for i < count, in the type of the first source."""
        builder, kind = self.builder, self.arrays[0].data.type.pointee
        total = cgutils.alloca_once(builder, kind)
        builder.store(kind(0), total)
        with _loop(builder, count) as i:
            builder.store(builder.fadd(builder.load(total), self(builder.add(start, i)), flags=("reassoc",)), total)
        return builder.load(total)


@contextmanager
def _loop(builder: Any, count: Any) -> Iterator[Any]:
    """i < count, as instructions within a loop."""
    before, loop, done = builder.block, builder.append_basic_block("each"), builder.append_basic_block("each.done")
    builder.cbranch(builder.icmp_signed(">", count, INTP(0)), loop, done)
    builder.position_at_end(loop)
    i = builder.phi(INTP)
    yield i
    following = builder.add(i, INTP(1))
    i.add_incoming(INTP(0), before)
    i.add_incoming(following, builder.block)
    again = builder.cbranch(builder.icmp_signed("<", following, count), loop, done)
    again.set_metadata("llvm.loop", _interleave(builder.module))
    builder.position_at_end(done)

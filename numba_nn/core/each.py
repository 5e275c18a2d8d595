"""Loops over elements in which several vectors are under way at once.

A polynomial is a chain: each step waits four cycles for the one before. LLVM's vectoriser goes through the body of such a loop
with one vector at a time, and the CPU's window holds two or three of them. `each` asks for `INTERLEAVED` vectors, by a note on
the loop; what they compute is the same. Large results are written past the caches.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.cpu import CPUContext
from numba.extending import intrinsic

from numba_nn.core.kernel import inlined
from numba_nn.core.reduce import BLOCK
from numba_nn.core.simd import INT32, INTP, Emitter

INTERLEAVED = 4  # vectors
FAR = 2**25  # bytes: see `is_far`


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
def each_far(typingctx, function, target, sources, far):
    """`each` for a block of at most BLOCK elements, ``each_far(function, target, sources, far)``: past the caches if ``far``.

    It pays where little is computed: a ReLU of 64 MB takes 5.6 ms in place of 8, a sigmoid 9 as before (Intel Xeon).
    """
    return _each(typingctx, function, target, sources, far)


def _each(typingctx: Any, function: Any, target: Any, sources: Any, *far: Any) -> tuple[Any, Any]:
    """Signature and code of `each`, or with one argument more of `each_far`."""
    indexed = [isinstance(source, types.Array) for source in sources]
    call = function.get_call_type(
        typingctx, tuple(s.dtype if array else s for s, array in zip(sources, indexed, strict=True)), {}
    )

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def elements(array_type: Any, value: Any) -> Any:
            return context.make_array(array_type)(context, builder, value)

        _, to, given, *past = arguments
        to, given = elements(target, to), cgutils.unpack_tuple(builder, given, len(sources))
        given = [elements(s, g).data if array else g for s, g, array in zip(sources, given, indexed, strict=True)]

        def value(i: Any) -> Any:
            values = [builder.load(builder.gep(g, [i])) if array else g for g, array in zip(given, indexed, strict=True)]
            return context.get_function(function, call)(builder, values)

        if not isinstance(context, CPUContext):  # a thread of the GPU has one element
            with builder.if_then(builder.icmp_signed(">", to.nitems, INTP(0))):
                builder.store(value(INTP(0)), to.data)
        elif not past:
            _loop(builder, to.nitems, to.data, value)
        else:
            room = Room(builder, target)
            _loop(builder, to.nitems, builder.select(*past, room.data, to.data), value)
            with builder.if_then(*past):
                room.stream(to.data, to.nitems)
        return context.get_dummy_value()

    return types.void(function, target, sources, *far), codegen


def _loop(builder: Any, count: Any, to: Any, value: Any) -> None:
    """to[i] = value(i) for i < count."""
    before, loop, done = builder.block, builder.append_basic_block("each"), builder.append_basic_block("each.done")
    builder.cbranch(builder.icmp_signed(">", count, INTP(0)), loop, done)
    builder.position_at_end(loop)
    i = builder.phi(INTP)
    builder.store(value(i), builder.gep(to, [i]))
    following = builder.add(i, INTP(1))
    i.add_incoming(INTP(0), before)
    i.add_incoming(following, builder.block)
    again = builder.cbranch(builder.icmp_signed("<", following, count), loop, done)
    again.set_metadata("llvm.loop", _interleave(builder.module))
    builder.position_at_end(done)


class Room(Emitter):
    """BLOCK elements in the L1 cache, which `stream` writes to where they belong."""

    def __init__(self, builder: Any, array: Any) -> None:
        super().__init__(builder, array)
        with builder.goto_entry_block():  # not `cgutils.alloca_once`, which fills it with zeros at every call: 0.3 us
            room = builder.alloca(ir.ArrayType(self.element, BLOCK))
        self.data = builder.bitcast(room, self.element.as_pointer())

    def stream(self, target: Any, length: Any) -> None:
        """target[:length] = room[:length], whole vectors past the caches, which needs their addresses aligned.

        Other threads see them after a locked instruction of this one, as all locks and barriers have.
        """
        builder, lanes = self.builder, INTP(self.lanes)
        vector = self.lanes * self.alignment
        address = builder.and_(builder.neg(builder.ptrtoint(target, INTP)), INTP(vector - 1))
        lead = builder.udiv(address, INTP(self.alignment))
        lead = builder.select(builder.icmp_signed("<", lead, length), lead, length)
        self.copy_exactly(target, self.data, lead)
        whole = builder.add(lead, builder.and_(builder.sub(length, lead), INTP(-self.lanes)))
        with cgutils.for_range_slice(builder, lead, whole, lanes) as (i, _):
            store = builder.store(self.load(self.data, i), self.vector_pointer(target, i), align=vector)
            store.set_metadata("nontemporal", builder.module.add_metadata([INT32(1)]))
        end, rest = (builder.gep(array, [whole]) for array in (target, self.data))
        self.copy_exactly(end, rest, builder.sub(length, whole))

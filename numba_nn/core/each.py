"""Loops over elements in which several vectors are under way at once.

A polynomial is a chain: each step waits four cycles for the one before. LLVM's vectoriser goes through the body of such a loop
with one vector at a time, and the CPU's window holds two or three of them. `each` asks for `INTERLEAVED` vectors, by a note on
the loop; what they compute is the same.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.cpu import CPUContext
from numba.extending import intrinsic

from numba_nn.core.simd import INT32, INTP

INTERLEAVED = 4  # vectors


def _interleave(module: Any) -> Any:
    """LLVM's note on a loop: its own name, and what it asks for."""
    wish = module.add_metadata([ir.MetaDataString(module, "llvm.loop.interleave.count"), INT32(INTERLEAVED)])
    note = ir.MDValue(module, [wish], name=str(len(module.metadata)))
    note.operands = (note, wish)
    return note


@intrinsic
def each(typingctx, function, target, sources):
    """``each(function, target, sources)``: target[i] = function(sources[0][i], sources[1][i], ...), for flat arrays.

    A source may also be a number, which every i takes.
    """
    indexed = [isinstance(source, types.Array) for source in sources]
    call = function.get_call_type(
        typingctx, tuple(s.dtype if array else s for s, array in zip(sources, indexed, strict=True)), {}
    )

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def elements(array_type: Any, value: Any) -> Any:
            return context.make_array(array_type)(context, builder, value)

        to = elements(target, arguments[1])
        given = cgutils.unpack_tuple(builder, arguments[2], len(sources))
        given = [elements(s, g).data if array else g for s, g, array in zip(sources, given, indexed, strict=True)]
        before, loop, done = builder.block, builder.append_basic_block("each"), builder.append_basic_block("each.done")
        builder.cbranch(builder.icmp_signed(">", to.nitems, INTP(0)), loop, done)
        builder.position_at_end(loop)
        i = builder.phi(INTP)
        values = [builder.load(builder.gep(g, [i])) if array else g for g, array in zip(given, indexed, strict=True)]
        builder.store(context.get_function(function, call)(builder, values), builder.gep(to.data, [i]))
        i.add_incoming(INTP(0), before)
        if isinstance(context, CPUContext):
            following = builder.add(i, INTP(1))
            i.add_incoming(following, builder.block)
            again = builder.cbranch(builder.icmp_signed("<", following, to.nitems), loop, done)
            again.set_metadata("llvm.loop", _interleave(builder.module))
        else:  # a thread of the GPU has one element
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(function, target, sources), codegen

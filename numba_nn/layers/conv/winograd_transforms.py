"""Vector intrinsics that transform small tiles, one tile in each lane: M X N' for constant matrices M and N.

Lanes hold tiles side by side, so that the arithmetic of a tile is that of one number. Where tiles lie in an image, they are
gathered row by row and transposed in registers, and written back likewise; nothing is loaded or stored number by number.

The matrices are those of Winograd's convolutions (`numba_nn.layers.conv.winograd_matrices`): six rows or six columns, which
belong to the points 0, a, -a, b, -b and infinity. What belongs to a and -a differs in the signs of odd powers only, so that
both are made of the same two sums: 12 operations for six vectors, where 16 would do without.

Which matrices they are depends on the taps of the convolution along either axis. An intrinsic has the code for all `FORMS`,
and is told the taps by its first argument.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from numba_nn.core.simd import INTP, Emitter, data_pointer

Matrix = tuple[tuple[Fraction, ...], ...]
MatrixFor = Callable[[int], Matrix]
"""The matrix for an axis of so many taps."""

FORMS = (3, 3), (5, 5), (1, 3), (1, 5)
"""Taps of the convolutions that there are transforms for, along height and width."""

PAIRS = (1, 2), (3, 4)  # the points a, -a and b, -b


class TileEmitter(Emitter):
    """Emits instructions over vectors that hold a tile in each lane."""

    # ---- memory ------------------------------------------------------------------------------------------------------

    def load_short(self, base: Any, offset: Any, lanes: int) -> Any:
        """The first lanes of the vector at base[offset]."""
        pointer = self.builder.bitcast(self.builder.gep(base, [offset]), ir.VectorType(self.element, lanes).as_pointer())
        return self.builder.load(pointer, align=self.alignment)

    def load_tile(self, base: Any, step: Any, rows: int, columns: int) -> list[list[Any]]:
        """Vectors ``step`` elements apart, row by row."""
        places = [[INTP(i * columns + j) for j in range(columns)] for i in range(rows)]
        return [[self.load(base, self.builder.mul(step, place)) for place in row] for row in places]

    def store_tile(self, rows: list[list[Any]], base: Any, step: Any) -> None:
        """The opposite of `load_tile`."""
        for k, value in enumerate(value for row in rows for value in row):
            self.store(value, base, self.builder.mul(step, INTP(k)))

    def gather_row(self, base: Any, offsets: list[Any], columns: int) -> list[Any]:
        """The first columns of what lies at every lane's offset: a vector for each column."""
        width = min(self.lanes, 1 << (columns - 1).bit_length())
        found: list[Any] = []
        for start in range(0, columns, width):
            pieces = [self.load_short(base, self.builder.add(offset, INTP(start)), width) for offset in offsets]
            rows = [self.joined(pieces[q::width]) for q in range(width)]
            found += self.transpose_blocks(rows)
        return found[:columns]

    def joined(self, pieces: list[Any]) -> Any:
        """Short vectors one after the other in one vector."""
        while len(pieces) > 1:
            lanes = list(range(2 * pieces[0].type.count))
            pieces = [self.shuffle(a, b, lanes) for a, b in zip(pieces[::2], pieces[1::2], strict=True)]
        return pieces[0]

    def transpose_blocks(self, rows: list[Any]) -> list[Any]:
        """Transpose every block of as many lanes as rows: swap the row's number with the lane's low bits, bit by bit."""
        bit = 1
        while bit < len(rows):
            low = [i if not i & bit else self.lanes + (i ^ bit) for i in range(self.lanes)]
            high = [i | bit if not i & bit else self.lanes + i for i in range(self.lanes)]
            rows = [
                self.shuffle(rows[q & ~bit], rows[q | bit], high if q & bit else low) for q in range(len(rows))
            ]  # fmt: skip
            bit *= 2
        return rows

    # ---- arithmetic --------------------------------------------------------------------------------------------------

    def constant(self, value: Fraction) -> Any:
        """A vector with a number in every lane."""
        return ir.Constant(self.vector, [float(value)] * self.lanes)

    def combine(self, terms: list[tuple[Fraction, Any]]) -> Any:
        """Sum of coefficients times vectors; a coefficient of one comes first and costs nothing."""
        terms = sorted((t for t in terms if t[0] != 0), key=lambda term: term[0] != 1)
        (first, total), others = terms[0], terms[1:]
        if first != 1:
            total = self.builder.fmul(self.constant(first), total)
        for coefficient, value in others:
            if coefficient == 1:
                total = self.builder.fadd(total, value)
            else:
                total = self.multiply_add(self.constant(coefficient), value, total)
        return total

    def apply(self, matrix: Matrix, vectors: list[Any]) -> list[Any]:
        """Matrix times vectors."""
        if len(matrix) == len(matrix[0]) == 1:
            return vectors
        return (self.to_points if len(matrix) == 6 else self.from_points)(matrix, vectors)

    def to_points(self, matrix: Matrix, vectors: list[Any]) -> list[Any]:
        """Six rows: those of a and -a are an even sum plus and minus an odd one."""
        terms = [list(zip(row, vectors, strict=True)) for row in matrix]
        results = [self.combine(row) if i in (0, 5) else None for i, row in enumerate(terms)]
        for plus, minus in PAIRS:
            even = self.combine(terms[plus][::2])
            scale = next(c for c, _ in reversed(terms[plus][1::2]) if c != 0)
            odd = self.combine([(c / scale, value) for c, value in terms[plus][1::2]])
            for i, factor in ((plus, scale), (minus, -scale)):
                results[i] = self.multiply_add(self.constant(factor), odd, even)
        return results

    def from_points(self, matrix: Matrix, vectors: list[Any]) -> list[Any]:
        """Six columns: even rows take the sums of a and -a, odd rows the differences."""
        sums = [self.builder.fadd(vectors[i], vectors[j]) for i, j in PAIRS]
        differences = [self.builder.fsub(vectors[i], vectors[j]) for i, j in PAIRS]
        results = []
        for i, row in enumerate(matrix):
            paired = [(row[p], value) for (p, _), value in zip(PAIRS, differences if i % 2 else sums, strict=True)]
            results.append(self.combine([(row[0], vectors[0]), *paired, (row[5], vectors[5])]))
        return results

    def apply_twice(self, down: Matrix, across: Matrix, rows: list[list[Any]]) -> list[list[Any]]:
        """M X N'; the vectors of X row by row."""
        half = [self.apply(across, row) for row in rows]
        columns = [self.apply(down, list(column)) for column in zip(*half, strict=True)]
        return [list(row) for row in zip(*columns, strict=True)]

    def each_form(self, taps: Any, matrix: MatrixFor) -> Iterator[tuple[Matrix, Matrix]]:
        """The matrices of all forms, in turns; what is emitted meanwhile runs for ``taps`` of that form."""
        builder, forms = self.builder, dict[tuple[Matrix, Matrix], list[tuple[int, int]]]()
        for form in FORMS:
            forms.setdefault((matrix(form[0]), matrix(form[1])), []).append(form)
        for matrices, alike in forms.items():
            wanted = [
                builder.and_(*(builder.icmp_signed("==", builder.extract_value(taps, i), INTP(form[i])) for i in range(2)))
                for form in alike
            ]
            with builder.if_then(functools.reduce(builder.or_, wanted)):
                yield matrices


def lane_transform(matrix: MatrixFor) -> Any:
    """An intrinsic: tiles that lie in lanes already, to lanes.

    ``transform(taps, target, at, step, source, source_at, source_step)``: element k of M X N' (row by row) is the vector at
    ``target[at + k step]``, element k of X that at ``source[source_at + k source_step]``.
    """

    @intrinsic
    def transform(
        typingctx: Any, taps: Any, target: Any, at: Any, step: Any, source: Any, source_at: Any, source_step: Any
    ) -> Any:  # fmt: skip
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            taps, target, at, step, source, source_at, source_step = arguments
            emit = TileEmitter(builder, signature.args[1])
            origin = data_pointer(context, builder, signature.args[4], source, source_at)
            to = data_pointer(context, builder, signature.args[1], target, at)
            for down, across in emit.each_form(taps, matrix):
                result = emit.apply_twice(down, across, emit.load_tile(origin, source_step, len(down[0]), len(across[0])))
                emit.store_tile(result, to, step)
            return context.get_dummy_value()

        return types.void(taps, target, types.intp, types.intp, source, types.intp, types.intp), codegen

    return transform


def gather_transform(matrix: MatrixFor) -> Any:
    """An intrinsic: tiles of an image, to lanes.

    ``transform(taps, target, at, step, source, source_at, offsets, first, stride)``: lane t holds the tile whose corner is
    ``source[source_at + offsets[first + t]]`` and whose rows lie ``stride`` apart; rows are read up to the next power of two.
    """

    @intrinsic
    def transform(
        typingctx: Any, taps: Any, target: Any, at: Any, step: Any, source: Any, source_at: Any, offsets: Any, first: Any,
        stride: Any,
    ) -> Any:  # fmt: skip
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            taps, target, at, step, source, source_at, offsets, first, stride = arguments
            emit = TileEmitter(builder, signature.args[1])
            origin = data_pointer(context, builder, signature.args[4], source, source_at)
            table = data_pointer(context, builder, signature.args[6], offsets, first)
            to = data_pointer(context, builder, signature.args[1], target, at)
            corners = [builder.load(builder.gep(table, [INTP(t)])) for t in range(emit.lanes)]
            for down, across in emit.each_form(taps, matrix):
                starts = [builder.gep(origin, [builder.mul(stride, INTP(i))]) for i in range(len(down[0]))]
                rows = [emit.gather_row(start, corners, len(across[0])) for start in starts]
                emit.store_tile(emit.apply_twice(down, across, rows), to, step)
            return context.get_dummy_value()

        signature = types.void(taps, target, *[types.intp] * 2, source, types.intp, offsets, *[types.intp] * 2)
        return signature, codegen

    return transform


def strip_transform(matrix: MatrixFor) -> Any:
    """An intrinsic: tiles that lie in lanes, to rows of an image that they fill side by side.

    ``transform(taps, target, at, stride, source, source_at, source_step)``: row i of the tile of lane t goes to
    ``target[at + i stride + t n]`` and on, n being the rows of N, a power of two.
    """

    @intrinsic
    def transform(
        typingctx: Any, taps: Any, target: Any, at: Any, stride: Any, source: Any, source_at: Any, source_step: Any
    ) -> Any:  # fmt: skip
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            taps, target, at, stride, source, source_at, source_step = arguments
            emit = TileEmitter(builder, signature.args[1])
            origin = data_pointer(context, builder, signature.args[4], source, source_at)
            to = data_pointer(context, builder, signature.args[1], target, at)
            for down, across in emit.each_form(taps, matrix):
                tile = emit.load_tile(origin, source_step, len(down[0]), len(across[0]))
                for i, row in enumerate(emit.apply_twice(down, across, tile)):
                    for q, value in enumerate(emit.interleave_all(row)):
                        emit.store(value, to, builder.add(builder.mul(stride, INTP(i)), INTP(q * emit.lanes)))
            return context.get_dummy_value()

        return types.void(taps, target, types.intp, types.intp, source, types.intp, types.intp), codegen

    return transform


@intrinsic
def copy_exactly(typingctx: Any, target: Any, at: Any, source: Any, source_at: Any, length: Any) -> Any:
    """target[at : at + length] = source[source_at : source_at + length].

    ``copy_exactly(target, at, source, source_at, length)``: unlike `numba_nn.core.simd.copy_run` it touches nothing beyond.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, at, source, source_at, length = arguments
        to = data_pointer(context, builder, signature.args[0], target, at)
        origin = data_pointer(context, builder, signature.args[2], source, source_at)
        Emitter(builder, signature.args[0]).copy_exactly(to, origin, length)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp, types.intp), codegen

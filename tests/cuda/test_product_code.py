"""The machine code of matrix products and of all passes of convolutions: every kind of number, tile and loader."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import offline
import pytest
from numba.core import types
from numba.np.numpy_support import from_dtype
from offline import TARGETS, compile_twin, faults
from twins import modules

from numba_nn.core.cuda import loaders as cuda_loaders
from numba_nn.core.cuda import tiles as cuda_tiles
from numba_nn.core.cuda.loaders import elements_along_depth, elements_along_rows, vectors_along_depth, vectors_along_rows
from numba_nn.core.cuda.product import ACTIVATIONS, ADD, OVERWRITE, in_rows, in_strided_rows, tiled_product
from numba_nn.core.cuda.slices import LARGE_TILE, SMALL_TILE, slices_added
from numba_nn.core.cuda.tiles import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, TF32, Kind
from numba_nn.core.cuda.twin import CudaKernel
from numba_nn.core.epilogue import IDENTITY, LEAKY_RELU, RELU, RELU6, SIGMOID, TANH
from numba_nn.layers.conv.cuda import (
    channels_of_pixels,
    in_planes,
    inputs_at_outputs,
    inputs_by_taps,
    outputs_at_inputs,
    weights_of_inputs,
)

REQUIRED = "NUMBA_NN_CUDA_TOOLS" in os.environ
pytestmark = pytest.mark.skipif(bool(offline.missing()) and not REQUIRED, reason=offline.missing())

REGISTERS = {LARGE_TILE: 128, SMALL_TILE: 80}  # of a thread: two and three blocks are resident; measured are 128 and 72
OF_FLOAT64 = 104  # two; 96
FORWARD = {TF32: TANH, FLOAT32: SIGMOID, FLOAT64: LEAKY_RELU, BFLOAT16: RELU6, FLOAT16: IDENTITY}
"""Every kind, and what finishes its convolutions, so that all activations have their turn."""
FASTEST = {
    TF32: {"HMMA.1688.F32.TF32"}, FLOAT32: {"FFMA", "LDS.128"}, FLOAT64: {"DFMA", "LDS.128"},
    BFLOAT16: {"HMMA.16816.F32.BF16"}, FLOAT16: {"HMMA.16816.F32"},
}  # fmt: skip
ONE_ELEMENT = {8: "LDGSTS.E.64", 4: "LDGSTS.E", 2: "LDG.E.U16"}  # by its bytes


class Product(NamedTuple):
    """A kernel of the family."""

    what: str
    kind: Kind
    tile: tuple[int, int]
    loaders: tuple[Any, Any]
    place: Any
    finish: int
    views: tuple[int, int, int]
    narrow: bool = True

    def __str__(self) -> str:
        return f"{self.what} in {self.kind.name}, tile {self.tile[0]} x {self.tile[1]}"

    @property
    def kernel(self) -> CudaKernel:
        """It."""
        return tiled_product(self.kind, self.tile, self.loaders, self.place, self.finish, self.narrow)

    @property
    def argument_types(self) -> tuple[types.Type, ...]:
        """Of a launch."""
        numbers, sums, index = (flat(t) for t in (self.kind.dtype, self.kind.sum_dtype, np.int64))
        c = numbers if self.narrow else sums
        counts = (types.UniTuple(types.int64, n) for n in (6, *self.views))
        return (c, numbers, numbers, index, index, sums, sums, *counts, sums.dtype)


def flat(dtype: Any) -> types.Array:
    """A flat array, to the compiler."""
    return types.Array(from_dtype(np.dtype(dtype)), 1, "C")


def products() -> Iterator[Product]:
    """All that are compiled; gradients of weights of 16 bits are of float32."""
    for kind, activation in FORWARD.items():
        along_depth = elements_along_depth if kind.plain else vectors_along_depth
        for tile in (SMALL_TILE,) if kind is FLOAT64 else (LARGE_TILE, SMALL_TILE):
            of = functools.partial(Product, kind=kind, tile=tile)
            yield of("product", loaders=(along_depth, vectors_along_rows), place=in_rows, finish=RELU, views=(4, 4, 2))
            loaders = elements_along_rows, elements_along_depth
            yield of("product, not aligned", loaders=loaders, place=in_strided_rows, finish=ADD, views=(4, 4, 2))
            loaders = along_depth, inputs_at_outputs
            yield of("convolution", loaders=loaders, place=in_planes, finish=activation, views=(4, 29, 5))
            loaders = weights_of_inputs, outputs_at_inputs
            yield of("convolution, input gradient", loaders=loaders, place=in_planes, finish=OVERWRITE, views=(29, 29, 5))
            of = functools.partial(of, narrow=kind.dtype == kind.sum_dtype)
            loaders = channels_of_pixels, inputs_by_taps
            yield of("convolution, weight gradient", loaders=loaders, place=in_rows, finish=ADD, views=(29, 29, 2))


PRODUCTS = list(products())
each_target = pytest.mark.parametrize("target", TARGETS)


@each_target
@pytest.mark.parametrize("product", PRODUCTS, ids=str)
def test_machine_code_of_products(product, target):
    code, kind = compile_twin(product.kernel, product.argument_types, target), product.kind
    assert faults(code, float64_allowed=kind is FLOAT64) == []
    assert 0 < code.registers <= (OF_FLOAT64 if kind is FLOAT64 else REGISTERS[product.tile])
    expected = set(FASTEST[kind])
    if vectors_along_rows in product.loaders:
        expected.add("LDGSTS.E.BYPASS.128.ZFILL")
    if any(loader.func is cuda_loaders.elements for loader in product.loaders):
        expected.add(ONE_ELEMENT[np.dtype(kind.dtype).itemsize])
    assert sorted(name for name in expected if not code.operations[name]) == []


@each_target
@pytest.mark.parametrize("kind", FORWARD, ids=lambda kind: kind.name)
def test_machine_code_of_sums_over_slices(kind, target):
    numbers, sums = flat(kind.dtype), flat(kind.sum_dtype)
    counts = (types.UniTuple(types.int64, n) for n in (6, 5))
    argument_types = (numbers, sums, sums, sums, *counts, sums.dtype)
    code = compile_twin(slices_added(kind, in_planes, FORWARD[kind], True), argument_types, target)
    assert faults(code, float64_allowed=kind is FLOAT64) == []
    assert 0 < code.registers <= 64


def test_every_kind_loader_and_finish_is_compiled():
    found = [value for module in modules() for value in vars(module).values()]
    loaders = {one for one in found if getattr(one, "func", None) in (cuda_loaders.vectors, cuda_loaders.elements)}
    for kind in FORWARD:
        own = {vectors_along_depth} if kind.plain else set()
        assert loaders - own == {one for product in PRODUCTS if product.kind is kind for one in product.loaders}
    assert set(FORWARD) == {value for value in vars(cuda_tiles).values() if isinstance(value, Kind)}
    assert {OVERWRITE, ADD, *ACTIVATIONS} == {product.finish for product in PRODUCTS}

"""Philox: its known answers, the distributions made of it, and that a seed fixes everything."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numba import njit

import numba_nn as nn
from numba_nn.core import random
from numba_nn.core.random import normal, normal_fill, philox, uniform, uniform_fill, uniforms


@njit
def words_of(c0, c1, c2, c3, k0, k1):
    return philox(c0, c1, c2, c3, k0, k1)


@njit
def uniforms_of(block, stream, seed):
    return uniforms(block, stream, seed)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # kat_vectors of Random123
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers(counter, key, expected):
    words = (np.uint32(int(word, 16)) for word in f"{counter} {key}".split())
    assert [f"{int(word):08x}" for word in words_of(*words)] == expected.split()


def test_the_counter_is_block_then_stream_and_the_key_is_the_seed():
    block, stream, seed = 0x85A308D3_243F6A88, 0x03707344_13198A2E, 0x299F31D0_A4093822
    expected = [int(word, 16) for word in ("d16cfe09", "94fdcceb", "5001e420", "24126ea1")]
    got = uniforms_of(np.uint64(block), np.uint64(stream), np.uint64(seed))
    assert got == tuple((word + 0.5) / 2**32 for word in expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 1000])
def test_both_variants_draw_the_same_and_a_prefix_is_a_prefix(size, dtype):
    for fill in (uniform_fill, normal_fill):
        serial, parallel, longer = np.empty(size, dtype), np.empty(size, dtype), np.empty(size + 7, dtype)
        for y, variant in ((serial, fill.serial), (parallel, fill.parallel), (longer, fill.serial)):
            variant(y, 5, 2, 0.0, 1.0)
        np.testing.assert_allclose(parallel, serial, rtol=4 * np.finfo(dtype).eps)
        np.testing.assert_array_equal(longer[:size], serial)


def test_uniform_numbers_are_uniform():
    nn.manual_seed(0)
    n = 200_000
    x = uniform((n,), 2.0, 5.0, np.float64)
    assert 2 < x.min() < 2.001
    assert 4.999 < x.max() < 5
    assert x.mean() == pytest.approx(3.5, abs=5 * 3 / math.sqrt(12 * n))
    counts = np.histogram(x, 50, (2, 5))[0]
    assert ((counts - n / 50) ** 2).sum() / (n / 50) < 49 + 5 * math.sqrt(2 * 49)  # chi-squared, 49 degrees of freedom
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 5 / math.sqrt(n)


def test_normal_numbers_are_normal():
    nn.manual_seed(0)
    n = 200_000
    x = normal((n // 4, 4), 2.0, np.float64) / 2
    flat = x.reshape(-1)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert (flat**power).mean() == pytest.approx(moment, abs=5 * math.sqrt(variance / n))
    inside = np.mean(abs(flat) < 1)
    assert inside == pytest.approx(math.erf(1 / math.sqrt(2)), abs=5 * 0.5 / math.sqrt(n))
    correlation = np.corrcoef(x.T) - np.eye(4)  # the four numbers of a block
    assert abs(correlation).max() < 5 / math.sqrt(n / 4)


def test_streams_and_seeds_differ():
    draws = []
    for seed in (0, 1):
        nn.manual_seed(seed)
        draws += [uniform((1000,), 0.0, 1.0), uniform((1000,), 0.0, 1.0)]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert abs(np.corrcoef(a, b)[0, 1]) < 0.2


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1, 2**64 + 7, -3])
def test_a_seed_fixes_the_values_of_layers(seed):
    def draw():
        nn.manual_seed(seed)
        return [nn.Linear(3, 4).weight.value, nn.Conv2d(2, 3, 3).bias.value, nn.models.Autoencoder()[3].weight.value]

    for first, second in zip(draw(), draw(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_low_64_bits_of_a_seed_count():
    def draw(seed):
        nn.manual_seed(seed)
        return uniform((4,), 0.0, 1.0)

    seeds = [0, 1, -1, 2**63, 2**63 + 1, 2**32]
    draws = {tuple(draw(seed).tolist()) for seed in seeds}
    assert len(draws) == len(seeds)
    np.testing.assert_array_equal(draw(2**64 + 5), draw(5))


def test_layers_draw_uniformly_by_their_fan_in():
    nn.manual_seed(0)
    for layer, fan_in in ((nn.Linear(300, 200), 300), (nn.Conv2d(32, 100, 3), 288), (nn.Conv2d(32, 320, 3, groups=4), 72)):
        bound = 1 / math.sqrt(fan_in)
        weight = layer.weight.value
        assert abs(weight).max() <= bound
        assert abs(weight).max() > 0.999 * bound
        assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert abs(layer.bias.value).max() <= bound
        assert layer.bias.value.std() > 0.3 * bound


def test_nothing_draws_from_numpys_global_state():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    nn.Linear(3, 4)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert next(random._streams) > 0

"""The language of kernels, by value: every kernel of language.cu, in both modes."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from .support import module, needs_compiler

pytestmark = needs_compiler

NAMES = ("polynomial<4>", "transpose<float, 16>", "transpose<__half, 8>", "transpose<unsigned char, 8>")


@pytest.fixture(params=["fast", "check"])
def launch(request):
    return module("language.cu", request.param, NAMES).launch


def test_indices_in_three_dimensions(launch):
    grid, block = (2, 3, 2), (4, 2, 3)
    where, sizes = np.zeros((12, 24, 6), np.int32), np.zeros(6, np.int32)
    launch("indices", grid, block, (where, sizes), seed=3)
    assert sizes.tolist() == [*grid, *block]
    for z, y, x in np.ndindex(*grid[::-1]):
        for c, b, a in np.ndindex(*block[::-1]):
            assert where[(z * 3 + y) * 2 + x, (c * 2 + b) * 4 + a].tolist() == [x, y, z, a, b, c]


def test_templates_lambdas_and_constants(launch):
    x = np.linspace(-2, 2, 64, dtype=np.float32)
    y = np.zeros_like(x)
    launch("polynomial<4>", (1,), (64,), (x, y, np.float32(3)))
    expected = 3 * np.polyval([0.125, 0.25, 0.5, 1.0], x.astype(float))
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_structures_and_addresses_in_memory(launch):
    parts = [np.arange(n, dtype=np.float32) for n in (3, 5, 7)]
    pair = np.dtype([("x", np.uint64), ("n", np.int32)], align=True)
    pairs = np.array([(part.ctypes.data, part.size) for part in parts], pair)
    total = np.zeros(1)
    launch("sum_of_pairs", (1,), (1,), (pairs[0], pairs[1:].copy(), np.int32(2), total), in_place=parts)
    assert total[0] == sum(part.sum() for part in parts)


@pytest.mark.parametrize(("name", "dtype", "n"), [(NAMES[1], "f4", 16), (NAMES[2], "f2", 8), (NAMES[3], "u1", 8)])
def test_shared_memory_static_and_dynamic(launch, name, dtype, n):
    x = np.arange(21 * 35).astype(dtype).reshape(21, 35)
    y = np.zeros((35, 21), dtype)
    for seed in range(4):
        launch(name, (-(-35 // n), -(-21 // n)), (n, n), (x, y, np.int32(21), np.int32(35)), shared_mem=68, seed=seed)
        np.testing.assert_array_equal(y, x.T)


def test_counting_barriers(launch):
    x = (np.arange(70) % 7).astype(np.int32)
    results = np.zeros((3, 70), np.int32)
    launch("counting_barriers", (1,), (70,), (x, results), seed=1)
    assert (results == [[60], [1], [1]]).all()


def test_warp_operations(launch):
    i = np.arange(32)
    x, results = i.astype(np.float32), np.zeros((16, 32), np.int32)
    launch("warp_operations", (1,), (32,), (x, results), seed=2)
    expected = [
        np.full(32, 5),
        i // 8 * 8 + (i + 1) % 8,
        np.where(i < 2, i, i - 2),
        np.where(i % 16 + 3 >= 16, i, i + 3),
        i ^ 16,
        np.full(32, -(1 << 11)),
        np.ones(32),
        np.zeros(32),
        np.full(32, -1),
        np.array([0xFF, 0xFF00, 0xFF0000, -0x1000000])[i // 8],
        np.full(32, 496),
        np.full(32, 31),
        np.full(32, 31),
        i ^ 1,
        np.where(i < 16, 15 - i, 8),
        np.ones(32),
    ]
    np.testing.assert_array_equal(results, expected)


def test_a_mask_may_name_lanes_that_returned(launch):
    results = np.zeros(21, np.int32)
    launch("lanes_return", (1,), (24,), (results,), seed=5)
    assert (results[:20] == (1 << 20) - 1).all()
    assert results[20] == 190


@pytest.mark.parametrize("seed", range(4))
def test_atomics(launch, seed):
    n = 4 * 64
    integers = np.array([0, 1000, 0, 1000, 0, 0, 0xFFFFFFFF, 0], np.uint32)
    floats, double = np.zeros(2, np.float32), np.zeros(1)
    half, brain = np.zeros(1, np.float16), np.zeros(1, ml_dtypes.bfloat16)
    olds = np.zeros(n, np.uint32)
    launch("atomics", (4,), (64,), (integers, floats, double, half, brain, olds), seed=seed, cooperative=seed > 1)
    assert integers.tolist() == [n, 1000 - 2 * n, n - 1, 0, n % 10, 0xFFFFFFFF, 0, 0]
    assert sorted(olds) == list(range(n))
    assert floats.tolist() == [n / 2, n - 1]
    assert (double[0], half[0], brain[0]) == (n / 4, 100, 100)


def test_vectors(launch):
    x = np.arange(128, dtype=np.float32).reshape(32, 4)
    sums, numbers, halves = np.zeros((32, 2), np.float32), np.zeros((32, 4), np.int32), np.zeros((32, 2))
    launch("vectors", (1,), (32,), (x, sums, numbers, halves))
    np.testing.assert_array_equal(sums, x.reshape(32, 2, 2).sum(2))
    np.testing.assert_array_equal(numbers, x)
    np.testing.assert_array_equal(halves, x[:, :2] / 2)


def test_arithmetic(launch):
    x = np.linspace(0.1, 3.2, 32).astype(np.float32)
    y = np.zeros((20, 32), np.float32)
    launch("arithmetic", (1,), (32,), (x, y, np.int32(32)))
    v, i = x.astype(np.float64), np.arange(32)
    bits = x.view(np.uint32)
    expected = [np.exp(v), np.log(v), v / 3, 1 / v, v**-0.5, v**1.5, np.clip(v, 0, 1), v * v + 1, np.maximum(v, 1)]
    expected += [np.full(32, 2), np.sin(v), np.rint(v), np.tanh(v), (bits + 1).view(np.float32)]
    expected += [[int(b).bit_count() for b in bits], [32 - int(k).bit_length() for k in i]]
    expected += [[(int(k) & -int(k)).bit_length() for k in i], i // 2, (1 << 31 - i) >> 8]
    expected += [7 + 256 * i + 65536 * i + 16777216 * i]
    expected = np.array(expected, np.float64)
    fast = [0, 2]  # __expf and __fdividef: off, by no more than CUDA's manual says
    ulps = np.abs(y - expected)[fast] / np.spacing(expected.astype(np.float32))[fast]
    assert 1 < ulps[0].max() <= 2.5 + np.floor(1.173 * v.max())
    assert 0.5 < ulps[1].max() <= 2.5
    exact = np.delete(np.arange(len(y)), fast)
    np.testing.assert_allclose(y[exact], expected[exact], rtol=3e-7, atol=1e-7)


def test_time_passes(launch):
    ticks = np.zeros(8, np.int64)
    launch("time_passes", (1,), (8,), (ticks,))
    assert (ticks >= 100).all()
    assert not math.isnan(ticks.sum())

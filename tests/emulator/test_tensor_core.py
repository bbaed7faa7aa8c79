"""Fragments of mma.sync and ldmatrix: products of small matrices, exact in float, come out exact."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from . import EmulationError
from .support import module, needs_compiler

pytestmark = [pytest.mark.slow, needs_compiler]

NUMBERS = {"__half": np.float16, "__nv_bfloat16": ml_dtypes.bfloat16}
NAMES = (
    "product_tf32",
    "product_of_half_a_warp",
    *(f"{kernel}<{number}>" for kernel in ("product_16", "product_by_ldmatrix") for number in NUMBERS),
)


@pytest.fixture(params=["fast", "check"])
def launch(request):
    return module("tensor_core.cu", request.param, NAMES).launch


def matrices(k: int, dtype) -> list[np.ndarray]:
    rng = np.random.default_rng(k)
    a, b, c = (rng.integers(-8, 9, shape).astype(np.float32) for shape in ((16, k), (k, 8), (16, 8)))
    return [a.astype(dtype), b.astype(dtype), c]


@pytest.mark.parametrize("kernel", ["product_16", "product_by_ldmatrix"])
@pytest.mark.parametrize("number", NUMBERS)
def test_16_bit_product(launch, kernel, number):
    a, b, c = matrices(16, NUMBERS[number])
    for seed in range(4):
        d = np.zeros((16, 8), np.float32)
        launch(f"{kernel}<{number}>", (1,), (32,), (a, b, c, d), seed=seed)
        np.testing.assert_array_equal(d, a.astype(np.float32) @ b.astype(np.float32) + c)


def test_tf32_product(launch):
    a, b, c = matrices(8, np.float32)
    d = np.zeros((16, 8), np.float32)
    launch("product_tf32", (1,), (32,), (a, b, c, d))
    np.testing.assert_array_equal(d, a @ b + c)


def test_tf32_has_ten_bits_rounded_away_from_zero_in_ties(launch):
    a, b, c = matrices(8, np.float32)
    a[:], b[:], c[:] = 0, 0, 0
    unit = 2.0**-10
    a[0], b[:, 0] = [1 + unit, 1 + unit / 2, 1 + unit * 0.49, 0, 0, 0, 0, 0], np.eye(8)[0]
    expected = []
    d = np.zeros((16, 8), np.float32)
    for k, value in enumerate([1 + unit, 1 + unit, 1.0]):
        b[:, 0] = np.eye(8)[k]
        launch("product_tf32", (1,), (32,), (a, b, c, d))
        expected.append((d[0, 0], np.float32(value)))
    assert all(got == value for got, value in expected)


def test_all_lanes_must_come(launch):
    with pytest.raises(EmulationError, match="wrong mask: a matrix operation needs all 32 lanes"):
        launch("product_of_half_a_warp", (1,), (32,), (np.zeros(32, np.float32),))

"""__half against NumPy's float16, __nv_bfloat16 against ml_dtypes: all numbers, and all that is halfway between two."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from .support import module, needs_compiler

pytestmark = [pytest.mark.slow, needs_compiler, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

FORMATS = {"__half": np.dtype(np.float16), "__nv_bfloat16": np.dtype(ml_dtypes.bfloat16)}
NAMES = tuple(
    name
    for number, pair in (("__half", "__half2"), ("__nv_bfloat16", "__nv_bfloat162"))
    for name in (
        f"widen<{number}>",
        f"by_value<{number}>",
        f"narrow<float, {number}>",
        f"narrow<double, {number}>",
        f"compute<{number}>",
        f"in_pairs<{number}, {pair}>",
    )
)
EVERY = np.arange(1 << 16, dtype=np.uint16)


def launch(name, *arrays, n):
    module("float16.cu", "fast", NAMES).launch(name, (2,), (32,), (*arrays, np.int32(n)))


def assert_same(got: np.ndarray, expected: np.ndarray) -> None:
    """Bit by bit; one NaN is as good as another."""
    nan = np.isnan(expected.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(got.astype(np.float32)), nan)
    np.testing.assert_array_equal(got.view(np.uint16)[~nan], expected.view(np.uint16)[~nan])


@pytest.fixture(params=FORMATS)
def number(request):
    return request.param


def test_every_number_to_float(number):
    x = EVERY.view(FORMATS[number])
    y = np.zeros(x.size, np.float32)
    launch(f"widen<{number}>", x, y, n=x.size)
    expected = x.astype(np.float32)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(y), nan)
    np.testing.assert_array_equal(y.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])


def near_halfway(number: str) -> np.ndarray:
    """All finite numbers, the points halfway to the next ones, and the floats beside those."""
    x = EVERY.view(FORMATS[number]).astype(np.float32)
    x = np.unique(x[np.isfinite(x)])
    between = ((x[1:].astype(np.float64) + x[:-1]) / 2).astype(np.float32)
    ends = np.array([np.inf, -np.inf, np.nan, -0.0, 65519.99, 65520.0, -65520.0, 3.4e38, -3.4e38, 1e-45], np.float32)
    beside = [np.nextafter(between, np.float32(np.inf)), np.nextafter(between, np.float32(-np.inf))]
    return np.concatenate([x, between, *beside, ends])


def test_float_to_every_number_rounds_to_nearest_even(number):
    x = near_halfway(number)
    y = np.zeros(x.size, FORMATS[number])
    launch(f"narrow<float, {number}>", x, y, n=x.size)
    assert_same(y, x.astype(FORMATS[number]))


def test_double_is_rounded_once(number):
    # Just beside halfway: rounding to float first would land on halfway, and then on the even one.
    half = near_halfway(number).astype(np.float64)
    half = half[np.isfinite(half) & (np.abs(half) > 1e-30)]
    x = np.concatenate([half * (1 + 1e-12), half * (1 - 1e-12)])
    y = np.zeros(x.size, FORMATS[number])
    launch(f"narrow<double, {number}>", x, y, n=x.size)
    exact = EVERY.view(FORMATS[number]).astype(np.float64)
    exact = np.unique(exact[np.isfinite(exact)])
    inside = np.abs(x) < exact[-1]
    above = np.clip(np.searchsorted(exact, x), 1, exact.size - 1)
    nearest = np.where(exact[above] - x < x - exact[above - 1], exact[above], exact[above - 1])
    np.testing.assert_array_equal(y.astype(np.float64)[inside], nearest[inside])


def operands(number: str) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.permutation(EVERY).view(FORMATS[number]) for _ in range(3)]


def test_arithmetic_is_rounded_once(number):
    a, b, c = operands(number)
    y = np.zeros((6, a.size), FORMATS[number])
    launch(f"compute<{number}>", a, b, c, y, n=a.size)
    wide = [x.astype(np.float64) for x in (a, b, c)]
    # Float subnormals are zero here, as under -ftz=true: compare where neither operand nor result is one.
    normal = np.logical_and.reduce([(np.abs(x) >= 2.0**-126) | (x == 0) | np.isnan(x) for x in wide[:2]])
    for got, exact in zip(
        y[:4], (wide[0] + wide[1], wide[0] - wide[1], wide[0] * wide[1], wide[0] / wide[1]), strict=True
    ):
        keep = normal & ((np.abs(exact) >= 2.0**-125) | (exact == 0) | np.isnan(exact))
        assert_same(got[keep], exact.astype(np.float32).astype(FORMATS[number])[keep])
    assert_same(y[5], -a)


def test_fused_multiply_add_is_rounded_once(number):
    a, b, c = operands(number)
    y = np.zeros((6, a.size), FORMATS[number])
    launch(f"compute<{number}>", a, b, c, y, n=a.size)
    exact_numbers = EVERY.view(FORMATS[number]).astype(np.float64)
    exact_numbers = np.unique(exact_numbers[np.isfinite(exact_numbers)])
    checked = 0
    for x1, x2, x3, got in zip(a[:4000], b[:4000], c[:4000], y[4][:4000], strict=True):
        p, q, r = float(x1), float(x2), float(x3)
        if not all(map(np.isfinite, (p, q, r))) or min(abs(p), abs(q), abs(r)) < 2.0**-120:
            continue
        exact = Fraction(p) * Fraction(q) + Fraction(r)
        if not 2.0**-120 < abs(exact) < exact_numbers[-1]:
            continue
        at = int(np.searchsorted(exact_numbers, float(exact)))
        near = exact_numbers[max(at - 2, 0) : at + 3]
        distances = [abs(Fraction(float(v)) - exact) for v in near]
        assert abs(Fraction(float(got)) - exact) == min(distances)
        checked += 1
    assert checked > 1000


def test_pairs(number):
    a, b, _ = operands(number)
    y = np.zeros((3, a.size), FORMATS[number])
    pair = {"__half": "__half2", "__nv_bfloat16": "__nv_bfloat162"}[number]
    launch(f"in_pairs<{number}, {pair}>", a, b, y, n=a.size)
    one_by_one = np.zeros((6, a.size), FORMATS[number])
    launch(f"compute<{number}>", a, b, a, one_by_one, n=a.size)
    for got, expected in zip(y, one_by_one[[0, 2, 4]], strict=True):
        assert_same(got, expected)


def test_names(number):
    x = np.array([0.3, 1.7], np.float32)
    y = np.zeros(7, np.uint16)
    name = {"__half": "names_of_half", "__nv_bfloat16": "names_of_bfloat16"}[number]
    module("float16.cu", "fast", NAMES).launch(name, (1,), (1,), (x, y))
    dtype = FORMATS[number]
    low, high = x.astype(dtype)
    wide = np.array([low, low, high, np.float32(low) + np.float32(high), 0.1, 2049 if number == "__half" else 257])
    np.testing.assert_array_equal(y[:6], wide.astype(np.float32).astype(dtype).view(np.uint16))
    assert y[6] == 1


def test_arguments_by_value(number):
    y = np.zeros(1, np.float32)
    scalar = FORMATS[number].type(1.5)
    module("float16.cu", "fast", NAMES).launch(f"by_value<{number}>", (1,), (1,), (scalar, y))
    assert y[0] == 1.5

"""The checks behind `gpu-lstm check`, which must fail when something is wrong."""

from importlib.util import find_spec

import numpy as np
import pytest

from gpu_lstm import checks
from gpu_lstm.backend import NumpyBackend
from gpu_lstm.checks import Result, central_differences, gradient_check, parity_check, relative_error
from gpu_lstm.recurrence import runnable_tiers


def test_gradient_check_passes_and_names_every_input_and_parameter():
    results = list(gradient_check())
    assert all(result.passed for result in results)
    names = {result.what for result in results}
    assert {"gradient dx", "gradient dh0", "gradient dc0", "gradient weight_hh_l1_reverse"} <= names
    assert len(names) == len(results) == 3 + 4 * 3


def test_parity_check_passes_on_every_tier_and_dtype():
    backend = NumpyBackend()
    results = list(parity_check(backend))
    assert all(result.passed for result in results)
    dtypes = 4 if find_spec("ml_dtypes") else 3
    assert len(results) == len(runnable_tiers(backend)) * (3 * dtypes + 2)
    assert sum(result.what.endswith("family") for result in results) == 2 * len(runnable_tiers(backend))


def spoil(monkeypatch, name, how):
    """Make one result of every run wrong, except on the oracle of the parity check."""
    true_run = checks.run
    calls = []

    def run(lstm, data):
        results = true_run(lstm, data)
        calls.append(lstm)
        if len(calls) > 1:
            results[name] = how(results[name])
        return results

    monkeypatch.setattr(checks, "run", run)


@pytest.mark.parametrize("how", [lambda a: a * np.nan, lambda a: a * np.inf, lambda a: a + 1e-3, np.zeros_like])
@pytest.mark.parametrize("name", ["y", "dx", "dc0", "bias_l1_reverse"])
def test_parity_check_fails_if_one_result_is_wrong(monkeypatch, name, how):
    spoil(monkeypatch, name, how)
    with np.errstate(invalid="ignore"):
        assert not next(parity_check(NumpyBackend())).passed


@pytest.mark.parametrize("factor", [np.nan, 0.0, 1 + 1e-5])
def test_gradient_check_fails_if_one_gradient_is_wrong(monkeypatch, factor):
    true_run = checks.run
    monkeypatch.setattr(checks, "run", lambda *a: (r := true_run(*a)) | {"dh0": r["dh0"] * factor})
    assert [result.what for result in gradient_check() if not result.passed] == ["gradient dh0"]


@pytest.mark.parametrize(
    ("error", "passed"), [(0.0, True), (0.9, True), (1.0, False), (2.0, False), (np.nan, False), (np.inf, False)]
)
def test_a_result_passes_below_its_limit(error, passed):
    assert Result("x", error, 1.0).passed is passed


def test_central_differences_give_the_derivative_and_restore_the_array():
    x = np.array([[1.0, -2.0], [0.5, 3.0]])
    kept = x.copy()
    np.testing.assert_allclose(central_differences(lambda: float(np.sum(x**3)), x), 3 * x**2, rtol=1e-8)
    assert np.array_equal(x, kept)


@pytest.mark.parametrize(
    ("actual", "expected", "error"), [([1.0, 2.0], [1.0, 4.0], 0.5), ([0.0], [0.0], 0.0), ([-3.0], [3.0], 2.0)]
)
def test_relative_error_by_value(actual, expected, error):
    assert relative_error(np.array(actual), np.array(expected)) == error


@pytest.mark.parametrize(("actual", "expected"), [([np.nan, 1.0], [1.0, 1.0]), ([1.0, 1.0], [1.0, np.nan])])
def test_relative_error_of_what_is_no_number_is_none(actual, expected):
    assert np.isnan(relative_error(np.array(actual), np.array(expected)))

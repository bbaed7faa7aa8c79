"""Arrays of other libraries under scikit-learn's `array_api_dispatch`: taken without it, refused by name with it."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
pytest.importorskip("scipy", reason="SciPy is not installed")

import array_api_strict as strict
import sklearn

from gpu_lstm.interop.sklearn import LSTMRegressor

X = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
Y = X.sum(axis=1)


def fitted(x, y):
    return LSTMRegressor(hidden_size=3, max_iter=1, random_state=0, backend="numpy").fit(x, y)


def test_without_dispatch_any_array_gives_what_numpy_gives():
    model = fitted(strict.asarray(X), strict.asarray(Y))
    assert model.predict(strict.asarray(X)).tobytes() == fitted(X, Y).predict(X).tobytes()


def test_with_dispatch_numpy_is_as_ever_and_others_are_refused_by_name(monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    with sklearn.config_context(array_api_dispatch=True):
        model = fitted(X, Y)
        assert model.score(X, Y) <= 1
        with pytest.raises(ValueError, match="^y is a array_api_strict.*expected a NumPy array"):
            fitted(X, strict.asarray(Y))
        with pytest.raises(ValueError, match="^X is a array_api_strict.*array_api_dispatch=False"):
            model.predict(strict.asarray(X))

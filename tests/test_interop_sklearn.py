"""The scikit-learn estimators: its own checks, each form of X, and what people do with estimators."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from gpu_lstm.data.baselines import persistence, rmse, truth
from gpu_lstm.errors import InputError
from gpu_lstm.interop.sklearn import LSTMClassifier, LSTMForecaster, LSTMRegressor
from gpu_lstm.models import Forecaster
from gpu_lstm.training.tasks import resampled
from gpu_lstm.training.tasks.series import score

SMALL: dict[str, Any] = {
    "hidden_size": 8, "max_iter": 15, "learning_rate": 0.03, "weight_decay": 0.01, "dropout": 0.0, "random_state": 0,
    "backend": "numpy",
}  # fmt: skip
CLASSIFIER = LSTMClassifier(**SMALL)
REGRESSOR = LSTMRegressor(**SMALL | {"hidden_size": 12, "max_iter": 30, "batch_size": 16})
BARE = {"linear": "none", "early_stopping": False}  # the LSTM alone, so that what it learns can be seen
FORECASTER = LSTMForecaster(**SMALL | BARE | {"horizon": 3, "window": 20, "max_iter": 5})


def expected_failures(estimator):
    """scikit-learn's checks that don't hold, and why."""
    if isinstance(estimator, LSTMForecaster):
        why = "rows are the steps of one series: in another order, or a part of them, they are another series"
        return {"check_methods_sample_order_invariance": why, "check_methods_subset_invariance": why}
    why = "weights say how often a sequence is drawn into mini-batches: the same in the mean, not to the last digit"
    return {"check_sample_weight_equivalence_on_dense_data": why}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([CLASSIFIER, REGRESSOR, FORECASTER], expected_failed_checks=expected_failures)
def test_scikit_learn_s_own_checks(estimator, check):
    check(estimator)


# -- data ------------------------------------------------------------------------------------------------


def ragged(count=60, seed=0):
    """Sequences (3..7, 2); their class: whether the first feature's sum is above 0; sums and largest values."""
    rng = np.random.default_rng(seed)
    X = [rng.normal(size=(length, 2)) for length in rng.integers(3, 8, count)]
    sums = np.array([part[:, 0].sum() for part in X])
    return X, np.where(sums > 0, "above", "below"), np.column_stack([sums, [part[:, 1].max() for part in X]])


def wave(steps=150):
    t = np.arange(steps)
    return np.column_stack([np.sin(t / 3), 20 + 5 * np.cos(t / 3)])


def same_weights(one, other):
    mine, yours = one.model_.params, other.model_.params
    return mine.keys() == yours.keys() and all(np.array_equal(mine[name], yours[name]) for name in mine)


# -- forms of X ---------------------------------------------------------------------------------------------


def test_a_classifier_learns_from_sequences_of_different_lengths():
    X, y, _ = ragged(160)
    model = clone(CLASSIFIER).fit(X[:100], y[:100])
    assert model.score(X[100:], y[100:]) > 0.85
    assert model.classes_.tolist() == ["above", "below"]
    assert model.n_features_in_ == 2
    assert model.n_iter_ == len(model.loss_curve_) == 15
    assert model.loss_curve_[-1] < 0.5 * model.loss_curve_[0]


def test_probabilities_belong_to_the_classes():
    X, y, _ = ragged()
    model = clone(CLASSIFIER).fit(X, y)
    shares = model.predict_proba(X)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-12)
    assert np.array_equal(model.classes_[shares.argmax(axis=1)], model.predict(X))
    np.testing.assert_allclose(np.log(shares), model.predict_log_proba(X), atol=1e-9)
    assert log_loss(y, shares) < 0.5


def test_a_regressor_learns_several_numbers_about_a_sequence():
    X, _, targets = ragged(160)
    targets *= [1000, 0.01]
    model = LSTMRegressor(**SMALL | {"hidden_size": 16, "max_iter": 40}).fit(X[:120], targets[:120])
    assert model.predict(X[120:]).shape == (40, 2)
    assert model.score(X[120:], targets[120:]) > 0.7
    one = clone(model).fit(X[:120], targets[:120, 0])
    assert one.predict(X[120:]).shape == (40,)


def test_what_is_said_of_a_sequence_does_not_depend_on_the_others():
    X, y, _ = ragged()
    model = clone(CLASSIFIER).fit(X, y)
    alone = np.concatenate([model.predict_proba([part]) for part in X])
    np.testing.assert_allclose(model.predict_proba(X), alone, atol=1e-6)


def forms(X):
    """One X in each form that holds sequences of one length."""
    objects = np.empty(len(X), dtype=object)
    objects[:] = list(X)
    return {"list": list(X), "tuple": tuple(X), "nested lists": X.tolist(), "objects": objects}


@pytest.mark.parametrize("form", forms(np.zeros((2, 3, 4))))
def test_an_array_of_three_dimensions_is_a_list_of_sequences(form):
    X = np.random.default_rng(0).normal(size=(30, 5, 3))
    y = (X.sum(axis=(1, 2)) > 0).astype(int)
    model = clone(CLASSIFIER).fit(X, y)
    assert model.n_features_in_ == 3
    assert same_weights(clone(CLASSIFIER).fit(forms(X)[form], y), model)
    assert np.array_equal(model.predict_proba(forms(X)[form]), model.predict_proba(X))


def test_a_column_of_two_dimensions_is_a_step():
    X = np.random.default_rng(0).normal(size=(30, 5))
    y = (X.sum(axis=1) > 0).astype(int)
    model = clone(CLASSIFIER).fit(X, y)
    assert model.n_features_in_ == 5
    assert model.model_.lstm.input_size == 1
    assert same_weights(clone(CLASSIFIER).fit(X[:, :, None], y), model)


def test_a_data_frame_is_told_by_its_columns():
    pandas = pytest.importorskip("pandas")
    X = np.random.default_rng(0).normal(size=(30, 3))
    frame = pandas.DataFrame(X, columns=["mon", "tue", "wed"])
    y = pandas.Series(np.where(X.sum(axis=1) > 0, "up", "down"))
    model = clone(CLASSIFIER).fit(frame, y)
    assert model.feature_names_in_.tolist() == ["mon", "tue", "wed"]
    assert same_weights(clone(CLASSIFIER).fit(X, y), model)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[["tue", "mon", "wed"]])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([np.zeros((3, 2)), np.zeros((3, 1))], r"X\[1\] has shape \(3, 1\); expected \(T, 2\)"),
        ([np.zeros((3, 2)), np.zeros(3)], r"X\[1\] has shape \(3,\); expected \(T, 2\)"),
        ([np.zeros((3, 2)), np.zeros((0, 2))], r"X\[1\] has shape \(0, 2\)"),
        ([np.zeros(3), np.zeros(4)], r"X holds rows of different lengths; expected sequences \(T, D\)"),
        ([np.zeros((3, 2)), np.full((3, 2), np.nan)], r"Input X contains NaN.\nLSTM\w+ does not accept missing values"),
        ([np.zeros((3, 2)), np.full((3, 2), np.inf)], "Input X contains infinity"),
        (np.full((2, 3, 2), np.nan), "Input X contains NaN"),
        ([np.zeros((3, 2)), np.full((3, 2), "x")], "could not convert string to float"),
        (np.zeros((2, 2, 2, 2)), "Found array with dim 4"),
        (np.zeros(3), "Expected 2D array, got 1D array instead"),
        ([np.zeros((3, 2))] * 3, "inconsistent numbers of samples"),
        (np.zeros((2, 3, 0)), r"0 feature\(s\)"),
    ],
)
def test_sequences_that_can_not_be_read_are_refused(X, message):
    with pytest.raises(ValueError, match=message):
        clone(CLASSIFIER).fit(X, [0, 1])


def test_other_features_or_another_form_than_at_fit_are_refused():
    X, y, _ = ragged(20)
    model = clone(CLASSIFIER).fit(X, y)
    with pytest.raises(ValueError, match="X has 1 features, but LSTMClassifier is expecting 2 features as input"):
        model.predict([part[:, :1] for part in X])
    with pytest.raises(ValueError, match="X holds a two-dimensional X; LSTMClassifier was fitted on sequences"):
        model.predict(np.zeros((4, 2)))
    flat = clone(CLASSIFIER).fit(np.zeros((20, 2)), y)
    with pytest.raises(ValueError, match="X holds sequences; LSTMClassifier was fitted on a two-dimensional X"):
        flat.predict(X)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_iter": 0}, "max_iter is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"hidden_size": -1}, "hidden_size is -1"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"optimizer": "lbfgs"}, "optimizer is 'lbfgs'"),
        ({"schedule": "linear"}, "schedule is 'linear'"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"dtype": "int8"}, "dtype is int8"),
        ({"tier": "warp"}, "tier is 'warp'"),
        ({"backend": "tpu"}, "backend is 'tpu'"),
        ({"early_stopping": True, "validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"early_stopping": True, "n_iter_no_change": 0}, "n_iter_no_change is 0"),
        ({"early_stopping": "no"}, "early_stopping is 'no'; expected True or False"),
        ({"warm_start": 0}, "warm_start is 0; expected True or False"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'; expected a number above 0"),
        ({"clip": None}, "clip is None; expected a number above 0"),
        ({"weight_decay": float("nan")}, "weight_decay is nan; expected a number of at least 0"),
        ({"backend": 3}, "backend is 3; expected auto, numpy"),
    ],
)
@pytest.mark.parametrize("estimator", [CLASSIFIER, REGRESSOR, FORECASTER])
def test_a_parameter_that_means_nothing_is_refused_by_fit(estimator, parameters, message):
    model = clone(estimator).set_params(**parameters)
    with pytest.raises(InputError, match=message):
        model.fit(wave(60), np.arange(60) % 2)


@pytest.mark.parametrize(("estimator", "name"), [(REGRESSOR, "mape"), (FORECASTER, "mape")])
def test_an_unknown_loss_is_refused_by_fit(estimator, name):
    with pytest.raises(InputError, match="loss is 'mape'; expected one of mse, mae, huber"):
        clone(estimator).set_params(loss=name).fit(wave(60), np.arange(60))


# -- training --------------------------------------------------------------------------------------------


def test_random_state_decides_the_weights():
    X, y, _ = ragged()
    model = clone(CLASSIFIER).set_params(dropout=0.3)
    assert same_weights(clone(model).fit(X, y), clone(model).fit(X, y))
    assert not same_weights(clone(model).fit(X, y), clone(model).set_params(random_state=1).fit(X, y))
    generator = np.random.RandomState(0)
    one, two = (clone(model).set_params(random_state=generator).fit(X, y) for _ in range(2))
    assert not same_weights(one, two)


@pytest.mark.parametrize("estimator", [CLASSIFIER, REGRESSOR])
def test_early_stopping_takes_the_best_epoch_on_what_it_held_out(estimator):
    X, _, targets = ragged(80)
    y = (targets[:, 0] > 0).astype(int) if estimator is CLASSIFIER else targets
    noise = np.random.default_rng(1).permutation(len(y))
    model = clone(estimator).set_params(
        early_stopping=True, validation_fraction=0.25, n_iter_no_change=2, max_iter=60, schedule="constant"
    )
    model.fit(X, y[noise])
    assert model.n_iter_ < 60
    assert model.n_iter_ == len(model.validation_curve_) == int(np.argmin(model.validation_curve_)) + 3
    # The held-out sequences are known from the seed: the weights score on them what the best epoch did.
    seed = np.random.RandomState(0).randint(2**31 - 1)
    strata = y[noise] if estimator is CLASSIFIER else None
    _, held_out = train_test_split(np.arange(80), test_size=0.25, random_state=seed, stratify=strata)
    kept, came = [X[n] for n in held_out], y[noise][held_out]
    if estimator is CLASSIFIER:
        score = log_loss(came, model.predict_proba(kept), labels=[0, 1])
    else:
        score = rmse(model.predict(kept) / model.model_.target_spread, came / model.model_.target_spread)
    assert score == pytest.approx(min(model.validation_curve_), abs=1e-6)


def test_a_forecaster_stops_early_on_the_end_of_each_series():
    series = [wave(60), wave(90)[25:]]
    model = clone(FORECASTER).set_params(early_stopping=True, validation_fraction=0.2, max_iter=4).fit(series)
    assert len(model.validation_curve_) == model.n_iter_
    said, came = [], []
    for part, end in zip(series, (48, 52), strict=True):
        origins = np.arange(end, len(part) - 2)
        said.append(np.stack([model.predict(part[:origin]) for origin in origins]))
        came.append(truth(part, origins, 3))
    errors = np.sqrt(np.mean((np.concatenate(said) - np.concatenate(came)) ** 2, axis=(0, 1)))
    expected = score(errors, model.model_.unit.mean(axis=0))
    assert expected == pytest.approx(min(model.validation_curve_), rel=1e-5)


def test_partial_fit_trains_one_epoch_more():
    X, y, _ = ragged()
    model = clone(CLASSIFIER).set_params(schedule="constant")
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(X, y)
    for _ in range(25):
        model.partial_fit(X, y, classes=["above", "below", "never"])
    assert model.n_iter_ == len(model.loss_curve_) == 25
    assert model.score(X, y) > 0.9
    assert model.predict_proba(X).shape == (60, 3)
    with pytest.raises(ValueError, match=r"y has class labels \['new'\]"):
        model.partial_fit(X[:1], ["new"])
    with pytest.raises(ValueError, match="classes is "):
        model.partial_fit(X, y, classes=["above", "below"])


@pytest.mark.parametrize("estimator", [REGRESSOR, FORECASTER])
def test_partial_fit_goes_on_from_fit_and_learns(estimator):
    X, y = wave(), wave()[:, 0] * 3
    model = clone(estimator).set_params(max_iter=1).fit(X, y)
    first = model.score(X, y)
    for _ in range(15):
        model.partial_fit(X, y)
    assert model.n_iter_ == 16
    assert model.score(X, y) > first


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "rmsprop", "sgd"])
def test_partial_fit_goes_on_alike_after_a_pickle(optimizer):
    X, y, _ = ragged()
    model = clone(CLASSIFIER).set_params(optimizer=optimizer, weight_decay=0.2, max_iter=3).fit(X, y)
    other = pickle.loads(pickle.dumps(model))
    assert same_weights(model.partial_fit(X, y), other.partial_fit(X, y))
    assert same_weights(model.partial_fit(X, y), other.partial_fit(X, y))


def test_warm_start_goes_on_from_the_weights():
    X, y, targets = ragged()
    model = clone(CLASSIFIER).set_params(warm_start=True, max_iter=3).fit(X, y)
    losses = model.loss_curve_
    for _ in range(4):
        model.fit(X, y)
    assert model.loss_curve_[0] < losses[0]
    assert model.n_iter_ == 3
    with pytest.raises(ValueError, match="y has class labels"):
        model.fit(X, np.where(targets[:, 0] > 0, "c", "d"))
    cold = clone(model).set_params(warm_start=False).fit(X, y)
    assert same_weights(cold, clone(cold).fit(X, y))


def test_weights_say_how_often_each_is_drawn():
    weights = np.array([0.0, 1, 2, 0, 3, 0.5, 0.0])
    rng = np.random.default_rng(0)
    counts = np.array([np.bincount(resampled(weights, rng), minlength=7) for _ in range(300)])
    exact = 7 * weights / weights.sum()
    assert np.all((counts >= np.floor(exact)) & (counts <= np.ceil(exact)))
    np.testing.assert_allclose(counts.mean(axis=0), exact, atol=0.12)


def test_sequences_of_weight_zero_are_not_seen():
    X, y, targets = ragged()
    wrong = [part * 100 for part in X]
    weights = np.repeat([1.0, 0.0], 60)
    model = clone(CLASSIFIER).fit([*X, *wrong], [*y, *y[::-1]], weights)
    assert same_weights(model, clone(CLASSIFIER).fit(X, y))
    both = clone(REGRESSOR).fit([*X, *wrong], np.concatenate([targets, targets[::-1]]), weights)
    assert same_weights(both, clone(REGRESSOR).fit(X, targets))


def test_a_class_of_small_weight_is_seldom_predicted():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(100, 4)), np.arange(100) % 2  # nothing to learn
    model = clone(CLASSIFIER).set_params(hidden_size=1, max_iter=30).fit(X, y, np.where(y == 1, 9.0, 1.0))
    assert model.predict_proba(X)[:, 1].mean() == pytest.approx(0.9, abs=0.06)


def test_without_standardize_features_are_taken_as_they_are():
    X, y, _ = ragged()
    model = clone(CLASSIFIER).set_params(standardize=False).fit(X, y)
    assert (model.model_.config["mean"], model.model_.config["spread"]) == ([0, 0], [1, 1])
    rows = np.concatenate(X)
    scaled = clone(CLASSIFIER).fit(X, y).model_.config
    np.testing.assert_allclose([scaled["mean"], scaled["spread"]], [rows.mean(axis=0), rows.std(axis=0)])


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("estimator", [CLASSIFIER, REGRESSOR, FORECASTER])
def test_every_dtype_trains_pickles_and_goes_on(estimator, dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    X = wave(60)
    y = (X[:, 0] > 0).astype(int)
    model = clone(estimator).set_params(dtype=dtype).fit(X, y)
    in_float32 = clone(estimator).fit(X, y)
    assert model.score(X, y) == pytest.approx(in_float32.score(X, y), abs=0.05)
    again = pickle.loads(pickle.dumps(model))
    assert same_weights(again, model)
    assert same_weights(again.partial_fit(X, y), model.partial_fit(X, y))


def test_progress_is_shown_where_it_is_asked_for(capsys):
    X, y, _ = ragged(20)
    clone(CLASSIFIER).set_params(max_iter=2).fit(X, y)
    assert capsys.readouterr() == ("", "")
    clone(CLASSIFIER).set_params(max_iter=2, early_stopping=True, verbose=True).fit(X, y)
    out, err = capsys.readouterr()
    assert out == ""
    assert "LSTMClassifier: 100%" in err
    assert re.search(r"epoch 2/2, [\d.]+ nats, [\d.]+ nats, accuracy \d+\.\d%", err)


# -- one fit after another ----------------------------------------------------------------------------------


def fitted(model):
    """What a fit has left, without the arrays of the model."""
    return {name: value for name, value in vars(model).items() if name not in model.get_params()}


@pytest.mark.parametrize("estimator", [CLASSIFIER, REGRESSOR, FORECASTER])
def test_what_an_earlier_fit_left_is_gone_after_the_next(estimator):
    pandas = pytest.importorskip("pandas")
    X, y = wave(60), np.arange(60) % 3
    frame = pandas.DataFrame(X, columns=["a", "b"])
    targets = np.column_stack([y, y]) if estimator is REGRESSOR else y
    used = clone(estimator).set_params(early_stopping=True, validation_fraction=0.3, max_iter=2).fit(frame, targets)
    assert hasattr(used, "validation_curve_") and hasattr(used, "feature_names_in_")
    parts, labels = [part[:, None] for part in X[:, 0].reshape(6, 10)], np.arange(6) % 2
    used.set_params(early_stopping=False, hidden_size=3).fit(parts, labels)
    fresh = clone(used).fit(parts, labels)
    assert fitted(used).keys() == fitted(fresh).keys()
    assert same_weights(used, fresh)
    for name, value in fitted(fresh).items():
        if name not in ("model_", "_optimizer"):
            np.testing.assert_equal(fitted(used)[name], value, name)
    assert np.array_equal(used.predict(parts), fresh.predict(parts))


@pytest.mark.parametrize("estimator", [CLASSIFIER, REGRESSOR, FORECASTER])
@pytest.mark.parametrize("how", ["X", "y", "parameter", "loss"])
@pytest.mark.parametrize("more", ["fit", "partial_fit"])
def test_a_fit_that_fails_leaves_all_as_it_was(estimator, how, more, monkeypatch):
    X, y = wave(60), np.arange(60) % 2
    model = clone(estimator).set_params(max_iter=1).fit(X, y)
    before, said = fitted(model), model.predict(X)
    bad = np.full((60, 2), np.nan) if how == "X" else [part[:, None] for part in X]
    if how == "parameter":
        model.set_params(clip=-1.0)
    if how == "loss":
        monkeypatch.setattr(type(model), "_train", lambda *_: 1 / 0)
    labels = np.array(["p", "q"])[y] if estimator is CLASSIFIER else np.column_stack([y, y, y])
    if how == "y":
        bad, labels = X, np.full(60, np.nan)
    with pytest.raises((ValueError, ZeroDivisionError)):
        if how == "y" and estimator is FORECASTER:
            raise ValueError("a forecaster has no y")
        getattr(model, more)(
            bad if how in ("X", "y") else X[:, 0].reshape(6, 10), labels[:6] if how == "loss" else labels
        )
    assert fitted(model).keys() == before.keys()
    assert all(fitted(model)[name] is value for name, value in before.items())
    assert np.array_equal(model.predict(X), said)


OTHER = {
    "hidden_size": 5, "num_layers": 2, "dropout": 0.5, "dtype": "float64", "tier": "reference", "recompute": True,
    "bidirectional": False, "standardize": False, "horizon": 2, "memory": 5,
}  # fmt: skip


@pytest.mark.parametrize("estimator", [CLASSIFIER, REGRESSOR, FORECASTER])
def test_going_on_with_another_size_is_refused_by_name(estimator):
    X, y = wave(60), np.arange(60) % 2
    model = clone(estimator).set_params(max_iter=1, warm_start=True).fit(X, y)
    for name in OTHER.keys() & model.get_params():
        other = copy.deepcopy(model).set_params(**{name: OTHER[name]})
        was = getattr(model, name)
        for again in (other.fit, other.partial_fit):
            with pytest.raises(InputError, match=f"{name} is {OTHER[name]!r}; expected {was!r}, as the model has it"):
                again(X, y)
        other.set_params(warm_start=False).fit(X, y)
        assert same_weights(other, clone(other).fit(X, y))
    model.set_params(learning_rate=0.01, max_iter=2, optimizer="sgd").fit(X, y)
    with pytest.raises(ValueError, match="features"):
        model.fit(X[:, :1] if estimator is FORECASTER else X[:, [0, 1, 1]], y)


def test_a_regressor_says_as_many_numbers_as_it_was_fitted_on_last():
    X, y = wave(60), wave(60)
    model = clone(REGRESSOR).set_params(max_iter=1)
    for targets in (y, y[:, 0], y[:, :1]):
        assert model.fit(X, targets).predict(X).shape == targets.shape
    model.set_params(warm_start=True)
    assert model.fit(X, y[:, 0]).predict(X).shape == (60,)
    with pytest.raises(ValueError, match="y has 2 targets; expected 1"):
        model.fit(X, y)


def test_a_classifier_knows_the_classes_of_its_last_fit():
    X = wave(60)
    model = clone(CLASSIFIER).set_params(max_iter=1).fit(X, np.arange(60) % 4)
    model.fit(X, np.array(["p", "q"])[np.arange(60) % 2])
    assert model.predict_proba(X).shape == (60, 2)
    assert set(model.predict(X)) <= {"p", "q"}


@pytest.mark.parametrize("estimator", [CLASSIFIER, REGRESSOR, FORECASTER])
def test_parameters_set_after_a_fit_do_not_reach_into_what_was_fitted(estimator):
    X, y = wave(60), np.arange(60) % 2
    model = clone(estimator).set_params(max_iter=1).fit(X, y)
    said = model.predict(X)
    model.set_params(hidden_size=3, learning_rate=-1.0, dtype="float64", tier="nonsense")
    for again in (model, pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert np.array_equal(again.predict(X), said)
    with pytest.raises(NotFittedError):
        clone(model).predict(X)


# -- pandas ------------------------------------------------------------------------------------------------


def pandas_forms(X):
    pandas = pytest.importorskip("pandas")
    columns = ["a", "b"]
    frames = [pandas.DataFrame(part, columns=columns) for part in X]
    nested = pandas.DataFrame({name: [frame[name] for frame in frames] for name in columns})
    return {
        "series": pandas.Series(list(X)),
        "series of lists": pandas.Series([part.tolist() for part in X]),
        "other index": pandas.Series(list(X), index=range(len(X), 0, -1)),
        "frames": frames,
        "series of frames": pandas.Series(frames),
        "nested frame": nested,
        "nested frame, other index": nested.set_index(np.arange(len(X))[::-1]),
        "nested array": nested.to_numpy(),
    }


@pytest.mark.parametrize(
    "form",
    ["series", "series of lists", "other index", "frames", "series of frames", "nested frame",
     "nested frame, other index", "nested array"],
)  # fmt: skip
def test_sequences_in_pandas_are_those_of_a_list(form):
    X, y, targets = ragged(20)
    given = pandas_forms(X)[form]
    model = clone(CLASSIFIER).set_params(max_iter=2).fit(X, y)
    again = clone(model).fit(given, y)
    assert same_weights(again, model)
    assert np.array_equal(again.predict_proba(given), model.predict_proba(X))
    one = clone(REGRESSOR).set_params(max_iter=1)
    assert same_weights(clone(one).fit(given, targets), clone(one).fit(X, targets))
    series = [np.tile(part, (4, 1)) for part in X[:3]]
    forecaster = clone(FORECASTER).set_params(max_iter=1)
    assert np.array_equal(
        clone(forecaster).fit(pandas_forms(series)[form]).predict(), clone(forecaster).fit(series).predict()
    )


def test_rows_of_one_length_in_a_series_are_a_two_dimensional_X():
    pandas = pytest.importorskip("pandas")
    X = np.random.default_rng(0).normal(size=(20, 5))
    model = clone(CLASSIFIER).set_params(max_iter=1).fit(X, np.arange(20) % 2)
    assert same_weights(clone(model).fit(pandas.Series(list(X)), np.arange(20) % 2), model)


def test_frames_of_sequences_go_by_their_columns():
    pandas = pytest.importorskip("pandas")
    X, y, _ = ragged(20)
    frames = pandas_forms(X)["frames"]
    model = clone(CLASSIFIER).set_params(max_iter=1).fit(frames, y)
    assert model.feature_names_in_.tolist() == ["a", "b"]
    turned = [frame[["b", "a"]] for frame in frames]
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(turned)
    with pytest.raises(ValueError, match=r"X\[1\] has columns \['b', 'a'\]; expected \['a', 'b'\], as X\[0\] has"):
        model.predict([frames[0], turned[1]])
    pandas.testing.assert_frame_equal(frames[0], pandas.DataFrame(X[0], columns=["a", "b"]))  # untouched


def test_tables_that_are_no_sequences_are_refused():
    pandas = pytest.importorskip("pandas")
    model, y = clone(CLASSIFIER), [0, 1]
    uneven = pandas.DataFrame(
        {"a": [pandas.Series([1.0, 2]), pandas.Series([3.0])], "b": [pandas.Series([1.0, 2])] * 2}
    )
    for X, message in (
        (uneven, r"X has cells of shapes \(1,\), \(2,\) in row 1; expected one length"),
        (pandas.Series([np.zeros((3, 2)), None]), r"X\[1\] has shape \(\)"),
        (pandas.Series([np.zeros(3), np.zeros(4)]), "X holds rows of different lengths"),
        (pandas.Series([1.0, 2.0]), "Expected 2D array, got 1D array|Expected a 2-dimensional container"),
        (pandas.DataFrame({"a": ["x", "y"]}), "could not convert string to float"),
        (np.ma.masked_invalid(np.ones((2, 3))), "X is a masked array; expected one without a mask"),
        ([np.ma.masked_invalid(np.ones((2, 3)))] * 2, "X holds a masked array; expected arrays without a mask"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(X, y)


def test_frames_with_odd_columns_are_read_by_position_or_refused():
    pandas = pytest.importorskip("pandas")
    X, y = np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 2
    model = clone(CLASSIFIER).set_params(max_iter=1).fit(X, y)
    for columns in ([0, 1], pandas.MultiIndex.from_tuples([("a", 1), ("a", 2)])):
        assert same_weights(clone(model).fit(pandas.DataFrame(X, columns=columns), y), model)
    with pytest.raises(TypeError, match="[Ff]eature names"):
        clone(model).fit(pandas.DataFrame(X, columns=["a", 1]), y)


# -- what people do with estimators -----------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [CLASSIFIER, REGRESSOR, FORECASTER])
def test_pickle_and_deepcopy_keep_the_weights_and_clone_does_not(estimator):
    X = wave(60)
    y = (X[:, 0] > 0).astype(int)
    model = clone(estimator).fit(X, y)
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert same_weights(again, model)
        assert again.get_params() == model.get_params()
        assert np.array_equal(again.predict(X), model.predict(X))
        again.partial_fit(X, y)
        assert not same_weights(again, model)
    with pytest.raises(NotFittedError):
        clone(model).predict(X)


def test_lists_of_sequences_work_in_a_grid_search():
    X, y, _ = ragged(80)
    search = GridSearchCV(CLASSIFIER, {"hidden_size": [1, 8], "bidirectional": [False]}, cv=3).fit(X, y)
    assert search.best_params_["hidden_size"] == 8
    assert search.best_score_ > 0.7
    assert search.predict(X[:3]).tolist() == search.best_estimator_.predict(X[:3]).tolist()


def test_scaling_in_a_pipeline_and_cross_validation():
    X, y = wave() * [1, 100], wave()[:, 0] * 7
    scores = cross_val_score(make_pipeline(StandardScaler(), REGRESSOR), X, y, cv=TimeSeriesSplit(3))
    assert scores[-1] > 0.8


def test_a_forecaster_in_a_grid_search_over_time():
    cv = TimeSeriesSplit(2, test_size=40)
    search = GridSearchCV(FORECASTER, {"window": [2, 30]}, cv=cv).fit(wave())
    assert search.best_params_ == {"window": 30}
    assert search.best_score_ < 0


# -- forecasts ---------------------------------------------------------------------------------------------


def test_a_forecaster_beats_persistence_and_goes_on_from_its_training_data():
    series = wave(200)
    model = clone(FORECASTER).set_params(max_iter=25).fit(series[:150])
    origins = np.arange(20, 50 - 2)
    test = series[150:]
    assert -model.score(test) < 0.3 * rmse(persistence(test, origins, 3), truth(test, origins, 3))
    assert model.predict().shape == (3, 2)
    assert model.predict(steps=10).shape == (10, 2)
    assert np.array_equal(model.predict(steps=10), model.predict(series[:150], steps=10))
    assert np.array_equal(model.predict(steps=2), model.predict()[:2])
    assert rmse(model.predict(), series[150:153]) < 1


@pytest.mark.parametrize("sure", [{"quantiles": [0.1, 0.5, 0.9]}, {"distribution": "student"}])
def test_a_forecaster_says_how_sure_it_is(sure):
    series = np.sin(np.arange(120.0))[:, None] + np.random.default_rng(0).standard_normal((120, 1)) * 0.1
    forecaster = clone(FORECASTER).set_params(random_state=0, **sure).fit(series)
    found = forecaster.predict_quantiles()
    assert found.shape == (3, 3, 1) and (np.diff(found, axis=1) >= 0).all()
    np.testing.assert_allclose(found[:, 1], forecaster.predict())
    assert forecaster.predict_quantiles([series, series[:50]], [0.5]).shape == (2, 3, 1, 1)
    again = pickle.loads(pickle.dumps(forecaster))
    np.testing.assert_array_equal(again.predict_quantiles(), found)
    with pytest.raises(InputError, match="the model says values alone"):
        clone(FORECASTER).fit(series).predict_quantiles()


def test_the_score_of_a_forecaster_is_minus_the_error_of_what_it_predicts():
    series = wave(60)
    model = clone(FORECASTER).set_params(max_iter=2).fit(series)
    said = np.stack([model.predict(series[origin - 20 : origin]) for origin in range(20, 58)])
    assert -model.score(series) == pytest.approx(rmse(said, truth(series, np.arange(20, 58), 3)), rel=1e-6)


def test_many_histories_are_forecast_each_as_alone():
    series = [wave(40), wave(70)[10:], wave(50)[10:] + 3]
    model = clone(FORECASTER).set_params(max_iter=2).fit(series)
    assert model.predict().shape == (3, 3, 2)
    forecast = model.predict(series, steps=5)
    assert forecast.shape == (3, 5, 2)
    for part, said in zip(series, forecast, strict=True):
        np.testing.assert_allclose(model.predict(part, steps=5), said, atol=1e-5)
    assert np.array_equal(model.predict(np.stack([series[0], series[2]])), model.predict([series[0], series[2]]))


def test_a_series_too_short_to_learn_from_is_refused():
    with pytest.raises(ValueError, match=r"n_samples=4, of which 4 to train on; expected at least horizon \+ 2 = 5"):
        clone(FORECASTER).fit([wave(60), wave(4)])
    model = clone(FORECASTER).set_params(max_iter=1).fit(wave(30))
    with pytest.raises(ValueError, match="X has a series of 3 steps; expected more than horizon = 3"):
        model.score(wave(3))
    with pytest.raises(InputError, match="steps is 0"):
        model.predict(steps=0)


def noisy(steps=160):
    """A cycle of 8 with noise, and two inputs: noise that shows one step later, and noise that shows at once."""
    rng = np.random.default_rng(0)
    before, now = rng.standard_normal((2, steps))
    y = (
        3 * np.sin(np.arange(steps) * np.pi / 4)
        + np.append(0, before[:-1])
        + 2 * now
        + 0.1 * rng.standard_normal(steps)
    )
    return np.column_stack([now, y, before])  # columns in no order of the model's


def test_a_forecaster_begins_as_the_best_linear_forecast_and_stays_that_where_it_learns_nothing():
    series = noisy()[:, 1:2]
    given = {"horizon": 3, "window": 20, "hidden_size": 4, "random_state": 0, "backend": "numpy", "max_iter": 1}
    model = LSTMForecaster(**given, learning_rate=1e-9).fit(series)
    config = model.model_.config
    assert set(config["linear"]) >= {"weight", "about"} and config["linear"]["about"][0]["scores"]
    begun = Forecaster(**config, backend="numpy")
    np.testing.assert_allclose(model.predict(), begun.forecast(series[-20:, None])[:, 0], atol=1e-6)
    wild = LSTMForecaster(**given | {"learning_rate": 10.0}).fit(series)  # surely worse: what it began with is kept
    np.testing.assert_allclose(wild.predict(), model.predict(), atol=1e-6)
    ridge = LSTMForecaster(**given, linear="ridge").fit(series).model_.linear
    assert list(ridge.about[0]["scores"]) == [f"ridge on {ridge.lags} lags"]
    with pytest.raises(ValueError, match="linear is 'best'; expected auto, ridge or none"):
        LSTMForecaster(linear="best").fit(series)


def test_a_forecaster_takes_inputs_known_in_the_past_and_ahead():
    table = noisy()
    given = {"horizon": 1, "window": 20, "hidden_size": 4, "random_state": 0, "backend": "numpy", "max_iter": 1}
    model = LSTMForecaster(**given, past=[2], future=[0]).fit(table[:150])
    said = np.array([model.predict(table[:k], future=table[k : k + 1, :1])[0, 0] for k in range(150, 160)])
    blind = LSTMForecaster(**given).fit(table[:150, 1:2])
    other = np.array([blind.predict(table[:k, 1:2])[0, 0] for k in range(150, 160)])
    assert rmse(said, table[150:, 1]) < 0.5 * rmse(other, table[150:, 1])
    assert -model.score(table) < 0.5 * -blind.score(table[:, 1:2])
    assert model.predict(future=table[150:151, :1]).shape == (1, 1)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(future=table[150:151, :1]), model.predict(future=table[150:151, :1]))
    many = model.predict([table[:60], table[:80]], future=[table[60:61, :1], table[80:81, :1]])
    np.testing.assert_allclose(many[1], model.predict(table[:80], future=table[80:81, :1]), atol=1e-6)
    with pytest.raises(InputError, match="future is not given; the model has 1 of them"):
        model.predict()
    with pytest.raises(ValueError, match="future is of 1 series; expected 2"):
        model.predict([table[:60], table[:80]], future=[table[60:61, :1]])


def test_inputs_are_named_as_the_columns_are():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(noisy(), columns=["now", "y", "before"])
    given = {"horizon": 1, "window": 8, "hidden_size": 2, "random_state": 0, "backend": "numpy", "max_iter": 1}
    by_name = LSTMForecaster(**given, past=["before"], future=["now"]).fit(table)
    by_place = LSTMForecaster(**given, past=[2], future=[0]).fit(noisy())
    ahead = [[0.5]]
    np.testing.assert_array_equal(by_name.predict(future=ahead), by_place.predict(future=ahead))
    with pytest.raises(ValueError, match="past has 'after'; expected a column of X"):
        LSTMForecaster(**given, past=["after"]).fit(table)
    with pytest.raises(ValueError, match="expected other columns, and some left to forecast"):
        LSTMForecaster(**given, past=[0, 1], future=[2]).fit(noisy())
    with pytest.raises(ValueError, match="expected other columns, and some left to forecast"):
        LSTMForecaster(**given, past=[0], future=[0]).fit(noisy())


# -- shipped data, imports, docs ------------------------------------------------------------------------------


def test_nothing_else_imports_scikit_learn():
    code = "import sys, gpu_lstm, gpu_lstm.cli, gpu_lstm.interop; assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_code_in_the_docs_runs_on_the_shipped_data():
    text = (Path(__file__).parent.parent / "docs" / "doors" / "sklearn.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert names["accuracy"] > 0.93  # 9 speakers
    weeks, origins = names["weeks"][-200:], np.arange(64, 200 - 11)
    assert names["error"] < 0.7 * rmse(persistence(weeks, origins, 12), truth(weeks, origins, 12))
    assert names["forecaster"].predict(steps=26).shape == (26, 1)
    assert names["search"].best_score_ > 0.5


def test_class_weights_move_what_is_said_and_balanced_is_what_scikit_learn_means_by_it():
    rng = np.random.default_rng(0)
    y = np.where(np.arange(60) % 10 == 0, "rare", "ok")
    X = rng.normal(size=(60, 5)) + np.where(y == "rare", 0.7, 0)[:, None]
    plain, balanced, given = (
        clone(CLASSIFIER).set_params(class_weight=weight).fit(X, y)
        for weight in (None, "balanced", {"ok": 60 / 108, "rare": 60 / 12})
    )
    assert np.array_equal(balanced.predict_proba(X), given.predict_proba(X))
    assert np.mean(balanced.predict(X) == "rare") > np.mean(plain.predict(X) == "rare")


def test_epochs_that_are_not_asked_for_follow_from_the_data():
    X, y = np.random.default_rng(0).normal(size=(20, 64)), np.arange(20) % 2
    model = LSTMClassifier(hidden_size=2, batch_size=10, backend="numpy", random_state=0).fit(X, y)
    assert model.n_iter_ == 200  # 2 steps each, 400 in all
    assert (model.model_.config["pooling"], model.model_.config["frames"]) == (["mean", "max", "last"], [4, 2])


def test_data_frames_hold_numbers_or_their_column_is_named():
    pandas = pytest.importorskip("pandas")
    frames = [pandas.DataFrame({"a": np.arange(n) % 3.0, "b": np.arange(n)}) for n in (4, 5, 6, 4)]
    labels = ["u", "v", "u", "v"]
    fitted = LSTMClassifier(hidden_size=3, max_iter=1, random_state=0).fit(frames, labels)
    nullable = [frame.astype("Float64") for frame in frames]
    again = LSTMClassifier(hidden_size=3, max_iter=1, random_state=0).fit(nullable, labels)
    assert np.array_equal(fitted.predict_proba(frames), again.predict_proba(nullable))
    for column in (["x"] * 4, pandas.Categorical(["x"] * 4), pandas.date_range("2024-01-01", periods=4)):
        with pytest.raises(ValueError, match=r"X\[0\] has a column 'c' of .*; expected numbers"):
            LSTMClassifier(max_iter=1).fit([frames[0].assign(c=column), *frames[1:]], labels)
    nullable[1].iloc[2, 0] = pandas.NA
    with pytest.raises(ValueError, match="NaN"):
        LSTMClassifier(max_iter=1).fit(nullable, labels)
    dated = frames[0].assign(c=pandas.date_range("2024-01-01", periods=4))
    with pytest.raises(ValueError, match="X has a column 'c' of datetime64.*; expected numbers"):
        LSTMForecaster(max_iter=1).fit(dated)


@pytest.mark.parametrize("weights", [{0: -1, 1: 1}, {0: 0, 1: 0}, {0: float("nan"), 1: 1}], ids=str)
def test_class_weights_that_weigh_nothing_are_refused(weights):
    with pytest.raises(ValueError, match=r"class_weight is \{.*; expected weights of at least 0, some above"):
        LSTMClassifier(class_weight=weights).fit(np.eye(4), [0, 1, 0, 1])

"""Forecasts beside the plain model: linear ones, inputs, quantiles and distributions, backtests, comparisons."""

import math
from unittest.mock import ANY

import numpy as np
import pytest

from gpu_lstm import InputError
from gpu_lstm.data import baselines
from gpu_lstm.data.linear import LinearForecast
from gpu_lstm.data.series import Series
from gpu_lstm.data.start import fit_start
from gpu_lstm.losses import probabilistic
from gpu_lstm.models import Forecaster
from gpu_lstm.models.backtest import anomalies, backtest, one_step_errors, spaced
from gpu_lstm.models.outcome import Outcome
from gpu_lstm.training.comparison import compare, verdict
from gpu_lstm.training.outset import outset, sizes_for
from gpu_lstm.training.tasks import SeriesTask, WindowsTask
from gpu_lstm.training.tasks.series import gain_in_errors, known_steps, score
from tests.support import NUMPY, STRICT, central_differences, relative_error

RNG = np.random.default_rng(0)
LOSSES = {
    "pinball": (3, lambda backend, p, t: probabilistic.pinball(backend, p, t, (0.1, 0.5, 0.8))),
    "gaussian": (2, probabilistic.gaussian),
    "student": (2, probabilistic.student),
}


def linear(series=2, horizon=3, lags=4, past=0, ahead=0, seed=0):
    rng = np.random.default_rng(seed)
    return LinearForecast(
        rng.standard_normal((series, horizon, lags)), rng.standard_normal((series, horizon)),
        rng.standard_normal((series, horizon, past + ahead)), rng.standard_normal((series, horizon, ahead)),
        rng.uniform(0.5, 2, (horizon, series)),
    )  # fmt: skip


def forecaster(**more):
    given = {"mean": [1.0, -2.0], "spread": [2.0, 0.5], "step_spread": [1.0, 0.2], "horizon": 3, "memory": 4}
    return Forecaster(**{**given, "hidden_size": 5, "dtype": "float64", "backend": "numpy", **more})


def with_inputs(**more):
    inputs = {"mean": [0.5, 0.0, 3.0], "spread": [1.0, 2.0, 1.5], "ahead": 2}
    return forecaster(inputs=inputs, **more)


def stirred(model, seed=1):
    """The model with random weights in its head, which may start at zero."""
    for name in ("head.weight", "head.bias"):
        model.params[name][...] += np.random.default_rng(seed).standard_normal(model.params[name].shape) * 0.3
    return model


# -- losses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_a_probabilistic_loss(name):
    parts, loss = LOSSES[name]
    prediction, target = RNG.standard_normal((3, 2, parts, 4)), RNG.standard_normal((3, 2, 4))
    gradient = loss(NUMPY, prediction, target)[1]
    expected = central_differences(lambda: float(loss(NUMPY, prediction, target)[0]), prediction)
    assert relative_error(gradient, expected) < 1e-7


@pytest.mark.parametrize("name", LOSSES)
def test_a_probabilistic_loss_needs_the_array_api_alone(name):
    parts, loss = LOSSES[name]
    prediction, target = RNG.standard_normal((3, 2, parts, 4)), RNG.standard_normal((3, 2, 4))
    value, gradient = loss(NUMPY, prediction, target)
    other, same = loss(STRICT, STRICT.asarray(prediction), STRICT.asarray(target))
    assert float(other) == pytest.approx(float(value))
    np.testing.assert_allclose(STRICT.to_numpy(same), gradient)


def test_losses_by_value():
    one = np.zeros((1, 1, 1))
    assert float(probabilistic.pinball(NUMPY, np.full((1, 1, 1, 1), -2.0), one, (0.9,))[0]) == pytest.approx(1.8)
    parts = np.array([[[[1.0], [math.log(2)]]]])  # location 1, scale 2
    assert float(probabilistic.gaussian(NUMPY, parts, one)[0]) == pytest.approx(
        0.5 * 0.25 + math.log(2) + 0.5 * math.log(2 * math.pi)
    )
    density = 0.375 * (1 + 0.25 / 4) ** -2.5 / 2  # Student's t of 4 degrees of freedom has 3/8 at 0
    assert float(probabilistic.student(NUMPY, parts, one)[0]) == pytest.approx(-math.log(density))


def test_quantiles_of_the_distributions():
    assert probabilistic.normal_quantile(0.975) == pytest.approx(1.959964, abs=1e-6)
    assert probabilistic.student_quantile(0.975) == pytest.approx(2.776445, abs=1e-6)
    assert probabilistic.student_quantile(0.1) == pytest.approx(-1.533206, abs=1e-6)
    assert probabilistic.student_quantile(0.5) == 0


@pytest.mark.parametrize("name", LOSSES)
def test_a_probabilistic_loss_refuses_what_does_not_fit(name):
    parts, loss = LOSSES[name]
    with pytest.raises(InputError, match="prediction has shape"):
        loss(NUMPY, np.zeros((3, 2, parts + 1, 4)), np.zeros((3, 2, 4)))
    with pytest.raises(InputError, match="prediction has dtype float32, target float64"):
        loss(NUMPY, np.zeros((3, 2, parts, 4), np.float32), np.zeros((3, 2, 4)))


# -- gradients and what is said ----------------------------------------------------------------------------


KINDS = {
    "linear": lambda: forecaster(linear=linear().plain(), dropout=0.4),
    "inputs": lambda: with_inputs(dropout=0.4),
    "inputs and linear": lambda: with_inputs(linear=linear(past=1, ahead=2).plain()),
    "quantiles": lambda: forecaster(quantiles=[0.1, 0.5, 0.9]),
    "gaussian": lambda: forecaster(distribution="gaussian", linear=linear().plain()),
    "student": lambda: with_inputs(distribution="student"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_gradient(kind):
    model = stirred(KINDS[kind]())
    values = np.random.default_rng(3).standard_normal((11, 2, model.num_columns))
    gradients = model.loss(values, 3, None, (3, 1))[1]
    assert set(gradients) == set(model.params)
    for name, param in model.params.items():
        expected = central_differences(lambda: float(model.loss(values, 3, None, (3, 1))[0]), param)
        assert relative_error(gradients[name], expected) < 1e-6, name


def test_a_model_starts_as_its_linear_forecast():
    base, model = linear(), forecaster(linear=linear().plain())
    history = RNG.standard_normal((9, 2, 2)) * 3
    units = (history - model.mean) / model.spread
    expected = np.stack(
        [
            [[units[-4:, b, s] @ base.weight[s, h] + base.bias[s, h] for s in range(2)] for b in range(2)]
            for h in range(3)
        ]
    )
    np.testing.assert_allclose(model.forecast(history), expected * model.spread + model.mean, atol=1e-6)


def test_what_is_known_of_a_short_history_goes_on_before_it():
    model, history = forecaster(linear=linear().plain()), RNG.standard_normal((2, 1, 2))
    longer = np.concatenate([history[:1], history[:1], history])
    np.testing.assert_allclose(model.forecast(history), model.forecast(longer), atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_what_says_would_have_to_say(kind):
    model = KINDS[kind]()
    values = RNG.standard_normal((9, 2, model.num_columns))
    model.head.params["weight"][...] = 0
    parts = model.targets(values, 2)[-1].reshape(2, 3, 2)  # (B, H, S)
    bias = np.zeros((model.outcome.parts, 3, 2))
    bias[:] = parts[0]
    model.head.params["bias"][...] = bias.ravel()
    ahead = values[:, :1, 2 + model.num_inputs - model.num_ahead :]
    said = model.says(values[:6, :1], ahead)
    np.testing.assert_allclose(said[:, 0, 0], values[6:, 0, :2], atol=1e-9)


def test_inputs_known_ahead_are_those_of_each_step_of_the_horizon():
    model = with_inputs()
    values = RNG.standard_normal((8, 1, 5))
    features = model.features(values)
    assert features.shape == (5, 1, 4 + 1 + 4 * 2)
    ahead = (values[..., 3:] - [0.0, 3.0]) / [2.0, 1.5]
    np.testing.assert_allclose(features[2, 0, 5:], ahead[2:6, 0].ravel())
    np.testing.assert_allclose(features[:, 0, 4], (values[:5, 0, 2] - 0.5) / 1.0)


def test_forecasts_with_inputs_are_those_of_the_joined_columns_and_say_what_is_missing():
    model, values = stirred(with_inputs()), RNG.standard_normal((10, 2, 5))
    known = {"past": values[:7, :, 2:3], "future": values[:, :, 3:]}
    found = model.forecast(values[:7, :, :2], **known)
    many = np.concatenate([values[:, :1], values[:, 1:]])
    expected = backtest(model, many[:, 0], np.array([7]), 7)
    np.testing.assert_allclose(found[:, 0], expected[0], atol=1e-9)
    changed = values.copy()
    changed[9, :, 4] += 1
    assert not np.allclose(found, model.forecast(values[:7, :, :2], past=known["past"], future=changed[:, :, 3:]))
    with pytest.raises(InputError, match="future is not given; the model has 2 of them"):
        model.forecast(values[:7, :, :2], past=known["past"])
    with pytest.raises(InputError, match="future has 9 steps; expected 10, 3 of them after the history's 7"):
        model.forecast(values[:7, :, :2], past=known["past"], future=values[:9, :, 3:])
    with pytest.raises(InputError, match="steps is above horizon = 3, and some inputs are known in the past only"):
        model.forecast(values[:7, :, :2], 4, **known)
    with pytest.raises(InputError, match="past is given; the model has none"):
        forecaster().forecast(values[:7, :, :2], past=known["past"])


def test_quantiles_are_sorted_and_the_median_is_the_forecast():
    model, history = stirred(forecaster(quantiles=[0.1, 0.5, 0.9]), seed=5), RNG.standard_normal((8, 3, 2))
    found = model.forecast_quantiles(history)
    assert found.shape == (3, 3, 3, 2)
    assert (np.diff(found, axis=2) >= 0).all()
    np.testing.assert_array_equal(found[:, :, 1], model.forecast(history))
    np.testing.assert_array_equal(model.forecast_quantiles(history, [0.9])[:, :, 0], found[:, :, 2])
    with pytest.raises(InputError, match=r"levels has \[0.2\]; expected some of \[0.1, 0.5, 0.9\]"):
        model.forecast_quantiles(history, [0.2])
    with pytest.raises(InputError, match="the model says values alone"):
        forecaster().forecast_quantiles(history)


@pytest.mark.parametrize(("name", "standard"), [("gaussian", 1.281552), ("student", 1.533206)])
def test_a_new_distribution_is_as_wide_as_the_errors_of_the_linear_forecast(name, standard):
    base = linear()
    model, history = forecaster(distribution=name, linear=base.plain()), RNG.standard_normal((8, 3, 2))
    low, middle, high = np.moveaxis(model.forecast_quantiles(history), 2, 0)
    np.testing.assert_allclose(middle, model.forecast(history), atol=1e-9)
    wide = standard * base.unit * model.spread
    np.testing.assert_allclose(high - middle, np.broadcast_to(wide[:, None], high.shape), rtol=1e-5)
    np.testing.assert_allclose(middle - low, high - middle, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"quantiles": (0.1, 0.9)}, "expected 0.5 among them"),
        ({"quantiles": (0.5, 0.1)}, "expected ascending numbers above 0 and below 1"),
        ({"quantiles": (0.5, 1.0)}, "expected ascending numbers above 0 and below 1"),
        ({"distribution": "cauchy"}, "distribution is 'cauchy'; expected one of gaussian, student"),
        ({"quantiles": (0.5,), "distribution": "student"}, "expected one of them"),
    ],
)
def test_a_wrong_outcome_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        Outcome(**arguments)


def test_a_model_that_is_sure_of_nothing_takes_no_other_loss():
    with pytest.raises(InputError, match="loss is 'mae'; expected none, as distribution='student' have their own"):
        forecaster(distribution="student").loss(RNG.standard_normal((9, 1, 2)), 2, "mae")


# -- the linear forecast, and others -----------------------------------------------------------------------


def test_the_linear_forecast_is_ridge_regression():
    """Against the normal equations, at the penalty that was chosen."""
    from gpu_lstm.data import start as module

    rng = np.random.default_rng(1)
    values = rng.standard_normal((300, 1)).cumsum(axis=0) * 0.1
    values -= values.mean()
    found = fit_start(values, np.zeros((300, 0)), 0, [(0, 300)], 2, [5], None)
    assert found.lags == 5
    x = values[:, 0]
    kept = np.concatenate([b[b < b[-1] - 1] for b in np.array_split(np.arange(4, 298), module.FOLDS)])
    design = np.column_stack([x[kept] * 0 + x[kept - k] - x[kept] for k in range(1, 5)] + [x[kept]])
    target = np.stack([x[kept + h] - x[kept] for h in (1, 2)], axis=1)
    centred = design - design.mean(axis=0)
    best = math.inf
    for penalty in module.PENALTIES[:-1]:
        inner = centred.T @ centred / len(kept)
        weights = np.linalg.solve(
            inner + penalty * np.diag(np.diag(inner)), centred.T @ (target - target.mean(axis=0)) / len(kept)
        )
        own = np.stack([-weights[k - 1] for k in range(4, 0, -1)])  # the oldest first
        best = min(best, np.abs(found.weight[0, :, :-1].T + own).max())
    assert best < 1e-8
    assert found.about[0] == {"mean_of": 1, "score": ANY, "scores": {"ridge on 5 lags": ANY}}


def test_the_linear_forecast_learns_inputs_known_ahead_and_leaves_noise_alone():
    rng = np.random.default_rng(2)
    inputs = rng.standard_normal((600, 2))
    values = np.zeros((600, 1))
    for t in range(1, 600):
        values[t] = 0.5 * values[t - 1] + inputs[t, 1] + 0.1 * rng.standard_normal()
    found = fit_start(values, inputs, 1, [(0, 600)], 2, [2, 8])
    np.testing.assert_allclose(found.ahead[0, 0], 1, atol=0.05)
    assert found.unit[0, 0] < 0.2
    noise = fit_start(rng.standard_normal((600, 1)), np.zeros((600, 0)), 0, [(0, 600)], 2, [2, 8])
    assert noise.unit.max() < 1.1


def test_no_linear_forecast_of_few_rows_and_none_across_a_break():
    values = np.arange(40.0)[:, None]
    assert fit_start(values, np.zeros((40, 0)), 0, [(0, 12)], 3, [4]) is None
    broken = np.concatenate([np.sin(np.arange(200.0)), 1000 + np.sin(np.arange(200.0))])[:, None]
    found = fit_start(broken, np.zeros((400, 0)), 0, [(0, 200), (200, 400)], 1, [4])
    assert found.unit.max() < 0.1


def test_periods_that_a_series_shows():
    rng, t = np.random.default_rng(0), np.arange(24 * 7 * 8)
    day = np.sin(2 * np.pi * t / 24)
    week = np.where((t // 24) % 7 < 5, 0.2, -0.5)
    assert baselines.periods(day + rng.standard_normal(len(t)) * 0.3) == [24]
    assert baselines.periods(day + week + rng.standard_normal(len(t)) * 0.05) == [24, 168]
    hours = np.arange(1400)
    load = 300 * np.sin(hours * np.pi / 12) + 100 * np.sin(hours * np.pi / 84) + 20 * rng.standard_normal(1400)
    assert baselines.periods(load) == [24, 168]  # its autocorrelation is flat around 168
    assert baselines.periods(rng.standard_normal(1000)) == []
    assert baselines.periods(np.arange(1000.0)) == []
    assert baselines.periods(np.ones(1000)) == []
    assert baselines.periods(rng.standard_normal(1000).cumsum() * 0 + np.arange(1000) ** 2) == []


def test_simple_forecasts_by_value():
    values = np.arange(12.0)[:, None] % 4
    origins = np.array([8])
    np.testing.assert_array_equal(baselines.seasonal_naive(values, origins, 3, 4)[0, :, 0], [0, 1, 2])
    np.testing.assert_array_equal(baselines.seasonal_naive(values, origins, 3, 2)[0, :, 0], [2, 3, 2])
    np.testing.assert_array_equal(baselines.seasonal_mean(values, origins, 3, 8, 4)[0, :, 0], [0, 1, 2])
    loss = baselines.pinball_of(np.array([[0.0, 2.0]]), np.array([1.0]), np.array([0.1, 0.9]))
    np.testing.assert_allclose(loss, [(0.1 * 1 + 0.1 * 1) / 2])


# -- training, backtest, comparison ------------------------------------------------------------------------


def wave(steps=400, seed=0):
    rng, t = np.random.default_rng(seed), np.arange(steps)
    return np.stack([np.sin(2 * np.pi * t / 12) + 0.1 * rng.standard_normal(steps), 100 * np.cos(t / 9)], axis=1)


def test_sizes_follow_from_the_periods():
    t = np.arange(2000)
    rng = np.random.default_rng(0)
    day = np.sin(2 * np.pi * t / 24)[:, None] + 0.1 * rng.standard_normal((2000, 1))
    found = sizes_for(day, [(0, 2000)], 32)
    assert (found.horizon, found.length, found.memory, found.periods) == (24, 128, 24, (24,))
    nothing = sizes_for(rng.standard_normal((60, 1)), [(0, 60)], 32)
    assert (nothing.horizon, nothing.length, nothing.periods) == (10, 25, ())
    assert nothing.epochs == 500


def test_the_score_of_several_columns_is_drowned_by_none():
    assert score(np.array([2.0]), np.array([7.0])) == pytest.approx(2)
    one = score(np.array([1.0, 100.0]), np.array([1.0, 100.0]))
    assert score(np.array([2.0, 100.0]), np.array([1.0, 100.0])) > 1.5 * one
    assert score(np.array([2.0, 100.0]), np.array([1.0, 100.0])) == score(
        np.array([1.0, 200.0]), np.array([1.0, 100.0])
    )


def test_windows_are_as_long_as_the_linear_forecast_needs_and_cross_no_break():
    assert known_steps(16, 4) == 16 and known_steps(16, 20) == 23
    data = Series(["a", "b"], wave(), starts=np.array([0, 150, 400]), ids=["x", "y"])
    config = outset(data, (0.6, 0.2), 3, 16)
    task = SeriesTask(Forecaster(**config, hidden_size=4, backend="numpy"), data, 8, 16, (0.6, 0.2), None, 0)
    starts = np.asarray(task.starts)
    assert ((starts + task.window <= 90) | ((starts >= 150) & (starts + task.window <= 300))).all()
    assert task.initial() == task.validate()[0] < math.inf
    assert set(task.origins) == {*range(90, 118), *range(300, 348)}


def test_a_run_keeps_its_start_where_nothing_better_comes():
    from gpu_lstm.training import Settings, Training

    data = Series(["a"], wave()[:, :1])
    config = outset(data, (0.6, 0.2), 3, 16)
    task = SeriesTask(Forecaster(**config, hidden_size=4, backend="numpy"), data, 8, 16, (0.6, 0.2), None, 0)
    training, events = Training(task, Settings(1, 10.0, validations=3)), []
    start = training.best
    assert start == task.initial()
    assert "it is that still" in task.remark(start) and task.remark(start * 0.99) == ""
    training.go(events.append)
    assert training.best == start and not any(event.best for event in events)


def test_a_gain_counts_once_it_is_more_than_chance():
    rng = np.random.default_rng(0)
    before = rng.uniform(0.5, 1.5, (60, 1))
    assert gain_in_errors(before, before * 0.8, 3) > 2
    assert abs(gain_in_errors(before, before + rng.standard_normal((60, 1)), 3)) < 2
    assert gain_in_errors(before[:3], before[:3] * 0.5, 3) == 0
    data = Series(["a"], wave()[:, :1])
    config = outset(data, (0.6, 0.2), 3, 16)
    task = SeriesTask(Forecaster(**config, hidden_size=4, backend="numpy"), data, 8, 16, (0.6, 0.2), None, 0)
    start = task.initial()
    task.model.params["head.bias"][...] = 1e-4
    found, told = task.validate()
    assert found >= start and told.startswith("RMSE ")


def test_backtests_know_nothing_of_other_stretches():
    model, values = stirred(forecaster(linear=linear().plain())), wave(60)
    found = backtest(model, values, np.array([30, 33]), 16, [0, 31])
    np.testing.assert_allclose(found[0], model.forecast(values[14:30, None])[:, 0], atol=1e-9)
    np.testing.assert_allclose(found[1], model.forecast(values[31:33, None])[:, 0], atol=1e-9)
    with pytest.raises(InputError, match=r"origins is 31\.\.31"):
        backtest(model, values, np.array([31]), 16, [0, 31])
    assert spaced(np.arange(10), 4).tolist() == [0, 3, 6, 9]


def test_backtested_quantiles():
    model, values = stirred(forecaster(distribution="student")), wave(40)
    found = backtest(model, values, np.array([20, 21]), 10, levels=(0.1, 0.5))
    assert found.shape == (2, 3, 2, 2)
    expected = model.forecast_quantiles(values[11:21, None], (0.1, 0.5))[:, 0].transpose(0, 2, 1)
    np.testing.assert_allclose(found[1], expected, atol=1e-9)


@pytest.mark.parametrize("make", [KINDS["linear"], KINDS["inputs"]])
def test_one_step_errors_are_those_of_forecasts(make):
    model = stirred(make())
    values = RNG.standard_normal((40, model.num_columns))
    errors = one_step_errors(model, values, 8)
    early = model.linear.lags if model.linear else 1
    assert np.isnan(errors[:early]).all() and np.isfinite(errors[early : 38 if model.num_ahead else 40]).all()
    said = backtest(model, values, np.array([20]), 12)[0, 0]  # step 20 is in the block from 17 on, known from 9 on
    np.testing.assert_allclose(errors[20], values[20, :2] - backtest(model, values, np.array([20]), 20 - 8)[0, 0])
    assert said.shape == (2,)


def test_an_anomaly_stands_out():
    values = wave(600)
    values[:, 1] = values[:, 0] * 3
    data = Series(["a", "b"], values)
    config = outset(data, (0.6, 0.2), 3, 32)
    model = Forecaster(**config, hidden_size=4, backend="numpy")
    changed = values.copy()
    changed[550, 0] += 2
    scores, threshold = anomalies(model, changed, 32, slice(360, 480))
    assert scores.shape == (600, 2) and scores[550, 0] > threshold[0] > np.nanmax(scores[360:480, 0]) * 0.5
    assert scores[550, 1] < threshold[1] and np.isnan(scores[: model.linear.lags]).all()
    with pytest.raises(InputError, match="normal has 10 rows"):
        anomalies(model, changed, 32, slice(360, 370))


def test_a_comparison_is_on_the_same_origins_and_honest():
    data = Series(["a", "b"], wave())
    config = outset(data, (0.6, 0.2), 6, 32)
    model = Forecaster(**config, hidden_size=4, backend="numpy")
    found = compare(model, data, (0.6, 0.2), 32)
    assert found.of == len(found.origins) == 75 and found.origins[0] == 320
    assert next(iter(found.forecasts)) == "LSTM" and "last value" in found.forecasts
    assert {"value 12 steps before", "AR(24)", "AR(32)"} <= set(found.forecasts)
    errors = found.errors("last value")
    expected = np.sqrt(np.mean((data.values[found.origins - 1, 0][:, None] - found.actual[..., 0]) ** 2))
    assert errors["rmse"][0] == pytest.approx(expected)
    assert errors["by_step"].shape == (6, 2)
    ridge = next(name for name in found.forecasts if name.startswith("ridge"))
    assert found.scores()["LSTM"] < 1.01 * found.scores()[ridge]


def test_a_comparison_of_quantiles_counts_what_lies_below():
    data = Series(["a"], np.random.default_rng(0).standard_normal((600, 1)))
    config = outset(data, (0.6, 0.2), 2, 16)
    found = compare(
        Forecaster(**config, hidden_size=4, backend="numpy", quantiles=[0.1, 0.5, 0.9]), data, (0.6, 0.2), 16
    )
    below, loss = found.sureness()
    np.testing.assert_allclose(below[:, 0], [0.1, 0.5, 0.9], atol=0.06)
    assert loss.shape == (1,) and 0.15 < loss[0] < 0.35


def test_the_verdict():
    assert verdict({"LSTM": 2.37, "ridge": 2.02, "AR": 3.0}) == "ridge is better: 2.02 against 2.37"
    assert verdict({"LSTM": 2.0, "ridge": 2.001}) == "the LSTM is no better than ridge: 2 against 2.001"
    assert (
        verdict({"LSTM": 1.0, "ridge": 2.0, "AR": 1.5}) == "the LSTM beats each of them; the best is AR, 1.5 against 1"
    )


def test_a_task_of_windows_skips_what_the_linear_forecast_cannot_know():
    model = Forecaster([0.0], [1.0], [1.0], horizon=2, hidden_size=3, linear=linear(1, 2, 9).plain(), backend="numpy")
    task = WindowsTask(model, wave()[:, :1], 4, 8, range(20), np.array([50]), None, 0)
    assert task.skip == 8 and task.window == 10 + 2
    assert np.isfinite(float(task.step(0)[0]))

"""The linear forecast that a forecaster begins as: of which kinds there are, which are taken, and how it is kept."""

import json

import numpy as np
import pandas as pd
import pytest

from gpu_lstm.cli import main
from gpu_lstm.data import baselines, start
from gpu_lstm.data.linear import LinearForecast
from gpu_lstm.data.start import fit_start
from gpu_lstm.models import Forecaster
from gpu_lstm.training import checkpoint

NOTHING = np.zeros((400, 0))


def drawn_to(prior, values):
    """What a prior (K, H) of 12 lags says of values, (H,)."""
    found = start.as_forecast(prior.T[None], 12, 0, np.ones((prior.shape[1], 1)), []).weight[0]
    return found @ values[-found.shape[1] :]


def forecast(found, values, origins):
    """What a forecast (of one series) says of rows that follow each origin, (K, H)."""
    windows = np.stack([values[k - found.lags : k] for k in origins], axis=1)
    return found(windows, np.zeros((*windows.shape[:2], 0)), found.lags - 1, found.lags)[0, :, :, 0]


def test_means_of_values_a_period_apart_by_value():
    values = np.arange(12.0) ** 2
    season = drawn_to(start.seasonal(4, 2, 13, 5, moved=False), values)
    np.testing.assert_allclose(season, [(values[8 + h] + values[4 + h]) / 2 for h in (0, 1, 2, 3, 0)])
    moved = drawn_to(start.seasonal(4, 2, 13, 3, moved=True), values)
    apart = values[11] - (values[7] + values[3]) / 2
    np.testing.assert_allclose(moved[:2], [(values[8 + h] + values[4 + h]) / 2 + apart for h in (0, 1)])


def test_an_autoregression_is_fed_back_as_the_baseline_is():
    rng = np.random.default_rng(0)
    values = np.zeros((300, 1))
    for t in range(2, 300):
        values[t] = 0.3 + 1.2 * values[t - 1] - 0.5 * values[t - 2] + rng.standard_normal()
    sums = start.sums_of(values[:, 0], NOTHING[:300], slice(0, 0), np.arange(2, 296), 3, 4)
    every = start.add_up(sums)
    prior = start.Prior("AR", "last value", np.zeros((4, 4)), iterated=True)
    found = start.as_forecast(start.fits(every, 3, 3, [prior])[:, 0, 0].T[None], 3, 0, np.ones((4, 1)), [])
    origins = np.array([100, 200, 299])
    expected = baselines.autoregression(values, origins, 4, 297, 3)[..., 0]
    np.testing.assert_allclose(forecast(found, values, origins), expected, atol=0.1)
    step = np.array([0.3, 0.1, 0.2, -0.4])  # 1, two differences from the last value, that value
    weights = start.iterated(step, 3, 3, 2)
    lags = np.array([2.0, 1.0, -1.0])  # the last value first
    first = lags[0] + 0.3 + 0.1 * (lags[1] - lags[0]) + 0.2 * (lags[2] - lags[0]) - 0.4 * lags[0]
    second = first + 0.3 + 0.1 * (lags[0] - first) + 0.2 * (lags[1] - first) - 0.4 * first
    features = np.array([1, lags[1] - lags[0], lags[2] - lags[0], lags[0]])
    np.testing.assert_allclose(lags[0] + features @ weights, [first, second])


def test_the_season_is_taken_where_it_is_what_repeats():
    rng, t = np.random.default_rng(1), np.arange(400)
    shape = rng.standard_normal(12)
    values = (shape[t % 12] + 0.5 * rng.standard_normal(400))[:, None]
    plain = fit_start(values, NOTHING, 0, [(0, 300)], 6, [8, 16, 48], None)
    found = fit_start(values, NOTHING, 0, [(0, 300)], 6, [8, 16, 48], [12])
    best = next(iter(found.about[0]["scores"]))
    assert "the mean of 4 values 12 apart" in best and found.about[0]["score"] < plain.about[0]["score"]
    origins = np.arange(320, 394)
    came = baselines.truth(values, origins, 6)[..., 0]
    errors = [baselines.rmse(forecast(one, values, origins), came) for one in (found, plain)]
    assert errors[0] < errors[1] and errors[0] < 0.53  # 0.5 is noise


def test_noise_is_forecast_by_its_mean():
    values = np.random.default_rng(2).standard_normal((400, 1))
    found = fit_start(values, NOTHING, 0, [(0, 400)], 4, [4, 8], [])
    assert found.about[0]["score"] < 1.02
    assert np.abs(forecast(found, values, np.array([100, 200]))).max() < 0.3


def test_what_is_told_is_in_the_units_of_the_series():
    about = [{"mean_of": 3, "score": 0.5, "scores": {"AR(4)": 0.51, "ridge on 4 lags": 0.55}}]
    one = LinearForecast(*(np.zeros((1, 2, n)) for n in (4, 0)), *(np.zeros((1, 2, 0)),) * 2, np.ones((2, 1)), about)
    assert one.words(np.array([10.0])) == [
        "the mean of 3 linear forecasts, RMSE 5 by cross-validation (best of each kind: AR(4) 5.1, ridge on 4 lags 5.5)"
    ]


def test_sines_that_are_known_ahead_cost_no_fit_for_each_step():
    rng, t = np.random.default_rng(3), np.arange(400)
    cycle = np.column_stack([np.sin(2 * np.pi * t / 50), np.cos(2 * np.pi * t / 50)])
    values = (cycle @ [1.0, 2.0] + 0.1 * rng.standard_normal(400))[:, None]
    found = fit_start(values, cycle, 2, [(0, 400)], 5, [2, 4], [], cycles=2)
    assert found.ahead.shape == (1, 5, 2) and not found.ahead.any() and found.now.any()
    assert found.unit.max() < 0.12


# -- in a run ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a monthly table of a season of the calendar, and a run of it."""
    folder = tmp_path_factory.mktemp("runs")
    rng, t = np.random.default_rng(0), np.arange(420)
    values = 20 + rng.standard_normal(12)[t % 12] * 3 + rng.standard_normal(420)
    table = pd.DataFrame({"date": pd.date_range("1980-01-01", periods=420, freq="MS"), "value": values.round(3)})
    table.to_csv(folder / "monthly.csv", index=False)
    made = ["train", "series", str(folder / "monthly.csv"), "--epochs", "1", "--hidden-size", "4", "--length", "32"]
    assert main([*made, "--out", str(folder / "run")]) == 0
    return folder


def test_the_weights_lie_with_the_arrays_and_old_descriptions_load(runs):
    path = runs / "run" / "model.safetensors"
    arrays, description = checkpoint.load(path)
    linear = description["model"]["linear"]
    assert linear["weight"].dtype == np.float32 and not any("/" in name for name in arrays)
    packed = checkpoint.pack(arrays, description)
    header = json.loads(packed[8 : 8 + int.from_bytes(packed[:8], "little")])
    assert "model/linear/weight" in header
    assert set(json.loads(header["__metadata__"]["gpu_lstm"])["model"]["linear"]) == {"about"}
    old = {name: value.tolist() for name, value in linear.items() if name != "about"}
    config = description["model"]
    history = np.random.default_rng(1).standard_normal((40, 2, 1)) + 20
    more = {}
    if config.get("inputs"):
        more["future"] = np.zeros((80, 2, config["inputs"]["ahead"]))
    new, from_lists = (Forecaster(**{**config, "linear": one}, backend="numpy") for one in (linear, old))
    np.testing.assert_array_equal(new.forecast(history, **more), from_lists.forecast(history, **more))
    assert from_lists.linear.about == [] and from_lists.linear.words(from_lists.spread) == []


def test_a_run_goes_on_and_evaluate_says_what_it_began_as(runs, capsys):
    assert main(["train", "series", "--resume", str(runs / "run"), "--epochs", "2"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(runs / "run")]) == 0
    assert "start: " in capsys.readouterr().out


def test_the_calendar_has_three_waves_of_the_year(runs):
    made = ["train", "series", str(runs / "monthly.csv"), "--epochs", "1", "--hidden-size", "4", "--length", "32"]
    assert main([*made, "--calendar", "--out", str(runs / "waves")]) == 0
    assert len(checkpoint.load(runs / "waves" / "model.safetensors")[1]["calendar"]) == 6
    assert main(["forecast", str(runs / "waves"), "--steps", "30"]) == 0

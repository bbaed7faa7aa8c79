"""A forecaster beside simple forecasts, on origins that none of them was fitted on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu_lstm.data.baselines import autoregression, persistence, pinball_of, seasonal_mean, seasonal_naive
from gpu_lstm.data.series import Series, deviations
from gpu_lstm.data.start import fit_start
from gpu_lstm.errors import InputError
from gpu_lstm.models import Forecaster
from gpu_lstm.models.backtest import backtest, spaced
from gpu_lstm.models.outcome import LEVELS, SCORED
from gpu_lstm.training.outset import lags_up_to, periods_of, training_ranges
from gpu_lstm.training.tasks.series import score

MOST = 5000
"""The most origins that are measured, evenly spaced."""


SAME = 0.005
"""Errors that differ by no more than this share are called equal."""


@dataclass(frozen=True)
class Comparison:
    """Forecasts (K, H, S) by name, the model's first, with what came."""

    origins: np.ndarray  # (K,) rows
    of: int  # how many origins there are, of which K were taken
    actual: np.ndarray  # (K, H, S), NaN where it was filled in
    forecasts: dict[str, np.ndarray]
    scale: np.ndarray  # (S,): mean absolute error of the naive forecast before the last part, for MASE
    naive: str  # which that is
    units: np.ndarray  # (S,): what errors of several series are weighed by
    levels: tuple[float, ...] = ()
    quantiles: np.ndarray | None = None  # (K, H, S, Q) of the model

    def errors(self, name: str) -> dict[str, np.ndarray]:
        """RMSE, MAE and MASE (S,), and the RMSE of each step ahead (H, S)."""
        error = self.forecasts[name] - self.actual
        absolute = np.nanmean(np.abs(error), axis=(0, 1))
        return {
            "rmse": np.sqrt(np.nanmean(error**2, axis=(0, 1))), "mae": absolute, "mase": absolute / self.scale,
            "by_step": np.sqrt(np.nanmean(error**2, axis=0)),
        }  # fmt: skip

    def scores(self) -> dict[str, float]:
        """One number for each forecast, the RMSE of one series, else `score`."""
        return {name: score(self.errors(name)["rmse"], self.units) for name in self.forecasts}

    def sureness(self) -> tuple[np.ndarray, np.ndarray]:
        """Which share of what came lies below each quantile (Q, S), and the mean pinball loss (S,)."""
        assert self.quantiles is not None, "of a model that says how sure it is"
        below = self.below(self.quantiles).T
        return below, np.nanmean(pinball_of(self.quantiles, self.actual, np.array(self.levels)), axis=(0, 1))

    def below(self, said: np.ndarray) -> np.ndarray:
        """Which share of what came lies below what was said (K, H, S, ...): (S, ...)."""
        actual = self.actual.reshape(*self.actual.shape, *(1,) * (said.ndim - 3))
        return np.asarray(np.nanmean(np.where(np.isnan(actual), np.nan, actual <= said), axis=(0, 1)))


def compare(model: Forecaster, data: Series, parts: tuple[float, float], length: int) -> Comparison:
    """Forecast the last part of each series from each of its steps, knowing `length` steps before.

    The simple forecasts are fitted on all that comes before the last part. Raises InputError where the last part is
    shorter than the horizon.
    """
    known, before = training_ranges(data, parts)
    begins, ends = data.starts[:-1], data.starts[1:]
    cut = data.cuts(parts)[1]
    origins = data.windows(cut, ends, model.horizon)
    origins = origins[data.known(origins) > 0]
    if not len(origins):
        raise InputError(f"series has {(ends - cut).max()} steps to evaluate on; expected at least {model.horizon}")
    taken, actual = data.truth(spaced(origins, MOST), model.horizon)
    if not len(taken):
        raise InputError("series has nothing to evaluate on that was measured: all of it was filled in")
    values = np.asarray(data.values, dtype=np.float64)
    series = values[:, : model.num_series]
    forecasts = {"LSTM": backtest(model, values, taken, length, begins)}
    found = periods_of(series, known)
    forecasts |= simple_forecasts(model, values, taken, data, before, length, found)
    lag = found[0] if found else 1
    steps = [np.abs(series[b + lag : e] - series[b : e - lag]) for b, e in before if e - b > lag]
    scale = np.concatenate(steps).mean(axis=0) if steps else np.ones(series.shape[1])
    levels = model.outcome.quantiles or LEVELS
    said = None
    if not model.outcome.certain:
        levels = model.outcome.quantiles or tuple(sorted({*LEVELS, *SCORED}))
        said = backtest(model, values, taken, length, begins, levels)
    return Comparison(
        taken, len(origins), actual, forecasts, np.where(scale > 0, scale, 1.0),
        f"the value {lag} steps before" if lag > 1 else "the value before", model.unit.mean(axis=0), levels, said,
    )  # fmt: skip


def simple_forecasts(
    model: Forecaster, values: np.ndarray, origins: np.ndarray, data: Series, before: list[tuple[int, int]],
    length: int, periods: tuple[int, ...],
) -> dict[str, np.ndarray]:  # fmt: skip
    """The forecasts to beat, by name, (K, H, S) each."""
    horizon, count = model.horizon, model.num_series
    series, known = values[:, :count], data.known(origins)
    found = {}
    rows = np.concatenate([series[begin:end] for begin, end in before])
    mean, spread = rows.mean(axis=0), np.array(deviations(rows))
    units = (series - mean) / spread
    nothing = np.zeros((len(values), 0))
    ridge = fit_start(units, nothing, 0, before, horizon, lags_up_to(length), None)
    if ridge is not None and known.min() >= ridge.lags:
        windows = np.stack([units[k - ridge.lags : k] for k in origins], axis=1)
        said = ridge(windows, np.zeros((*windows.shape[:2], 0)), ridge.lags - 1, ridge.lags)[0]
        found[f"ridge on {ridge.lags} lags"] = said * spread + mean
    if len(before) == 1 and before[0][0] == 0:
        fitted = before[0][1]
        for order in sorted({24, 60, length}):
            if fitted > 2 * order + 1:
                found[f"AR({order})"] = autoregression(series, origins, horizon, fitted, order)
        for period in periods:
            found[f"mean at each of {period} steps"] = seasonal_mean(series, origins, horizon, fitted, period)
    for period in periods:
        if known.min() >= period:
            found[f"value {period} steps before"] = seasonal_naive(series, origins, horizon, period)
    found["last value"] = persistence(series, origins, horizon)
    return found


def verdict(scores: dict[str, float]) -> str:
    """One line: whether the model, the first of the scores, beats each of the others."""
    (name, own), *others = scores.items()
    better = sorted((value, other) for other, value in others if value < own * (1 - SAME))
    if better:
        return "; ".join(f"{other} is better: {value:.4g} against {own:.4g}" for value, other in better)
    value, other = min((value, other) for other, value in others)
    if value <= own * (1 + SAME):
        return f"the {name} is no better than {other}: {own:.4g} against {value:.4g}"
    return f"the {name} beats each of them; the best is {other}, {value:.4g} against {own:.4g}"

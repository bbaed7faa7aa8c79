"""Forecasting: random windows of one or many series."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.data.baselines import pinball_of, truth
from gpu_lstm.data.series import Series
from gpu_lstm.errors import InputError
from gpu_lstm.layers import Params
from gpu_lstm.layers.checks import check_share
from gpu_lstm.models import Forecaster
from gpu_lstm.models.backtest import backtest, spaced
from gpu_lstm.models.outcome import SCORED
from gpu_lstm.training.tasks.base import Task

VALIDATED = 2000
"""The most origins that are validated on, evenly spaced."""
SURE = 3.0
"""So many standard errors a gain over the linear forecast has to have: a run looks some ten times."""


class WindowsTask(Task):
    """Forecasting: each step takes random windows of one or many series.

    Parameters
    ----------
    model : Forecaster
    values : (N, S + P + F)
        Where there are many series, one after the other; the model's columns.
    batch : int
    length : int
        Known steps of a window, see `known_steps`; the first quarter of them only warms the state up, and so do those
        without which a linear forecast has not all that it looks back to.
    starts : sequence of int
        Where windows to train on may begin.
    origins : (K,) integers
        Where the forecasts to validate on begin.
    loss : {"mse", "mae", "huber"} or None
        As of `Forecaster.loss`.
    seed : int
    begins : (M,) integers
        Where stretches begin that no window lies across, in ascending order.
    actual : (K, horizon, S), optional
        What follows each origin, NaN where that doesn't count; the values if not given.
    """

    model: Forecaster
    item, unit, one_shape = "step", "scaled loss", True

    def __init__(
        self,
        model: Forecaster,
        values: np.ndarray,
        batch: int,
        length: int,
        starts: Sequence[int] | np.ndarray,
        origins: np.ndarray,
        loss: str | None,
        seed: int,
        begins: Sequence[int] | np.ndarray = (0,),
        actual: np.ndarray | None = None,
    ):
        super().__init__(model, seed, max(1, -(-len(starts) // batch)), batch * length, batch)
        outcome = model.outcome
        self.score_unit = "RMSE" if outcome.certain else "CRPS" if outcome.distribution else "twice the pinball loss"
        self._start: np.ndarray | None = None  # errors of the linear forecast that the model starts as
        self.values, self.length, self.loss = values, length, loss
        self.window = known_steps(length, model.linear.lags if model.linear else 0) + model.horizon
        self.starts, self.origins, self.begins = starts, spaced(origins, VALIDATED), np.asarray(begins)
        self.actual = None if actual is None else spaced(actual, VALIDATED)
        self.skip = max(length // 4, model.linear.lags - 1 if model.linear else 0)

    def _batch(self, number: int) -> np.ndarray:
        drawn = np.random.default_rng((*self.seed, number)).integers(0, len(self.starts), self.batch)
        starts = (self.starts[k] for k in drawn[self.rows(self.batch)])
        return np.stack([self.values[start : start + self.window] for start in starts], axis=1)

    def compute(self) -> tuple[Array, Params]:  # noqa: D102
        return self.model.loss(lambda: self._current, self.skip, self.loss, self._step_seed)

    def initial(self) -> float:  # noqa: D102
        if self.model.linear is None or not len(self.origins):
            return super().initial()
        self._start = self.measure()
        return self._total(self._start)

    def remark(self, best: float) -> str:
        """That the LSTM has not made a better forecast, where it hasn't."""
        if self._start is None or best < self._total(self._start):
            return ""
        return "no validation was surely better than the linear forecast that the model begins as, so it is that still"

    def judge(self, measured: Sequence[np.ndarray]) -> tuple[float, str]:
        """Score the forecasts, each series in units of its own, so that none drowns another; see `score`.

        A model that starts as a linear forecast is no better than that until its gain is `SURE` of its standard errors:
        else chance would choose among the scores of a run. What is told is the score as it is.
        """
        model, errors = self.model, np.concatenate(measured)
        total = told = self._total(errors)
        if self._start is not None and gain_in_errors(self._start, errors, model.horizon) < SURE:
            total = max(told, self._total(self._start))
        each = f" (the mean of {model.num_series} series, each in units of its own)" if model.num_series > 1 else ""
        return total, f"{self.score_unit} {told:.4g} over {model.horizon} steps ahead{each}"

    def measure(self) -> np.ndarray:
        """Of each origin and series, (K, S): mean squared errors, or twice the pinball loss of quantiles."""
        model, rows = self.model, self.rows(len(self.origins))
        origins = self.origins[rows.start : rows.stop]
        if not len(origins):
            return np.empty((0, model.num_series))
        if self.actual is None:
            actual = truth(self.values[:, : model.num_series], origins, model.horizon)
        else:
            actual = self.actual[rows.start : rows.stop]
        levels = model.outcome.quantiles or SCORED
        asked = None if model.outcome.certain else levels
        said = backtest(model, self.values, origins, self.length, self.begins, asked, self.batch)
        if asked is None:
            return np.asarray(np.nanmean(np.subtract(said, actual) ** 2, axis=1))
        return np.asarray(2 * np.nanmean(pinball_of(said, actual, np.array(levels)), axis=1))

    def _total(self, errors: np.ndarray) -> float:
        whole = errors.mean(axis=0)
        return score(np.sqrt(whole) if self.model.outcome.certain else whole, self.model.unit.mean(axis=0))


def gain_in_errors(before: np.ndarray, after: np.ndarray, horizon: int) -> float:
    """How much smaller errors (K, S) got, in standard errors of the gain; the K origins follow one another.

    Forecasts from neighbouring origins err alike: so gains are taken as one over as many origins as the horizon has.
    """
    gains = ((before - after) / np.maximum(before.mean(axis=0), 1e-300)).mean(axis=1)
    blocks = [block.mean() for block in np.array_split(gains, max(1, len(gains) // horizon))]
    if len(blocks) < 2:
        return 0.0
    error = float(np.std(blocks, ddof=1)) / len(blocks) ** 0.5
    return float(np.mean(blocks)) / error if error > 0 else 0.0


def known_steps(length: int, lags: int) -> int:
    """Steps of the windows that are trained on: `length`, or what leaves a quarter of that once all lags are known."""
    return max(length, lags - 1 + max(1, length // 4))


def score(errors: np.ndarray, units: np.ndarray) -> float:
    """One number for the errors (S,) of many series: the root mean square of each in its unit, times the mean unit.

    The mean of the units is the geometric one, so a change of one series' unit changes nothing but the whole. Of one
    series it is the error itself.
    """
    typical = np.exp(np.mean(np.log(units)))
    return float(np.sqrt(np.mean((errors / units) ** 2)) * typical)


class SeriesTask(WindowsTask):
    """Forecasting one series, or many: windows of the first part of each.

    Parameters
    ----------
    model, batch, length, loss, seed
        As of `WindowsTask`.
    data : Series or (N, S) array
    parts : (train, validation)
        Shares of the series, in time order; what is left is for `gpu-lstm evaluate`.
    """

    def __init__(
        self,
        model: Forecaster,
        data: Series | np.ndarray,
        batch: int,
        length: int,
        parts: tuple[float, float],
        loss: str | None,
        seed: int,
    ):
        names = [str(s) for s in range(model.num_series)]
        series = data if isinstance(data, Series) else Series(names, data)
        check_parts(parts)
        train, validation = series.cuts(parts)
        begins = series.starts[:-1]
        self.train_end, self.validation_end = int(train[-1]), int(validation[-1])
        steps = known_steps(length, model.linear.lags if model.linear else 0)
        starts = series.windows(begins, train, steps + model.horizon)
        if not len(starts):
            raise InputError(
                f"series has {(train - begins).max()} steps to train on; "
                f"expected at least length + horizon = {steps + model.horizon}"
            )
        origins = series.windows(train, validation, model.horizon)
        origins = origins[series.known(origins) > 0]
        if not len(origins):
            raise InputError(
                f"series has {(validation - train).max()} steps to validate on; "
                f"expected at least horizon = {model.horizon}"
            )
        origins, actual = series.truth(origins, model.horizon)
        if not len(origins):
            raise InputError("series has nothing to validate on that was measured: all of it was filled in")
        super().__init__(model, series.values, batch, length, starts, origins, loss, seed, begins, actual)


def check_parts(parts: tuple[float, float]) -> None:
    """Raise InputError where a share is not in (0, 1), or both together are above 1."""
    train, validation = (check_share(name, part) for name, part in zip(("train", "validation"), parts, strict=True))
    if train + validation > 1:
        raise InputError(f"train and validation shares are {train} and {validation}; expected at most 1 together")


def split_series(steps: int, parts: tuple[float, float]) -> tuple[int, int]:
    """Ends of the training and of the validation part of a series; raises as `check_parts`."""
    check_parts(parts)
    return int(steps * parts[0]), int(steps * (parts[0] + parts[1]))

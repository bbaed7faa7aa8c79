"""`LSTMForecaster`, the scikit-learn estimator of series; see `gpu_lstm.interop.sklearn`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np

from gpu_lstm.data.baselines import rmse, truth
from gpu_lstm.interop.sklearn_base import LSTMEstimator
from gpu_lstm.layers.checks import check_share, check_size
from gpu_lstm.models import Forecaster
from gpu_lstm.models.backtest import backtest
from gpu_lstm.training.outset import STEPS, outset_of, periods_of
from gpu_lstm.training.tasks import WindowsTask
from gpu_lstm.training.tasks.series import known_steps

# isort: split
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted


@dataclass(kw_only=True, eq=False, repr=False)
class LSTMForecaster(LSTMEstimator):
    """Forecasts one series or many: what comes after the last row of X.

    Rows of X are steps in time order, columns are series that are forecast together. No other scaling is needed: the
    model sees changes and deviations from a slow mean, in units of the training data's spread. With `early_stopping`,
    the end of each series is held out, and the model stays the linear forecast that it begins as until it errs surely
    less there. Parameters are those of `LSTMEstimator`, and

    Parameters
    ----------
    max_iter : int or None
        Epochs; None: as many as make about 500 steps.
    horizon : int
        Steps ahead at once; `predict` goes further by feeding its forecasts back.
    window : int
        Known steps that a forecast is trained to build on; fewer where the series are shorter.
    memory : int
        Steps of the slow mean.
    linear : {"auto", "ridge", "none"}
        What the LSTM corrects: the linear forecast that cross-validation finds best, a ridge regression on the window's
        values, or the last value.
    past, future : sequence of int or str
        Columns of X that are no series to forecast but inputs: known up to now, and known ahead, too.
    loss : {"mse", "mae", "huber"}
        Of a forecaster of values alone.
    quantiles : sequence of float, optional
        Learn these, 0.5 among them, for `predict_quantiles`.
    distribution : {"gaussian", "student"}, optional
        Learn its location and scale, for `predict_quantiles`.

    Attributes
    ----------
    history_ : list of arrays
        The last `window` steps of each series seen, which `predict` without X goes on from.

    Examples
    --------
    >>> from gpu_lstm.interop.sklearn import LSTMForecaster
    >>> x = np.sin(np.arange(300.0) / 4)[:, None]
    >>> model = LSTMForecaster(horizon=8, window=32, hidden_size=8, max_iter=2, backend="numpy", random_state=0).fit(x)
    >>> model.predict(steps=20).shape
    (20, 1)
    """

    learning_rate: float = 1e-3
    max_iter: int | None = None
    early_stopping: bool = True
    horizon: int = 8
    window: int = 128
    memory: int = 24
    linear: str = "auto"
    past: Any = ()
    future: Any = ()
    loss: str = "mse"
    quantiles: Any = None
    distribution: str | None = None

    _makes: ClassVar[tuple[str, ...]] = (
        *LSTMEstimator._makes, "horizon", "memory", "linear", "past", "future", "quantiles", "distribution",
    )  # fmt: skip

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on one series or many.

        Parameters
        ----------
        X : (steps, S), or many series: (N, steps, S) or a list of (steps_n, S)
        y : ignored
        """
        with self._all_or_nothing():
            self._fit(X, more=False)
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Train one epoch more on X, whatever y is, at a constant learning rate; the first call settles the units."""
        with self._all_or_nothing():
            self._fit(X, more=True)
        return self

    def predict(self, X: Any = None, steps: int | None = None, future: Any = None) -> np.ndarray:
        """Forecast.

        Parameters
        ----------
        X : (known, S + P + F), or many histories: (N, known, S + P + F) or a list of (known_n, S + P + F); optional
            What is known, in time order; the last `window` steps of it count. Not given: what training ended with.
        steps : int, optional
            How far; `horizon` if not given.
        future : (K, F), or (N, K, F) or a list of (K, F) for many; optional
            Of a forecaster with inputs that are known ahead, those of the next K steps, `steps` rounded up to whole
            horizons, in the order of `future`.

        Returns
        -------
        (steps, S), or (N, steps, S) for many
        """
        check_is_fitted(self)
        steps = self.model_.horizon if steps is None else check_size("steps", steps)
        return self._from_histories(
            X, future, lambda *known: self.model_.forecast(known[0], steps, *known[1:]).swapaxes(0, 1)
        )

    def predict_quantiles(self, X: Any = None, levels: Any = None, future: Any = None) -> np.ndarray:
        """Forecast quantiles of the next `horizon` steps.

        Parameters
        ----------
        X, future : as of `predict`
        levels : Q numbers, optional
            Which quantiles; those learned, or of a distribution 0.1, 0.5 and 0.9.

        Returns
        -------
        (horizon, Q, S), or (N, horizon, Q, S) for many
        """
        check_is_fitted(self)
        return self._from_histories(
            X, future, lambda *known: self.model_.forecast_quantiles(known[0], levels, *known[1:]).swapaxes(0, 1)
        )

    def _from_histories(self, X: Any, future: Any, say: Callable[..., np.ndarray]) -> np.ndarray:
        """Return what `say` makes of histories and their inputs, (known, B, ...) each, those of one length together."""
        model, many, histories = self.model_, self._many, self.history_
        if X is not None:
            series, many = self._series(X, reset=False)
            histories = [part[-self.window :] for part in series]
        ahead = [np.zeros((0, model.num_ahead))] * len(histories)
        if future is not None:
            ahead = [
                check_array(part, dtype=np.float64, input_name="future") for part in (future if many else [future])
            ]
        if len(ahead) != len(histories):
            raise ValueError(
                f"future is of {len(ahead)} series; expected {len(histories)}, as many as there are histories"
            )
        said: list[Any] = [None] * len(histories)
        lengths = np.array([len(part) for part in histories])
        for length in np.unique(lengths):
            same = np.flatnonzero(lengths == length)
            known = np.stack([histories[n] for n in same], axis=1)
            first, last = model.num_series, model.num_columns - model.num_ahead
            past = known[..., first:last] if last > first else None
            rest = np.stack([ahead[n] for n in same], axis=1)
            given = np.concatenate([known[..., last:], rest]) if future is not None else None
            for n, one in zip(same, say(known[..., :first], past, given), strict=True):
                said[n] = one
        return np.stack(said) if many else np.asarray(said[0])

    def score(self, X: Any, y: Any = None) -> float:
        """Return minus the RMSE of forecasts over all `horizon` steps ahead, in X's own units; y isn't used.

        Forecasts are made from every step of X that has `window` steps before it, or half of what X has where that is
        shorter.
        """
        check_is_fitted(self)
        horizon = self.model_.horizon
        said, came = [], []
        for part in self._series(X, reset=False)[0]:
            known = min(self.window, max(1, (len(part) - horizon + 1) // 2))
            if len(part) < known + horizon:
                raise ValueError(f"X has a series of {len(part)} steps; expected more than horizon = {horizon}")
            origins = np.arange(known, len(part) - horizon + 1)
            said.append(backtest(self.model_, part, origins, known))
            came.append(truth(part[:, : self.model_.num_series], origins, horizon))
        return -rmse(np.concatenate(said), np.concatenate(came))

    def _series(self, X: Any, reset: bool) -> tuple[list[np.ndarray], bool]:
        """Return the series of X, their columns in the model's order, and whether X is a list of them."""
        rows, lengths = self._read(X, reset)
        past, future = (self._places(name) for name in ("past", "future"))
        inputs = {*past, *future}
        if len(inputs) < len(past) + len(future) or len(inputs) == rows.shape[1]:
            raise ValueError(
                f"past is {self.past}, future {self.future}; expected other columns, and some left to forecast"
            )
        targets = [k for k in range(rows.shape[1]) if k not in (*past, *future)]
        rows = rows[:, [*targets, *past, *future]]
        if lengths is None:
            return [rows], False
        return np.split(rows, np.cumsum(lengths)[:-1]), True

    def _places(self, name: str) -> list[int]:
        """Return the numbers of the columns that `past` or `future` name."""
        names, found = list(getattr(self, "feature_names_in_", ())), []
        for column in getattr(self, name):
            place = names.index(column) if column in names else column
            if not isinstance(place, int | np.integer) or not 0 <= place < self.n_features_in_:
                raise ValueError(
                    f"{name} has {column!r}; expected a column of X: {names or f'0..{self.n_features_in_ - 1}'}"
                )
            found.append(int(place))
        return found

    def _epochs(self, steps: int) -> int:
        return max(1, round(STEPS / steps))

    def _fit(self, X: Any, more: bool) -> None:
        goes_on = self._goes_on(more)
        series, many = self._series(X, reset=not goes_on)
        horizon = self.model_.horizon if goes_on else check_size("horizon", self.horizon)
        ends = [len(part) for part in series]
        if self.early_stopping and not more:
            share = check_share("validation_fraction", self.validation_fraction)
            ends = [end - max(horizon, int(end * share)) for end in ends]
        if min(ends) < horizon + 2:
            raise ValueError(
                f"X has n_samples={min(len(part) for part in series)}, of which {min(ends)} to train on; "
                f"expected at least horizon + 2 = {horizon + 2}"
            )
        values = np.concatenate(series)
        begins = np.cumsum([0, *map(len, series)])[:-1]
        length, seed = min(check_size("window", self.window), min(ends) - horizon), self._seed(more)
        model = self.model_ if goes_on else self._make_model(values, begins, ends, length, seed)
        window = known_steps(length, model.linear.lags if model.linear else 0) + horizon
        starts, origins = [], []
        for begin, end, part in zip(begins, ends, series, strict=True):
            starts.append(begin + np.arange(end - window + 1))
            origins.append(begin + np.arange(end, len(part) - horizon + 1))
        task = WindowsTask(
            model, values, check_size("batch_size", self.batch_size), length,
            np.concatenate(starts).tolist(), np.concatenate(origins),
            self.loss if model.outcome.certain else None, seed, begins,
        )  # fmt: skip
        self._train(task, more)
        self.history_ = [part[-self.window :].copy() for part in series]
        self._many = many

    def _make_model(
        self, values: np.ndarray, begins: np.ndarray, ends: Sequence[int], length: int, seed: int
    ) -> Forecaster:
        if self.linear not in ("auto", "ridge", "none"):
            raise ValueError(f"linear is {self.linear!r}; expected auto, ridge or none")
        num_ahead = len(self._places("future"))
        num_series = values.shape[1] - len(self._places("past")) - num_ahead
        ranges = [(int(begin), int(begin + end)) for begin, end in zip(begins, ends, strict=True)]
        both = list(pairwise([*begins.tolist(), len(values)]))
        shortest = min(ends) - self.horizon  # known steps and lags that all series have
        given = outset_of(
            values, (num_series, num_ahead, 0), ranges, both, self.horizon, min(length, max(2, shortest * 4 // 5)),
            self.linear, periods_of(values[:, :num_series], ranges) if self.linear == "auto" else (),
        )  # fmt: skip
        sure: dict[str, Any] = {"quantiles": tuple(self.quantiles or ()), "distribution": self.distribution or ""}
        return Forecaster(**given, memory=self.memory, **sure, **self._of_lstm(), seed=seed)

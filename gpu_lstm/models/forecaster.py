"""Forecaster: an LSTM that says, at every step, how the next `horizon` values will differ from a simple forecast."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Unpack

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.data.linear import LinearForecast
from gpu_lstm.errors import InputError
from gpu_lstm.layers import LSTM, Dropout, Linear, Params
from gpu_lstm.layers.base import training_seed
from gpu_lstm.layers.checks import check_size
from gpu_lstm.losses.probabilistic import LOG_SCALES
from gpu_lstm.models.arguments import Where, arguments, check_host, numbers
from gpu_lstm.models.base import Model, gather
from gpu_lstm.models.outcome import LEVELS, Outcome, check_levels


class Forecaster(Model):
    """Forecasts S series together, `horizon` steps at once.

    Inputs are the change since the step before and the deviation from a slow running mean, both in units of
    the training data's spread; outputs are changes against the last value, or against a linear forecast. So a series
    may drift to levels that training never saw.

    Columns of values are the S series, then P inputs known up to now, then F inputs known ahead. At each step the LSTM
    gets all inputs of that step, and of the next `horizon` ones those known ahead.

    Parameters
    ----------
    mean, spread, step_spread : S numbers each
        Of the training data: mean, standard deviation, standard deviation of the changes from step to step.
    horizon : int
        Steps ahead at once; `forecast` goes further by feeding its forecasts back.
    memory : int
        Steps of the slow running mean.
    hidden_size, num_layers : int
    dropout : float
    lstm : dict, optional
        Options of the LSTM family by name, as `gpu_lstm.LSTM` takes them.
    linear : dict, optional
        What `LinearForecast.plain` gives: the forecast that the LSTM corrects, from its errors' spread on. The model
        starts as this. Without it, that is the last value.
    inputs : dict, optional
        ``mean`` and ``spread``, P + F numbers each, and ``ahead``, how many of them are known ahead, the last ones.
    quantiles : sequence of float, optional
        Say these quantiles, 0.5 among them, by the pinball loss. Those that cross are sorted.
    distribution : {"gaussian", "student"}, optional
        Say location and scale of this distribution, by its likelihood.
    backend, dtype, tier, recompute, seed
        As of the layers.

    Examples
    --------
    >>> model = Forecaster([10.0], [2.0], [1.0], horizon=6, hidden_size=8, backend="numpy")
    >>> history = 10 + np.sin(np.arange(100.0)).reshape(100, 1, 1)  # (T, B, S)
    >>> model.forecast(history, 6).shape
    (6, 1, 1)
    """

    kind: ClassVar[str] = "series"

    def __init__(
        self,
        mean: Sequence[float],
        spread: Sequence[float],
        step_spread: Sequence[float],
        horizon: int = 12,
        memory: int = 24,
        hidden_size: int = 64,
        num_layers: int = 1,
        dropout: float = 0.0,
        lstm: Mapping[str, Any] | None = None,
        linear: dict[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        quantiles: Sequence[float] = (),
        distribution: str = "",
        **where: Unpack[Where],
    ):
        config: dict[str, Any] = {
            "mean": numbers("mean", mean), "spread": numbers("spread", spread, mean),
            "step_spread": numbers("step_spread", step_spread, mean), "horizon": check_size("horizon", horizon),
            "memory": memory, "hidden_size": hidden_size, "num_layers": num_layers, "dropout": dropout,
            "lstm": lstm or {},
        }  # fmt: skip
        inputs = _checked_inputs(inputs) if inputs else None
        check_levels("quantiles", quantiles)
        more = {"linear": linear, "inputs": inputs, "quantiles": list(quantiles), "distribution": distribution}
        config |= {name: value for name, value in more.items() if value}
        self.mean, self.spread, self.step_spread = (
            np.array(config[name]) for name in ("mean", "spread", "step_spread")
        )
        self.num_series = len(self.mean)
        self.horizon, self.memory = config["horizon"], check_size("memory", memory)
        self.outcome = Outcome(tuple(quantiles), distribution)
        self.linear = LinearForecast.of(linear) if linear else None
        self.unit = np.tile(self.spread, (horizon, 1))  # (horizon, S): of what the head says
        if self.linear:
            unit = self.linear.unit
            even = np.sqrt(np.mean(unit**2, axis=0)) + np.zeros_like(unit)  # far steps err more, and count more
            self.unit = self.spread * (even if self.outcome.certain else unit)
        given = inputs or {"mean": [], "spread": [], "ahead": 0}
        self.input_mean, self.input_spread = np.array(given["mean"]), np.array(given["spread"])
        self.num_inputs, self.num_ahead = len(self.input_mean), given["ahead"]
        of_all, of_lstm, seeds = arguments(lstm, **where)
        width = 2 * self.num_series + self.num_inputs + self.num_ahead * horizon
        self.lstm = LSTM(width, hidden_size, num_layers, dropout=dropout, **of_lstm, seed=seeds[0])
        self.dropout = Dropout(dropout, **of_all)
        outputs = self.outcome.parts * self.num_series * horizon
        self.head = Linear(self.lstm.output_size, outputs, wide=True, **of_all, seed=seeds[1])
        if self.linear or not self.outcome.certain:  # the simple forecast, and how sure that is, is where it starts
            start = np.repeat(self.outcome.start, self.num_series * horizon).astype(self.head.param_dtype)
            self.head.params["weight"][...] = 0
            self.head.params["bias"][...] = self.head.backend.asarray(start, self.head.param_dtype)
        super().__init__({"lstm": self.lstm, "head": self.head}, config)

    @property
    def num_columns(self) -> int:
        """S + P + F: columns of what the model is given."""
        return self.num_series + self.num_inputs

    def features(self, values: np.ndarray) -> Array:
        """Inputs of the LSTM from values (T, B, S + P + F) in the data's own units.

        (T, B, 2 S + P + F), or (T - horizon, B, 2 S + P + (horizon + 1) F) where some are known ahead.
        """
        steps = len(values) - (self.horizon if self.num_ahead else 0)
        return self.backend.asarray(self._features(values, steps), self.dtype)

    def _features(self, values: np.ndarray, steps: int) -> np.ndarray:
        """`features` of the first steps, on the host."""
        values = np.asarray(values, dtype=np.float64)  # differences of unsigned numbers would wrap around
        inputs, values = self._inputs(values), values[:steps, :, : self.num_series]
        change = np.diff(values, axis=0, prepend=values[:1]) / self.step_spread
        deviation = (values - slow_mean(values, self.memory)) / self.spread
        parts = [change, deviation, inputs[:steps]]
        if self.num_ahead:
            ahead = inputs[..., self.num_inputs - self.num_ahead :]
            parts += [ahead[k : k + steps] for k in range(1, self.horizon + 1)]
        joined: np.ndarray = np.concatenate(parts, axis=2)
        return joined.astype(self.param_dtype)

    def _inputs(self, values: np.ndarray) -> np.ndarray:
        """Inputs (T, B, P + F) among values (T, B, S + P + F), standardised."""
        return np.asarray((values[..., self.num_series :] - self.input_mean) / self.input_spread)

    def simple(self, values: np.ndarray, first: int, steps: int) -> np.ndarray:
        """The forecast that the LSTM corrects, at steps `first` to `steps` of values (T, B, S + P + F).

        (steps - first, B, horizon, S), in the data's own units, float64.
        """
        values = np.asarray(values, dtype=np.float64)
        series = values[..., : self.num_series]
        if self.linear is None:
            return np.repeat(series[first:steps, :, None, :], self.horizon, axis=2)
        known = (series[:steps] - self.mean) / self.spread
        return np.asarray(self.linear(known, self._inputs(values), first, steps) * self.spread + self.mean)

    def targets(self, values: np.ndarray, first: int = 0) -> np.ndarray:
        """What the head should say from step `first` on, (T - horizon - first, B, horizon S).

        `values` is (T, B, S + P + F).
        """
        values = np.asarray(values, dtype=np.float64)
        steps = values.shape[0] - self.horizon
        series = values[..., : self.num_series]
        ahead = np.stack([series[first + k : steps + k] for k in range(1, self.horizon + 1)], axis=2)
        change: np.ndarray = (ahead - self.simple(values, first, steps)) / self.unit
        return change.reshape(steps - first, values.shape[1], -1)

    def loss(
        self,
        values: np.ndarray | Callable[[], np.ndarray],
        skip: int,
        loss: str | None = None,
        seed: int | tuple[int, ...] | None = None,
    ) -> tuple[Array, Params]:
        """Loss and gradients of a batch of windows.

        Parameters
        ----------
        values : (T, B, S + P + F)
            In the data's own units, on the host; or a function that gives them, for `Backend.record`.
        skip : int
            First steps of a window, whose forecasts don't count: too little is known by then.
        loss : {"mse", "mae", "huber"}
            Of a model that says values alone; "mse" if not given.
        seed : int or tuple of int, optional
            Seeds dropout; None turns it off.

        Raises
        ------
        InputError
            The values or the loss can't be used.
        """
        seed = training_seed(seed)

        columns = f"S+P+F={self.num_columns}" if self.num_inputs else f"S={self.num_series}"

        def given() -> np.ndarray:
            return check_host("values", values() if callable(values) else values, ("T", "B", columns))

        num_values = given().shape[0]
        steps = num_values - self.horizon
        if check_size("skip", skip, 0) >= steps:
            raise InputError(f"values has {num_values} steps; expected more than skip + horizon")
        x = self.backend.asarray(self.backend.upload(lambda: self._features(given(), steps)), self.dtype)
        h, _, lstm_tape = self.lstm.forward(x, seed=seed, guard=False)
        counted, dropout_tape = self.dropout.forward(h[skip:, ...], None if seed is None else (*seed, 0))
        prediction, head_tape = self.head.forward(counted, guard=False)
        target = self.backend.upload(lambda: self.targets(given(), skip).astype(self.param_dtype))
        value, dprediction = self.outcome.loss(self.backend, prediction, target, loss)
        dcounted, head = self.head.backward(head_tape, self.scaled(dprediction))
        dh = self.backend.xp.zeros_like(h)
        dh[skip:, ...] = self.dropout.backward(dropout_tape, dcounted)[0]
        _, _, lstm = self.lstm.backward(lstm_tape, dh)
        return value, gather({"lstm": lstm, "head": head})

    def forecast(
        self,
        history: np.ndarray,
        steps: int | None = None,
        past: np.ndarray | None = None,
        future: np.ndarray | None = None,
    ) -> np.ndarray:
        """Continue histories: the mean or, of a model with quantiles or a distribution, the median.

        Parameters
        ----------
        history : (T, B, S)
            Known values, in the data's own units.
        steps : int, optional
            How far; `horizon` if not given. Further than that, forecasts are fed back as if they were known, which a
            model with inputs known in the past only can't do.
        past : (T, B, P), optional
            Inputs known up to now, of a model that has some.
        future : (T + N, B, F), optional
            Inputs known ahead, with N at least `steps` rounded up to whole horizons.

        Returns
        -------
        (steps, B, S)
        """
        steps = self.horizon if steps is None else check_size("steps", steps)
        rounds = -(-steps // self.horizon)
        known, ahead = self._known(history, rounds, past, future)
        for _ in range(rounds):
            said = self.outcome.middle(self.says(known, ahead))
            size, place = self.num_inputs - self.num_ahead, len(known) + np.arange(self.horizon)
            blank = np.zeros((self.horizon, known.shape[1], size))
            more = ahead[place] if self.num_ahead else np.zeros((self.horizon, known.shape[1], 0))
            known = np.concatenate([known, np.concatenate([said, blank, more], axis=2)])
        return known[len(history) : len(history) + steps, :, : self.num_series]

    def forecast_quantiles(
        self,
        history: np.ndarray,
        levels: Sequence[float] | None = None,
        past: np.ndarray | None = None,
        future: np.ndarray | None = None,
    ) -> np.ndarray:
        """Quantiles (horizon, B, Q, S) of what comes next, those of `levels` (Q,), by default the model's own.

        A distribution has any, by default 0.1, 0.5 and 0.9. The rest (history, past, future) is as of `forecast`. There
        are none beyond the horizon: forecasts that are fed back are taken for certain, intervals would be too narrow.
        """
        if levels is None:
            levels = self.outcome.quantiles or LEVELS
        return self.outcome.at(self.says(*self._known(history, 1, past, future)), levels)

    def says(self, known: np.ndarray, ahead: np.ndarray | None = None, first: int | None = None) -> np.ndarray:
        """What the model says at steps `first` and after of histories, by default at the last one alone.

        Parameters
        ----------
        known : (T, B, S + P + F)
        ahead : (T + horizon or more, B, F), optional
            Of a model with inputs known ahead, all of them.
        first : int, optional

        Returns
        -------
        (horizon, B, parts, S), or (T - first, horizon, B, parts, S)
            Float64 in the data's own units, the scale's logarithm of a distribution, too.
        """
        steps, start = known.shape[0], known.shape[0] - 1 if first is None else first
        if self.num_ahead:
            assert ahead is not None, "of a model with inputs known ahead"
            rest = np.zeros((self.horizon, *known.shape[1:]))
            known = np.concatenate([known, rest])
            known[..., known.shape[2] - self.num_ahead :] = ahead[: len(known)]
        x = self.backend.asarray(self._features(known, steps), self.dtype)
        h, _, _ = self.lstm.forward(x, keep=False)
        given = h[-1, ...] if first is None else h[start:, ...]
        said = self.backend.to_numpy(self.head.forward(given, keep=False)[0]).astype(np.float64)
        said = said.reshape(steps - start, -1, self.outcome.parts, self.horizon, self.num_series)
        said = said.transpose(0, 3, 1, 2, 4)
        simple = self.simple(known, start, steps).transpose(0, 2, 1, 3)[:, :, :, None, :]
        unit = self.unit[:, None, None, :]
        if self.outcome.distribution:
            held = np.clip(said[..., 1:, :], *LOG_SCALES)  # as the loss takes them, before they are in the data's units
            both = [simple + said[..., :1, :] * unit, held + np.log(unit)]
            found = np.concatenate(both, axis=3)
        else:
            found = simple + said * unit
        return found[0] if first is None else found

    def _known(
        self, history: np.ndarray, rounds: int, past: np.ndarray | None, future: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """History with its inputs, (T, B, S + P + F) float64, and all inputs known ahead, (T + N, B, F)."""
        history = check_host("history", history, ("T", "B", f"S={self.num_series}"))
        steps, batch = history.shape[:2]
        sizes = {"past": self.num_inputs - self.num_ahead, "future": self.num_ahead}
        if rounds > 1 and sizes["past"]:
            raise InputError(
                f"steps is above horizon = {self.horizon}, and some inputs are known in the past only; expected no more"
            )
        parts = [history.astype(np.float64)]
        for name, array in (("past", past), ("future", future)):
            if (array is not None) != (sizes[name] > 0):
                has = f"{sizes[name]} of them" if sizes[name] else "none"
                raise InputError(f"{name} is {'given' if array is not None else 'not given'}; the model has {has}")
            least = steps + (rounds * self.horizon if name == "future" else 0)
            if array is None:
                parts.append(np.zeros((least, batch, 0)))
                continue
            array = check_host(name, array, ("T", f"B={batch}", f"{name}={sizes[name]}"))
            if len(array) < least:
                ahead = f", {least - steps} of them after the history's {steps}" if name == "future" else ""
                raise InputError(f"{name} has {len(array)} steps; expected {least}{ahead}")
            parts.append(array.astype(np.float64))
        return np.concatenate([part[:steps] for part in parts], axis=2), parts[2]


def _checked_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What a model is told of its inputs; raises InputError where something is missing or doesn't fit."""
    if not isinstance(inputs, Mapping) or inputs.keys() != {"mean", "spread", "ahead"}:
        raise InputError(f"inputs is {inputs!r}; expected mean, spread and ahead by name")
    mean, ahead = numbers("inputs mean", inputs["mean"]), check_size("inputs ahead", inputs["ahead"], 0)
    if ahead > len(mean):
        raise InputError(f"inputs ahead is {ahead}; expected at most {len(mean)}, as many as mean has")
    return {"mean": mean, "spread": numbers("inputs spread", inputs["spread"], mean), "ahead": ahead}


def slow_mean(values: np.ndarray, memory: int) -> np.ndarray:
    """Running mean (T, ...) of values (T, ...): the plain mean of the first `memory` steps, then an exponential one."""
    slow = np.empty_like(values)
    slow[0] = values[0]
    for t in range(1, len(values)):
        slow[t] = slow[t - 1] + (values[t] - slow[t - 1]) / min(t + 1, memory)
    return slow

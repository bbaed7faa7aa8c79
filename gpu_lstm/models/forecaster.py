"""Forecaster: an LSTM that says, at every step, how the next `horizon` values will differ from this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Unpack

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.errors import InputError
from gpu_lstm.layers import LSTM, Dropout, Linear, Params
from gpu_lstm.layers.base import training_seed
from gpu_lstm.layers.checks import check_size
from gpu_lstm.losses import REGRESSION
from gpu_lstm.models.arguments import Where, arguments, check_host, numbers
from gpu_lstm.models.base import Model, gather


class Forecaster(Model):
    """Forecasts S series together, `horizon` steps at once.

    Inputs are the change since the step before and the deviation from a slow running mean, both in units of
    the training data's spread; outputs are changes against the last value. So a series may drift to levels
    that training never saw.

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
    backend, dtype, tier, recompute, seed
        As of the layers.
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
        **where: Unpack[Where],
    ):
        config: dict[str, Any] = {
            "mean": numbers(mean), "spread": numbers(spread), "step_spread": numbers(step_spread), "horizon": horizon,
            "memory": memory, "hidden_size": hidden_size, "num_layers": num_layers, "dropout": dropout,
            "lstm": dict(lstm or {}),
        }  # fmt: skip
        self.mean, self.spread, self.step_spread = (
            np.array(config[name]) for name in ("mean", "spread", "step_spread")
        )
        self.num_series = len(self.mean)
        self.horizon, self.memory = check_size("horizon", horizon), check_size("memory", memory)
        of_all, of_lstm, seeds = arguments(lstm, **where)
        self.lstm = LSTM(2 * self.num_series, hidden_size, num_layers, dropout=dropout, **of_lstm, seed=seeds[0])
        self.dropout = Dropout(dropout, **of_all)
        self.head = Linear(self.lstm.output_size, self.num_series * horizon, wide=True, **of_all, seed=seeds[1])
        super().__init__({"lstm": self.lstm, "head": self.head}, config)

    def features(self, values: np.ndarray) -> Array:
        """Inputs (T, B, 2 S) from values (T, B, S) in the data's own units."""
        return self.backend.asarray(self._features(values), self.dtype)

    def _features(self, values: np.ndarray) -> np.ndarray:
        """`features` on the host."""
        values = np.asarray(values, dtype=np.float64)  # differences of unsigned numbers would wrap around
        change = np.diff(values, axis=0, prepend=values[:1]) / self.step_spread
        slow = np.empty_like(values)
        slow[0] = values[0]
        for t in range(1, len(values)):
            slow[t] = slow[t - 1] + (values[t] - slow[t - 1]) / min(t + 1, self.memory)
        deviation = (values - slow) / self.spread
        both: np.ndarray = np.concatenate([change, deviation], axis=2)
        return both.astype(self.param_dtype)

    def targets(self, values: np.ndarray) -> np.ndarray:
        """What the head should say at each step, (T - horizon, B, horizon S), from values (T, B, S)."""
        values = np.asarray(values, dtype=np.float64)
        steps = values.shape[0] - self.horizon
        ahead = np.stack([values[k : k + steps] for k in range(1, self.horizon + 1)], axis=2)
        change: np.ndarray = (ahead - values[:steps, :, None, :]) / self.spread
        return change.reshape(steps, values.shape[1], -1)

    def loss(
        self,
        values: np.ndarray | Callable[[], np.ndarray],
        skip: int,
        loss: str = "mse",
        seed: int | tuple[int, ...] | None = None,
    ) -> tuple[Array, Params]:
        """Loss and gradients of a batch of windows.

        Parameters
        ----------
        values : (T, B, S)
            In the data's own units, on the host; or a function that gives them, for `Backend.record`.
        skip : int
            First steps of a window, whose forecasts don't count: too little is known by then.
        loss : {"mse", "mae", "huber"}
        seed : int or tuple of int, optional
            Seeds dropout; None turns it off.
        """
        seed = training_seed(seed)
        if loss not in REGRESSION:
            raise InputError(f"loss is {loss!r}; expected one of {', '.join(REGRESSION)}")

        def given() -> np.ndarray:
            found = values() if callable(values) else values
            return check_host("values", found, ("T", "B", f"S={self.num_series}"))

        num_values = given().shape[0]
        steps = num_values - self.horizon
        if not 0 <= skip < steps:
            raise InputError(f"values has {num_values} steps; expected more than skip + horizon")
        x = self.backend.asarray(self.backend.upload(lambda: self._features(given()[:steps])), self.dtype)
        h, _, lstm_tape = self.lstm.forward(x, seed=seed, guard=False)
        counted, dropout_tape = self.dropout.forward(h[skip:, ...], None if seed is None else (*seed, 0))
        prediction, head_tape = self.head.forward(counted, guard=False)
        target = self.backend.upload(lambda: self.targets(given())[skip:].astype(self.param_dtype))
        value, dprediction = REGRESSION[loss](self.backend, prediction, target)
        dcounted, head = self.head.backward(head_tape, self.scaled(dprediction))
        dh = self.backend.xp.zeros_like(h)
        dh[skip:, ...] = self.dropout.backward(dropout_tape, dcounted)[0]
        _, _, lstm = self.lstm.backward(lstm_tape, dh)
        return value, gather({"lstm": lstm, "head": head})

    def forecast(self, history: np.ndarray, steps: int | None = None) -> np.ndarray:
        """Continue histories.

        Parameters
        ----------
        history : (T, B, S)
            Known values, in the data's own units.
        steps : int, optional
            How far; `horizon` if not given. Further than that, forecasts are fed back as if they were known.

        Returns
        -------
        (steps, B, S)
        """
        steps = self.horizon if steps is None else check_size("steps", steps)
        history = check_host("history", history, ("T", "B", f"S={self.num_series}"))
        known = np.asarray(history, dtype=np.float64)
        while known.shape[0] < history.shape[0] + steps:
            h, _, _ = self.lstm.forward(self.features(known), keep=False)
            change = self.backend.to_numpy(self.head.forward(h[-1, ...], keep=False)[0]).astype(np.float64)
            change = change.reshape(-1, self.horizon, self.num_series).transpose(1, 0, 2)
            known = np.concatenate([known, known[-1:] + change * self.spread])
        return known[history.shape[0] : history.shape[0] + steps]

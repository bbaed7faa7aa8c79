"""The linear forecast: what comes next as a weighted sum of what was last and of inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np


@dataclass(frozen=True)
class LinearForecast:
    """A direct forecast of S series, for each of the next H steps a weighted sum of the last L values and of inputs.

    Everything is in units of the training data: values less the mean, over the spread. Where G is 1, all series share
    their weights.
    """

    weight: np.ndarray  # (G, H, L): of the values, the oldest first
    bias: np.ndarray  # (G, H)
    now: np.ndarray  # (G, H, P + F): of the inputs at the last known step
    ahead: np.ndarray  # (G, H, F): of the inputs known ahead, at the step that is forecast
    unit: np.ndarray  # (H, S): root of its mean squared error where it was left out of the fit
    about: list[dict[str, Any]] = field(default_factory=list)  # G: how it was chosen, see `gpu_lstm.data.start.told`

    @property
    def lags(self) -> int:
        """How many values it looks back."""
        return int(self.weight.shape[2])

    def words(self, spread: np.ndarray) -> list[str]:
        """What it is and how each kind scored, for people: G lines, errors in units of the series' `spread` (S,)."""
        found = []
        for about, unit in zip(self.about, spread if len(self.about) > 1 else [np.mean(spread)], strict=False):
            scores = ", ".join(f"{name} {score * unit:.4g}" for name, score in about["scores"].items())
            count, best = about["mean_of"], next(iter(about["scores"]))
            what = f"the mean of {count} linear forecasts" if count > 1 else best
            found.append(f"{what}, RMSE {about['score'] * unit:.4g} by cross-validation (best of each kind: {scores})")
        return found

    def plain(self) -> dict[str, Any]:
        """As float32 arrays and JSON values, for a model's description."""
        names = ("weight", "bias", "now", "ahead", "unit")
        return {**{name: getattr(self, name).astype(np.float32) for name in names}, "about": self.about}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """From what `plain` gave, or from nested lists of numbers."""
        found = {name: np.array(plain[name], dtype=np.float64) for name in ("weight", "bias", "unit")}
        groups, horizon = found["bias"].shape
        for name in ("now", "ahead"):
            found[name] = np.array(plain[name], dtype=np.float64).reshape(groups, horizon, -1)
        return cls(**found, about=plain.get("about", []))

    def __call__(self, values: np.ndarray, inputs: np.ndarray, first: int, steps: int) -> np.ndarray:
        """Forecast from steps `first` to `steps` of windows.

        Parameters
        ----------
        values : (T, B, S)
            In units; before the first one, all were as that.
        inputs : (T or more, B, P + F)
            Those known ahead last, and with `horizon` rows more than `steps`.
        first, steps : int
            At most T.

        Returns
        -------
        (steps - first, B, H, S)
        """
        horizon, num_ahead = self.bias.shape[1], self.ahead.shape[2]
        found = np.empty((steps - first, values.shape[1], horizon, values.shape[2]))
        begin = first - self.lags + 1
        for s in range(values.shape[2]):
            g = s % len(self.bias)
            column = values[max(0, begin) : steps, :, s]
            padded = np.concatenate([np.repeat(values[:1, :, s], max(0, -begin), axis=0), column])
            windows = np.lib.stride_tricks.sliding_window_view(padded, self.lags, axis=0)
            found[..., s] = windows @ self.weight[g].T + self.bias[g]
            if inputs.shape[2]:
                found[..., s] += inputs[first:steps] @ self.now[g].T
            for h in range(horizon if num_ahead else 0):
                known = inputs[first + h + 1 : steps + h + 1, :, inputs.shape[2] - num_ahead :]
                found[:, :, h, s] += known @ self.ahead[g, h]
        return found

"""Forecasting: random windows of one or many series."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.data.series import rmse, truth
from gpu_lstm.errors import InputError
from gpu_lstm.layers import Params
from gpu_lstm.layers.checks import check_share
from gpu_lstm.models import Forecaster
from gpu_lstm.training.tasks.base import Task


class WindowsTask(Task):
    """Forecasting: each step takes random windows of one or many series.

    Parameters
    ----------
    model : Forecaster
    values : (N, S)
        Where there are many series, one after the other.
    batch : int
    length : int
        Known steps of a window; the first quarter of them only warms the state up.
    starts : sequence of int
        Where windows to train on may begin.
    origins : (K,) integers
        Where the forecasts to validate on begin.
    loss : {"mse", "mae", "huber"}
    seed : int
    """

    model: Forecaster
    item, unit, score_unit, one_shape = "step", "scaled loss", "RMSE", True

    def __init__(
        self,
        model: Forecaster,
        values: np.ndarray,
        batch: int,
        length: int,
        starts: Sequence[int],
        origins: np.ndarray,
        loss: str,
        seed: int,
    ):
        super().__init__(model, seed, max(1, -(-len(starts) // batch)), batch * length)
        self.values, self.batch, self.length, self.loss = values, batch, length, loss
        self.window = length + model.horizon
        self.starts, self.origins = starts, origins

    def _batch(self, number: int) -> np.ndarray:
        drawn = np.random.default_rng((*self.seed, number)).integers(0, len(self.starts), self.batch)
        return np.stack([self.values[start : start + self.window] for start in (self.starts[k] for k in drawn)], axis=1)

    def compute(self) -> tuple[Array, Params]:  # noqa: D102
        return self.model.loss(lambda: self._current, self.length // 4, self.loss, self._step_seed)

    def validate(self) -> tuple[float, str]:  # noqa: D102
        forecast = forecast_from(self.model, self.values, self.origins, self.length, self.batch)
        error = rmse(forecast, truth(self.values, self.origins, self.model.horizon))
        return error, f"RMSE {error:.4g} over {self.model.horizon} steps ahead"


class SeriesTask(WindowsTask):
    """Forecasting one series, or many over the same steps: windows of its first part.

    Parameters
    ----------
    model, values, batch, length, loss, seed
        As of `WindowsTask`.
    parts : (train, validation)
        Shares of the series, in time order; what is left is for `gpu-lstm evaluate`.
    """

    def __init__(
        self,
        model: Forecaster,
        values: np.ndarray,
        batch: int,
        length: int,
        parts: tuple[float, float],
        loss: str,
        seed: int,
    ):
        self.train_end, self.validation_end = split_series(len(values), parts)
        starts = self.train_end - (length + model.horizon) + 1
        if starts < 1:
            raise InputError(
                f"series has {self.train_end} steps to train on; "
                f"expected at least length + horizon = {length + model.horizon}"
            )
        if self.validation_end - self.train_end < model.horizon:
            raise InputError(
                f"series has {self.validation_end - self.train_end} steps to validate on; "
                f"expected at least horizon = {model.horizon}"
            )
        origins = np.arange(self.train_end, self.validation_end - model.horizon + 1)
        super().__init__(model, values, batch, length, range(starts), origins, loss, seed)


def split_series(steps: int, parts: tuple[float, float]) -> tuple[int, int]:
    """Ends of the training and of the validation part of a series.

    Raises
    ------
    InputError
        A share is not in (0, 1), or both together are above 1.
    """
    train, validation = (check_share(name, part) for name, part in zip(("train", "validation"), parts, strict=True))
    if train + validation > 1:
        raise InputError(f"train and validation shares are {train} and {validation}; expected at most 1 together")
    return int(steps * train), int(steps * (train + validation))


def forecast_from(
    model: Forecaster, values: np.ndarray, origins: np.ndarray, length: int, block: int = 256
) -> np.ndarray:
    """Forecasts (K, horizon, S) from K origins, each knowing up to `length` values before it."""
    length = min(length, int(origins.min()))
    parts = []
    for start in range(0, len(origins), block):
        known = np.stack([values[k - length : k] for k in origins[start : start + block]], axis=1)
        parts.append(model.forecast(known).transpose(1, 0, 2))
    return np.concatenate(parts)

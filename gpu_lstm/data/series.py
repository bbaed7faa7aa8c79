"""Time series: numeric columns of a CSV file, windows over them, and the simple forecasts to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu_lstm.data.files import SHIPPED, Spool
from gpu_lstm.data.tables import Reading, read_table

CO2 = SHIPPED / "co2.csv"


@dataclass(frozen=True)
class Series:
    """One or many series over the same steps."""

    names: list[str]  # column names
    values: np.ndarray  # (N, S) float64: S series of N steps
    # columns that were not taken though none were asked for by name, and why
    left: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)  # how the table was read, lines for people


def read_series(source: Any, columns: Sequence[str] | None = None, reading: Reading | None = None) -> Series:
    """Read numeric columns of a table, see `read_table` for what that may be.

    All columns that hold numbers if none are named, see `Table.numeric`. Raises InputError where there is no such file
    or column, no rows, or a cell that is no finite number: the message has its line and column.
    """
    table = read_table(source, "series", reading, columns or ())
    names, left = (list(columns), {}) if columns else table.numeric()
    spool = Spool("float64", len(names))
    for piece in table.chunks(names):
        spool.add(np.column_stack([table.complete(piece, name) for name in names]))
    return Series(names, spool.finish(), left, table.understood(names))


def persistence(values: np.ndarray, origins: np.ndarray, horizon: int) -> np.ndarray:
    """Forecast that nothing changes: (origins, horizon, S) from values (N, S); origin k knows values[:k]."""
    return np.repeat(values[origins - 1][:, None, :], horizon, axis=1)


def autoregression(values: np.ndarray, origins: np.ndarray, horizon: int, fitted: int, order: int = 24) -> np.ndarray:
    """Forecast (K, horizon, S) of an AR(order) model with intercept for each series, iterated to the horizon.

    It is fitted by least squares on values[:fitted], of (N, S); origin k of (K,) knows values[:k].
    """
    forecasts = np.empty((len(origins), horizon, values.shape[1]))
    for s in range(values.shape[1]):
        x = np.asarray(values[:, s])
        lags = np.lib.stride_tricks.sliding_window_view(x[: fitted - 1], order)
        design = np.column_stack([np.ones(len(lags)), lags])
        weights = np.linalg.lstsq(design, x[order:fitted], rcond=None)[0]
        past = np.lib.stride_tricks.sliding_window_view(x, order)[origins - order].copy()
        for step in range(horizon):
            value = weights[0] + past @ weights[1:]
            forecasts[:, step, s] = value
            past = np.column_stack([past[:, 1:], value])
    return forecasts


def truth(values: np.ndarray, origins: np.ndarray, horizon: int) -> np.ndarray:
    """Return what came after each origin, (origins, horizon, S)."""
    return np.asarray(values[origins[:, None] + np.arange(horizon)[None, :]])


def rmse(forecast: np.ndarray, actual: np.ndarray) -> float:
    """Return the root of the mean squared error over all origins, steps and series."""
    return float(np.sqrt(np.mean(np.subtract(forecast, actual, dtype=np.float64) ** 2)))


def deviations(rows: np.ndarray) -> list[float]:
    """Return the standard deviation of each column, 1 for one that never changes, whatever rounding makes of it."""
    rows = np.asarray(rows, dtype=np.float64)  # the range of whole numbers may not fit their type
    deviation = np.where(np.ptp(rows, axis=0) > 0, rows.std(axis=0), 1.0)
    return [float(value) if value > 0 else 1.0 for value in deviation]

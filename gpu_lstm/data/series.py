"""Time series: numeric columns of a CSV file, windows over them, and the simple forecasts to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpu_lstm.data.files import BLOCK, SHIPPED, Spool, column_index, find_file, is_number, parse_cell, read_rows
from gpu_lstm.errors import InputError

CO2 = SHIPPED / "co2.csv"


@dataclass(frozen=True)
class Series:
    """One or many series over the same steps.

    Attributes
    ----------
    names : list of str
        Column names.
    values : (N, S) float64
        S series of N steps.
    """

    names: list[str]
    values: np.ndarray


def read_series(path: str | Path, columns: Sequence[str] | None = None) -> Series:
    """Numeric columns of a CSV file with a header.

    Parameters
    ----------
    path : path
        A CSV file, plain or ``.gz`` or ``.xz``; converted block by block, kept in a temporary file if large.
    columns : sequence of str, optional
        Names of the columns; all that have a number in the first row if not given.

    Raises
    ------
    InputError
        No such file or column, no rows, or a cell that is no finite number: the message has its line and column.
    """
    path = find_file(path, "series")
    rows = read_rows(path)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    names = list(columns or [])
    picked = [column_index(path, header, name) for name in names]
    spool: Spool | None = None
    block: list[list[float]] = []
    for line, row in rows:
        if spool is None:
            if not picked:
                picked = [
                    column_index(path, header, name) for name, cell in zip(header, row, strict=False) if is_number(cell)
                ]
                names = [header[k] for k in picked]
                if not picked:
                    raise InputError(f"{path} has no numeric column; line {line} is {','.join(row)[:60]!r}")
            spool = Spool("float64", len(picked))
        if len(row) != len(header):
            raise InputError(f"{path}, line {line}: {len(row)} cells; expected {len(header)}, as in the header")
        block.append([parse_cell(path, line, names[n], row[k]) for n, k in enumerate(picked)])
        if len(block) * len(picked) >= BLOCK:
            spool.add(np.array(block))
            block = []
    if spool is None:
        raise InputError(f"{path} has no rows after its header")
    if block:
        spool.add(np.array(block))
    return Series(names, spool.finish())


def persistence(values: np.ndarray, origins: np.ndarray, horizon: int) -> np.ndarray:
    """Forecast that nothing changes: (origins, horizon, S) from values (N, S); origin k knows values[:k]."""
    return np.repeat(values[origins - 1][:, None, :], horizon, axis=1)


def autoregression(values: np.ndarray, origins: np.ndarray, horizon: int, fitted: int, order: int = 24) -> np.ndarray:
    """Forecast of an AR(order) model with intercept for each series, iterated to the horizon.

    Parameters
    ----------
    values : (N, S)
    origins : (K,) integers
        Origin k knows values[:k].
    horizon : int
    fitted : int
        The model is fitted by least squares on values[:fitted].
    order : int
        Number of past values it uses.

    Returns
    -------
    (K, horizon, S)
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
    """What came after each origin, (origins, horizon, S)."""
    return np.asarray(values[origins[:, None] + np.arange(horizon)[None, :]])


def rmse(forecast: np.ndarray, actual: np.ndarray) -> float:
    """Root of the mean squared error over all origins, steps and series."""
    return float(np.sqrt(np.mean((forecast - actual) ** 2)))


def spread(rows: np.ndarray) -> list[float]:
    """Standard deviation of each column, 1 for one that never changes, whatever rounding in its mean makes of it."""
    deviation = np.where(np.ptp(rows, axis=0) > 0, rows.std(axis=0), 1.0)
    return [float(value) if value > 0 else 1.0 for value in deviation]

"""Time series: numeric columns of a CSV file, windows over them, and the simple forecasts to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gpu_lstm.data.clock import Clock
from gpu_lstm.data.files import BLOCK, SHIPPED, Spool, Table, parse_cell

CO2 = SHIPPED / "co2.csv"


@dataclass(frozen=True)
class Series:
    """One series, or many (a panel), each of N_m rows in order of time: M stretches without a break, end to end.

    Nothing that looks at several rows may look across the start of a stretch. Each series is one stretch, but several
    where rows were dropped: those stand one after the other and share its id.
    """

    names: list[str]  # columns: the targets, then the inputs known in the past only, then those known ahead, too
    values: np.ndarray  # (N, S) float64
    # columns that were not taken though none were asked for by name, and why
    left: dict[str, str] = field(default_factory=dict)
    past: list[str] = field(default_factory=list)  # those of `names` that are known in the past only
    future: list[str] = field(default_factory=list)  # those known in the future, too, with what the calendar gives
    times: np.ndarray | None = None  # (N,) datetime64[ns]: UTC where `clock` has a zone, else as written
    clock: Clock | None = None  # the column of the times, their step and zone
    starts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # (M + 1,): where stretches begin and end
    ids: list[str] = field(default_factory=lambda: [""])  # M: which series each stretch is of
    told: list[str] = field(default_factory=list)  # what people should know of times, gaps and what was filled

    def __post_init__(self) -> None:
        if not len(self.starts):
            object.__setattr__(self, "starts", np.array([0, len(self.values)]))

    @property
    def targets(self) -> list[str]:
        """Names of the columns to forecast."""
        return self.names[: len(self.names) - len(self.past) - len(self.future)]

    def cuts(self, shares: Sequence[float]) -> list[np.ndarray]:
        """Return where each share of every series ends within its stretches: for each share (M,) row numbers.

        Shares are counted in rows from a series' start, one after the other: with (0.7, 0.1), stretch m has the rows
        from starts[m] to cuts[0][m] in the first share and those up to cuts[1][m] in the second.
        """
        rows, first = dict.fromkeys(self.ids, 0), dict[str, int]()
        for name, start, stop in zip(self.ids, self.starts, self.starts[1:], strict=False):
            first.setdefault(name, int(start))
            rows[name] += int(stop - start)
        ends = np.cumsum(shares)
        return [
            np.array(
                [
                    np.clip(first[name] + int(rows[name] * end), start, stop)
                    for name, start, stop in zip(self.ids, self.starts, self.starts[1:], strict=False)
                ],
                np.int64,
            )
            for end in ends
        ]

    def windows(self, first: np.ndarray, last: np.ndarray, size: int) -> np.ndarray:
        """Return the rows, ascending, at which `size` rows begin that lie within [first[m], last[m]) for some m."""
        ranges = [np.arange(a, b - size + 1) for a, b in zip(first, last, strict=True)]
        return np.concatenate([np.zeros(0, np.int64), *ranges])

    def known(self, origins: np.ndarray) -> np.ndarray:
        """Return how many rows of its own stretch come before each row."""
        return np.asarray(origins - self.starts[np.searchsorted(self.starts, origins, "right") - 1])


def read_series(path: str | Path, columns: Sequence[str] | None = None) -> Series:
    """Read numeric columns of a CSV file with a header, plain or ``.gz`` or ``.xz``.

    All columns that have a name and hold numbers if none are named, see `Table.numeric`. Raises InputError where there
    is no such file or column, no rows, or a cell that is no finite number: the message has its line and column.
    """
    table = Table(path, "series")
    names, left = (list(columns), {}) if columns else table.numeric()
    picked = [(table.place(name), name) for name in names]
    spool, block = Spool("float64", len(picked)), list[list[float]]()
    for line, row in table.rows():
        block.append([parse_cell(table.path, line, name, row[k]) for k, name in picked])
        if len(block) * len(picked) >= BLOCK:
            spool.add(np.array(block))
            block = []
    if block:
        spool.add(np.array(block))
    return Series(names, spool.finish(), left)


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

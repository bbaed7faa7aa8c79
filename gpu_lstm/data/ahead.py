"""What is known of the future of series: their times, and inputs for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_lstm.data.calendar import calendar_features
from gpu_lstm.data.clock import local, written
from gpu_lstm.data.order import Cells, in_zone
from gpu_lstm.data.series import Series
from gpu_lstm.data.tables import Reading, read_table
from gpu_lstm.errors import InputError


def last_stretches(data: Series) -> dict[str, tuple[int, int]]:
    """Return of each series by its id where its last stretch begins and ends: rows from, to."""
    return {name: (int(a), int(b)) for name, a, b in zip(data.ids, data.starts, data.starts[1:], strict=False)}


def times_ahead(data: Series, row: int, steps: int) -> np.ndarray | None:
    """Return the times of the steps after a row, (steps,) datetime64[ns] as `Series.times`; None where it has none."""
    return None if data.times is None or data.clock is None else data.clock.step.after(data.times[row], steps)


def inputs_ahead(
    data: Series,
    steps: int,
    source: Any = None,
    reading: Reading | None = None,
    *,
    series: str | None = None,
    date_format: str | None = None,
    time_zone: str | None = None,
) -> dict[str, np.ndarray]:
    """Return the inputs that are known ahead, for the steps after the end of each series.

    Parameters
    ----------
    data : Series
    steps : int
    source : path, DataFrame, mapping of columns, or array, optional
        Has those that the calendar doesn't give; by the times of the series where these have some, else the first rows
        of each series.
    reading, series, date_format, time_zone
        As of `read_series`.

    Returns
    -------
    dict
        By the ids of the series: (steps, F), in the order of ``data.future``.

    Raises
    ------
    InputError
        There is no source though it is needed, or it lacks a step or a number: the message says which.
    """
    given = [name for name in data.future if name not in data.calendar]
    found = {}
    if given and source is None:
        raise InputError(f"forecasting needs {', '.join(given)} for the {steps} steps ahead: --future FILE")
    rows = _Ahead(source, given, data, series, reading, date_format, time_zone) if given else None
    for name, (_, stop) in last_stretches(data).items():
        times = times_ahead(data, stop - 1, steps)
        parts = [] if rows is None else [rows.of(name, times, steps)]
        if data.calendar and times is not None and data.clock is not None:
            parts.append(calendar_features(local(times, data.clock.zone), data.calendar))
        found[name] = np.concatenate(parts, axis=1) if parts else np.zeros((steps, 0))
    return found


class _Ahead:
    """A table of inputs that are known ahead."""

    def __init__(
        self,
        source: Any,
        names: Sequence[str],
        data: Series,
        series: str | None,
        reading: Reading | None,
        date_format: str | None,
        time_zone: str | None,
    ):
        clock = data.clock.columns if data.clock is not None else []
        self._zone = data.clock.zone if data.clock is not None else ""
        table = read_table(source, "future inputs", reading, [*names, *clock, *([series] if series else [])])
        self._cells = Cells(table, names, clock, series, date_format, ())
        self._times = in_zone(self._cells, time_zone)[0]

    def of(self, series: str, times: np.ndarray | None, steps: int) -> np.ndarray:
        """Return the rows of some steps of a series, (steps, F)."""
        cells, who = self._cells, f" of {self._cells.series} {series!r}" if self._cells.series else ""
        rows = np.flatnonzero(cells.codes == cells.ids.index(series)) if series in cells.ids else np.zeros(0, np.int64)
        if times is None or self._times is None:
            if len(rows) < steps:
                raise InputError(
                    f"{cells.table.label} has {len(rows):,} rows{who}; expected {steps:,}, one for each step"
                )
            rows = rows[:steps]
        else:
            there = dict(zip(self._times[rows].tolist(), rows, strict=True))
            lacking = [time for time in times if time.astype(np.int64).item() not in there]
            if lacking:
                shown = ", ".join(written(np.array(lacking[:5]), self._zone)) + (
                    " and more" if len(lacking) > 5 else ""
                )
                raise InputError(f"{cells.table.label} lacks {len(lacking):,} of {steps:,} steps{who}: {shown}")
            rows = np.array([there[time] for time in times.astype(np.int64).tolist()])
        values = np.asarray(cells.values[rows])
        if np.isnan(values).any():
            row, column = (int(k) for k in np.argwhere(np.isnan(values))[0])
            place = cells.where(int(rows[row]), self._times, self._zone)
            raise InputError(f"{place}: column {cells.names[column]!r} is empty; expected what is known ahead")
        return values

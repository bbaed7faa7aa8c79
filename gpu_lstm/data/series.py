"""Time series: columns of a table as one series or many, their times, and windows over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from gpu_lstm.data.calendar import calendar_features, calendar_names
from gpu_lstm.data.clock import Clock, local
from gpu_lstm.data.files import BLOCK, SHIPPED, Spool
from gpu_lstm.data.gaps import TREATMENTS, treat
from gpu_lstm.data.order import Cells, in_order
from gpu_lstm.data.tables import Reading, Table, read_table
from gpu_lstm.data.times import find_time
from gpu_lstm.errors import InputError

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
    calendar: list[str] = field(default_factory=list)  # those of `future` that the times themselves give
    told: list[str] = field(default_factory=list)  # what people should know of times, gaps and what was filled
    filled: np.ndarray | None = None  # (N, S or more) bool: which values, the targets first, were missing
    by_date: bool = False  # whether `cuts` are at one date for all series

    def __post_init__(self) -> None:
        if not len(self.starts):
            object.__setattr__(self, "starts", np.array([0, len(self.values)]))

    @property
    def targets(self) -> list[str]:
        """Names of the columns to forecast."""
        return self.names[: len(self.names) - len(self.past) - len(self.future)]

    def cuts(self, shares: Sequence[float]) -> list[np.ndarray]:
        """Return where each of `shares` of every series ends within its stretches: for each share (M,) row numbers.

        Shares are counted in rows from a series' start, one after the other: with (0.7, 0.1), stretch m has the rows
        from starts[m] to cuts[0][m] in the first share and those up to cuts[1][m] in the second. With `by_date`, they
        are counted in rows of all series together, in order of their times.
        """
        if self.by_date and self.times is not None:
            order, stretches = np.sort(self.times), list(zip(self.starts[:-1], self.starts[1:], strict=True))
            dates = [order[min(int(len(order) * end), len(order) - 1)] for end in np.cumsum(shares)]
            return [
                np.array([a + np.searchsorted(self.times[a:b], date) for a, b in stretches], np.int64) for date in dates
            ]
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

    def truth(self, origins: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the origins of which something that follows was measured, of every target, and what follows.

        (K,) of the origins, and (K, horizon, S) with NaN where a value was filled in.
        """
        places = origins[:, None] + np.arange(horizon)
        count = len(self.targets)
        if self.filled is None:
            return origins, np.asarray(self.values[places][..., :count], np.float64)
        missing = np.asarray(self.filled[places][..., :count])
        some = ~np.any(np.all(missing, axis=1), axis=1)
        values = np.asarray(self.values[places[some]][..., :count], np.float64)
        return origins[some], np.where(missing[some], np.nan, values)

    def known(self, origins: np.ndarray) -> np.ndarray:
        """Return how many rows of its own stretch come before each of `origins`."""
        return np.asarray(origins - self.starts[np.searchsorted(self.starts, origins, "right") - 1])


def with_calendar(data: Series, names: bool | Sequence[str]) -> Series:
    """Return `data` with what the calendar (by `names`) says of their times among the inputs that are known ahead.

    Raises InputError where there are no times, or the calendar says nothing at this step.
    """
    if data.times is None or data.clock is None:
        raise InputError("--calendar needs a column of times (--time)")
    picked = calendar_names(data.clock.step, data.times) if names is True else list(names or [])
    spool = Spool("float64", len(data.names) + len(picked))
    for start in range(0, len(data.values), BLOCK):
        rows = slice(start, start + BLOCK)
        features = calendar_features(local(data.times[rows], data.clock.zone), picked)
        spool.add(np.column_stack([data.values[rows], features]))
    return replace(
        data, names=[*data.names, *picked], values=spool.finish(), future=[*data.future, *picked], calendar=picked
    )


def read_series(
    source: Any,
    columns: Sequence[str] | None = None,
    reading: Reading | None = None,
    *,
    past: Sequence[str] = (),
    future: Sequence[str] = (),
    series: str | None = None,
    time: Sequence[str] | None = None,
    date_format: str | None = None,
    time_zone: str | None = None,
    missing: str = "refuse",
    missing_values: Sequence[float] = (),
    calendar: bool | Sequence[str] = False,
) -> Series:
    """Read one series or many from a table with a row for each step.

    Parameters
    ----------
    source : path, DataFrame, mapping of columns, or array
        As `read_table` takes it.
    columns : sequence of str, optional
        What is to be forecast. All columns that hold numbers and are nothing else if not given, see `Table.numeric`.
    reading : Reading, optional
        How a text is written.
    past, future : sequence of str
        Inputs that are known in the past only, and those that are known ahead, too.
    series : str, optional
        The column that says which series a row is of, where there are many.
    time : sequence of str, optional
        The column of the times, or those that make them together: a date and a time of day, or year, month and so on.
        Found out if not given; ("none",): there is none, rows are one step apart.
    date_format : str, optional
        How times are written, in the words of `datetime.strptime`, where that isn't certain.
    time_zone : str, optional
        Whose clocks they are of, such as "Europe/Berlin".
    missing : {"refuse", "interpolate", "forward", "drop"}
        What to do about missing cells and steps, see `gpu_lstm.data.gaps.treat`.
    missing_values : sequence of float
        Numbers that mean that there is none.
    calendar : bool or sequence of str
        Add what the calendar says of each time to the inputs that are known ahead: what the step and the span allow,
        or those of these names, see `calendar_features`.

    Raises
    ------
    InputError
        There is no such file or column, a cell is no finite number, times can be read in several ways, are uneven or
        there twice, or something is missing and `missing` is "refuse". The message has line and column.

    Examples
    --------
    >>> from gpu_lstm.data.series import read_series
    >>> hours = np.arange("2024-01-01", "2024-01-03", dtype="datetime64[h]")
    >>> data = read_series({"time": hours, "load": np.arange(48.0), "wind": np.ones(48)}, ["load"], past=["wind"])
    >>> data.names, data.values.shape
    (['load', 'wind'], (48, 2))
    """
    if reading is not None and reading.wide:
        raise InputError("wide (--wide) is for sequences; expected a series with a row for each step")
    if missing not in TREATMENTS:
        raise InputError(f"missing is {missing!r}; expected one of {', '.join(TREATMENTS)}")
    asked = [*(columns or ()), *past, *future, *([series] if series else [])]
    table = read_table(source, "series", reading, asked)
    clock = _time_columns(table, time, asked)
    others = {*past, *future, *clock, *([series] if series else [])}
    targets, left = (list(columns), {}) if columns else table.numeric(others)
    names = [*targets, *past, *future]
    if twice := [name for name, count in Counter([*names, *clock]).items() if count > 1]:
        raise InputError(f"column {twice[0]!r} is asked for twice; expected each in one role")
    cells = Cells(table, names, clock, series, date_format, missing_values)
    told = table.understood(names)
    rows, zone, about = in_order(cells, time_zone)
    treated = treat(cells.values, rows, missing)
    if columns is None and (counters := _counters(treated.values[:, : len(targets)], targets)):
        left |= dict.fromkeys(counters, "rises evenly: counts the rows")
        picked = [k for k, name in enumerate(names) if name not in counters]
        names = [names[k] for k in picked]
        if len(counters) == len(targets):
            raise InputError(f"{table.label} has no numeric column but {', '.join(counters)}, which counts the rows")
        filled = None if treated.filled is None else treated.filled[:, picked]
        treated = replace(treated, values=treated.values[:, picked], filled=filled)
    found = Series(
        names,
        treated.values,
        left,
        list(past),
        list(future),
        treated.times,
        Clock(clock, rows.step, zone) if rows.step is not None else None,
        treated.starts,
        [cells.ids[cells.codes[rows.order[row]]] for row in treated.rows],
        told=[*told, *about, *cells.told, *treated.told],
        filled=treated.filled,
    )
    return with_calendar(found, calendar) if calendar else found


def split_by_date(data: Series, shares: Sequence[float]) -> Series:
    """Return series that are split at one date where there are many, each with rows in each of their shares by date."""
    if data.times is None or len(set(data.ids)) < 2:
        return data
    dated = replace(data, by_date=True)
    ends = [dated.starts[:-1], *dated.cuts(shares), dated.starts[1:]]
    for low, high in pairwise(ends):
        if {name for name, a, b in zip(data.ids, low, high, strict=True) if b > a} != set(data.ids):
            return data
    return dated


def _time_columns(table: Table, time: Sequence[str] | None, asked: Sequence[str]) -> list[str]:
    """Return the columns of a table that hold its times."""
    if time is None:
        piece = next(table.chunks())
        return find_time(piece[[name for name in piece.columns if name not in asked]])
    if list(time) == ["none"] and "none" not in table.names:
        return []
    for name in time:
        table.place(name)
    return list(time)


def _counters(values: np.ndarray, names: Sequence[str]) -> list[str]:
    """Return the columns that rise by the same amount from row to row, as counters and clocks do."""
    found = []
    for k, name in enumerate(names):
        rises = np.diff(values[:1000, k])
        if len(rises) > 8 and rises[0] != 0 and _even(rises, values[:1000, k]):
            rises = np.diff(values[:, k])
            if _even(rises, values[:, k]):
                found.append(name)
    return found


def _even(rises: np.ndarray, values: np.ndarray) -> bool:
    return bool(np.ptp(rises) <= 1e-9 * np.abs(values).max())


def deviations(rows: np.ndarray) -> list[float]:
    """Return the standard deviation of each column, 1 for one that never changes, whatever rounding makes of it."""
    rows = np.asarray(rows, dtype=np.float64)  # the range of whole numbers may not fit their type
    deviation = np.where(np.ptp(rows, axis=0) > 0, rows.std(axis=0), 1.0)
    return [float(value) if value > 0 else 1.0 for value in deviation]

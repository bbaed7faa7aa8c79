"""A table's cells in memory, and the order of its rows: series by series, each by time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_lstm.data.clock import UNEVEN, find_step, local, to_utc, written
from gpu_lstm.data.files import Spool
from gpu_lstm.data.gaps import Rows
from gpu_lstm.data.tables import Table
from gpu_lstm.data.times import Times
from gpu_lstm.errors import InputError


class Cells:
    """What a table has in the columns taken, row by row as they stand there."""

    def __init__(
        self,
        table: Table,
        names: Sequence[str],
        clock: Sequence[str],
        series: str | None,
        date_format: str | None,
        missing_values: Sequence[float],
    ):
        self.table, self.names, self.series = table, list(names), series
        self.clock = Times(clock, date_format, table.at, table.label) if clock else None
        values, codes, known = Spool("float64", len(names)), Spool("int32"), dict[str, int]()
        suspects = _Suspects(names)
        for piece in table.chunks([*names, *clock, *([series] if series else [])]):
            block = np.column_stack([table.numbers(piece, name) for name in names])
            block[np.isin(block, missing_values)] = np.nan
            suspects.see(block)
            values.add(block)
            if self.clock is not None:
                self.clock.add(piece)
            if series is None:
                codes.add(np.full(len(piece), known.setdefault("", 0)))
                continue
            of = table.texts(piece, series)
            if "" in of:
                raise InputError(f"{table.at(int(piece.index[of.index('')]))}: column {series!r} is empty")
            codes.add(np.array([known.setdefault(name, len(known)) for name in of]))
        self.values, self.codes, self.ids = values.finish(), np.asarray(codes.finish()), list(known)
        self.times = None if self.clock is None else self.clock.finish()
        self.told = suspects.told()

    def where(self, row: int, times: np.ndarray | None, zone: str) -> str:
        """Return a row's line, and its time, for people."""
        at = self.table.at(row).removeprefix(f"{self.table.label}, ")
        return at if times is None else f"{at} ({written(times[row : row + 1], zone)[0]})"


class _Suspects:
    """Numbers that may mean that there is none: far off all others, and what people write for that."""

    USUAL = np.array([*(sign * (10.0**k - 1) for k in (2, 3, 4, 5) for sign in (-1, 1)), -200.0])

    def __init__(self, names: Sequence[str]):
        self._names, self._counts = names, np.zeros((len(names), len(self.USUAL)), np.int64)
        self._low, self._high = np.full(len(names), np.inf), np.full(len(names), -np.inf)

    def see(self, block: np.ndarray) -> None:
        """Count them in the next rows."""
        for s, column in enumerate(block.T):
            suspect = np.isin(column, self.USUAL)
            if suspect.any():
                self._counts[s] += (column[suspect, None] == self.USUAL).sum(axis=0)
            others = column[~suspect & ~np.isnan(column)]
            if len(others):
                self._low[s], self._high[s] = min(self._low[s], others.min()), max(self._high[s], others.max())

    def told(self) -> list[str]:
        """Return what to say of those that were there more than once, at least as far off as all others are apart."""
        lines = []
        for s, k in zip(*np.nonzero(self._counts > 1), strict=True):
            number, apart = self.USUAL[k], self._high[s] - self._low[s]
            if number < self._low[s] - apart or number > self._high[s] + apart:
                lines.append(
                    f"column {self._names[s]!r} is {number:g} in {self._counts[s, k]:,} rows, far off all others; if "
                    f"it means that there is none: --missing-value {number:g}"
                )
        return lines


def in_order(cells: Cells, time_zone: str | None) -> tuple[Rows, str, list[str]]:
    """Return the rows series by series and by time, their zone, and what to tell of it."""
    times, zone, told = in_zone(cells, time_zone)
    codes = cells.codes
    order = np.argsort(codes, kind="stable")
    if times is not None:
        back = np.flatnonzero((np.diff(times[order]).astype(np.int64) < 0) & (np.diff(codes[order]) == 0))
        if len(back):
            if len(back) == np.count_nonzero(np.diff(codes[order]) == 0):
                told.append("rows stand from the last time to the first: turned round")
            else:
                place = cells.where(int(order[back[0] + 1]), None, zone)
                told.append(f"rows are not in order of time, the first that isn't is {place}: sorted")
            order = np.lexsort((times, codes))
        order, twice = _once(cells, order, times, zone)
        told += twice

    def where(row: int) -> str:
        return cells.where(int(order[row]), times, zone)

    def owner(row: int) -> str:
        return f" of {cells.series} {cells.ids[codes[order[row]]]!r}" if cells.series else ""

    first = np.diff(codes[order], prepend=-1) != 0
    step, places = None, np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    ordered = None if times is None else times[order]
    if ordered is not None and cells.clock is not None:
        try:
            step, places, odd = find_step(ordered, first, where)
        except InputError as error:
            raise InputError(f"{cells.table.label}: {error}") from None
        low, high = written(np.array([ordered.min(), ordered.max()]), zone)
        of = f", {len(cells.ids):,} series by {cells.series!r}" if cells.series else ""
        by = f", of {zone}" if zone else ""
        told = [
            f"time: {' '.join(cells.clock.columns)} ({cells.clock.words}{by}), {step}, {low} to {high}{of}",
            *odd,
            *told,
        ]
    elif cells.series:
        told.append(f"{len(cells.ids):,} series by {cells.series!r}")
    return Rows(order, first, places, ordered, step, cells.names, cells.table.label, where, owner), zone, told


def in_zone(cells: Cells, time_zone: str | None) -> tuple[np.ndarray | None, str, list[str]]:
    """Return the times in UTC and their zone; as they are written, and "", where they have none or are whole days."""
    times = cells.times
    if times is None or cells.clock is None:
        if time_zone:
            raise InputError("--time-zone is given, but there is no column of times (--time)")
        return None, "", []
    zone = cells.clock.zone
    shown = local(times, time_zone or zone) if zone else times
    if np.ptp((shown - shown.astype("datetime64[D]")).astype(np.int64)) == 0:
        return shown, "", []  # days, whatever their clocks
    if zone or not time_zone:
        return times, (time_zone or zone) if zone else "", []
    told, there = dict[str, None](), np.empty_like(times)
    for code in range(len(cells.ids)):
        rows = np.flatnonzero(cells.codes == code)
        falling = len(rows) > 1 and times[rows[0]] > times[rows[-1]]
        rows = rows[::-1] if falling else rows
        there[rows], about = to_utc(times[rows], time_zone)
        told |= dict.fromkeys(about)
    return there, time_zone, list(told)


def _once(cells: Cells, order: np.ndarray, times: np.ndarray, zone: str) -> tuple[np.ndarray, list[str]]:
    """Return the rows without those that are there twice, and what to tell of it.

    Raises InputError where two rows of one series have the same time and other values.
    """
    again = 1 + np.flatnonzero((np.diff(times[order]).astype(np.int64) == 0) & (np.diff(cells.codes[order]) == 0))
    if not len(again):
        return order, []
    for k in again:
        one, other = order[k - 1], order[k]
        if not np.array_equal(cells.values[one], cells.values[other], equal_nan=True):
            hints = [] if cells.series else ["--series where a column says of which series a row is"]
            hints += [] if zone else ["--time-zone where clocks were set back"]
            raise InputError(
                f"{cells.table.label}: {len(again):,} rows have the time of another row: "
                f"{cells.where(int(other), times, zone)} has other values than {cells.where(int(one), None, zone)}; "
                f"expected each time once, {', '.join(hints)}; {UNEVEN}"
            )
    place = cells.where(int(order[again[0]]), times, zone)
    return np.delete(order, again), [f"{len(again):,} rows that are there twice are left out, the first is {place}"]

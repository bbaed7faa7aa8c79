"""Rows that are missing, and cells: found, told with their places, and filled or dropped as asked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gpu_lstm.data.clock import DAY, UNEVEN, Step, span
from gpu_lstm.data.files import BLOCK, Spool
from gpu_lstm.errors import InputError

TREATMENTS = ("refuse", "interpolate", "forward", "drop")
"""What can be done about missing rows and cells."""
SHOWN = 3
"""Places that a message lists."""


@dataclass(frozen=True)
class Rows:
    """Rows of a table in the order in which they are taken: series by series, each by time."""

    order: np.ndarray  # (L,) int64: rows of the table
    first: np.ndarray  # (L,) bool: whether a row is the first of its series
    places: np.ndarray  # (L,) int64: steps since the first row of its series
    times: np.ndarray | None  # (L,) datetime64[ns]
    step: Step | None
    names: list[str]  # columns of the values
    label: str  # of the table, for people
    where: Callable[[int], str]  # names the row with this number in `order` for people
    owner: Callable[[int], str]  # " of series 'a'" for such a row, "" where there is one series


@dataclass(frozen=True)
class Treated:
    """What became of rows."""

    values: np.ndarray  # (N, S) without NaN
    times: np.ndarray | None  # (N,)
    starts: np.ndarray  # (M + 1,): stretches without a break
    rows: np.ndarray  # (M,): a row of `Rows` within each stretch
    told: list[str]
    filled: np.ndarray | None = None  # (N, S) bool: which values were missing


def treat(values: np.ndarray, rows: Rows, how: str) -> Treated:
    """Fill or drop what is missing of values (table rows, S), NaN where a cell is.

    Parameters
    ----------
    how : {"refuse", "interpolate", "forward", "drop"}
        "interpolate" takes the straight line between the neighbours in time, "forward" the last known value; rows
        before the first known value of a series, for "interpolate" also after the last, are left out. "drop" leaves
        out every row with a missing cell and begins a new stretch there.

    Raises
    ------
    InputError
        Something is missing and `how` is "refuse", or nothing would be left; the message has the places.
    """
    jumps = np.diff(rows.places, prepend=0)
    jumps = np.where(rows.first, 1, jumps)  # steps from the row before
    empty = missing_cells(values, rows.order)
    if not (jumps > 1).any() and not any(len(cells) for cells in empty):
        if np.array_equal(rows.order, np.arange(len(values))):
            return Treated(values, rows.times, bounds(rows.first), np.flatnonzero(rows.first), [])
        return _kept(values, rows, np.ones(len(rows.order), bool), jumps, [])
    report = describe(rows, jumps, empty)
    if how == "refuse":
        raise InputError(
            f"{rows.label}: {'; '.join(report)}; expected none missing, or --missing interpolate, forward or drop"
            + (" (or other columns: --columns)" if any(len(cells) for cells in empty) else f"; {UNEVEN}")
        )
    if how == "drop":
        keep = np.ones(len(rows.order), bool)
        for cells in empty:
            keep[cells] = False
        if not keep.any():
            raise InputError(f"{rows.label}: {'; '.join(report)}; no row is left")
        report.append(f"{np.count_nonzero(~keep):,} rows dropped" if not keep.all() else "no row dropped")
        report[-1] += "; windows don't cross the breaks"
        return _kept(values, rows, keep, jumps, report)
    return _filled(values, rows, jumps, how, report)


def missing_cells(values: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    """Return for each column which of the ordered rows have no number in it."""
    found: list[list[np.ndarray]] = [[] for _ in range(values.shape[1])]
    for start in range(0, len(order), BLOCK):
        for column, empty in zip(found, np.isnan(values[order[start : start + BLOCK]]).T, strict=True):
            column.append(start + np.flatnonzero(empty))
    return [np.concatenate(column) if column else np.zeros(0, np.int64) for column in found]


def describe(rows: Rows, jumps: np.ndarray, empty: Sequence[np.ndarray]) -> list[str]:
    """Return what is missing and where, for people."""
    report = []
    gaps = np.flatnonzero(jumps > 1)
    if len(gaps):
        shown = ", ".join(f"{jumps[k] - 1:,} after {rows.where(int(k) - 1)}" for k in gaps[:SHOWN])
        total = int((jumps[gaps] - 1).sum())
        of = f" of {span(rows.step.count)}" if rows.step is not None and rows.step.unit == "nanoseconds" else ""
        steps = f"{total:,} steps{of} are missing" if total > 1 else f"1 step{of} is missing"
        report.append(
            f"{steps} in {len(gaps):,} gaps: {shown}{more(len(gaps))}" if len(gaps) > 1 else f"{steps}: {shown}"
        )
        if _clocks_set_forward(rows, jumps, gaps):
            report[-1] += ", an hour of a Sunday as where clocks are set forward (--time-zone)"
    for name, cells in zip(rows.names, empty, strict=True):
        if len(cells):
            runs = np.flatnonzero(np.diff(cells, prepend=-2) > 1)
            longest = int(np.diff(np.append(runs, len(cells))).max())
            shown = ", ".join(rows.where(int(cells[k])) for k in runs[:SHOWN])
            row = f", at most {longest:,} in a row" if longest > 1 else ""
            count = f"{len(cells):,} of {len(rows.order):,} rows"
            report.append(f"column {name!r} has no number in {count}{row}: {shown}{more(len(runs))}")
    return report


def _clocks_set_forward(rows: Rows, jumps: np.ndarray, gaps: np.ndarray) -> bool:
    """Return whether all gaps are an hour in the night of a Sunday."""
    if rows.times is None or rows.step is None or rows.step.unit != "nanoseconds":
        return False
    hours = (jumps[gaps] - 1) * rows.step.count / (DAY // 24)
    days = rows.times[gaps].astype("datetime64[D]")
    sunday = (days.astype(np.int64) + 4) % 7 == 0
    return bool(((hours == 1) & sunday & (rows.times[gaps] - days <= np.timedelta64(4, "h"))).all())


def more(count: int) -> str:
    """Return what follows the places that are shown."""
    return f" and {count - SHOWN:,} places more" if count > SHOWN else ""


def bounds(first: np.ndarray) -> np.ndarray:
    """Return where stretches begin, and the end."""
    return np.append(np.flatnonzero(first), len(first)).astype(np.int64)


def gather(values: np.ndarray, source: np.ndarray, fill: Callable[[int, np.ndarray], None]) -> np.ndarray:
    """Return rows of values, NaN where the source is -1, after `fill(start, block)` has changed each block."""
    spool = Spool("float64", values.shape[1])
    for start in range(0, len(source), BLOCK):
        part = source[start : start + BLOCK]
        block = np.asarray(values[part])
        block[part < 0] = np.nan
        fill(start, block)
        spool.add(block)
    return spool.finish()


def _kept(values: np.ndarray, rows: Rows, keep: np.ndarray, jumps: np.ndarray, told: list[str]) -> Treated:
    """Return some rows, with a new stretch after those that are not among them."""
    kept = np.flatnonzero(keep)
    broken = np.cumsum(rows.first | (jumps > 1) | ~keep | ~np.append(True, keep[:-1]))[kept]
    first = np.diff(broken, prepend=-1) > 0
    times = None if rows.times is None else rows.times[kept]
    taken = gather(values, rows.order[kept], lambda start, block: None)
    return Treated(taken, times, bounds(first), kept[first], told)


def _filled(values: np.ndarray, rows: Rows, jumps: np.ndarray, how: str, told: list[str]) -> Treated:
    """Return all rows with those between them that are missing, and every cell filled."""
    count = len(jumps)
    if jumps.sum() > 2 * count:
        raise InputError(
            f"{rows.label}: {'; '.join(told)}: more than there are rows, too many to fill; is a time wrong?"
        )
    ends = np.cumsum(jumps) - 1  # where each row goes among all
    source = np.full(int(ends[-1]) + 1, -1)
    source[ends] = rows.order
    starts = np.append(ends[rows.first], len(source))
    times = None if rows.times is None else _all_times(rows, ends, jumps, len(source))
    begin, end = starts[:-1].copy(), starts[1:].copy()
    fills = []
    for s, cells in enumerate(missing_cells_at(values, source)):
        column, holes = _fill_column(values, source, starts, s, cells, how)
        fills.append((cells, column))
        for series, a, b in holes:
            begin[series] = max(begin[series], b) if a == starts[series] else begin[series]
            end[series] = min(end[series], a) if a != starts[series] else end[series]
    if (begin >= end).any():
        row = int(np.flatnonzero(rows.first)[begin >= end][0])
        raise InputError(
            f"{rows.label}: {'; '.join(told)}; nothing is left{rows.owner(row)} between the first "
            "and the last known values"
        )

    def fill(start: int, block: np.ndarray) -> None:
        for s, (cells, column) in enumerate(fills):
            a, b = np.searchsorted(cells, (start, start + len(block)))
            block[cells[a:b] - start, s] = column[a:b]

    whole = gather(values, source, fill)
    filled = np.zeros(whole.shape, bool)
    for s, (cells, _) in enumerate(fills):
        filled[cells, s] = True
    keep = np.zeros(len(source), bool)
    for a, b in zip(begin, end, strict=True):
        keep[a:b] = True
    told = [*told, f"filled: {'interpolated' if how == 'interpolate' else 'the last known value repeated'}"]
    if not keep.all():
        told.append(f"{np.count_nonzero(~keep):,} rows before the first or after the last known values left out")
        whole, times = (
            gather(whole, np.flatnonzero(keep), lambda start, block: None),
            None if times is None else times[keep],
        )
    lengths = end - begin
    return Treated(whole, times, np.append(0, np.cumsum(lengths)), np.flatnonzero(rows.first), told, filled[keep])


def missing_cells_at(values: np.ndarray, source: np.ndarray) -> list[np.ndarray]:
    """Return `missing_cells` where rows of the source that are -1 have no number at all."""
    found = missing_cells(values, np.maximum(source, 0))
    inserted = np.flatnonzero(source < 0)
    return [np.union1d(cells[source[cells] >= 0], inserted) for cells in found]


def _all_times(rows: Rows, ends: np.ndarray, jumps: np.ndarray, count: int) -> np.ndarray:
    """Return the times of all rows with those between them that are missing."""
    assert rows.times is not None and rows.step is not None
    times = np.empty(count, "datetime64[ns]")
    times[ends] = rows.times
    for k in np.flatnonzero(jumps > 1):
        times[ends[k - 1] + 1 : ends[k]] = rows.step.after(rows.times[k - 1], int(jumps[k]) - 1)
    return times


def _fill_column(
    values: np.ndarray, source: np.ndarray, starts: np.ndarray, s: int, cells: np.ndarray, how: str
) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Return what the missing cells of a column get, and the runs of rows that can't be filled: (series, from, to)."""
    filled = np.full(len(cells), np.nan)
    owner = np.searchsorted(starts, cells, "right") - 1
    first = (np.diff(cells, prepend=-2) > 1) | (np.diff(owner, prepend=-1) > 0)
    holes = []
    for a, b in itertools.pairwise(bounds(first)):
        low, high, series = int(cells[a]), int(cells[b - 1]) + 1, int(owner[a])
        begins, ends = low == starts[series], high == starts[series + 1]
        if begins or (ends and how == "interpolate"):
            holes.append((series, low, high))
            filled[a:b] = 0
            continue
        left = values[source[low - 1], s]
        right = left if how == "forward" else values[source[high], s]
        filled[a:b] = left + (right - left) * (np.arange(1, b - a + 1) / (b - a + 1))
    return filled, holes

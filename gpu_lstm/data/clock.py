"""The step of a series: found in its times, said in words, continued into the future."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import numpy as np

from gpu_lstm.errors import InputError

DAY = 86_400_000_000_000
UNITS = (("day", DAY), ("hour", DAY // 24), ("minute", DAY // 1440), ("second", 10**9), ("millisecond", 10**6))
"""Units of time in nanoseconds, largest first."""


@dataclass(frozen=True)
class Step:
    """From one time of a series to the next."""

    count: int
    unit: str = "nanoseconds"  # or months, business days
    day: int = 1  # of months: their last day where they have fewer

    def __str__(self) -> str:
        if self.unit == "business days":
            return "every business day"
        if self.unit == "months":
            known = {1: "every month", 3: "every quarter", 12: "every year"}
            return known.get(self.count, f"every {self.count} months")
        if self.count == 7 * DAY:
            return "every week"
        return f"every {span(self.count, one='')}"

    def cycles(self) -> dict[str, float]:
        """Return how many steps a day, a week and a year have, of those that are longer than a step."""
        if self.unit == "months":
            lengths = {"year": 12 / self.count}
        elif self.unit == "business days":
            lengths = {"week": 5.0, "year": 365.2425 * 5 / 7}
        else:
            lengths = {name: days * DAY / self.count for name, days in (("day", 1), ("week", 7), ("year", 365.2425))}
        return {name: length for name, length in lengths.items() if length > 1}

    def after(self, last: np.datetime64, count: int) -> np.ndarray:
        """Return the `count` times that follow one, datetime64[ns]."""
        ahead = np.arange(1, count + 1)
        day = last.astype("datetime64[D]")
        clock = last - day
        if self.unit == "nanoseconds":
            following = last + (ahead * self.count).astype("timedelta64[ns]")
        elif self.unit == "business days":
            following = np.busday_offset(day, ahead, roll="backward") + clock
        else:
            months = day.astype("datetime64[M]") + (ahead * self.count).astype("timedelta64[M]")
            into = np.minimum(self.day, _days(months)) - 1
            following = months.astype("datetime64[D]") + into.astype("timedelta64[D]") + clock
        return np.asarray(following, "datetime64[ns]")


@dataclass(frozen=True)
class Clock:
    """Where the times of a series come from."""

    columns: list[str]  # one column, or those that make a time together
    step: Step
    zone: str = ""  # in which people read them, as in the tz database; "" where none was written or said

    @property
    def name(self) -> str:
        """What a column of these times is called."""
        return self.columns[0] if len(self.columns) == 1 else "time"


def find_step(times: np.ndarray, first: np.ndarray, where: Callable[[int], str]) -> tuple[Step, np.ndarray, list[str]]:
    """Find the step of times that rise within each of several series.

    Parameters
    ----------
    times : (N,) datetime64[ns]
    first : (N,) bool
        Whether a row is the first of its series.
    where : callable
        Names a row for people.

    Returns
    -------
    step : Step
    places : (N,) int64
        How many steps a row comes after the first one of its series: 0, 1, 2 where nothing is missing.
    told : list of str
        What people should know of it.

    Raises
    ------
    InputError
        There is none: steps are uneven, or change on the way.
    """
    within = ~first[1:]
    apart = np.diff(times.astype(np.int64))
    if not within.any():
        raise InputError(f"there is one time only, {where(0)}; expected at least two to find their step; {UNEVEN}")
    days = times.astype("datetime64[D]")
    one_clock = np.ptp((times - days).astype(np.int64)) == 0
    found = None
    if np.median(apart[within]) >= 27 * DAY:
        found = _months(days, apart, within)
    elif one_clock and most(apart[within]) == DAY and (apart[within] == 3 * DAY).any() and np.is_busday(days).all():
        found = Step(1, "business days"), np.busday_count(days[:-1], days[1:]), []
    step, ahead, told = found or _even(apart, within, where)
    places = np.concatenate([[0], np.cumsum(np.where(within, ahead, 0))])
    return step, places - np.maximum.accumulate(np.where(first, places, 0)), told


UNEVEN = "--time none takes the rows as they are, one step each"


def most(numbers: np.ndarray) -> int:
    """Return the number that is there most often."""
    found, counts = np.unique(numbers, return_counts=True)
    return int(found[np.argmax(counts)])


def _days(months: np.ndarray) -> np.ndarray:
    """How many days each month has, of datetime64[M]."""
    days: np.ndarray = (months + np.timedelta64(1, "M")).astype("datetime64[D]") - months.astype("datetime64[D]")
    return days.astype(np.int64)


def _months(days: np.ndarray, apart: np.ndarray, within: np.ndarray) -> tuple[Step, np.ndarray, list[str]] | None:
    """Return the step where all times are whole months apart, on about the same day of each; None elsewhere."""
    months = days.astype("datetime64[M]")
    ahead = np.diff(months.astype(np.int64))
    count = most(ahead[within])
    if count < 1 or (ahead[within] % count).any() or (ahead[within] < 1).any():
        return None
    length = _days(months)
    day = (days - months.astype("datetime64[D]")).astype(np.int64) + 1
    step = Step(count, "months", 31 if (day == length).all() else int(day.max()))
    if (day == np.minimum(step.day, length)).all():
        return step, ahead // count, []
    if np.ptp(apart[within]) == 0 or np.ptp(day) > 7:
        return None
    return step, ahead // count, [f"days of the month vary, {day.min()} to {day.max()}; they are taken as {step}"]


def _even(apart: np.ndarray, within: np.ndarray, where: Callable[[int], str]) -> tuple[Step, np.ndarray, list[str]]:
    """Return the step where all times are whole multiples of it apart, as far as clocks are exact."""
    usual = most(apart[within])
    exact = bool(np.mean(apart[within] == usual) > 0.5)
    size = usual if exact else _round(int(np.median(apart[within])))
    ahead = np.maximum(1, np.rint(apart / size)).astype(np.int64)
    off = np.abs(apart - ahead * size)
    uneven = np.flatnonzero(within & (off > (0 if exact and not (off[within] < size / 100).all() else size / 10)))
    changed = _change(apart, within, usual) if exact else None
    if changed is not None and (len(uneven) or changed[1] > size):
        row, other = changed
        raise InputError(
            f"the step changes: it is {span(other)} from {where(row)} on, and mostly {span(size)}; expected one step: "
            f"give one part of the rows, or average them over even steps; {UNEVEN}"
        )
    if len(uneven) or np.mean(ahead[within] == 1) <= 0.5:
        row = int(uneven[0]) if len(uneven) else int(np.flatnonzero(within & (ahead != 1))[0])
        raise InputError(
            f"times are uneven: {np.mean(apart[within] == size):.0%} of the steps are {span(size)}, others from "
            f"{span(int(apart[within].min()))} to {span(int(apart[within].max()))}, the first {span(int(apart[row]))} "
            f"after {where(row)}; expected even steps: average over even ones first (pandas: "
            f"resample('{size / 10**9:g}s').mean()), or {UNEVEN}"
        )
    told = (
        [f"times are up to {span(int(off[within].max()))} off even steps, and taken as even"]
        if off[within].any()
        else []
    )
    return Step(size), ahead, told


def _change(apart: np.ndarray, within: np.ndarray, usual: int, least: int = 10) -> tuple[int, int] | None:
    """Return where as many steps in a row are the same but not the usual one, the row before them and their size."""
    new = np.concatenate([[True], (np.diff(apart) != 0) | ~within[1:] | ~within[:-1]])
    starts = np.flatnonzero(new)
    lengths = np.diff(np.append(starts, len(apart)))
    rows = starts[(lengths >= least) & (apart[starts] != usual) & within[starts]]
    return (int(rows[0]), int(apart[rows[0]])) if len(rows) else None


def _round(size: int) -> int:
    """Return the usual length of time that is within 2 % of one in nanoseconds, or that itself."""
    usual = [
        count * unit for _, unit in UNITS for count in (1, 2, 3, 4, 5, 6, 7, 10, 12, 15, 20, 30, 50, 100, 200, 250, 500)
    ]
    nearest = min(usual, key=lambda other: abs(other - size))
    return nearest if abs(nearest - size) <= 0.02 * size else size


def span(nanoseconds: int, one: str = "1 ") -> str:
    """Return a length of time in words: "2 days", "90 seconds"; "hour" after `one` for a single one."""
    for name, size in UNITS:
        if nanoseconds % size == 0 and nanoseconds >= size:
            count = nanoseconds // size
            return f"{one}{name}" if count == 1 else f"{count:,} {name}s"
    return f"{nanoseconds / 10**9:.9g} seconds"


def local(times: np.ndarray, zone: str) -> np.ndarray:
    """Return times as clocks of a zone show them, (N,) datetime64[ns], from UTC; as they are without a zone."""
    if zone in ("", "UTC"):
        return times
    import pandas

    shown = pandas.DatetimeIndex(times, tz="UTC").tz_convert(find_zone(zone)).tz_localize(None)
    return np.asarray(shown.to_numpy("datetime64[ns]"))


def find_zone(name: str) -> ZoneInfo:
    """Return the zone of a name. Raises InputError where there is none."""
    try:
        return ZoneInfo(name)
    except (ValueError, KeyError, OSError):
        raise InputError(f"--time-zone is {name!r}; expected a name of the tz database, as Europe/Berlin") from None


def to_utc(times: np.ndarray, zone: str) -> tuple[np.ndarray, list[str]]:
    """Return UTC of times that clocks of a zone showed, in the order in which they came, and what to tell of it.

    Raises InputError where there is no such zone, or a time is in the hour that clocks leave out in spring.
    """
    import pandas

    clocks = find_zone(zone)
    index, told = pandas.DatetimeIndex(times), list[str]()
    first = np.ones(len(index), bool)  # of two hours that clocks show alike
    there = index.tz_localize(clocks, ambiguous=first, nonexistent="NaT")
    if there.isna().any():
        shown = written(times[there.isna()][:1])[0]
        raise InputError(f"times don't fit --time-zone {zone}: its clocks leave out {shown}")
    if index.tz_localize(clocks, ambiguous="NaT").isna().any():
        try:
            there = index.tz_localize(clocks, ambiguous="infer")
        except Exception as error:  # of pytz in pandas 2, ValueError in 3
            if type(error) is not ValueError and type(error).__name__ != "AmbiguousTimeError":
                raise
            told.append("the hour that clocks repeat in autumn is there once; it is taken for the first of the two")
    return np.asarray(there.tz_convert("UTC").tz_localize(None).to_numpy("datetime64[ns]")), told


def written(times: np.ndarray, zone: str = "") -> list[str]:
    """Return times in ISO 8601, as short as all of them can be; with the offset where there is a zone."""
    shown = local(times, zone)
    for unit in ("D", "m", "s", "ms", "us", "ns"):
        if zone and unit == "D":
            continue
        if (shown.astype(f"datetime64[{unit}]") == shown).all():
            break
    texts_ = np.datetime_as_string(shown, unit=unit)
    if not zone:
        return [str(text) for text in texts_]
    minutes = ((shown - times) // np.timedelta64(1, "m")).astype(int)
    return [
        f"{text}{'-' if offset < 0 else '+'}{abs(offset) // 60:02d}:{abs(offset) % 60:02d}"
        for text, offset in zip(texts_, minutes, strict=True)
    ]

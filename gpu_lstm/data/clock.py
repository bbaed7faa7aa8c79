"""The step of a series: found in its times, said in words, continued into the future."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
            months = day.astype("datetime64[M]") + ahead * self.count
            length = ((months + 1).astype("datetime64[D]") - months.astype("datetime64[D]")).astype(np.int64)
            following = months.astype("datetime64[D]") + (np.minimum(self.day, length) - 1) + clock
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


def span(nanoseconds: int, one: str = "1 ") -> str:
    """Return a length of time in words: "2 days", "90 seconds"; "hour" after `one` for a single one."""
    for name, size in UNITS:
        if nanoseconds % size == 0 and nanoseconds >= size:
            count = nanoseconds // size
            return f"{one}{name}" if count == 1 else f"{count:,} {name}s"
    return f"{nanoseconds / 10**9:.9g} seconds"

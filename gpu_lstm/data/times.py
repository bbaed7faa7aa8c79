"""Columns of dates: found, and read where there is one way to read all of their rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np

from gpu_lstm.errors import InputError

if TYPE_CHECKING:
    import pandas

HELP = "--date-format says how times are written, --time none leaves them alone"
SAMPLE = 1000
"""Rows by which forms are picked; all rows must then be of one of these."""
CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
CLOCK = r"\d{1,2}[:.]\d\d(?:[:.]\d\d(?:[.,]\d+)?)?(?: ?[AaPp][Mm])?"
OFFSET = r"(?: ?(?:Z|UTC|GMT|[+-]\d\d(?::?\d\d)?))?"
NAMED = re.compile(r"(?i)date|(?:^|[^a-z])(?:time|timestamp|ts|stamp|epoch|unix|dt|utc|period|month)(?:[^a-z]|$)")
"""Names of columns in which digits alone may be a time."""
PARTS = (
    ("year", r"year|yr|yyyy", 1678, 2261),
    ("month", r"month|mon|mo|mnth|mm", 1, 12),
    ("day", r"day|dy|mday|dd", 1, 31),
    ("hour", r"hour|hours|hr|hh", 0, 24),
    ("minute", r"minute|minutes", 0, 59),
    ("second", r"second|seconds", 0, 59),
)
"""Columns that make a time together: what they are, their names, least and most."""
EPOCHS = (("seconds", 8, 0), ("milliseconds", 11, 3), ("microseconds", 14, 6), ("nanoseconds", 17, 9))
"""Units since 1970, numbers from 10 to which power on are of them, and how many digits smaller than a second they are.

10^8 seconds are 1973."""


@dataclass(frozen=True)
class Form:
    """A way to write dates."""

    words: str  # for people
    shape: str  # a regular expression that all of its dates match
    read: Callable[[pandas.Series], np.ndarray]  # (N,) texts to datetime64[ns], NaT where one is of another form
    digits: bool = False  # nothing but digits, which may as well be a number


def of_pandas(found: pandas.Series) -> np.ndarray:
    """Return datetime64[ns] of what pandas made of texts, NaT where those have no such time."""
    within = (found >= np.datetime64("1678-01-01")) & (found < np.datetime64("2262-01-01"))
    return np.asarray(found.where(within).to_numpy("datetime64[ns]"))


def by_format(date: str, clocks: Sequence[str] = CLOCKS) -> Callable[[pandas.Series], np.ndarray]:
    """Return what reads dates of one format of `datetime.strptime`, each alone or with a time of day."""

    def read(cells: pandas.Series) -> np.ndarray:
        import pandas

        found = np.full(len(cells), np.datetime64("NaT", "ns"))
        for clock in clocks:
            todo = np.isnat(found)
            if todo.any():
                found[todo] = of_pandas(pandas.to_datetime(cells[todo], format=date + clock, errors="coerce"))
        return found

    return read


def iso(cells: pandas.Series) -> np.ndarray:
    """Read ISO 8601, in UTC where an offset is written."""
    import pandas

    cells = cells.str.replace(r" ?(?:UTC|GMT)$", "Z", regex=True)
    return of_pandas(pandas.to_datetime(cells, format="ISO8601", errors="coerce", utc=True).dt.tz_localize(None))


def quarters(cells: pandas.Series) -> np.ndarray:
    """Read quarters: their first days."""
    year = cells.str.extract(r"(\d{4})")[0].astype("float64")
    quarter = cells.str.extract(r"(?i)Q([1-4])")[0].astype("float64")
    months = (year * 12 + (quarter - 1) * 3 - 1970 * 12).to_numpy()
    return np.where(np.isnan(months), np.nan, months).astype("datetime64[M]").astype("datetime64[ns]")


def years(cells: pandas.Series) -> np.ndarray:
    """Read years, also as a float's text."""
    return by_format("%Y", [""])(cells.str.replace(r"\.0+$", "", regex=True))


def epochs(power: int, digits: int) -> Callable[[pandas.Series], np.ndarray]:
    """Return what reads numbers since 1970, in a unit of which a second has 10^digits."""

    def read(cells: pandas.Series) -> np.ndarray:
        numbers = cells.astype("float64" if cells.str.contains(".", regex=False).any() else "int64").to_numpy()
        within = (numbers >= 10**power) & (numbers < 10 ** (power + 2))
        times = (np.where(within, numbers, 0) * 10 ** (9 - digits)).astype(np.int64).view("datetime64[ns]")
        return np.where(within, times, np.datetime64("NaT", "ns"))

    return read


def forms() -> list[Form]:
    """Return the ways to write dates that are known."""
    known = [
        Form("ISO 8601", rf"\d{{4}}-\d\d(?:-\d\d(?:[T ]\d\d(?::?\d\d(?::?\d\d(?:[.,]\d+)?)?)?{OFFSET})?)?", iso),
        Form("quarters", r"(?i)\d{4}[- /]?Q[1-4]|Q[1-4][- /]?\d{4}", quarters),
        Form("years", r"\d{4}(?:\.0+)?", years, digits=True),
    ]
    for words, parts in (("year{}month{}day", "Ymd"), ("day{}month{}year", "dmY"), ("month{}day{}year", "mdY")):
        for mark in "-/.":
            if (parts, mark) != ("mdY", "."):  # with dots the day is first, wherever dots are written
                shape = re.escape(mark).join(r"\d{4}" if part == "Y" else r"\d\d?" for part in parts)
                date = mark.join(f"%{part}" for part in parts)
                known.append(Form(words.format(mark, mark), rf"{shape}(?: {CLOCK})?", by_format(date)))
    for words, parts in (("year{}month{}day", "ymd"), ("day{}month{}year", "dmy"), ("month{}day{}year", "mdy")):
        for mark in "-/" if parts != "dmy" else "-/.":
            shape, date = re.escape(mark).join([r"\d\d?"] * 3), mark.join(f"%{part}" for part in parts)
            known.append(Form(f"{words.format(mark, mark)} of two digits", rf"{shape}(?: {CLOCK})?", by_format(date)))
    for date in ("%Y%m%d", "%Y%m%d%H", "%Y%m%d%H%M", "%Y%m%d%H%M%S", "%Y%m"):
        size = 2 + 2 * date.count("%")
        known.append(Form("digits", rf"\d{{{size}}}", by_format(date, [""]), digits=True))
    for date in ("%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%B %d %Y", "%d-%b-%Y", "%d-%b-%y"):
        known.append(
            Form("days with the month's name", rf"(?=.*[A-Za-z]{{3}})[\w ,.-]+?(?: {CLOCK})?", by_format(date))
        )
    for date in ("%b %Y", "%B %Y", "%b-%Y", "%Y %b", "%Y-%b", "%b, %Y"):
        known.append(Form("months by name", r"[A-Za-z]{3,9}[-, ]+\d{4}|\d{4}[- ][A-Za-z]{3}", by_format(date)))
    for date, shape in (("%Y/%m", r"\d{4}/\d\d?"), ("%m/%Y", r"\d\d?/\d{4}"), ("%m-%Y", r"\d\d?-\d{4}")):
        known.append(Form("months", shape, by_format(date)))
    for unit, power, digits in EPOCHS:
        shape = rf"\d{{{power + 1},{power + 2}}}(?:\.\d+)?"
        known.append(Form(f"{unit} since 1970", shape, epochs(power, digits), digits=True))
    return known


FORMS = forms()


def texts(cells: pandas.Series) -> pandas.Series:
    """Return the cells of a column as text without blanks around; "" where there is none."""
    return cells.astype("str").where(cells.notna(), "").str.strip()


def fitting(cells: pandas.Series, known: Sequence[Form]) -> list[tuple[Form, np.ndarray]]:
    """Return the forms by which all of some texts can be read, each with the times that it gives."""
    found = []
    for form in known:
        if cells.str.fullmatch(form.shape).all():
            times = form.read(cells)
            if not np.isnat(times).any():
                found.append((form, times))
    return found


def mostly(form: Form, cells: pandas.Series) -> bool:
    """Return whether nearly all of some texts can be read by a form: those that can't are then told by their places."""
    fit = cells.str.fullmatch(form.shape).to_numpy(bool)
    return bool(fit.mean() > 0.9) and bool(np.isnat(form.read(cells[fit])).mean() < 0.1)


def distinct(read: list[tuple[Form, np.ndarray]]) -> list[tuple[Form, np.ndarray]]:
    """Return those that give other times than those before them."""
    kept: list[tuple[Form, np.ndarray]] = []
    for form, times in read:
        if not any(np.array_equal(times, others) for _, others in kept):
            kept.append((form, times))
    return kept


def parts_of(names: Sequence[str]) -> list[str]:
    """Return the columns among some that make a time together, year first, by their names; [] where none do."""
    found: list[str] = []
    for _, pattern, _, _ in PARTS:
        named = [name for name in names if re.fullmatch(pattern, name.strip(), re.I)]
        if len(named) != 1:
            break
        found += named
    return found if len(found) > 1 else []


def find_time(frame: pandas.DataFrame) -> list[str]:
    """Return the columns of a table's first rows that hold its times: one, or those that make them together; or none.

    Digits alone are a time only where the column's name says so.
    """
    frame = frame.iloc[:SAMPLE]
    names = [name for name in frame.columns if name]
    parts = parts_of(names)
    if parts and all(within(texts(frame[name]), k) for k, name in enumerate(parts)):
        return parts
    dates = sorted((name for name in names if holds_times(frame[name])), key=lambda name: not NAMED.search(name))
    return [dates[0], *clock_of(frame, dates[0])] if dates else []


def holds_times(column: pandas.Series) -> bool:
    """Return whether nearly all cells of a column are a time."""
    if column.dtype.kind in "Mb":
        return str(column.dtype).startswith("datetime64")
    cells = texts(column)
    allowed = (form for form in FORMS if not form.digits or may_be(form, str(column.name), cells))
    return re.search(r"\d", cells.iloc[0]) is not None and any(mostly(form, cells) for form in allowed)


def may_be(form: Form, name: str, cells: pandas.Series) -> bool:
    """Return whether a column's name allows that its digits are of a form of dates."""
    if form.words == "years":
        return re.fullmatch(r"(?i)years?|yr|date|time", name) is not None and cells.is_unique
    return NAMED.search(name) is not None


def clock_of(frame: pandas.DataFrame, date: str) -> list[str]:
    """Return the column that has the times of day or the hours of a column of dates, if one has."""
    cells = texts(frame[date])
    if frame[date].dtype.kind == "M" or cells.str.contains(":").any():
        return []
    for name in frame.columns:
        if name != date and re.search(r"(?i)time|hour|clock|^hr$|^hh$", name):
            clock = texts(frame[name])
            if clock.str.fullmatch(CLOCK).all():
                return [name]
            if re.fullmatch(PARTS[3][1], name.strip(), re.I) and within(clock, 3) and cells.duplicated().any():
                return [name]
    return []


def within(cells: pandas.Series, part: int) -> bool:
    """Return whether all cells are whole numbers that a part of a time can be."""
    _, _, least, most = PARTS[part]
    return bool(cells.str.fullmatch(r"\d{1,4}(?:\.0+)?").all() and cells.astype("float64").between(least, most).all())


class Times:
    """Reads the rows of a column of times, or of those that make them together, block by block.

    Parameters
    ----------
    columns : list of str
        One column; a date and a time of day or an hour; or year, month and so on, as far as they go.
    date_format : str, optional
        How they are written, in the words of `datetime.strptime`, where that isn't certain.
    where : callable
        Names a row for people, given its label in the blocks.
    label : str
        What errors call the table.
    """

    def __init__(self, columns: Sequence[str], date_format: str | None, where: Callable[[int], str], label: str = ""):
        self.columns, self._where, self._label = list(columns), where, f"{label}: " if label else ""
        self._name = " ".join(columns)
        self._fixed = date_format
        self._forms = FORMS
        self._read: list[list[np.ndarray]] = []
        self._zoned: bool | None = None
        self.zone, self.words = "", ""
        if date_format is not None:
            self._forms = [Form(date_format, ".*", self._by_user(date_format))]

    def _by_user(self, date_format: str) -> Callable[[pandas.Series], np.ndarray]:
        clocks = [""] if re.search("%[HIcX]", date_format) else CLOCKS

        def read(cells: pandas.Series) -> np.ndarray:
            try:
                return by_format(date_format, clocks)(cells)
            except (ValueError, re.error) as error:
                raise InputError(f"--date-format is {date_format!r}: {error}") from None

        return read

    def add(self, frame: pandas.DataFrame) -> None:
        """Read a block of rows.

        Raises InputError where a row is no time, or none of the form of those before.
        """
        first = frame[self.columns[0]]
        if len(self.columns) == 1 and first.dtype.kind == "M":
            self._take_datetimes(first)
            return
        whole = len(self.columns) > 1 and within(texts(first), 0)
        cells = self._assembled(frame) if whole else self._joined(frame)
        self._check_zones(cells)
        if not self._read:
            first_rows = cells.iloc[:SAMPLE]
            self._forms = [form for form, _ in fitting(first_rows, self._forms)] or self._forms
        read = fitting(cells, self._forms)
        if not read:
            raise self._refusal(cells)
        kept = [form for form, _ in read]
        self._read = [self._read[self._forms.index(form)] if self._read else [] for form in kept]
        for blocks, (_, times) in zip(self._read, read, strict=True):
            blocks.append(times)
        self._forms = kept

    def _take_datetimes(self, cells: pandas.Series) -> None:
        """Keep a column that has times already."""
        if cells.isna().any():
            raise InputError(f"{self._where(cells.index[cells.isna()][0])}: column {self._name!r} is empty; {HELP}")
        zone = getattr(cells.dt, "tz", None)
        if zone is not None:
            self.zone, cells = (
                (zone.key if isinstance(zone, ZoneInfo) else getattr(zone, "zone", None)) or "UTC",
                cells.dt.tz_convert("UTC").dt.tz_localize(None),
            )
        self._forms, self._read = [Form("dates", "", iso)], self._read or [[]]
        self._read[0].append(of_pandas(cells))

    def _joined(self, frame: pandas.DataFrame) -> pandas.Series:
        """Return texts of dates with what the second column says of the time of day."""
        cells = texts(frame[self.columns[0]])
        for name in self.columns[1:]:
            clock = texts(frame[name])
            if within(clock, 3):
                hours = clock.astype("float64").astype("int64")
                if (hours == 24).any():
                    row = self._where(frame.index[hours == 24][0])
                    raise InputError(f"{row}: column {name!r} is 24; expected hours from 0 to 23")
                clock = hours.map("{:02d}:00".format)
            cells = (
                cells
                + " "
                + clock.str.replace(r"(\d)\.(\d\d)(?=[. ]|$)", r"\1:\2", regex=True).str.replace(
                    r"(\d)\.(\d\d)(?=[. ]|$)", r"\1:\2", regex=True
                )
            )
        return cells

    def _assembled(self, frame: pandas.DataFrame) -> pandas.Series:
        """Return ISO texts of columns of year, month and so on."""
        pieces = []
        for k, name in enumerate(self.columns):
            cells = texts(frame[name])
            if k >= len(PARTS) or not within(cells, k):
                fit = cells.str.fullmatch(r"\d{1,4}(?:\.0+)?").to_numpy()
                bad = cells[~fit] if not fit.all() else cells
                raise InputError(
                    f"{self._where(bad.index[0])}: column {name!r} is {bad.iloc[0]!r}; expected "
                    + (f"a {PARTS[k][0]}, {PARTS[k][2]} to {PARTS[k][3]}" if k < len(PARTS) else "no more columns")
                )
            pieces.append(cells.astype("float64").astype("int64").map("{:02d}".format))
        cells = pieces[0] + "-" + pieces[1]
        for mark, piece in zip("- ::", pieces[2:], strict=False):
            cells = cells + mark + piece
        return cells + ":00" if len(pieces) == 4 else cells

    def _check_zones(self, cells: pandas.Series) -> None:
        """Refuse a column in which an offset is written in some rows only."""
        zoned = cells.str.fullmatch(r".*\d[T ]\d.*(?:Z|UTC|GMT|[+-]\d\d(?::?\d\d)?)")
        first = bool(zoned.iloc[0]) if self._zoned is None else self._zoned
        if (zoned != first).any():
            label = cells.index[zoned != first][0]
            raise InputError(
                f"{self._where(label)}: column {self._name!r} is {cells[label]!r}; expected "
                f"{'an' if first else 'no'} offset from UTC, as in the rows before"
            )
        self._zoned = first
        if first:
            self.zone = "UTC"

    def _refusal(self, cells: pandas.Series) -> InputError:
        """Return the error for the first row that isn't of the forms of those before."""
        for form in self._forms:
            fit = cells.str.fullmatch(form.shape).to_numpy(bool)
            good = np.zeros(len(cells), bool)
            if fit.any():
                good[fit] = ~np.isnat(form.read(cells[fit]))
            if good[0] or self._read or self._fixed:
                label = cells.index[~good][0]
                shown = f"{cells[label][:40]!r}" if cells[label] else "empty"
                return InputError(
                    f"{self._where(label)}: column {self._name!r} is {shown}; expected a time as {form.words}; {HELP}"
                )
        shown = f"{cells.iloc[0][:40]!r}" if cells.iloc[0] else "empty"
        return InputError(f"{self._where(cells.index[0])}: column {self._name!r} is {shown}; expected a time; {HELP}")

    def finish(self) -> np.ndarray:
        """Return the times of all rows, (N,) datetime64[ns].

        Raises InputError where there is more than one way to read them.
        """
        read = distinct([(form, np.concatenate(blocks)) for form, blocks in zip(self._forms, self._read, strict=True)])
        if len(read) > 1:
            row = int(np.flatnonzero(read[0][1] != read[1][1])[0])
            ways = " or ".join(f"{form.words} ({times[row].astype('datetime64[D]')})" for form, times in read)
            raise InputError(
                f"{self._label}column {self._name!r} may be {ways}, and no row says which; expected --date-format, "
                "%d/%m/%Y for day/month/year and so on"
            )
        self.words = read[0][0].words
        return read[0][1]

"""Tables of any kind, read by pandas: what they hold is judged by all of their rows, and told."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu_lstm.data import numbers
from gpu_lstm.data.dialect import Reading
from gpu_lstm.data.numbers import GROUPED, MARKS, NUMBERS, TRUTH, Form, form
from gpu_lstm.data.sources import Source, open_source
from gpu_lstm.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Reading", "Table", "read_table"]

_ROWS = 10
"""Rows from which on a column that counts them is one of row numbers."""
_TOTAL = re.compile(r"((grand |sub)?total|sum|average|mean|summe|gesamt|mittelwert|somme|moyenne|suma|media)s?:?", re.I)
_YEARS = re.compile(r"years?|yr|jahr|année|annee|año|ano|anno", re.I)


def read_table(source: Any, what: str, reading: Reading | None = None, asked: Sequence[str] = ()) -> Table:
    """Open a table; nothing is kept of it in memory.

    Parameters
    ----------
    source : path, DataFrame, mapping of columns, or array
        A file is .csv, .tsv, .txt, also .gz or .xz of them, .parquet (needs pyarrow), .npz or .npy.
    what : str
        What errors call it.
    reading : Reading, optional
        How a text is written, where that isn't to be found out.
    asked : sequence of str
        Names of columns that it is known to have.

    Raises
    ------
    InputError
        There is no such file, it is none of these, or how it is written isn't certain: the message names the option.
    """
    return Table(open_source(source, what, reading or Reading(), asked), reading or Reading())


@dataclass
class Column:
    """What all cells of a column say."""

    name: str
    forms: Counter[Form] = field(default_factory=Counter)
    first: dict[Form, tuple[int, str]] = field(default_factory=dict)  # where a form stands first, and its cell
    low: float = math.inf  # of its plain numbers
    high: float = -math.inf
    rows: set[int] = field(default_factory=lambda: {0, 1})  # what its cells are row numbers from
    rising: bool = True  # never decreases
    whole: bool = True
    texts: set[str] = field(default_factory=set)  # up to two different cells
    last: tuple[str, str] = ("", "")  # the last two cells

    @property
    def empty(self) -> bool:
        """Whether nothing but missing cells is in it."""
        return not any(count for (kind, _), count in self.forms.items() if kind != "missing")

    def most(self, decimal: str) -> tuple[str, int, int]:
        """Return the unit of most of its numbers, how many have it, and how many other cells aren't missing."""
        units: Counter[str] = Counter()
        for (kind, unit), count in self.forms.items():
            if kind in NUMBERS[decimal] or kind == "infinite":
                units[unit] += count
        unit, found = units.most_common(1)[0] if units else ("", 0)
        known = sum(count for (kind, _), count in self.forms.items() if kind != "missing")
        return unit, found, known - found

    def see(self, column: pd.Series) -> None:
        """Take the next cells into account."""
        cells = _cells(column)
        begin = int(column.index[0])
        found: np.ndarray | None
        if isinstance(cells, np.ndarray):
            found, infinite = cells, int(np.isinf(cells).sum())
            lacking = int(np.isnan(cells).sum())
            kinds = {
                ("missing", ""): lacking,
                ("plain", ""): len(cells) - lacking - infinite,
                ("infinite", ""): infinite,
            }
            counted = Counter({kind: count for kind, count in kinds.items() if count})
        else:
            counted, found = numbers.forms(cells, ("point", "") in self.forms)
        for one in counted:
            if one not in self.first and one[0] not in ("plain", "missing") and not isinstance(cells, np.ndarray):
                where = next(((begin + k, cell) for k, cell in enumerate(cells) if form(cell) == one), None)
                self.first |= {one: where} if where else {}
        self.forms += counted
        self._see_values(found, begin)
        self.last = (*self.last, *map(str, cells[-2:]))[-2:]  # type: ignore[assignment]
        if len(self.texts) < 2:
            self.texts.update(itertools.islice(dict.fromkeys(map(str, cells)), 2))

    def _see_values(self, found: np.ndarray | None, begin: int) -> None:
        if found is None or not np.isfinite(found).all():
            self.rows, self.rising, self.whole = set(), False, False
            return
        counted = np.arange(begin, begin + len(found))
        self.rows = {start for start in self.rows if np.array_equal(found, counted + start)}
        self.rising = self.rising and (not len(found) or (found[0] >= self.high and bool((np.diff(found) >= 0).all())))
        self.whole = self.whole and bool((found == np.round(found)).all())
        self.low, self.high = min(self.low, float(found.min())), max(self.high, float(found.max()))


class Table:
    """A table: names of columns, and rows that are read in pieces, as often as asked for."""

    def __init__(self, source: Source, reading: Reading):
        self._source, self._reading = source, reading
        self.names = source.names

    @property
    def label(self) -> str:
        """What errors call it: its path, or what it is."""
        return self._source.label

    def at(self, row: int) -> str:
        """Return where a row, counted from 0, stands: the file and its line."""
        return self._source.at(row)

    def place(self, name: str) -> int:
        """Return which column has a name.

        Raises InputError where the table has no such column, or more than one; the message lists those that it has.
        """
        if name not in self.names:
            listed = ", ".join(map(repr, self.names[:20]))
            raise InputError(f"{self.label} has no column {name!r}; it has {listed}{self._source.hint}")
        if self.names.count(name) > 1:
            count = self.names.count(name)
            raise InputError(f"{self.label} has {count} columns called {name!r}; expected different names")
        return self.names.index(name)

    def chunks(self, names: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        """Yield the rows in pieces, with the columns of those names, in their order; all that have one if not given.

        The index has the numbers of the rows, from 0. Raises InputError where the table is damaged, or has no rows.
        """
        names = [name for name in dict.fromkeys(self.names) if name] if names is None else list(names)
        places, rows = [self.place(name) for name in names], 0
        for piece in self._source.chunks():
            picked = piece.iloc[:, places]
            picked.columns = names
            rows += len(piece)
            yield picked
        if not rows:
            raise InputError(f"{self.label} has no rows" + self._source.after)

    @cached_property
    def columns(self) -> list[Column]:
        """What is in each column, by all rows."""
        found = [Column(name) for name in self.names]
        self.rows = 0
        for piece in self._source.chunks():
            self.rows += len(piece)
            for k, column in enumerate(found):
                column.see(piece.iloc[:, k])
        if not self.rows:
            raise InputError(f"{self.label} has no rows" + self._source.after)
        for column in found:
            if _TOTAL.fullmatch(column.last[1].strip()) and column.last[0] != column.last[1]:
                raise InputError(
                    f"{self.at(self.rows - 1)}: column {column.name!r} is {column.last[1].strip()!r}; expected no row "
                    "of totals (--skip-end 1 leaves the last row out)"
                )
        return found

    @cached_property
    def decimal(self) -> str:
        """The decimal mark of its numbers, see `Reading`.

        Raises InputError where it isn't certain, as with 1,234 alone, or differs.
        """
        if self._reading.decimal is not None:
            return self._reading.decimal
        if self._reading.thousands in (".", ","):
            return "," if self._reading.thousands == "." else "."
        seen: dict[str, str] = {}
        for column in self.columns:
            known = sum(count for (kind, _), count in column.forms.items() if kind != "missing")
            if 2 * sum(count for (kind, _), count in column.forms.items() if kind == "text") <= known:
                for (kind, _), (row, cell) in column.first.items():
                    seen.setdefault(kind, f"{self.at(row)}: column {column.name!r} is {cell.strip()!r}")
        point, comma = (seen.get(mark) or seen.get(f"grouped {mark}") for mark in ("point", "comma"))
        if point and comma:
            raise InputError(f"{point}, and {comma}; say which is the decimal mark: --decimal")
        if point or comma:
            return "." if point else ","
        unsure = seen.get("comma?") or (seen.get("point?") if self._source.commas_likely else None)
        if unsure or ("comma?" in seen and "point?" in seen):
            raise InputError(
                f"{unsure}, which may have a decimal mark or one between thousands, as all of such numbers here; say "
                "which: --decimal . or --decimal ,"
            )
        return "."

    def numeric(self, others: Iterable[str] = ()) -> tuple[list[str], dict[str, str]]:
        """Return the names of the columns that hold numbers and are no `others`, and why the rest was left.

        A column that holds numbers in some rows, and not more of other text, is one of numbers: what it lacks is for
        whoever reads it to tell. One without a name is left, and one that counts rows. Raises InputError where no
        column holds numbers.
        """
        others, names, left = set(others), [], dict[str, str]()
        for k, column in enumerate(self.columns):
            if not column.name:
                left[f"column {k + 1}"] = "no name"
            elif column.name not in others:
                if why := self._why_left(column):
                    left[column.name] = why
                else:
                    names.append(column.name)
        if not names:
            besides = f" besides {' and '.join(map(repr, sorted(others)))}" if others else ""
            listed = ", ".join(f"{name} ({why})" for name, why in list(left.items())[:10])
            raise InputError(f"{self.label} has no numeric column{besides}: {listed or 'no others'}{self._source.how}")
        return names, left

    def _why_left(self, column: Column) -> str:
        _, found, texts = column.most(self.decimal)
        if column.empty:
            return "empty"
        if texts > found or not found:
            shown = next((cell for (kind, _), (_, cell) in column.first.items() if kind == "text"), "")
            return f"{'more text than numbers' if found else 'text'}, such as {shown.strip()[:30]!r}"
        if self.rows >= _ROWS and column.rows:
            return f"row numbers from {min(column.rows)}"
        if column.whole and self.rows >= _ROWS:
            if column.rising and _YEARS.fullmatch(column.name.strip()) and 1000 <= column.low <= column.high <= 3000:
                return "years: a date, no measurement"
            if max(-column.low, column.high) > 2**53:
                return "whole numbers too large to be held exactly"
        return ""

    def texts(self, piece: pd.DataFrame, name: str) -> list[str]:
        """Return the cells of a column as texts without spaces around; of a missing one, nothing."""
        cells = _cells(piece[name])
        if isinstance(cells, np.ndarray):
            return [
                "" if math.isnan(cell) else str(int(cell)) if cell == int(cell) else repr(float(cell)) for cell in cells
            ]
        return [cell.strip() for cell in cells]

    def numbers(self, piece: pd.DataFrame, name: str) -> np.ndarray:
        """Return the numbers of a column, (n,) float64 with NaN where a cell is missing.

        Raises InputError where one is infinite or no number; the message has file, line and column.
        """
        found, bad = self._parse(piece, name)
        if bad is not None:
            raise self._no_number(piece, bad, name)
        return found

    def complete(self, piece: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
        """Return the numbers of columns, (n, K) float64.

        Raises InputError where one is missing, infinite or no number: the first such row is told.
        """
        found, wrong = np.empty((len(piece), len(names))), list[tuple[int, str]]()
        for k, name in enumerate(names):
            found[:, k], bad = self._parse(piece, name)
            lacking = np.isnan(found[:, k])
            if bad is not None or lacking.any():
                wrong.append((int(lacking.argmax()), name))
        if wrong:
            raise self._no_number(piece, *min(wrong, key=lambda one: one[0]))
        return found

    def _parse(self, piece: pd.DataFrame, name: str) -> tuple[np.ndarray, int | None]:
        """Return the numbers of a column, NaN where there is none, and which is the first cell with neither."""
        cells = _cells(piece[name])
        if isinstance(cells, np.ndarray):
            found, bad = cells, None
        else:
            unit = self.columns[self.place(name)].most(self.decimal)[0]
            found, bad = numbers.values(cells, self.decimal, unit)
        if (infinite := np.isinf(found)).any():
            first = int(infinite.argmax())
            found, bad = np.where(infinite, math.nan, found), first if bad is None else min(first, bad)
        return found, bad

    def _no_number(self, piece: pd.DataFrame, k: int, name: str) -> InputError:
        row, cell = int(piece.index[k]), str(_cells(piece[name])[k])
        kind, unit = form(cell)
        shown, expected = f"{cell.strip()[:40]!r}" if cell.strip() else "empty", "a number"
        value = numbers.number(cell)
        if value is not None and not math.isfinite(value):
            shown, expected = cell.strip(), "a finite number"
        elif kind not in ("missing", "text", "infinite"):
            has = self.columns[self.place(name)].most(self.decimal)[0]
            same = f"with the unit {has!r} as others" if has else "without a unit as others" if unit else ""
            expected += f" {same}" if has != unit else f" with {MARKS[self.decimal]} (--decimal)"
        units = ", or units, which --units says" if row == 0 and kind == "text" and self._source.is_text else ""
        return InputError(
            f"{self.at(row)}: column {name!r} is {shown}; expected {expected}{units}, or other columns to take "
            "(--columns)"
        )

    def understood(self, names: Sequence[str]) -> list[str]:
        """Return lines for people: how the table was read, and what is odd about the columns of those names."""
        picked = [self.columns[self.place(name)] for name in names]
        ways = [f"{self.rows:,} rows", f"{len(self.names)} columns", *self._source.told]
        kinds = {kind for column in picked for kind, _ in column.forms}
        if self.decimal == "," and kinds & {"comma", "comma?", "grouped comma"}:
            ways.append("decimal commas")
        lines = [f"{self.label}: {', '.join(ways)}"]
        marked = GROUPED[self.decimal]
        grouped = [column.name for column in picked if any(kind in marked for kind, _ in column.forms)]
        if grouped:
            lines.append(f"with marks between thousands: {_listed(grouped)}")
        for column in picked:
            unit = column.most(self.decimal)[0]
            if unit == TRUTH:
                lines.append(f"{column.name}: true and false are 1 and 0")
            elif unit:
                lines.append(f"{column.name}: numbers without their unit, {unit}")
        if constant := [column.name for column in picked if len(column.texts) == 1 and self.rows > 1]:
            lines.append(f"the same in all rows: {_listed(constant)}")
        return lines


def _cells(column: pd.Series) -> np.ndarray | list[str]:
    """Return the cells of a column: (n,) float64, NaN where missing, where its type is one of numbers; else texts."""
    import pandas as pd

    types = pd.api.types
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    if types.is_numeric_dtype(column.dtype) and not types.is_bool_dtype(column.dtype):
        if types.is_complex_dtype(column.dtype):
            return [str(cell) for cell in column]
        return np.asarray(column.to_numpy(np.float64, na_value=math.nan))
    if types.infer_dtype(column, skipna=False) == "string" and column.dtype == object:
        cells: list[str] = column.tolist()
        return cells
    return ["" if missing else str(cell) for cell, missing in zip(column, column.isna(), strict=True)]


def _listed(names: Sequence[str], most: int = 30) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

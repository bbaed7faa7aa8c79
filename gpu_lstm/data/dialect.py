"""How a text table is written: encoding, separator, header. Found out where that is certain, else refused."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import methodcaller
from pathlib import Path
from typing import IO

from gpu_lstm.data.files import BLOCK, UNREADABLE, open_bytes
from gpu_lstm.data.numbers import form
from gpu_lstm.errors import InputError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "spaces"}
"""What may stand between cells, and its name for people. A space stands for one or more of them, or of tabs."""
_DATE = re.compile(r"[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}([ T].*)?|[0-9]{1,2}:[0-9]{2}(:[0-9.]+)?")
_UNIT = re.compile(
    r"[\[(<].*[\])>]|(([kMGTmuµμncdh]?(m|g|s|A|K|mol|W|Wh|V|VA|VAr|Hz|Pa|bar|J|N|l|L|eV|lx|T|B|t|cd)|[%‰°ΩCFhdU]|°[CFK]?"
    r"|deg|deg ?[CF]|degrees|rad|min|sec|hours?|days?|ppm|ppb|psi|rpm|mph|kn|ft|in|lb|mmHg|dB|dBA|EUR|USD|GBP|count|pH)"
    r"([23²³]|\^-?[0-9]|-[0-9])?[/*· ]?)+"
)
"""How units are written below a header."""
_HEAD_ROWS, _HEAD_CHARACTERS = 200, 1 << 17


@dataclass(frozen=True)
class Reading:
    """How a table is to be read; what is None is found out, or refused where it isn't certain."""

    sep: str | None = None  # between cells: one character, or tab, space, comma, semicolon, bar
    decimal: str | None = None  # "." or ","
    thousands: str | None = None  # between groups of three digits: ".", ",", " " or "'"
    encoding: str | None = None  # as Python names it
    header: str = "auto"  # auto, first (the first row has the names) or none (columns are called 1, 2, ...)
    skip: int = 0  # lines at the file's start that aren't of the table
    skip_end: int = 0  # rows at its end that aren't, such as totals
    comment: str = "#"  # lines that begin with it aren't rows; nothing: none are
    units: bool = False  # the row below the header has units
    wide: bool = False  # each row is a whole sequence, a column a step

    def __post_init__(self) -> None:
        words = {"tab": "\t", "\\t": "\t", "space": " ", "comma": ",", "semicolon": ";", "bar": "|", "pipe": "|"}
        if self.sep is not None:
            object.__setattr__(self, "sep", words.get(self.sep.lower(), self.sep))
            if len(self.sep) != 1 or self.sep in '"\r\n\0' or self.sep.isalnum():
                raise InputError(f"sep (--sep) is {self.sep!r}; expected one character, or one of {', '.join(words)}")
        for name, given, marks in (("decimal", self.decimal, ".,"), ("thousands", self.thousands, "., '")):
            if given is not None and (len(given) != 1 or given not in marks):
                listed = " or ".join(map(repr, marks))
                raise InputError(f"{name} (--{name}) is {given!r}; expected {listed}")
        if self.thousands is not None and self.decimal == self.thousands:
            raise InputError(f"decimal and thousands are both {self.decimal!r} (--decimal, --thousands)")
        if self.header not in ("auto", "first", "none"):
            raise InputError(f"header (--header) is {self.header!r}; expected auto, first or none")
        for name, count in (("skip", self.skip), ("skip-end", self.skip_end)):
            if count < 0:
                raise InputError(f"{name} (--{name}) is {count}; expected 0 or more")
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except LookupError:
                raise InputError(
                    f"encoding (--encoding) is {self.encoding!r}; Python knows none of that name"
                ) from None


@dataclass
class Dialect:
    """How a table's file is written."""

    path: Path
    reading: Reading
    encoding: str = "utf-8"
    sep: str = ","
    names: list[str] = field(default_factory=list)
    before: int = 0  # lines before the first row of data
    named_in: int = 0  # the line with the names; 0 for none
    commented: bool = False  # whether lines of comment stand among the rows
    blank: int = 0  # blank lines between rows, once all rows have been read
    told: list[str] = field(default_factory=list)  # for people

    @contextmanager
    def open(self) -> Iterator[IO[str] | _Uncommented]:
        """Open the rows of data: no header, no comments.

        Raises InputError where, while it is read, it proves to be damaged.
        """
        with _text(self.path, self.encoding) as text:
            for _ in range(self.before):
                text.readline()
            yield _Uncommented(text, self.reading.comment) if self.commented else text

    def plain_rows(self) -> int | None:
        """Return how many rows there are where each is a line with as many separators as between the names.

        None where one isn't, has quotes, or is very long: then `rows` tells.
        """
        between, count = len(self.names) - 1, 0
        if not between or self.sep == " ":
            return None
        with self.open() as text:
            while lines := text.readlines(BLOCK):
                if set(map(methodcaller("count", self.sep), lines)) != {between} or '"' in "".join(lines):
                    return None
                if max(map(len, lines)) > csv.field_size_limit():
                    return None
                count += len(lines)
        return count

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows of data with the numbers of the lines where they end."""
        with _text(self.path, self.encoding) as text:
            count, empty, between = 0, 0, 0

            def counted() -> Iterator[str]:
                nonlocal count
                for line in text:
                    count += 1
                    if count > self.before and not (self.commented and _is_comment(line, self.reading.comment)):
                        yield line

            for cells in _split(counted(), self.sep):
                if "".join(cells).strip() or len(cells) > 1:
                    between += empty
                    empty = 0
                    yield count, cells
                else:
                    empty += 1
            self.blank = between


class _Uncommented(io.TextIOBase):
    """Lines of a text that are no comments."""

    def __init__(self, text: IO[str], comment: str):
        self._text, self._comment, self._left = text, comment, ""

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> str:
        size = BLOCK if size is None or size < 0 else size
        while len(self._left) < size and (lines := self._text.readlines(size)):
            self._left += "".join(line for line in lines if not _is_comment(line, self._comment))
        given, self._left = self._left[:size], self._left[size:]
        return given

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]
        return (line for line in self._text if not _is_comment(line, self._comment))


@contextmanager
def _text(path: Path, encoding: str) -> Iterator[IO[str]]:
    """Open a text, with every end of a line as a newline."""
    try:
        with open_bytes(path) as raw, io.TextIOWrapper(raw, encoding=encoding) as text:
            yield text
    except UNREADABLE as error:
        raise InputError(f"{path} can't be read: {error}") from None


def _is_comment(line: str, comment: str) -> bool:
    return bool(comment) and line.lstrip().startswith(comment)


def _split(lines: Iterator[str], sep: str) -> Iterator[list[str]]:
    if sep == " ":
        return csv.reader((" ".join(line.split()) for line in lines), delimiter=sep)
    return csv.reader(lines, delimiter=sep, skipinitialspace=sep != "\t")


def find_dialect(path: Path, reading: Reading, asked: Sequence[str] = ()) -> Dialect:
    """Find out how a table is written; `asked` are names that it is known to have.

    Raises InputError where that is not certain, naming the option that says it, or where it is no table.
    """
    found = Dialect(path, reading)
    found.encoding = _encoding(found)
    lines, whole = _head(found)
    if not lines:
        raise InputError(f"{path} has no rows" + (f" after the {reading.skip} lines skipped" if reading.skip else ""))
    found.sep = reading.sep or _separator(found, [line for _, line in lines], whole)
    rows = _cells(lines, found.sep)
    if not whole and len(rows) > 1:
        rows.pop()  # it may be cut off
    if not rows:
        raise InputError(f"{path} has no rows")
    _find_header(found, rows, asked)
    return found


# -- encoding -------------------------------------------------------------------------------------------------


def _encoding(found: Dialect) -> str:
    """Return the encoding, once all of the text is known to be of it; says whether comments stand among the rows."""
    path, given = found.path, found.reading.encoding
    with open_bytes(path) as file:
        try:
            start = file.read(1 << 16)
        except UNREADABLE as error:
            raise InputError(f"{path} can't be read: {error}") from None
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding, known = "utf-16", "UTF-16"
    elif start.startswith(codecs.BOM_UTF8):
        encoding, known = "utf-8-sig", ""
    else:
        even, odd = start[::2].count(0), start[1::2].count(0)
        wide = "utf-16-le" if odd > 10 * even else "utf-16-be" if even > 10 * odd else ""
        text = start.decode(wide, "ignore") if wide and 4 * max(even, odd) > len(start) else ""
        certain = bool(text) and "\0" not in text and all(mark.isprintable() or mark in "\r\n\t" for mark in text)
        encoding, known = (wide, wide.upper()) if certain else ("utf-8", "")
    if given is not None:
        encoding, known = ("utf-8-sig" if codecs.lookup(given).name == "utf-8" else given), given
    try:
        _check_text(found, encoding)
    except UnicodeError as error:
        if given is not None:
            raise InputError(f"{path} is not {given} text: {error}; another is said by --encoding") from None
        why = f"{path} is not UTF-8 text: {getattr(error, 'reason', error)}"
        if not _is_western(path):
            raise InputError(f"{why}; say its encoding: --encoding cp1252, latin-1, utf-16, shift-jis, ...") from None
        encoding, known = "cp1252", "Windows-1252 (Latin-1), as it isn't UTF-8"
        _check_text(found, encoding)
    if known:
        found.told.append(f"encoding {known}")
    return encoding


def _check_text(found: Dialect, encoding: str) -> None:
    """Read all of the text once. Raises InputError for a NUL in it, UnicodeError where it is of another encoding."""
    comment, lines, first = found.reading.comment, 0, True
    marked = re.compile(rf"\n[ \t]*{re.escape(comment)}") if comment else None
    with _text(found.path, encoding) as text:
        rest = "\n"
        while block := text.read(BLOCK):
            if "\0" in block:
                line = lines + block[: block.index("\0")].count("\n") + 1
                raise InputError(
                    f"{found.path}, line {line} has a NUL character: it is no text, or in another encoding, such as "
                    "UTF-16 (--encoding utf-16)"
                )
            lines += block.count("\n")
            if marked is not None and comment in block and marked.search(rest + block):
                found.commented = True
            rest, first = (rest + block)[-20:], False
    if first:
        raise InputError(f"{found.path} is empty")


def _is_western(path: Path) -> bool:
    """Return whether a text's bytes are almost certainly Latin-1 or Windows-1252: single letters and signs of it."""
    with open_bytes(path) as file:
        rest = b""
        while block := file.read(BLOCK):
            if re.search(rb"[\x80-\xff]{3}|[\x81\x8d\x8f\x90\x9d]", rest + block):
                return False
            rest = block[-2:]
    return True


# -- separator ------------------------------------------------------------------------------------------------


def _head(found: Dialect) -> tuple[list[tuple[int, str]], bool]:
    """Return the first lines with their numbers, without blank ones and comments, and whether these are all."""
    lines, size = list[tuple[int, str]](), 0
    with _text(found.path, found.encoding) as text:
        for number in range(1, found.reading.skip + _HEAD_ROWS * 5):
            line = text.readline(_HEAD_CHARACTERS)
            size += len(line)
            if not line:
                return lines, True
            if number > found.reading.skip and line.strip() and not _is_comment(line, found.reading.comment):
                lines.append((number, line))
            if len(lines) >= _HEAD_ROWS or size >= _HEAD_CHARACTERS:
                break
        return lines, not text.read(1)


def _cells(lines: list[tuple[int, str]], sep: str) -> list[tuple[int, list[str]]]:
    """Return rows with the numbers of the lines where they end."""
    last = 0

    def counted() -> Iterator[str]:
        nonlocal last
        for number, line in lines:
            last = number
            yield line

    try:
        return [(last, [cell.strip() for cell in cells]) for cells in _split(counted(), sep)]
    except csv.Error as error:
        raise InputError(f"the table can't be read after line {last}: {error}") from None


def _separator(found: Dialect, lines: list[str], whole: bool) -> str:
    """Return what stands between cells.

    It is certain where one mark cuts all rows into as many cells, or, of two that do, one leaves more numbers.
    """
    scores: dict[str, tuple[float, float]] = {}
    for sep in SEPARATORS:
        if (sep == " " and scores) or (sep == found.reading.decimal and not any('"' in line for line in lines)):
            continue
        try:
            rows = [cells for _, cells in _cells(list(enumerate(lines)), sep)]
        except InputError:
            continue
        rows = rows[: len(rows) if whole or len(rows) < 3 else -1]
        width, times = Counter(map(len, rows)).most_common(1)[0]
        if sep == found.reading.decimal and times < len(rows):
            continue
        if width > 1 and times > len(rows) / 2 and (sep != " " or times == len(rows) > 1):
            known = [cell for row in rows for cell in row if cell]
            numeric = sum(form(cell)[0] not in ("text", "missing") or bool(_DATE.fullmatch(cell)) for cell in known)
            scores[sep] = (times / len(rows), numeric / max(1, len(known)))
    if not scores:
        return _only_column(found, lines)
    full = {sep: score for sep, score in scores.items() if score[0] == max(score[0] for score in scores.values())}
    best = max(full, key=lambda sep: full[sep][1])
    names = [cell for cell in next(_split(iter(lines), best)) if not _is_value(cell)]
    mixed = any(sep in name for sep in full if sep != best for name in names)
    if mixed or sum(score[1] == full[best][1] for score in full.values()) > 1:
        either = " or ".join(SEPARATORS[sep] for sep in full)
        raise InputError(f"{found.path}: its cells may be separated by {either}; say by which: --sep")
    return best


def _only_column(found: Dialect, lines: list[str]) -> str:
    """Return a separator that doesn't occur: the table has one column. Raises InputError where one may occur."""
    for sep, name in SEPARATORS.items():
        if sep not in (" ", found.reading.decimal) and 2 * sum(sep in line for line in lines) >= len(lines):
            if sep in lines[0]:
                return sep  # the header has it: which rows haven't as many is told when they are read
            raise InputError(
                f"{found.path} is no table that is certain: of its first {len(lines)} rows some have {name} between "
                "cells and others have not as many; say what separates cells (--sep) or the decimal mark (--decimal)"
            )
    return next(sep for sep in "\t|;,\x1f" if not any(sep in line for line in lines) and sep != found.reading.decimal)


# -- header ---------------------------------------------------------------------------------------------------


def _find_header(found: Dialect, rows: list[tuple[int, list[str]]], asked: Sequence[str]) -> None:
    """Set a table's names and where its rows begin, from its first rows and the numbers of their lines."""
    reading = found.reading
    width = Counter(len(cells) for _, cells in rows[len(rows) // 2 :]).most_common(1)[0][0]
    top = _preamble(rows, width) if reading.header != "none" and not reading.skip else 0
    if top:
        found.told.append(f"{rows[top][0] - 1} lines before the header skipped")
    rows = rows[top:]
    first, below = rows[0][1], [cells for _, cells in rows[1:]]
    if not _has_header(found, first, below, asked):
        comment = _comment_header(found, rows[0][0], len(first))
        found.names = comment or [str(k + 1) for k in range(len(first))]
        found.before = rows[0][0] - 1
        found.told.append("names in a comment" if comment else "no header: columns are called 1, 2, ...")
        return
    found.names, found.named_in = first, rows[0][0]
    found.before = found.named_in
    if found.named_in > 1:
        found.told.append(f"header in line {found.named_in}")
    if len(first) == width - 1 and all(len(cells) == width and not cells[-1] for cells in below):
        found.names = [*first, ""]
        found.told.append("a separator at the end of each row but the header")
    if below and (reading.units or _holds_units(below)):
        found.before = rows[1][0]
        found.told.append(f"line {rows[1][0]} has units, no data: {', '.join(filter(None, below[0]))[:60]}")


def _preamble(rows: list[tuple[int, list[str]]], width: int) -> int:
    """Return how many rows stand before the header: those of another width before a header and rows of one width."""
    other = [k for k, (_, cells) in enumerate(rows) if len(cells) != width]
    top = other[-1] + 1 if other else 0
    if width < 2 or not 0 < top < len(rows) - 1 or len(other) != top or any(len(c) > width for _, c in rows[:top]):
        return 0
    header, below = rows[top][1], [cells for _, cells in rows[top + 1 :]]
    return top if any(_names_numbers(header, below)) and not any(map(_is_value, header)) else 0


def _is_value(cell: str) -> bool:
    """Return whether a cell holds a number or a date."""
    return form(cell)[0] not in ("text", "missing") or bool(_DATE.fullmatch(cell))


def _names_numbers(first: list[str], below: list[list[str]]) -> list[bool]:
    """Return for each cell whether it is a text, or nothing, above numbers or dates."""
    found = []
    for k, cell in enumerate(first):
        under = [row[k] for row in below if k < len(row) and form(row[k])[0] != "missing"]
        found.append(not _is_value(cell) and bool(under) and 2 * sum(map(_is_value, under)) > len(under))
    return found


def _has_header(found: Dialect, first: list[str], below: list[list[str]], asked: Sequence[str]) -> bool:
    """Return whether the first row has the names. Raises InputError where that isn't certain."""
    if found.reading.header != "auto":
        return found.reading.header == "first"
    values = [_is_value(cell) for cell in first]
    numbered = {str(k + 1) for k in range(len(first))}  # what columns without names are called
    if not any(values) or (asked and set(asked) <= set(first) and not set(asked) <= numbered) or not below:
        return True
    if any(over and cell for over, cell in zip(_names_numbers(first, below), first, strict=True)):
        return True
    if any(not cell.isdecimal() and _is_value(cell) and _like(cell, k, below) for k, cell in enumerate(first)):
        return False  # nobody calls a column -1.5, or 2020-01-01 above other dates
    raise InputError(
        f"{found.path} may have no header: its first row is {', '.join(first)[:60]!r}; say so with --header none, or "
        "--header first where these are the names of columns, or --skip where the table begins further down"
    )


def _like(cell: str, column: int, below: list[list[str]]) -> bool:
    """Return whether most cells of a column hold what this one does: a date, or a number."""
    date = bool(_DATE.fullmatch(cell))
    under = [row[column] for row in below if column < len(row) and form(row[column])[0] != "missing"]
    return 2 * sum(_is_value(one) and bool(_DATE.fullmatch(one)) == date for one in under) > len(under)


def _comment_header(found: Dialect, line: int, width: int) -> list[str] | None:
    """Return the names that the comment right above the first row has, where it has as many: NumPy writes them so."""
    comment = found.reading.comment
    with _text(found.path, found.encoding) as text:
        above = ""
        for _ in range(line - 1):
            above = text.readline(_HEAD_CHARACTERS)
    if not comment or line < 2 or not _is_comment(above, comment):
        return None
    names = _cells([(1, above.lstrip()[len(comment) :])], found.sep)[0][1]
    return names if len(names) == width and not any(map(_is_value, names)) and all(names) else None


def _holds_units(below: list[list[str]]) -> bool:
    """Return whether the row below the header certainly holds units: above all numbers, and nothing else but there."""
    row, rest = below[0], below[1:]
    units = [bool(_UNIT.fullmatch(cell)) and form(cell)[0] == "text" for cell in row]
    if not rest or not any(units) or any(map(_is_value, row)):
        return False
    dates = [any(k < len(cells) and _DATE.fullmatch(cells[k]) for cells in rest) for k in range(len(row))]
    over = _names_numbers(row, rest)
    return all(
        cell in ("", "-") or (over[k] and (units[k] or (dates[k] and form(cell)[0] == "text")))
        for k, cell in enumerate(row)
    )

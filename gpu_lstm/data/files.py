"""Reading files: shipped and the user's, compressed or not, larger than memory if need be."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import lzma
import math
import os
import re
import tempfile
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from gpu_lstm.errors import InputError

SHIPPED = Path(__file__).parent / "shipped"
BLOCK = 1 << 20
"""Bytes or rows read at a time."""
IN_MEMORY = 1 << 26
"""Bytes of converted data above which it is kept in a temporary file instead of in memory."""
UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error)
"""What reading a damaged file, packed or not, can raise."""
_SEEKING = threading.Lock()


def find_file(path: str | Path, what: str) -> Path:
    """Return the path, if it is a file that isn't empty.

    Raises InputError where the file doesn't exist, is a folder or is empty; the message calls it `what`.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{what} {path} is a folder; expected a file")
        if not path.is_file() and path.exists():
            raise InputError(f"{what} {path} is no regular file: it can't be read twice")
        if path.stat().st_size == 0:
            raise InputError(f"{what} {path} is empty")
    except FileNotFoundError:
        raise InputError(f"{what} {path} does not exist") from None
    except OSError as error:
        raise InputError(f"{what} {path} can't be read: {error.strerror}") from None
    return path


def open_bytes(path: Path) -> IO[bytes]:
    """Open for reading; ``.xz`` and ``.gz`` are unpacked on the way."""
    try:
        if path.suffix == ".xz":
            return lzma.open(path)
        if path.suffix == ".gz":
            return gzip.open(path)  # type: ignore[return-value]
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from None


class _Descriptor:
    """A file that stays open for as long as this object lives."""

    def __init__(self, file: IO[bytes]):
        self._number = os.dup(file.fileno())
        file.close()

    def fileno(self) -> int:
        return self._number

    def __del__(self) -> None:
        os.close(self._number)


class Stored:
    """One-dimensional array in a file, read piece by piece: a slice is another, `numpy.asarray` reads it.

    A mapped file would do the same, but every page that was ever touched would count as memory of the process.
    """

    def __init__(self, file: IO[bytes] | _Descriptor, dtype: np.dtype, start: int, stop: int):
        self._file, self.dtype, self._start, self._stop = file, dtype, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    @property
    def shape(self) -> tuple[int]:
        """(N,)."""
        return (len(self),)

    def __getitem__(self, part: slice) -> Stored:
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise InputError(f"step of a slice is {step}; expected 1")
        return Stored(self._file, self.dtype, self._start + start, self._start + max(start, stop))

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        array = np.empty(len(self), self.dtype)
        left, place = array.view(np.uint8).data, self._start * self.dtype.itemsize
        while left:  # a call of the system may give less than it was asked for, and never gives more than 2 GiB
            part = _read_at(self._file.fileno(), min(len(left), IN_MEMORY), place)
            if not part:
                raise InputError(f"a temporary file in {tempfile.gettempdir()} ends {len(left):,} bytes early")
            left[: len(part)] = part
            left, place = left[len(part) :], place + len(part)
        return array if dtype is None else array.astype(dtype)


def _read_at(file: int, size: int, place: int) -> bytes:
    """Read bytes of a file from a place on, or fewer of them; any thread may ask."""
    if hasattr(os, "pread"):
        return os.pread(file, size, place)
    with _SEEKING:  # Windows has no pread
        os.lseek(file, place, os.SEEK_SET)
        return os.read(file, size)


def write_all(file: IO[bytes], block: np.ndarray) -> None:
    """Write a contiguous array to an unbuffered temporary file.

    Raises InputError where the disk with the temporary files is full.
    """
    content = memoryview(block.data).cast("B")
    try:
        while content:
            content = content[file.write(content) :]
    except OSError as error:
        raise InputError(
            f"folder {tempfile.gettempdir()} has no room for {len(content):,} bytes more of converted data: "
            f"{error.strerror}; the environment variable TMPDIR names another"
        ) from None


class Spool:
    """Collects blocks of one array along its first axis, in memory or, once large, in a temporary file."""

    def __init__(self, dtype: str, width: int | None = None):
        self._dtype = np.dtype(dtype)
        self._width = width
        self._blocks: list[np.ndarray] = []
        self._bytes = 0
        self._file: IO[bytes] | None = None

    def add(self, block: np.ndarray) -> None:
        """Append a block, (n,) or (n, width); see `write_all` for what it raises."""
        block = np.ascontiguousarray(block, dtype=self._dtype)
        self._bytes += block.nbytes
        self._blocks.append(block)
        if self._file is not None or self._bytes > IN_MEMORY:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (lives as long as what is read of it)
            for waiting in self._blocks:
                write_all(self._file, waiting)
            self._blocks.clear()

    def finish(self) -> np.ndarray:
        """Return the whole array; too large for memory, in a file: `Stored`, or mapped where it has rows."""
        tail = () if self._width is None else (self._width,)
        if self._file is None:
            return np.concatenate(self._blocks) if self._blocks else np.empty((0, *tail), self._dtype)
        rows = self._bytes // (self._dtype.itemsize * (self._width or 1))
        if self._width is None:
            stored = Stored(_Descriptor(self._file), self._dtype, 0, rows)
            return stored  # type: ignore[return-value]  # it has what is used of an array
        with self._file as file:  # the map keeps the closed file's content
            return np.memmap(file, self._dtype, "r", shape=(rows, *tail))


MISSING = {"", "-", "--", "?", ".", "na", "n/a", "#n/a", "nan", "nil", "none", "null", "missing"}
"""What people write, in small letters, where a number is not known."""
WITH_COMMAS = re.compile(r"[+-]?[0-9]+(,[0-9]+)+")
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars", " ": "spaces"}
EXPECTED = "expected UTF-8, cells separated by commas, numbers with a decimal point"


def number(cell: str) -> float | None:
    """Return the number that a cell holds, also one that isn't finite; None where it holds none.

    Python would take ``1_0`` for ten, and the digits of every script.
    """
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if cell.strip().isascii() and "_" not in cell else None


def parse_cell(path: Path, line: int, column: str, cell: str) -> float:
    """Return a cell's finite number.

    Raises InputError where the cell is empty, not a number, or not finite; the message has file, line and column.
    """
    value = number(cell)
    if value is not None and math.isfinite(value):
        return value
    shown, expected = (f"{cell[:40]!r}" if cell.strip() else "empty"), "a number"
    if value is not None:
        shown, expected = cell.strip(), "a finite number"
    elif WITH_COMMAS.fullmatch(cell.strip()):
        expected = "a number with a decimal point and no commas"
    raise InputError(
        f"{path}, line {line}: column {column!r} is {shown}; expected {expected}, or other columns to take (--columns)"
    )


def not_utf8(path: Path, where: str) -> InputError:
    """Return the error for a file of another encoding, which is guessed from the file's first bytes."""
    with open_bytes(path) as file:
        head = file.read(1000)
    utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or 4 * head.count(0) > len(head)
    return InputError(
        f"{path} is not UTF-8 text: {where}; it may be {'UTF-16' if utf16 else 'Latin-1 or Windows-1252'}"
    )


class Table:
    """A CSV file, plain, ``.gz`` or ``.xz``: names of columns in its first row, then rows with as many cells.

    Errors call it `what`. Raises InputError where there is no such file; here and while rows are read, where it isn't
    UTF-8 or not CSV.
    """

    def __init__(self, path: str | Path, what: str):
        self.path = find_file(path, what)
        self.header = [name.strip() for name in next(self._rows(), (0, []))[1]]

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows below the header with their line numbers.

        Raises InputError where the table has no rows, or one with more or fewer cells than the header.
        """
        rows = self._rows()
        next(rows, None)
        line = 0
        for line, row in rows:
            if len(row) != len(self.header):
                raise InputError(
                    f"{self.path}, line {line}: {len(row)} cells; expected {len(self.header)}, as in the header"
                    + self._cause()
                )
            yield line, row
        if not line:
            raise InputError(f"{self.path} has no rows after its header")

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        with open_bytes(self.path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
            rows = csv.reader(text)
            try:
                for row in rows:
                    if row:
                        yield rows.line_num, row
            except UnicodeDecodeError as error:
                raise not_utf8(self.path, f"{error.reason} after line {rows.line_num}; {EXPECTED}") from None
            except (csv.Error, *UNREADABLE) as error:
                raise InputError(f"{self.path} can't be read after line {rows.line_num}: {error}") from None

    def place(self, name: str) -> int:
        """Return which column has a name.

        Raises InputError where the table has no such column, or more than one; the message lists those that it has.
        """
        if name not in self.header:
            listed = ", ".join(map(repr, self.header[:20]))
            raise InputError(f"{self.path} has no column {name!r}; it has {listed}{self._cause()}")
        if self.header.count(name) > 1:
            count = self.header.count(name)
            raise InputError(f"{self.path} has {count} columns called {name!r}; expected different names")
        return self.header.index(name)

    def numeric(self, others: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
        """Return the names of the columns that hold numbers and are no `others`, and why the rest was left.

        All rows are looked at. A column that holds numbers in some of them, and not more of other text, is one of
        numbers: what it lacks is told by whoever reads it. One without a name is left. Raises InputError where no
        column holds numbers, or the name of one that does is a number: the file has no header.
        """
        left = {f"column {k + 1}": "no name" for k, name in enumerate(self.header) if not name}
        asked = [k for k, name in enumerate(self.header) if name and name not in others]
        numbers, texts = [0] * len(self.header), [0] * len(self.header)
        for _, row in self.rows():
            for k in asked:
                value = number(row[k])
                if (value is not None and not math.isnan(value)) or WITH_COMMAS.fullmatch(row[k].strip()):
                    numbers[k] += 1
                elif row[k].strip().lower() not in MISSING:
                    texts[k] += 1
        names = []
        for k in asked:
            if numbers[k] and numbers[k] >= texts[k]:
                names.append(self.header[k])
            else:
                left[self.header[k]] = "more text than numbers" if numbers[k] else "text" if texts[k] else "empty"
        if not names:
            besides = f" besides {' and '.join(map(repr, others))}" if others else ""
            line, row = next(self.rows())
            cause = self._cause() or f"; {EXPECTED}"
            raise InputError(
                f"{self.path} has no numeric column{besides}; line {line} is {','.join(row)[:60]!r}{cause}"
            )
        for name in names:
            if number(name) is not None:
                raise InputError(
                    f"{self.path} has a number, {name!r}, for the name of a column; expected names in the first row "
                    "(if it has them, say which columns to take: --columns)"
                )
        return names, left

    def _cause(self) -> str:
        """Return what the header says on why a table can't be read."""
        whole = ",".join(self.header)
        if "\0" in whole:
            return f"; it may be UTF-16; {EXPECTED}"
        marks = [name for mark, name in SEPARATORS.items() if mark in whole and len(self.header) == 1]
        return f"; its cells seem to be separated by {marks[0]}; {EXPECTED}" if marks else ""

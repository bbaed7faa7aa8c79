"""Reading files: shipped and the user's, compressed or not, larger than memory if need be."""

from __future__ import annotations

import csv
import gzip
import lzma
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import numpy as np

from gpu_lstm.errors import InputError

SHIPPED = Path(__file__).parent / "shipped"
BLOCK = 1 << 20
"""Bytes or rows read at a time."""
IN_MEMORY = 1 << 26
"""Bytes of converted data above which it is kept in a temporary file instead of in memory."""
UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error)
"""What reading a damaged file, packed or not, can raise."""


def find_file(path: str | Path, what: str) -> Path:
    """The path, if it is a file that isn't empty.

    Raises
    ------
    InputError
        It doesn't exist, is a folder or is empty; the message calls it `what`.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{what} {path} is a folder; expected a file")
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
            return cast(IO[bytes], lzma.open(path))
        if path.suffix == ".gz":
            return cast(IO[bytes], gzip.open(path))
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
        size = self.dtype.itemsize
        content = os.pread(self._file.fileno(), len(self) * size, self._start * size)
        array = np.frombuffer(content, self.dtype)
        return array if dtype is None else array.astype(dtype)


class Spool:
    """Collects blocks of one array along its first axis, in memory or, once large, in a temporary file."""

    def __init__(self, dtype: str, width: int | None = None):
        self._dtype = np.dtype(dtype)
        self._width = width
        self._blocks: list[np.ndarray] = []
        self._bytes = 0
        self._file: IO[bytes] | None = None

    def add(self, block: np.ndarray) -> None:
        """Append a block, (n,) or (n, width).

        Raises
        ------
        InputError
            The disk with the temporary files is full.
        """
        block = np.ascontiguousarray(block, dtype=self._dtype)
        self._bytes += block.nbytes
        self._blocks.append(block)
        if self._file is not None or self._bytes > IN_MEMORY:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (lives as long as what is read of it)
            try:
                for waiting in self._blocks:
                    content = memoryview(waiting.data).cast("B")
                    while content:
                        content = content[self._file.write(content) :]
            except OSError as error:
                raise InputError(
                    f"folder {tempfile.gettempdir()} has no room for the {self._bytes:,} bytes converted until now: "
                    f"{error.strerror}; the environment variable TMPDIR names another"
                ) from None
            self._blocks.clear()

    def finish(self) -> np.ndarray:
        """The whole array; where it was too large for memory, in a file: `Stored`, or mapped where it has rows."""
        tail = () if self._width is None else (self._width,)
        if self._file is None:
            return np.concatenate(self._blocks) if self._blocks else np.empty((0, *tail), self._dtype)
        rows = self._bytes // (self._dtype.itemsize * (self._width or 1))
        if self._width is None and hasattr(os, "pread"):
            return cast(
                np.ndarray, Stored(_Descriptor(self._file), self._dtype, 0, rows)
            )  # has what is used of an array
        with self._file as file:  # the map keeps the closed file's content
            return np.memmap(file, self._dtype, "r", shape=(rows, *tail))


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows of a CSV file with their line numbers, the header first.

    Raises
    ------
    InputError
        The file isn't UTF-8 or not CSV.
    """
    import io

    with open_bytes(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
        rows = csv.reader(text)
        try:
            for row in rows:
                if row:
                    yield rows.line_num, row
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 text: {error.reason} after line {rows.line_num}") from None
        except (csv.Error, *UNREADABLE) as error:
            raise InputError(f"{path} can't be read after line {rows.line_num}: {error}") from None


def parse_cell(path: Path, line: int, column: str, cell: str) -> float:
    """A cell's finite number.

    Raises
    ------
    InputError
        The cell is empty, not a number, or not finite; the message has file, line and column.
    """
    try:
        value = float(cell)
    except ValueError:
        shown = "empty" if not cell.strip() else f"{cell[:40]!r}"
        raise InputError(f"{path}, line {line}: column {column!r} is {shown}; expected a number") from None
    if not np.isfinite(value):
        raise InputError(f"{path}, line {line}: column {column!r} is {cell.strip()}; expected a finite number")
    return value


def is_number(cell: str) -> bool:
    """Whether a cell reads as a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def column_index(path: Path, header: list[str], name: str) -> int:
    """Where the column is.

    Raises
    ------
    InputError
        There is no such column, or more than one; the message lists those that there are.
    """
    if name not in header:
        raise InputError(f"{path} has no column {name!r}; it has {', '.join(map(repr, header[:20]))}")
    if header.count(name) > 1:
        raise InputError(f"{path} has {header.count(name)} columns called {name!r}; expected different names")
    return header.index(name)

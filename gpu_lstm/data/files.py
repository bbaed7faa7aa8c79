"""Reading files: shipped and the user's, compressed or not, larger than memory if need be."""

from __future__ import annotations

import gzip
import lzma
import os
import tempfile
import threading
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from gpu_lstm.errors import InputError

SHIPPED = Path(__file__).parent / "shipped"
PACKED = (".xz", ".gz")
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

    def skip(self, count: int) -> None:
        """Leave out so many numbers, which nobody will read: they are zeros, and take no room in a file."""
        size = count * self._dtype.itemsize
        self._bytes += size
        if self._file is None and self._bytes <= IN_MEMORY:
            self._blocks.append(np.zeros(count, self._dtype))
        else:
            self.add(np.empty(0))
            assert self._file is not None, "it is that long"
            self._file.truncate(self._file.seek(size, os.SEEK_CUR))

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

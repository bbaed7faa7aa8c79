"""Where a table comes from: a text, a parquet file, arrays of NumPy, a data frame. Each yields its rows in pieces."""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gpu_lstm.data.dialect import SEPARATORS, Dialect, Reading, find_dialect
from gpu_lstm.data.files import find_file
from gpu_lstm.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

CELLS = 1 << 17
"""Cells read at a time."""
PACKED = (".gz", ".xz")


class Source(Protocol):
    """Rows in pieces, as often as asked for."""

    label: str  # what errors call it
    names: list[str]
    told: list[str]  # how it is read, for people
    is_text: bool
    commas_likely: bool  # whether 1.234 may be more than a thousand
    skip_end: int  # rows at its end that were skipped
    after: str  # behind what it has no rows
    hint: str  # why its columns may be others than expected
    how: str  # what its cells were taken for, and the options that say it

    def chunks(self) -> Iterator[pd.DataFrame]:
        """Yield pieces; columns are in order, whatever their labels, and the index counts the rows from 0."""

    def at(self, row: int) -> str:
        """Return where a row stands, for people."""


def open_source(source: Any, what: str, reading: Reading, asked: Sequence[str]) -> Source:
    """Return what reads a table.

    Raises InputError where it is none, or what it is isn't certain.
    """
    if isinstance(source, str | Path):
        path = find_file(source, what)
        kind = Path(path.stem).suffix.lower() if path.suffix in PACKED else path.suffix.lower()
        if kind in (".xlsx", ".xls", ".ods"):
            raise InputError(f"{what} {path} is a spreadsheet; save it as CSV, or read it with pandas.read_excel")
        if kind in (".parquet", ".pq"):
            return Frame.of_parquet(path)
        if kind in (".npy", ".npz"):
            return Frame.of(str(path), _columns(path))
        return Text(path, reading, asked)
    return Frame.of(what, _frame(source, what))


class Text:
    """A text with a row a line."""

    is_text = True

    def __init__(self, path: Path, reading: Reading, asked: Sequence[str]):
        self._dialect: Dialect = find_dialect(path, reading, asked)
        self.label, self.names = str(path), self._dialect.names
        named = SEPARATORS.get(self._dialect.sep, repr(self._dialect.sep))
        self.told = [*([f"separated by {named}"] if len(self.names) > 1 else []), *self._dialect.told]
        if self._dialect.commented:
            self.told.append(f"lines that begin with {reading.comment} skipped")
        if reading.skip_end:
            self.told.append(f"last {reading.skip_end} rows skipped")
        self.commas_likely, self.skip_end = self._dialect.sep == ";", reading.skip_end
        self.after = " after its header" if self._dialect.named_in else ""
        self.hint = "; it was read as one column (--sep)" if len(self.names) == 1 and not reading.sep else ""
        cells = "one column" if len(self.names) == 1 else f"cells separated by {named}"
        self.how = f"; {cells} (--sep), numbers with a decimal point or comma (--decimal)"
        self._cut = "" if reading.sep else f"; cells were taken to be separated by {named} (--sep, --decimal)"
        self._rows: int | None = None  # how many, once all are known to have as many cells as there are names

    def at(self, row: int) -> str:
        """Return the file and the line where a row ends."""
        line = next((line for k, (line, _) in enumerate(self._dialect.rows()) if k == row), None)
        return f"{self.label}, row {row + 1}" if line is None else f"{self.label}, line {line}"

    def chunks(self) -> Iterator[pd.DataFrame]:
        """Yield pieces whose cells are texts."""
        import pandas as pd

        self._check_widths()
        held: pd.DataFrame | None = None  # the last rows so far
        end, rows = self.skip_end, 0
        with self._dialect.open() as text:
            try:
                pieces = pd.read_csv(
                    text,
                    sep=r"\s+" if self._dialect.sep == " " else self._dialect.sep,
                    header=None,
                    names=range(len(self.names)),
                    index_col=False,
                    dtype=object,
                    na_filter=False,
                    skipinitialspace=self._dialect.sep != "\t",
                    chunksize=max(1, CELLS // len(self.names)),
                )
                for piece in pieces:
                    rows += len(piece)
                    if end:
                        piece = piece if held is None else pd.concat([held, piece])
                        held, piece = piece.iloc[-end:], piece.iloc[:-end]
                    if len(piece):
                        yield piece
            except pd.errors.ParserError as error:
                raise InputError(f"{self.label} can't be read: {' '.join(str(error).split())}") from None
            except pd.errors.EmptyDataError:
                pass
        if rows != self._rows:
            raise InputError(f"{self.label} can't be read: it has {self._rows} rows or {rows}, by how quotes are read")

    def _check_widths(self) -> None:
        """Raise InputError for a row with more or fewer cells than the header; pandas fills or cuts such rows."""
        if self._rows is None:
            self._rows = self._dialect.plain_rows()
        if self._rows is not None:
            return
        width, count, line = len(self.names), 0, 0
        try:
            for line, cells in self._dialect.rows():
                count += 1
                if len(cells) != width and not (len(cells) == width + 1 and not cells[-1]):
                    than = "as in the header" if self._dialect.named_in else "as in the first"
                    raise InputError(
                        f"{self.label}, line {line}: {len(cells)} cells; expected {width}, {than}{self._cut}"
                    )
        except csv.Error as error:
            raise InputError(f"{self.label} can't be read after line {line}: {error}") from None
        if self._dialect.blank and width == 1:
            self.told.append(f"{self._dialect.blank} blank lines skipped")
        self._rows = count


class Frame:
    """A data frame of pandas; or what gives it in pieces, as often as asked for, each with columns of these names."""

    is_text, commas_likely, skip_end, after, hint, how = False, False, 0, "", "", ""

    def __init__(self, label: str, names: Sequence[Any], pieces: Callable[[int], Iterable[pd.DataFrame]]):
        self.label, self.names, self.told = label, [str(name) for name in names], list[str]()
        self._pieces = pieces

    @classmethod
    def of(cls, label: str, frame: pd.DataFrame) -> Frame:
        """Of one that is in memory."""
        return cls(label, frame.columns, lambda size: (frame.iloc[at : at + size] for at in range(0, len(frame), size)))

    @classmethod
    def of_parquet(cls, path: Path) -> Frame:
        """Of a parquet file, which is read by batches."""
        try:
            import pyarrow.parquet
        except ImportError:
            raise InputError(f"{path} is a parquet file, which takes pyarrow to read: pip install pyarrow") from None

        @contextmanager
        def readable() -> Iterator[None]:
            try:
                yield
            except (pyarrow.ArrowException, OSError) as error:
                raise InputError(f"{path} can't be read: {error}") from None

        def pieces(size: int) -> Iterator[pd.DataFrame]:
            with readable():
                yield from (_frame(batch.to_pandas(), str(path)) for batch in file.iter_batches(size))

        with readable():
            file = pyarrow.parquet.ParquetFile(path)
            empty = file.schema_arrow.empty_table().to_pandas()
            return cls(str(path), _frame(empty, str(path)).columns, pieces)

    def at(self, row: int) -> str:
        """Return the number of a row, from 0."""
        return f"{self.label}, row {row}"

    def chunks(self) -> Iterator[pd.DataFrame]:
        """Yield pieces with the frame's own types."""
        start = 0
        for piece in self._pieces(max(1, CELLS // max(1, len(self.names)))):
            piece.index = range(start, start + len(piece))
            start += len(piece)
            yield piece


def _frame(source: Any, what: str) -> pd.DataFrame:
    """Return a data frame of what is given in Python."""
    import pandas as pd

    if hasattr(source, "to_pandas"):
        source = source.to_pandas()
    if isinstance(source, pd.Series):
        source = source.to_frame("value" if source.name is None else source.name)
    if isinstance(source, np.ndarray):
        source = _of_array(source, what)
    if isinstance(source, Mapping):
        lengths = {str(name): np.shape(column)[:1] for name, column in source.items()}
        if alone := [name for name, length in lengths.items() if not length]:
            raise InputError(f"{what}: column {alone[0]!r} is one value; expected one for each row")
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} {length[0]}" for name, length in lengths.items())
            raise InputError(f"{what} has columns of different lengths: {listed}; expected one length")
        source = pd.DataFrame(dict(source))
    if not isinstance(source, pd.DataFrame):
        raise InputError(f"{what} is a {type(source).__name__}; expected a path, DataFrame, columns or array")
    if source.columns.nlevels > 1:
        raise InputError(f"{what} has {source.columns.nlevels} rows of column names; expected one")
    if not isinstance(source.index, pd.RangeIndex) and (
        source.index.nlevels > 1 or source.index.name is not None or not pd.api.types.is_integer_dtype(source.index)
    ):
        taken = {str(name) for name in source.columns}
        given = [name for name in source.index.names if name is not None]
        if not taken.isdisjoint(map(str, given)):
            raise InputError(f"{what} has an index called as a column: {', '.join(map(repr, given))}")
        source = source.reset_index(names=None if given else "index") if "index" not in taken else source
    return source


def _of_array(array: np.ndarray, what: str) -> dict[str, np.ndarray]:
    """Return the columns of an array: fields by name, others by their number, from 1."""
    if array.dtype.names:
        if array.ndim != 1:
            raise InputError(f"{what} has shape {array.shape}; expected records in one dimension")
        return {name: np.asarray(array[name]) for name in array.dtype.names}
    if array.dtype.kind == "c" or array.ndim not in (1, 2):
        raise InputError(f"{what} has shape {array.shape} and type {array.dtype}; expected (N,) or (N, columns), real")
    array = array[:, None] if array.ndim == 1 else array
    return {str(k + 1): array[:, k] for k in range(array.shape[1])}


def load_arrays(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """Return the array of a .npy file, or those of a .npz file; raises InputError for others and pickled objects."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        pickled = re.search("pickle|Python object", str(error))
        why = "it holds pickled objects, which may run code" if pickled else str(error)
        raise InputError(
            f"{path} can't be read: {why}; expected arrays of numbers, as numpy.save writes them"
        ) from None


def _columns(path: Path) -> pd.DataFrame:
    """Return the columns of a .npy or .npz file."""
    arrays = load_arrays(path)
    if isinstance(arrays, np.ndarray) or len(arrays) == 1:
        return _frame(arrays if isinstance(arrays, np.ndarray) else next(iter(arrays.values())), str(path))
    columns: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if array.ndim == 1 and not array.dtype.names:
            columns[name] = array
        else:
            columns |= {f"{name}.{key}": column for key, column in _of_array(array, f"{path}: {name}").items()}
    return _frame(columns, str(path))

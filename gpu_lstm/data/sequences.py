"""Sequences of different lengths, from a table with one row per step: with a class, numbers, or a label each step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from gpu_lstm.data.files import SHIPPED, Spool
from gpu_lstm.data.numbers import number
from gpu_lstm.data.sources import Frame
from gpu_lstm.data.stacked import read_stacked
from gpu_lstm.data.tables import Reading, Table, read_table
from gpu_lstm.errors import InputError

JAPANESE_VOWELS = SHIPPED / "japanese_vowels.csv.gz"
WIDE = ["value"]
"""What the one feature is called where each row is a sequence."""
UNKNOWN = -1
"""Label of a step, or of padding, that has none."""
_NO_LABEL = {"", "na", "n/a", "<na>", "#n/a", "nan", "null", "?"}
"""What, in small letters, is no label: `none` and `-` may be classes."""

Target = Literal["class", "numbers", "steps"]


@dataclass(frozen=True)
class Sequences:
    """N sequences, labelled or not."""

    names: list[str]  # the D feature columns
    classes: list[str]  # label texts in class order: sorted, as numbers where all are; none where there are no classes
    values: np.ndarray  # (steps, D) float64: all sequences' steps, one after the other
    starts: np.ndarray  # (N + 1,) int64: sequence n is ``values[starts[n]:starts[n + 1]]``
    # (N,) int64: class of each; (N, K) float64: numbers about each; (steps,) int64: class of each step, -1 for none
    labels: np.ndarray
    test: np.ndarray  # (N,) bool: whether the file's `split` column says test
    # columns that were not taken though none were asked for by name, and why
    left: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)  # how the table was read, lines for people
    ids: list[str] = field(default_factory=list)  # what the file calls each sequence, N of them, where it does
    of_steps: bool = False  # whether each step has a label of its own
    targets: list[str] = field(default_factory=list)  # the K columns of numbers about sequences
    split: bool = False  # whether the table says which are test

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each sequence, (N,)."""
        return np.diff(self.starts)

    def rows(self, picked: np.ndarray) -> np.ndarray:
        """Return all steps of the `picked` sequences, (steps, D)."""
        return np.concatenate([self.values[self.starts[n] : self.starts[n + 1]] for n in picked])

    def labels_of(self, picked: np.ndarray) -> np.ndarray:
        """Return the labels of the `picked` sequences, or of all of their steps that have one."""
        if not self.of_steps:
            return np.asarray(self.labels[picked])
        found = np.concatenate([self.labels[self.starts[n] : self.starts[n + 1]] for n in picked])
        return np.asarray(found[found != UNKNOWN])

    def batch(self, picked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the `picked` sequences, padded with zeros: x (T, B, D) with T the longest, lengths (B,), labels.

        Labels are (B,), (B, K) or, of steps, (T, B) with -1 where there is none.
        """
        lengths = self.lengths[picked]
        x = np.zeros((int(lengths.max()), len(picked), self.values.shape[1]))
        labels = np.full(x.shape[:2], UNKNOWN) if self.of_steps else self.labels[picked]
        for b, n in enumerate(picked):
            x[: lengths[b], b] = self.values[self.starts[n] : self.starts[n + 1]]
            if self.of_steps:
                labels[: lengths[b], b] = self.labels[self.starts[n] : self.starts[n + 1]]
        return x, lengths, labels


def read_sequences(
    source: Any,
    label: str | Sequence[str] = "label",
    series: str = "series",
    columns: Sequence[str] | None = None,
    split: str = "split",
    *,
    target: Target | None = "class",
    reading: Reading | None = None,
    classes: Sequence[str] | None = None,
) -> Sequences:
    """Read sequences from a table with one row per step, or whole ones from a .npz file (see `read_stacked`).

    Rows of one sequence follow one another and share the values of the columns called `series` and, where the table
    has it, `split` (train or test).

    Parameters
    ----------
    source : path, DataFrame, mapping of columns, or array
        See `read_table`.
    label : str or sequence of str
        The column of the label; of numbers there may be several.
    series, split : str
    columns : sequence of str, optional
        The features; all others that hold numbers if not given, see `Table.numeric`.
    target : {"class", "numbers", "steps"} or None
        What the label is: a class of the sequence; a number, or several, about it; a class of each step, of which some
        may have none; or that there is none, or it isn't to be read.
    reading : Reading, optional
        How a text is written, where that isn't to be found out; with `wide`, each row is a whole sequence of a feature
        and of the steps that its columns of numbers are, up to the last that isn't missing.
    classes : sequence of str, optional
        Those that a model knows, in its order.

    Raises
    ------
    InputError
        There is no such file or column; a label is missing, changes within a sequence, or is none of `classes`; a
        sequence's rows don't follow one another; a cell is no finite number; there is but one class.

    Examples
    --------
    >>> from gpu_lstm.data.sequences import read_sequences
    >>> table = {"series": [1, 1, 2, 2], "x": [0.1, 0.2, 0.5, 0.4], "label": ["up", "up", "down", "down"]}
    >>> data = read_sequences(table)
    >>> len(data), data.classes, data.rows([1]).shape
    (2, ['down', 'up'], (2, 1))
    """
    wide = reading is not None and reading.wide
    if wide and ((columns and list(columns) != WIDE) or target == "steps"):
        raise InputError(
            "wide (--wide) takes all columns of numbers as steps, without labels each; expected no --columns"
        )
    wanted = [] if target is None else [label] if isinstance(label, str) else list(label)
    columns = None if wide else columns
    stacked = None if wide else read_stacked(source, series, wanted, columns, split)
    if stacked is None:
        table = read_table(source, "sequences", reading, [*wanted, *([] if wide else [series]), *(columns or ())])
    else:
        table = Table(Frame.of(str(source), stacked.frame), Reading())
        wanted, columns = stacked.wanted, columns or stacked.features
    for name in wanted if wide else (series, *wanted):
        table.place(name)
    known = (
        [label, *wanted] if isinstance(label, str) else [*label, *wanted]
    )  # never features, even where they aren't read
    reserved = [name for name in dict.fromkeys([series, *known, split]) if name in table.names]
    names, left = (list(columns), {}) if columns else table.numeric(reserved)
    id_column, part_column = (name if name in table.names else None for name in (series, split))
    reader = _Reader(table, id_column, wanted, part_column, target, wide)
    spool, lengths, rows = Spool("float64", 1 if wide else len(names)), list[int](), 0
    for piece in table.chunks(list(dict.fromkeys([*reserved, *names]))):
        values = _of_rows(table, piece, names, lengths) if wide else table.complete(piece, names)
        reader.see(piece)
        spool.add(values)
        rows += len(piece)
    starts = np.cumsum([0, *lengths]) if wide else np.array([*reader.starts, rows])
    labels, found = reader.labels(classes)
    told, test = [*(stacked.told if stacked else ()), *table.understood(names)], np.array(reader.test)
    if wide:
        told.append(f"each row is a sequence of up to {len(names)} steps, columns {names[0]} to {names[-1]}")
        names = WIDE
    targets = wanted if target == "numbers" else []
    return Sequences(
        names, found, spool.finish(), starts, labels, test, left, told, reader.ids, target == "steps", targets,
        split in table.names,
    )  # fmt: skip


def _of_rows(table: Table, piece: Any, names: list[str], lengths: list[int]) -> np.ndarray:
    """Return the steps of sequences that are rows, (steps, 1); how many each has, up to its last number, is appended.

    Raises InputError where a number is missing before that.
    """
    block = np.column_stack([table.numbers(piece, name) for name in names])
    known = ~np.isnan(block)
    steps = len(names) - known[:, ::-1].argmax(axis=1)
    taken = np.arange(len(names)) < steps[:, None]
    if not known[taken].all() or not known.any(axis=1).all():
        row, column = np.argwhere(taken & ~known)[0]
        raise InputError(
            f"{table.at(int(piece.index[row]))}: column {names[column]!r} has no number; expected one in each up "
            "to the sequence's end"
        )
    lengths.extend(steps.tolist())
    return np.asarray(block[taken][:, None])


class _Reader:
    """What the rows of a table say of sequences: where they begin, their parts and labels."""

    def __init__(
        self,
        table: Table,
        series: str | None,
        wanted: list[str],
        split: str | None,
        target: Target | None,
        each_row: bool,
    ):
        self.table, self.series, self.wanted, self.split, self.target = table, series, wanted, split, target
        self._each_row = each_row  # whether it is a sequence
        self.starts, self.ids, self.test = list[int](), list[str](), list[bool]()
        self.found: list[tuple[int, Any]] = []  # of each sequence, or step: its first row, and the label
        self._seen: set[tuple[str, str]] = set()
        self._last: tuple[str, str] | None = None

    def see(self, piece: Any) -> None:
        """Take the next rows into account."""
        at, first = self.table.at, int(piece.index[0])
        rows = range(first + 1, first + 1 + len(piece))
        ids = self.table.texts(piece, self.series) if self.series else [str(row) for row in rows]
        parts = self.table.texts(piece, self.split) if self.split else ["train"] * len(piece)
        labels = self._labels(piece)
        for k, here in enumerate(zip((part.lower() for part in parts), ids, strict=True)):
            row = first + k
            if here != self._last or self._each_row:
                if here[0] not in ("train", "test"):
                    raise InputError(f"{at(row)}: column {self.split!r} is {parts[k]!r}; expected train or test")
                if not here[1]:
                    raise InputError(f"{at(row)}: column {self.series!r} is empty; expected what tells sequences apart")
                if here in self._seen:
                    raise InputError(f"{at(row)}: {self.series} {here[1]!r} goes on after another one; sort the rows")
                self._seen.add(here)
                self.starts.append(row)
                self.ids.append(here[1])
                self.test.append(here[0] == "test")
                self._last = here
                self._add(row, labels, k)
            elif self.target == "steps":
                self._add(row, labels, k)
            elif labels and labels[k] != self.found[-1][1]:
                raise InputError(f"{at(row)}: column {self._changed(labels[k])!r} changes within series {here[1]!r}")

    def _changed(self, label: Any) -> str:
        if isinstance(label, str):
            return self.wanted[0]
        return next(name for name, old, new in zip(self.wanted, self.found[-1][1], label, strict=True) if old != new)

    def _labels(self, piece: Any) -> list[Any]:
        if self.target is None:
            return []
        if self.target != "numbers":
            return self.table.texts(piece, self.wanted[0])
        return [tuple(row) for row in self.table.complete(piece, self.wanted).tolist()]

    def _add(self, row: int, labels: list[Any], k: int) -> None:
        if not labels:
            return
        if self.target == "class" and labels[k].lower() in _NO_LABEL:
            shown = repr(labels[k]) if labels[k] else "empty"
            raise InputError(f"{self.table.at(row)}: column {self.wanted[0]!r} is {shown}; expected a label")
        self.found.append((row, labels[k]))

    def labels(self, classes: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
        """Return all labels as `Sequences` has them, and the classes."""
        if self.target is None:
            return np.zeros(len(self.starts), np.int64), []
        if self.target == "numbers":
            return np.array([label for _, label in self.found], np.float64), []
        texts = [text for _, text in self.found if text.lower() not in _NO_LABEL]
        known = list(classes) if classes else _classes(texts)
        if len(known) < 2:
            raise InputError(
                f"{self.table.label}: column {self.wanted[0]!r} has "
                + (f"one value, {known[0]!r}; expected at least two classes" if known else "no labels")
            )
        as_numbers = all(_finite(text) is not None for text in (*known, *texts))
        place = {_finite(text) if as_numbers else text: n for n, text in enumerate(known)}
        numbers = np.full(len(self.found), UNKNOWN)
        for k, (row, text) in enumerate(self.found):
            if text.lower() in _NO_LABEL:
                continue
            if (key := _finite(text) if as_numbers else text) not in place:
                listed = ", ".join(map(repr, known[:20]))
                raise InputError(
                    f"{self.table.at(row)}: column {self.wanted[0]!r} is {text!r}; the model has the classes {listed}"
                )
            numbers[k] = place[key]
        return numbers, known


def _classes(texts: list[str]) -> list[str]:
    """Return the classes of labels: sorted texts; where all are numbers, 1 and 1.0 are one, by the shorter name."""
    distinct = sorted(set(texts))
    if any(_finite(text) is None for text in distinct):
        return distinct
    named: dict[float, str] = {}
    for text in sorted(distinct, key=lambda text: (len(text), text)):
        named.setdefault(float(text), text)
    return [named[value] for value in sorted(named)]


def _finite(text: str) -> float | None:
    value = number(text)
    return value if value is not None and math.isfinite(value) else None

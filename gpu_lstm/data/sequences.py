"""Labelled sequences of different lengths, from a CSV file with one row per step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpu_lstm.data.files import BLOCK, SHIPPED, Spool, column_index, find_file, is_number, parse_cell, read_rows
from gpu_lstm.errors import InputError

JAPANESE_VOWELS = SHIPPED / "japanese_vowels.csv.gz"


@dataclass(frozen=True)
class Sequences:
    """N labelled sequences.

    Attributes
    ----------
    names : list of str
        The D feature columns.
    classes : list of str
        Label texts in class order: sorted, as numbers where all are.
    values : (steps, D) float64
        All sequences' steps, one after the other.
    starts : (N + 1,) int64
        Sequence n is ``values[starts[n]:starts[n + 1]]``.
    labels : (N,) int64
        Class of each; (N, K) numbers where a regressor is to say them.
    test : (N,) bool
        Whether the file's `split` column says test.
    """

    names: list[str]
    classes: list[str]
    values: np.ndarray
    starts: np.ndarray
    labels: np.ndarray
    test: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each sequence, (N,)."""
        return np.diff(self.starts)

    def rows(self, picked: np.ndarray) -> np.ndarray:
        """All steps of some sequences, (steps, D)."""
        return np.concatenate([self.values[self.starts[n] : self.starts[n + 1]] for n in picked])

    def batch(self, picked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Some sequences, padded with zeros: x (T, B, D) with T the longest, lengths (B,), labels (B,)."""
        lengths = self.lengths[picked]
        x = np.zeros((int(lengths.max()), len(picked), self.values.shape[1]))
        for b, n in enumerate(picked):
            x[: lengths[b], b] = self.values[self.starts[n] : self.starts[n + 1]]
        return x, lengths, self.labels[picked]


def read_sequences(
    path: str | Path,
    label: str = "label",
    series: str = "series",
    columns: Sequence[str] | None = None,
    split: str = "split",
) -> Sequences:
    """Labelled sequences from a CSV file with a header and one row per step.

    Rows of one sequence follow one another and share the values of columns `series`, `label` and, where the
    file has it, `split` (train or test).

    Parameters
    ----------
    path : path
    label, series : str
        Column names.
    columns : sequence of str, optional
        Feature columns; all other numeric ones if not given.
    split : str
        Name of the optional column that says train or test.

    Raises
    ------
    InputError
        No such file or column, a label that is missing or changes within a sequence, a sequence whose rows don't
        follow one another, or a cell that is no finite number.
    """
    path = find_file(path, "sequences")
    rows = read_rows(path)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    keys = [column_index(path, header, name) for name in (series, label)]
    split_key = header.index(split) if split in header else None
    names = list(columns or [])
    picked = [column_index(path, header, name) for name in names]
    spool: Spool | None = None
    block: list[list[float]] = []
    starts, labels, test = [0], [], []
    current: tuple[str, str] | None = None
    seen: set[tuple[str, str]] = set()
    count = 0
    for line, row in rows:
        if len(row) != len(header):
            raise InputError(f"{path}, line {line}: {len(row)} cells; expected {len(header)}, as in the header")
        if spool is None:
            if not picked:
                reserved = {*keys, split_key}
                names = [header[k] for k, cell in enumerate(row) if k not in reserved and is_number(cell)]
                picked = [column_index(path, header, name) for name in names]
                if not picked:
                    raise InputError(f"{path} has no numeric column besides {series!r} and {label!r}")
            spool = Spool("float64", len(picked))
        part = row[split_key].strip() if split_key is not None else "train"
        if part not in ("train", "test"):
            raise InputError(f"{path}, line {line}: column {split!r} is {part!r}; expected train or test")
        here = (part, row[keys[0]])
        if here != current:
            if current is not None:
                starts.append(count)
            if here in seen:
                raise InputError(f"{path}, line {line}: {series} {here[1]!r} goes on after another one; sort the rows")
            seen.add(here)
            if not row[keys[1]].strip():
                raise InputError(f"{path}, line {line}: column {label!r} is empty; expected a label")
            labels.append(row[keys[1]].strip())
            test.append(part == "test")
            current = here
        elif row[keys[1]].strip() != labels[-1]:
            raise InputError(f"{path}, line {line}: column {label!r} changes within series {row[keys[0]]!r}")
        block.append([parse_cell(path, line, names[n], row[k]) for n, k in enumerate(picked)])
        count += 1
        if len(block) * len(picked) >= BLOCK:
            spool.add(np.array(block))
            block = []
    if spool is None:
        raise InputError(f"{path} has no rows after its header")
    if block:
        spool.add(np.array(block))
    starts.append(count)
    texts = set(labels)
    classes = sorted(sorted(texts), key=float) if all(map(is_number, texts)) else sorted(texts)
    if len(classes) < 2:
        raise InputError(f"{path}: column {label!r} has one value, {classes[0]!r}; expected at least two classes")
    number = {text: n for n, text in enumerate(classes)}
    return Sequences(
        names, classes, spool.finish(), np.array(starts), np.array([number[t] for t in labels]), np.array(test)
    )

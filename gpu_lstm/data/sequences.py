"""Labelled sequences of different lengths, from a CSV file with one row per step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gpu_lstm.data.files import BLOCK, SHIPPED, Spool, Table, number, parse_cell
from gpu_lstm.errors import InputError

JAPANESE_VOWELS = SHIPPED / "japanese_vowels.csv.gz"


@dataclass(frozen=True)
class Sequences:
    """N labelled sequences."""

    names: list[str]  # the D feature columns
    classes: list[str]  # label texts in class order: sorted, as numbers where all are
    values: np.ndarray  # (steps, D) float64: all sequences' steps, one after the other
    starts: np.ndarray  # (N + 1,) int64: sequence n is ``values[starts[n]:starts[n + 1]]``
    # (N,) int64: class of each; (N, K) float64 numbers where a regressor is to say them; (steps,) int64 classes where
    # each step has one; zeros where the data have no labels
    labels: np.ndarray
    test: np.ndarray  # (N,) bool: whether the file's `split` column says test
    # columns that were not taken though none were asked for by name, and why
    left: dict[str, str] = field(default_factory=dict)
    of_steps: bool = False  # whether each step has a label of its own
    ids: list[str] = field(default_factory=list)  # what the file calls each sequence, N of them, where it does

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each sequence, (N,)."""
        return np.diff(self.starts)

    def rows(self, picked: np.ndarray) -> np.ndarray:
        """Return all steps of some sequences, (steps, D)."""
        return np.concatenate([self.values[self.starts[n] : self.starts[n + 1]] for n in picked])

    def batch(self, picked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return some sequences, padded with zeros: x (T, B, D) with T the longest, lengths (B,), labels (B,).

        Labels of steps are (T, B), padded with -1.
        """
        lengths = self.lengths[picked]
        x = np.zeros((int(lengths.max()), len(picked), self.values.shape[1]))
        labels = np.full(x.shape[:2], -1) if self.of_steps else self.labels[picked]
        for b, n in enumerate(picked):
            part = slice(self.starts[n], self.starts[n + 1])
            x[: lengths[b], b] = self.values[part]
            if self.of_steps:
                labels[: lengths[b], b] = self.labels[part]
        return x, lengths, labels


def read_sequences(
    path: str | Path,
    label: str = "label",
    series: str = "series",
    columns: Sequence[str] | None = None,
    split: str = "split",
) -> Sequences:
    """Read labelled sequences from a CSV file with a header and one row per step.

    Rows of one sequence follow one another and share the values of the columns called `series`, `label` and, where the
    file has it, `split` (train or test). `columns` are the features; all others that have a name and hold numbers if
    not given, see `Table.numeric`. Raises InputError where there is no such file or column, a label that is missing or
    changes within a sequence, a sequence whose rows don't follow one another, or a cell that is no finite number.
    """
    table = Table(path, "sequences")
    path, keys = table.path, [table.place(name) for name in (series, label)]
    split_key = table.header.index(split) if split in table.header else None
    reserved = [series, label] + ([] if split_key is None else [split])
    names, left = (list(columns), {}) if columns else table.numeric(reserved)
    picked = [(table.place(name), name) for name in names]
    spool, block = Spool("float64", len(picked)), list[list[float]]()
    starts, labels, test, ids = [0], list[str](), list[bool](), list[str]()
    current: tuple[str, str] | None = None
    seen: set[tuple[str, str]] = set()
    count = 0
    for line, row in table.rows():
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
            ids.append(here[1])
            current = here
        elif row[keys[1]].strip() != labels[-1]:
            raise InputError(f"{path}, line {line}: column {label!r} changes within series {row[keys[0]]!r}")
        block.append([parse_cell(path, line, name, row[k]) for k, name in picked])
        count += 1
        if len(block) * len(picked) >= BLOCK:
            spool.add(np.array(block))
            block = []
    if block:
        spool.add(np.array(block))
    starts.append(count)
    classes = sorted(set(labels))
    if all((value := number(text)) is not None and math.isfinite(value) for text in classes):
        classes.sort(key=float)
    if len(classes) < 2:
        raise InputError(f"{path}: column {label!r} has one value, {classes[0]!r}; expected at least two classes")
    place = {text: n for n, text in enumerate(classes)}
    found = np.array([place[text] for text in labels])
    return Sequences(names, classes, spool.finish(), np.array(starts), found, np.array(test), left, ids=ids)

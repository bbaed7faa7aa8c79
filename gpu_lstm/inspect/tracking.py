"""What cells track: correlation of their activations with properties of the text or series.

The idea is that of A. Karpathy, J. Johnson and L. Fei-Fei, Visualizing and Understanding Recurrent Networks, 2016,
who found such cells by eye.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gpu_lstm.errors import InputError
from gpu_lstm.models.forecaster import slow_mean

QUOTES = {'"': '"', "“": "”", "«": "»"}
"""Closing mark by opening mark."""
OPENING, CLOSING = "([{", ")]}"
TAB = 4
"""Columns between tab stops, for indentation."""


def text_features(text: str) -> dict[str, np.ndarray]:
    """Properties of the text at each character, from that character and those before it: what a cell could know.

    Parameters
    ----------
    text : str
        T characters.

    Returns
    -------
    dict of str to (T,) float64
        ``position in line`` (0 at its first character), ``indentation`` (columns of white space at the line's start, so
        far), ``position in word`` (characters since white space), ``position in sentence`` (since ``. ! ?``), ``line of
        paragraph`` (since an empty line), ``bracket depth``, ``inside quotes``, ``start of line``, ``upper case``
        (this character), ``upper-case line`` (letters so far, at least two, none of them small), ``digits``,
        ``white space``. A quotation ends at an empty line, so that a mark too few does not turn all that follows.
    """
    rows: dict[str, list[float]] = {name: [] for name in TEXT_FEATURES}
    position = indentation = word = sentence = line = depth = upper = 0
    small, closing, blank = False, "", True  # blank: nothing but white space in this line so far
    previous = "\n"
    for character in text:
        if previous == "\n":
            position = indentation = upper = 0
            small, blank = False, True
        else:
            position += 1
        if character == "\n":
            line = line + 1 if not blank else 0
            closing = closing if not blank else ""
        elif not character.isspace():
            blank = False
        elif blank:
            indentation += TAB - indentation % TAB if character == "\t" else 1
        word = 0 if character.isspace() else word + 1
        sentence = 0 if character in ".!?" else sentence + 1
        small |= character.islower()
        upper += character.isupper()
        inside = bool(closing)
        if closing and character == closing:
            closing = ""
        elif not closing and character in QUOTES:
            closing = QUOTES[character]
        depth = depth + 1 if character in OPENING else max(0, depth - (character in CLOSING))
        values = (
            position, indentation, word, sentence, line, depth, inside or bool(closing), position == 0,
            character.isupper(), upper >= 2 and not small, character.isdigit(), character.isspace(),
        )  # fmt: skip
        for row, value in zip(rows.values(), values, strict=True):
            row.append(float(value))
        previous = character
    return {name: np.array(row) for name, row in rows.items()}


TEXT_FEATURES = (
    "position in line", "indentation", "position in word", "position in sentence", "line of paragraph", "bracket depth",
    "inside quotes", "start of line", "upper case", "upper-case line", "digits", "white space",
)  # fmt: skip


def series_features(names: Sequence[str], values: np.ndarray, memory: int) -> dict[str, np.ndarray]:
    """Properties of series at each step, from that step and those before it.

    Parameters
    ----------
    names : S names
    values : (T, S)
    memory : int
        Steps over which the slow mean forgets.

    Returns
    -------
    dict of str to (T,) float64
        For each series its ``value``, ``change`` since the step before, ``deviation`` from a slow mean, and
        ``steps since a turn`` from rising to falling or back.
    """
    features: dict[str, np.ndarray] = {}
    for s, name in enumerate(names):
        x = np.asarray(values[:, s], dtype=np.float64)
        change = np.diff(x, prepend=x[:1])
        since = np.zeros(len(x))
        for t in range(1, len(x)):
            since[t] = 0 if change[t] * change[t - 1] < 0 else since[t - 1] + 1
        found = {"value": x, "change": change, "deviation": x - slow_mean(x, memory), "steps since a turn": since}
        features |= {kind if len(names) == 1 else f"{name}: {kind}": array for kind, array in found.items()}
    return features


def tracking(values: np.ndarray, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Pearson's correlation of each cell with each feature over all steps.

    Parameters
    ----------
    values : (T, N)
        Activations of N cells, for instance ``activations(...)["c"][layer]``.
    features : dict of str to (T,)

    Returns
    -------
    dict of str to (N,) float64
        In [-1, 1]; 0 where the cell or the feature never changes.

    Raises
    ------
    InputError
        A feature has another number of steps than values.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise InputError(f"values has shape {values.shape}; expected (T, N)")
    cells = _standard(values)
    found = {}
    for name, feature in features.items():
        if np.shape(feature) != values.shape[:1]:
            raise InputError(f"feature {name!r} has shape {np.shape(feature)}; expected (T={len(values)},)")
        column = _standard(np.asarray(feature, dtype=np.float64)[:, None])
        found[name] = np.clip((cells.T @ column)[:, 0] / max(1, len(values)), -1, 1)
    return found


@dataclass(frozen=True)
class Tracked:
    """A cell that tracks a feature."""

    feature: str
    cell: int
    # correlation over the first half of the steps, by which the cell was chosen, and over the second half
    chosen: float
    r: float


def best_cells(values: np.ndarray, features: Mapping[str, np.ndarray], count: int = 3) -> list[list[Tracked]]:
    """The cells that track each feature most, the best tracked feature first.

    The largest of many correlations is large by chance alone; so cells are chosen on the first half of the steps, and
    what they are worth is told by the second.

    Parameters
    ----------
    values : (T, N)
    features : dict of str to (T,)
    count : int
        Cells a feature.

    Returns
    -------
    list of lists of Tracked
        One list a feature. A feature that doesn't change within a half is left out.
    """
    half = len(values) // 2
    first, second = (
        tracking(values[part], {name: feature[part] for name, feature in features.items()})
        for part in (slice(half), slice(half, None))
    )
    found = []
    for name, feature in features.items():
        if any(len(part) == 0 or np.ptp(part) == 0 for part in (feature[:half], feature[half:])):
            continue
        order = np.argsort(-np.abs(first[name]), kind="stable")[:count]
        rows = [Tracked(name, int(cell), float(first[name][cell]), float(second[name][cell])) for cell in order]
        found.append(sorted(rows, key=lambda row: -abs(row.r)))
    return sorted(found, key=lambda rows: -abs(rows[0].r))


def _standard(columns: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and standard deviation 1; all 0 where a column never changes."""
    if not len(columns):
        return columns
    centred = columns - columns.mean(axis=0)
    spread = centred.std(axis=0)
    # Rounding alone gives a constant column a spread of about its size times the precision.
    still = np.ptp(columns, axis=0) == 0
    result: np.ndarray = np.where(still, 0, centred / np.where(still | (spread == 0), 1, spread))
    return result

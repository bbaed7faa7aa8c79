"""Whole sequences in arrays, as NumPy keeps them, (N, T, D): a table of their steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpu_lstm.data.files import find_file
from gpu_lstm.data.sources import load_arrays
from gpu_lstm.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


class Stacked(NamedTuple):
    """Sequences as a table with a row a step."""

    frame: pd.DataFrame
    features: list[str]  # the D columns
    wanted: list[str]  # the columns of the labels
    told: list[str]  # for people


def read_stacked(
    source: Any, series: str, wanted: Sequence[str], columns: Sequence[str] | None, split: str
) -> Stacked | None:
    """Read a .npy or .npz file with an array (N, T, D); None of anything else.

    Beside it there may be, by name, ``lengths`` (N,), else a sequence ends where nothing but NaN follows; labels, (N,),
    (N, K) or (N, T), ``y`` where none is called ``label``; ``names`` (D,) of the features, else 1, 2, ..., or those
    that a model knows; and what a table has as its columns `series`, else numbers from 0, and `split`, (N,).

    Raises InputError where arrays don't go together, or a number within a sequence is NaN or infinite.
    """
    if not isinstance(source, str | Path) or Path(source).suffix.lower() not in (".npy", ".npz"):
        return None
    path = find_file(source, "sequences")
    loaded = load_arrays(path)
    arrays = {"sequences": loaded} if isinstance(loaded, np.ndarray) else loaded
    stacks = [name for name, array in arrays.items() if array.ndim == 3]
    if not stacks:
        return None
    if len(stacks) > 1 or arrays[stacks[0]].dtype.kind not in "biuf" or not arrays[stacks[0]].size:
        shown = ", ".join(f"{name} {arrays[name].shape} of {arrays[name].dtype}" for name in stacks)
        raise InputError(f"{path} has {shown}; expected one array (N, T, D) of numbers")
    x = np.asarray(arrays.pop(stacks[0]), np.float64)
    count, steps, width = x.shape
    labels = ["y"] if list(wanted) == ["label"] and "label" not in arrays and "y" in arrays else list(wanted)
    names = [str(name) for name in arrays.pop("names", np.arange(1, width + 1))]
    told = [f"array {stacks[0]!r}: {count:,} sequences of up to {steps:,} steps, {width:,} features"]
    if columns and len(columns) == width and not set(columns) & set(names):
        names = list(columns)
        told.append(f"its features are taken for {', '.join(names)}, in this order")
    if len(names) != width:
        raise InputError(f"{path}: names has {len(names)}; expected {width}, one a feature")
    inside = np.arange(steps) < _lengths(path, x, arrays)[:, None]
    found: dict[str, np.ndarray] = {name: x[:, :, k][inside] for k, name in enumerate(names)}
    found |= _beside(path, arrays, inside, [*labels, series, split])
    found.setdefault(series, np.repeat(np.arange(count), inside.sum(axis=1)))
    if others := [name for name in arrays if name not in (*labels, series, split, "lengths")]:
        told.append(f"arrays left out: {', '.join(others)}")
    labels = [name for label in labels for name in (found if label in arrays else [label]) if _is_of(name, label)]

    import pandas as pd

    return Stacked(pd.DataFrame(found), names, labels, told)


def _is_of(column: str, label: str) -> bool:
    return column == label or column.startswith(f"{label}.")


def _lengths(path: Path, x: np.ndarray, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Steps of each sequence, (N,), all of whose numbers are some."""
    count, steps, _ = x.shape
    known = ~np.isnan(x).all(axis=2)
    lengths = np.asarray(arrays.get("lengths", steps - known[:, ::-1].argmax(axis=1)))
    if lengths.shape != (count,) or lengths.dtype.kind not in "iu" or lengths.min() < 1 or lengths.max() > steps:
        raise InputError(
            f"{path}: lengths is of {lengths.dtype} {lengths.shape}; expected ({count},), each in 1..{steps}"
        )
    wrong = ~np.isfinite(x) & (np.arange(steps) < lengths[:, None])[:, :, None]
    if wrong.any():
        n, t, d = np.argwhere(wrong)[0]
        raise InputError(
            f"{path}: sequence {n}, step {t}, feature {d} is {x[n, t, d]}; expected a finite number, and NaN only "
            "after a sequence's end"
        )
    return lengths


def _beside(
    path: Path, arrays: Mapping[str, np.ndarray], inside: np.ndarray, asked: list[str]
) -> dict[str, np.ndarray]:
    """Columns (steps,) of the arrays of these names: a value a sequence, several, or one a step."""
    found: dict[str, np.ndarray] = {}
    lengths = inside.sum(axis=1)
    for name in (name for name in asked if name in arrays):
        array = np.asarray(arrays[name])
        array = array.astype(str) if array.dtype.kind == "S" else array
        if array.shape == inside.shape:
            found[name] = array[inside]
        elif array.ndim == 2 and len(array) == len(inside):
            found |= {f"{name}.{k + 1}": np.repeat(column, lengths) for k, column in enumerate(array.T)}
        elif array.shape == lengths.shape:
            found[name] = np.repeat(array, lengths)
        else:
            raise InputError(f"{path}: {name} has shape {array.shape}; expected ({len(inside)},), a value a sequence")
    return found

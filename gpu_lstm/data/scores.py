"""How right answers are: counts of classes, errors of numbers, and what simple models need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu_lstm.data.sequences import Sequences


@dataclass(frozen=True)
class Confusion:
    """How often each class, a row, was taken for each, a column."""

    counts: np.ndarray  # (K, K) integers

    @classmethod
    def of(cls, labels: np.ndarray, said: np.ndarray, classes: int) -> Confusion:
        """Count labels (N,) against what was said, (N,), all of them in 0..classes-1."""
        return cls(np.bincount(labels * classes + said, minlength=classes * classes).reshape(classes, classes))

    @property
    def members(self) -> np.ndarray:
        """How many of each class there are, (K,)."""
        return np.asarray(self.counts.sum(axis=1))

    @property
    def accuracy(self) -> float:
        """The share that is right."""
        return float(np.trace(self.counts) / self.counts.sum())

    @property
    def recall(self) -> np.ndarray:
        """The share of each class that is found, (K,); NaN of a class without members."""
        members = self.members
        return np.where(members > 0, np.diag(self.counts) / np.maximum(members, 1), np.nan)

    @property
    def precision(self) -> np.ndarray:
        """The share of what was taken for each class that is of it, (K,); NaN of one that nothing was taken for."""
        taken = self.counts.sum(axis=0)
        return np.where(taken > 0, np.diag(self.counts) / np.maximum(taken, 1), np.nan)

    @property
    def balanced(self) -> float:
        """Mean recall of the classes that have members."""
        return float(np.nanmean(self.recall))

    @property
    def largest(self) -> int:
        """The class with most members."""
        return int(np.argmax(self.members))

    @property
    def majority(self) -> float:
        """The accuracy of who always says the largest class."""
        return float(self.members.max() / self.counts.sum())


def errors(said: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """RMSE, MAE and R^2, (K,) each, of numbers (N, K); R^2 is NaN of targets that are all the same."""
    error, about = said - targets, targets - targets.mean(axis=0)
    spread = np.sum(about**2, axis=0)
    squared = np.sum(error**2, axis=0)
    return {
        "RMSE": np.sqrt(np.mean(error**2, axis=0)),
        "MAE": np.mean(np.abs(error), axis=0),
        "R^2": np.where(spread > 0, 1 - squared / np.where(spread > 0, spread, 1), np.nan),
    }


def summaries(data: Sequences, picked: np.ndarray) -> np.ndarray:
    """What a simple model sees: each feature's mean, deviation, least, largest, first and last value, and the length.

    Returns (N, 6 D + 1).
    """
    rows = []
    for n in picked:
        part = data.values[data.starts[n] : data.starts[n + 1]]
        facts = (part.mean(axis=0), part.std(axis=0), part.min(axis=0), part.max(axis=0), part[0], part[-1])
        rows.append(np.concatenate([*facts, [len(part)]]))
    return np.array(rows)

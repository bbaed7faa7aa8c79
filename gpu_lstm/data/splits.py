"""Which sequences are to train, to validate and to test on, where the file doesn't say; and how much of each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gpu_lstm.data.sequences import Sequences


def drawn(share: float, classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a share of some sequences at random, of every class alike.

    Parameters
    ----------
    share : float in (0, 1)
    classes : (N,) integers
    rng : numpy.random.Generator

    Returns
    -------
    (N,) bool
        Of a class of n, n times the share, rounded down or up, but never all; at least one in all, where N is above 1.
    """
    order = rng.permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    members = np.bincount(classes) if len(classes) else np.zeros(0, int)
    order = order[members[classes[order]] > 1]
    picked = np.zeros(len(classes), dtype=bool)
    picked[order[np.diff(np.floor(np.arange(len(order) + 1) * share + 0.5)) > 0]] = True
    for number in np.flatnonzero((np.bincount(classes[picked], minlength=len(members)) == members) & (members > 1)):
        picked[np.flatnonzero(classes == number)[0]] = False
    if not picked.any() and len(order):
        picked[order[0]] = True
    return picked


def strata(data: Sequences) -> np.ndarray:
    """Classes (N,) that every part should have alike: all the same where sequences have numbers, or labels of steps."""
    has_classes = bool(data.classes) and not data.of_steps
    return data.labels if has_classes else np.zeros(len(data), dtype=np.int64)


def with_test_part(data: Sequences, share: float, rng: np.random.Generator) -> Sequences:
    """Return the sequences with a share of them, of each class alike, called test."""
    return replace(data, test=drawn(share, strata(data), rng))


def truncated(data: Sequences, steps: int) -> Sequences:
    """Return the first steps of each sequence, at most so many."""
    lengths = np.minimum(data.lengths, steps)
    kept = np.concatenate([np.arange(a, a + n) for a, n in zip(data.starts, lengths, strict=False)])
    labels = data.labels[kept] if data.of_steps else data.labels
    return replace(data, values=data.values[kept], starts=np.concatenate([[0], np.cumsum(lengths)]), labels=labels)

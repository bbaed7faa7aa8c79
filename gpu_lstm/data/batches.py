"""Batches of sequences of very different lengths: those of similar length together, few of the longest."""

from __future__ import annotations

import numpy as np

RAGGED = 4
"""How many times as long as the mean the longest sequence is, from where on batches are of similar lengths."""
MIXED = 0.2
"""How far apart lengths may be, as a share, to change places in the order of lengths from one epoch to the next."""


class ByLength:
    """Batches of at most `batch` sequences, and of about `RAGGED` times their mean length in all with the padding.

    How many there are, and how many sequences each has, is the same in every epoch.
    """

    def __init__(self, lengths: np.ndarray, batch: int):
        self.lengths = np.asarray(lengths)
        ordered = np.sort(self.lengths)
        most = batch * RAGGED * float(self.lengths.mean())
        self.parts: list[tuple[int, int]] = []
        stop = len(ordered)
        while stop:
            count = int(min(batch, stop, max(1, most // ordered[stop - 1])))
            self.parts.append((stop - count, stop))
            stop -= count
        # A shorter batch's place may have come to a sequence this much longer.
        self.sizes = [
            (int(min(ordered[-1], ordered[stop - 1] * np.exp(MIXED))), stop - start) for start, stop in self.parts
        ]

    def epoch(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Return which sequences each batch of an epoch has, in a new order."""
        order = np.argsort(np.log(self.lengths) + MIXED * rng.random(len(self.lengths)), kind="stable")
        return [order[slice(*self.parts[k])] for k in rng.permutation(len(self.parts))]

    @property
    def largest(self) -> tuple[int, int]:
        """Steps and sequences of the batch that has most of both together, with the padding."""
        return max(self.sizes, key=lambda size: size[0] * size[1])


def ragged(lengths: np.ndarray) -> bool:
    """Whether lengths differ so much that batches should be of similar ones."""
    return len(lengths) > 1 and bool(lengths.max() > RAGGED * lengths.mean())


def blocks(lengths: np.ndarray, block: int) -> list[np.ndarray]:
    """Return the places of all sequences, so many at a time; in order, or where lengths differ much, by length."""
    if ragged(lengths):
        plan = ByLength(lengths, block)
        order = np.argsort(lengths, kind="stable")
        return [order[start:stop] for start, stop in plan.parts]
    return [np.arange(start, min(start + block, len(lengths))) for start in range(0, len(lengths), block)]

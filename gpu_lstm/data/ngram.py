"""What a text model should beat: an interpolated n-gram model of the same tokens (Jelinek, Mercer, 1980).

The probability of a token is a mixture of 1/V and of how often it followed the last 0, 1, ... n-1 tokens in the text.
Weights are for each longest context that was met before, by how often; they maximise the likelihood of the last tenth
of the text to train on, with counts of the first nine.
"""

from __future__ import annotations

import math

import numpy as np

ORDER = 4
MOST = 1 << 22
"""Tokens that are counted, the last of those to train on, and that are looked at, the first of the others."""
KINDS_OF_COUNT = 12
"""Longest contexts are told apart by their count, up to this power of 2."""
ROUNDS = 30


def order_for(size: int) -> int:
    """n, as large as a number of 63 bits holds n tokens of so many, at most `ORDER`."""
    return min(ORDER, int(62 / math.log2(max(size, 2))))


def bits_of_ngrams(train: np.ndarray, test: np.ndarray, size: int) -> float:
    """Mean bits a token of `test` (M,) where a model of `train` (N,), both of tokens in 0..size-1, predicts it.

    Of longer ones than `MOST` tokens, the end of `train` and the start of `test`.
    """
    train, test = (np.asarray(part).astype(np.int64) for part in (train[-MOST:], test[:MOST]))
    order = order_for(size)
    cut = len(train) - max(len(train) // 10, order)
    mixed, kinds = _probabilities(train[:cut], train[cut:], size, order)
    weights = _fit(mixed, kinds, order)
    mixed, kinds = _probabilities(train, test, size, order)
    return float(-np.mean(np.log2(np.sum(mixed * weights[kinds], axis=1))))


def _probabilities(train: np.ndarray, test: np.ndarray, size: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """What each order says of each token of `test` from the n-th on, (M, 1 + order), and the kind of its context."""
    known, asked = _keys(train, size, order), _keys(test, size, order)
    found = np.zeros((len(asked[0]), 1 + order))
    found[:, 0] = 1 / size
    kinds = np.zeros(len(found), np.int64)
    for n in range(1, order + 1):
        grams, counts = np.unique(known[n - 1], return_counts=True)
        contexts, begins = np.unique(grams // size, return_index=True)
        totals = np.add.reduceat(counts, begins)
        total = _look_up(contexts, totals, asked[n - 1] // size)
        met = total > 0
        found[met, n] = _look_up(grams, counts, asked[n - 1])[met] / total[met]
        power = np.minimum(np.log2(total[met]).astype(np.int64), KINDS_OF_COUNT - 1)
        kinds[met] = 1 + (n - 1) * KINDS_OF_COUNT + power  # the longest context overwrites those of shorter ones
    return found, kinds


def _keys(tokens: np.ndarray, size: int, order: int) -> list[np.ndarray]:
    """For n = 1..order the n tokens up to each from the n-th of `order` on, as one number; the last is its lowest."""
    keys = [tokens[order - 1 :]]
    for n in range(1, order):
        keys.append(keys[-1] + tokens[order - 1 - n : len(tokens) - n] * size**n)
    return keys


def _look_up(keys: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Values of sorted keys, 0 where there is no such key."""
    places = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[places] == asked, values[places], 0)


def _fit(mixed: np.ndarray, kinds: np.ndarray, order: int) -> np.ndarray:
    """Weights of each order for each kind of context, by expectation maximisation, (kinds, 1 + order)."""
    count = 1 + order * KINDS_OF_COUNT
    longest = (np.arange(count) + KINDS_OF_COUNT - 1) // KINDS_OF_COUNT  # of the contexts of each kind that were met
    possible = np.arange(1 + order) <= longest[:, None]
    weights: np.ndarray = possible / possible.sum(axis=1, keepdims=True)
    for _ in range(ROUNDS):
        shares = mixed * weights[kinds]
        shares /= shares.sum(axis=1, keepdims=True)
        sums = np.stack([np.bincount(kinds, shares[:, n], count) for n in range(1 + order)], axis=1)
        sums = sums + 1e-2 * possible  # what a small sample lacks is not impossible
        weights = sums / sums.sum(axis=1, keepdims=True)
    return weights

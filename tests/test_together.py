"""Recurrences run together: in rounds, in the order of those who ask."""

import numpy as np

from gpu_lstm.recurrence import reference, together
from tests.support import NUMPY


class Recorder:
    """A tier that runs several at once and remembers how many."""

    def __init__(self):
        self.rounds = []

    def forward_all(self, backend, problems):
        self.rounds.append(("forward", len(problems)))
        return [reference.forward(backend, *problem) for problem in problems]

    def backward_all(self, backend, problems):
        self.rounds.append(("backward", len(problems)))
        return [reference.backward(backend, *problem) for problem in problems]


def steps(number, rounds):
    """Asks for so many recurrences, each after the one before; returns the sums of their h."""
    sums = []
    for _ in range(rounds):
        z, weight_hh = np.full((2, 1, 4), float(number)), np.ones((4, 1))
        saved = yield "forward", (z, weight_hh, None, None, None, False, True)
        sums.append(float(saved.h.sum()))
    yield "backward", (saved, None, None, None)
    return number, sums


def test_what_is_asked_for_in_the_same_round_runs_together():
    tier = Recorder()
    results = together.in_step(tier, NUMPY, [steps(1, 2), steps(2, 1), steps(3, 2)])
    assert tier.rounds == [
        ("forward", 3),
        ("forward", 2),
        ("backward", 1),
        ("backward", 2),
    ]
    assert [number for number, _ in results] == [1, 2, 3]
    alone = [together.in_step(reference, NUMPY, [steps(n, rounds)])[0] for n, rounds in ((1, 2), (2, 1), (3, 2))]
    assert results == alone


def test_nothing_to_do():
    assert together.in_step(reference, NUMPY, []) == []

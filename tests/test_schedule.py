"""What of an LSTM runs when: passes, segments and rounds, as data."""

from dataclasses import replace

import numpy as np
import pytest

from gpu_lstm import LSTM
from gpu_lstm.layers import schedule
from gpu_lstm.layers.call import Call
from gpu_lstm.recurrence import Arriving, Problem
from gpu_lstm.recurrence.tier import Fit
from tests.support import NUMPY

ALONE = Fit()
FIRST, SECOND, THIRD = slice(0, 2), slice(2, 4), slice(4, 5)


@pytest.fixture(autouse=True)
def three_segments(monkeypatch):
    monkeypatch.setattr(
        schedule, "segments", lambda *_, **__: [(part.start, part.stop) for part in (FIRST, SECOND, THIRD)]
    )


def layers(fit=ALONE, **options):
    one = LSTM(3, 4, backend=NUMPY, tier="reference", **options)
    one.plan = replace(one.plan, run=replace(one.plan.run, fit=lambda backend, offer: fit))
    return one


def passes(one, direction="forward"):
    return schedule.passes(one._work({}, Call(5, 2, None, None, None, True)), direction)


def test_one_direction_goes_segment_by_segment_through_all_layers():
    (walk,) = passes(layers(num_layers=3))
    assert walk.segments == [[[((layer, 0), part)] for layer in range(3)] for part in (FIRST, SECOND, THIRD)]
    assert walk.members == [(0, 0), (1, 0), (2, 0)]
    assert walk.first_layer == 0


def test_as_many_layers_in_a_round_as_the_tier_takes_at_once():
    (walk,) = passes(layers(Fit(at_once=2), num_layers=3))
    assert walk.segments[1] == [[((0, 0), SECOND), ((1, 0), SECOND)], [((2, 0), SECOND)]]


def test_two_directions_go_layer_by_layer_both_at_once_from_opposite_ends():
    lower, upper = passes(layers(num_layers=2, bidirectional=True))
    assert upper.first_layer == 1
    assert lower.segments == [
        [[((0, 0), FIRST), ((0, 1), THIRD)]],
        [[((0, 0), SECOND), ((0, 1), SECOND)]],
        [[((0, 0), THIRD), ((0, 1), FIRST)]],
    ]


@pytest.mark.parametrize("options", [{"residual": True}, {"input_dropout": 0.1}, {"peepholes": True}, {"cells": True}])
def test_layers_between_which_something_else_passes_never_run_at_once(options):
    asked = []
    one = layers(num_layers=2, **options)
    run = replace(one.plan.run, fit=lambda backend, offer: (asked.append(offer.layers), Fit(offer.layers))[1])
    one.plan = replace(one.plan, run=run)
    assert all(len(turns) == 1 for walk in passes(one) for segment in walk.segments for turns in segment)
    assert set(asked) <= {1}


@pytest.mark.parametrize("recompute", [False, True])
def test_what_runs_is_what_the_schedule_says(recompute):
    """Rounds in the order of the passes; with recompute each segment forward again before it goes back."""
    ran = []
    one = layers(num_layers=2, bidirectional=True, recompute=recompute)
    tier = one.plan.run

    def forward(backend, problems):
        assert all(isinstance(problem, Problem) for problem in problems)
        ran.append(("forward", [(len(problem.z), problem.reverse) for problem in problems]))
        return tier.forward(backend, problems)

    def backward(backend, arriving):
        assert all(isinstance(each, Arriving) for each in arriving)
        ran.append(("backward", [(len(each.saved.gates), each.saved.reverse) for each in arriving]))
        return tier.backward(backend, arriving)

    one.plan = replace(one.plan, run=replace(tier, forward=forward, backward=backward))
    _, _, tape = one.forward(np.ones((5, 2, 3), np.float32))
    begins, middle, ends = ([(a, False), (b, True)] for a, b in ((2, 1), (2, 2), (1, 2)))
    assert ran == [("forward", both) for both in (begins, middle, ends)] * 2
    ran.clear()
    one.backward(tape, np.ones((5, 2, 8), np.float32))
    kinds = ("forward", "backward") if recompute else ("backward",)
    assert ran == [(kind, both) for both in (ends, middle, begins) for kind in kinds] * 2

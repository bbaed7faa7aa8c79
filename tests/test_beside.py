"""Large products beside the recurrence: the same bits in any order of the two, nothing that a job makes outlives it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gpu_lstm import ops
from gpu_lstm.backend import NumpyBackend
from gpu_lstm.layers import LSTM, joined, schedule, walk
from gpu_lstm.layers import member as members
from gpu_lstm.recurrence import Offer, cpu, reference
from gpu_lstm.recurrence.cuda import pointwise
from gpu_lstm.recurrence.tier import Fit
from tests.support import NUMPY, loss_and_gradients, problem, relative_error

STEPS, BATCH, LENGTHS = 7, 3, [7, 2, 5]
"""Four segments of two steps, the last one short."""


class First(NumpyBackend):
    """Jobs as early as they may run."""

    def beside(self, work, jobs):
        self.jobs = getattr(self, "jobs", 0) + len(jobs)
        for job in jobs:
            job()
        return work()


class Last(NumpyBackend):
    """Jobs as late as they may run; the arrays that they made are gone after them."""

    def __init__(self):
        super().__init__()
        self.made = None
        self._ops = Kept(self)  # what `ops.of` gives

    def beside(self, work, jobs):
        result = work()
        self.made = []
        for job in jobs:
            job()
        for array in self.made:
            array[...] = np.nan
        self.made = None
        return result


class Kept(ops.Cpu):
    """Its backend is told of the arrays that it makes."""

    def product(self, a, b, bias=None, dtype=None, out=None, kept=None):
        return self._kept(super().product(a, b, bias, dtype, out, kept), out)

    def weight_gradients(self, dy, inputs):
        weights, bias = super().weight_gradients(dy, inputs)
        return [self._kept(weight) for weight in weights], self._kept(bias)

    def _kept(self, array, out=None):
        if self.backend.made is not None and out is None:
            self.backend.made.append(array)
        return array


def by_two(num_steps, batch, reverse=False, least_steps=1):
    parts = [(start, min(start + 2, num_steps)) for start in range(0, num_steps, 2)]
    return parts[::-1] if reverse else parts


def with_room(one, room=True):
    """Its recurrence leaves room for everything, or, with the same arithmetic, for nothing."""
    run = dataclasses.replace(reference.TIER, fit=lambda backend, offer: Fit(1, room and offer.multiply_adds > 0))
    # The reference tier's products are the array namespace's, step by step; those that can go beside are the backend's.
    one.plan = dataclasses.replace(one.plan, tier="pointwise", run=run)
    one._ops = ops.of(one.backend)
    return one


CASES = {
    "one layer": {},
    "two layers": {"num_layers": 2},
    "dropout": {"num_layers": 2, "dropout": 0.3, "recompute": True},
    "recompute": {"num_layers": 3, "recompute": True},
    "both directions": {"num_layers": 2, "bidirectional": True, "dropout": 0.3},
    "both directions, recompute": {"bidirectional": True, "recompute": True},
    "no bias": {"num_layers": 2, "bias": False, "residual": True},
    "drops": {"num_layers": 2, "input_dropout": 0.3, "recurrent_dropout": 0.2, "weight_dropout": 0.2},
    "family": {"num_layers": 2, "proj_size": 4, "peepholes": True, "zoneout_h": 0.1, "heads": 2},
    "layer norm": {"num_layers": 2, "layer_norm": True, "learn_state": True},
}


def results(one, lengths, dtype):
    data = problem(one, STEPS, BATCH) | {
        name: np.random.default_rng(9).standard_normal((*shape, one.output_size * width)).astype(dtype)
        for name, shape, width in (
            ("dy", (STEPS, BATCH), one.num_directions),
            ("h0", (one.num_layers * one.num_directions, BATCH), 1),
            ("dh", (one.num_layers * one.num_directions, BATCH), 1),
        )
    }
    return loss_and_gradients(one, data, lengths, seed=(1, 2))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["all steps", "lengths"])
@pytest.mark.parametrize("case", CASES)
def test_any_order_gives_the_bits_of_one_after_the_other(monkeypatch, case, lengths, dtype):
    monkeypatch.setattr(schedule, "segments", by_two)
    options = CASES[case] | {"dtype": dtype, "tier": "reference"}
    expected = results(with_room(LSTM(4, 6, backend=NumpyBackend(), **options), room=False), lengths, dtype)
    for backend in (First(), Last()):
        found = results(with_room(LSTM(4, 6, backend=backend, **options)), lengths, dtype)
        assert found[0] == expected[0]
        for name, gradient in expected[1].items():
            assert found[1][name].tobytes() == gradient.tobytes(), name
        if isinstance(backend, First):
            assert (backend.jobs > 0) == (case != "layer norm")  # its dx needs what the weights' gradients go through


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["all steps", "lengths"])
@pytest.mark.parametrize("case", ["one layer", "two layers", "recompute", "both directions, recompute"])
def test_gradients_equal_those_of_the_oracle_over_all_steps(monkeypatch, case, lengths):
    options = CASES[case] | {"dtype": "float64", "tier": "reference"}
    expected = results(LSTM(4, 6, backend=NUMPY, **options), lengths, "float64")
    monkeypatch.setattr(schedule, "segments", by_two)
    found = results(with_room(LSTM(4, 6, backend=Last(), **options)), lengths, "float64")
    assert found[0] == pytest.approx(expected[0], rel=1e-12)
    for name, gradient in expected[1].items():
        assert relative_error(found[1][name], gradient) < 1e-12, name


def test_inference_with_room_beside(monkeypatch):
    monkeypatch.setattr(schedule, "segments", by_two)
    x = np.random.default_rng(0).standard_normal((STEPS, BATCH, 4))
    plain, beside = (
        with_room(LSTM(4, 6, 2, backend=backend, dtype="float64", tier="reference"), room)
        for backend, room in ((NumpyBackend(), False), (Last(), True))
    )
    for one, other in zip(plain.forward(x, keep=False)[:2], beside.forward(x, keep=False)[:2], strict=True):
        np.testing.assert_array_equal(one, other)


def count_jobs(monkeypatch, chunks, **options):
    monkeypatch.setattr(schedule, "segments", chunks)
    backend = First()
    one = with_room(LSTM(4, 6, backend=backend, tier="reference", **options))
    _, _, tape = one.forward(np.ones((STEPS, BATCH, 4), np.float32))
    forward = backend.jobs
    one.backward(tape, np.ones((STEPS, BATCH, 6 * one.num_directions), np.float32))
    return forward, backend.jobs - forward


def test_what_goes_beside(monkeypatch):
    """The product of all segments but the first; the gradients of every layer in every segment."""
    assert count_jobs(monkeypatch, by_two) == (3, 4)
    assert count_jobs(monkeypatch, by_two, num_layers=2) == (3, 8)
    assert count_jobs(monkeypatch, by_two, bidirectional=True) == (6, 8)
    assert count_jobs(monkeypatch, lambda n, *_, **__: [(0, n)]) == (0, 0)
    assert count_jobs(monkeypatch, lambda n, *_, **__: [(0, n)], num_layers=2) == (0, 2)


def noted(told, name, function=None):
    """A function of a member that notes whose it is."""
    function = getattr(members, name)

    def run(work, member, *arguments):
        told.append(f"{name} {member.name}")
        return function(work, member, *arguments)

    return run


def test_a_job_goes_beside_the_next_recurrence(monkeypatch):
    """An upper layer's gradients beside the recurrence below it, the first layer's beside that of the next segment."""
    told = []

    class Told(NumpyBackend):
        def beside(self, work, jobs):
            told.append("round")
            return super().beside(work, jobs)

    monkeypatch.setattr(schedule, "segments", by_two)
    for name in ("input_gradient", "parameter_gradients"):
        monkeypatch.setattr(members, name, noted(told, name))
    one = with_room(LSTM(4, 6, 2, backend=Told(), tier="reference"))
    _, _, tape = one.forward(np.ones((4, BATCH, 4), np.float32))
    assert told == ["round", "round", "round", "round"]
    told.clear()
    one.backward(tape, np.ones((4, BATCH, 6), np.float32))
    upper = ["input_gradient l1", "round", "parameter_gradients l1"]  # what goes down is found at once
    lower = ["parameter_gradients l0", "input_gradient l0"]
    assert told == ["round", *upper, "round", *lower, *upper, "round", *lower]


# -- mistakes are seen ------------------------------------------------------------------------------------------------


def both_orders(monkeypatch, **options):
    """Gradients with jobs first and with jobs last."""
    monkeypatch.setattr(schedule, "segments", by_two)
    return [
        results(with_room(LSTM(4, 6, backend=backend, dtype="float64", tier="reference", **options)), None, "float64")
        for backend in (First(), Last())
    ]


def differ(found):
    (_, first), (_, last) = found
    return [name for name in first if first[name].tobytes() != last[name].tobytes()]


def test_a_product_that_is_needed_at_once_is_seen(monkeypatch):
    assert not differ(both_orders(monkeypatch))

    def at_once(work, pass_, number, x, states, entries, jobs, whole=walk.forward_segment):
        ((member, steps),) = pass_.segments[number][0]
        entry, product = joined.enter_later(work, member, x[steps, ...])
        entry.z[...] = 0
        return whole(work, pass_, number, x, states, {member: entry}, [*jobs, product])  # of this very segment

    monkeypatch.setattr(walk, "forward_segment", at_once)
    assert differ(both_orders(monkeypatch))


def test_an_array_of_a_job_that_is_kept_is_seen(monkeypatch):
    def keep(gradients, found, first):
        for name, gradient in found.items():
            gradients[name] = gradient if first else gradients[name] + gradient

    monkeypatch.setattr(walk, "_add_up", keep)
    assert "weight_ih_l0" in differ(both_orders(monkeypatch))


def test_tiers_without_room_run_one_after_the_other():
    recurrences = Offer("forward", 8, 8, 8, "float32", layers=3, multiply_adds=10**9)
    for tier in (reference, cpu, pointwise):  # the last fills the GPU with its own products
        assert tier.TIER.fit(NUMPY, recurrences) == Fit(1, False)

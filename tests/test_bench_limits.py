"""The cost model: by hand where it can be, against measured allocations where not."""

import tracemalloc

import numpy as np
import pytest

from gpu_lstm.bench import limits, memory, threads
from gpu_lstm.bench.limits import Ceilings, Work
from gpu_lstm.layers import LSTM
from gpu_lstm.recurrence import runnable_tiers
from gpu_lstm.training.memory import step_of_layer
from tests.support import NUMPY

SIZE = (3, 2, 5, 4)  # n = 6 rows, 4H = 16
"""T, B, D, H of the hand-computed cases."""


def test_phases_by_hand():
    phases = limits.phases(SIZE, 4, "training", waits=(1, 2))
    assert list(phases) == [
        "input projection", "recurrence forward", "recurrence backward", "weight gradients", "input gradient",
    ]  # fmt: skip
    assert phases["input projection"] == Work(2 * 6 * 16 * 5, 4 * (30 + 80 + 96))
    assert phases["recurrence forward"] == Work(
        2 * 6 * 16 * 4 + 100 * 24, 4 * (96 + 96 + 48), cache=3 * 16 * 4 * 4, barriers=3, launches=6
    )
    assert phases["recurrence backward"] == Work(
        2 * 6 * 16 * 4 + 60 * 24, 4 * (192 + 96), cache=3 * 16 * 4 * 4, barriers=3, launches=6
    )
    assert phases["weight gradients"] == Work(2 * 6 * 16 * 9, 4 * (96 + 54 + 160))
    assert phases["input gradient"] == Work(2 * 6 * 16 * 5, 4 * (96 + 80 + 30))


def test_inference_has_two_phases_and_keeps_no_gates():
    phases = limits.phases(SIZE, 8, "inference")
    assert list(phases) == ["input projection", "recurrence forward"]
    assert phases["recurrence forward"].memory == 8 * (96 + 48)
    assert phases["recurrence forward"].barriers == 0


def test_the_products_alone_add_up_to_what_is_quoted():
    phases = limits.phases(SIZE, 4)
    gates = (100 + 60) * 6 * 4
    assert sum(work.flops for work in phases.values()) - gates == limits.product_flops(SIZE) == 3 * 2 * 6 * 16 * 9
    assert limits.product_flops(SIZE, "inference") == 2 * 6 * 16 * 9


@pytest.mark.parametrize(
    ("work", "seconds"),
    [
        (Work(flops=200, memory=10), 2.0),
        (Work(flops=10, memory=50), 5.0),
        (Work(flops=10, memory=10, cache=120), 3.0),
        (Work(flops=100, memory=1, barriers=4, launches=2), 1.0 + 4 * 0.5 + 2 * 0.25),
    ],
)
def test_a_phase_takes_its_longest_part_and_its_waits(work, seconds):
    assert limits.seconds(work, Ceilings(flops=100, memory=10, cache=40, barrier=0.5, launch=0.25)) == seconds


def test_bytes_count_at_the_rate_of_the_cache_where_those_of_a_phase_fit_into_it():
    slow, fast = (
        limits.floor(SIZE, 4, "training", Ceilings(1e30, 10, 1000, cache_bytes=size)) for size in (0, 1 << 30)
    )
    assert slow["input projection"] == 4 * (30 + 80 + 96) / 10
    assert fast["input projection"] == 4 * (30 + 80 + 96) / 1000
    some = limits.floor(SIZE, 4, "training", Ceilings(1e30, 10, 1000, cache_bytes=4 * (30 + 80 + 96)))
    assert some["input projection"] == fast["input projection"]
    assert some["weight gradients"] == slow["weight gradients"]
    assert limits.floor(SIZE, 4, "training", Ceilings(1e30, 10))["recurrence forward"] == 4 * (96 + 96 + 48) / 10


def traced_peak(size, tier):
    """Bytes that NumPy allocates at the peak of a step whose caller holds y, beside its inputs and weights."""
    steps, batch, d, h = size
    lstm = LSTM(d, h, tier=tier, backend=NUMPY)
    x, dy = np.ones((steps, batch, d), np.float32), np.ones((steps, batch, h), np.float32)
    tracemalloc.start()
    try:
        found = lstm.forward(x)
        lstm.backward(found[2], dy)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [(40, 16, 64, 64), (40, 16, 48, 96), (20, 16, 200, 96)])
@pytest.mark.parametrize("tier", runnable_tiers(NUMPY))
def test_the_memory_model_is_within_10_percent_of_a_training_step(without_pool, tier, size):
    assert step_of_layer(size, "float32") == pytest.approx(traced_peak(size, tier), rel=0.1)


@pytest.mark.parametrize("tier", runnable_tiers(NUMPY))
def test_a_time_step_more_adds_what_the_model_says(without_pool, tier):
    size, longer = (40, 16, 64, 64), (80, 16, 64, 64)
    grown = traced_peak(longer, tier) - traced_peak(size, tier)
    assert step_of_layer(longer, "float32") - step_of_layer(size, "float32") == pytest.approx(grown, rel=0.1)


@pytest.mark.skipif("sequence" not in runnable_tiers(NUMPY), reason="the compiled tier is not there")
@pytest.mark.parametrize("size", [(64, 32, 128, 128), (64, 64, 256, 256)])
def test_the_memory_model_is_within_10_percent_of_resident_memory(size):
    """Compiled code's own working memory included."""
    measured = memory.peak("sequence", size)
    if measured is None:
        pytest.skip("this system doesn't tell the peak resident set")
    assert step_of_layer(size, "float32", threads.count()) == pytest.approx(measured, rel=0.1)


@pytest.mark.skipif("sequence" not in runnable_tiers(NUMPY), reason="the compiled tier is not there")
def test_recomputation_is_measured_to_take_less():
    plain, again = (memory.peak("sequence", (20000, 1, 16, 32), options=more) for more in ((), ("recompute",)))
    if plain is None or again is None:
        pytest.skip("this system doesn't tell the peak resident set")
    assert again < plain / 2


def test_slope_is_the_exponent():
    assert limits.slope([1, 2, 4, 8], [3 * x**1.5 for x in (1, 2, 4, 8)]) == pytest.approx(1.5)


def test_a_size_that_does_not_fit_says_what_it_needs_and_what_there_is(monkeypatch):
    monkeypatch.setattr(NUMPY, "memory", lambda release=False: 2e9, raising=False)
    assert memory.obstacle((64, 32, 128, 128), "float32", NUMPY) == ""
    text = memory.obstacle((4096, 1024, 1024, 1024), "float32", NUMPY)
    assert text.startswith("needs about ")
    assert text.endswith("; 2.0 GB are free")

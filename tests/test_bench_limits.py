"""The cost model: by hand where it can be, against measured allocations where not."""

import math
import tracemalloc

import numpy as np
import pytest

from gpu_lstm.bench import limits, memory, threads
from gpu_lstm.bench.limits import Ceilings, Link, Work
from gpu_lstm.layers import LSTM
from gpu_lstm.recurrence import runnable_tiers
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


def test_optimizer_and_parameters_by_hand():
    assert limits.parameters(SIZE) == 16 * (5 + 4 + 1)
    assert limits.optimizer(SIZE, 4) == Work(12 * 160, 4 * 7 * 160)


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


def test_bytes_count_at_the_rate_of_the_cache_where_all_fits_into_it():
    slow, fast = (
        limits.floor(SIZE, 4, "training", Ceilings(1e30, 10, 1000, cache_bytes=size)) for size in (0, 1 << 30)
    )
    assert slow["input projection"] == 4 * (30 + 80 + 96) / 10
    assert fast["input projection"] == 4 * (30 + 80 + 96) / 1000
    assert limits.floor(SIZE, 4, "training", Ceilings(1e30, 10))["recurrence forward"] == 4 * (96 + 96 + 48) / 10


def traced_peak(size, num_layers, tier, kind):
    """Bytes that NumPy allocates at the peak of a step whose caller holds y, beside its inputs and weights."""
    steps, batch, d, h = size
    lstm = LSTM(d, h, num_layers, tier=tier, backend=NUMPY)
    x, dy = np.ones((steps, batch, d), np.float32), np.ones((steps, batch, h), np.float32)
    tracemalloc.start()
    try:
        if kind == "inference":
            lstm.forward(x, keep=False)
        else:
            found = lstm.forward(x)
            lstm.backward(found[2], dy)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("size", [(40, 16, 64, 64), (40, 16, 48, 96), (20, 16, 200, 96)])
@pytest.mark.parametrize("tier", runnable_tiers(NUMPY))
def test_the_memory_model_is_within_10_percent_of_a_training_step(without_pool, tier, size, num_layers):
    model = limits.step_bytes(size, 4, "training", num_layers)["total"]
    assert model == pytest.approx(traced_peak(size, num_layers, tier, "training"), rel=0.1)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("tier", runnable_tiers(NUMPY))
def test_a_time_step_more_adds_what_the_model_says_in_each_layer(without_pool, tier, num_layers):
    size, longer = (40, 16, 64, 64), (80, 16, 64, 64)
    grown = traced_peak(longer, num_layers, tier, "training") - traced_peak(size, num_layers, tier, "training")
    model = limits.step_bytes(size, 4, "training", num_layers)["per_step_and_layer"]
    assert model == pytest.approx(grown / 40 / num_layers, rel=0.1)


@pytest.mark.skipif("sequence" not in runnable_tiers(NUMPY), reason="the compiled tier is not there")
def test_the_memory_model_is_within_10_percent_of_an_inference_pass(without_pool):
    size = (40, 16, 64, 96)
    model = limits.step_bytes(size, 4, "inference")["total"]
    assert model == pytest.approx(traced_peak(size, 1, "sequence", "inference"), rel=0.1)


@pytest.mark.skipif("sequence" not in runnable_tiers(NUMPY), reason="the compiled tier is not there")
@pytest.mark.parametrize("size", [(64, 32, 128, 128), (64, 64, 256, 256)])
def test_the_memory_model_is_within_10_percent_of_resident_memory(size):
    """Compiled code's own working memory included."""
    measured = memory.peak("sequence", size)
    if measured is None:
        pytest.skip("this system doesn't tell the peak resident set")
    assert limits.step_bytes(size, 4, threads=threads.count())["total"] == pytest.approx(measured, rel=0.1)


def test_slope_is_the_exponent():
    assert limits.slope([1, 2, 4, 8], [3 * x**1.5 for x in (1, 2, 4, 8)]) == pytest.approx(1.5)


def test_ring_all_reduce_by_hand():
    link = Link("x", rate=100.0, latency=0.5)
    assert limits.ring_all_reduce(2, 400.0, link) == 2 * (200 / 100 + 0.5)
    assert limits.ring_all_reduce(4, 400.0, link) == 6 * (100 / 100 + 0.5)


def test_data_parallel_starts_at_one_and_never_exceeds_the_ideal():
    points = limits.data_parallel(0.01, 1e6, limits.LINKS[0])
    assert [point["devices"] for point in points] == [2**k for k in range(11)]
    assert points[0] == {"devices": 1, "seconds": 0.01, "speed": 1.0}
    assert all(point["speed"] < point["devices"] for point in points[1:])
    assert points[1]["seconds"] == pytest.approx(0.01 + 1e6 / 1.25e9 + 2 * 30e-6)


@pytest.mark.parametrize("device", limits.DEVICES, ids=lambda device: device.name)
def test_a_prediction_is_the_floor_on_published_figures_times_the_stated_factor(device):
    size = (64, 64, 512, 512)
    found = limits.predict(size, "float32", "training", device, over_floor=1.5)
    assert found["prediction"] == 1.5 * found["floor"]
    # Operations alone, and one barrier for each of 2 T time steps, are a lower bound of it.
    assert found["floor"] > limits.product_flops(size) / device.flops["float32"]
    assert found["floor"] > 2 * 64 * limits.WAITS["barrier"]
    assert device.source
    assert device.flops.get("float16", math.inf) >= device.flops["float32"]


def test_a_faster_device_is_predicted_to_be_faster():
    by_name = {device.name: device for device in limits.DEVICES}
    times = [
        limits.predict((64, 256, 2048, 2048), "float32", "training", by_name[name])["prediction"]
        for name in ("A100 SXM 80 GB", "H100 SXM", "B200 (HGX)")
    ]
    assert times == sorted(times, reverse=True)


def test_a_size_that_does_not_fit_says_what_it_needs_and_what_there_is(monkeypatch):
    monkeypatch.setattr(NUMPY, "memory", lambda release=False: 2e9, raising=False)
    assert memory.obstacle((64, 32, 128, 128), "float32", "training", NUMPY) == ""
    text = memory.obstacle((4096, 1024, 1024, 1024), "float32", "training", NUMPY)
    assert text.startswith("needs about ")
    assert text.endswith("; 2.0 GB are free")

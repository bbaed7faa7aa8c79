"""Recomputation over time: the same bytes, a fraction of the memory; and long sequences in segments at all."""

import tracemalloc

import numpy as np
import pytest

from gpu_lstm.backend.cuda import CudaBackend
from gpu_lstm.layers import LSTM, schedule
from gpu_lstm.layers.schedule import segments
from gpu_lstm.native import compiled
from gpu_lstm.recurrence import runnable_tiers
from tests.support import NUMPY, STRICT, loss_and_gradients, problem, relative_error

LONG, BATCH = 4300, 4
"""More than 16,384 rows: nine segments, the last one short."""


@pytest.mark.parametrize(
    ("steps", "batch", "count"),
    [(1, 1, 1), (128, 128, 1), (16384, 1, 1), (4300, 4, 9), (100000, 1, 49), (512, 256, 24)],
)
def test_segments_cover_all_steps_in_order(steps, batch, count):
    parts = segments(steps, batch)
    assert [t for start, stop in parts for t in range(start, stop)] == list(range(steps))
    assert len(parts) == count


@pytest.mark.parametrize(
    ("steps", "batch", "length"),
    [(1024, 64, 256), (1024, 16, 1024), (2048, 16, 256), (257, 64, 256), (256, 256, 256), (100000, 16, 316)],
)
def test_on_a_gpu_a_segment_is_no_shorter_than_pays(steps, batch, length):
    parts = segments(steps, batch, least_steps=CudaBackend.least_steps)
    assert [stop - start for start, stop in parts[:-1]] == [length] * (-(-steps // length) - 1)
    assert parts[0][0] == 0
    assert parts[-1][1] == steps


def pair(**options):
    """The same LSTM, plain and with recomputation."""
    return [LSTM(3, 5, recompute=recompute, **options) for recompute in (False, True)]


CASES = {
    "one layer": {},
    "two layers, dropout": {"num_layers": 2, "dropout": 0.3},
    "both directions": {"bidirectional": True},
    "two layers, both directions, dropout": {"num_layers": 2, "bidirectional": True, "dropout": 0.3},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lengths", [None, [LONG, 5, 2000, 4299]], ids=["all steps", "lengths"])
@pytest.mark.parametrize("case", CASES)
def test_gradients_with_recomputation_are_the_same_to_the_last_bit(case, lengths, dtype):
    plain, again = pair(**CASES[case], dtype=dtype, backend=NUMPY)
    data = problem(plain, LONG, BATCH)
    results = [loss_and_gradients(one, data, lengths, seed=(1, 2)) for one in (plain, again)]
    assert results[0][0] == results[1][0]
    for name, gradient in results[0][1].items():
        assert gradient.tobytes() == results[1][1][name].tobytes(), name


@pytest.mark.parametrize("tier", runnable_tiers(NUMPY))
def test_on_every_tier(tier):
    plain, again = pair(num_layers=2, dtype="float64", backend=NUMPY, tier=tier)
    data = problem(plain, LONG, BATCH)
    results = [loss_and_gradients(one, data)[1] for one in (plain, again)]
    assert all(results[0][name].tobytes() == results[1][name].tobytes() for name in results[0])


def test_with_the_batch_first_and_incoming_gradients_left_out():
    plain, again = pair(batch_first=True, dtype="float64", backend=NUMPY)
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(BATCH, LONG, 3)), rng.normal(size=(BATCH, LONG, 5))
    for sent in (dy, None):
        results = []
        for one in (plain, again):
            y, (h, c), tape = one.forward(x)
            results.append([y, h, c, *one.backward(tape, sent, (None, c))[2].values()])
        assert all(a.tobytes() == b.tobytes() for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("case", [name for name in CASES if "dropout" not in name])
@pytest.mark.parametrize("lengths", [None, [LONG, 5, 2000, 4299]], ids=["all steps", "lengths"])
def test_segments_change_nothing_but_rounding(monkeypatch, case, lengths):
    plain, _ = pair(**CASES[case], dtype="float64", backend=NUMPY, tier="reference")
    data = problem(plain, LONG, BATCH)
    in_parts = loss_and_gradients(plain, data, lengths)
    monkeypatch.setattr(schedule, "segments", lambda num_steps, *_, **__: [(0, num_steps)])
    whole = loss_and_gradients(plain, data, lengths)
    assert in_parts[0] == pytest.approx(whole[0], rel=1e-12)
    for name, gradient in whole[1].items():
        assert relative_error(in_parts[1][name], gradient) < 1e-11, name


def test_on_a_namespace_of_the_array_standard(monkeypatch):
    monkeypatch.setattr(schedule, "segments", lambda n, b, **_: [(0, 2), (2, 3)])
    for options in ({"num_layers": 2}, {"bidirectional": True}):
        plain, again = (LSTM(3, 4, dtype="float64", backend=STRICT, recompute=r, **options) for r in (False, True))
        data = problem(plain, 3, 2)
        results = [loss_and_gradients(one, data, [3, 1])[1] for one in (plain, again)]
        assert all(results[0][name].tobytes() == results[1][name].tobytes() for name in results[0])


def kept_and_peak(one, x):
    """Bytes that a forward call leaves for backward besides y, and the peak of both calls above x, y, dy and dx."""
    dy = np.ones((*x.shape[:2], one.hidden_size), x.dtype)
    tracemalloc.start()
    y, _, tape = one.forward(x)
    kept = tracemalloc.get_traced_memory()[0] - y.nbytes
    dx = one.backward(tape, dy)[0]
    peak = tracemalloc.get_traced_memory()[1] - y.nbytes - dx.nbytes
    tracemalloc.stop()
    return kept, peak


@pytest.mark.skipif(bool(compiled.missing()), reason="takes long without the compiled tier")
@pytest.mark.slow
@pytest.mark.parametrize("layers", [1, 2])
def test_a_long_sequence_needs_a_twentieth_of_the_memory(without_pool, layers):
    x = np.random.default_rng(0).standard_normal((100_000, 1, 8), dtype=np.float32)
    plain, again = (LSTM(8, 16, layers, backend=NUMPY, recompute=recompute) for recompute in (False, True))
    for before, after in zip(kept_and_peak(plain, x), kept_and_peak(again, x), strict=True):
        assert before > 20 * after

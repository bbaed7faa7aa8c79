"""In parallel over time: the bits of the same call in sequence; what never forgets, falls back and says so."""

import warnings

import numpy as np
import pytest

from gpu_lstm import LSTM, InputError
from gpu_lstm.layers import overtime, strand
from gpu_lstm.layers.strand import round_to
from gpu_lstm.native import compiled
from tests.support import NUMPY

needs_compiled = pytest.mark.skipif(compiled.library() is None, reason="the compiled library is not there")
DTYPES = ("float32", "float64", "float16", "bfloat16")
OPTIONS = (
    {"peepholes": True}, {"coupled": True}, {"hard_sigmoid": True}, {"clip": 1.0}, {"cell_clip": 0.5},
    {"layer_norm": True}, {"zoneout_h": 0.1}, {"zoneout_c": 0.2}, {"learn_state": True}, {"cells": True},
    {"heads": 2}, {"proj_size": 4}, {"bias": False}, {"cell_activation": "relu"},
)  # fmt: skip


@pytest.fixture
def short(monkeypatch):
    """Chunks of 8 steps, any number of which may be run over time, and segments that are expected to pay."""
    for module in (overtime, strand):
        monkeypatch.setattr(module, "STEPS", 8)
    monkeypatch.setattr(overtime, "LEAST_STEPS", 1)
    monkeypatch.setattr(overtime, "SEGMENTS", (3, 5))
    monkeypatch.setattr(overtime, "TRIAL", 0.5)
    monkeypatch.setattr(overtime, "_clocked", lambda course, *_: course.seconds * 1.2)
    return monkeypatch


def run(lstm, x, **given):
    """Outputs and the state of a call of inference, each an array of its own; and the reports."""
    y, state, _ = lstm.forward(x, keep=False, **given)
    return [*(y if isinstance(y, tuple) else (y,)), *state], lstm.plan.over_time


def in_sequence(lstm, x, **given):
    """The same call, in one piece after the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overtime, "LEAST_STEPS", 1 << 60)
        found, reports = run(lstm, x, **given)
    assert all(report.segments == 1 for report in reports)
    return found


def same(found, expected):
    return len(found) == len(expected) and all(
        one.tobytes() == other.tobytes() for one, other in zip(found, expected, strict=True)
    )


def normal(rng, *shape, dtype="float32"):
    return NUMPY.asarray(rng.standard_normal(shape), dtype)


def at_random(seed):
    """An LSTM and a call of it, of any kind."""
    rng = np.random.default_rng(seed)
    options = {}
    for place in rng.permutation(len(OPTIONS))[: rng.integers(0, 4)]:
        options |= OPTIONS[place]
    if "proj_size" in options and "heads" in options:
        options["proj_size"] = 6
    hidden, dtype, mode = int(2 * rng.integers(4, 12)), DTYPES[rng.integers(4)], overtime.MODES[rng.integers(2)]
    layers, both = int(rng.integers(1, 4)), bool(rng.integers(2))
    if layers > 1 and rng.random() < 0.3:
        options["residual"] = True
    lstm = LSTM(
        5, hidden, layers, bidirectional=both, backend=NUMPY, dtype=dtype, parallel=mode, seed=seed,
        batch_first=bool(rng.integers(2)), **options,
    )  # fmt: skip
    steps, batch = int(rng.integers(100, 400)), int(rng.integers(1, 4))
    shape = (batch, steps) if lstm.batch_first else (steps, batch)
    x, given = normal(rng, *shape, 5, dtype=dtype), {}
    if rng.random() < 0.4:
        given["lengths"] = rng.integers(0, steps + 1, batch) if rng.random() < 0.5 else [*[steps] * (batch - 1), 60]
    if rng.random() < 0.3:
        given["resets"] = rng.random(shape) < 0.01
    if rng.random() < 0.5:
        h, c = lstm.sizes.state(batch)
        given["state"] = normal(rng, *h, dtype=dtype), normal(rng, *c, dtype=lstm.param_dtype)
    return lstm, x, given


def check(seed):
    lstm, x, given = at_random(seed)
    expected = in_sequence(lstm, x, **given)
    found, reports = run(lstm, x, **given)
    assert same(found, expected), (seed, reports)
    if lstm.parallel == "exact":
        lstm.parallel = False
        assert same(found, run(lstm, x, **given)[0]), (seed, reports)
    return sum(report.segments > 1 for report in reports)


@needs_compiled
@pytest.mark.parametrize("part", range(4))
def test_the_bits_of_the_same_call_in_sequence(short, part):
    assert sum(check(seed) for seed in range(part, 48, 4)) > 6


@needs_compiled
@pytest.mark.slow
def test_the_bits_of_the_same_call_in_sequence_300_times(short):
    assert sum(check(seed) for seed in range(1000, 1300)) > 200

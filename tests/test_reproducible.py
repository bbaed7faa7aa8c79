"""A sequence's forward bits are its own, whatever else is in the batch, its place, the threads, T cut into calls."""

import numpy as np
import pytest

from gpu_lstm import LSTM, LSTMCell
from gpu_lstm.layers import Linear
from gpu_lstm.models import Classifier, Forecaster, LanguageModel
from gpu_lstm.native import compiled
from tests.support import NUMPY

pytestmark = pytest.mark.skipif(compiled.library() is None, reason="the compiled library is not there")
SETS = compiled.SETS[: compiled.instruction_set() + 1]
DTYPES = ("float32", "float64", "float16", "bfloat16")
BATCH = 64
FAMILY = {
    "holes": {"peepholes": True, "cells": True, "zoneout_h": 0.1, "residual": True, "num_layers": 2},
    "projected": {"proj_size": 8, "heads": 4, "coupled": True, "clip": 1.0, "cell_clip": 0.5},
    "normalised": {"layer_norm": True, "hard_sigmoid": True, "learn_state": True},
}


@pytest.fixture(params=SETS)
def threads(request, monkeypatch):
    """Each instruction set, with threads however little there is to do; what sets their number."""
    monkeypatch.setattr(compiled, "instruction_set", lambda: compiled.SETS.index(request.param))
    monkeypatch.setattr(compiled, "SERIAL_WORK", 1)
    return lambda number: monkeypatch.setenv("GPU_LSTM_NUM_THREADS", str(number))


def normal(*shape, dtype="float32"):
    return NUMPY.asarray(np.random.default_rng(0).standard_normal(shape), dtype)


def run(lstm, x, state=None, **named):
    """Outputs (T, B, .), h and c (., B, .), each an array of its own."""
    y, state, _ = lstm.forward(x, state, keep=False, **named)
    return [*(y if isinstance(y, tuple) else (y,)), *state]


def some(sizes=range(1, 34)):
    """So many sequences of the batch, anywhere in it, in any order."""
    rng = np.random.default_rng(1)
    for size in sizes:
        yield rng.permutation(BATCH)[:size]


def same(whole, part, who):
    assert len(whole) == len(part)
    for expected, found in zip(whole, part, strict=True):
        assert np.array_equal(found, expected[:, who])  # NaN is none of the results


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("steps", "inputs", "hidden"), [(5, 21, 37), (3, 300, 20), (2, 3, 530)])
def test_any_batch_any_place_any_threads(threads, dtype, steps, inputs, hidden):
    threads(2)
    lstm, x = LSTM(inputs, hidden, backend=NUMPY, dtype=dtype), normal(steps, BATCH, inputs, dtype=dtype)
    whole = run(lstm, x)
    for who in some():
        threads(1 + len(who) % 4)
        same(whole, run(lstm, x[:, who]), who)


@pytest.mark.parametrize("dtype", DTYPES[:3])
@pytest.mark.parametrize("options", [{"num_layers": 2}, *FAMILY.values()], ids=["plain", *FAMILY])
def test_any_batch_of_any_lengths_in_both_directions(threads, dtype, options):
    threads(1)
    lstm, x = LSTM(9, 20, backend=NUMPY, dtype=dtype, bidirectional=True, **options), normal(5, BATCH, 9, dtype=dtype)
    lengths = np.random.default_rng(2).integers(0, 6, BATCH)
    whole = run(lstm, x, lengths=lengths)
    for who in some((*range(1, 9), 15, 16, 33)):
        threads(1 + len(who) % 4)
        same(whole, run(lstm, x[:, who], lengths=lengths[who]), who)


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("options", [{}, *FAMILY.values()], ids=["plain", *FAMILY])
def test_steps_cut_into_calls(threads, dtype, options):
    threads(1)
    lstm, x = LSTM(9, 20, backend=NUMPY, dtype=dtype, **options), normal(7, BATCH, 9, dtype=dtype)
    *whole, h, c = run(lstm, x)
    for who, ends in zip(some((1, 3, 5, 9, 33)), (range(1, 7), [2, 3], [6], [1, 4], [3]), strict=True):
        state, found = None, []
        for number, part in enumerate(np.split(x[:, who], ends)):
            threads(1 + number % 4)
            *outputs, h_after, c_after = run(lstm, part, state)
            state = h_after, c_after
            found.append(outputs)
        outputs = [np.concatenate(parts) for parts in zip(*found, strict=True)]
        same([*whole, h, c], [*outputs, *state], who)


def test_a_cell_gives_a_sequence(threads):
    threads(1)
    lstm, cell = (kind(9, 20, backend=NUMPY, seed=3) for kind in (LSTM, LSTMCell))
    x = normal(4, BATCH, 9)
    whole, *_ = run(lstm, x)
    for who in some(range(1, 6)):
        h, c = None, None
        for step in range(4):
            h, c, _ = cell.forward(x[step, who], (h, c))
            assert np.array_equal(h, whole[step, who])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_70_001_steps(threads, dtype):
    """They are computed in segments, whose length depends on the batch."""
    threads(2)
    lstm, x = LSTM(1, 3, backend=NUMPY, dtype=dtype), normal(70_001, 6, 1, dtype=dtype)
    whole = run(lstm, x)
    for who in [4], [5, 0, 3]:
        same(whole, run(lstm, x[:, who]), who)
    if "16" not in dtype:
        y, h, c = run(lstm, x[:40_000])
        same(whole, [np.concatenate([y, (rest := run(lstm, x[40_000:], (h, c)))[0]]), *rest[1:]], np.arange(6))


def test_a_linear_layer_of_any_number_of_rows(threads):
    threads(1)
    linear, x = Linear(300, 41, backend=NUMPY), normal(BATCH, 300)
    whole, _ = linear.forward(x)
    for who in some():
        threads(1 + len(who) % 4)
        assert np.array_equal(linear.forward(x[who])[0], whole[who])


def test_what_models_say(threads):
    threads(1)
    text = LanguageModel(11, 5, 12, 2, backend=NUMPY)
    series = Forecaster([0, 1], [1, 2], [0.5, 1], 3, 6, 9, 2, backend=NUMPY)
    classes = Classifier([0, 1], [1, 2], 3, 8, 2, backend=NUMPY)
    rng = np.random.default_rng(3)
    ids, values, lengths = rng.integers(0, 11, (6, BATCH)), normal(12, BATCH, 2), rng.integers(1, 13, BATCH)
    scores, forecast, said = text.logits(ids)[0], series.forecast(values, 4), classes.logits(values, lengths)
    for who in some(range(1, 10)):
        threads(1 + len(who) % 4)
        assert np.array_equal(text.logits(ids[:, who])[0], scores[:, who])
        assert np.array_equal(series.forecast(values[:, who], 4), forecast[:, who])
        assert np.array_equal(classes.logits(values[:, who], lengths[who]), said[who])

"""In parallel over time: the bits of the same call in sequence; what never forgets, falls back and says so."""

import warnings
from itertools import chain, repeat
from typing import Any

import numpy as np
import pytest

from benchmarks import over_time
from gpu_lstm import LSTM, InputError
from gpu_lstm.layers import overtime, settle, strand
from gpu_lstm.layers.strand import round_to
from gpu_lstm.models import Classifier, Forecaster, LanguageModel, Regressor, Tagger, quantize
from gpu_lstm.native import compiled
from gpu_lstm.recurrence import inference
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
    for module in (overtime, settle, strand):
        monkeypatch.setattr(module, "STEPS", 8)
    monkeypatch.setattr(overtime, "LEAST_STEPS", 64)
    monkeypatch.setattr(overtime, "LEAST_WORK", 0)
    monkeypatch.setattr(overtime, "SEGMENTS", (3, 5))
    monkeypatch.setattr(overtime, "TRIAL", 0.5)
    monkeypatch.setattr(overtime, "_clocked", lambda course, segments, n: course.chunk * (1 + segments / 20) * n / 8)
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
    steps, batch = int(rng.integers(100, 250)), int(rng.integers(1, 4))
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
def test_the_bits_of_the_same_call_in_sequence(short):
    assert sum(check(seed) for seed in range(16)) > 8


@needs_compiled
@pytest.mark.slow
def test_the_bits_of_the_same_call_in_sequence_300_times(short):
    assert sum(check(seed) for seed in range(1000, 1300)) > 200


def never_forgets(hidden=8, seed=0, **where):
    """An LSTM whose cells only add up what comes in, too little to saturate: f is 1."""
    lstm = LSTM(5, hidden, backend=NUMPY, seed=seed, **where)
    lstm.params["bias_l0"][...] = 0
    lstm.params["bias_l0"][hidden : 2 * hidden] = 50
    lstm.params["weight_ih_l0"][hidden : 2 * hidden] = 0
    lstm.params["weight_hh_l0"][...] *= 0.01
    lstm.params["weight_ih_l0"][...] *= 0.01
    return lstm


class Counted:
    """Counts the steps that strands run, each as often as there are sequences in it."""

    def __init__(self, patch):
        self.calls, run = [], strand.Strand.run

        def counted(one, firsts, count, rows, state):
            self.calls.append((count, one.work.call.batch if rows is None else len(rows)))
            return run(one, firsts, count, rows, state)

        patch.setattr(strand.Strand, "run", counted)

    def steps(self):
        return sum(count for count, _ in self.calls), sum(count * rows for count, rows in self.calls)

    def cost(self):
        """Of a machine on which six sequences more take as long again."""
        return sum(count * (rows + 5) / 6 for count, rows in self.calls)


@needs_compiled
@pytest.mark.parametrize("mode", overtime.MODES)
def test_what_never_forgets_runs_in_sequence_and_says_so(monkeypatch, mode):
    monkeypatch.setattr(overtime, "LEAST_WORK", 0)
    monkeypatch.setattr(overtime, "_clocked", lambda course, segments, n: course.chunk * (segments + 5) / 6 * n / 128)
    lstm, x = never_forgets(parallel=mode), normal(np.random.default_rng(0), 20_000, 1, 5)
    counted = Counted(monkeypatch)
    found, (report,) = run(lstm, x)
    assert report.segments == 1 and "a wrong state is not forgotten in" in lstm.plan.why()
    assert counted.steps()[0] == 20_000 and counted.cost() < 20_000 * 1.04
    assert same(found, in_sequence(lstm, x))


@needs_compiled
def test_what_forgets_at_first_only_goes_on_in_sequence(short):
    """Cells that forget while x[4] is above 0, and add up from then on."""
    lstm, x = never_forgets(parallel="rounded"), normal(np.random.default_rng(0), 480, 1, 5)
    x[:, :, 4], x[120:, :, 4] = 1, 0
    lstm.params["weight_ih_l0"][8:16, 4] = -50.0
    counted = Counted(short)
    found, (report,) = run(lstm, x)
    assert (report.segments, report.passes) == (5, 2) and "on in sequence" in str(report)
    assert counted.calls[-1][1] == 1 and counted.calls[-1][0] > 200  # in one call
    assert same(found, in_sequence(lstm, x))


@needs_compiled
def test_one_that_ends_amid_the_segments_beside_one_that_never_forgets(short):
    """Its state after its own end is that of its last segment, though the rest runs in sequence from one further on."""
    lstm, x = never_forgets(parallel="rounded"), normal(np.random.default_rng(0), 480, 2, 5)
    x[:, :, 4], x[120:, 0, 4] = 1, 0
    lstm.params["weight_ih_l0"][8:16, 4] = -50.0
    found, (report,) = run(lstm, x, lengths=[480, 350])
    assert report.segments == 5 and "on in sequence" in str(report)
    assert same(found, in_sequence(lstm, x, lengths=[480, 350]))


@needs_compiled
def test_only_what_changed_runs_again(short):
    """Steps with a reset in each segment: there the second pass meets the first."""
    lstm, x = LSTM(5, 8, backend=NUMPY, parallel="exact"), normal(np.random.default_rng(0), 408, 1, 5)
    resets = np.zeros((408, 1), bool)
    resets[::20] = True
    counted = Counted(short)
    found, (report,) = run(lstm, x, resets=resets)
    assert (report.segments, report.passes) == (5, 2)
    assert counted.steps()[1] < 408 * 1.6
    assert same(found, in_sequence(lstm, x, resets=resets))


WHERE: dict[str, Any] = {"hidden_size": 12, "backend": NUMPY, "parallel": "rounded", "seed": 3}
PLAIN, RNG = ([0.0] * 3, [1.0] * 3), np.random.default_rng(0)
TOKENS, SERIES = RNG.integers(0, 20, (401, 1)), RNG.standard_normal((400, 1, 1)).cumsum(axis=0)
BATCH = RNG.standard_normal((400, 2, 3)), np.array([400, 333])


@needs_compiled
@pytest.mark.parametrize(
    ("model", "call"),
    [
        (LanguageModel(20, 6, **WHERE), lambda model: [model.evaluate(TOKENS)[0]]),
        (
            LanguageModel(20, 6, num_layers=2, **WHERE),
            lambda model: [model.logits(TOKENS)[0], *model.logits(TOKENS)[1]],
        ),
        (LanguageModel(20, 6, **WHERE), lambda model: list(model.sample(TOKENS[:, 0], 9))),
        (LanguageModel(20, 6, lstm={"peepholes": True}, **WHERE), lambda model: list(model.sample(TOKENS[:, 0], 9))),
        (Classifier(*PLAIN, 4, **WHERE), lambda model: [model.logits(*BATCH)]),
        (Regressor(*PLAIN, [0.0], [1.0], **WHERE), lambda model: [model.predict(*BATCH)]),
        (Tagger(*PLAIN, 4, **WHERE), lambda model: [model.logits(*BATCH)]),
        (Forecaster([0.0], [1.0], [1.0], 3, **WHERE), lambda model: [model.forecast(SERIES, 3)]),
    ],
    ids=["evaluate", "logits", "sample", "sample by arrays", "Classifier", "Regressor", "Tagger", "Forecaster"],
)
def test_models_give_the_bits_of_the_same_call_in_sequence(short, model, call):
    segments, forward = [], overtime.forward
    short.setattr(overtime, "forward", lambda *a: (found := forward(*a), segments.extend(found[1]))[0])
    found = call(model)
    assert any(report.segments > 1 for report in segments)
    segments.clear()
    short.setattr(overtime, "LEAST_STEPS", 1 << 60)
    assert same(*([np.asarray(one) for one in results] for results in (found, call(model))))
    assert all(report.segments == 1 for report in segments)


@needs_compiled
def test_calls_that_are_cut_where_the_state_is_rounded():
    lstm, x = LSTM(5, 8, backend=NUMPY, parallel="rounded"), normal(np.random.default_rng(0), 1000, 2, 5)
    whole, _ = run(lstm, x)
    first, state, _ = lstm.forward(x[:384], keep=False)
    second, (h, c), _ = lstm.forward(x[384:], state, keep=False)
    assert same([np.concatenate([first, second]), h, c], whole)


@needs_compiled
@pytest.mark.parametrize("make", [LSTM, lambda *a, **k: quantize(LSTM(*a, **k), "int8")], ids=["float32", "int8"])
def test_compiled_code_rounds_to_the_same_bits(monkeypatch, make):
    """One call for all steps, and one for each chunk whose state is then rounded by NumPy."""
    lstm, x = make(5, 24, backend=NUMPY, parallel="rounded", seed=1), normal(np.random.default_rng(0), 500, 2, 5)
    found, _ = run(lstm, x)
    monkeypatch.setattr(strand, "WHOLE", {})
    assert same(found, run(lstm, x)[0])


@needs_compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiled_code_rounds_any_number_as_numpy_does(dtype):
    """The state before a step whose gates are shut, o and f open: it stays what it is but for the rounding."""
    rng, places = np.random.default_rng(0), overtime.PLACES[dtype]
    c = (rng.standard_normal((3, 64)) * 10.0 ** rng.integers(-8, 6, (3, 64))).astype(dtype)
    c[0, :6] = 0, -0.0, -(2.0 ** -(places + 2)), 1, 1 + 2.0**-places, 3 * 2.0 ** -(places + 1)
    lstm = LSTM(1, 64, backend=NUMPY, dtype=dtype)
    for name, array in lstm.params.items():
        array[...] = np.repeat([-1e4, 1e4, 0, 1e4], 64) if name == "bias_l0" else 0
    kept, x = lstm.kept(lstm.params, False), np.zeros((1, 3, 1), dtype)
    weights = kept["weight_ih_l0"], lstm.params["bias_l0"], kept["weight_hh_l0"]

    def inferred(rounding=inference.NEVER):
        h, after = inference.begun(NUMPY, (2, *c.shape), dtype, None, c)
        inference.on_cpu(x, h, after, *weights, rounding)(x, h, after)
        return h, after

    h, (plain,) = inferred()
    rounded, (found,) = inferred((1, places))
    assert same([plain], [c + 0.0]) and same([found, rounded[1]], [round_to(np, a, places) for a in (c, h[1])])
    assert same(inferred((2, places)), (h, plain[None]))


@needs_compiled
@pytest.mark.parametrize("both", [False, True])
def test_outputs_are_rounded_with_the_state(both):
    lstm, x = (
        LSTM(5, 8, backend=NUMPY, bidirectional=both, parallel="rounded"),
        normal(np.random.default_rng(0), 256, 2, 5),
    )
    y, h, _ = run(lstm, x)[0]
    ends = [y[-1, :, :8]] + [y[0, :, 8:]] * both
    assert same(ends, list(h)) and all(same([end], [round_to(np, end, 15)]) for end in ends)


@needs_compiled
def test_rounding_is_small():
    x = normal(np.random.default_rng(0), 2000, 1, 5)
    for dtype, most in (("float32", 3e-5), ("float64", 3e-13)):
        lstm = LSTM(5, 40, backend=NUMPY, dtype=dtype, forget_bias=1.0, parallel="rounded")
        rounded, _ = run(lstm, x.astype(dtype))
        lstm.parallel = False
        plain, _ = run(lstm, x.astype(dtype))
        assert 0 < np.abs(rounded[0] - plain[0]).max() < most


@needs_compiled
def test_training_is_not_touched():
    one, other = LSTM(5, 8, backend=NUMPY, parallel="rounded"), LSTM(5, 8, backend=NUMPY)
    x = normal(np.random.default_rng(0), 500, 1, 5)
    found, expected = (lstm.forward(x)[0] for lstm in (one, other))
    assert same([found], [expected]) and one.plan.over_time == ()


@needs_compiled
@pytest.mark.parametrize("mode", overtime.MODES)
@pytest.mark.parametrize(
    ("steps", "batch", "why"),
    [(500, 1, "fewer than 4,096 steps"), (5000, 9, "more than 8 seq"), (5000, 1, "fewer than 4e+09 multiply-adds")],
)
def test_what_is_not_tried_is_said_and_runs_as_without(monkeypatch, mode, steps, batch, why):
    monkeypatch.setattr(overtime, "_choose", None)
    lstm = LSTM(3, 4, 2, backend=NUMPY, parallel=mode)
    x = normal(np.random.default_rng(0), steps, batch, 3)
    found, reports = run(lstm, x)
    assert [report.segments for report in reports] == [1, 1] and lstm.plan.why().count(why) == 2
    if mode == "exact":
        lstm.parallel = False
        assert same(found, run(lstm, x)[0])


@needs_compiled
@pytest.mark.parametrize(
    ("each", "segments"),
    [(0.0, 32), (0.1, 16), (0.3, 8), (0.5, 4), (1.0, 1)],
    ids=["free", "cheap", "as here", "dear", "no gain"],
)
def test_as_many_segments_as_the_clock_says(monkeypatch, each, segments):
    """A segment more takes so much of the time of one, a call nothing; of 130 chunks, one is enough to forget."""
    asked = []

    def clocked(course, count, steps):
        asked.append(count)
        return course.chunk * (1 + (count - 1) * each) * steps / 128

    monkeypatch.setattr(overtime, "LEAST_WORK", 0)
    monkeypatch.setattr(overtime, "_clocked", clocked)
    lstm = LSTM(5, 8, backend=NUMPY, forget_bias=-3.0, parallel="rounded")
    _, (report,) = run(lstm, normal(np.random.default_rng(0), 128 * 130, 1, 5))
    assert (report.segments, report.forgets) == (segments, 128)
    assert max(asked) <= 2 * segments or segments == 1  # what can't gain by a line through those before isn't clocked


def test_a_ratio_by_pairs():
    theirs = [2.0, 2.2, 1.8, 2.0, 9.0] * 8
    found = over_time.ratio_of_pairs([1.0, 1.0, 1.0, 1.0, 1.0] * 8, theirs)
    assert found == {"ratio": 2.0, "low": 2.0, "high": 2.2}
    assert over_time.ratio_of_pairs([1.0, 2.0], [3.0, 2.0]) == {"ratio": 2.0, "low": 1.0, "high": 3.0}


@needs_compiled
def test_a_case_near_the_bound_has_more_rounds(monkeypatch):
    """One side's first round is a slow one, the second like the plain LSTM, all others twice as fast."""
    seconds = {"in sequence": repeat(1.0), "exact": chain([1.1, 1.0], repeat(0.5)), "rounded": repeat(0.5)}

    def turn(sides, *_):
        for step in sides.values():
            step()
        return {side: [next(seconds[side])] for side in sides}

    monkeypatch.setattr(over_time, "interleave", turn)
    lstm, x = LSTM(3, 4, backend=NUMPY), normal(np.random.default_rng(0), 20, 1, 3)
    found = over_time.measure(lstm, x, 2, 60.0)
    assert len(found["all"]["exact"]) == 8 and found["ratio"]["exact"] == {"ratio": 2.0, "low": 1.0, "high": 2.0}
    assert found["rounding differs by"] == found["exact differs by"] == 0


def test_a_tier_whose_bits_depend_on_the_batch(short):
    lstm = LSTM(5, 8, backend=NUMPY, tier="reference", parallel="rounded")
    x = normal(np.random.default_rng(0), 300, 1, 5)
    expected = in_sequence(lstm, x)
    found, (report,) = run(lstm, x)
    assert report.segments == 5
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other).max() < 2e-4
    assert same(found, run(lstm, x)[0])  # nothing depends on a clock
    with pytest.raises(InputError, match="parallel is 'exact'; expected 'rounded' or False"):
        LSTM(5, 8, backend=NUMPY, tier="reference", parallel="exact")


@pytest.mark.parametrize("mode", ["fast", True, 1, None])
def test_other_modes_are_refused(mode):
    with pytest.raises(InputError, match="parallel is .*; expected False, 'exact' or 'rounded'"):
        LSTM(3, 4, backend=NUMPY, parallel=mode)
    lstm = LSTM(3, 4, backend=NUMPY)
    lstm.parallel = mode
    with pytest.raises(InputError, match="parallel is .*; expected False, 'exact' or 'rounded'"):
        lstm.forward(np.zeros((3, 1, 3), "float32"), keep=False)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounding_by_value(dtype):
    given = [0, 0.3, -0.3, 1, 1.1, 2.6, 100.3, -1000, 2.0**-5, 3e38, np.inf, -np.inf]
    told = [0, 0.25, -0.25, 1, 1.125, 2.5, 104, -1024, 0, 3e38, np.inf, -np.inf]
    x = np.array(given, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = round_to(np, x, 3)
    assert found.dtype == x.dtype and np.allclose(found, told, rtol=0.07) and found[:9].tolist() == told[:9]
    assert np.isnan(round_to(np, np.array([np.nan], dtype), 3))
    assert np.array_equal(round_to(np, found, 3), found)

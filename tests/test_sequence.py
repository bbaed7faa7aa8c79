"""The compiled CPU tier: every shape, dtype and option against the float64 reference tier; its error; its threads."""

import math
import multiprocessing
import os
import threading
from dataclasses import replace

import numpy as np
import pytest

from gpu_lstm import LSTM, InputError, ops
from gpu_lstm.native import compiled
from gpu_lstm.recurrence import Arriving, Problem, reference
from gpu_lstm.recurrence import cpu as sequence
from gpu_lstm.recurrence.problem import Mask
from gpu_lstm.recurrence.variant import Variant
from tests.support import NUMPY, loss_and_gradients, one_backward, one_forward, problem, relative_error

pytestmark = pytest.mark.skipif(compiled.library() is None, reason=f"no compiled library: {compiled.missing()}")

LIMIT = {"float32": 2e-6, "float64": 1e-13}
SETS = compiled.SETS[: compiled.instruction_set() + 1]


@pytest.fixture(params=SETS)
def instruction_set(request, monkeypatch):
    monkeypatch.setattr(compiled, "instruction_set", lambda: compiled.SETS.index(request.param))
    return request.param


def run(tier, dtype, steps, batch, hidden, lengths=None, reverse=False, send=("dh", "dh_last", "dc_last")):
    """All results of forward and backward of a tier on a problem that depends on the sizes only."""
    rng = np.random.default_rng(steps * 1000 + batch * 10 + hidden)
    z = rng.standard_normal((steps, batch, 4 * hidden)).astype(dtype)
    weight = (rng.standard_normal((4 * hidden, hidden)) / math.sqrt(hidden)).astype(dtype)
    h0, c0, dh_last, dc_last = rng.standard_normal((4, batch, hidden)).astype(dtype)
    both = rng.standard_normal((steps, batch, 2 * hidden)).astype(dtype)
    dh = both[:, :, hidden:]  # rows that are not contiguous, as of one direction of two
    mask = None
    if lengths is not None:
        mask = Mask(np.asarray(lengths), np.arange(steps)[:, None, None] < np.asarray(lengths)[None, :, None])
    saved = one_forward(tier, NUMPY, z, weight, h0, c0, mask, reverse)
    results = {"h": saved.h.copy(), "c": saved.c.copy()}
    sent = {"dh": dh, "dh_last": dh_last, "dc_last": dc_last}
    arguments = [sent[name] if name in send else None for name in sent]
    results["dz"], results["dh0"], results["dc0"] = one_backward(tier, NUMPY, saved, *arguments)
    return results


def check(dtype, *sizes, tier=sequence, **options):
    # The float64 oracle starts from the very numbers that the tier got.
    actual, expected = run(tier, dtype, *sizes, **options), oracle(dtype, *sizes, **options)
    for name in expected:
        assert relative_error(actual[name], expected[name]) < LIMIT[dtype], name


def oracle(dtype, *sizes, **options):
    """The reference tier in float64 on inputs rounded to `dtype`."""
    return run(Rounded(dtype), "float64", *sizes, **options)


class Rounded:
    def __init__(self, dtype):
        self.dtype = dtype

    def forward(self, backend, problems):
        return [reference.forward(backend, self.rounded(one)) for one in problems]

    def backward(self, backend, arriving):
        return [reference.backward(backend, self.rounded(one)) for one in arriving]

    def rounded(self, one):
        arrays = {name: value for name, value in vars(one).items() if isinstance(value, np.ndarray)}
        return replace(one, **{n: value.astype(self.dtype).astype("float64") for n, value in arrays.items()})


@pytest.mark.parametrize("hidden", [1, 3, 8, 17, 32, 50, 128])
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("dtype", LIMIT)
def test_every_small_batch(dtype, steps, hidden, instruction_set):
    for batch in range(1, 18):
        check(dtype, steps, batch, hidden)


@pytest.mark.parametrize("batch", [1, 2, 7, 17])
@pytest.mark.parametrize("dtype", LIMIT)
def test_a_hidden_size_beyond_the_caches(dtype, batch, instruction_set):
    check(dtype, 2, batch, 530)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("batch, hidden", [(3, 5), (9, 17), (17, 33)])
@pytest.mark.parametrize("dtype", LIMIT)
def test_unequal_lengths(dtype, batch, hidden, reverse, instruction_set):
    lengths = np.random.default_rng(batch).integers(1, 8, batch)
    check(dtype, 7, batch, hidden, lengths=lengths, reverse=reverse)


@pytest.mark.parametrize("send", [(), ("dh",), ("dh_last",), ("dc_last",), ("dh", "dc_last")], ids="+".join)
def test_any_subset_of_gradients(send):
    actual, expected = (run(tier, "float64", 5, 6, 17, send=send) for tier in (sequence, reference))
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", LIMIT)
def test_the_whole_layer(dtype):
    results = {}
    for tier, kind in (("reference", "float64"), ("sequence", dtype)):
        lstm = LSTM(5, 19, 2, bidirectional=True, dtype=kind, tier=tier, backend=NUMPY)
        for param in lstm.params.values():
            param[...] = param.astype("float32")
        data = {name: array.astype("float32").astype(kind) for name, array in problem(lstm, 9, 6).items()}
        data["dy"] = np.round(data["dy"], 2).astype(kind)
        results[tier] = loss_and_gradients(lstm, data, [9, 1, 4, 9, 6, 2])[1]
    for name, expected in results["reference"].items():
        assert relative_error(results["sequence"][name], expected) < (2e-6 if dtype == "float32" else 1e-7), name


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_the_bytes_do_not_depend_on_the_threads(threads, monkeypatch):
    """Whether threads split the batch or the hidden units, each sum is made by one thread in the same order."""
    for sizes in ((5, 40, 40), (5, 3, 70)):
        monkeypatch.setattr(compiled, "SERIAL_WORK", 0)
        monkeypatch.setenv("GPU_LSTM_NUM_THREADS", "1")
        one = run(sequence, "float32", *sizes)
        monkeypatch.setenv("GPU_LSTM_NUM_THREADS", str(threads))
        for name, array in run(sequence, "float32", *sizes).items():
            assert array.tobytes() == one[name].tobytes(), name


def run_both(dtype, steps, batch, hidden, lengths=False, given=True, keep=True):
    """All results of two recurrences in opposite directions, asked for at once and one after the other."""
    rng = np.random.default_rng(steps + batch + hidden)
    weights = (rng.standard_normal((2, 4 * hidden, hidden)) / math.sqrt(hidden)).astype(dtype)
    z = rng.standard_normal((2, steps, batch, 4 * hidden)).astype(dtype)
    states = rng.standard_normal((8, batch, hidden)).astype(dtype) if given else [None] * 8
    dy = rng.standard_normal((steps, batch, 2 * hidden)).astype(dtype)
    ends = rng.integers(1, steps + 1, batch)
    mask = Mask(ends, np.arange(steps)[:, None, None] < ends[None, :, None]) if lengths else None
    results = []
    for at_once in (True, False):
        # The kernels write into z.
        problems = [(z[n].copy(), weights[n], states[n], states[2 + n], mask, n == 1, keep) for n in range(2)]
        if at_once:
            saved = sequence.forward(NUMPY, [Problem(*problem) for problem in problems])
        else:
            saved = [one_forward(sequence, NUMPY, *problem) for problem in problems]
        found = [array.copy() for one in saved for array in (one.h, one.c)]
        if keep:
            arriving = [
                (saved[n], dy[:, :, n * hidden : (n + 1) * hidden] if given else None, states[4 + n], states[6 + n])
                for n in range(2)
            ]
            if at_once:
                gradients = sequence.backward(NUMPY, [Arriving(*each) for each in arriving])
            else:
                gradients = [one_backward(sequence, NUMPY, *each) for each in arriving]
            found += [array for each in gradients for array in each]
        results.append([array.tobytes() for array in found])
    return results


@pytest.fixture
def called(monkeypatch):
    """Names of the library's entries, as they are called: "_both" where they take two recurrences."""
    names = []
    call = compiled.call

    def recorded(name, dtype, *arguments):
        names.append(f"{name}_both" if name in ("forward", "backward") and arguments[3] == 2 else name)
        return call(name, dtype, *arguments)

    monkeypatch.setattr(compiled, "call", recorded)
    return names


@pytest.mark.parametrize("batch, hidden", [(1, 1), (1, 17), (3, 33), (5, 70)])
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", LIMIT)
def test_two_at_once_give_the_bytes_of_one_after_the_other(
    dtype, threads, batch, hidden, monkeypatch, called, instruction_set
):
    monkeypatch.setattr(compiled, "SERIAL_WORK", 0)
    monkeypatch.setenv("GPU_LSTM_NUM_THREADS", str(threads))
    for options in ({}, {"lengths": True}, {"given": False}, {"keep": False}, {"lengths": True, "keep": False}):
        called.clear()
        at_once, in_turn = run_both(dtype, 6, batch, hidden, **options)
        assert at_once == in_turn
        assert ("forward_both" in called) == (threads % 2 == 0)
        assert ("backward_both" in called) == (threads % 2 == 0 and options.get("keep", True))


def test_two_run_at_once_only_where_that_is_faster(monkeypatch, called):
    def at_once(*sizes):
        called.clear()
        first, second = run_both("float32", *sizes)
        assert first == second
        return {"forward_both", "backward_both"} <= set(called)

    monkeypatch.setenv("GPU_LSTM_NUM_THREADS", "2")
    assert at_once(40, 1, 64)
    assert at_once(4, 5, 96)
    assert not at_once(4, 1, 8)  # too little work for a second thread
    assert not at_once(20, 6, 64)  # a batch that the threads split
    assert not at_once(4, 1, 256)  # all of W_hh fits in no second cache
    monkeypatch.setenv("GPU_LSTM_NUM_THREADS", "4")
    assert at_once(4, 1, 256)  # half of it does


def test_two_that_differ_run_one_after_the_other(monkeypatch, called):
    monkeypatch.setattr(compiled, "SERIAL_WORK", 0)
    monkeypatch.setenv("GPU_LSTM_NUM_THREADS", "2")

    def inputs(steps=4, batch=2, hidden=5, dtype="float32", keep=True, variant=None):
        z, weight_hh = np.ones((steps, batch, 4 * hidden), dtype), np.ones((4 * hidden, hidden), dtype)
        return Problem(z, weight_hh, keep=keep, variant=variant)

    sizes = ({"steps": 3}, {"batch": 1}, {"hidden": 4})
    for other in (*sizes, {"dtype": "float64"}, {"keep": False}, {"variant": Variant()}):
        saved = sequence.forward(NUMPY, [inputs(), inputs(**other)])
        for one, options in zip(saved, ({}, other), strict=True):
            np.testing.assert_array_equal(one.h, sequence.forward(NUMPY, [inputs(**options)])[0].h)
    assert "forward_both" not in called
    called.clear()
    saved = sequence.forward(NUMPY, [inputs(), inputs(), inputs()])
    sequence.backward(NUMPY, [Arriving(one) for one in saved])
    assert called == ["forward"] * 3 + ["backward"] * 3
    called.clear()
    saved = sequence.forward(NUMPY, [inputs(), inputs()])
    dc = np.ones((4, 2, 5), "float32")
    for _, dh0, _ in sequence.backward(NUMPY, [Arriving(one, dc=dc) for one in saved]):
        assert np.any(dh0 != 0)
    assert called == ["forward_both", "family_backward", "family_backward"]


@pytest.mark.parametrize("lengths", [None, [9, 4, 1]], ids=["full", "lengths"])
@pytest.mark.parametrize("dtype", LIMIT)
def test_a_bidirectional_layer_runs_its_directions_at_once(dtype, lengths, monkeypatch, called):
    monkeypatch.setattr(compiled, "SERIAL_WORK", 1)
    lstm = LSTM(5, 19, 2, bidirectional=True, dtype=dtype, tier="sequence", backend=NUMPY)
    results = {}
    for threads in (2, 1, 3, 4):
        monkeypatch.setenv("GPU_LSTM_NUM_THREADS", str(threads))
        called.clear()
        data = problem(lstm, 9, 3)
        loss, found = loss_and_gradients(lstm, data, lengths)
        results[threads] = {"loss": np.asarray(loss)} | found
        expected = 2 if threads % 2 == 0 else 0
        assert (called.count("forward_both"), called.count("backward_both")) == (expected, expected)
    for name, array in results[1].items():
        for threads in (2, 3, 4):
            assert results[threads][name].tobytes() == array.tobytes(), name


def activation(name, x):
    y = np.empty_like(x)
    compiled.call("activate", x.dtype, int(name == "tanh"), x.size, x, y)
    return y


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
@pytest.mark.parametrize("dtype, ulp", [("float32", 4), ("float64", 4)])
def test_activations_are_within_4_ulp_over_their_range(name, dtype, ulp, instruction_set):
    limit = 86 if dtype == "float32" else 700
    grid = np.concatenate([np.linspace(-limit, limit, 200_001), np.linspace(-1, 1, 100_001), np.logspace(-30, 0, 5001)])
    x = grid.astype(dtype)
    wide = x.astype(np.longdouble)
    exact = np.tanh(wide) if name == "tanh" else 1 / (1 + np.exp(-wide))
    spacing = np.spacing(np.abs(exact.astype(dtype))).astype(np.longdouble)
    assert float(np.max(np.abs(activation(name, x).astype(np.longdouble) - exact) / spacing)) < ulp


@pytest.mark.parametrize("dtype", LIMIT)
def test_activations_of_extremes(dtype, instruction_set):
    huge = np.finfo(dtype).max
    x = np.array([0.0, -0.0, 1e4, -1e4, huge, -huge, np.inf, -np.inf, np.nan, np.finfo(dtype).tiny], dtype=dtype)
    tanh, sigmoid = activation("tanh", x), activation("sigmoid", x)
    np.testing.assert_array_equal(tanh[:8], [0, 0, 1, -1, 1, -1, 1, -1])
    np.testing.assert_allclose(sigmoid[:8], [0.5, 0.5, 1, 0, 1, 0, 1, 0], atol=1e-37)
    assert np.isnan(tanh[8])
    assert np.isnan(sigmoid[8])
    assert tanh[9] == x[9]


@pytest.mark.parametrize("dtype, limit", [("float32", 1e-6), ("float64", 1e-14)])
@pytest.mark.parametrize("rows, depth, columns", [(1, 1, 1), (7, 3, 5), (50, 400, 130), (33, 800, 64), (97, 257, 65)])
def test_products_with_any_strides(dtype, limit, rows, depth, columns, instruction_set):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((rows, depth)).astype(dtype), rng.standard_normal((depth, columns)).astype(dtype)
    bias = rng.standard_normal(columns).astype(dtype)
    expected = a.astype("float64") @ b.astype("float64")
    for left in (a, np.asfortranarray(a), np.repeat(a, 2, axis=1)[:, ::2]):
        for right in (b, np.asfortranarray(b)):
            assert relative_error(ops.of(NUMPY).product(left, right), expected) < limit
            assert relative_error(ops.of(NUMPY).product(left, right, bias), expected + bias) < limit


def test_two_python_threads_get_what_each_gets_alone():
    alone = [run(sequence, "float32", 20, 12, 48 + n) for n in range(2)]
    together: list = [None, None]

    def work(n):
        for _ in range(10):
            together[n] = run(sequence, "float32", 20, 12, 48 + n)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for n in range(2):
        for name in alone[n]:
            np.testing.assert_array_equal(together[n][name], alone[n][name])


def child(queue):
    queue.put(run(sequence, "float32", 10, 16, 64)["dz"].sum())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_it_works_after_a_fork():
    expected = run(sequence, "float32", 10, 16, 64)["dz"].sum()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    assert queue.get(timeout=30) == expected
    process.join(30)


def test_the_thread_count_comes_from_the_usual_variables(monkeypatch):
    monkeypatch.delenv("GPU_LSTM_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert compiled.threads() == 3
    monkeypatch.setenv("GPU_LSTM_NUM_THREADS", "2")
    assert compiled.threads() == 2
    monkeypatch.setenv("GPU_LSTM_NUM_THREADS", "many")
    with pytest.raises(InputError, match="GPU_LSTM_NUM_THREADS is 'many'; expected a whole number"):
        compiled.threads()

"""What holds for every public function whatever arrays it is given; `tests/README.md` lists these properties."""

import os
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpu_lstm import GpuLstmError
from gpu_lstm.layers import LSTM, Dropout, Embedding, Linear
from gpu_lstm.losses import huber, mean_absolute, mean_squared, softmax_cross_entropy
from gpu_lstm.models import Classifier, Forecaster, LanguageModel, Regressor
from gpu_lstm.optimizers import OPTIMIZERS, clip_by_global_norm, make_optimizer
from gpu_lstm.recurrence import runnable_tiers
from tests.support import NUMPY
from tests.test_training import TASKS, train, weights

# -- the functions: arrays by argument, and a call that gives all results -----------------------------------


def rng():
    return np.random.default_rng(3)


def normal(*shape):
    return rng().standard_normal(shape).astype(np.float32)


def lstm_case(tier="auto", **options):
    def call(x, h0, c0, dy, dh, dc, lengths):
        layer = LSTM(3, 5, backend=NUMPY, tier=tier, **options)
        y, (h, c), tape = layer.forward(x, (h0, c0), lengths, seed=(1,))
        dx, (dh0, dc0), gradients = layer.backward(tape, dy, (dh, dc))
        return [y, h, c, dx, dh0, dc0, *gradients.values()]

    places = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    state = (places, 4, 5)
    width = 10 if options.get("bidirectional") else 5
    return call, {
        "x": normal(6, 4, 3), "h0": normal(*state), "c0": normal(*state) * 2, "dy": normal(6, 4, width),
        "dh": normal(*state), "dc": normal(*state), "lengths": np.array([6, 1, 3, 5]),
    }  # fmt: skip


def linear_case():
    def call(x, dy):
        layer = Linear(3, 5, backend=NUMPY)
        y, tape = layer.forward(x)
        dx, gradients = layer.backward(tape, dy)
        return [y, dx, *gradients.values()]

    return call, {"x": normal(6, 4, 3), "dy": normal(6, 4, 5)}


def embedding_case():
    def call(ids, dy):
        layer = Embedding(7, 3, backend=NUMPY)
        y, tape = layer.forward(ids)
        return [y, layer.backward(tape, dy)[1]["weight"]]

    return call, {"ids": rng().integers(0, 7, (6, 4)), "dy": normal(6, 4, 3)}


def dropout_case():
    def call(x, dy):
        layer = Dropout(0.5, backend=NUMPY)
        y, tape = layer.forward(x, (1, 2))
        return [y, layer.backward(tape, dy)[0]]

    return call, {"x": normal(6, 4, 3), "dy": normal(6, 4, 3)}


def loss_case(loss):
    def call(prediction, target):
        return list(loss(NUMPY, prediction, target))

    return call, {"prediction": normal(6, 4, 3), "target": normal(6, 4, 3)[::-1].copy()}


def cross_entropy_case(overwrite):
    def call(logits, targets):
        return list(softmax_cross_entropy(NUMPY, logits, targets, ignore_index=-1, overwrite=overwrite))

    return call, {"logits": normal(6, 4, 7), "targets": rng().integers(-1, 7, (6, 4))}


def optimizer_case(name):
    def call(gradient):
        params = {"p": normal(4, 6)}
        optimizer = make_optimizer(name, NUMPY, params, 0.1)
        for _ in range(2):
            optimizer.update({"p": gradient})
        return [params["p"], *optimizer.state.values()]

    return call, {"gradient": normal(6, 4).T.copy()}


def language_case():
    def call(tokens):
        model = LanguageModel(7, 3, 5, dropout=0.2, backend=NUMPY)
        loss, state, gradients = model.loss(tokens, seed=(1,))
        return [loss, *state, *gradients.values(), *model.logits(tokens)[:1]]

    return call, {"tokens": rng().integers(0, 7, (6, 4))}


def forecaster_case():
    def call(values):
        model = Forecaster([0, 0], [1, 2], [1, 1], 2, 3, 5, backend=NUMPY)
        loss, gradients = model.loss(values, 1)
        return [loss, *gradients.values(), model.forecast(values)]

    return call, {"values": rng().normal(size=(7, 4, 2))}


def classifier_case():
    def call(x, lengths, labels):
        model = Classifier([0] * 3, [1] * 3, 4, 5, backend=NUMPY)
        loss, gradients = model.loss(x, lengths, labels)
        return [loss, *gradients.values(), model.logits(x, lengths)]

    return call, {
        "x": rng().normal(size=(6, 4, 3)),
        "lengths": np.array([6, 1, 3, 5]),
        "labels": np.array([0, 3, 1, 1]),
    }


def regressor_case():
    def call(x, lengths, targets):
        model = Regressor([0] * 3, [1] * 3, [0] * 2, [1] * 2, 5, backend=NUMPY)
        loss, gradients = model.loss(x, lengths, targets)
        return [loss, *gradients.values(), model.predict(x, lengths)]

    return call, {
        "x": rng().normal(size=(6, 4, 3)),
        "lengths": np.array([6, 1, 3, 5]),
        "targets": normal(4, 2),
    }


def of_tier(tier):
    return lambda: lstm_case(tier)


def of_optimizer(name):
    return lambda: optimizer_case(name)


CASES = {
    **{f"LSTM {tier}": of_tier(tier) for tier in runnable_tiers(NUMPY)},
    "LSTM two layers": lambda: lstm_case(num_layers=2, dropout=0.3),
    "LSTM both directions": lambda: lstm_case(bidirectional=True, num_layers=2),
    "LSTM recompute": lambda: lstm_case(recompute=True),
    "LSTM cells": lambda: lstm_case(peepholes=True, clip=0.8, cell_clip=0.9, zoneout_h=0.1, recurrent_dropout=0.2),
    "LSTM layer norm": lambda: lstm_case(layer_norm=True, coupled=True, hard_sigmoid=True, weight_dropout=0.2, heads=5),
    "Linear": linear_case,
    "Embedding": embedding_case,
    "Dropout": dropout_case,
    "mean_squared": lambda: loss_case(mean_squared),
    "mean_absolute": lambda: loss_case(mean_absolute),
    "huber": lambda: loss_case(huber),
    "softmax_cross_entropy": lambda: cross_entropy_case(overwrite=False),
    "overwriting softmax_cross_entropy": lambda: cross_entropy_case(overwrite=True),
    **{name: of_optimizer(name) for name in OPTIMIZERS},
    "LanguageModel": language_case,
    "Forecaster": forecaster_case,
    "Classifier": classifier_case,
    "Regressor": regressor_case,
}
ARGUMENTS = [(name, argument) for name, make in CASES.items() for argument in make()[1]]
OVERWRITTEN = {("overwriting softmax_cross_entropy", "logits")}
"""What a function's own description says it overwrites."""


def copies(arrays):
    return {name: array.copy() for name, array in arrays.items()}


def as_bytes(results):
    return [np.asarray(result).tobytes() for result in results]


# -- layouts ----------------------------------------------------------------------------------------------


def strided(array):
    room = np.full(tuple(3 * n for n in array.shape), 99, array.dtype)
    view = room[tuple(slice(1, None, 3) for _ in array.shape)]
    view[...] = array
    return view


def reversed_(array):
    return array[tuple(slice(None, None, -1) for _ in array.shape)].copy()[
        tuple(slice(None, None, -1) for _ in array.shape)
    ]


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def unaligned(array):
    room = bytearray(array.nbytes + 1)
    view = np.frombuffer(room, array.dtype, array.size, 1).reshape(array.shape)
    view[...] = array
    return view


def huge_stride(array):
    last = array.shape[-1]
    room = np.zeros((array.size // last, 1 << 16), array.dtype)
    room[:, :last] = array.reshape(-1, last)
    return np.lib.stride_tricks.as_strided(
        room, array.shape, [*(s // array.strides[-2] * room.strides[0] for s in array.strides[:-1]), array.itemsize]
    ) if array.ndim > 1 else strided(array)  # fmt: skip


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "strided": strided,
    "reversed": reversed_,
    "read-only": read_only,
    "unaligned": unaligned,
    "huge strides": huge_stride,
    "memory map": lambda array: array.copy().view(np.memmap),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_any_layout_of_the_same_values_gives_the_same_bytes_or_is_refused(name, argument, layout):
    call, arrays = CASES[name]()
    expected = as_bytes(call(**copies(arrays)))
    changed = copies(arrays)
    changed[argument] = LAYOUTS[layout](arrays[argument])
    assert np.array_equal(changed[argument], arrays[argument])
    try:
        results = call(**changed)
    except GpuLstmError as error:
        assert argument in str(error)
        assert layout == "read-only" and (name, argument) in OVERWRITTEN
        return
    assert as_bytes(results) == expected


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_broadcast_and_overlapping_views_give_what_their_copy_gives(name, argument):
    call, arrays = CASES[name]()
    array = arrays[argument]
    constant = np.broadcast_to(array[:1], array.shape)
    windows = np.lib.stride_tricks.as_strided(array, array.shape, [array.strides[-1], *array.strides[1:]])
    for view in (constant, windows):
        if (name, argument) in OVERWRITTEN:
            continue  # to overwrite what overlaps means nothing
        expected = as_bytes(call(**(copies(arrays) | {argument: view.copy()})))
        assert as_bytes(call(**(copies(arrays) | {argument: view}))) == expected


@pytest.mark.parametrize("name", CASES)
def test_inputs_are_never_modified_and_results_never_share_their_memory(name):
    call, arrays = CASES[name]()
    given_arrays = copies(arrays)
    results = call(**given_arrays)
    for argument, array in given_arrays.items():
        if (name, argument) not in OVERWRITTEN:
            assert array.tobytes() == arrays[argument].tobytes(), argument
            for result in results:
                assert not np.may_share_memory(result, array) or not np.shares_memory(result, array), argument


@pytest.mark.parametrize("name", CASES)
def test_a_later_call_leaves_earlier_results_as_they_were(name):
    call, arrays = CASES[name]()
    first = call(**copies(arrays))
    before = as_bytes(first)
    second = call(**copies(arrays))
    assert as_bytes(second) == before
    for result in second:
        if isinstance(result, np.ndarray) and result.flags.writeable and result.shape:
            result[...] = 77
    assert as_bytes(first) == before


# -- wrong arguments --------------------------------------------------------------------------------------

WRONG = {
    "float16": lambda a: a.astype(np.float16),
    "int32 for float, float for integers": lambda a: a.astype(np.int32 if a.dtype.kind == "f" else np.float64),
    "complex": lambda a: a.astype(np.complex64),
    "other byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "objects": lambda a: a.astype(object),
    "text": lambda a: a.astype(str),
    "masked": lambda a: np.ma.masked_less(a, 0),
    "one axis more": lambda a: a[None],
    "one axis fewer": lambda a: a.reshape(-1) if a.ndim > 1 else a[0],
    "one step fewer": lambda a: a[..., :-1],
    "one wide": lambda a: a[..., :1],
    "nothing in it": lambda a: a[:0],
    "nothing in the last axis": lambda a: a[..., :0],
    "a list": lambda a: a.tolist(),
    "None in an object": lambda a: np.full(a.shape, None),
    "a module": lambda a: np,
}


def plain_result(name, call, arrays, argument, wrong):
    """What NumPy makes of the argument where it can be read as the right type; None where it can't."""
    try:
        read = np.asarray(wrong)
        expected = arrays[argument]
        if isinstance(wrong, np.ma.MaskedArray) or read.dtype.kind not in "iuf":
            return None
        if (
            (read.dtype.kind == "f") != (expected.dtype.kind == "f")
            and name not in ("Forecaster", "Regressor")
            and argument != "x"
        ):
            return None
        return call(**(copies(arrays) | {argument: read.astype(read.dtype.newbyteorder("="))}))
    except GpuLstmError:
        return None


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_a_wrong_argument_is_refused_by_our_own_error_or_read_rightly(name, argument, kind):
    call, arrays = CASES[name]()
    wrong = WRONG[kind](arrays[argument].copy())
    try:
        results = call(**(copies(arrays) | {argument: wrong.copy() if isinstance(wrong, np.ndarray) else wrong}))
    except GpuLstmError:
        return
    read = plain_result(name, call, arrays, argument, wrong)
    assert read is not None, f"{type(wrong)} was taken"
    for result, expected in zip(results, read, strict=True):
        np.testing.assert_array_equal(result, expected)


# -- NaN and infinity -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", runnable_tiers(NUMPY))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_reaches_what_depends_on_it_and_nothing_else(tier, value):
    layer = LSTM(3, 5, backend=NUMPY, tier=tier)
    x = normal(6, 4, 3)
    clean = layer.forward(x)[0]
    bad = x.copy()
    bad[2, 1, 0] = value
    with np.errstate(all="ignore"):
        y = layer.forward(bad)[0]
    others = np.ones(y.shape, bool)
    others[2:, 1] = False
    assert np.array_equal(y[others], clean[others])
    if np.isnan(value):
        assert np.isnan(y[2:, 1]).all()
    else:
        assert not np.array_equal(y[2, 1], clean[2, 1])


@pytest.mark.parametrize("name", ["mean_squared", "mean_absolute", "huber"])
def test_a_loss_of_what_is_no_number_is_none(name):
    call, arrays = CASES[name]()
    arrays["prediction"][1, 2, 0] = np.nan
    loss, gradient = call(**arrays)
    assert np.isnan(loss)
    assert np.isnan(gradient).sum() == 1


def test_cross_entropy_of_what_is_no_number_is_none():
    call, arrays = cross_entropy_case(overwrite=True)
    arrays["targets"][1, 2] = 3
    arrays["logits"][1, 2, 0] = np.nan
    with np.errstate(all="ignore"):
        loss, gradient = call(**arrays)
    assert np.isnan(loss)
    assert np.isnan(gradient[1, 2]).all()
    assert np.isfinite(np.delete(gradient.reshape(24, 7), 6, axis=0)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_norm_of_what_is_no_number_is_none(bad):
    gradients = {"a": normal(3, 4), "b": np.array([1, bad], np.float32)}
    with np.errstate(all="ignore"):
        assert not np.isfinite(clip_by_global_norm(NUMPY, gradients, 1.0))


# -- any size ---------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    sizes=st.tuples(*[st.integers(1, 9)] * 4),
    layers=st.integers(1, 2),
    both=st.booleans(),
    tier=st.sampled_from(runnable_tiers(NUMPY)),
    data=st.data(),
)
def test_every_size_gives_what_the_oracle_gives(sizes, layers, both, tier, data):
    steps, batch, inputs, hidden = sizes
    lengths = data.draw(st.lists(st.integers(1, steps), min_size=batch, max_size=batch))
    x = np.random.default_rng(0).standard_normal((steps, batch, inputs))
    results = []
    for which in ("reference", tier):
        layer = LSTM(
            inputs, hidden, layers, bidirectional=both, backend=NUMPY, dtype="float64", tier=which, recompute=both
        )
        y, (h, c), tape = layer.forward(x, None, lengths)
        dx, _, gradients = layer.backward(tape, np.ones_like(y), (h, c))
        results.append([y, h, c, dx, *gradients.values()])
    for expected, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


# -- threads and forks ------------------------------------------------------------------------------------


def test_two_models_train_in_two_threads_with_the_results_that_each_gives_alone(tmp_path):
    alone = {}
    for kind, make in TASKS.items():
        task = make()
        train(task, tmp_path / f"alone-{kind}")
        alone[kind] = weights(task)
    tasks = {kind: make() for kind, make in TASKS.items()}
    failures = []

    def work(kind):
        try:
            train(tasks[kind], tmp_path / kind)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(kind,)) for kind in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert {kind: weights(task) for kind, task in tasks.items()} == alone


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("kind", TASKS)
def test_training_goes_on_in_a_child_after_a_fork(tmp_path, kind):
    whole = TASKS[kind]()
    train(whole, tmp_path / "whole")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            task = TASKS[kind]()
            train(task, tmp_path / "child")
            status = 0 if weights(task) == weights(whole) else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("kind", TASKS)
def test_one_and_two_threads_give_the_same_bytes(tmp_path, kind, monkeypatch):
    results = []
    for threads in ("1", "2", "2"):
        monkeypatch.setenv("GPU_LSTM_NUM_THREADS", threads)
        task = TASKS[kind]()
        train(task, tmp_path / f"{threads}-{len(results)}")
        results.append(weights(task))
    assert results[0] == results[1] == results[2]


@pytest.mark.skipif(len(runnable_tiers(NUMPY)) < 3, reason="needs the compiled tier")
def test_one_and_two_threads_give_the_same_bytes_where_the_work_is_split(monkeypatch):
    results = []
    for threads in ("1", "2"):
        monkeypatch.setenv("GPU_LSTM_NUM_THREADS", threads)
        for batch in (3, 24):  # hidden units are split, then sequences
            layer = LSTM(40, 96, 2, backend=NUMPY, tier="sequence")
            x = rng().standard_normal((20, batch, 40), dtype=np.float32)
            y, (h, c), tape = layer.forward(x)
            dx, _, gradients = layer.backward(tape, np.ones_like(y), (h, c))
            results.append(as_bytes([y, h, c, dx, *gradients.values()]))
    assert results[:2] == results[2:]

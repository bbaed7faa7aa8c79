"""Packed weights that inference keeps from call to call: the same bits, and never those of a changed weight."""

import copy
import gc
import pickle
import sys
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

from gpu_lstm import LSTM, InputError, LSTMCell
from gpu_lstm.layers import Linear
from gpu_lstm.native import compiled, kept
from gpu_lstm.native import library as native
from gpu_lstm.native.prepared import prepare
from gpu_lstm.optimizers import Adam
from gpu_lstm.recurrence import inference
from tests.support import STRICT

pytestmark = pytest.mark.skipif(compiled.library() is None, reason=f"no compiled library: {compiled.missing()}")
SETS = compiled.SETS[: compiled.instruction_set() + 1]


@pytest.fixture(params=SETS)
def instruction_set(request, monkeypatch):
    monkeypatch.setattr(compiled, "instruction_set", lambda: native.SETS.index(request.param))
    return request.param


@pytest.fixture
def packings(monkeypatch):
    """How often a weight was packed: a list that grows."""
    made, pack = [], kept._packed
    monkeypatch.setattr(kept, "_packed", lambda weight, gates: made.append(gates) or pack(weight, gates))
    return made


def data(steps, batch, size, dtype="float32"):
    return np.random.default_rng(steps * batch).standard_normal((steps, batch, size)).astype(dtype)


def same(lstm, x):
    """Whether inference gives the bits of a forward that keeps nothing of the weights."""
    y, (h, c), _ = lstm.forward(x, keep=False)
    other = LSTM(lstm.input_size, lstm.hidden_size, lstm.num_layers, dtype=lstm.dtype)
    other.params = lstm.params
    expected, state, _ = other.forward(x)
    return all(np.array_equal(a, b) for a, b in zip((y, h, c), (expected, *state), strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("steps", "batch", "inputs", "hidden"),
    [(3, 1, 5, 7), (2, 4, 300, 33), (1, 2, 64, 48), (9, 33, 1, 16), (67, 300, 5, 24)],
)
def test_kept_panels_give_the_same_bits(instruction_set, dtype, steps, batch, inputs, hidden):
    lstm, x = LSTM(inputs, hidden, 2, dtype=dtype), data(steps, batch, inputs, dtype)
    assert all(same(lstm, x) for _ in range(3))


def test_weights_are_packed_once(packings):
    lstm, x = LSTM(6, 5, 2), data(3, 2, 6)
    for _ in range(4):
        lstm.forward(x, keep=False)
    assert sorted(packings) == [False, False, True, True]


def test_forward_for_backward_leaves_nothing_packed(packings):
    lstm, x = LSTM(6, 5), data(3, 2, 6)
    lstm.forward(x, keep=False)
    lstm.forward(x)
    assert len(packings) == 2 and not lstm._kept
    lstm.forward(x, keep=False)
    assert len(packings) == 4


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0"])
@pytest.mark.parametrize("change", ["place", "view", "array", "other"])
def test_a_changed_weight_is_noticed(name, change):
    lstm, x = LSTM(6, 5), data(3, 2, 6)
    lstm.forward(x, keep=False)
    if change == "place":
        lstm.params[name][-1, -1] = np.nextafter(lstm.params[name][-1, -1], np.float32(9))
    elif change == "view":
        lstm.params[name].reshape(-1)[3:4] += 1
    elif change == "array":
        lstm.params[name] = lstm.params[name] * 2
    else:
        lstm.params = LSTM(6, 5, seed=7).params
    assert same(lstm, x)


def test_a_changed_bias_is_noticed():
    lstm, x = LSTM(6, 5), data(3, 2, 6)
    lstm.forward(x, keep=False)
    lstm.params["bias_l0"][3] += 1
    assert same(lstm, x)
    lstm.params["bias_l0"] = lstm.params["bias_l0"] * 2
    assert same(lstm, x)


def test_a_twin_with_other_parameters_is_not_what_is_ready():
    lstm, x = LSTM(6, 5).freeze(), data(3, 2, 6)
    y = lstm.forward(x, keep=False)[0]
    twin = lstm.over({name: array * 2 for name, array in lstm.params.items()})
    assert not np.array_equal(twin.forward(x, keep=False)[0], y)
    with pytest.raises(KeyError):
        lstm.over({}).forward(x, keep=False)
    np.testing.assert_array_equal(lstm.forward(x, keep=False)[0], y)


def test_an_optimizer_step_is_noticed():
    lstm, x = LSTM(6, 5), data(3, 2, 6)
    before = lstm.forward(x, keep=False)[0]
    y, _, tape = lstm.forward(x)
    lstm.forward(x, keep=False)
    gradients = lstm.backward(tape, np.ones_like(y))[2]
    Adam(lstm.backend, lstm.params, 0.1).update(gradients)
    assert same(lstm, x) and not np.array_equal(lstm.forward(x, keep=False)[0], before)


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("frozen", [False, True])
def test_copies_go_their_own_ways(twin, frozen):
    lstm, x = LSTM(6, 5), data(3, 2, 6)
    if frozen:
        lstm.freeze()
    lstm.forward(x, keep=False)
    other = twin(lstm)
    assert same(other, x)
    other.params = {name: array * 2 for name, array in other.params.items()}
    assert same(other, x) and same(lstm, x)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_ready_of_a_call_before_gives_the_same_for_another_x_and_state(layers, frozen, monkeypatch):
    lstm, calls = LSTM(6, 5, layers), []
    if frozen:
        lstm.freeze()
    monkeypatch.setattr(inference, "prepare", lambda *rest, old=prepare: (calls.append(rest[0]), old(*rest))[1])
    wide = np.random.default_rng(0).standard_normal((3, 2, 12)).astype("float32")
    fixed = wide[..., 6:].copy()
    fixed.flags.writeable = False
    state = tuple(data(layers, 2, 5) * n for n in (1, 2))
    other = LSTM(6, 5, layers)
    other.params = lstm.params
    for x in (wide[..., :6].copy(), wide[..., ::2], fixed):
        for given in (None, state, (None, state[1])):
            found, expected = lstm.forward(x, given, keep=False), other.forward(x, given)
            for a, b in zip((found[0], *found[1]), (expected[0], *expected[1]), strict=True):
                np.testing.assert_array_equal(a, b)
    assert calls == ["infer"] * layers


def test_what_is_ready_is_made_anew_for_another_shape_or_number_of_threads(monkeypatch):
    lstm, calls = LSTM(64, 64).freeze(), []

    def noted(name, function, passed, *rest, run=compiled.run):
        calls.extend([passed[-4]] * (name == "infer"))
        run(name, function, passed, *rest)

    monkeypatch.setattr(compiled, "run", noted)
    for threads in (1, 2):
        monkeypatch.setenv("GPU_LSTM_NUM_THREADS", str(threads))
        calls.clear()
        assert same(lstm, data(30, 1, 64)) and calls == [threads]
    for shape in ((30, 3, 64), (7, 1, 64), (30, 1, 64)):
        assert same(lstm, data(*shape))
    with pytest.raises(InputError, match=r"x has shape \(30, 1, 63\); expected \(T, B, input_size=64\)"):
        lstm.forward(data(30, 1, 63), keep=False)
    with pytest.raises(InputError, match="x has dtype float64; expected float32"):
        lstm.forward(data(30, 1, 64, "float64"), keep=False)
    with pytest.raises(InputError, match="h0 has shape"):
        lstm.forward(data(30, 1, 64), (np.zeros((1, 2, 64), "float32"), None), keep=False)


def test_what_is_ready_holds_no_copy_of_an_array_with_gaps():
    lstm, x = LSTM(6, 5), data(3000, 2, 12)
    lstm.forward(x[..., ::2], keep=False)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    lstm.forward(x[:2999, :, ::2], keep=False)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < x[:2999, :, ::2].nbytes


def test_what_is_ready_holds_no_array_of_the_caller_and_gives_arrays_of_his_own():
    lstm, x = LSTM(6, 5).freeze(), data(3, 2, 6)
    seen = weakref.ref(x)
    first = lstm.forward(x, keep=False)
    kept_, before = lstm.forward(x + 1, keep=False), first[0].copy()
    del x
    assert seen() is None
    kept_[0][...], kept_[1][0][...], kept_[1][1][...] = 7, 7, 7
    np.testing.assert_array_equal(first[0], before)
    assert first[1][0].base is None  # not a view of y


def test_a_prepared_call_refuses_arrays_of_another_kind():
    n, weight = np.zeros(9, "float32"), np.zeros((4, 3), "float32")
    pack = prepare("pack", n.dtype, ("weight", "panels"), 0, 4, 3, weight, np.empty(64 * 3, "float32"))
    with pytest.raises(InputError, match=r"weight has shape \(3, 4\); expected \(rows=4,depth=3\)|weight has shape"):
        pack(weight.T, np.empty(64 * 3, "float32"))
    with pytest.raises(InputError, match="panels is read-only"):
        pack(weight, np.broadcast_to(n[:1], 64 * 3))
    with pytest.raises(InputError, match="weight has dtype complex64; expected float32"):
        pack(weight.astype("complex64"), np.empty(64 * 3, "float32"))


def test_many_threads_at_once():
    lstm, xs = LSTM(40, 33), [data(5 + n % 2, 2, 40) for n in range(4)]
    right = []

    def run(x, expected):
        right.extend(np.array_equal(lstm.forward(x, keep=False)[0], expected) for _ in range(50))

    threads = [threading.Thread(target=run, args=(x, lstm.forward(x)[0])) for x in xs]
    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(often)
    assert right == [True] * 200


def test_a_weight_that_is_drawn_anew_is_not_kept(packings):
    lstm, x = LSTM(6, 5, weight_dropout=0.5), data(3, 2, 6)
    one, two = (lstm.forward(x, seed=seed, keep=False)[0] for seed in (1, 2))
    assert packings == [False] and not np.array_equal(one, two)


def test_16_bits_are_rounded_at_each_call(packings):
    lstm, x = LSTM(6, 5, dtype="float16"), data(3, 2, 6, "float16")
    assert same(lstm, x) and not packings


def test_a_linear_layer_keeps_its_weight_too(packings):
    linear, x = Linear(7, 70), data(1, 3, 7)[0]
    expected = linear.forward(x)[0]
    assert all(np.array_equal(linear.forward(x, keep=False)[0], expected) for _ in range(3))
    linear.params["weight"][0] *= 2
    assert np.array_equal(linear.forward(x, keep=False)[0], linear.forward(x)[0])
    assert packings == [False, False]


def frozen_layers():
    return [LSTM(6, 5).freeze(), LSTMCell(6, 5).freeze(), Linear(6, 5).freeze()]


def test_frozen_parameters_cannot_be_written():
    for layer in frozen_layers():
        for array in layer.params.values():
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True


def test_freezing_changes_no_number():
    lstm, x = LSTM(6, 5), data(3, 2, 6)
    before, views = dict(lstm.params), lstm.forward(x)[0]
    assert lstm.freeze() is lstm
    assert all(np.array_equal(before[name], array) for name, array in lstm.params.items())
    before["weight_hh_l0"][...] = 0  # no longer the layer's
    assert np.array_equal(lstm.forward(x, keep=False)[0], views) and same(lstm, x)


def test_what_is_assigned_to_a_frozen_layer_is_used_and_can_be_written():
    lstm, x = LSTM(6, 5).freeze(), data(3, 2, 6)
    lstm.forward(x, keep=False)
    lstm.params["weight_hh_l0"] = lstm.params["weight_hh_l0"] * 2
    assert same(lstm, x)
    lstm.params["weight_hh_l0"][0] = 1
    assert same(lstm, x)


def test_a_frozen_layer_is_not_watched(monkeypatch):
    monkeypatch.setattr(kept, "watch", None)
    for layer in frozen_layers():
        layer.forward(data(1, 2, 6)[0] if not isinstance(layer, LSTM) else data(3, 2, 6), keep=False)


def test_training_a_frozen_layer_is_refused_before_anything_is_written():
    lstm = LSTM(6, 5).freeze()
    y, _, tape = lstm.forward(data(3, 2, 6))
    gradients = lstm.backward(tape, np.ones_like(y))[2]
    with pytest.raises(ValueError, match="read-only"):
        Adam(lstm.backend, lstm.params, 0.1).update(gradients)


def test_only_arrays_of_the_host_can_be_frozen():
    with pytest.raises(InputError, match="expected NumPy arrays"):
        LSTM(6, 5, backend=STRICT).freeze()

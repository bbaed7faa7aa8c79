"""What backward needs stays as it was, or backward says what was written to; outputs are the caller's own."""

from typing import Any

import numpy as np
import pytest

from gpu_lstm import LSTM, Embedding, InputError, Linear, LSTMCell, ops
from gpu_lstm.layers import Reversed
from gpu_lstm.models import LanguageModel
from gpu_lstm.native import compiled
from gpu_lstm.native.arguments import pages
from gpu_lstm.recurrence import runnable_tiers
from tests.support import NUMPY, STRICT

RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 2, 3)).astype(np.float32)
TIERS = runnable_tiers(NUMPY)
KINDS: dict[str, Any] = {
    "plain": {},
    "stack": {"num_layers": 2, "dropout": 0.3},
    "both directions": {"bidirectional": True},
    "batch first": {"batch_first": True},
    "recompute": {"recompute": True},
    "residual": {"num_layers": 2, "residual": True},
    "options": {"proj_size": 2, "peepholes": True, "layer_norm": True, "learn_state": True, "zoneout_h": 0.2},
    "cells": {"cells": True},
    "16 bits": {"dtype": "float16"},
}


def arrays_of(results):
    for result in results:
        if isinstance(result, dict):
            yield from result.values()
        elif isinstance(result, tuple | list):
            yield from arrays_of(result)
        elif isinstance(result, np.ndarray):
            yield result


def ones_like(y):
    return tuple(map(np.ones_like, y)) if isinstance(y, tuple) else np.ones_like(y)


def given(layer, lengths=None, write=None):
    """All that backward gives, after `write` had what forward gave."""
    places = layer.num_layers * layer.num_directions
    h0 = np.full((places, 6 if layer.batch_first else 2, layer.output_size), 0.1, layer.dtype)
    c0 = np.full((places, 6 if layer.batch_first else 2, 4), 0.2, layer.param_dtype)
    x, resets = X.astype(layer.dtype), np.zeros(X.shape[:2], bool)
    resets[2, 1] = True
    y, state, tape = layer.forward(x, (h0, c0), lengths, seed=(1,), resets=resets)
    dy = ones_like(y)
    if write is not None:
        write(y, state, (h0, c0, resets))
    return list(arrays_of(layer.backward(tape, dy)))


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tier", TIERS)
def test_outputs_states_and_initial_states_may_be_written_to(tier, kind, lengths):
    layer = LSTM(3, 4, backend=NUMPY, tier=tier, **KINDS[kind])
    batch, steps = (6, 2) if layer.batch_first else (2, 6)
    lengths = np.arange(batch) % steps + 1 if lengths else None

    def write(*arrays):
        for array in arrays_of(arrays):
            array[...] = True if array.dtype == bool else 7
        if lengths is not None:
            lengths[...] = 1

    expected = given(layer, None if lengths is None else lengths.copy())
    for found, value in zip(given(layer, lengths, write), expected, strict=True):
        np.testing.assert_array_equal(found, value)


def test_an_output_masked_in_place_gives_the_gradients_of_the_masked_output():
    layer, mask = LSTM(3, 4, 2, backend=NUMPY), (RNG.random((6, 2, 4)) > 0.5).astype(np.float32)
    y, _, tape = layer.forward(X)
    expected = layer.backward(tape, mask)[2]
    y, _, tape = layer.forward(X)
    y *= mask
    for name, gradient in layer.backward(tape, mask)[2].items():
        np.testing.assert_array_equal(gradient, expected[name])


LAYERS: dict[str, Any] = {
    **{f"LSTM {tier}": (lambda tier=tier: LSTM(3, 4, backend=NUMPY, tier=tier), X) for tier in TIERS},
    **{
        f"LSTM {kind}": (lambda kind=kind: LSTM(3, 4, backend=NUMPY, **KINDS[kind]), X)
        for kind in ("stack", "both directions", "recompute", "options", "cells")
    },
    "LSTM strict": (lambda: LSTM(3, 4, backend=STRICT, tier="reference"), X),
    "LSTMCell": (lambda: LSTMCell(3, 4, backend=NUMPY), X[0]),
    "Reversed": (lambda: Reversed(LSTM(3, 4, backend=NUMPY)), X),
    "Linear": (lambda: Linear(3, 4, backend=NUMPY), X),
}


@pytest.mark.parametrize("case", LAYERS)
def test_what_backward_needs_is_guarded(case):
    make, x = LAYERS[case]
    layer = make()
    x = layer.backend.asarray(x.copy())
    needed = {name: array for name, array in layer.params.items() if not name.startswith(("bias", "h0", "c0"))}
    if not isinstance(layer, Reversed):  # it reads a copy
        needed["x"] = x
    for name, array in needed.items():
        y, *_, tape = layer.forward(x)
        ones = layer.backend.xp.ones_like
        dy = tuple(map(ones, y)) if isinstance(y, tuple) else ones(y)
        before = layer.backend.xp.asarray(array, copy=True)
        array[(-1,) * array.ndim] += 1
        with pytest.raises(
            InputError, match=f"^{name} was changed in place since forward; backward needs it as it was"
        ):
            layer.backward(tape, dy)
        array[...] = before  # as it was: backward goes on
        layer.backward(tape, dy)
        *_, tape = layer.forward(x, guard=False)
        array[(-1,) * array.ndim] += 1
        layer.backward(tape, dy)


def test_biases_are_needed_only_to_compute_again():
    for recompute in (False, True):
        layer = LSTM(3, 4, backend=NUMPY, recompute=recompute)
        y, _, tape = layer.forward(X)
        layer.params["bias_l0"] += 1
        if recompute:
            with pytest.raises(InputError, match="bias_l0 was changed in place"):
                layer.backward(tape, y)
        else:
            layer.backward(tape, y)


def test_ids_may_be_written_to():
    layer, ids = Embedding(5, 3, backend=NUMPY), np.array([[1, 4], [1, 0]])
    y, tape = layer.forward(ids)
    ids[...] = 2
    np.testing.assert_array_equal(layer.backward(tape, y)[1]["weight"][2], 0)


def test_calls_without_a_backward_keep_nothing():
    for layer in (LSTM(3, 4, backend=NUMPY), Linear(3, 4, backend=NUMPY), Reversed(LSTM(3, 4, backend=NUMPY))):
        y, *_, tape = layer.forward(X, keep=False)
        with pytest.raises(InputError, match="keep=False; expected one with keep=True"):
            layer.backward(tape, y)


def test_models_check_nothing_inside(monkeypatch):
    guarded = []
    monkeypatch.setattr(ops.Cpu, "watch", lambda self, arrays: guarded.extend(arrays))
    LanguageModel(5, 3, 4, backend=NUMPY).loss(np.array([[0, 1], [2, 3]]))
    assert not guarded


@pytest.mark.parametrize("ways", [ops.Arrays, ops.Cpu], ids=["copies", "fingerprints"])
@pytest.mark.parametrize("size", [1, 3, 64, 255, 16384, 16385, 70000])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "bool"])
def test_any_change_of_any_array_is_noticed(ways, size, dtype):
    arrays = [(RNG.standard_normal(n) * 9).astype(dtype) for n in (5, size, 0, 3)]
    changed = ways(NUMPY).watch(arrays)
    assert changed() is None
    for place in {0, size // 2, size - 1}:
        for number in (0, 1, 3):
            array = arrays[number]
            where = place % array.size
            value = array[where]
            array[where] = not value if dtype == "bool" else value + 1
            assert changed() == number
            array[where] = value
    assert changed() is None


@pytest.mark.parametrize("ways", [ops.Arrays, ops.Cpu], ids=["copies", "fingerprints"])
@pytest.mark.parametrize("width", [1, 16, 64, 100, 128])
def test_swapped_rows_and_turned_signs_are_noticed(ways, width):
    x = RNG.standard_normal((300, width)).astype(np.float32)
    view = np.repeat(x, 2, axis=1)[:, ::2]
    changed, of_view = ways(NUMPY).watch([x]), ways(NUMPY).watch([view])
    for change in (
        lambda: x.__setitem__([3, 200], x[[200, 3]]),
        lambda: x.__setitem__([0, 1], x[[1, 0]]),
        lambda: x.__setitem__((slice(None), [0, -1]), x[:, [-1, 0]]) if width > 1 else x.__imul__(2),
        lambda: x.__imul__(-1),
        lambda: x[:200].__imul__(-1),
        lambda: x.__setitem__(slice(None), x[::-1].copy()),
    ):
        clean = x.copy()
        change()
        assert changed() == 0
        view[...], x[...] = x, clean
        assert of_view() == 0
        view[...] = x
    view.base[:, 1::2] += 1
    assert changed() is of_view() is None  # gaps are no content


@pytest.mark.skipif(compiled.library() is None, reason="nothing is compiled")
def test_fingerprints_are_those_of_any_number_of_threads():
    x, found = RNG.standard_normal(1 << 18).view(np.uint8), []
    for threads in (1, 2, 3):
        found.append(np.empty(pages([x.size, 70000]), np.uint64))
        compiled.call("fingerprints", np.dtype("f4"), 2, [x.size, 70000], [x, x[:70000]], found[-1], threads)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_a_gpu_compares_copies_where_it_is_told_to(cuda, monkeypatch):
    layer, x = Linear(3, 4, backend=cuda), cuda.asarray(X)
    for value, checks in (("0", False), ("1", True)):
        monkeypatch.setenv("GPU_LSTM_CHECK", value)
        y, tape = layer.forward(x)
        x += 1
        if checks:
            with pytest.raises(InputError, match="x was changed in place"):
                layer.backward(tape, y)
        else:
            layer.backward(tape, y)

"""Layers, models, optimizers and tapes through pickle and copy: backends by name, arrays by value, ties stay ties."""

import copy
import os
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from gpu_lstm import LSTM, BackendError, Dropout, Embedding, Linear, LSTMCell
from gpu_lstm.backend import Backend
from gpu_lstm.layers import Reversed
from gpu_lstm.losses import softmax_cross_entropy
from gpu_lstm.models import Classifier, Forecaster, LanguageModel, Regressor
from gpu_lstm.optimizers import OPTIMIZERS, Adam, make_optimizer
from gpu_lstm.recurrence import runnable_tiers
from tests.support import NUMPY

X = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
TOKENS = np.array([[0, 1], [2, 3], [4, 0]])
EVERYTHING: Any = {
    "proj_size": 2, "peepholes": True, "layer_norm": True, "learn_state": True, "zoneout_h": 0.1, "dropout": 0.3,
    "weight_dropout": 0.2, "input_dropout": 0.2, "num_layers": 2,
}  # fmt: skip
LAYERS: dict[str, Any] = {
    **{f"LSTM {tier}": lambda tier=tier: LSTM(3, 4, 2, backend=NUMPY, tier=tier) for tier in runnable_tiers(NUMPY)},
    "LSTM options": lambda: LSTM(3, 4, backend=NUMPY, **EVERYTHING),
    "LSTM recompute": lambda: LSTM(3, 4, backend=NUMPY, recompute=True, dtype="float16"),
    "LSTMCell": lambda: LSTMCell(3, 4, backend=NUMPY, zoneout_c=0.1),
    "Reversed": lambda: Reversed(LSTM(3, 4, backend=NUMPY)),
    "Linear": lambda: Linear(3, 4, backend=NUMPY),
    "Embedding": lambda: Embedding(5, 4, backend=NUMPY),
    "Dropout": lambda: Dropout(0.5, backend=NUMPY),
}
MODELS = {
    "LanguageModel": (lambda: LanguageModel(5, 3, 4, dropout=0.2, backend=NUMPY), (TOKENS,)),
    "Forecaster": (lambda: Forecaster([0], [1], [1], 2, 3, 4, backend=NUMPY), (X[..., :1], 1)),
    "Classifier": (lambda: Classifier([0] * 3, [1] * 3, 3, 4, backend=NUMPY), (X, np.array([5, 3]), np.array([0, 2]))),
    "Regressor": (
        lambda: Regressor([0] * 3, [1] * 3, [0], [1], 4, backend=NUMPY),
        (X, np.array([5, 3]), np.ones((2, 1))),
    ),
}
WAYS = {"pickle": lambda x: pickle.loads(pickle.dumps(x)), "deepcopy": copy.deepcopy}


def forward(layer):
    if isinstance(layer, Embedding):
        y, tape = layer.forward(TOKENS)
    elif isinstance(layer, Dropout):
        y, tape = layer.forward(X, (1,))
    elif isinstance(layer, Linear):
        y, tape = layer.forward(X)
    else:
        y, *_, tape = layer.forward(X[0] if isinstance(layer, LSTMCell) else X.astype(layer.dtype), seed=(1,))
    return y, tape


def flat(results):
    for result in results:
        if isinstance(result, dict):
            yield from result.values()
        elif isinstance(result, tuple):
            yield from flat(result)
        elif result is not None:
            yield result


def equal(found, expected):
    for one, other in zip(flat(found), flat(expected), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", LAYERS)
def test_layers_and_their_tapes(case, way):
    layer = LAYERS[case]()
    twin = WAYS[way](layer)
    y, tape = forward(layer)
    equal(forward(twin)[:1], [y])
    for name, array in twin.params.items():
        assert array is not layer.params[name]
        np.testing.assert_array_equal(array, layer.params[name])
    alone, (second, together) = WAYS[way](tape), WAYS[way]((layer, tape))
    expected = list(flat(layer.backward(tape, np.ones_like(y))))
    equal(layer.backward(alone, np.ones_like(y)), expected)
    equal(second.backward(together, np.ones_like(y)), expected)
    with pytest.raises(ValueError, match="already used"):
        layer.backward(WAYS[way](tape), np.ones_like(y))
    if hasattr(layer, "plan"):
        assert twin.plan.tier == layer.plan.tier


def test_a_shallow_copy_of_a_layer_shares_its_parameters_and_one_of_a_tape_shares_nothing():
    layer = LSTM(3, 4, backend=NUMPY)
    twin = copy.copy(layer)
    twin.params["bias_l0"] = np.ones(16)
    np.testing.assert_array_equal(layer.params["bias_l0"], 1)
    y, tape = forward(layer)
    other = copy.copy(tape)
    equal(layer.backward(tape, y.copy()), layer.backward(other, y.copy()))


def test_what_was_written_to_before_a_tape_was_copied_is_told_then_and_not_lost():
    layer, x = Linear(3, 4, backend=NUMPY), X.copy()
    y, tape = layer.forward(x)
    twin = pickle.loads(pickle.dumps(tape))
    x += 1
    with pytest.raises(ValueError, match="x was changed in place"):
        pickle.dumps(tape)
    layer.backward(twin, y)  # has an x of its own


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MODELS)
def test_models_keep_their_ties(kind, way):
    make, batch = MODELS[kind]
    model = make()
    optimizer = Adam(NUMPY, model.params, 0.1)
    optimizer.update(model.loss(*batch, seed=(1,))[-1])
    twin, its = WAYS[way]((model, optimizer))
    assert its.params is twin.params and its.updates == 1
    for name in twin.params:
        layer, _, param = name.partition(".")
        assert twin.params[name] is twin.layers[layer].params[param] is getattr(twin, layer).params[param]
        assert twin.params[name] is not model.params[name]
    for step in range(2):
        for m, o in ((model, optimizer), (twin, its)):
            o.update(m.loss(*batch, seed=(step,))[-1])
    for name, array in model.params.items():
        np.testing.assert_array_equal(twin.params[name], array)
    assert float(model.loss(*batch)[0]) == float(twin.loss(*batch)[0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name):
    params = {"a": np.ones((2, 3))}
    optimizer = make_optimizer(name, NUMPY, params, 0.1)
    optimizer.update({"a": np.ones((2, 3))})
    twin = pickle.loads(pickle.dumps(optimizer))
    for one in (optimizer, twin):
        one.update({"a": np.full((2, 3), 2.0)})
    np.testing.assert_array_equal(twin.params["a"], params["a"])
    for slot, state in optimizer.state.items():
        np.testing.assert_array_equal(twin.state[slot], state)


def test_arrays_that_two_parameters_share_stay_shared():
    one, other = Linear(3, 4, backend=NUMPY), Linear(3, 4, backend=NUMPY)
    other.params["weight"] = one.params["weight"]
    for way in WAYS.values():
        first, second = way([one, other])
        assert first.params["weight"] is second.params["weight"]


def test_results_of_a_loss():
    equal(pickle.loads(pickle.dumps(softmax_cross_entropy(NUMPY, X, np.zeros((5, 2), int)))),
          softmax_cross_entropy(NUMPY, X, np.zeros((5, 2), int)))  # fmt: skip


def test_backends_go_by_name():
    assert pickle.loads(pickle.dumps(NUMPY)).name == "numpy"
    assert copy.deepcopy(NUMPY) is NUMPY

    class Elsewhere(Backend):
        name = "cupy:63"

    with pytest.raises(BackendError, match="cupy"):
        pickle.loads(pickle.dumps(Elsewhere()))


def test_another_process_chooses_its_own_tier_and_gives_the_same():
    model = LanguageModel(5, 3, 4, backend=NUMPY)
    code = (
        "import pickle, sys; model, tokens = pickle.load(sys.stdin.buffer); "
        "print(model.lstm.plan.tier, float(model.loss(tokens)[0]))"
    )
    environment = os.environ | {"GPU_LSTM_COMPILED": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(
        command, input=pickle.dumps((model, TOKENS)), capture_output=True, env=environment, check=True
    )
    tier, loss = done.stdout.split()
    assert tier == b"reference"
    assert float(loss) == pytest.approx(float(model.loss(TOKENS)[0]), rel=1e-5)

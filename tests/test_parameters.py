"""Parameters that are put in place: right to rounding, or refused by name; one truth for layers, models, optimizers."""

import numpy as np
import pytest

from gpu_lstm import LSTM, Dropout, Embedding, InputError, Linear, LSTMCell
from gpu_lstm.layers import Reversed
from gpu_lstm.models import Classifier, Forecaster, LanguageModel, Regressor
from gpu_lstm.optimizers import Adam
from gpu_lstm.recurrence import runnable_tiers
from tests.support import NUMPY, STRICT

RNG = np.random.default_rng(0)
X = RNG.standard_normal((5, 2, 3)).astype(np.float32)
EVERYTHING = {"proj_size": 2, "peepholes": True, "layer_norm": True, "learn_state": True}


def packed(array):
    """The same numbers, unaligned, as a field of packed records."""
    records = np.zeros(array.shape, [("mark", "u1"), ("value", array.dtype)])
    records["value"] = array
    return records["value"]


def with_gaps(array):
    return np.repeat(array, 2, axis=-1)[..., ::2]


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


ODD = {
    "float64": lambda a: a.astype(np.float64),
    "float16": lambda a: a.astype(np.float16),
    "big-endian": lambda a: a.astype(">f4"),
    "gaps": with_gaps,
    "backwards": lambda a: a[..., ::-1].copy()[..., ::-1],
    "Fortran": np.asfortranarray,
    "packed": packed,
    "packed float64": lambda a: packed(a.astype(">f8")),
    "list": lambda a: a.tolist(),
    "read-only": read_only,
    "broadcast": lambda a: np.broadcast_to(a, (1, *a.shape))[0],
}


def lstm_call(tier="auto", **options):
    def make():
        return LSTM(3, 4, 2, bidirectional=True, backend=NUMPY, tier=tier, seed=7, **options)

    return make, lambda layer: _through(layer, X)


def _through(layer, x):
    y, *_, tape = layer.forward(x)
    dx, *_, gradients = layer.backward(tape, np.ones_like(y))
    return [y, dx, *gradients.values()] if dx is not None else [y, *gradients.values()]


def _cell(cell):
    h, c, tape = cell.forward(X[0])
    dx, dstate, gradients = cell.backward(tape, h, c)
    return [h, c, dx, *dstate, *gradients.values()]


LENGTHS = np.array([5, 3])
CASES = {
    **{f"LSTM {tier}": lstm_call(tier) for tier in runnable_tiers(NUMPY)},
    **{f"LSTM {tier} options": lstm_call(tier, **EVERYTHING) for tier in runnable_tiers(NUMPY)},
    "LSTM recompute": lstm_call(recompute=True),
    **{
        f"LSTMCell {tier}": (lambda tier=tier: LSTMCell(3, 4, backend=NUMPY, tier=tier, learn_state=True), _cell)
        for tier in runnable_tiers(NUMPY)
    },
    "Reversed": (lambda: Reversed(LSTM(3, 4, backend=NUMPY)), lambda layer: _through(layer, X)),
    "Linear": (lambda: Linear(3, 4, backend=NUMPY), lambda layer: _through(layer, X)),
    "Embedding": (lambda: Embedding(6, 3, backend=NUMPY), lambda layer: _through(layer, np.array([[1, 5], [1, 0]]))),
    "LanguageModel": (
        lambda: LanguageModel(6, 3, 4, backend=NUMPY),
        lambda m: [*m.loss(np.arange(12).reshape(6, 2) % 6)[2].values(), list(m.sample(np.array([1]), 20))],
    ),
    "Forecaster": (
        lambda: Forecaster([0], [1], [1], 2, 3, 4, backend=NUMPY),
        lambda m: [*m.loss(X[..., :1], 1)[1].values(), m.forecast(X[..., :1])],
    ),
    "Classifier": (
        lambda: Classifier([0] * 3, [1] * 3, 3, 4, backend=NUMPY),
        lambda m: [*m.loss(X, LENGTHS, np.array([0, 2]))[1].values(), m.logits(X, LENGTHS)],
    ),
    "Regressor": (
        lambda: Regressor([0] * 3, [1] * 3, [0], [1], 4, backend=NUMPY),
        lambda m: [*m.loss(X, LENGTHS, np.ones((2, 1)))[1].values(), m.predict(X, LENGTHS)],
    ),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("case", CASES)
def test_odd_arrays_give_what_clean_copies_give(case, kind):
    make, call = CASES[case]
    layer, clean = make(), make()
    for name, array in clean.params.items():
        layer.params[name] = ODD[kind](array)
        clean.params[name][...] = np.asarray(ODD[kind](array))
    for found, expected in zip(call(layer), call(clean), strict=True):
        np.testing.assert_array_equal(found, expected)
    # What an optimizer writes reaches the layer.
    optimizer = Adam(NUMPY, layer.params, 0.1)
    before = {name: array.copy() for name, array in layer.params.items()}
    optimizer.update({name: np.ones_like(array) for name, array in layer.params.items()})
    for name, array in layer.params.items():
        np.testing.assert_allclose(array, before[name] - 0.1, rtol=0, atol=1e-6)


def test_an_array_that_fits_is_kept_and_others_become_new_ones():
    layer = Linear(3, 4, backend=NUMPY)
    fits = np.ones((4, 3), np.float32)
    layer.params["weight"] = fits
    assert layer.params["weight"] is fits
    for odd in ODD:
        layer.params["weight"] = ODD[odd](fits)
        found = layer.params["weight"]
        assert found is not fits
        assert found.dtype == np.float32 and found.flags.carray
        np.testing.assert_array_equal(found, fits)


@pytest.mark.parametrize(
    "put",
    [
        lambda params, a: params.__setitem__("weight", a),
        lambda params, a: params.update(weight=a),
        lambda params, a: params.update({"weight": a}),
        lambda params, a: params.update([("weight", a)]),
        lambda params, a: params.__ior__({"weight": a}),
    ],
)
def test_every_way_to_assign_is_the_same(put):
    layer = Linear(3, 4, backend=NUMPY)
    put(layer.params, np.ones((4, 3)))
    assert layer.params["weight"].dtype == np.float32
    np.testing.assert_array_equal(layer.params["weight"], 1)
    with pytest.raises(InputError, match=r"weight has shape \(3, 4\); expected \(4, 3\)"):
        put(layer.params, np.ones((3, 4)))


@pytest.mark.parametrize(
    "value, message",
    [
        (np.ones(3), r"bias has shape \(3,\); expected \(4,\)"),
        (np.ones((4, 1)), r"bias has shape \(4, 1\); expected \(4,\)"),
        (np.ones(4, complex), "bias has dtype complex128; expected real numbers, as float32"),
        (np.array(list("abcd")), "bias has dtype <U1; expected real numbers"),
        (["1", "2", "3", "4"], "bias has dtype <U1; expected real numbers"),
        (np.ones(4, bool), "bias has dtype bool; expected real numbers"),
        (np.ones(4, object), "bias has dtype object; expected real numbers"),
        (np.ones(4, "M8[s]"), "bias has dtype datetime64.*; expected real numbers"),
        (np.ma.masked_array(np.ones(4)), "bias is a numpy.ma.*; expected an array of backend numpy"),
        ([[1, 2], [3]], r"bias has no regular shape; expected \(4,\)"),
        (0.0, "bias is a builtins.float; expected an array of backend numpy"),
        (None, "bias is a builtins.NoneType; expected an array of backend numpy"),
        (np.full(4, 1e300), "bias has numbers that are too large for float32"),
    ],
)
def test_refusals(value, message):
    layer = Linear(3, 4, backend=NUMPY)
    before = layer.params.copy()
    with pytest.raises(InputError, match=message):
        layer.params["bias"] = value
    with pytest.raises(InputError, match=message):
        layer.params.update(weight=np.ones((4, 3)), bias=value)
    assert all(layer.params[name] is array for name, array in before.items())


def test_names_stay():
    layer = Linear(3, 4, backend=NUMPY)
    for put in (
        lambda: layer.params.__setitem__("Weight", np.ones((4, 3))),
        lambda: layer.params.setdefault("Weight", np.ones((4, 3))),
    ):
        with pytest.raises(InputError, match="'Weight' is no parameter; expected one of weight, bias"):
            put()
    for remove in (
        lambda: layer.params.__delitem__("bias"),
        lambda: layer.params.pop("bias"),
        layer.params.popitem,
        layer.params.clear,
    ):
        with pytest.raises(InputError, match="can't be removed"):
            remove()
    with pytest.raises(InputError, match=r"params has not the names.*\['bias'\]"):
        layer.params = {"weight": np.ones((4, 3))}
    layer.params = {"weight": np.ones((4, 3)), "bias": [0, 0, 0, 1]}
    np.testing.assert_array_equal(layer.forward(X)[0][..., 3], X.sum(axis=-1) + 1)
    assert list(layer.params) == ["weight", "bias"] and len(layer.params) == 2
    assert layer.params.setdefault("bias", None) is layer.params["bias"]
    assert Dropout(0.5, backend=NUMPY).params == {}


def test_model_and_layer_see_the_same_arrays():
    model = LanguageModel(5, 3, 4, backend=NUMPY)
    one, other = (np.full((16, 3), value, np.float32) for value in (0.1, 0.2))
    model.lstm.params["weight_ih_l0"] = one
    assert model.params["lstm.weight_ih_l0"] is one
    model.params["lstm.weight_ih_l0"] = other
    assert model.lstm.params["weight_ih_l0"] is other
    optimizer = Adam(NUMPY, model.params, 0.1)
    model.head.params["bias"] = np.zeros(5)
    optimizer.update(model.loss(np.array([[0, 1], [2, 3]]))[2])
    assert np.abs(model.head.params["bias"]).min() > 0
    with pytest.raises(InputError, match=r"lstm.bias_l0 has shape \(4,\); expected \(16,\)"):
        model.params["lstm.bias_l0"] = np.zeros(4)
    model.params = {name: np.zeros(array.shape) for name, array in model.params.items()}
    assert float(model.loss(np.array([[0, 1], [2, 3]]))[0]) == pytest.approx(np.log(5))


def test_they_join_with_other_dictionaries():
    params = Linear(3, 4, backend=NUMPY).params
    assert list({"x": 1} | params) == ["x", "weight", "bias"]
    assert (params | {"bias": 1})["bias"] == 1
    assert list({**params}) == ["weight", "bias"]
    assert repr(params).startswith("{'weight': array(")


def test_host_arrays_go_to_another_backend():
    layer = Linear(3, 4, backend=STRICT, dtype="float64")
    for value in (np.ones((4, 3), ">f4"), np.ones((4, 3)).tolist(), STRICT.asarray(np.ones((4, 3), np.float32))):
        layer.params["weight"] = value
        assert layer.params["weight"] in STRICT
        np.testing.assert_array_equal(STRICT.to_numpy(layer.params["weight"]), 1)


def test_parameters_replaced_before_backward_leave_it_to_those_of_forward():
    for make in (CASES[name][0] for name in ("LSTM reference", "LSTM recompute", "LSTMCell reference", "Linear")):
        x = X[0] if "Cell" in type(make()).__name__ else X
        found = []
        for replaced in (False, True):
            layer = make()
            y, *_, tape = layer.forward(x)
            if replaced:
                layer.params = {name: np.zeros(array.shape) for name, array in layer.params.items()}
            found.append(list(_flat(layer.backward(tape, np.ones_like(y)))))
        for one, other in zip(*found, strict=True):
            np.testing.assert_array_equal(one, other)


# -- tapes -------------------------------------------------------------------------------------------------------------

TAPED = {
    "LSTM": (lambda: LSTM(3, 4, backend=NUMPY), X, (5, 2, 4)),
    "LSTM residual": (lambda: LSTM(3, 4, 2, residual=True, backend=NUMPY), X, (5, 2, 4)),
    "Reversed": (lambda: Reversed(LSTM(3, 4, backend=NUMPY)), X, (5, 2, 4)),
    "LSTMCell": (lambda: LSTMCell(3, 4, backend=NUMPY), X[0], (2, 4)),
    "Linear": (lambda: Linear(3, 4, backend=NUMPY), X, (5, 2, 4)),
    "Embedding": (lambda: Embedding(6, 4, backend=NUMPY), np.arange(6).reshape(3, 2), (3, 2, 4)),
    "Dropout": (lambda: Dropout(0.5, backend=NUMPY), X, (5, 2, 3)),
}


@pytest.mark.parametrize("case", TAPED)
def test_a_wrong_argument_leaves_the_tape_as_it_was(case):
    make, x, shape = TAPED[case]
    layer, other = make(), make()
    dy = RNG.standard_normal(shape).astype(np.float32)
    expected = layer.backward(layer.forward(x)[-1], dy)
    tape = layer.forward(x)[-1]
    for wrong in (dy[:, :1], dy.astype(np.float64), "dy", np.ma.masked_array(dy)):
        with pytest.raises(InputError, match="^d[yh] "):
            layer.backward(tape, wrong)
    if not isinstance(layer, Linear | Embedding | Dropout):
        state = (np.zeros((7, 7), np.float32),) * 2
        with pytest.raises(InputError, match=r"^d[hc] "):
            layer.backward(tape, *((dy, state) if case != "LSTMCell" else (dy, state[0])))
    with pytest.raises(InputError, match="tape is that of another layer"):
        layer.backward(other.forward(x)[-1], dy)
    with pytest.raises(InputError, match="tape is a ndarray; expected what forward gave"):
        layer.backward(dy, tape)
    for found, value in zip(_flat(layer.backward(tape, dy)), _flat(expected), strict=True):
        np.testing.assert_array_equal(found, value)
    with pytest.raises(InputError, match="tape was already used"):
        layer.backward(tape, dy)


def _flat(results):
    for result in results:
        if isinstance(result, dict):
            yield from result.values()
        elif isinstance(result, tuple):
            yield from result
        elif result is not None:
            yield result


def test_a_tape_of_another_call_is_refused_by_shape():
    layer = LSTM(3, 4, backend=NUMPY)
    y, _, _ = layer.forward(X)
    _, _, tape = layer.forward(X[:3])
    with pytest.raises(InputError, match=r"dy has shape \(5, 2, 4\); expected \(3, 2, 4\)"):
        layer.backward(tape, y)

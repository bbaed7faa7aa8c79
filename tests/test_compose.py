"""Models composed of layers: gradients by value, wiring, descriptions, copies."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from gpu_lstm import LSTM, Dropout, Embedding, InputError, Linear, Stack
from gpu_lstm.layers import Concat, Layer, Pool, Reversed
from gpu_lstm.losses import mean_squared
from gpu_lstm.models import Composed, Padded, compose
from gpu_lstm.models.amounts import model_amounts
from tests.support import NUMPY, STRICT, central_differences, relative_error

RNG = np.random.default_rng(0)
F64: dict[str, Any] = {"backend": NUMPY, "dtype": "float64"}
X = RNG.standard_normal((5, 3, 2))
RAGGED = Padded(X, [5, 1, 3])
STATIC = RNG.standard_normal((3, 2))
IDS = np.array([[0, 1, 2], [3, 4, 0], [1, 1, 4]])


def lstm(*sizes, **more):
    return LSTM(*sizes, **F64, **more)


def linear(*sizes, **more):
    return Linear(*sizes, **F64, **more)


COMPOSED = {
    "last": (lambda: compose(lstm=lstm(2, 3), last=Pool(), head=linear(3, 1)), {"x": X}, (3,)),
    "last of two directions, ragged": (
        lambda: compose(lstm=lstm(2, 3, bidirectional=True), last=Pool("last", 2), head=linear(6, 2)),
        {"x": RAGGED},
        (3, 2),
    ),
    "mean, ragged, behind a bias": (
        lambda: compose(lstm=lstm(2, 3), each=linear(3, 2), mean=Pool("mean"), head=linear(2, 2)),
        {"x": RAGGED},
        (3, 2),
    ),
    "max, ragged": (lambda: compose(lstm=lstm(2, 3), top=Pool("max"), head=linear(3, 2)), {"x": RAGGED}, (3, 2)),
    "every step": (lambda: compose(lstm=lstm(2, 3), head=linear(3, 2)), {"x": X}, (5, 3, 2)),
    "every step, ragged": (lambda: compose(lstm=lstm(2, 3), head=linear(3, 2)), {"x": RAGGED}, (5, 3, 2)),
    "static beside the summary": (
        lambda: compose(lstm=lstm(2, 3), last=Pool(), both=(Concat(), "last", "static"), head=linear(5, 1)),
        {"x": X, "static": STATIC},
        (3, 1),
    ),
    "static at every step": (
        lambda: compose(both=(Concat(), "x", "static"), lstm=lstm(4, 3), top=Pool("max"), head=linear(3, 1)),
        {"x": RAGGED, "static": STATIC},
        (3, 1),
    ),
    "two sequences, one of tokens": (
        lambda: compose(
            words=(Embedding(5, 2, **F64), "tokens"),
            left=lstm(2, 3),
            right=(lstm(2, 3, seed=1), "x"),
            a=(Pool(), "left"),
            b=(Pool("mean"), "right"),
            both=(Concat(), "a", "b"),
            head=linear(6, 2),
        ),
        {"tokens": Padded(IDS, [1, 3, 2]), "x": RAGGED},
        (3, 2),
    ),
    "one LSTM for two sequences": (lambda: twins(), {"x": X, "other": Padded(X[::-1].copy(), [2, 4, 5])}, (3, 1)),
    "a stack, dropout, a part taken twice": (
        lambda: compose(
            stack=Stack([lstm(2, 3), Reversed(lstm(3, 3, seed=1))]),
            drop=Dropout(0.4),
            last=Pool("mean"),
            again=(Pool("max"), "stack"),
            both=(Concat(), "last", "again"),
            head=linear(6, 1),
        ),
        {"x": X},
        (3, 1),
    ),
}


def twins():
    reader = lstm(2, 3)
    return compose(
        left=reader, right=(reader, "other"), a=(Pool(), "left"), b=(Pool(), "right"), both=(Concat(), "a", "b"),
        head=linear(6, 1),
    )  # fmt: skip


@pytest.mark.parametrize("name", COMPOSED)
def test_gradients_are_those_of_central_differences(name):
    make, inputs, shape = COMPOSED[name]
    model, target = make(), np.random.default_rng(1).standard_normal(shape)
    gradients = model.loss(inputs, target, seed=3)[1]
    assert list(gradients) == list(model.params)
    for key, array in model.params.items():
        expected = central_differences(lambda: float(model.loss(inputs, target, seed=3)[0]), array)
        assert relative_error(gradients[key], expected) < 1e-6, key


@pytest.mark.parametrize("name", COMPOSED)
def test_gradients_of_inputs_are_those_of_central_differences(name):
    make, inputs, _ = COMPOSED[name]
    model = make()
    inputs = {k: Padded(v.values.copy(), v.lengths) if isinstance(v, Padded) else v.copy() for k, v in inputs.items()}
    y, tapes = model.forward(inputs, seed=3)
    weights = np.random.default_rng(1).standard_normal(y.shape)
    found, _ = model.backward(tapes, weights)
    assert set(found) == set(inputs) - {"tokens"}
    for key, gradient in found.items():
        array = inputs[key].values if isinstance(inputs[key], Padded) else inputs[key]
        expected = central_differences(lambda: float(np.sum(model.forward(inputs, seed=3)[0] * weights)), array)
        assert relative_error(gradient, expected) < 1e-6, key


def test_what_lies_beyond_a_sequences_end_changes_nothing():
    for name in ("mean, ragged, behind a bias", "max, ragged", "every step, ragged", "last of two directions, ragged"):
        make, _, shape = COMPOSED[name]
        model, target = make(), np.ones(shape)
        other = X.copy()
        other[1:, 1], other[3:, 2] = 1e6, -1e6
        changed = target.copy()
        if len(shape) == 3:
            changed[1:, 1] = 1e6
        first, second = model.loss(RAGGED, target), model.loss(Padded(other, RAGGED.lengths), changed)
        assert first[0] == second[0]
        for key in model.params:
            np.testing.assert_array_equal(first[1][key], second[1][key])


def test_pooling_by_value():
    x = np.array([[[1.0, 8.0]], [[3.0, -2.0]], [[100.0, 100.0]]])
    assert Pool("last", **F64).forward(x, [2])[0].tolist() == [[3, -2]]
    assert Pool("last", 2, **F64).forward(x, [2])[0].tolist() == [[3, 8]]
    assert Pool("mean", **F64).forward(x, [2])[0].tolist() == [[2, 3]]
    assert Pool("max", **F64).forward(x, [2])[0].tolist() == [[3, 8]]
    assert Pool("last", **F64).forward(x)[0].tolist() == [[100, 100]]
    y, tape = Pool("max", **F64).forward(np.array([[[5.0]], [[5.0]]]))
    assert Pool("max", **F64).how == "max" and y.tolist() == [[5]]
    with pytest.raises(InputError, match="that of another layer"):
        Pool("max", **F64).backward(tape, y)


def test_a_loss_of_classes_per_step_counts_a_sequences_own_steps_alone():
    model = compose(words=(Embedding(5, 2, **F64), "tokens"), lstm=lstm(2, 3), head=linear(3, 4))
    labels, lengths = np.array([[0, 1, 2], [3, 0, 1], [2, 2, 2]]), [1, 3, 2]
    value = float(model.loss(Padded(IDS, lengths), labels, "cross_entropy")[0])
    y = model.forward(Padded(IDS, lengths))[0]
    log_p = y - np.log(np.exp(y).sum(axis=2, keepdims=True))
    counted = [-log_p[t, b, labels[t, b]] for b in range(3) for t in range(lengths[b])]
    assert value == pytest.approx(np.mean(counted), rel=1e-12)
    loss, prediction, target = model.evaluate(Padded(IDS, lengths), Padded(labels, lengths), "cross_entropy")
    assert loss == pytest.approx(value, rel=1e-12)
    assert prediction.shape == (6, 4) and target.shape == (6,)


def test_a_loss_of_ones_own_and_a_layer_of_ones_own():
    class Squared(Layer):
        """y = x^2."""

        def forward(self, x):
            return x * x, self_tape(self, x)

        def backward(self, tape, dy):
            (x,) = self.read(tape)
            tape.spend()
            return 2 * x * dy, {}

    def self_tape(layer, x):
        from gpu_lstm.layers import Tape

        return Tape(layer, (x,))

    def fourth(prediction, target):
        error = prediction - target
        return np.mean(error**4), 4 * error**3 / error.size

    model = compose(lstm=lstm(2, 3), square=Squared(NUMPY, "float64"), last=Pool(), head=linear(3, 1))
    target = np.ones((3, 1))
    gradients = model.loss(X, target, fourth)[1]
    for key, array in model.params.items():
        expected = central_differences(lambda: float(model.loss(X, target, fourth)[0]), array)
        assert relative_error(gradients[key], expected) < 1e-6
    with pytest.raises(InputError, match="layer 'Squared' is none of LSTM, Stack"):
        Composed(**model.config, backend=NUMPY, dtype="float64")


def test_it_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    model = compose(lstm=lstm(2, 3, 2), last=Pool(), both=(Concat(), "last", "static"), head=linear(5, 1))
    rnn, head = torch.nn.LSTM(2, 3, 2, dtype=torch.float64), torch.nn.Linear(5, 1, dtype=torch.float64)
    for name, array in model.params.items():
        part, _, last = name.partition(".")
        with torch.no_grad():
            if last.startswith("bias_l"):
                getattr(rnn, last.replace("bias", "bias_ih")).copy_(torch.tensor(array))
                getattr(rnn, last.replace("bias", "bias_hh")).zero_()
            else:
                getattr({"lstm": rnn, "head": head}[part], last).copy_(torch.tensor(array))
    out = head(torch.cat([rnn(torch.tensor(X))[0][-1], torch.tensor(STATIC)], dim=1))
    expected = torch.nn.functional.mse_loss(out, torch.ones(3, 1, dtype=torch.float64))
    expected.backward()
    loss, gradients = model.loss({"x": X, "static": STATIC}, np.ones(3))
    assert float(loss) == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(gradients["lstm.weight_hh_l0"], rnn.weight_hh_l0.grad, rtol=1e-10)
    np.testing.assert_allclose(gradients["lstm.bias_l1"], rnn.bias_ih_l1.grad, rtol=1e-10)
    np.testing.assert_allclose(gradients["head.weight"], head.weight.grad, rtol=1e-10)


@pytest.mark.parametrize("name", COMPOSED)
def test_copies_and_descriptions_make_the_same_model(name):
    make, inputs, shape = COMPOSED[name]
    model, target = make(), np.ones(shape)
    value, gradients = model.loss(inputs, target, seed=3)
    again = Composed(**model.config, backend=NUMPY, dtype="float64")
    again.params = model.params
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), again):
        assert repr(other) == repr(model)
        other_value, other_gradients = other.loss(inputs, target, seed=3)
        assert other_value == value
        for key in gradients:
            np.testing.assert_array_equal(other_gradients[key], gradients[key])
        assert not any(np.shares_memory(other.params[key], model.params[key]) for key in gradients) or other is again
    amounts = model_amounts("composed", model.config)
    assert sum(amounts.values()) - amounts["lstm_biases"] == model.count()


def test_it_says_what_it_is():
    model = COMPOSED["static beside the summary"][0]()
    assert repr(model).splitlines() == [
        "Composed: 78 parameters, float64 on numpy",
        "  lstm: LSTM(input_size=2, hidden_size=3), x -> (T, B, 3), 72",
        "  last: Pool(), lstm -> (B, 3)",
        "  both: Concat(), last + static -> (..., B, D)",
        "  head: Linear(input_size=5, output_size=1), both -> (..., B, 1), 6",
    ]
    assert repr(LSTM(8, 16, backend=NUMPY, tier="reference", peepholes=True)) == (
        "LSTM(input_size=8, hidden_size=16, peepholes=True): 1,648 parameters, float32 on numpy, tier reference"
    )


def test_what_is_harmless_is_converted_and_the_rest_refused():
    model = compose(lstm=LSTM(2, 3, backend=NUMPY), last=Pool(), head=Linear(3, 1, backend=NUMPY))
    value = model.loss(X.tolist(), [1, 2, 3])[0]
    assert value == model.loss(X.astype(np.float32), np.array([[1.0], [2.0], [3.0]]))[0]
    assert value.dtype == np.float32
    for inputs, target, told in (
        (X.astype(complex), [1, 2, 3], "x has dtype complex128"),
        ({"y": X}, [1, 2, 3], "inputs has y; expected x"),
        (X, [1, 2], r"target has shape \(2, 1\)"),
        (X, ["a", "b", "c"], "target has dtype <U1"),
        (X * 1e300, [1, 2, 3], "x has numbers that are too large for float32"),
        (X[..., :1], [1, 2, 3], r"lstm, which takes x: x has shape \(5, 3, 1\)"),
        (Padded(X, [5, 0, 3]), [1, 2, 3], "last, which takes lstm: lengths has a 0"),
    ):
        with pytest.raises(InputError, match=told):
            model.loss(inputs, target)
    with pytest.raises(InputError, match="loss is 'l2'; expected one of mse, mae, huber, cross_entropy, or a function"):
        model.loss(X, [1, 2, 3], "l2")


@pytest.mark.parametrize(
    "parts, told",
    [
        (lambda: {"head": linear(3, 1)}, "expected an LSTM among them"),
        (lambda: {"lstm": lstm(2, 3), "head": linear(4, 1)}, "head has input_size=4; expected 3, the width of lstm"),
        (lambda: {"lstm": (lstm(2, 3), "head"), "head": linear(3, 2)}, "lstm takes head, which comes later"),
        (lambda: {"a": lstm(2, 3), "b": lstm(2, 3)}, "b starts with the numbers of a"),
        (lambda: {"a": lstm(2, 3), "b": (lstm(2, 3, seed=1), "x")}, "a: expected each part once, and all but the last"),
        (lambda: {"lstm": lstm(2, 3, batch_first=True)}, "time-major"),
        (lambda: {"lstm": lstm(2, 3), "head": Linear(3, 1, backend=NUMPY)}, "head computes in float32 on numpy"),
        (lambda: {"lstm": lstm(2, 3, bidirectional=True), "last": Pool()}, "expected directions=2, as lstm has"),
        (lambda: {"lstm": lstm(2, 3), "a": Pool(), "b": lstm(3, 3)}, "b takes a, which has no steps"),
        (lambda: {"lstm": (lstm(2, 3), "x", "y")}, "lstm takes x, y; expected one thing"),
        (lambda: {"lstm": 3}, "lstm is a int; expected a layer"),
    ],
)  # fmt: skip
def test_parts_that_dont_go_together_are_refused(parts, told):
    with pytest.raises(InputError, match=told):
        compose(**parts())


@pytest.mark.parametrize("name", [name for name in COMPOSED if "dropout" not in name])  # which differs
def test_every_backend_gives_the_same(name, backend, monkeypatch):
    make, inputs, shape = COMPOSED[name]
    expected, wanted = make().loss(inputs, np.ones(shape))
    monkeypatch.setitem(F64, "backend", backend)
    value, gradients = make().loss(inputs, np.ones(shape))
    assert float(value) == pytest.approx(float(expected), rel=1e-9)
    for key, gradient in gradients.items():
        np.testing.assert_allclose(backend.to_numpy(gradient), wanted[key], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in COMPOSED if "dropout" not in name])
def test_nothing_goes_beyond_the_array_api_standard(name, monkeypatch):
    make, inputs, shape = COMPOSED[name]
    expected, wanted = make().loss(inputs, np.ones(shape))
    monkeypatch.setitem(F64, "backend", STRICT)
    target = STRICT.asarray(np.ones(shape))
    value, gradients = make().loss(inputs, target)
    assert float(value) == pytest.approx(float(expected), rel=1e-12)
    for key, gradient in gradients.items():
        np.testing.assert_allclose(STRICT.to_numpy(gradient), wanted[key], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_near_single(dtype, backend):
    def made(dtype):
        at = {"backend": backend, "dtype": dtype}
        lstm = LSTM(2, 3, bidirectional=True, **at)
        return compose(lstm=lstm, last=Pool("last", 2), top=(Pool("max"), "lstm"), mean=(Pool("mean"), "lstm"),
                       all=(Concat(), "last", "top", "mean"), head=Linear(18, 1, **at))  # fmt: skip

    expected, wanted = made("float32").loss(RAGGED, [1, 2, 3])
    model = made(dtype)
    model.loss_scale = 64.0
    value, gradients = model.loss(RAGGED, [1, 2, 3])
    assert float(value) == pytest.approx(float(expected), rel=0.02)
    for key, gradient in gradients.items():
        assert str(gradient.dtype) == "float32"
        error = backend.to_numpy(gradient) / 64 - backend.to_numpy(wanted[key])
        allowed = 0.01 if dtype == "float16" else 0.05  # with 11 bits and with 8
        assert np.abs(error).max() < allowed * max(np.abs(backend.to_numpy(wanted[key])).max(), 0.1)


def test_losses_find_the_backend_of_arrays(backend):
    prediction, target = backend.asarray(np.array([1.0, 2.0], np.float32)), backend.asarray(np.array([3.0, 2.0]))
    loss, gradient = mean_squared(prediction, target)
    assert gradient in backend and float(loss) == 2
    assert backend.to_numpy(gradient).tolist() == [-2, 0]

"""Keras weights against Keras's equations, written here once more, and against Keras itself where it is installed."""

import os
import sys

import numpy as np
import pytest

from gpu_lstm import LSTM, InputError
from gpu_lstm.errors import BackendError
from gpu_lstm.interop.keras import from_keras, to_keras

GATES = {
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "hard_sigmoid": lambda z: np.clip(z / 6 + 0.5, 0, 1),  # keras.activations.hard_sigmoid: relu6(z + 3) / 6
}


def keras_layer(x, kernel, recurrent_kernel, bias=0.0, gate="sigmoid"):
    """Keras's LSTM with return_sequences=True over x (B, T, D), from the equations of its documentation."""
    units = recurrent_kernel.shape[0]
    h = c = np.zeros((x.shape[0], units))
    outputs = []
    for t in range(x.shape[1]):
        z = x[:, t] @ kernel + h @ recurrent_kernel + bias
        i, f, o = (GATES[gate](z[:, k * units : (k + 1) * units]) for k in (0, 1, 3))
        c = f * c + i * np.tanh(z[:, 2 * units : 3 * units])
        h = o * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, axis=1)


def keras_bidirectional(x, *weights, gate="sigmoid"):
    """Keras's Bidirectional with merge_mode="concat"."""
    half = len(weights) // 2
    forward = keras_layer(x, *weights[:half], gate=gate)
    backward = keras_layer(x[:, ::-1], *weights[half:], gate=gate)[:, ::-1]
    return np.concatenate([forward, backward], axis=2)


def layer_weights(rng, inputs, units, bias=True, dtype="float64"):
    shapes = [(inputs, 4 * units), (units, 4 * units), (4 * units,)][: 3 if bias else 2]
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def outputs(lstm, x):
    return lstm.forward(np.ascontiguousarray(x, lstm.dtype))[0]


def keras():
    os.environ.setdefault("KERAS_BACKEND", "torch")
    pytest.importorskip("torch", reason="torch is not installed")
    return pytest.importorskip("keras", reason="keras is not installed")


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("bias", [True, False])
def test_arrays_of_a_layer_compute_what_keras_computes(gate, bias):
    rng = np.random.default_rng(0)
    weights, x = layer_weights(rng, 4, 5, bias), rng.standard_normal((3, 7, 4))
    lstm = from_keras(weights, recurrent_activation=gate)
    assert lstm.dtype == "float64" and lstm.batch_first
    np.testing.assert_allclose(outputs(lstm, x), keras_layer(x, *weights, gate=gate), rtol=0, atol=1e-13)
    timed = from_keras(weights, recurrent_activation=gate, batch_first=False)
    np.testing.assert_allclose(outputs(timed, x.swapaxes(0, 1)).swapaxes(0, 1), outputs(lstm, x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("bias", [True, False])
def test_arrays_of_a_bidirectional_stack_compute_what_keras_computes(gate, bias):
    rng = np.random.default_rng(0)
    stack = [[*layer_weights(rng, d, 5, bias), *layer_weights(rng, d, 5, bias)] for d in (4, 10, 10)]
    x = rng.standard_normal((3, 7, 4))
    lstm = from_keras(stack, recurrent_activation=gate)
    assert (lstm.num_layers, lstm.num_directions) == (3, 2)
    y = x
    for weights in stack:
        y = keras_bidirectional(y, *weights, gate=gate)
    np.testing.assert_allclose(outputs(lstm, x), y, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2},
        {"num_layers": 2, "bidirectional": True},
        {"bias": False},
        {"bias": False, "bidirectional": True},
        {"hard_sigmoid": True, "bidirectional": True},
    ],
    ids=str,
)
def test_arrays_out_compute_the_same_and_come_back(options, tmp_path):
    pytest.importorskip("h5py", reason="h5py is not installed")
    lstm = LSTM(4, 5, dtype="float64", batch_first=True, seed=1, **options)
    x = np.random.default_rng(0).standard_normal((3, 7, 4))
    stack = to_keras(lstm, tmp_path / "ours.weights.h5")
    gate, y = "hard_sigmoid" if lstm.options.hard_sigmoid else "sigmoid", x
    for weights in stack:
        y = (keras_bidirectional if lstm.num_directions == 2 else keras_layer)(y, *weights, gate=gate)
    np.testing.assert_allclose(outputs(lstm, x), y, rtol=0, atol=1e-13)
    for source in (stack, tmp_path / "ours.weights.h5"):
        back = from_keras(source, recurrent_activation=gate)
        assert set(back.params) == set(lstm.params) and back.options == lstm.options
        for name, array in lstm.params.items():
            np.testing.assert_allclose(back.params[name], array, rtol=1e-15, atol=0)


def test_half_precision_becomes_float32_and_a_dtype_can_be_named():
    weights = layer_weights(np.random.default_rng(0), 4, 5, dtype="float16")
    lstm = from_keras(weights)
    assert lstm.dtype == "float32"
    np.testing.assert_array_equal(lstm.params["weight_ih_l0"], weights[0].T.astype(np.float32))
    assert from_keras(weights, dtype="float64").dtype == "float64"
    half = from_keras(weights, dtype="float16")
    assert half.dtype == "float16" and half.params["weight_ih_l0"].dtype == np.float32
    np.testing.assert_array_equal(to_keras(half)[0][1], weights[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w[:1], "source has 1 arrays; expected kernel"),
        (lambda w: [w[0], w[1], w[2][:-1]], r"shapes \(4, 20\), \(5, 20\), \(19,\); expected \(D, 4 H\)"),
        (lambda w: [w[0][:, :15], w[1][:, :15]], "expected"),  # a GRU's
        (lambda w: [w[1], w[0], w[2]], "expected"),
        (lambda w: [a.astype(int) for a in w], "dtype int64"),
        (lambda w: [w, layer_weights(np.random.default_rng(0), 4, 5)], r"layer 1 has input and hidden sizes \(4, 5\)"),
        (lambda w: [w, [*w, w[0]]], "layer 1 has 4 arrays"),
        (lambda w: [*w, w[0], w[1][:4, :16], w[2][:16]], "expected"),
        (lambda w: [], "source is a list"),
        (lambda w: w[0], "source is a ndarray"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        from_keras(change(layer_weights(np.random.default_rng(0), 4, 5)))


def test_arguments_that_do_not_fit_are_refused(tmp_path):
    weights = layer_weights(np.random.default_rng(0), 4, 5)
    with pytest.raises(InputError, match="recurrent_activation is 'relu'"):
        from_keras(weights, recurrent_activation="relu")
    with pytest.raises(InputError, match="layers names layers of a file or model"):
        from_keras(weights, ["lstm"])
    with pytest.raises(InputError, match=r"ends in \.weights\.h5"):
        to_keras(LSTM(2, 3), tmp_path / "model.h5")
    (tmp_path / "folder.weights.h5").mkdir()
    for call in (from_keras, lambda path: to_keras(LSTM(2, 3), path)):
        with pytest.raises(InputError, match="path is the folder"):
            call(tmp_path / "folder.weights.h5")
    with pytest.raises(InputError, match="lstm is a list"):
        to_keras(weights)


@pytest.mark.parametrize("options", [{"proj_size": 2}, {"peepholes": True}, {"clip": 1.0}, {"heads": 2}], ids=str)
def test_options_that_keras_lacks_are_refused_by_name(options):
    ((name, value),) = options.items()
    with pytest.raises(InputError, match=f"lstm has {name}={value}; .* Keras's LSTM has no such option"):
        to_keras(LSTM(2, 4, **options))


class Layer:
    """What we ask of a Keras layer."""

    def __init__(self, weights, **settings):
        self.weights, self.settings = weights, settings
        kind = "Bidirectional" if "merge_mode" in settings else "LSTM"
        self.__class__ = type(kind, (Layer,), {"__module__": "tensorflow.keras.layers"})

    def get_weights(self):
        return self.weights

    def get_config(self):
        plain = {"activation": "tanh", "recurrent_activation": "sigmoid", "go_backwards": False}
        if "merge_mode" in self.settings:
            return {"merge_mode": self.settings["merge_mode"], "layer": {"class_name": "LSTM", "config": plain}}
        return plain | self.settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "relu"}, "activation='relu'; expected tanh"),
        ({"recurrent_activation": "linear"}, "recurrent_activation='linear'; expected sigmoid or hard_sigmoid"),
        ({"go_backwards": True}, "go_backwards=True"),
        ({"merge_mode": "sum"}, "merge_mode='sum'; expected 'concat'"),
        ({"scale": 2.0}, r"scale=2\.0; expected settings of Keras's LSTM alone"),
    ],
)
def test_settings_of_a_layer_that_we_can_not_express_are_refused(settings, message):
    weights = layer_weights(np.random.default_rng(0), 4, 5)
    with pytest.raises(InputError, match=message):
        from_keras(Layer(weights, **settings))
    with pytest.raises(InputError, match="layer 1(?: has |'s forward layer has )" + message):
        from_keras([Layer(weights), Layer(weights, **settings)])


def write(path, arrays):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def group(name, weights):
    return {f"{name}/vars/{number}": array for number, array in enumerate(weights)}


def test_layers_of_a_file_are_chosen_by_name(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "model.weights.h5"
    low, top, other = (layer_weights(rng, d, 5) for d in (4, 5, 4))
    write(
        path,
        group("encoder/cell", low)
        | group("blocks/lstm_1/cell", top)
        | group("layers/lstm/cell", other)
        | group("layers/gru/cell", [np.zeros((4, 15)), np.zeros((5, 15)), np.zeros((2, 15))])
        | group("layers/dense", [np.zeros((4, 20)), np.zeros(20)]),
    )
    x = rng.standard_normal((3, 7, 4))
    lstm = from_keras(path, ["encoder", "blocks/lstm_1"])
    expected = keras_layer(keras_layer(x, *low), *top)
    np.testing.assert_allclose(outputs(lstm, x), expected, rtol=0, atol=1e-13)
    with pytest.raises(InputError, match=r"LSTM layers blocks/lstm_1, encoder, layers/lstm; say with layers="):
        from_keras(path)
    with pytest.raises(InputError, match="layers has 'gru'; expected one of those"):
        from_keras(path, ["gru"])
    with pytest.raises(InputError, match="layers is empty"):
        from_keras(path, [])


def test_numbered_layers_of_a_file_are_a_stack_in_the_order_of_the_numbers(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "model.weights.h5"
    stack = [layer_weights(rng, d, 5) for d in (4, *[5] * 11)]
    named = {f"layers/lstm{f'_{k}' if k else ''}/cell": weights for k, weights in enumerate(stack)}
    write(path, {name: array for layer, weights in named.items() for name, array in group(layer, weights).items()})
    for place, weights in enumerate(stack):
        np.testing.assert_array_equal(from_keras(path).params[f"weight_hh_l{place}"], weights[1].T)


def test_files_that_are_none_are_refused(tmp_path):
    pytest.importorskip("h5py", reason="h5py is not installed")
    with pytest.raises(InputError, match="does not exist"):
        from_keras(tmp_path / "none.weights.h5")
    (tmp_path / "text.weights.h5").write_text("no file of HDF5")
    with pytest.raises(InputError, match="can't be read"):
        from_keras(tmp_path / "text.weights.h5")
    (tmp_path / "model.keras").write_bytes(b"PK")
    with pytest.raises(InputError, match="can't be read"):
        from_keras(tmp_path / "model.keras")
    write(tmp_path / "dense.weights.h5", group("layers/dense", [np.zeros((4, 20)), np.zeros(20)]))
    with pytest.raises(InputError, match="has no LSTM layer"):
        from_keras(tmp_path / "dense.weights.h5")


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(BackendError, match=r"pip install \"gpu-lstm\[keras\]\""):
        from_keras(tmp_path / "model.weights.h5")


# Keras itself

KERAS = [
    {"recurrent_activation": gate, "use_bias": bias} for gate in ("sigmoid", "hard_sigmoid") for bias in (True, False)
]


def keras_model(layers, settings, bidirectional):
    k = keras()
    model = k.Sequential([k.Input((None, 4))])
    for _ in range(layers):
        layer = k.layers.LSTM(5, return_sequences=True, dropout=0.2, bias_initializer="random_normal", **settings)
        model.add(k.layers.Bidirectional(layer) if bidirectional else layer)
    return model


@pytest.mark.parametrize("settings", KERAS, ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_keras_itself_computes_the_same_from_file_layers_and_arrays(settings, bidirectional, tmp_path):
    model = keras_model(2, settings, bidirectional)
    x = np.random.default_rng(0).standard_normal((3, 7, 4)).astype(np.float32)
    expected = model.predict(x, verbose=0)
    model.save_weights(tmp_path / "theirs.weights.h5")
    gate = {"recurrent_activation": settings["recurrent_activation"]}
    for lstm in (
        from_keras(tmp_path / "theirs.weights.h5", **gate),
        from_keras(model.layers),
        from_keras([layer.get_weights() for layer in model.layers], **gate),
    ):
        np.testing.assert_allclose(outputs(lstm, x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", KERAS, ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_keras_itself_loads_what_we_write(settings, bidirectional, tmp_path):
    model = keras_model(2, settings, bidirectional)
    options = {"hard_sigmoid": True} if settings["recurrent_activation"] == "hard_sigmoid" else {}
    if not settings["use_bias"]:
        options["bias"] = False
    lstm = LSTM(4, 5, 2, bidirectional=bidirectional, batch_first=True, seed=1, **options)
    x = np.random.default_rng(0).standard_normal((3, 7, 4)).astype(np.float32)
    weights = to_keras(lstm, tmp_path / "ours.weights.h5")
    model.load_weights(tmp_path / "ours.weights.h5")
    np.testing.assert_allclose(model.predict(x, verbose=0), outputs(lstm, x), rtol=0, atol=1e-5)
    again = keras_model(2, settings, bidirectional)
    for layer, arrays in zip(again.layers, weights, strict=True):
        layer.set_weights(arrays)
    np.testing.assert_allclose(again.predict(x, verbose=0), outputs(lstm, x), rtol=0, atol=1e-5)

"""What Keras itself computes, of whole models, their files and every setting of a layer: the same here, or refused."""

import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("keras", reason="keras is not installed")
pytest.importorskip("h5py", reason="h5py is not installed")

import h5py
import keras

from gpu_lstm import LSTM, InputError, Stack
from gpu_lstm.interop.keras import from_keras, to_keras

K = keras.layers
X = np.random.default_rng(0).standard_normal((3, 6, 4)).astype(np.float32)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def lstm(units=5, **settings):
    return K.LSTM(units, **{"return_sequences": True, "bias_initializer": "random_normal"} | settings)


def sequential(*layers, steps=6):
    return keras.Sequential([keras.Input((steps, 4)), *layers])


def numbers(value):
    return keras.ops.convert_to_numpy(value)


def same(layer, expected, x=X, **call):
    np.testing.assert_allclose(layer.forward(x, **call)[0], numbers(expected), rtol=0, atol=2e-6)


def files(model, folder):
    """The model in each kind of file."""
    for name in ("model.keras", "model.h5", "model.weights.h5"):
        path = folder / name
        model.save_weights(path) if "weights" in name else model.save(path)
        yield path


# -- every setting of a layer ------------------------------------------------------------------------------------

SAME = {
    "use_bias": False,
    "kernel_initializer": "ones",
    "recurrent_initializer": "glorot_uniform",
    "bias_initializer": "ones",
    "unit_forget_bias": False,
    "kernel_regularizer": "l2",
    "recurrent_regularizer": "l2",
    "bias_regularizer": "l2",
    "activity_regularizer": "l2",
    "kernel_constraint": "max_norm",
    "recurrent_constraint": "max_norm",
    "bias_constraint": "max_norm",
    "dropout": 0.3,
    "recurrent_dropout": 0.3,
    "seed": 1,
    "unroll": True,
    "stateful": False,
    "use_cudnn": False,
    "zero_output_for_mask": True,
    "recurrent_activation": "hard_sigmoid",
    "activation": "tanh",
    "name": "mine",
    "trainable": False,
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("twice", [False, True], ids=["one", "both"])
def test_settings_that_are_taken_over_or_change_nothing(name, twice):
    layer = lstm(**{name: SAME[name]})
    layer = K.Bidirectional(layer) if twice else layer
    model = sequential(layer)
    same(from_keras(layer), model(X))
    same(from_keras(model), model(X))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "relu"}, "activation='relu'; expected tanh"),
        ({"activation": None}, "activation='linear'; expected tanh"),
        ({"recurrent_activation": "tanh"}, "recurrent_activation='tanh'; expected sigmoid or hard_sigmoid"),
        ({"go_backwards": True}, "go_backwards=True; expected False"),
    ],
)
def test_settings_that_can_not_be_expressed_are_refused_by_name(settings, message, tmp_path):
    model = sequential(lstm(**settings))
    model.save(tmp_path / "model.keras")
    for source in (model, model.layers[0], tmp_path / "model.keras"):
        with pytest.raises(InputError, match=message):
            from_keras(source)


class Own(K.LSTM):  # type: ignore[name-defined]
    """A layer of the user's own, which may compute anything."""


class OwnCell(K.LSTMCell):  # type: ignore[name-defined]
    """The same of a cell."""


@pytest.mark.parametrize("place", ["alone", "LSTM by name", "cell", "cells", "Bidirectional", "backward"])
def test_a_class_of_the_user_s_own_is_refused(place, tmp_path):
    layer = {
        "alone": lambda: Own(5, return_sequences=True),
        "LSTM by name": lambda: type("LSTM", (K.LSTM,), {})(5, return_sequences=True),
        "cell": lambda: K.RNN(OwnCell(5), return_sequences=True),
        "cells": lambda: K.RNN([K.LSTMCell(5), K.LSTMCell(5)], return_sequences=True),
        "Bidirectional": lambda: type("Bidirectional", (K.Bidirectional,), {})(lstm()),
        "backward": lambda: K.Bidirectional(lstm(), backward_layer=Own(5, return_sequences=True, go_backwards=True)),
    }[place]()
    model = sequential(layer)
    kind = {"alone": "custom Own", "cell": "RNN of custom OwnCell", "cells": "RNN of StackedRNNCells"}
    with pytest.raises(InputError, match=f"is a {kind.get(place, 'custom ')}.*; expected Keras's own LSTM"):
        from_keras(layer)
    model.save(tmp_path / "model.keras")
    for source in (model, tmp_path / "model.keras"):
        with pytest.raises(InputError, match=r"Keras's own LSTM|no LSTM layer|say with layers"):
            from_keras(source)


@pytest.mark.parametrize("kind", ["GRU", "SimpleRNN", "Dense"])
def test_other_layers_are_refused_by_what_they_are(kind):
    layer = getattr(K, kind)(5)
    layer.build((3, 6, 4))
    with pytest.raises(InputError, match=f"layer is a {kind}; expected Keras's own LSTM"):
        from_keras(layer)


def test_states_and_the_last_output_are_those_of_return_state_and_return_sequences():
    layer = lstm(return_sequences=False, return_state=True, stateful=True)
    layer.build((3, 6, 4))
    ours, state = from_keras(layer), None
    for _ in range(2):  # the second call goes on where the first one ended: stateful
        last, h, c = map(numbers, layer(X))
        y, state, _ = ours.forward(X, state)
        for mine, theirs in ((y[:, -1], last), (state[0][0], h), (state[1][0], c)):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=2e-6)


def test_the_last_output_of_a_bidirectional_is_its_last_states():
    layer = K.Bidirectional(lstm(return_sequences=False))
    layer.build((3, 6, 4))
    y, (h, _), _ = from_keras(layer).forward(X)
    np.testing.assert_allclose(np.concatenate(list(h), axis=1), numbers(layer(X)), rtol=0, atol=2e-6)
    np.testing.assert_array_equal(np.concatenate([y[:, -1, :5], y[:, 0, 5:]], axis=1), np.concatenate(list(h), axis=1))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({}, ""),
        ({"activation": "relu"}, "layer's backward layer has activation='relu'; expected tanh"),
        ({"recurrent_activation": "hard_sigmoid"}, "layer has the recurrent activations sigmoid and hard_sigmoid"),
        ({"units": 3}, r"layer has input and hidden sizes \(4, 3\); expected \(4, 5\)"),
        ({"use_bias": False}, ""),
    ],
)
def test_a_backward_layer_of_its_own_is_checked_like_the_forward_one(own, message):
    layer = K.Bidirectional(lstm(), backward_layer=lstm(**{"go_backwards": True} | own))
    model = sequential(layer)
    if message:
        with pytest.raises(InputError, match=message):
            from_keras(layer)
    else:
        same(from_keras(layer), model(X))


def test_a_forward_layer_that_runs_backwards_is_refused():
    layer = K.Bidirectional(lstm(go_backwards=True), backward_layer=lstm())
    sequential(layer)
    with pytest.raises(InputError, match="forward layer has go_backwards=True; expected False"):
        from_keras(layer)


@pytest.mark.parametrize("mode", ["sum", "mul", "ave", None])
def test_outputs_that_are_not_concatenated_are_refused(mode):
    layer = K.Bidirectional(lstm(), merge_mode=mode)
    layer.build((None, 6, 4))
    with pytest.raises(InputError, match=f"layer has merge_mode={mode!r}; expected 'concat'"):
        from_keras(layer)


def test_behind_a_mask_keras_repeats_the_last_output_and_ours_is_zero():
    x, lengths = X.copy(), [6, 3, 1]
    for row, length in zip(x, lengths, strict=True):
        row[length:] = 0
    model = sequential(K.Masking(0.0), lstm())
    theirs, ours = numbers(model(x)), from_keras(model).forward(x, lengths=lengths)[0]
    for mine, other, length in zip(ours, theirs, lengths, strict=True):
        np.testing.assert_allclose(mine[:length], other[:length], rtol=0, atol=2e-6)
        np.testing.assert_array_equal(other[length:], np.broadcast_to(other[length - 1], other[length:].shape))
        np.testing.assert_array_equal(mine[length:], 0)
    for layer in (K.Bidirectional(lstm()), lstm(zero_output_for_mask=True)):
        model = sequential(K.Masking(0.0), layer)
        same(from_keras(model), model(x), x, lengths=lengths)


# -- files and whole models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", ["one", "same", "different", "both ways", "dropout"])
def test_every_kind_of_file_gives_what_the_model_computes(layers, tmp_path):
    model = {
        "one": lambda: sequential(lstm()),
        "same": lambda: sequential(lstm(), lstm(), K.Dense(2)),
        "different": lambda: sequential(lstm(8), lstm(5), lstm(3)),
        "both ways": lambda: sequential(K.Bidirectional(lstm(4)), K.Bidirectional(lstm(3))),
        "dropout": lambda: sequential(K.Masking(0.0), lstm(8), K.Dropout(0.5), lstm(5), K.SpatialDropout1D(0.1)),
    }[layers]()
    expected = model(X)
    if isinstance(model.layers[-1], K.Dense):
        expected = keras.Sequential(model.layers[:-1])(X)
    for source in (model, *files(model, tmp_path)):
        ours = from_keras(source)
        assert isinstance(ours, LSTM) == (layers in ("one", "same"))
        same(ours, expected)


def test_layers_may_differ_in_directions_and_recurrent_activation(tmp_path):
    model = sequential(K.Bidirectional(lstm(4)), lstm(5, recurrent_activation="hard_sigmoid", use_bias=False), lstm(5))
    path, keras_file, weights = tmp_path / "model.h5", tmp_path / "model.keras", tmp_path / "model.weights.h5"
    model.save(path)
    model.save(keras_file)
    model.save_weights(weights)
    for source in (model, model.layers, path, keras_file):
        ours = from_keras(source)
        assert isinstance(ours, Stack) and len(ours.layers) == 3
        same(ours, model(X))
    with pytest.raises(InputError, match=r"say with layers=\[...\] .*: their order is not known"):
        from_keras(weights)
    again = sequential(K.Bidirectional(lstm(4)), lstm(5, recurrent_activation="hard_sigmoid", use_bias=False), lstm(5))
    for layer, arrays in zip(again.layers, to_keras(from_keras(model), tmp_path / "ours.weights.h5"), strict=True):
        layer.set_weights(arrays)
    np.testing.assert_allclose(numbers(again(X)), numbers(model(X)), rtol=0, atol=2e-6)
    again.load_weights(tmp_path / "ours.weights.h5")
    np.testing.assert_allclose(numbers(again(X)), numbers(model(X)), rtol=0, atol=2e-6)


def test_a_cell_within_rnn_is_an_lstm(tmp_path):
    model = sequential(K.RNN(K.LSTMCell(5, recurrent_activation="hard_sigmoid"), return_sequences=True), lstm(3))
    model.save(tmp_path / "model.keras")
    same(from_keras(tmp_path / "model.keras"), model(X))


@pytest.mark.parametrize("between", ["Dense", "RepeatVector", "BatchNormalization", "Activation", "GRU", "Masking"])
def test_what_lies_between_two_layers_is_refused_by_name(between, tmp_path):
    layer = {
        "Dense": lambda: K.Dense(5),
        "RepeatVector": lambda: K.RepeatVector(6),
        "BatchNormalization": K.BatchNormalization,
        "Activation": lambda: K.Activation("relu"),
        "GRU": lambda: K.GRU(5, return_sequences=True),
        "Masking": K.Masking,
    }[between]()
    model = sequential(lstm(5, return_sequences=between != "RepeatVector", name="low"), layer, lstm(3, name="top"))
    *whole, weights = files(model, tmp_path)
    for source in (model, *whole):
        with pytest.raises(
            InputError, match=f"between low and top lies {layer.name}, a {between}; .* say with layers="
        ):
            from_keras(source)
        assert from_keras(source, ["low"]).hidden_size == 5
        assert from_keras(source, ["top"]).hidden_size == 3
    if between != "Masking":  # which can't be told from one in front
        with pytest.raises(InputError, match=r"low.*top.*; say with layers=.* may lie between them"):
            from_keras(weights)
        assert from_keras(weights, ["low", "top"]).input_size == 4  # as one wishes


def test_what_is_in_front_and_behind_is_left_out(tmp_path):
    model = sequential(K.Dense(4), lstm(5, name="low"), lstm(3, name="top"), K.Dense(2))
    inner = keras.Sequential(model.layers[1:3])
    for path in list(files(model, tmp_path))[:2]:
        same(from_keras(path), inner(X))


def branches():
    x = keras.Input((6, 4))
    low = lstm(4, name="low")(x)
    return keras.Model(x, K.Concatenate()([lstm(4, name="left")(low), lstm(4, name="right")(low)]))


def test_layers_of_equal_shapes_that_are_no_stack_are_asked_for(tmp_path):
    model = branches()
    *whole, weights = files(model, tmp_path)
    for source in (model, *whole):
        with pytest.raises(InputError, match=r"left and right are side by side; say with layers="):
            from_keras(source)
    with pytest.raises(InputError, match="say with layers=.*: concatenate may lie between them"):
        from_keras(weights)
    for source in (model, *whole, weights):
        both = from_keras(source, ["low", "right"])
        same(both, keras.Model(model.inputs, model.get_layer("right").output)(X))
    x = keras.Input((6, 4))
    two = keras.Model(x, [lstm(4)(x), lstm(4)(x)])
    two.save_weights(weights)
    with pytest.raises(InputError, match="layers/lstm_1 may take what another one gives"):
        from_keras(weights)


def test_an_initial_state_of_the_model_s_own_is_refused():
    x = keras.Input((6, 4))
    _, h, c = K.LSTM(5, return_state=True, name="encoder")(x)
    model = keras.Model(x, lstm(5, name="decoder")(x, initial_state=[h, c]))
    with pytest.raises(InputError, match="decoder takes .*encoder.*; expected x alone: say with layers="):
        from_keras(model)
    ours, decoder = from_keras(model, ["encoder"]), from_keras(model, ["decoder"])
    same(decoder, model(X), state=ours.forward(X)[1])


def test_a_functional_model_with_masks_and_states_is_read(tmp_path):
    words = np.array([[1, 2, 3, 0], [4, 5, 0, 0]])
    ids = keras.Input((4,))
    embedded = K.Embedding(6, 4, mask_zero=True, name="words")(ids)
    y, _, _ = lstm(5, return_state=True)(embedded)
    y = K.Bidirectional(lstm(3))(K.Dropout(0.3)(y))
    model = keras.Model(ids, y)
    x = numbers(model.get_layer("words")(words))
    for source in (model, *list(files(model, tmp_path))[:2]):
        same(from_keras(source), model(words), x, lengths=[3, 2])


def test_layers_within_other_layers_are_asked_for(tmp_path):
    inner = keras.Sequential([keras.Input((6, 4)), lstm(5, recurrent_activation="hard_sigmoid")], name="inner")
    model = sequential(inner, lstm(3))
    model.save(tmp_path / "model.keras")
    with pytest.raises(InputError, match=r"layers/sequential/layers/lstm .*is within another layer; say with layers="):
        from_keras(tmp_path / "model.keras")
    same(from_keras(tmp_path / "model.keras", ["layers/sequential/layers/lstm", "layers/lstm"]), model(X))
    timed = keras.Sequential([keras.Input((2, 6, 4)), K.TimeDistributed(lstm(5, activation="relu"))])
    timed.save(tmp_path / "timed.keras")
    with pytest.raises(InputError, match="within another layer"):
        from_keras(tmp_path / "timed.keras")
    with pytest.raises(InputError, match="activation='relu'"):
        from_keras(tmp_path / "timed.keras", ["layers/time_distributed/layer"])


@pytest.mark.parametrize("place", ["in front", "behind"])
def test_layers_within_a_model_that_is_a_layer_are_never_dropped(place, tmp_path):
    inner = keras.Sequential([keras.Input((6, 4)), K.Dense(4), lstm(4)], name="inner")
    model = sequential(*((inner, lstm(4)) if place == "in front" else (lstm(4), inner)))
    for source in (model, *list(files(model, tmp_path))[:2]):
        with pytest.raises(InputError, match="sequential/layers/lstm is within another layer; say with layers="):
            from_keras(source)


def test_a_model_of_the_user_s_own_class_is_asked_for_its_layers(tmp_path):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.top, self.low = lstm(4), lstm(4)

        def call(self, x):
            return self.top(self.low(x))

    model = Own()
    expected = model(X)
    with pytest.raises(InputError, match="source is a Own, which doesn't say how its layers are called"):
        from_keras(model)
    same(from_keras([model.low, model.top]), expected)
    model.save_weights(tmp_path / "own.weights.h5")
    with pytest.raises(InputError, match="say with layers="):
        from_keras(tmp_path / "own.weights.h5")
    same(from_keras(tmp_path / "own.weights.h5", ["layers/lstm_1", "layers/lstm"]), expected)


def test_bfloat16_weights_of_a_file_become_float32(tmp_path):
    model = sequential(lstm(recurrent_initializer="glorot_uniform", dtype="bfloat16"))
    for path in files(model, tmp_path):
        ours = from_keras(path)
        assert ours.dtype == "float32"
        kernel = numbers(keras.ops.cast(model.layers[0].cell.kernel, "float32"))
        np.testing.assert_array_equal(ours.params["weight_ih_l0"], kernel.T)


@pytest.mark.parametrize("version", ["2.2.4", "3.1.0"])
def test_the_hard_sigmoid_is_that_of_the_keras_that_wrote_the_file(version, tmp_path):
    model = sequential(lstm(recurrent_activation="hard_sigmoid"))
    model.save(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        file.attrs["keras_version"] = file["model_weights"].attrs["keras_version"] = version.encode()
    ours = from_keras(tmp_path / "model.h5")
    kernel = model.layers[0].get_weights()[0].T[:5]  # of the gate i: the slope is 0.2 in ours and in Keras 2
    np.testing.assert_allclose(ours.params["weight_ih_l0"][:5], kernel * (1 if version < "3" else 5 / 6), rtol=1e-6)


def test_older_descriptions_of_a_model_are_read(tmp_path):
    """As Keras 2 wrote them: calls as nested lists, and a Sequential model as a list of layers."""
    model = sequential(lstm(8, name="low"), lstm(5, name="top"))
    path = tmp_path / "model.h5"
    model.save(path)
    settings = [layer.get_config() | {"time_major": False, "implementation": 1} for layer in model.layers]
    listed = [{"class_name": "LSTM", "config": one} for one in settings]
    graph = [{"class_name": "InputLayer", "name": "in", "config": {"name": "in"}, "inbound_nodes": []}]
    for one, source in zip(listed, ("in", "low"), strict=True):
        graph.append({**one, "name": one["config"]["name"], "inbound_nodes": [[[source, 0, 0, {}]]]})
    for kind, config in (("Sequential", listed), ("Model", {"name": "model", "layers": graph})):
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = json.dumps({"class_name": kind, "config": config}).encode()
        same(from_keras(path), model(X))
    settings[1]["time_major"] = True
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": listed}})
    with pytest.raises(InputError, match="top has time_major=True; expected False"):
        from_keras(path)
    with h5py.File(path, "r+") as file:
        del file.attrs["model_config"]
    same(from_keras(path), model(X))  # weights alone


def test_the_recurrent_activation_that_is_said_is_that_of_the_model(tmp_path):
    model = sequential(lstm())
    model.save(tmp_path / "model.keras")
    with pytest.raises(InputError, match="recurrent_activation is 'hard_sigmoid'; expected 'sigmoid', as lstm"):
        from_keras(tmp_path / "model.keras", recurrent_activation="hard_sigmoid")


def test_names_that_mean_two_layers_are_refused(tmp_path):
    model = sequential(lstm(4, name="lstm_1"), lstm(5, name="lstm_2"))
    for path in list(files(model, tmp_path))[::2]:
        with pytest.raises(
            InputError, match=r"layers has 'lstm_1'; .*layers/lstm \(lstm_1\), layers/lstm_1 \(lstm_2\)"
        ):
            from_keras(path, ["lstm_1"])
        assert from_keras(path, ["lstm_2"]).hidden_size == 5
        assert from_keras(path, ["layers/lstm_1"]).hidden_size == 5


def test_damaged_whole_models_are_refused(tmp_path):
    model = sequential(lstm())
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as whole, zipfile.ZipFile(tmp_path / "half.keras", "w") as half:
        half.writestr("config.json", whole.read("config.json"))
    with pytest.raises(InputError, match=r"half\.keras can't be read: "):
        from_keras(tmp_path / "half.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as whole, zipfile.ZipFile(tmp_path / "other.keras", "w") as other:
        for name in whole.namelist():
            other.writestr(name, whole.read(name).replace(b'"units": 5', b'"units": 6'))
    with pytest.raises(InputError, match="has weights of 5 units; expected 6"):
        from_keras(tmp_path / "other.keras")


def test_layers_in_a_list_are_all_taken_or_refused():
    model = sequential(lstm(8), K.Dropout(0.1), lstm(5), K.Dense(2))
    same(from_keras(model.layers[:3]), keras.Sequential(model.layers[:3])(X))
    with pytest.raises(InputError, match="layer 3 is a Dense; expected Keras's own LSTM"):
        from_keras(model.layers)
    encoder = sequential(lstm(4, return_sequences=False), K.RepeatVector(6), lstm(4))
    with pytest.raises(InputError, match="layer 0 has return_sequences=False; expected True"):
        from_keras([encoder.layers[0], encoder.layers[2]])


def test_the_code_on_the_page_runs(tmp_path, monkeypatch):
    page = Path(__file__).parent.parent / "docs" / "doors" / "keras.md"
    monkeypatch.chdir(tmp_path)
    model = sequential(lstm(8, name="lstm"), lstm(5, name="lstm_1"))
    model.save("theirs.keras")
    names = {"model": model}
    (block,) = re.findall(r"```py\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    exec(compile(block, page, "exec"), names)
    again = sequential(lstm(8), lstm(5))
    again.load_weights("ours.weights.h5")
    same(names["lstm"], again(X))

"""Numbers, switches, names and sizes that functions are given: another thing is refused by the argument's name."""

import math

import numpy as np
import pytest

import gpu_lstm
from gpu_lstm import (
    LSTM,
    SGD,
    Adam,
    AdamW,
    Classifier,
    Dropout,
    Embedding,
    Forecaster,
    InputError,
    LanguageModel,
    Linear,
    LSTMCell,
    Regressor,
    Reversed,
    RMSProp,
    Tagger,
    huber,
    softmax_cross_entropy,
)  # fmt: skip
from gpu_lstm.cli import main
from gpu_lstm.optimizers import clip_by_global_norm, make_optimizer
from gpu_lstm.schedules import cosine, make_schedule, warm_up
from gpu_lstm.training import Settings
from tests.support import NUMPY

NO_NUMBERS: tuple[object, ...] = (
    None,
    "1",
    "",
    [0.5],
    np.array([0.1, 0.2]),
    np.zeros(0),
    True,
    1j,
    b"1",
    {},
    np.datetime64("2020-01-01"),
)
NO_FINITE = (*NO_NUMBERS, math.nan, math.inf, -math.inf)
NO_WHOLE = (*NO_FINITE, 0.5, 10**30)
NO_SWITCHES = (None, "yes", "", 0, 1, [True], np.array([True, False]), math.nan)
ONE = np.ones(1, np.float32)


def taking(make, **usual):
    """What is made with the usual arguments, but for those that are given."""
    return lambda **given: make(**(usual | given))


def updated(**given):
    Adam({"p": ONE.copy()}).update(**({"gradients": {"p": ONE.copy()}} | given))


lstm = taking(LSTM, input_size=2, hidden_size=4, num_layers=2, backend=NUMPY)
cell = taking(LSTMCell, input_size=2, hidden_size=4, backend=NUMPY)
classifier = taking(Classifier, mean=[0, 0], spread=[1, 1], num_classes=3, hidden_size=4, backend=NUMPY)
regressor = taking(Regressor, mean=[0], spread=[1], target_mean=[0], target_spread=[1], hidden_size=4, backend=NUMPY)
forecaster = taking(Forecaster, mean=[0, 0], spread=[1, 1], step_spread=[1, 1], hidden_size=4, backend=NUMPY)
language = taking(LanguageModel, vocabulary_size=5, embedding_size=3, hidden_size=4, backend=NUMPY)
tagger = taking(Tagger, mean=[0, 0], spread=[1, 1], num_classes=3, hidden_size=4, backend=NUMPY)
settings = taking(Settings, epochs=1, learning_rate=0.1)
params = {"p": ONE}
NUMBERS = {
    "LSTM": (lstm, ("dropout", "zoneout_h", "zoneout_c", "input_dropout", "recurrent_dropout", "weight_dropout"), ()),
    "LSTM's clips": (lstm, ("clip", "cell_clip"), (None,)),
    "forget_bias": (lstm, ("forget_bias",), (None,)),
    "LSTMCell": (cell, ("zoneout_h",), ()),
    "Dropout": (taking(Dropout, backend=NUMPY), ("p",), ()),
    "SGD": (taking(SGD, params=params), ("learning_rate", "momentum"), ()),
    "Adam": (taking(Adam, params=params), ("learning_rate", "beta1", "beta2", "eps"), ()),
    "AdamW": (taking(AdamW, params=params), ("weight_decay",), ()),
    "RMSProp": (taking(RMSProp, params=params), ("decay", "eps"), ()),
    "huber": (taking(huber, prediction=[1.0], target=[2.0]), ("delta",), (math.inf,)),
    "cosine": (taking(cosine, steps=5), ("floor",), ()),
    "Settings": (settings, ("learning_rate", "warm_up", "clip", "save_minutes"), ()),
    "models": (classifier, ("dropout",), ()),
}
SIZES = {
    "LSTM": (lstm, ("input_size", "hidden_size", "num_layers", "proj_size", "heads")),
    "Linear": (taking(Linear, input_size=2, output_size=3, backend=NUMPY), ("input_size", "output_size")),
    "Embedding": (
        taking(Embedding, num_embeddings=5, embedding_dim=2, backend=NUMPY), ("num_embeddings", "embedding_dim"),
    ),
    "LanguageModel": (language, ("vocabulary_size", "hidden_size")),
    "Classifier": (classifier, ("num_classes", "hidden_size")),
    "Tagger": (tagger, ("num_classes",)),
    "Forecaster": (forecaster, ("horizon", "memory")),
    "Settings": (settings, ("epochs", "validations", "patience", "keep", "shares")),
    "cosine": (cosine, ("steps",)),
    "warm_up": (taking(warm_up, then=cosine(5)), ("steps",)),
    "make_schedule": (taking(make_schedule, name="cosine", steps=5), ("steps", "warm_up_steps")),
    "cross-entropy": (taking(softmax_cross_entropy, prediction=[[0.0]], target=[0]), ("ignore_index",)),
}  # fmt: skip
SWITCHES = ("bidirectional", "batch_first", "recompute", "peepholes", "coupled", "layer_norm", "cells", "bias")


def refused(call, name, values):
    for value in values:
        with pytest.raises(InputError) as caught:
            call(**{name: value})
        assert str(caught.value).startswith(name), value


@pytest.mark.parametrize("what", NUMBERS)
def test_what_is_no_number_is_refused_by_name(what):
    call, names, fitting = NUMBERS[what]
    for name in names:
        refused(call, name, [value for value in NO_FINITE if not any(value is fits for fits in fitting)])


@pytest.mark.parametrize("what", SIZES)
def test_what_is_no_whole_number_is_refused_by_name(what):
    call, names = SIZES[what]
    for name in names:
        values = [value for value in NO_WHOLE if not (value is None and name == "ignore_index")]
        refused(call, name, values)


@pytest.mark.parametrize("name", SWITCHES)
def test_what_is_neither_true_nor_false_is_refused_by_name(name):
    refused(lstm, name, NO_SWITCHES)
    assert lstm(**{name: np.True_}) is not None


def test_names_are_refused_by_name():
    for value in (None, "x", 1, ["adam"], np.zeros(2)):
        for call, name in (
            (taking(make_optimizer, backend=NUMPY, params=params, learning_rate=0.1), "name"),
            (taking(make_schedule, steps=5), "name"),
            (lstm, "tier"),
            (taking(LSTM, input_size=2, hidden_size=4), "backend"),
            (settings, "on_nonfinite"),
            (taking(Reversed), "lstm"),
            (taking(SGD, learning_rate=0.1), "params"),
            (taking(regressor().loss, x=np.zeros((3, 1, 1)), lengths=[3], targets=np.zeros((1, 1))), "loss"),
        ):
            if name == "backend" and value is None:
                continue  # the best that there is
            with pytest.raises(InputError, match=r"^\w+ is "):
                call(**{name: value})


def test_an_update_by_what_is_no_number_moves_nothing():
    weights = {"p": ONE.copy()}
    optimizer = Adam(weights)
    for more in ({"factor": math.nan}, {"factor": math.inf}, {"loss_scale": 0.0}, {"loss_scale": math.nan}):
        with pytest.raises(InputError, match="factor is .*, loss_scale "):
            optimizer.update({"p": ONE.copy()}, **more)
    assert weights["p"] == ONE
    assert optimizer.updates == 0
    for value in (0, -1, math.nan):
        with pytest.raises(InputError, match="max_norm is"):
            clip_by_global_norm(NUMPY, {"p": ONE.copy()}, value)


@pytest.mark.parametrize(
    ("call", "name", "count"),
    [
        (classifier, "mean", 2), (classifier, "spread", 2), (forecaster, "mean", 2), (forecaster, "spread", 2),
        (forecaster, "step_spread", 2), (regressor, "mean", 1), (regressor, "target_mean", 1),
        (regressor, "target_spread", 1),
    ],
)  # fmt: skip
def test_means_and_spreads_are_finite_and_as_many_as_each_other(call, name, count):
    wrong = [None, 1.0, "1", ["a"], [], [[1.0]], [math.nan] * count, [math.inf] * count, [True] * count]
    if "spread" in name:
        wrong += [[1.0] * (count + 1), [0.0] * count, [-1.0] * count]
    refused(call, name, wrong)
    if count == 2 and name == "spread":
        refused(call, name, [[1.0]])  # which would have spread over both


def test_options_and_inputs_of_a_model_are_refused_by_name():
    refused(language, "lstm", ["x", 3, [1]])
    refused(forecaster, "lstm", ["x", 3, [1]])
    refused(classifier, "frames", [None, 3, "ab", (1,), (1, 2, 3), (0, 1), (1.5, 1)])
    refused(forecaster, "quantiles", [0.5, "x", None, (0.5, 0.1), (0.5, math.nan)])
    refused(forecaster, "inputs", ["x", {"mean": [0]}, {"mean": [0], "spread": [1], "ahead": 2}])
    refused(forecaster, "distribution", [["student"], "cauchy", 3])


def test_a_composed_model_without_inputs_is_refused():
    with pytest.raises(InputError, match="x has no inputs"):
        gpu_lstm.compose(lstm=lstm()).predict({})


def test_class_weights_are_numbers_of_at_least_0():
    x, lengths, labels = np.zeros((3, 2, 2)), [3, 3], np.array([0, 1])
    for wrong in ([1, 1, -1], [1, math.nan, 1], [1, 1], "x"):
        with pytest.raises(InputError, match="class_weights"):
            classifier().loss(x, lengths, labels, class_weights=np.array(wrong))


def test_steps_without_a_label_cost_nothing_with_weights_or_without():
    model, x, labels = tagger(), np.zeros((3, 2, 2)), np.full((3, 2), -1)
    for weights in (None, np.ones(3)):
        loss, gradients = model.loss(x, np.array([3, 1]), labels, class_weights=weights)
        assert loss == 0
        assert all((gradient == 0).all() for gradient in gradients.values())


def test_numpys_numbers_are_numbers():
    few = lstm(hidden_size=np.int8(100), proj_size=np.int8(60), zoneout_h=np.float32(0.5), dropout=np.float32(0.5))
    y, state, tape = few.forward(np.ones((3, 2, 2), np.float32), seed=np.int8(1))
    assert few.backward(tape, y, state)[2]["weight_hh_l0"].shape == (400, 60)


@pytest.mark.parametrize(
    "make",
    [
        lambda: language(vocabulary_size=np.int64(5), dropout=np.float32(0.5), lstm={"proj_size": np.int8(2)}),
        lambda: classifier(mean=np.zeros(2), num_classes=np.int64(3), bidirectional=np.False_, frames=np.array([2, 1])),
        lambda: regressor(target_mean=np.zeros(1), hidden_size=np.int16(4)),
        lambda: forecaster(horizon=np.int64(2), quantiles=np.array([0.1, 0.5])),
        lambda: forecaster(inputs={"mean": np.zeros(1), "spread": np.ones(1), "ahead": np.int64(1)}),
        lambda: gpu_lstm.compose(lstm=lstm(proj_size=np.int64(2), dropout=np.float32(0.5))),
    ],
)
def test_a_model_of_numpys_numbers_is_saved_and_loaded(make, tmp_path):
    model = make()
    gpu_lstm.save(model, tmp_path / "model.safetensors")
    assert gpu_lstm.load(tmp_path / "model.safetensors", backend="numpy").config == model.config


@pytest.mark.parametrize("name", ["gaussian", "student"])
@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_a_distribution_is_as_wide_in_any_unit(name, unit):
    rng = np.random.default_rng(0)
    history, weight = rng.standard_normal((20, 3, 2)), rng.standard_normal((48, 4))
    found = []
    for one in (1.0, unit):
        model = forecaster(spread=[one] * 2, step_spread=[one] * 2, distribution=name)
        model.params["head.weight"] = weight
        found.append(model.forecast_quantiles(history * one) / one)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_lengths_and_labels_of_few_bits_do_not_wrap_around():
    model, x = classifier(frames=(3, 2)), np.random.default_rng(0).standard_normal((200, 2, 2))
    lengths, labels = np.array([200, 141]), np.array([0, 2])
    expected = model.loss(x, lengths, labels)[0], *model.logits(x, lengths).ravel()
    for kind in ("uint8", "int16", "uint64"):
        few = lengths.astype(kind)
        assert (model.loss(x, few, labels.astype(kind))[0], *model.logits(x, few).ravel()) == expected


@pytest.mark.parametrize(
    "words", ["--validation nan", "--dropout 0_1", "--batch 1_0", "--quantiles 0.5 nan", "--patience -1"]
)
def test_a_command_takes_numbers_as_people_write_them(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "series", "data.csv", *words.split()])
    assert ended.value.code == 2
    assert f"argument {words.split()[0]}: " in capsys.readouterr().err

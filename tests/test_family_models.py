"""The LSTM family in models, checkpoints and on the command line."""

import json
import math
from dataclasses import fields

import numpy as np
import pytest

from gpu_lstm import InputError
from gpu_lstm.cli import main
from gpu_lstm.layers.options import Options
from gpu_lstm.models import Classifier, Forecaster, LanguageModel, Regressor
from gpu_lstm.models.amounts import model_amounts
from gpu_lstm.optimizers import make_optimizer
from tests.support import NUMPY

FAMILIES = [
    {"proj_size": 4, "peepholes": True},
    {"layer_norm": True, "learn_state": True, "heads": 2},
    {"bias": False, "zoneout_h": 0.1, "zoneout_c": 0.1, "recurrent_dropout": 0.2},
    {"coupled": True, "residual": True, "clip": 3.0},
]


def models(lstm):
    where = {"hidden_size": 8, "num_layers": 2, "lstm": lstm, "backend": NUMPY, "dtype": "float64"}
    return {
        "text": LanguageModel(7, 5, **where),
        "series": Forecaster([0.0], [1.0], [1.0], 3, 4, **where),
        "classify": Classifier([0.0] * 2, [1.0] * 2, 3, **where),
        "regress": Regressor([0.0] * 2, [1.0] * 2, [0.0], [1.0], **where),
    }


@pytest.mark.parametrize("lstm", FAMILIES, ids="-".join)
def test_every_model_takes_the_options_and_is_made_again_from_its_description(lstm):
    for kind, model in models(lstm).items():
        assert model.config["lstm"] == lstm
        again = type(model)(**json.loads(json.dumps(model.config)), backend=NUMPY, dtype="float64")
        assert {n: p.shape for n, p in again.params.items()} == {n: p.shape for n, p in model.params.items()}
        amounts = model_amounts(kind, model.config)
        assert amounts["embedding"] + amounts["lstm"] + amounts["head"] == model.count()


@pytest.mark.parametrize("lstm", FAMILIES, ids="-".join)
def test_a_language_model_of_the_family_learns_and_draws(lstm):
    model = models(lstm)["text"]
    tokens = np.tile(np.arange(7), 4)[:, None].repeat(2, axis=1)
    first, _, gradients = model.loss(tokens, seed=(1,))
    assert sorted(gradients) == sorted(model.params)
    optimizer = make_optimizer("adam", NUMPY, model.params, 0.03)
    for step in range(100):
        optimizer.update(model.loss(tokens, seed=(1, step))[2])
    assert model.evaluate(tokens)[0] < 0.5 * float(first)
    drawn = list(model.sample(np.array([0, 1]), 5, temperature=0))
    assert len(drawn) == 5 and all(0 <= token < 7 for token in drawn)


def test_no_options_leave_the_description_as_it_was():
    assert "lstm" not in LanguageModel(7, 5, 8, backend=NUMPY).config
    assert "lstm" not in LanguageModel(7, 5, 8, lstm={}, backend=NUMPY).config


def test_words_of_a_command_line():
    assert Options.parse(["peepholes", "zoneout_h=0.1", "proj_size=64", "clip=5", "bias=false"]) == {
        "peepholes": True, "zoneout_h": 0.1, "proj_size": 64, "clip": 5.0, "bias": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    "word, message",
    [
        ("peephole", "'peephole' is no option of the LSTM; expected one of bias, proj_size, peepholes"),
        ("clip", "clip has no value; expected clip=NUMBER"),
        ("clip=hard", "clip is 'hard'; expected a number above 0, or None"),
        ("heads=2.5", "heads is '2.5'; expected a whole number of at least 1"),
        ("coupled=maybe", "coupled is 'maybe'; expected True or False"),
        ("cell_activation", "cell_activation has no value; expected cell_activation=NAME"),
        ("cell_activation=silu", "cell_activation is 'silu'; expected one of 'tanh', 'relu', 'leaky_relu'"),
        ("zoneout_h=1", r"zoneout_h is 1.0; expected a probability in \[0, 1\)"),
    ],
)
def test_words_that_are_none(word, message):
    with pytest.raises(InputError, match=message):
        Options.parse([word])


def test_the_command_line_s_help_has_a_word_for_every_option(capsys):
    with pytest.raises(SystemExit):
        main(["train", "text", "--help"])
    said = capsys.readouterr().out
    assert [name for name in (row.name for row in fields(Options)) if name not in said] == []
    assert "peepholes, " in Options.words() and "clip=NUMBER, " in Options.words()
    assert Options.words().endswith("cell_activation=NAME")
    assert Options.parse(["cell_activation=relu"]) == {"cell_activation": "relu"}


def test_models_take_h_only():
    with pytest.raises(InputError, match="cells is True; expected False, a model takes h only"):
        LanguageModel(7, 5, 8, lstm={"cells": True}, backend=NUMPY)
    with pytest.raises(InputError, match="'peephole' is no option"):
        LanguageModel(7, 5, 8, lstm={"peephole": True}, backend=NUMPY)


def test_train_resume_sample_and_evaluate_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 60)
    small = "--hidden-size 12 --embedding-size 6 --batch 4 --length 16 --epochs 3 --validations 2 --backend numpy"
    family = ["--lstm", "proj_size=6", "peepholes", "layer_norm", "zoneout_c=0.1"]
    assert main(["train", "text", "text.txt", *small.split(), *family, "--out", "run"]) == 0
    assert main(["train", "--resume", "run", "--backend", "numpy"]) == 0
    assert main(["sample", "run", "--prompt", "the", "--length", "10", "--backend", "numpy"]) == 0
    assert main(["evaluate", "run", "--backend", "numpy"]) == 0
    assert math.isfinite(float(json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["loss"]))
    capsys.readouterr()
    assert main(["train", "text", "text.txt", *small.split(), "--lstm", "peephole", "--out", "other"]) == 2
    assert "'peephole' is no option of the LSTM" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()

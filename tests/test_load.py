"""A run's model in Python: found, described, asked."""

import math
import pickle

import numpy as np
import pytest

import gpu_lstm
from gpu_lstm import InputError
from gpu_lstm.cli import main
from gpu_lstm.data.tokens import UNKNOWN, Bytes, Characters
from gpu_lstm.models import Forecaster, LanguageModel
from tests.support import NUMPY

SMALL = ["--hidden-size", "4", "--epochs", "1", "--validations", "1"]


@pytest.fixture
def text_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("the quick brown fox\n" * 30, encoding="utf-8", newline="")
    sizes = ["--batch", "2", "--length", "8", "--embedding-size", "2"]
    assert main(["train", "text", "t.txt", *SMALL, *sizes, "--out", "runs/text"]) == 0
    return tmp_path / "runs" / "text"


def test_a_language_model_writes_text(text_run, capsys):
    model = gpu_lstm.load("runs/text", backend="numpy")
    assert isinstance(model, LanguageModel)
    assert model.vocabulary == Characters(model.about["vocabulary"])
    assert model.about["options"]["hidden_size"] == 4
    capsys.readouterr()
    assert main(["sample", "runs/text", "--prompt", "the ", "--length", "30", "--seed", "3", "--top-p", "0.9"]) == 0
    drawn = "".join(model.sample("the ", 30, 0.8, seed=3, top_p=0.9))
    assert capsys.readouterr().out == f"the {drawn}\n"
    assert len(drawn) == 30
    assert UNKNOWN not in drawn
    tokens = list(model.sample(model.vocabulary.encode("the "), 30, 0.8, seed=3, never=(0,), top_p=0.9))
    assert model.vocabulary.decode(np.array(tokens)) == drawn
    again = pickle.loads(pickle.dumps(model))
    assert "".join(again.sample("the ", 30, 0.8, seed=3, top_p=0.9)) == drawn
    assert len("".join(model.sample("q"))) == 200
    with pytest.raises(InputError, match=r"prompt has characters that the model never saw: 'Z', 'ä'"):
        model.sample("Zä")


def test_text_of_bytes_is_cut_between_characters():
    model = LanguageModel(256, 2, 4, backend=NUMPY)
    model.about = {"vocabulary": Bytes().describe()}
    model.params["head.bias"][...] = np.where(np.isin(np.arange(256), list("é€".encode())), 0, -1e9)
    assert len("".join(model.sample("é", 25))) == 25
    assert "".join(model.sample("é", 0)) == ""


def test_a_model_that_was_not_loaded_has_no_vocabulary():
    model = LanguageModel(5, 2, 4, backend=NUMPY)
    assert model.about == {}
    with pytest.raises(InputError, match="vocabulary is null; expected that of characters, bytes, subwords"):
        model.sample("text")


def test_a_forecaster_forecasts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "\n".join(f"{math.sin(k / 4):.4f}" for k in range(200))
    (tmp_path / "t.csv").write_text(f"v\n{rows}\n", encoding="utf-8")
    assert main(["train", "series", "t.csv", *SMALL, "--length", "16", "--horizon", "4", "--out", "r"]) == 0
    model = gpu_lstm.load(tmp_path / "r" / "model.safetensors")
    assert isinstance(model, Forecaster)
    assert model.about["columns"] == ["v"]
    assert model.forecast(np.sin(np.arange(16) / 4)[:, None, None]).shape == (4, 1, 1)


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(InputError, match=r"folder .* has no model\.safetensors; expected a run"):
        gpu_lstm.load(tmp_path)
    with pytest.raises(InputError, match="checkpoint .*nothing does not exist"):
        gpu_lstm.load(tmp_path / "nothing")


def test_the_front_has_its_names():
    assert all(hasattr(gpu_lstm, name) for name in gpu_lstm.__all__)
    with pytest.raises(AttributeError, match="module 'gpu_lstm' has no attribute 'nothing'"):
        gpu_lstm.nothing  # noqa: B018

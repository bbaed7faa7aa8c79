"""One rule for seeds: a whole number of at least 0, or a tuple of them."""

from typing import Any

import numpy as np
import pytest

from gpu_lstm import LSTM, Dropout, Embedding, InputError, Linear, LSTMCell
from gpu_lstm.cli import main
from gpu_lstm.layers.base import check_seed
from gpu_lstm.models import Classifier, Forecaster, LanguageModel, Regressor
from gpu_lstm.teaching import LstmLayer
from gpu_lstm.training.tasks import TextTask, split_sequences
from tests.support import NUMPY

X = np.ones((4, 2, 3), np.float32)
WHERE: Any = {"backend": NUMPY}
MODEL = LanguageModel(5, 3, 4, **WHERE)
CLASSIFIER = Classifier([0] * 3, [1] * 3, 2, 4, **WHERE)
REGRESSOR = Regressor([0] * 3, [1] * 3, [0], [1], 4, **WHERE)
LENGTHS = np.array([4, 2])
TAKES: dict[str, Any] = {
    "LSTM": lambda seed: LSTM(3, 4, seed=seed, **WHERE),
    "LSTM.forward": lambda seed: LSTM(3, 4, 2, dropout=0.5, **WHERE).forward(X, seed=seed)[0],
    "LSTMCell": lambda seed: LSTMCell(3, 4, seed=seed, **WHERE),
    "LSTMCell.forward": lambda seed: LSTMCell(3, 4, zoneout_h=0.5, **WHERE).forward(X[0], seed=seed)[0],
    "Linear": lambda seed: Linear(3, 4, seed=seed, **WHERE),
    "Embedding": lambda seed: Embedding(3, 4, seed=seed, **WHERE),
    "Dropout.forward": lambda seed: Dropout(0.5, **WHERE).forward(X, seed)[0],
    "LanguageModel": lambda seed: LanguageModel(5, 3, 4, seed=seed, **WHERE),
    "LanguageModel.loss": lambda seed: MODEL.loss(np.array([[0], [1]]), seed=seed)[0],
    "LanguageModel.sample": lambda seed: np.array(list(MODEL.sample(np.array([1]), 9, seed=seed))),
    "Forecaster": lambda seed: Forecaster([0], [1], [1], seed=seed, **WHERE),
    "Forecaster.loss": lambda seed: Forecaster([0], [1], [1], 1, **WHERE).loss(X[..., :1], 0, seed=seed)[0],
    "Classifier": lambda seed: Classifier([0], [1], 2, seed=seed, **WHERE),
    "Classifier.loss": lambda seed: CLASSIFIER.loss(X, LENGTHS, np.array([0, 1]), seed=seed)[0],
    "Regressor": lambda seed: Regressor([0], [1], [0], [1], seed=seed, **WHERE),
    "Regressor.loss": lambda seed: REGRESSOR.loss(X, LENGTHS, np.ones((2, 1)), seed=seed)[0],
    "LstmLayer": lambda seed: LstmLayer(3, 4, 0.1, seed=seed, backend=NUMPY),
    "TextTask": lambda seed: TextTask(MODEL, np.arange(200) % 5, 2, 4, 0.2, seed),
}


def as_bytes(result):
    if isinstance(result, np.ndarray | np.generic):
        return result.tobytes()
    return [array.tobytes() for array in result.params.values()] if hasattr(result, "params") else None


@pytest.mark.parametrize("name", TAKES)
def test_everything_takes_the_same_seeds(name):
    take = TAKES[name]
    expected = as_bytes(take(7))
    for seed in (np.int64(7), np.uint8(7), (7,), (np.int32(7),)):
        assert as_bytes(take(seed)) == expected
    take(0)
    take((1, 2, 3))
    take(2**70)
    for seed in (-1, 1.0, True, "1", (), (1, -1), (1, 1.5), [1], np.array([1])):
        with pytest.raises(InputError, match=r"^seed is .*; expected a whole number of at least 0, or a tuple of them"):
            take(seed)


@pytest.mark.parametrize("name", [name for name in TAKES if "." not in name or "sample" in name])
def test_a_start_needs_a_seed(name):
    with pytest.raises(InputError, match="seed is None; expected a whole number of at least 0"):
        TAKES[name](None)


def test_a_seed_as_a_number_and_alone_in_a_tuple_start_as_they_always_did():
    expected = np.random.default_rng(7).standard_normal((3, 4)).astype(np.float32)
    for seed in (7, (7,)):
        np.testing.assert_array_equal(Embedding(3, 4, seed=seed, **WHERE).params["weight"], expected)
    assert check_seed(2**40) == (2**40,)


@pytest.mark.parametrize("command", [["train", "text"], ["sample", "nowhere"]])
def test_commands_say_the_same(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--seed", "-1"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    if command[0] == "train":
        assert "--seed is -1; expected a whole number of at least 0" in said


def test_a_split_takes_them_too():
    with pytest.raises(InputError, match="seed is -1"):
        split_sequences(type("Data", (), {"test": np.zeros(4, bool)}), 0.5, -1)

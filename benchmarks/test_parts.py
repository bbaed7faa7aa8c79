"""pytest-benchmark: what a training run consists of, part by part. Each case checks its result, none its time."""

import lzma
import math

import numpy as np
import pytest

from gpu_lstm.backend import choose
from gpu_lstm.data.sequences import JAPANESE_VOWELS, read_sequences
from gpu_lstm.data.series import CO2, read_series
from gpu_lstm.data.text import SHAKESPEARE, Tracks, read_text
from gpu_lstm.models import LanguageModel
from gpu_lstm.recurrence import runnable_tiers
from gpu_lstm.training import Run, Settings, checkpoint
from gpu_lstm.training.tasks import TextTask

NUMPY = choose("numpy")
B, T, H = 64, 64, 256
tiers = pytest.mark.parametrize("tier", runnable_tiers(NUMPY))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    with lzma.open(SHAKESPEARE, "rt", encoding="utf-8") as whole:
        path.write_text(whole.read(60000), encoding="utf-8")
    return path


def language_model(tier="auto"):
    return LanguageModel(84, 64, H, backend=NUMPY, tier=tier)


@tiers
def test_whole_training_of_a_language_model(benchmark, text, tmp_path, tier):
    benchmark.group = "training a language model on 60 kB, 2 epochs"
    tokens, vocabulary = read_text(text)
    outcomes = []

    def train():
        model = LanguageModel(len(vocabulary), 32, 64, backend=NUMPY, tier=tier)
        task = TextTask(model, tokens, 16, 32, 0.1, 0)
        run = Run(task, Settings(epochs=2, learning_rate=4e-3, validations=1), tmp_path / f"run{len(outcomes)}", {})
        outcomes.append(run.go(lambda event: None, lambda: False))

    benchmark.pedantic(train, rounds=2)
    (best,) = {outcome.best for outcome in outcomes}  # the same seed, the same model
    assert best < math.log2(len(vocabulary))


@pytest.mark.parametrize(
    "read",
    [
        lambda: read_text(SHAKESPEARE)[0],
        lambda: read_series(CO2, None).values,
        lambda: read_sequences(JAPANESE_VOWELS, "label", "series", None).values,
    ],
    ids=["text", "series", "sequences"],
)
def test_reading_the_shipped_data(benchmark, read):
    benchmark.group = "reading data"
    assert len(benchmark.pedantic(read, rounds=3)) > 1000


def test_chunk_of_a_batch(benchmark):
    benchmark.group = "batches"
    tracks = Tracks(np.zeros(1 << 20, np.uint8), B, T)
    assert benchmark(tracks.chunk, 3).shape == (T + 1, B)


def test_saving_a_checkpoint(benchmark, tmp_path):
    benchmark.group = "checkpoints"
    model = language_model()
    path = tmp_path / "model.safetensors"
    benchmark.pedantic(checkpoint.save_model, (path, model, checkpoint.description_of(model)), rounds=5)
    assert path.stat().st_size > 4 * model.count()


def test_loading_a_checkpoint(benchmark, tmp_path):
    benchmark.group = "checkpoints"
    model = language_model()
    path = tmp_path / "model.safetensors"
    checkpoint.save_model(path, model, checkpoint.description_of(model))
    loaded, _ = benchmark.pedantic(checkpoint.load_model, (path, "text", NUMPY), rounds=5)
    assert all(np.array_equal(loaded.params[name], model.params[name]) for name in model.params)

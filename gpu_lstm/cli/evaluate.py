"""``gpu-lstm evaluate``: how good a model is on data that it never trained on, beside simple ones."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.cli.options import (
    Parsers,
    add_device,
    add_parser,
    add_run,
    announce,
    data_path,
    find_checkpoint,
    trained_on,
)
from gpu_lstm.data.sequences import read_sequences
from gpu_lstm.data.series import autoregression, persistence, read_series, rmse, truth
from gpu_lstm.data.text import Tracks, Vocabulary, encode_file
from gpu_lstm.errors import InputError
from gpu_lstm.models import Classifier, Forecaster, LanguageModel, Model
from gpu_lstm.training.checkpoint import load, load_model
from gpu_lstm.training.tasks import bits_per_token, class_scores, forecast_from, split_series


def add_command(commands: Parsers) -> None:
    """Add the command."""
    parser = add_parser(commands, "evaluate", run, "measure a trained model on data that it never saw")
    add_run(parser)
    parser.add_argument("--data", help="other data, all of it; the held-out part of the training data if not given")
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Load whatever kind the checkpoint is, and measure it."""
    path = find_checkpoint(options.checkpoint, None)
    kind = load(path)[1].get("kind")
    if kind not in MEASURES:
        raise InputError(f"checkpoint {path} is of kind {kind!r}; expected one of {', '.join(MEASURES)}")
    model, description = load_model(path, kind, announce(options), options.tier)
    print(f"checkpoint: {path}")
    try:
        data = options.data or trained_on(path, description)
        MEASURES[kind](model, description, data_path(data), options.data is not None)
    except KeyError as error:
        raise InputError(f"checkpoint {path} has a damaged description: it lacks {error}") from None
    return 0


def measure_text(model: Model, description: dict[str, Any], path: Path, other: bool) -> None:
    """Bits per character."""
    assert isinstance(model, LanguageModel)
    settings = description["options"]
    tokens = encode_file(path, Vocabulary(description["vocabulary"]))
    if not other:
        tokens = tokens[len(tokens) - int(len(tokens) * settings["validation"]) :]
    tracks = Tracks.fitting(tokens, settings["batch"], settings["length"])
    what = "other" if other else "held-out"
    print(f"{bits_per_token(model, tracks):.3f} bits per character on {len(tokens):,} {what} characters")


def measure_series(model: Model, description: dict[str, Any], path: Path, other: bool) -> None:
    """RMSE beside persistence and an AR(24) model fitted on all that comes before."""
    assert isinstance(model, Forecaster)
    settings = description["options"]
    values = np.asarray(read_series(path, description["columns"]).values)
    parts = (settings["train"], settings["validation"])
    fitted = split_series(len(values), parts)[1]
    origins = np.arange(fitted, len(values) - model.horizon + 1)
    if not len(origins):
        raise InputError(f"series has {len(values) - fitted} steps to evaluate on; expected at least {model.horizon}")
    actual = truth(values, origins, model.horizon)
    print(f"RMSE over all {model.horizon} steps ahead, from each of {len(origins)} origins in the last part:")
    print(f"  LSTM         {rmse(forecast_from(model, values, origins, settings['length']), actual):.4g}")
    for order in (24, 60):
        if fitted > 2 * order + 1:
            forecast = autoregression(values, origins, model.horizon, fitted, order)
            print(f"  AR({order})       {rmse(forecast, actual):.4g}")
    print(f"  persistence  {rmse(persistence(values, origins, model.horizon), actual):.4g}")


def measure_classes(model: Model, description: dict[str, Any], path: Path, other: bool) -> None:
    """Accuracy."""
    assert isinstance(model, Classifier)
    settings = description["options"]
    data = read_sequences(path, settings["label"], settings["series"], description["columns"])
    if data.classes != description["classes"]:
        raise InputError(f"{path} has classes {data.classes[:20]}; the model has {description['classes'][:20]}")
    picked = np.arange(len(data)) if other else np.flatnonzero(data.test)
    if not len(picked):
        raise InputError(f"{path} has no test sequences (column 'split'); give other data with --data")
    loss, accuracy = class_scores(model, data, picked)
    right = round(accuracy * len(picked))
    print(f"accuracy {accuracy:.1%}: {right} of {len(picked)} sequences right; loss {loss:.4f} nats")


MEASURES = {"text": measure_text, "series": measure_series, "classify": measure_classes}

"""What each kind of training makes of its options: a model's description, and the task once that is known to fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.backend import Backend
from gpu_lstm.cli.options import data_path
from gpu_lstm.cli.series import kept, read_again, read_new, tell_series
from gpu_lstm.cli.tables import reading, tell_table
from gpu_lstm.data.sequences import read_sequences
from gpu_lstm.data.series import deviations
from gpu_lstm.data.text import Vocabulary, encode_file, read_text
from gpu_lstm.errors import InputError
from gpu_lstm.layers.options import Options
from gpu_lstm.models import Classifier, Forecaster, LanguageModel
from gpu_lstm.training.tasks import ClassifyTask, SeriesTask, Task, TextTask, split_sequences, split_series


@dataclass(frozen=True)
class Recipe:
    """A task that is not made yet: what it needs is known before it takes any memory."""

    kind: str
    config: dict[str, Any]  # of the model
    steps: int  # T of a training step
    make: Callable[[], Task]  # makes the task
    extra: dict[str, Any]  # what the run's description gets


def prepare_text(plain: dict[str, Any], backend: Backend, known: dict[str, Any] | None) -> Recipe:
    """A language model, from its options; `known` is the description of a run to go on with."""
    path = data_path(plain["data"])
    if known is None:
        tokens, vocabulary = read_text(path)
        if len(vocabulary) < 2:
            raise InputError(f"text {path} has no characters")
        if plain.get("shuffle_lines") and "\n" not in vocabulary.characters:
            raise InputError(f"text {path} has no lines to shuffle")
    else:
        vocabulary = Vocabulary(known["vocabulary"])
        tokens = encode_file(path, vocabulary)
        same_data(path, len(tokens), known["amount"], "characters")
    names = ("embedding_size", "hidden_size", "num_layers", "dropout")
    config = {"vocabulary_size": len(vocabulary), **{n: plain[n] for n in names}, **family(plain)}

    def make() -> Task:
        model = LanguageModel(**config, **where(plain, backend))
        newline = int(vocabulary.encode("\n")[0]) if plain.get("shuffle_lines") else None
        return TextTask(model, tokens, plain["batch"], plain["length"], plain["validation"], plain["seed"], newline)

    return Recipe("text", config, plain["length"], make, {"vocabulary": vocabulary.characters, "amount": len(tokens)})


def prepare_series(plain: dict[str, Any], backend: Backend, known: dict[str, Any] | None) -> Recipe:
    """A forecaster, from its options."""
    path = data_path(plain["data"])
    data = read_new(path, plain) if known is None else read_again(path, {**known, "options": plain})
    parts = (plain["train"], plain["validation"])
    tell_series(data, parts)
    if data.past or data.future or len(data.starts) > 2:
        raise InputError("inputs, and more than one stretch without a break, are read, but no model takes them yet")
    if known is not None:
        same_data(path, len(data.values), known["amount"], "steps")
    train = np.asarray(data.values[: split_series(len(data.values), parts)[0]])
    if len(train) < 2:
        raise InputError(f"series {path} has {len(data.values)} steps; expected more to train on")
    names = ("horizon", "memory", "hidden_size", "num_layers", "dropout")
    config = {
        "mean": train.mean(axis=0).tolist(),
        "spread": deviations(train),
        "step_spread": deviations(np.diff(train, axis=0)),
        **{n: plain[n] for n in names},
        **family(plain),
    }

    def make() -> Task:
        model = Forecaster(**config, **where(plain, backend))
        return SeriesTask(model, data.values, plain["batch"], plain["length"], parts, plain["loss"], plain["seed"])

    return Recipe("series", config, plain["length"], make, {**kept(data), "amount": len(data.values)})


def prepare_classify(plain: dict[str, Any], backend: Backend, known: dict[str, Any] | None) -> Recipe:
    """A classifier, from its options."""
    path = data_path(plain["data"])
    columns = known["columns"] if known else plain["columns"]
    data = read_sequences(path, plain["label"], plain["series"], columns, reading=reading(plain))
    tell_table(data)
    if known is not None:
        same_data(path, len(data), known["amount"], "sequences")
    picked, _ = split_sequences(data, plain["validation"], plain["seed"])
    rows = data.rows(picked)
    config = {
        "mean": rows.mean(axis=0).tolist(),
        "spread": deviations(rows),
        "num_classes": len(data.classes),
        "bidirectional": not plain["one_direction"],
        **{n: plain[n] for n in ("hidden_size", "num_layers", "dropout")},
        **family(plain),
    }

    def make() -> Task:
        model = Classifier(**config, **where(plain, backend))
        return ClassifyTask(model, data, plain["batch"], plain["validation"], plain["seed"])

    extra = {"columns": data.names, "classes": data.classes, "amount": len(data)}
    return Recipe("classify", config, int(data.lengths.max()), make, extra)


RECIPES: dict[str, Callable[..., Recipe]] = {
    "text": prepare_text,
    "series": prepare_series,
    "classify": prepare_classify,
}


def family(plain: dict[str, Any]) -> dict[str, Any]:
    """The part of a model's description that says which member of the LSTM family it is."""
    return {"lstm": Options.parse(plain["lstm"])} if plain.get("lstm") else {}


def where(plain: dict[str, Any], backend: Backend) -> dict[str, Any]:
    """Keyword arguments that all models take, see `gpu_lstm.models.arguments.Where`."""
    return {"backend": backend, **{name: plain[name] for name in ("dtype", "tier", "recompute", "seed")}}


def same_data(path: Path, amount: int, expected: int, what: str) -> None:
    """Refuse to go on with other data than the run began with.

    Raises InputError where the data's amount is another.
    """
    if amount != expected:
        raise InputError(f"{path} has {amount} {what}; the run to go on with began with {expected}")

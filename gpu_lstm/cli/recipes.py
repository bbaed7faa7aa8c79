"""What each kind of training makes of its options: a model's description, and the task once that is known to fit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.backend import Backend
from gpu_lstm.cli.options import data_path, reading_text
from gpu_lstm.cli.series import kept, read_again, read_new, tell_series, tell_start
from gpu_lstm.data.linear import LinearForecast
from gpu_lstm.data.series import split_by_date
from gpu_lstm.data.text import Tracks, encode_file, read_text, text_files
from gpu_lstm.data.tokens import Vocabulary, count_tokens, read_vocabulary
from gpu_lstm.errors import InputError
from gpu_lstm.layers.options import Options
from gpu_lstm.models import Forecaster, LanguageModel
from gpu_lstm.parallel import Communicator
from gpu_lstm.training.outset import chosen, outset, sizes_for, training_ranges
from gpu_lstm.training.tasks import (
    SeriesTask,
    Task,
    TextTask,
    check_share,
)
from gpu_lstm.training.tasks.series import known_steps

MOST_UNKNOWN = 0.1
"""Share of unknown characters above which a model is not trained on a text."""


@dataclass(frozen=True)
class Recipe:
    """A task that is not made yet: what it needs is known before it takes any memory."""

    kind: str
    config: dict[str, Any]  # of the model
    steps: int  # T of a training step
    make: Callable[[], Task]  # makes the task
    extra: dict[str, Any]  # what the run's description gets
    batch: int | None = None  # B of the training step of those steps, where it isn't what was asked for
    epochs: int = 1  # how many there are to be, where none were asked for
    validates: bool = True  # whether something is held out


def prepare_text(plain: dict[str, Any], backend: Backend, known: dict[str, Any] | None, ranks: Communicator) -> Recipe:
    """A language model, from its options; `known` is the description of a run to go on with, or to begin from.

    Each of some ranks has the tokens of its own tracks, or all where lines are shuffled.
    """
    validation, shuffled = check_share("validation", plain["validation"]), plain.get("shuffle_lines")

    def parts(tokens: Any) -> list[Any]:
        """What this rank reads of the tokens, or of the range of their numbers: to train on, and held out."""
        tracks = Tracks.split(tokens, plain["batch"], plain["length"], validation)
        return [one.tokens[one.span(ranks.rank, ranks.size)] for one in tracks]

    path, how = data_path(plain["data"]), reading_text(plain)
    among: Any = {"ranks": ranks, "needs": lambda total: [range(total)] if shuffled else parts(range(total)), **how}
    if known is None:
        tokens, vocabulary = read_text(path, plain.get("tokens", "characters"), plain.get("vocabulary", 0), **among)
        if len(vocabulary) < 2:
            raise InputError(f"text {path} has no characters")
    else:
        vocabulary = read_vocabulary(known["vocabulary"])
        tokens = encode_file(path, vocabulary, **among)
        same_data(path, len(tokens), known["amount"], vocabulary.tokens)
    if shuffled and vocabulary.newline is None:
        raise InputError(f"text {path} has no lines to shuffle")
    own = ranks.every(lambda: [count_tokens(part, len(vocabulary)) for part in parts(tokens)])
    counts = list(np.sum(own, axis=0))
    tell_text(path, how["include"], vocabulary, counts)
    share = unknown_share(vocabulary, counts)
    if known is not None and known["amount"] is None and share > MOST_UNKNOWN:
        raise InputError(f"{path} has {share:.0%} characters that the model doesn't know; expected at most 10%")
    names = ("embedding_size", "hidden_size", "num_layers", "dropout")
    config = {"vocabulary_size": len(vocabulary), **{n: plain[n] for n in names}, **family(plain)}

    def make() -> Task:
        model = LanguageModel(**config, **where(plain, backend))
        newline = vocabulary.newline if shuffled else None
        sizes = plain["batch"], plain["length"], validation, plain["seed"]
        task = TextTask(model, tokens, *sizes, newline, (vocabulary.rate(counts[0]), vocabulary.rate(counts[1])))
        task.item, task.unit = vocabulary.unit, task.unit if vocabulary.counted == "characters" else "bits/byte"
        return task

    return Recipe("text", config, plain["length"], make, {"vocabulary": vocabulary.describe(), "amount": len(tokens)})


def tell_text(path: Path, include: tuple[str, ...], vocabulary: Vocabulary, counts: list[np.ndarray]) -> None:
    """Print what was read of a text, and how it is split."""
    train, held_out = (int(part @ vocabulary.characters_of) for part in counts)
    whole = int(sum(map(np.sum, counts)))
    cut_into = "" if vocabulary.tokens == vocabulary.counted else f" in {whole:,} {vocabulary.tokens}"
    files = f", {len(text_files(path, include))} of {len(text_files(path))} files of {path}" if path.is_dir() else ""
    read = f"{train + held_out:,} {vocabulary.counted}{cut_into}, {len(vocabulary):,} different {vocabulary.tokens}"
    print(f"text: {read}{files}; {held_out:,} at the end are held out")
    if share := unknown_share(vocabulary, counts):
        print(f"note: {share:.2%} of them are unknown, and are learned as one and the same")
    sys.stdout.flush()


def unknown_share(vocabulary: Vocabulary, counts: list[np.ndarray]) -> float:
    """Which share of a text stands for characters that have no token."""
    return sum(int(part[0]) for part in counts) / sum(map(np.sum, counts)) if vocabulary.added else 0.0


def prepare_series(
    plain: dict[str, Any], backend: Backend, known: dict[str, Any] | None, ranks: Communicator
) -> Recipe:
    """A forecaster, from its options; what they leave to the data is filled in."""
    path = data_path(plain["data"])
    data = read_new(path, plain) if known is None else read_again(path, {**known, "options": plain})
    parts = (plain["train"], plain["validation"])
    if known is None:
        data = split_by_date(data, parts)
    tell_series(data, parts)
    if known is not None:
        same_data(path, len(data.values), known["amount"], "steps")
    if known is None:
        train, validation = data.cuts(parts)
        targets, held_out = np.asarray(data.values)[:, : len(data.targets)], int((validation - train).max())
        sizes = sizes_for(targets, training_ranges(data, parts)[0], plain["batch"], held_out)
        plain |= chosen(plain, sizes)
        tell_sizes(plain, sizes.periods)
        config = outset(data, parts, plain["horizon"], plain["length"], plain.get("linear", "auto"), sizes.periods)
        if "linear" in config:
            tell_start(LinearForecast.of(config["linear"]), np.array(config["spread"]), data.targets)
    else:
        config = outset(data, parts, plain["horizon"], plain["length"], "none")
        config |= {name: known["model"][name] for name in ("linear",) if name in known["model"]}  # as it was fitted
    config |= {
        **{n: plain[n] for n in ("memory", "hidden_size", "num_layers", "dropout")},
        **{n: plain[n] for n in ("quantiles", "distribution") if plain.get(n)},
        **family(plain),
    }

    def make() -> Task:
        model = Forecaster(**config, **where(plain, backend))
        return SeriesTask(model, data, plain["batch"], plain["length"], parts, plain["loss"], plain["seed"])

    lags = len(config["linear"]["weight"][0][0]) if "linear" in config else 0
    extra = {**kept(data), "amount": len(data.values)}
    return Recipe("series", config, known_steps(plain["length"], lags), make, extra, epochs=plain["epochs"] or 1)


def tell_sizes(plain: dict[str, Any], periods: tuple[int, ...]) -> None:
    """Print which periods a series shows, and what is forecast from what."""
    shown = f"periods: {' and '.join(map(str, periods))} steps" if periods else "periods: none that the data show"
    print(f"{shown}; forecasts of {plain['horizon']} steps from windows of {plain['length']}", flush=True)


RECIPES: dict[str, Callable[..., Recipe]] = {
    "text": prepare_text,
    "series": prepare_series,
}


def family(plain: dict[str, Any]) -> dict[str, Any]:
    """The part of a model's description that says which member of the LSTM family it is."""
    return {"lstm": Options.parse(plain["lstm"])} if plain.get("lstm") else {}


def where(plain: dict[str, Any], backend: Backend) -> dict[str, Any]:
    """Keyword arguments that all models take, see `gpu_lstm.models.arguments.Where`."""
    return {"backend": backend, **{name: plain[name] for name in ("dtype", "tier", "recompute", "seed")}}


def same_data(path: Path, amount: int, expected: int | None, what: str) -> None:
    """Refuse to go on with other data than the run began with, where these are told.

    Raises InputError where the data's amount is another.
    """
    if expected is not None and amount != expected:
        raise InputError(f"{path} has {amount} {what}; the run to go on with began with {expected}")

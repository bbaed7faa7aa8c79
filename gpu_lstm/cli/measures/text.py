"""A language model: bits per character, beside those of an n-gram model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.cli.opening import Opened
from gpu_lstm.cli.options import data_path, reading_text
from gpu_lstm.data import ngram
from gpu_lstm.data.text import Tracks, encode_file
from gpu_lstm.data.tokens import CODE_POINTS, Bytes, Characters, Vocabulary, count_tokens
from gpu_lstm.errors import InputError
from gpu_lstm.models import LanguageModel, Model
from gpu_lstm.training.tasks import bits_per_token

ONE_TRACK = 1 << 16
"""Tokens at a time of a text that is read as one sequence."""
SCORES = 1 << 26
"""Scores at a time, that is tokens times the size of the vocabulary."""


def measure(model: Model, description: dict[str, Any], path: Path, other: Opened | None) -> None:
    """Bits per character, what the text has that the model doesn't know, and an n-gram model of the same tokens."""
    assert isinstance(model, LanguageModel)
    settings = description["options"]
    vocabulary = model.vocabulary
    if len(vocabulary) != model.config["vocabulary_size"]:
        raise InputError(f"checkpoint has a vocabulary of {len(vocabulary)}; its model has another")
    tokens = encode_file(path, vocabulary, **reading_text(settings))
    if other is None:
        train, tokens = parted(tokens, settings)
    else:
        train = trained_part(other, vocabulary)
    tracks = Tracks.fitting(tokens, settings["batch"], settings["length"])
    if model.lstm.parallel:
        tracks = as_one(tokens, len(vocabulary))
    counts = count_tokens(tokens, len(vocabulary))
    bits = bits_per_token(model, tracks)
    own = vocabulary.rate(counts).bits(bits)
    what = f"{int(counts @ vocabulary.characters_of):,} {'other' if other else 'held-out'} {vocabulary.counted}"
    if vocabulary.tokens != vocabulary.counted:
        what += f", {len(tokens):,} {vocabulary.tokens}"
    print(f"{own:.3f} bits per {vocabulary.counted[:-1]} on {what}")
    if isinstance(vocabulary, Bytes) and vocabulary.text:
        print(f"{bits:.3f} bits per byte" + ("" if vocabulary.is_text(tokens) else ", which is what counts: no UTF-8"))
    tell_unknown(vocabulary, counts, count_tokens(train, len(vocabulary)) if len(train) else counts)
    order = ngram.order_for(len(vocabulary))
    if len(train) <= 10 * order or len(tokens) <= order:
        print("no n-gram model beside it: there is too little to train it on")
        return
    simple = vocabulary.rate(count_tokens(tokens[: ngram.MOST], len(vocabulary)))
    part = f", the last {ngram.MOST:,} of them" if len(train) > ngram.MOST else ""
    bits = simple.bits(ngram.bits_of_ngrams(train, tokens, len(vocabulary)))
    print(f"{bits:.3f} of an interpolated {order}-gram model of the same {vocabulary.tokens}{part}")
    if bits <= own:
        print(f"note: the model is no better than the {order}-gram model")


def parted(tokens: np.ndarray, settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The part of a text that a model was trained on, and that which was held out."""
    cut = len(tokens) - int(len(tokens) * settings["validation"])
    return tokens[:cut], tokens[cut:]


def trained_part(checkpoint: Opened, vocabulary: Vocabulary) -> np.ndarray:
    """The tokens that a model was trained on; none where its text isn't there any more, which is printed."""
    settings = checkpoint.description["options"]
    try:
        return parted(encode_file(data_path(checkpoint.data(None)), vocabulary, **reading_text(settings)), settings)[0]
    except InputError as error:
        print(f"what the model was trained on can't be read: {error}")
        return np.zeros(0, np.int64)


def as_one(tokens: np.ndarray, vocabulary_size: int) -> Tracks:
    """All tokens as one track, in chunks as long as memory for their scores allows, all of about one length."""
    most = max(min(ONE_TRACK, SCORES // vocabulary_size), 1)
    steps = max(len(tokens) - 1, 1)
    return Tracks(tokens, 1, steps // -(-steps // most))


def tell_unknown(vocabulary: Vocabulary, counts: np.ndarray, trained: np.ndarray) -> None:
    """Say how many tokens the model has no character for, or never met, and what they cost."""
    if unknown := int(counts[0]) if isinstance(vocabulary, Characters) else 0:
        print(
            f"{unknown / counts.sum():.2%} are characters that the model doesn't know: each costs what it gives for "
            f"unknown, and {vocabulary.added:.2f} bits to say which of {CODE_POINTS - len(vocabulary) + 1:,} it is"
        )
    new = int(counts[(trained == 0) & (counts > 0)].sum()) - unknown * (trained[0] == 0)
    if new > 0:
        print(f"{new / counts.sum():.2%} are {vocabulary.tokens} that the part to train on didn't have")

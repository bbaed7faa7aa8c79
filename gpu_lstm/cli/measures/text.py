"""A language model: bits per character."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpu_lstm.data.text import Tracks, Vocabulary, encode_file
from gpu_lstm.models import LanguageModel, Model
from gpu_lstm.training.tasks import bits_per_token


def measure(model: Model, description: dict[str, Any], path: Path, other: bool) -> None:
    """Bits per character."""
    assert isinstance(model, LanguageModel)
    settings = description["options"]
    tokens = encode_file(path, Vocabulary(description["vocabulary"]))
    if not other:
        tokens = tokens[len(tokens) - int(len(tokens) * settings["validation"]) :]
    tracks = Tracks.fitting(tokens, settings["batch"], settings["length"])
    what = "other" if other else "held-out"
    print(f"{bits_per_token(model, tracks):.3f} bits per character on {len(tokens):,} {what} characters")

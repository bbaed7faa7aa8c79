"""A model of sequences: how often it is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.cli.tables import reading
from gpu_lstm.data.sequences import read_sequences
from gpu_lstm.errors import InputError
from gpu_lstm.models import Classifier, Model
from gpu_lstm.training.tasks import class_scores


def measure(model: Model, description: dict[str, Any], path: Path, other: bool) -> None:
    """Accuracy."""
    assert isinstance(model, Classifier)
    settings = description["options"]
    columns, classes = description["columns"], description["classes"]
    data = read_sequences(
        path, settings["label"], settings["series"], columns, reading=reading(settings), classes=classes
    )
    picked = np.arange(len(data)) if other else np.flatnonzero(data.test)
    if not len(picked):
        raise InputError(f"{path} has no test sequences (column 'split'); give other data with --data")
    loss, accuracy = class_scores(model, data, picked)
    right = round(accuracy * len(picked))
    print(f"accuracy {accuracy:.1%}: {right} of {len(picked)} sequences right; loss {loss:.4f} nats")

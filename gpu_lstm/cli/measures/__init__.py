"""What `gpu-lstm evaluate` prints, a file for each kind of data.

A measure takes the model, its checkpoint's description, the data's path, and whether the data are others than those
that the model was trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_lstm.cli.measures import sequences, series, text
from gpu_lstm.models import Model

MEASURES: dict[str, Callable[[Model, dict[str, Any], Path, bool], None]] = {
    "text": text.measure,
    "series": series.measure,
    "classify": sequences.measure_classes,
    "regress": sequences.measure_numbers,
    "label": sequences.measure_steps,
}

"""What `gpu-lstm evaluate` prints, a file for each kind of data.

A measure takes the model, a description of it and of how the data are to be read, the data's path, and, where they are
others than those that the model was trained on, its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_lstm.cli.measures import sequences, series, text
from gpu_lstm.cli.opening import Opened
from gpu_lstm.models import Model

MEASURES: dict[str, Callable[[Model, dict[str, Any], Path, Opened | None], None]] = {
    "text": text.measure,
    "series": series.measure,
    "classify": sequences.measure_classes,
    "regress": sequences.measure_numbers,
    "label": sequences.measure_steps,
}

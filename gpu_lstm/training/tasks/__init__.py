"""Tasks: a model with its data, as the training loop sees them; a file for each kind."""

from gpu_lstm.layers.checks import check_share
from gpu_lstm.training.tasks.base import Task
from gpu_lstm.training.tasks.own import METRICS, OwnTask
from gpu_lstm.training.tasks.sequences import (
    ClassifyTask,
    LabelTask,
    Parts,
    RegressTask,
    SequencesTask,
    class_scores,
    in_blocks,
    plan_of,
    resampled,
    split_sequences,
    step_scores,
    steps_in_blocks,
)
from gpu_lstm.training.tasks.series import SeriesTask, WindowsTask, split_series
from gpu_lstm.training.tasks.shared import Shared, shares_for
from gpu_lstm.training.tasks.text import TextTask, bits_per_token

__all__ = [
    "METRICS", "ClassifyTask", "LabelTask", "OwnTask", "Parts", "RegressTask", "SequencesTask", "SeriesTask", "Shared",
    "Task", "TextTask", "WindowsTask", "bits_per_token", "check_share", "class_scores", "in_blocks",
    "plan_of", "resampled", "shares_for", "split_sequences", "split_series", "step_scores", "steps_in_blocks",
]  # fmt: skip

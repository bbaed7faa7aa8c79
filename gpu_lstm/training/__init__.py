"""Training: tasks (a model with its data), the loop, the same in a folder, checkpoints."""

from gpu_lstm.training.loop import Event, Outcome, Training, TrainingError
from gpu_lstm.training.run import Run
from gpu_lstm.training.settings import Settings

__all__ = ["Event", "Outcome", "Run", "Settings", "Training", "TrainingError"]

"""Training: tasks (a model with its data), the loop, checkpoints."""

from gpu_lstm.training.loop import Event, Outcome, Run, Settings, Training, TrainingError

__all__ = ["Event", "Outcome", "Run", "Settings", "Training", "TrainingError"]

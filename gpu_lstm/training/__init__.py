"""Training: tasks (a model with its data), the loop, the same in a folder, checkpoints, a model of one's own."""

from gpu_lstm.training.callbacks import EarlyStop, RateSearch, TensorBoard, find_learning_rate
from gpu_lstm.training.events import Event, Outcome
from gpu_lstm.training.loading import load, save
from gpu_lstm.training.loop import Training
from gpu_lstm.training.own import History, fit
from gpu_lstm.training.run import Run
from gpu_lstm.training.settings import Settings
from gpu_lstm.training.trouble import TrainingError

__all__ = [
    "EarlyStop", "Event", "History", "Outcome", "RateSearch", "Run", "Settings", "TensorBoard", "Training",
    "TrainingError", "find_learning_rate", "fit", "load", "save",
]  # fmt: skip
